"""``edgekit inspect``."""

from __future__ import annotations

import click

from edgekit.cli._output import echo
from edgekit.spec.parsing import to_json

__all__ = ["command"]


@click.command(name="inspect")
@click.argument("bundle")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@click.option("--wide", is_flag=True, help="Print all columns of the candidates, and digests in full.")
def command(bundle, as_json, wide):  # type: ignore[no-untyped-def]
    """Show the content of BUNDLE: task, inputs, variants, the candidates of its build and its provenance."""
    from edgekit.verbs.bundles import inspect

    info = inspect(bundle)
    if as_json:
        echo(to_json(info.record(), indent=2, sort_keys=True, ensure_ascii=False))
    else:
        echo(info.text(wide=wide))
