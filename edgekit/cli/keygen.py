"""``edgekit keygen``."""

from __future__ import annotations

import click

from edgekit.cli._output import echo

__all__ = ["command"]


@click.command(name="keygen")
@click.argument("key")
@click.option("--password", is_flag=True, help="Encrypt the private key with a password, which is prompted for.")
def command(key, password):  # type: ignore[no-untyped-def]
    """Create a key pair for signing bundles: KEY, which stays secret, and KEY.pub for the devices."""
    from edgekit.verbs.keys import keygen

    secret = (
        click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True).encode() if password else None
    )
    echo(keygen(key, password=secret).text())
