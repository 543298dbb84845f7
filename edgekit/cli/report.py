"""``edgekit report``."""

from __future__ import annotations

import click

from edgekit.cli._options import (
    columns_option,
    given,
    include_text_option,
    keys_option,
    max_time_option,
    seed_option,
    slices_option,
    threads_option,
    trust_of,
)

_SCENARIOS = ("SingleStream", "Offline", "Server")


@click.command(name="report")
@click.argument("bundle")
@click.option("--samples", required=True, metavar="FILE", help="Samples with labels: JSONL, CSV, TSV or a TOML that names them.")
@click.option("-o", "--out", required=True, metavar="FOLDER", help="report.html, .json, .md, junit.xml and history.json go here.")
@columns_option
@slices_option
@click.option(
    "--teacher", default=None, metavar="FILE|MODEL", help="Also compare with these outputs (.npy, .npz, .jsonl), or this Hugging Face folder (needs torch)."
)
@click.option(
    "--scenario", "scenarios", multiple=True, type=click.Choice(_SCENARIOS), help="MLPerf's name of how texts arrive. Repeatable. [default: all three]"
)
@click.option(
    "--server-bound", type=click.FloatRange(min=0, min_open=True), default=None, metavar="MS", help="Of the Server scenario: 99 % of answers within it."
)
@click.option("--gates", default=None, metavar="FILE", help="TOML with limits of the bundle, and margins over the teacher. [default: none]")
@include_text_option
@click.option("--backend", default=None, help="Which of the bundle's backends. [default: its best]")
@threads_option
@keys_option
@max_time_option
@seed_option
def command(bundle, samples, out, teacher, scenarios, server_bound, gates, keys, **options):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN201
    """Measure everything about BUNDLE: accuracy by row and slice, latency, cold start, memory, scenarios, robustness.

    One HTML file for people, JSON and JUnit for machines, Markdown for a pull request. Nothing is gated unless --gates says so: its
    budget is held against BUNDLE, its margins against what --teacher gives. Exit codes are then those of 'edgekit check'.
    """
    if server_bound is not None and scenarios and "Server" not in scenarios:
        raise click.UsageError("--server-bound is of the Server scenario, which was not asked for. Add --scenario Server, or leave it out.")
    from edgekit.cli import _reference, _verdict
    from edgekit.cli._progress import bars
    from edgekit.report import check
    from edgekit.spec import gates as gate_files

    _verdict.check_ready(out)
    held = None if gates is None else gate_files.read(gates)
    reference = None if teacher is None else _reference.reference(teacher, bundle)
    said = given(scenarios=scenarios, server_bound_ms=server_bound, gates=held, reference=reference, trust=trust_of(keys), **options)
    with bars() as progress:
        report = check.report(bundle, samples, progress=progress, **said)
    click.get_current_context().exit(_verdict.finish(report, out))
