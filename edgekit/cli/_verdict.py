"""What ``report``, ``compare``, ``check`` and ``baseline`` print and write."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.cli._output import echo

if TYPE_CHECKING:
    from edgekit.verbs.reports import ReportResult


def written(result: ReportResult) -> list[str]:
    """The line that says where a report was written, if it was."""
    if not result.written:
        return []
    return [f"Wrote {result.written[0].parent}: {', '.join(file.name for file in result.written)}."]


def finish(result: ReportResult, folder: str | None) -> int:
    """Writes and prints a report, and says its exit code."""
    if folder is not None:
        result = result.write(folder)
    say("\n".join([result.text(), *written(result)]))
    return result.exit_code


def say(words: str) -> None:
    """Prints. A reader that has gone (``| grep -q``, ``| head``) does not change a verdict."""
    try:
        echo(words)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # Python would complain when it flushes at its end


def check_ready(*folders: str | os.PathLike[str] | None) -> None:
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
