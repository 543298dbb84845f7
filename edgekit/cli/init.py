"""``edgekit init``."""

from __future__ import annotations

import click

from edgekit.cli._options import columns_option
from edgekit.cli._output import echo_text

__all__ = ["command"]


@click.command(name="init")
@click.argument("folder", default=".", required=False)
@click.option("--model", default=None, help="Hugging Face folder or hub id. [default: a folder here with config.json]")
@click.option(
    "--samples", default=None, metavar="FILE", help="Calibration samples. [default: a file such as data/train.jsonl]"
)
@click.option(
    "--eval",
    "evaluation",
    default=None,
    metavar="FILE",
    help="Evaluation samples with labels. [default: a file such as data/dev.jsonl]",
)
@click.option("--target", multiple=True, help="Target, see: edgekit targets. Repeatable. [default: cpu]")
@columns_option
def command(folder, model, samples, evaluation, target, columns):  # type: ignore[no-untyped-def]
    """Write edgekit.toml, gates.toml and a GitHub workflow into FOLDER (default: here), over no existing file."""
    from edgekit.spec.starter import start

    started = start(folder, model=model, samples=samples, eval=evaluation, target=target, columns=columns)
    echo_text(started.text())
