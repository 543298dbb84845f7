"""``edgekit baseline``."""

from __future__ import annotations

import click

from edgekit.cli._options import (
    columns_option,
    given,
    keys_option,
    metric_option,
    seed_option,
    threads_option,
    trust_of,
)
from edgekit.cli._output import bars, echo

__all__ = ["command"]


@click.command(name="baseline")
@click.argument("bundle")
@click.option(
    "--samples",
    required=True,
    metavar="FILE",
    help="Samples with labels: JSONL, CSV, TSV, a TOML that names them, or a folder LABEL/IMAGE.",
)
@click.option(
    "-o", "--out", required=True, metavar="FILE", help="The baseline, a .json file; one that is there is replaced."
)
@click.option(
    "--append",
    is_flag=True,
    help="Add a session to the baseline that is there, of the same bundle, samples and machine.",
)
@columns_option
@click.option("--backend", default=None, help="Which of the bundle's backends. [default: its best]")
@threads_option
@keys_option
@seed_option
@metric_option
def command(bundle, samples, out, keys, **options):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN201
    """Measure BUNDLE and keep what 'edgekit check --baseline FILE' compares with: answers by row (no text), times, footprint.

    A check against the file judges accuracy and size anywhere; latency, start, memory and energy only on the same machine. What a machine
    does between two sessions is part of the interval then: probe kernels that run beside the bundle tell what the machine was worth, and
    sessions at other times (--append, e.g. once an hour, four or more) tell how much it varies. Of one session only large changes are
    found. A check runs the older bundle itself in turns, which is far sharper, where it is given, or still lies where the file says.
    """
    from edgekit.spec.options import BaselineOptions
    from edgekit.verbs.reports import baseline

    chosen = BaselineOptions(**given(**options))
    with bars() as progress:
        result = baseline(bundle, samples, file=out, options=chosen, trust=trust_of(keys), progress=progress)
    echo(f"{result.text()}\nWrote {out}.")
