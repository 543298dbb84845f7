"""``edgekit compile``."""

from __future__ import annotations

import click

from edgekit.cli._options import keys_option, trust_of
from edgekit.cli._output import bars, echo, show
from edgekit.spec.errors import UsageError

__all__ = ["command"]


@click.command(name="compile")
@click.argument("bundle")
@click.option("--dry-run", is_flag=True, help="Say what would be done here, and why; make nothing.")
@click.option("--force", is_flag=True, help="Make engines anew, also those that the cache has, and race again.")
@keys_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle, dry_run, force, keys, as_json):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Make the engines that BUNDLE needs on this device, check them on the golden inputs, and keep the fastest that passes."""
    from edgekit.runtime.compile import compile_bundle, explain

    if dry_run and as_json:
        raise UsageError(
            "--json is of a compilation, and --dry-run makes none. Leave one of them out.", code="option-conflict"
        )
    trust = trust_of(keys)
    if dry_run:
        echo(explain(bundle, trust=trust, force=force))
        return
    with bars() as progress:
        result = compile_bundle(bundle, trust=trust, force=force, progress=progress)
    show(result, as_json)
