"""Output of ``eval -o``, ``compare``, ``check`` and ``baseline``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.cli._output import echo
from edgekit.spec.text import wrap_lines

if TYPE_CHECKING:
    from edgekit.verbs.reports import ReportResult


def write(result: ReportResult, folder: str | None) -> ReportResult:
    """Write all forms of a report into a folder, if there is one."""
    return result if folder is None else result.write(folder)


def finish(result: ReportResult, folder: str | None) -> int:
    """Write and print a report, and return its exit code."""
    result = write(result, folder)
    lines = [result.text()]
    if result.written:
        names = ", ".join(file.name for file in result.written)
        lines.append(wrap_lines(f"Wrote {result.written[0].parent}: {names}."))
    say("\n".join(lines))
    return result.exit_code


def say(words: str) -> None:
    """Print words. A reader that ended early (``| grep -q``, ``| head``) does not change the exit code."""
    try:
        echo(words)
    except BrokenPipeError:
        # Python would report the broken pipe when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_ready(*folders: str | os.PathLike[str] | None) -> None:
    """Refuse missing packages and folders that cannot be written before anything is measured.

    Raises:
        BackendError: If a package is missing; with the extra that installs it.
        UsageError: If a folder cannot be written; with its path.
    """
    from edgekit.report import check_packages, render

    check_packages("scipy")
    for folder in folders:
        if folder is not None:
            render.check_writable(Path(folder))
