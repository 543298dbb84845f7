"""``edgekit bench``."""

from __future__ import annotations

import click

from edgekit.cli._options import keys_option, numbers, revoked, threads_option, trust_of
from edgekit.cli._output import bars, show
from edgekit.cli.deploy import identity_option, python_option
from edgekit.spec.errors import UsageError

__all__ = ["command"]

_numbers = numbers(1, "whole numbers of at least 1, e.g. 1,8,32")


@click.command(name="bench")
@click.argument("bundle")
@click.option("--batches", default="1,8,32", show_default=True, callback=_numbers, help="Rows of a call.")
@click.option(
    "--lengths",
    default="16,32,64,128",
    show_default=True,
    callback=_numbers,
    help="Tokens of a row, special ones too; none for rows of one shape.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Time for each pair of batch and length.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--backend", default=None, help="Which of the bundle's backends. [default: its best]")
@threads_option
@click.option(
    "--on",
    "where",
    default=None,
    metavar="ssh://[USER@]HOST[:PORT][/PATH]",
    help="Time it on that device; it is deployed first if need be.",
)
@python_option
@identity_option
@keys_option
def command(bundle, where, as_json, python, identity, keys, **timing):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN201
    """Time BUNDLE by batch and length: arrays in, outputs out (preprocessing is not in it; 'edgekit eval' has it).

    With --on the numbers are those of the device. Where it has no such bundle, or another one, BUNDLE is deployed first,
    see 'edgekit deploy', which has --python and --identity too.
    """
    with bars() as progress:
        from edgekit.spec.options import BenchOptions, DeployOptions

        options = BenchOptions(**timing)
        if where is None:
            _only_there()
            from edgekit.report.bench import bench

            result = bench(bundle, options=options, trust=trust_of(keys), progress=progress)
        else:
            from edgekit import deploy

            login = DeployOptions(python=python, keys=keys, identity=identity, revoked=revoked())
            result = deploy.bench(bundle, where, options=options, login=login, progress=progress)
    show(result, as_json)


def _only_there() -> None:
    """Refuses options of the device where there is none: they would do nothing."""
    context = click.get_current_context()
    for name in ("python", "identity"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(
                f"--{name} is of the device, and there is none. Give --on ssh://... too, or leave it out.",
                code="option-needs-other",
            )
