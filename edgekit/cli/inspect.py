"""``edgekit inspect``."""

from __future__ import annotations

import click

from edgekit.cli._output import echo
from edgekit.spec.parsing import to_json

__all__ = ["command"]


@click.command(name="inspect")
@click.argument("bundle")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(bundle, as_json):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Show what BUNDLE holds: task, inputs, how it runs, the candidates of its build, where it came from."""
    from edgekit.verbs.bundles import inspect

    info = inspect(bundle)
    echo(to_json(info.record(), indent=2, sort_keys=True, ensure_ascii=False) if as_json else info.text())
