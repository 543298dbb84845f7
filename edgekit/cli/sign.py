"""``edgekit sign``."""

from __future__ import annotations

import click

from edgekit.cli._output import echo

__all__ = ["command"]


@click.command(name="sign")
@click.argument("bundle")
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    help="Private key, see: edgekit keygen. An encrypted key asks for its password.",
)
def command(bundle, key):  # type: ignore[no-untyped-def]
    """Sign BUNDLE with a private key, so that a device can verify who made it.

    Checks the bundle, then writes model.sig into it: an ECDSA P-256 signature over the sha256 of all files, in the
    format of OpenSSF model-signing, whose own command verifies it too. Prints the key's id, the fingerprint of the
    public key that 'edgekit keygen' printed and that a revocation list holds.
    """
    from pathlib import Path

    from edgekit.bundle.keys import is_encrypted
    from edgekit.verbs.keys import sign

    password = None
    if is_encrypted(Path(key)):
        password = click.prompt("Password of the key", hide_input=True, err=True).encode()
    echo(sign(bundle, key, password=password).text())
