"""``edgekit compile``."""

from __future__ import annotations

import click

from edgekit.cli._options import keys_option, trust_of
from edgekit.cli._output import bars, echo, echo_text, show
from edgekit.spec.errors import UsageError

__all__ = ["command"]

_COMMAND = " like: "


@click.command(name="compile")
@click.argument("bundle")
@click.option("--dry-run", is_flag=True, help="Print what would be done here and why; compile nothing.")
@click.option("--force", is_flag=True, help="Compile engines anew, also those in the cache, and race again.")
@keys_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle, dry_run, force, keys, as_json):  # type: ignore[no-untyped-def]
    """Compile BUNDLE's engines on this device, test them on the golden inputs, and keep the fastest that passes."""
    from edgekit.runtime.compile import compile_bundle, explain

    if dry_run and as_json:
        raise UsageError(
            "--json prints the result of a compilation, and --dry-run makes none. Leave one of them out.",
            code="option-conflict",
        )
    trust = trust_of(keys)
    if dry_run:
        for line in explain(bundle, trust=trust, force=force).splitlines():
            if _COMMAND in line:  # a command to copy must stay on one line
                echo(line)
            else:
                echo_text(line)
        return
    with bars() as progress:
        result = compile_bundle(bundle, trust=trust, force=force, progress=progress)
    show(result, as_json)
