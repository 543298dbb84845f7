"""What ``report``, ``compare``, ``check`` and ``baseline`` print and write."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgekit.cli._output import echo
from edgekit.spec.report import Report


def write(report: Report, folder: str | None) -> list[str]:
    """Writes all forms of a report; the line that says so, if there is a folder."""
    if folder is None:
        return []
    from edgekit.report.render import write_all

    return [f"Wrote {folder}: {', '.join(file.name for file in write_all(report, Path(folder)))}."]


def finish(report: Report, folder: str | None, strict: bool = False, allow_incomparable: bool = False) -> int:
    """Writes and prints a report, and says its exit code."""
    from edgekit.report.render.terminal import terminal

    code = report.exit_code(strict, allow_incomparable)
    written = write(report, folder)
    say("\n".join([terminal(report, code), *written]))
    return code


def say(words: str) -> None:
    """Prints. A reader that has gone (``| grep -q``, ``| head``) does not change a verdict."""
    try:
        echo(words)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # Python would complain when it flushes at its end


def check_ready(*folders: str | None) -> None:
    """Refuses what would end a run after it was measured: packages that are not there, folders that cannot be written.

    Raises:
        BackendError: naming the package and the extra that brings it.
        UsageError: naming the folder.
    """
    from edgekit.report import check_packages, render

    check_packages("scipy")
    for folder in folders:
        if folder is not None:
            render.check_writable(Path(folder))
