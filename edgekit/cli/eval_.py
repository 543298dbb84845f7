"""``edgekit eval`` (the underscore keeps the file's name off Python's own ``eval``)."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli._options import (
    columns_option,
    given,
    include_text_option,
    keys_option,
    max_time_option,
    metric_option,
    seed_option,
    slices_option,
    threads_option,
    trust_of,
)
from edgekit.cli._output import bars, echo
from edgekit.spec.errors import UsageError
from edgekit.spec.parsing import to_json

__all__ = ["command"]

_SCENARIOS = ("SingleStream", "Offline", "Server")


@click.command(name="eval")
@click.argument("bundle")
@click.option(
    "--samples",
    required=True,
    metavar="FILE",
    help="Samples with labels: JSONL, CSV, TSV, a TOML that names them, or a folder LABEL/IMAGE.",
)
@click.option(
    "-o",
    "--out",
    default=None,
    metavar="FOLDER",
    help="Measure everything, and write report.html, .json, .md, junit.xml and history.json here.",
)
@click.option(
    "--json",
    "file",
    default=None,
    metavar="FILE",
    help="Without -o: also write the numbers as JSON ('-': only them, to standard output).",
)
@columns_option
@slices_option
@click.option(
    "--teacher",
    default=None,
    metavar="FILE|MODEL",
    help="Also compare with these outputs (.npy, .npz, .jsonl), or this Hugging Face folder (needs torch).",
)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    type=click.Choice(_SCENARIOS),
    help="MLPerf's name of how texts arrive. Repeatable. [default: all three]",
)
@click.option(
    "--server-bound",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    metavar="MS",
    help="Of the Server scenario: 99 % of answers within it.",
)
@click.option(
    "--gates",
    default=None,
    metavar="FILE",
    help="TOML with limits of the bundle, and margins over the teacher. [default: none]",
)
@include_text_option
@click.option("--backend", default=None, help="Which of the bundle's backends. [default: its best]")
@threads_option
@keys_option
@max_time_option
@seed_option
@metric_option
def command(bundle, samples, out, file, keys, **options):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN201
    """Score BUNDLE on samples, with latency (one stream, batch 1, input to answer) and memory.

    With -o everything is measured: accuracy by row and slice, latency, cold start, memory, scenarios, robustness. One HTML file for people,
    JSON and JUnit for machines, Markdown for a pull request. Nothing is gated unless --gates says so: its budget is held against BUNDLE, its
    margins against what --teacher gives. Exit codes are then those of 'edgekit check'.
    """
    if out is not None:
        if file is not None:
            raise UsageError(
                "--json is of an evaluation without -o, which writes report.json. Leave one of them out.",
                code="option-conflict",
            )
        _report(bundle, samples, out, keys=keys, **options)
        return
    run = {name: options.pop(name) for name in ("columns", "backend", "threads", "metric")}
    if of_a_report := list(given(**options)):
        option = next(p for p in command.params if p.name == of_a_report[0])
        raise UsageError(
            f"{max(option.opts, key=len)} is of a report. Add -o FOLDER, or leave it out.", code="option-needs-other"
        )
    from edgekit.report.evaluate import evaluate
    from edgekit.report.files import write_text
    from edgekit.spec.options import EvaluateOptions

    chosen = EvaluateOptions(**given(**run))
    with bars() as progress:
        result = evaluate(bundle, samples, options=chosen, trust=trust_of(keys), progress=progress)
    text = to_json(result.record(), indent=2)
    if file == "-":
        echo(text)
        return
    echo(result.text())
    if file:
        write_text(file, text + "\n")


def _report(bundle: str, samples: str, out: str, **options: Any) -> None:
    """Measures everything and writes the report."""
    server_bound, scenarios = options.pop("server_bound"), options.pop("scenarios")
    teacher, keys = options.pop("teacher"), options.pop("keys")
    if server_bound is not None and scenarios and "Server" not in scenarios:
        raise UsageError(
            "--server-bound is of the Server scenario, which was not asked for. Add --scenario Server, or leave it out.",
            code="option-needs-other",
        )
    from edgekit.cli import _verdict
    from edgekit.spec.options import MeasureOptions
    from edgekit.verbs.reports import measure

    _verdict.check_ready(out)
    named = given(scenarios=scenarios, server_bound_ms=server_bound, reference=teacher, **options)
    chosen = MeasureOptions(**named)
    with bars() as progress:
        result = measure(bundle, samples, options=chosen, trust=trust_of(keys), progress=progress)
    click.get_current_context().exit(_verdict.finish(result, out))
