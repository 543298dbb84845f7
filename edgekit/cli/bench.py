"""``edgekit bench``."""

from __future__ import annotations

import json

import click

from edgekit.cli._options import threads_option


def _numbers(context, param, value):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    try:
        numbers = [int(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"'{value}' is not a list of whole numbers of at least 1, e.g. 1,8,32.")
    return numbers


@click.command(name="bench")
@click.argument("bundle")
@click.option("--batches", default="1,8,32", show_default=True, callback=_numbers, help="Rows of a call.")
@click.option("--lengths", default="16,32,64,128", show_default=True, callback=_numbers, help="Tokens of a row, special tokens included.")
@click.option("--seconds", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Time for each pair of batch and length.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--backend", default=None, help="Which of the bundle's backends. [default: its best]")
@threads_option
def command(bundle, batches, lengths, seconds, as_json, backend, threads):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Time BUNDLE by batch and length: token ids in, logits out (tokenizing is not in it; 'edgekit eval' has it)."""
    from edgekit.cli._progress import bars
    from edgekit.report.bench import bench

    with bars() as progress:
        result = bench(bundle, batches, lengths, seconds=seconds, backend=backend, threads=threads, progress=progress)
    click.echo(json.dumps(result.record(), indent=2) if as_json else result.text())
