"""``edgekit cache``."""

from __future__ import annotations

import re

import click

__all__ = ["Age", "clear", "command", "show"]

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Age(click.ParamType):  # type: ignore[type-arg]
    """``7d``: a number of minutes, hours, days or weeks."""

    name = "AGE"

    def convert(self, value, param, context):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
        """Seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", value)
        if match is None:
            self.fail(f"'{value}' is no age. Write a number and m, h, d or w, e.g. 7d.", param, context)
        return float(match[1]) * _UNITS[match[2]]


@click.group(name="cache")
def command():  # type: ignore[no-untyped-def] # noqa: ANN201
    """Look into the build cache, or empty it.

    It holds what builds have made (graphs, answers, times, students), so that the next build of the same does not make it again. It is at EDGEKIT_CACHE,
    else ~/.cache/edgekit, belongs to one user alone, and keeps within EDGEKIT_CACHE_MB (8192): what was not used for longest goes first. An entry that was
    altered is not used. Times of more than 7 days ago, or of a busy machine, are measured anew.
    """


@command.command(name="show")
def show():  # type: ignore[no-untyped-def] # noqa: ANN201
    """List what is in the cache: what each entry is, of what, its size, and when it was made and last used."""
    from edgekit.cache.listing import table
    from edgekit.cache.store import Cache

    click.echo(table(Cache()))


@command.command(name="clear")
@click.option("--older-than", type=Age(), default=0.0, help="Only what was not used for so long, e.g. 12h, 7d, 4w. [default: all]")
def clear(older_than):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Remove what builds have made, and times of races at first loads. Engines that were compiled here stay.

    Refused while a build uses the cache.
    """
    from edgekit.cache.records import RACES, Records
    from edgekit.cache.store import Cache

    cache = Cache()
    count, size = cache.clear(older_than)
    races = Records(RACES, cache).clear(older_than)
    click.echo(f"Removed {count} entries, {size:.1f} MB, and {races} races at first loads, from {cache.root}.")
