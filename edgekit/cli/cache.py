"""``edgekit cache``."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import click

from edgekit.cli._output import echo

__all__ = ["clear", "command", "show"]

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def _seconds(context, param, value):  # type: ignore[no-untyped-def]
    if value is None:
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", value)
    if match is None:
        raise click.BadParameter(f"'{value}' is not an age. Write a number and m, h, d or w, e.g. 7d.")
    return float(match[1]) * _UNITS[match[2]]


@click.group(name="cache")
def command():  # type: ignore[no-untyped-def]
    """Show or clear the build cache.

    It holds results of builds (graphs, outputs, times, students), which a later build of the same model reuses. It is
    at EDGEKIT_CACHE, else ~/.cache/edgekit, belongs to one user, and stays below EDGEKIT_CACHE_MB (8192): entries that
    were not used for longest are removed first. An altered entry is not used. Times older than 7 days, or of a busy
    machine, are measured anew.
    """


@command.command(name="show")
def show():  # type: ignore[no-untyped-def]
    """List the entries: step, model and samples, size, and when each was written and last used."""
    from edgekit.cache.records import RACES, Records
    from edgekit.cache.store import Cache
    from edgekit.report.table import table

    cache = Cache()
    now = time.time()
    entries = cache.entries()
    echo(f"{cache.root}: {len(entries)} entries, {sum(e.size_mb for e in entries):.1f} of {cache.limit_mb:.0f} MB")
    if rows := [
        (e.name[-64:][:12], e.step, _of(e.about), f"{e.size_mb:.1f}", _ago(now - e.created), _ago(now - e.used))
        for e in entries
    ]:
        echo(table(("entry", "step", "of", "MB", "written", "used"), rows, left=(0, 1, 2, 4, 5)))
    if races := Records(RACES, cache).names():
        echo(f"races at first loads: {len(races)}")


@command.command(name="clear")
@click.option(
    "--older-than",
    callback=_seconds,
    metavar="AGE",
    help="Remove only entries that were not used for this time, e.g. 12h, 7d, 4w. [default: all entries]",
)
def clear(older_than):  # type: ignore[no-untyped-def]
    """Remove results of builds and times of races at first loads; engines that were compiled here stay.

    Refused while a build uses the cache.
    """
    from edgekit.cache.records import RACES, Records
    from edgekit.cache.store import Cache

    cache = Cache()
    count, size = cache.clear(older_than)
    races = Records(RACES, cache).clear(older_than)
    echo(f"Removed {count} entries, {size:.1f} MB, and {races} races at first loads, from {cache.root}.")


def _of(about: Mapping[str, Any]) -> str:
    """Return the model, candidates and samples of an entry, by their digests."""
    model = about.get("model") or about.get("teacher")
    parts = [f"model {str(model)[:12]}"] if isinstance(model, str) else []
    candidates = about.get("candidates")
    if isinstance(candidates, list) and candidates:
        parts.append(" and ".join(sorted({" on ".join(str(c).split(" ")[:2]) for c in candidates})))
    samples = about.get("samples")
    parts += [f"samples {samples[:12]}"] if isinstance(samples, str) else []
    return ", ".join(parts)


def _ago(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"
