"""``edgekit doctor``."""

from __future__ import annotations

import click

from edgekit.cli._output import show

__all__ = ["command"]


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json):  # type: ignore[no-untyped-def]
    """Show what this machine can build for and run: backends, versions, CPU instructions, GPU and driver."""
    from edgekit.doctor import examine

    show(examine(), as_json)
