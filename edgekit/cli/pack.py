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
def command(bundle, out, unpacking, keys, force, allow_downgrade):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Pack BUNDLE into one file for copying; with --unpack, unpack such a FILE into a folder.

    The whole bundle is checked in both directions, and the output appears whole or not at all. The same bundle gives the
    same bytes. The file is a ZIP without compression.
    """
    from pathlib import Path

    from edgekit.bundle.pack import SUFFIX, pack, unpack
    from edgekit.spec.paths import check_path

    trust = trust_of(keys)
    check_path(bundle, "bundle")
    name = Path(bundle).resolve().name
    if unpacking:
        notes: list[str] = []
        written = unpack(
            bundle,
            out or name.removesuffix(SUFFIX),
            force=force,
            trust=trust,
            allow_downgrade=allow_downgrade,
            notes=notes,
        )
        echo(f"Wrote {written.path}, {len(written.manifest.files)} files, {written.size / 2**20:.1f} MB.")
        for note in notes:
            echo(f"note: {note}", err=True)
        return
    file = pack(bundle, out or f"{name}{SUFFIX}", force=force, trust=trust)
    echo(f"Wrote {file}, {file.stat().st_size / 2**20:.1f} MB.")
