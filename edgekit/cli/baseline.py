"""``edgekit baseline``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli._options import (
    columns_option,
    given_options,
    keys_option,
    metric_option,
    seed_option,
    threads_option,
    trust_of,
)
from edgekit.cli._output import bars, echo
from edgekit.spec.errors import UsageError

__all__ = ["command"]


@click.command(name="baseline")
@click.argument("bundle", required=False)
@click.option(
    "--samples",
    default=None,
    metavar="FILE",
    help="Samples with labels: JSONL, CSV, TSV, a TOML file that names them, or a folder LABEL/IMAGE.",
)
@click.option("-o", "--out", default=None, metavar="FILE", help="Baseline, a .json file; an existing one is replaced.")
@click.option(
    "--append",
    is_flag=True,
    help="Add a session to the existing baseline of the same bundle, samples and machine.",
)
@columns_option
@click.option(
    "--backend", default=None, metavar="NAME", help="Backend of the bundle that runs. [default: the best one]"
)
@threads_option
@keys_option
@seed_option
@metric_option
def command(bundle, samples, out, keys, **options):  # type: ignore[no-untyped-def]
    """Measure BUNDLE and write the file that 'edgekit check --baseline FILE' compares with: answers, times, footprint.

    A check against the file judges accuracy and size on any machine; latency, start, memory and energy only on the
    same one. What the machine does between two sessions is then part of the interval: probe kernels that run beside
    the bundle measure the speed of the machine, and sessions at other times (--append, e.g. once an hour, four or more)
    measure how much it varies. One session finds only large changes. A check that is given the older bundle itself, or
    finds it where the file says, runs both interleaved, which is far more precise. The file holds no text of the
    samples.

    Without BUNDLE the nearest edgekit.toml names bundles, samples and files, for all its targets in turn; options given
    here win over the file.
    """
    if bundle is not None:
        for name, value in (("--samples", samples), ("-o", out)):
            if value is None:
                raise UsageError(
                    f"Missing option '{name}'. BUNDLE needs it; without BUNDLE edgekit.toml names it.",
                    code="option-missing",
                )
        _measure(bundle, samples, out, keys, options)
        return
    for place, chosen in _places(samples, out):
        _measure(
            place.bundle, chosen["samples"], place.baseline, keys, {**chosen["options"], **given_options(**options)}
        )


def _places(samples: str | None, out: str | None) -> list[tuple[Any, dict[str, Any]]]:
    """Return the bundle, baseline and samples of each target, as the nearest ``edgekit.toml`` names them."""
    from dataclasses import replace

    from edgekit.spec import project as projects

    file = projects.nearest(
        Path.cwd(), "Write one (edgekit init), or name all here: edgekit baseline BUNDLE --samples FILE -o FILE."
    )
    file = replace(file, eval=samples or file.eval, baseline=out or file.baseline)
    file.need("edgekit baseline", "out", "eval", "baseline")
    chosen = {"samples": file.eval, "options": given_options(columns=dict(file.columns) or None, seed=file.seed)}
    return [(place, chosen) for place in projects.places(file)]


def _measure(bundle: str, samples: str, out: str, keys: tuple[str, ...], options: dict[str, Any]) -> None:
    """Measure one bundle and write its baseline."""
    from edgekit.spec.options import BaselineOptions
    from edgekit.verbs.reports import baseline

    chosen = BaselineOptions(**given_options(**options))
    with bars() as progress:
        result = baseline(bundle, samples, file=out, options=chosen, trust=trust_of(keys), progress=progress)
    echo(result.text())
    echo(f"Wrote {out}.")
