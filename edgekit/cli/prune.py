"""``edgekit prune``."""

from __future__ import annotations

import click

from edgekit.cli._options import columns_option, given_options
from edgekit.cli._output import bars, echo, echo_text

__all__ = ["command"]


@click.command(name="prune")
@click.argument("model")
@click.option("--speedup", type=float, required=True, help="Speedup from input to answer on the target, e.g. 1.25.")
@click.option(
    "--target", default="cpu", show_default=True, help="Name of a target (see: edgekit targets), or a TOML file."
)
@click.option(
    "--samples",
    required=True,
    multiple=True,
    metavar="FILE",
    help="Samples for importance scores and training, with or without labels. Repeatable.",
)
@click.option(
    "--eval",
    "evaluation",
    required=True,
    metavar="FILE",
    help="Evaluation samples with labels: they are timed, and choose the best epoch.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FOLDER",
    help="Folder of the pruned model, a Hugging Face model; it appears whole or not at all.",
)
@click.option("--revision", default=None, help="Branch, tag or commit of a hub id.")
@columns_option
@click.option(
    "--recover/--no-recover",
    default=True,
    show_default=True,
    help="Recover accuracy by distillation from the original model.",
)
@click.option("--epochs", type=int, default=None, help="Largest number of epochs of the recovery. [default: 6]")
@click.option("--batch", type=int, default=None, help="Rows of a training step of the recovery. [default: 32]")
@click.option(
    "--learning-rate", type=float, default=None, help="Highest learning rate of the recovery. [default: 2e-4]"
)
@click.option("--seed", type=int, default=None, help="Random seed of the recovery. [default: 0]")
@click.option("--force", is_flag=True, help="Replace a model that EdgeKit wrote at --out.")
def command(model, speedup, samples, evaluation, out, recover, **options):  # type: ignore[no-untyped-def]
    """Prune attention heads and feed-forward neurons of MODEL, a local Hugging Face folder or a hub id.

    Units with the least importance for the time that they take are removed; the time is measured on the target's
    backend. The layers become smaller, so the folder can be read by EdgeKit (build, distill, trim-vocab) but not by
    Transformers.
    """
    with bars() as progress:
        progress("load", 0, 0)
        from dataclasses import replace

        from edgekit.search.pruning import prune
        from edgekit.spec.options import PruneOptions
        from edgekit.spec.training import RECOVERY

        settings = {name: options.pop(name) for name in ("epochs", "batch", "learning_rate", "seed")}
        training = replace(RECOVERY, **{name: value for name, value in settings.items() if value is not None})
        chosen = PruneOptions(training=training, recover=recover, **given_options(**options))
        result = prune(
            model, speedup=speedup, samples=samples, eval=evaluation, out=out, options=chosen, progress=progress
        )
    echo_text(result.text())
    echo(f"Wrote {out}.")
