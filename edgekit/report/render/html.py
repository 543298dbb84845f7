"""A report as one HTML file that opens anywhere: pictures, tables and style are in it, scripts are not, and nothing is fetched.

What a report holds was written by others (names, labels, texts). All of it is escaped, and the page forbids itself by a Content-Security-Policy
to load or to run anything, so that even a hole in the escaping would stay without effect.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from edgekit.report.render.charts.svg import STYLE, clean
from edgekit.report.render.document import Limits
from edgekit.report.render.sections import document
from edgekit.spec.report import Report

__all__ = ["MOST_BYTES", "html"]

MOST_BYTES = 300_000
"""Largest size of a page, in bytes of UTF-8."""

_JOINTS = re.compile(r"([._=-])(?=\w)")  # between letters: an entity is never taken apart
_HERE = Path(__file__).parent
_LIMITS = (
    Limits(),
    Limits(rows=40, flips=60, text=160, name=60, sentence=240),
    Limits(rows=20, flips=30, text=100, name=40, sentence=160, labels=8, words=20),
    Limits(rows=8, flips=8, text=40, name=24, sentence=80, labels=4, words=10),
)


def html(report: Report) -> str:
    """Return the page.

    Args:
        report: of any kind. Texts of samples are shown only where its ``include_text`` is set.

    Returns:
        HTML of less than ``MOST_BYTES``, always the same for the same report. Where a report is too large, fewer rows of it are listed, and the page
        says how many are left out.
    """
    page = ""
    for limits in _LIMITS:
        page = _page(report, limits)
        if len(page.encode()) < MOST_BYTES:
            break
    return page


def _page(report: Report, limits: Limits) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not on a device, and slow to import

    # A character that HTML cannot hold would be one that no reader sees and no file can be written with.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
    )
    style = STYLE.read_text("utf-8") + (_HERE / "page.css").read_text("utf-8")
    environment.filters["breaks"] = _breaks
    return environment.get_template("page.html.j2").render(page=document(report, limits), style=style)


def _breaks(name: str) -> str:
    """Return a name as HTML that may be broken between its parts."""
    return _JOINTS.sub(r"\1<wbr>", escape(clean(name)))
