"""Report as one HTML file with figures, tables and style. It has no scripts and loads nothing.

Names, labels and texts of a report come from others. All of them are escaped. A Content-Security-Policy also forbids
the page to load or run anything, so that a flaw in the escaping would have no effect.
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

_JOINTS = re.compile(r"([._=-])(?=\w)")  # An entity has none of these characters.
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
        report: Report of any kind. Texts of samples are only shown if its ``include_text`` is set.

    Returns:
        HTML of less than ``MOST_BYTES``, the same for equal reports. For a large report, fewer rows are listed, and the
        page says how many are left out.
    """
    page = ""
    for limits in _LIMITS:
        page = _page(report, limits)
        if len(page.encode()) < MOST_BYTES:
            break
    return page


def _page(report: Report, limits: Limits) -> str:
    from jinja2 import (
        Environment,
        FileSystemLoader,
        StrictUndefined,
    )  # It is not installed on a device, and slow to import.

    # Characters that HTML cannot hold are invisible, and some of them cannot be written to a file.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean_text,
    )
    style = STYLE.read_text("utf-8") + (_HERE / "page.css").read_text("utf-8")
    environment.filters["breaks"] = _breaks
    return environment.get_template("page.html.j2").render(page=document(report, limits), style=style)


def _clean_text(value: object) -> object:
    """Return a text without characters that HTML cannot hold; markup and other values as they are."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return clean(value)
    return value


def _breaks(name: str) -> str:
    """Return a name as HTML with possible line breaks between its parts."""
    return _JOINTS.sub(r"\1<wbr>", escape(clean(name)))
