"""Output of ``eval -o``, ``compare``, ``check`` and ``baseline``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgekit.cli._output import echo
from edgekit.spec.report import Report
from edgekit.spec.text import wrap_lines


def write(report: Report, folder: str | None) -> list[str]:
    """Write all forms of a report into a folder; return the line that says so, nothing without a folder."""
    if folder is None:
        return []
    from edgekit.report.render import write_all

    return [f"Wrote {folder}: {', '.join(file.name for file in write_all(report, Path(folder)))}."]


def finish(report: Report, folder: str | None, strict: bool = False, allow_incomparable: bool = False) -> int:
    """Write and print a report, and return its exit code."""
    from edgekit.report.render.terminal import terminal

    code = report.exit_code(strict, allow_incomparable)
    written = write(report, folder)
    say("\n".join([terminal(report, code), *map(wrap_lines, written)]))
    return code


def say(words: str) -> None:
    """Print words. A reader that ended early (``| grep -q``, ``| head``) does not change the exit code."""
    try:
        echo(words)
    except BrokenPipeError:
        # Python would report the broken pipe when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_ready(*folders: str | None) -> None:
    """Refuse missing packages and folders that cannot be written before anything is measured.

    Raises:
        BackendError: With the package and the extra that installs it.
        UsageError: With the folder.
    """
    from edgekit.report import check_packages, render

    check_packages("scipy")
    for folder in folders:
        if folder is not None:
            render.check_writable(Path(folder))
