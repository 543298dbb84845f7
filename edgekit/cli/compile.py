"""``edgekit compile``."""

from __future__ import annotations

import json

import click


@click.command(name="compile")
@click.argument("bundle")
@click.option("--dry-run", is_flag=True, help="Say what would be done here, and why; make nothing.")
@click.option("--force", is_flag=True, help="Make engines anew, also those that the cache has, and race again.")
@click.option("--key", "keys", multiple=True, metavar="FILE", help="Public key: the bundle must be signed by one of these. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle, dry_run, force, keys, as_json):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Make the engines that BUNDLE needs on this device, check them on the golden inputs, and keep the fastest that passes."""
    from edgekit.cli._progress import bars
    from edgekit.engines.signature import Trust
    from edgekit.runtime.compile import compile_bundle, explain

    trust = Trust(keys) if keys else None
    if dry_run:
        click.echo(explain(bundle, trust=trust))
        return
    with bars() as progress:
        result = compile_bundle(bundle, trust=trust, force=force, progress=progress)
    click.echo(json.dumps(result.record(), indent=2) if as_json else result.text())
