"""The command line. Each file is a verb: a parser and one call.

``--help`` of a verb imports no backend, no torch and no scipy: the module of a verb imports what it calls when it runs.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

from edgekit.cli import _stop
from edgekit.spec.distribution import install_hint, requirement

__all__ = ["main"]

_RENAMED = {"slice": "prune", "trim": "trim-vocab", "report": "eval -o FOLDER"}
"""Verbs of earlier releases, and their names now."""

_ORDER = (
    *("init", "build", "distill", "prune", "trim-vocab", "eval", "compare", "baseline", "check"),
    *(
        "predict",
        "run",
        "bench",
        "inspect",
        "verify",
        "compile",
        "deploy",
        "pack",
        "sign",
        "keygen",
        "cache",
        "targets",
        "doctor",
    ),
)

_WHOLE = 1000  # characters of a sentence that click does not cut

_NO_CLICK = (
    f"The command line needs click and rich. Run: {install_hint('cli')} "
    f"(on the build machine: '{requirement('build')}').\n"
)


def _list_verbs(group: Any, context: Any) -> list[tuple[str, str]]:
    """Return the name of each verb and the first sentence of its help."""
    verbs = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [(name, verb.get_short_help_str(limit=_WHOLE)) for name, verb in verbs if verb is not None]


def main() -> None:
    """Run the ``edgekit`` command."""
    try:
        import click
    except ImportError:
        sys.stderr.write(_NO_CLICK)
        sys.exit(1)
    from edgekit import __version__
    from edgekit.cli._options import check_once
    from edgekit.cli._output import as_error, echo, error_line, terminal_width, usage_error
    from edgekit.cli._verbosity import add_verbosity
    from edgekit.spec.errors import EdgekitError, UsageError
    from edgekit.spec.text import WIDTH, width

    _stop.install()
    # Name of a verb to its file: "eval" is eval_, "trim-vocab" is trim_vocab.
    modules = {
        m.name.rstrip("_").replace("_", "-"): m.name
        for m in pkgutil.iter_modules(__path__)
        if not m.name.startswith("_")
    }

    class Verbs(click.Group):
        """Verbs of this folder; the file of a verb is imported when the verb is used."""

        def list_commands(self, context: click.Context) -> list[str]:
            return sorted(modules, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))

        def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
            """Lists each verb with the whole first sentence of its help, which click alone would cut."""
            with formatter.section("Commands"):
                formatter.write_dl(_list_verbs(self, context))

        def get_command(self, context: click.Context, name: str) -> click.Command | None:
            if name in _RENAMED:
                raise UsageError(f"'edgekit {name}' is now 'edgekit {_RENAMED[name]}'.", code="verb-renamed")
            if name not in modules:
                return None
            command: click.Command = importlib.import_module(f"{__name__}.{modules[name]}").command
            check_once(command)
            add_verbosity(command)
            return command

        def invoke(self, context: click.Context) -> Any:
            try:
                return super().invoke(context)
            except BrokenPipeError:
                sys.stderr.close()  # the reader of the output has ended; Python would report that when it flushes
                context.exit(0)
            except (EdgekitError, OSError, MemoryError) as problem:
                error = as_error(problem)
                echo(error_line(error), err=True)
                context.exit(error.exit_code)
            except KeyboardInterrupt:
                echo("edgekit: interrupted; nothing was left behind.", err=True)
                context.exit(130)

    width.set(terminal_width())

    @click.group(
        cls=Verbs,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "terminal_width": width.get(),
            "max_content_width": WIDTH,
        },
    )
    @click.version_option(__version__, prog_name="edgekit")
    def edgekit() -> None:
        """Turn a fine-tuned Transformer into a small, measured bundle, and run it without torch.

        Exit codes: 0 pass, 1 tool error, 2 usage, 3 over budget or regression, 4 incomparable (or, with
        --strict, inconclusive), 5 integrity.
        """

    try:
        sys.exit(
            edgekit.main(prog_name="edgekit", standalone_mode=False)
        )  # the name also where it was started as a module
    except click.UsageError as problem:
        echo(usage_error(problem), err=True)
        sys.exit(problem.exit_code)
    except click.Abort:
        echo("edgekit: interrupted; nothing was left behind.", err=True)
        sys.exit(130)
