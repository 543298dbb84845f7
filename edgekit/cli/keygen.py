"""``edgekit keygen``."""

from __future__ import annotations

import click

from edgekit.cli._output import echo

__all__ = ["command"]


@click.command(name="keygen")
@click.argument("key")
@click.option("--password", is_flag=True, help="Encrypt the private key with a password, which is prompted for.")
def command(key, password):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Create a key pair for signing bundles: KEY, which stays secret, and KEY.pub for the devices."""
    from pathlib import Path

    from edgekit.bundle.keys import fingerprint, make_keys

    secret = (
        click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True).encode() if password else None
    )
    public = make_keys(Path(key), secret)
    echo(f"Wrote {key} (keep it secret) and {public} (for Trust(keys=...) and --key).")
    echo(f"Fingerprint, for a revocation list: {fingerprint(public)}")
