"""``edgekit build``."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from edgekit.cli._options import columns_option, downgrade_option, metric_option, read_budget, read_students
from edgekit.cli._output import bars, echo
from edgekit.spec.errors import UsageError
from edgekit.spec.options import BuildOptions

__all__ = ["command"]


def _options_of_heads(command):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Adds what may be said of a model folder in place of its files; heads and processors know what that is."""
    from edgekit.source import options

    for name, words in options().items():
        command = click.option(
            f"--{name.replace('_', '-')}", default=None, help=f"{words} [default: as the model's files say]"
        )(command)
    return command


@click.command(name="build")
@click.argument("model", required=False)
@click.option(
    "--target", default="cpu", show_default=True, help="Name of a target (see: edgekit targets), or a TOML file."
)
@click.option(
    "--samples",
    metavar="FILE",
    help="Calibration samples: JSONL, CSV, TSV, a calibration TOML, or a folder of images. Labels are not needed.",
)
@click.option(
    "--eval", "evaluation", metavar="FILE", help="Evaluation samples with labels: every candidate is scored on them."
)
@click.option(
    "--test",
    default=None,
    metavar="FILE",
    help="Test samples with labels: the chosen candidate is scored on them once, when the choice is made.",
)
@click.option("-o", "--out", metavar="FOLDER", help="The bundle; appears whole or not at all.")
@click.option("--revision", default=None, help="Branch, tag or commit of a hub id.")
@columns_option
@click.option(
    "--budget",
    metavar="KEY=NUMBER",
    multiple=True,
    callback=read_budget,
    help="Replaces a limit of the target: accuracy_drop, accuracy (the least score), p50_ms, memory_mb, first_answer_ms, size_mb. Repeatable.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Hold the upper bound of the accuracy drop (95 %) against the budget, not only the drop that was seen.",
)
@click.option(
    "--accept-reference", is_flag=True, help="Go on where the torch model is no better than chance on --eval."
)
@click.option(
    "--keep-float",
    multiple=True,
    metavar="LAYER",
    help="A layer that stays in float; * stands for any characters. Repeatable.",
)
@click.option(
    "--use",
    type=click.Choice(["latency", "throughput"]),
    default=None,
    help="What counts. [default: as the target says]",
)
@click.option(
    "--max-time",
    type=click.FloatRange(min=0),
    default=None,
    metavar="SECONDS",
    help="Then no further variation is tried and the race is cut short.",
)
@click.option(
    "--race",
    default=None,
    metavar="FILE",
    help="race.json of an earlier bundle of this build: take its times instead of measuring.",
)
@click.option(
    "--rerace",
    is_flag=True,
    help="Measure times anew. Those in the cache are used up to 7 days, unless they are of a busy machine.",
)
@click.option(
    "--no-cache", is_flag=True, help="Take nothing from the build cache and leave nothing in it (see: edgekit cache)."
)
@click.option(
    "--distill",
    multiple=True,
    callback=read_students,
    metavar="KEY=VALUE,...",
    help="A smaller model that competes: layers=3, speedup=1.5, or both (see: edgekit distill, edgekit prune). Repeatable.",
)
@click.option(
    "--distill-samples",
    multiple=True,
    metavar="FILE",
    help="What students are trained on. Repeatable. [default: all rows of --samples]",
)
@click.option(
    "--vocabulary",
    default=None,
    metavar="samples|FILE",
    help="Leave only the tokens of the samples, or those of a list (edgekit trim-vocab), in the model.",
)
@_options_of_heads
@click.option(
    "--calibration-rows", type=click.IntRange(min=1), default=300, show_default=True, help="Rows chosen from --samples."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of that choice.")
@click.option("--force", is_flag=True, help="Replace the bundle that is at --out.")
@click.option(
    "--name",
    default=None,
    help="The bundle's name: only a bundle of this name, and no newer one, is replaced by it later.",
)
@click.option(
    "--bundle-version", "version", default=None, metavar="1.4", help="Its version: whole numbers between dots."
)
@click.option(
    "--expires",
    default=None,
    metavar="2027-06-30",
    help="Last day on which it may be installed; a bundle that is in place goes on.",
)
@downgrade_option
@metric_option
def command(model, **said):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN201
    """Make a bundle of MODEL, a local Hugging Face folder or a hub id.

    Exports, quantizes with the calibration samples, measures every candidate against the torch model, and writes the
    fastest one inside the budget (of those within 5 % of it, the one with the least memory). Exit 3, with nothing
    written, when none is. MODEL needs --samples, --eval and -o.

    Without MODEL everything is as the nearest edgekit.toml says, for all its targets in turn; what is given here wins over the
    file.
    """
    if model is None:
        for target, options in _of_project(said):
            _build(target, options)
        return
    for name, option in (("samples", "--samples"), ("evaluation", "--eval"), ("out", "-o")):
        if said[name] is None:
            raise UsageError(
                f"Missing option '{option}'. MODEL needs it; only without MODEL does edgekit.toml say it.",
                code="option-missing",
            )
    nouns = {"model": model, "eval": said.pop("evaluation")}
    nouns |= {name: said.pop(name) for name in ("samples", "out", "target")}
    _build("", {**nouns, "options": BuildOptions(**_with_model_options(said))})


def _build(target: str, options: dict[str, Any]) -> None:
    if target:
        echo(f"target {target}:")
    with bars() as progress:
        progress("load", 0, 0)
        from edgekit import build

        result = build(progress=progress, **options)
    echo(result.text())


def _with_model_options(said: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`BuildOptions`: the options of heads, which only heads know, together."""
    known = {field.name for field in fields(BuildOptions)}
    of_heads = {name: value for name, value in said.items() if name not in known and value is not None}
    chosen = {name: value for name, value in said.items() if name in known and value is not None}
    return {**chosen, "model_options": of_heads} if of_heads else chosen


def _of_project(said: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The builds of the nearest ``edgekit.toml``: the name of each target where there are several, and what the build is told.

    Raises:
        UsageError: where there is no such file, or it lacks something; or an output folder exists, before any of them is built.
    """
    from edgekit.bundle.assemble import check_output
    from edgekit.spec import project as projects

    file = projects.nearest(
        Path.cwd(), "Write one, or say it here: edgekit build MODEL --samples FILE --eval FILE -o OUT."
    )
    source = click.get_current_context().get_parameter_source
    chosen = {name: value for name, value in said.items() if source(name) is not click.core.ParameterSource.DEFAULT}
    file = replace(
        file,
        samples=chosen.pop("samples", file.samples),
        eval=chosen.pop("evaluation", file.eval),
        out=chosen.pop("out", file.out),
    )
    file.need("edgekit build", "model", "samples", "eval", "out")
    places = projects.places(file, only=chosen.pop("target", None))
    of_file = projects.build_options(file)
    chosen = _with_model_options(chosen)
    chosen["budget"] = {**of_file.budget, **chosen.get("budget", {})}
    chosen["model_options"] = {**of_file.model_options, **chosen.get("model_options", {})}
    options = replace(of_file, **chosen)
    for place in places:
        check_output(Path(place.bundle), options.force)
    nouns = {"model": file.model, "samples": file.samples, "eval": file.eval, "options": options}
    return [(p.name if len(places) > 1 else "", {**nouns, "target": p.target, "out": p.bundle}) for p in places]
