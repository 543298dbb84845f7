"""``edgekit targets``."""

from __future__ import annotations

import click

from edgekit.cli._output import echo

__all__ = ["command"]


@click.command(name="targets")
@click.argument("name", required=False)
def command(name):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """List the targets that a bundle can be built for; with NAME, show the settings of one."""
    from edgekit.report.inspect import target_text
    from edgekit.report.table import table
    from edgekit.spec import target

    if name:
        echo(target_text(target.load(name)))
        return
    known = [target.load(n) for n in target.names()]
    echo(
        table(
            ("target", "backends", "description"),
            [(t.name, ", ".join(t.backends), t.description) for t in known],
            left=(0, 1, 2),
        )
    )
