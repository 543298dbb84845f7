"""``edgekit prune``."""

from __future__ import annotations

import click

from edgekit.cli._options import columns_option, given
from edgekit.cli._output import bars, echo

__all__ = ["command"]


@click.command(name="prune")
@click.argument("model")
@click.option(
    "--speedup", type=float, required=True, help="How many times as fast, e.g. 1.25: input to answer on the target."
)
@click.option(
    "--target", default="cpu", show_default=True, help="Name of a target (see: edgekit targets), or a TOML file."
)
@click.option(
    "--samples",
    required=True,
    multiple=True,
    metavar="FILE",
    help="What is looked at and trained on; rows without a label too. Repeatable.",
)
@click.option(
    "--eval",
    "evaluation",
    required=True,
    metavar="FILE",
    help="Rows with labels: texts that are timed, and by which the best epoch is chosen.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FOLDER",
    help="The pruned model, a Hugging Face folder; appears whole or not at all.",
)
@click.option("--revision", default=None, help="Branch, tag or commit of a hub id.")
@columns_option
@click.option(
    "--recover/--no-recover",
    default=True,
    show_default=True,
    help="Win accuracy back by distillation from the model as it was.",
)
@click.option("--epochs", type=int, default=None, help="Of the recovery, at most. [default: 6]")
@click.option("--batch", type=int, default=None, help="Rows of a step of the recovery. [default: 32]")
@click.option("--learning-rate", type=float, default=None, help="Of the recovery. [default: 2e-4]")
@click.option("--seed", type=int, default=None, help="Of the recovery. [default: 0]")
@click.option("--force", is_flag=True, help="Replace a model that EdgeKit wrote at --out.")
def command(model, speedup, samples, evaluation, out, recover, **options):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN201
    """Cut attention heads and feed-forward neurons out of MODEL, a local Hugging Face folder or a hub id.

    What goes is what matters least for the time that it takes, which is measured on the target's backend. The layers are
    really smaller, so the folder is read by EdgeKit (build, distill, trim-vocab), and not by Transformers.
    """
    with bars() as progress:
        progress("load", 0, 0)
        from dataclasses import replace

        from edgekit.search.pruning import prune
        from edgekit.spec.options import PruneOptions
        from edgekit.spec.training import RECOVERY

        settings = {name: options.pop(name) for name in ("epochs", "batch", "learning_rate", "seed")}
        training = replace(RECOVERY, **{name: value for name, value in settings.items() if value is not None})
        chosen = PruneOptions(training=training, recover=recover, **given(**options))
        result = prune(
            model, speedup=speedup, samples=samples, eval=evaluation, out=out, options=chosen, progress=progress
        )
    echo(result.text())
    echo(f"Wrote {out}.")
