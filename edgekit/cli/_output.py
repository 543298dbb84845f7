"""The one way to a terminal: strings of a bundle, of a table or of a device cannot act on it."""

from __future__ import annotations

import click

from edgekit.spec.text import visible


def echo(message: object = "", err: bool = False) -> None:
    """Prints a line."""
    click.echo(visible(str(message)), err=err)
