"""``edgekit eval`` (the underscore keeps the file's name off Python's own ``eval``)."""

from __future__ import annotations

import click

from edgekit.cli._options import columns_option, keys_option, threads_option, trust_of
from edgekit.cli._output import echo
from edgekit.spec.parsing import to_json


@click.command(name="eval")
@click.argument("bundle")
@click.option("--samples", required=True, metavar="FILE", help="Samples with labels: JSONL, CSV, TSV or a TOML that names them.")
@columns_option
@click.option("--json", "file", default=None, metavar="FILE", help="Also write the numbers as JSON ('-': only them, to standard output).")
@click.option("--backend", default=None, help="Which of the bundle's backends. [default: its best]")
@threads_option
@keys_option
def command(bundle, samples, columns, file, backend, threads, keys):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Score BUNDLE on samples, with latency (one stream, batch 1, text to label) and memory."""
    from edgekit.cli._progress import bars
    from edgekit.report.evaluate import evaluate

    with bars() as progress:
        result = evaluate(bundle, samples, columns=columns, backend=backend, threads=threads, trust=trust_of(keys), progress=progress)
    text = to_json(result.record(), indent=2)
    if file == "-":
        echo(text)
        return
    echo(result.text())
    if file:
        from edgekit.report.evaluate import write_text

        write_text(file, text + "\n")
