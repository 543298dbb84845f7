"""Files of a report for people and CI systems: HTML, Markdown, JUnit XML, history."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

from edgekit.report import check_packages, files
from edgekit.report.render.history import history
from edgekit.report.render.junit import junit
from edgekit.report.render.markdown import markdown
from edgekit.spec.errors import UsageError
from edgekit.spec.report import Report

__all__ = ["NAMES", "check_writable", "write_all"]

NAMES = ("report.html", "report.md", "junit.xml", "history.json", "report.json")
"""Files of a report. The last is the report itself; it appears after all others."""


def write_all(report: Report, folder: str | Path) -> list[Path]:
    """Write a report in every form.

    All forms are rendered before any file is written, and all files are complete on disk before any appears.

    Args:
        report: Report of any kind.
        folder: Folder of the files.

    Returns:
        Paths of the files, in the order of ``NAMES``.

    Raises:
        BuildError: If the report is contradictory, the disk is full or a file cannot be written.
    """
    from edgekit.report.render.html import html  # needs jinja2, which the other forms do not

    texts = (html(report), markdown(report), junit(report), history(report), files.dumps(report))
    paths = [Path(folder) / name for name in NAMES]
    files.put(dict(zip(paths, texts, strict=True)))
    return paths


def check_writable(folder: str | Path) -> None:
    """Create the folder of a report, and check that it can be written, before anything is measured.

    Files of an earlier run are removed, so that they are not mistaken for the result of this run if it fails. Its
    ``report.json`` stays, since it may be the baseline of this run.

    Args:
        folder: Folder of the report.

    Raises:
        BackendError: If the package that renders the page is not installed.
        UsageError: If another kind of file is at the path, or no file can be created there.
    """
    check_packages("jinja2")
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Only a write shows whether the system allows one: permission bits do not show a read-only disk.
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"-")
    except OSError as problem:
        reasons = {
            errno.EEXIST: "a file is in its place",
            errno.ENOTDIR: "a file is in its place or in the place of a parent folder",
            errno.EROFS: "it is on a disk that is mounted read-only",
            errno.EACCES: "permission is denied",
            errno.EPERM: "permission is denied",
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
        }
        reason = reasons.get(problem.errno or 0, problem.strerror or str(problem))
        raise UsageError(
            f"Output folder {place} cannot be written to: {reason}. Give another -o, or make it writable.",
            code="output-not-writable-folder",
        ) from problem
    for name in NAMES:
        if (place / name).exists() and not (place / name).is_file():
            raise UsageError(
                f"Output folder {place} has something other than a file at {name}, where the report is written. "
                "Move it, or give another -o.",
                code="output-other-kind-folder",
            )
    for name in NAMES[:-1]:
        (place / name).unlink(missing_ok=True)
