"""The command line. A file is a verb: a parser plus one call.

``--help`` of a verb imports no backend, no torch and no scipy: a verb's module imports what it calls when it is called.
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
"""Verbs of earlier releases, and what they are called now."""

_ORDER = (
    *("build", "distill", "prune", "trim-vocab", "eval", "compare", "baseline", "check"),
    *("run", "bench", "inspect", "verify", "compile", "deploy", "pack", "sign", "keygen", "cache", "targets", "doctor"),
)

_NO_CLICK = f"The command line needs click and rich. Run: {install_hint('cli')} (on the build machine: '{requirement('build')}').\n"


def main() -> None:
    """The ``edgekit`` command."""
    try:
        import click
    except ImportError:
        sys.stderr.write(_NO_CLICK)
        sys.exit(1)
    from edgekit import __version__
    from edgekit.cli._options import check_once
    from edgekit.cli._output import as_error, echo, error_line, usage_error
    from edgekit.spec.errors import EdgekitError, UsageError

    _stop.install()
    # Name of a verb to its file: "eval" is eval_, "trim-vocab" is trim_vocab.
    modules = {
        m.name.rstrip("_").replace("_", "-"): m.name
        for m in pkgutil.iter_modules(__path__)
        if not m.name.startswith("_")
    }

    class Verbs(click.Group):
        """Lists the files of this folder and imports one only when it is asked for."""

        def list_commands(self, context: click.Context) -> list[str]:
            return sorted(modules, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))

        def get_command(self, context: click.Context, name: str) -> click.Command | None:
            if name in _RENAMED:
                raise UsageError(f"'edgekit {name}' is now 'edgekit {_RENAMED[name]}'.", code="verb-renamed")
            if name not in modules:
                return None
            command: click.Command = importlib.import_module(f"{__name__}.{modules[name]}").command
            check_once(command)
            return command

        def invoke(self, context: click.Context) -> Any:
            try:
                return super().invoke(context)
            except BrokenPipeError:
                sys.stderr.close()  # whoever read the output has gone; Python would complain when it flushes
                context.exit(0)
            except (EdgekitError, OSError, MemoryError) as problem:
                error = as_error(problem)
                echo(error_line(error), err=True)
                context.exit(error.exit_code)
            except KeyboardInterrupt:
                echo("edgekit: interrupted; nothing was left behind.", err=True)
                context.exit(130)

    @click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
    @click.version_option(__version__, prog_name="edgekit")
    def edgekit() -> None:
        """A fine-tuned Transformer in, a small measured bundle out, and one torch-free object that runs it.

        Exit codes: 0 pass, 1 tool error, 2 usage, 3 over budget or regression, 4 incomparable (or, with --strict, inconclusive), 5 integrity.
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
