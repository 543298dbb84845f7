"""``edgekit compare``."""

from __future__ import annotations

import click

from edgekit.cli._options import (
    backend_option,
    columns_option,
    gates_option,
    given_options,
    include_text_option,
    keys_option,
    max_time_option,
    metric_option,
    seed_option,
    slices_option,
    trust_of,
)
from edgekit.cli._output import bars

__all__ = ["command"]


@click.command(name="compare")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
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
    help="Folder for report.html, report.json, report.md, junit.xml and history.json.",
)
@columns_option
@slices_option
@gates_option
@include_text_option
@backend_option
@keys_option
@max_time_option
@seed_option
@metric_option
def command(before, after, samples, out, keys, **options):  # type: ignore[no-untyped-def]
    """Compare the bundle B with A: accuracy row by row, latency, start, memory and size.

    A is a bundle (both run interleaved on this machine), a JSON file of 'edgekit eval -o' or 'edgekit baseline', a file
    of a teacher's outputs (.npz with an array for each output, .jsonl with {"OUTPUT": [...]} a line, .npy of a model
    with one output), or the teacher itself, a Hugging Face folder (needs torch). Beside the metrics of 'edgekit check',
    occlusion attributions and disturbed inputs of both sides are compared. Exit codes are those of 'edgekit check'.
    """
    from edgekit.cli import _verdict
    from edgekit.spec.options import CompareOptions
    from edgekit.verbs.reports import compare

    _verdict.check_ready(out)
    chosen = CompareOptions(**given_options(**options))
    with bars() as progress:
        result = compare(before, after, samples, options=chosen, trust=trust_of(keys), progress=progress)
    click.get_current_context().exit(_verdict.finish(result, out))
