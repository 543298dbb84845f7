"""Options of the verbs that run on a device with ``--on``, and the arguments that go there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from edgekit.spec.errors import UsageError

__all__ = ["connection", "forwarded", "identity_option", "on_options", "python_option"]

Command = TypeVar("Command", bound=Callable[..., Any])

python_option = click.option(
    "--python",
    default="python3",
    show_default=True,
    help="Python on the device that has EdgeKit; a relative path begins in the home folder of the login.",
)
identity_option = click.option(
    "--identity", default=None, metavar="FILE", help="Private key to log in with. [default: the keys that ssh uses]"
)
_on_option = click.option(
    "--on",
    "where",
    default=None,
    metavar="ssh://[USER@]HOST[:PORT][/PATH]",
    help="Run on that device, and deploy BUNDLE to it first if need be.",
)
_CONNECTION = ("where", "python", "identity", "keys")


def on_options(command: Command) -> Command:
    """Add ``--on``, ``--python`` and ``--identity`` to a verb."""
    return _on_option(python_option(identity_option(command)))


def connection(device: tuple[Any, ...], progress: Any) -> Any:
    """Return how a device is reached, an :class:`edgekit.deploy.measure.Connection`.

    Args:
        device: Values of ``--on``, ``--python``, ``--identity`` and ``--key``.
        progress: Function that is told the steps.
    """
    from edgekit.cli._options import revoked
    from edgekit.deploy.measure import Connection

    where, python, identity, keys = device
    return Connection(where, python, tuple(keys), revoked(), identity, progress=progress)


def check_local() -> None:
    """Refuse options of a device where ``--on`` names none: they would have no effect.

    Raises:
        UsageError: If one was given; with its name.
    """
    context = click.get_current_context()
    for name in ("python", "identity"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(
                f"--{name} is an option of a device, and there is none. Add --on ssh://..., or leave it out.",
                code="option-needs-other",
            )


def forwarded(files: Collection[str]) -> list[str]:
    """Return the options of the running verb as they are given on the device.

    Args:
        files: Names of parameters that are not forwarded: files of this machine, which are copied, and others.
    """
    context = click.get_current_context()
    arguments: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        is_given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if not isinstance(parameter, click.Option) or not is_given or name in (*files, *_CONNECTION):
            continue
        option = max(parameter.opts, key=len)
        value = context.params.get(name)
        if name == "metric":
            raise UsageError(
                "--metric names Python code of this machine, which is not copied to a device. "
                "Leave out --on or --metric.",
                code="option-conflict",
            )
        if parameter.is_flag:
            arguments.append(option)
        elif isinstance(value, dict):
            for key, part in value.items():
                arguments += [option, f"{key}={part}"]
        elif isinstance(value, tuple):
            for part in value:
                arguments += [option, str(part)]
        elif value is not None:
            arguments += [option, str(value)]
    return arguments
