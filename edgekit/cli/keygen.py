"""``edgekit keygen``."""

from __future__ import annotations

import click

from edgekit.cli._output import echo

__all__ = ["command"]


@click.command(name="keygen")
@click.argument("key")
@click.option("--password", is_flag=True, help="Encrypt the private key with a password, which is asked for.")
def command(key, password):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Make a key pair to sign bundles with: KEY, which stays secret, and KEY.pub, which devices get."""
    from edgekit.verbs.keys import keygen

    secret = (
        click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True).encode() if password else None
    )
    echo(keygen(key, password=secret).text())
