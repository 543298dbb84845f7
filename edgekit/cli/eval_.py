"""``edgekit eval`` (the underscore keeps the file's name off Python's own ``eval``)."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli._options import (
    backend_option,
    columns_option,
    given_options,
    include_text_option,
    keys_option,
    max_time_option,
    metric_option,
    seed_option,
    slices_option,
    threads_option,
    trust_of,
)
from edgekit.cli._output import bars, echo, echo_text
from edgekit.cli._remote import check_local, connection, forwarded, on_options
from edgekit.spec.errors import UsageError
from edgekit.spec.parsing import to_json

__all__ = ["command"]

_OF_SCORES = ("columns", "backend", "threads", "slices", "metric")
_SCENARIOS = ("SingleStream", "Offline", "Server")


@click.command(name="eval")
@click.argument("bundle")
@click.option(
    "--samples",
    required=True,
    metavar="FILE",
    help="Samples with labels: JSONL, CSV, TSV, a TOML file that names them, or a folder LABEL/IMAGE.",
)
@click.option(
    "-o",
    "--out",
    default=None,
    metavar="FOLDER",
    help="Measure everything and write report.html, report.json, report.md, junit.xml and history.json to this folder.",
)
@click.option(
    "--json",
    "file",
    default=None,
    metavar="FILE",
    help="Without -o: also write the scores as JSON ('-': only these, to standard output).",
)
@columns_option
@slices_option
@click.option(
    "--teacher",
    default=None,
    metavar="FILE|MODEL",
    help="Also compare with a file of outputs (.npy, .npz, .jsonl) or a Hugging Face folder (needs torch).",
)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    type=click.Choice(_SCENARIOS),
    help="Load scenario, by its name in MLPerf. Repeatable. [default: all three]",
)
@click.option(
    "--server-bound",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    metavar="MS",
    help="Latency bound of the Server scenario for 99 % of the answers. [default: 10 times the median]",
)
@click.option(
    "--gates",
    default=None,
    metavar="FILE",
    help="TOML file of limits of the bundle and margins over the teacher. [default: no gates]",
)
@include_text_option
@backend_option
@threads_option
@on_options
@keys_option
@max_time_option
@seed_option
@metric_option
def command(bundle, samples, out, file, keys, where, **options):  # type: ignore[no-untyped-def]
    """Score BUNDLE on samples, with latency (one stream, batch 1, input to answer), start and memory.

    With -o everything is measured: accuracy by row and slice, latency, cold start, memory, scenarios, robustness. The
    report is one HTML page for people, JSON and JUnit for machines, Markdown for a pull request. Nothing is gated
    without --gates; with it, BUNDLE is held to the budget, and margins to what --teacher gives. Exit codes are then
    those of 'edgekit check'. With --slice and without -o, the scores of each slice are printed.

    With --on the device's own 'edgekit eval' runs there; samples are copied to a private folder and removed afterwards.
    """
    device = (where, options.pop("python"), options.pop("identity"), keys)
    if out is not None and file is not None:
        raise UsageError(
            "--json is for an evaluation without -o, which writes report.json. Leave one of them out.",
            code="option-conflict",
        )
    if out is None:
        _refuse_report_options(options)
    if where is not None:
        _run_there(bundle, samples, out, file, device, options)
        return
    check_local()
    if out is not None:
        _report(bundle, samples, out, keys=keys, **options)
        return
    from edgekit.report.evaluate import evaluate
    from edgekit.spec.options import EvaluateOptions

    chosen = EvaluateOptions(**given_options(**{name: options[name] for name in _OF_SCORES}))
    with bars() as progress:
        result = evaluate(bundle, samples, options=chosen, trust=trust_of(keys), progress=progress)
    _print_scores(result, file)


def _refuse_report_options(options: dict[str, Any]) -> None:
    """Refuse options that only a report has."""
    of_report = {name: value for name, value in options.items() if name not in _OF_SCORES}
    for name in given_options(**of_report):
        option = next(parameter for parameter in command.params if parameter.name == name)
        raise UsageError(
            f"{max(option.opts, key=len)} is an option of a report. Add -o FOLDER, or leave it out.",
            code="option-needs-other",
        )


def _print_scores(result: Any, file: str | None) -> None:
    """Print scores, and write them as JSON where ``--json`` names a file."""
    from edgekit.report.files import write_text

    text = to_json(result.record(), indent=2)
    if file == "-":
        echo(text)
        return
    echo_text(result.text())
    if file:
        write_text(file, text + "\n")


def _run_there(
    bundle: str, samples: str, out: str | None, file: str | None, device: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Evaluate on a device."""
    from edgekit.cli import _verdict
    from edgekit.deploy import measure

    if out is not None:
        _verdict.check_ready(out)
    given_files = {"--samples": samples, "--gates": options.get("gates"), "--teacher": options.get("teacher")}
    files = {option: path for option, path in given_files.items() if path is not None}
    arguments = forwarded(("samples", "gates", "teacher", "out", "file"))
    with bars() as progress:
        reached = connection(device, progress)
        if out is None:
            result = measure.evaluate(bundle, files, arguments, reached)
        else:
            report = measure.report("eval", bundle, files, arguments, reached)
    if out is None:
        _print_scores(result, file)
    else:
        from edgekit.verbs.reports import ReportResult

        click.get_current_context().exit(_verdict.finish(ReportResult(report), out))


def _report(bundle: str, samples: str, out: str, **options: Any) -> None:
    """Measure everything and write the report."""
    server_bound = options.pop("server_bound")
    scenarios = options.pop("scenarios")
    teacher = options.pop("teacher")
    keys = options.pop("keys")
    if server_bound is not None and scenarios and "Server" not in scenarios:
        raise UsageError(
            "--server-bound is an option of the Server scenario, which is not among --scenario. "
            "Add --scenario Server, or leave it out.",
            code="option-needs-other",
        )
    from edgekit.cli import _verdict
    from edgekit.spec.options import MeasureOptions
    from edgekit.verbs.reports import measure

    _verdict.check_ready(out)
    named = given_options(scenarios=scenarios, server_bound_ms=server_bound, reference=teacher, **options)
    with bars() as progress:
        result = measure(bundle, samples, options=MeasureOptions(**named), trust=trust_of(keys), progress=progress)
    click.get_current_context().exit(_verdict.finish(result, out))
