"""What the build cache holds, as text for a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from edgekit.cache.records import RACES, Records
from edgekit.cache.store import Cache

__all__ = ["table"]


def table(cache: Cache) -> str:
    """The entries of a cache as plain text: what each is and of what, size, and how long ago it was made and last used."""
    entries, now = cache.entries(), time.time()
    lines = [f"{cache.root}: {len(entries)} entries, {sum(e.size_mb for e in entries):.1f} of {cache.limit_mb:.0f} MB"]
    rows = [(e.name[-64:][:12], e.step, _of(e.about), f"{e.size_mb:.1f}", _ago(now - e.made), _ago(now - e.used)) for e in entries]
    head = ("entry", "what", "of", "MB", "made", "used")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    if rows:
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    races = Records(RACES, cache).names()
    lines += [f"races at first loads: {len(races)}"] if races else []
    return "\n".join(lines)


def _of(about: Mapping[str, Any]) -> str:
    """What an entry belongs to, by the digests that it lists."""
    model = about.get("model") or about.get("teacher")
    shown = [f"model {str(model)[:12]}"] if isinstance(model, str) else []
    candidates = about.get("candidates")
    if isinstance(candidates, list) and candidates:
        shown.append(" and ".join(sorted({" on ".join(str(c).split(" ")[:2]) for c in candidates})))
    samples = about.get("samples")
    shown += [f"samples {samples[:12]}"] if isinstance(samples, str) else []
    return ", ".join(shown)


def _ago(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"
