"""``edgekit predict``."""

from __future__ import annotations

import click

from edgekit.cli._options import backend_option, columns_option, given_options, keys_option, threads_option, trust_of
from edgekit.cli._output import bars, show

__all__ = ["command"]


@click.command(name="predict")
@click.argument("bundle")
@click.option(
    "--samples",
    required=True,
    metavar="FILE",
    help="Inputs: JSONL, JSON, CSV, TSV, Parquet (with pyarrow), or a folder of images. Labels are not needed.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FILE",
    help="Predictions: .csv, .tsv, .jsonl or .parquet. Appears whole or not at all.",
)
@columns_option
@click.option("--keep", multiple=True, metavar="COLUMN", help="Column of the input to copy to the output. Repeatable.")
@click.option("--scores", is_flag=True, help="Write the score of every label.")
@click.option("--top-k", type=click.IntRange(min=1), default=None, help="Write the K labels with the highest scores.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=None,
    help="Least score of a label. [default: 0.5 where a row may have several labels, none where it has one]",
)
@click.option("--skip-errors", is_flag=True, help="Write the error of a bad row into a column 'error' and go on.")
@click.option("--batch", type=click.IntRange(min=1), default=None, help="Rows predicted at a time. [default: 256]")
@click.option(
    "--max-characters",
    type=click.IntRange(min=1),
    default=None,
    help="Longest text in characters. [default: 64 for each token of the longest row]",
)
@click.option("--truncate", is_flag=True, help="Cut a longer text instead of refusing it.")
@click.option("--force", is_flag=True, help="Replace the file that is at --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@backend_option
@threads_option
@keys_option
def command(bundle, samples, out, keys, as_json, **options):  # type: ignore[no-untyped-def]
    """Predict every row of a file with BUNDLE and write one output row for each, in order.

    The output has the columns kept from the input, then label, score, labels (where a row may have several) and
    truncated. A task that does not answer with one score for each label, such as token classification, writes its
    answer as JSON. A row that cannot be predicted ends the command with its number, unless --skip-errors is given.
    """
    from edgekit.report.predict import predict
    from edgekit.spec.options import PredictOptions

    chosen = PredictOptions(**given_options(**options))
    with bars() as progress:
        result = predict(bundle, samples, out, options=chosen, trust=trust_of(keys), progress=progress)
    show(result, as_json)
