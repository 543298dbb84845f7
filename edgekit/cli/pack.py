"""``edgekit pack``."""

from __future__ import annotations

import click

from edgekit.cli._options import downgrade_option, keys_option, trust_of
from edgekit.cli._output import echo

__all__ = ["command"]


@click.command(name="pack")
@click.argument("bundle", metavar="BUNDLE|FILE")
@click.option(
    "-o",
    "--out",
    default=None,
    metavar="FILE|FOLDER",
    help="Output. [default: name of the bundle in the current folder, with or without .edge]",
)
@click.option("--unpack", "unpacking", is_flag=True, help="Unpack FILE.edge into a bundle's folder.")
@keys_option
@click.option("--force", is_flag=True, help="Replace the packed bundle, or with --unpack the bundle, at --out.")
@downgrade_option
def command(bundle, out, unpacking, keys, force, allow_downgrade):  # type: ignore[no-untyped-def]
    """Pack BUNDLE into one file for copying; with --unpack, unpack such a FILE into a folder.

    The whole bundle is checked in both directions, and the output appears whole or not at all. The same bundle gives
    the same bytes. The file is a ZIP without compression.
    """
    from edgekit.verbs.bundles import pack, unpack

    if not unpacking:
        echo(pack(bundle, out, force=force, trust=trust_of(keys)).text())
        return
    result = unpack(bundle, out, force=force, allow_downgrade=allow_downgrade, trust=trust_of(keys))
    echo(result.text())
    for note in result.notes:
        echo(f"note: {note}", err=True)
