"""``edgekit distill``."""

from __future__ import annotations

import os

import click

from edgekit.cli._options import columns_option, given_options, numbers
from edgekit.cli._output import bars, echo, echo_text

__all__ = ["command"]


@click.command(name="distill")
@click.argument("teacher")
@click.option(
    "--layers", type=int, default=None, help="Number of layers of the student, taken evenly from the teacher's."
)
@click.option(
    "--keep",
    default=None,
    callback=numbers(0, "layers, e.g. 0,2,5"),
    metavar="I,J,...",
    help="Layers of the teacher to keep, counted from 0, in place of --layers.",
)
@click.option(
    "--student",
    default=None,
    metavar="MODEL",
    help="Student of your own in place of both: a folder or hub id with the teacher's labels.",
)
@click.option(
    "--samples",
    required=True,
    multiple=True,
    metavar="FILE",
    help="Training samples, with or without labels. Repeatable.",
)
@click.option(
    "--eval",
    "evaluation",
    required=True,
    metavar="FILE",
    help="Evaluation samples with labels, by which the best epoch is chosen.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FOLDER",
    help="Folder of the student, a Hugging Face model; it appears whole or not at all.",
)
@click.option("--revision", default=None, help="Branch, tag or commit of the teacher's hub id.")
@columns_option
@click.option("--epochs", type=int, default=None, help="Largest number of epochs. [default: 16]")
@click.option(
    "--patience", type=int, default=None, help="Epochs without a better score after which training stops. [default: 8]"
)
@click.option("--batch", type=int, default=None, help="Rows of a training step, over all processes. [default: 32]")
@click.option("--learning-rate", type=float, default=None, help="Highest learning rate. [default: 2e-4]")
@click.option("--temperature", type=float, default=None, help="Divisor of the outputs before the softmax. [default: 2]")
@click.option(
    "--teacher-weight", type=float, default=None, help="Weight of the teacher's answers in the loss. [default: 0.7]"
)
@click.option(
    "--label-weight",
    type=float,
    default=None,
    help="Weight of the labels in the loss, where there are any. [default: 0.3]",
)
@click.option(
    "--relation-weight",
    type=float,
    default=None,
    help="Weight of the relations between tokens after the last layer. [default: 1]",
)
@click.option(
    "--copies",
    type=int,
    default=None,
    help="Number of augmented versions of each text: cut short, with words masked and swapped. [default: 6]",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default=None,
    help="Precision of matrix products. [default: auto]",
)
@click.option(
    "--seed", type=int, default=None, help="Random seed for the order of rows, dropout and masking. [default: 0]"
)
@click.option("--force", is_flag=True, help="Replace the student that is at --out.")
def command(teacher, samples, evaluation, out, **options):  # type: ignore[no-untyped-def]
    """Train a smaller model from TEACHER, a local Hugging Face folder or a hub id.

    The student learns the teacher's answers, the labels, and the teacher's relations between tokens, and is written as
    an ordinary Hugging Face folder. A run that was killed continues from its last epoch when it is started again.

    On several GPUs or hosts: accelerate launch -m edgekit.compress.distill TEACHER ... (several processes on CPUs:
    torchrun -m ..., with ACCELERATE_USE_CPU=true).
    """
    with bars() as progress:
        progress("load", 0, 0)
        from edgekit.compress.distill import distill
        from edgekit.spec.options import DistillOptions
        from edgekit.spec.training import Loss, Training

        parts = {
            "temperature": options.pop("temperature"),
            "teacher": options.pop("teacher_weight"),
            "labels": options.pop("label_weight"),
            "relation": options.pop("relation_weight"),
        }
        loss = Loss(**{k: v for k, v in parts.items() if v is not None})
        names = ("epochs", "patience", "batch", "learning_rate", "copies", "precision", "seed")
        settings = {name: options.pop(name) for name in names}
        training = Training(loss=loss, **{k: v for k, v in settings.items() if v is not None})
        chosen = DistillOptions(training=training, **given_options(**options))
        result = distill(teacher, samples=samples, eval=evaluation, out=out, options=chosen, progress=progress)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes: the first one prints
    echo_text(result.text())
    echo(f"Wrote {out}; {'trained before, in' if result.reused else 'trained in'} {result.seconds:.0f} s.")
