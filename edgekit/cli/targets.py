"""``edgekit targets``."""

from __future__ import annotations

import click

from edgekit.cli._output import echo

__all__ = ["command"]


@click.command(name="targets")
@click.argument("name", required=False)
def command(name):  # type: ignore[no-untyped-def]
    """List the targets that a bundle can be built for; with NAME, show the settings of one."""
    from edgekit.verbs.bundles import targets

    echo(targets(name or None).text())
