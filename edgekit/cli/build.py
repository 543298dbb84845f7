"""``edgekit build``."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from edgekit.cli._options import columns_option, downgrade_option, metric_option, read_budget, read_students
from edgekit.cli._output import bars, echo
from edgekit.spec.errors import UsageError
from edgekit.spec.options import BuildOptions, OnnxModel

__all__ = ["command"]


def _options_of_heads(command):  # type: ignore[no-untyped-def]
    """Add the options of heads and processors, which replace what the files of the model say."""
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
    help="Calibration samples: JSONL, CSV, TSV, a calibration TOML file or a folder of images. Labels are not needed.",
)
@click.option(
    "--eval", "evaluation", metavar="FILE", help="Evaluation samples with labels; every candidate is scored on them."
)
@click.option(
    "--test",
    default=None,
    metavar="FILE",
    help="Test samples with labels; the chosen candidate is scored on them once, after the choice.",
)
@click.option("-o", "--out", metavar="FOLDER", help="Folder of the bundle; it appears whole or not at all.")
@click.option(
    "--processor",
    default=None,
    metavar="FOLDER",
    help="Hugging Face folder with the config and the tokenizer or image processor, if MODEL is an ONNX file.",
)
@click.option(
    "--task",
    default=None,
    metavar="NAME",
    help="Task of an ONNX file, as 'edgekit inspect' prints it. [default: as the config's architectures say]",
)
@click.option("--revision", default=None, help="Branch, tag or commit of a hub id.")
@columns_option
@click.option(
    "--budget",
    metavar="KEY=NUMBER",
    multiple=True,
    callback=read_budget,
    help="Limit in place of the target's: accuracy_drop, accuracy (least score), p50_ms, memory_mb, first_answer_ms, "
    "size_mb. Repeatable.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Compare the upper bound (95 %) of the accuracy drop with the budget, not only the estimate.",
)
@click.option(
    "--accept-reference", is_flag=True, help="Continue where the torch model is no better than chance on --eval."
)
@click.option(
    "--keep-float",
    multiple=True,
    metavar="LAYER",
    help="Layer that stays in float; * matches any characters. Repeatable.",
)
@click.option(
    "--use",
    type=click.Choice(["latency", "throughput"]),
    default=None,
    help="Quantity that is optimized. [default: as the target says]",
)
@click.option(
    "--max-time",
    type=click.FloatRange(min=0),
    default=None,
    metavar="SECONDS",
    help="Time after which no further variation is tried and the race is cut short. Export, quantization and scoring "
    "of the first candidates are not bounded.",
)
@click.option(
    "--race",
    default=None,
    metavar="FILE",
    help="race.json of an earlier bundle of this build, whose times are used instead of measuring.",
)
@click.option(
    "--rerace",
    is_flag=True,
    help="Measure times anew. Times in the cache are used for 7 days, unless the machine was busy.",
)
@click.option("--no-cache", is_flag=True, help="Use no build cache and write none (see: edgekit cache).")
@click.option(
    "--distill",
    multiple=True,
    callback=read_students,
    metavar="KEY=VALUE,...",
    help="Smaller model that competes: layers=3, speedup=1.5 or both (see: edgekit distill, edgekit prune). "
    "Repeatable.",
)
@click.option(
    "--distill-samples",
    multiple=True,
    metavar="FILE",
    help="Training samples of the smaller models. Repeatable. [default: all rows of --samples]",
)
@click.option(
    "--vocabulary",
    default=None,
    metavar="samples|FILE",
    help="Tokens that stay in the vocabulary: those of the samples, or of a list (see: edgekit trim-vocab).",
)
@_options_of_heads
@click.option(
    "--calibration-rows",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="Rows drawn from --samples for calibration.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed for the calibration subset.")
@click.option("--force", is_flag=True, help="Replace the bundle that is at --out.")
@click.option(
    "--name",
    default=None,
    help="Name of the bundle: later it replaces only a bundle of this name that is not newer.",
)
@click.option(
    "--bundle-version",
    "version",
    default=None,
    metavar="1.4",
    help="Version of the bundle: whole numbers joined by dots.",
)
@click.option(
    "--expires",
    default=None,
    metavar="2027-06-30",
    help="Last day on which the bundle may be installed; an installed bundle continues to work.",
)
@downgrade_option
@metric_option
@click.option("--wide", is_flag=True, help="Print all columns of the table, however wide it is.")
def command(model, wide, **options):  # type: ignore[no-untyped-def]
    """Build a bundle from MODEL, a local Hugging Face folder, a hub id, or an ONNX file with --processor.

    Exports, quantizes with the calibration samples, measures every candidate against the torch model, and writes the
    fastest one inside the budget (of those within 5 % of it, the one with the least memory). If none is inside, the
    exit code is 3 and nothing is written. MODEL needs --samples, --eval and -o.

    Without MODEL the nearest edgekit.toml names everything, for all its targets in turn; options given here win over
    the file. The table has the main columns; --wide prints all.
    """
    if model is None:
        for target, target_options in _of_project(options):
            _build(target, target_options, wide)
        return
    for name, option in (("samples", "--samples"), ("evaluation", "--eval"), ("out", "-o")):
        if options[name] is None:
            raise UsageError(
                f"Missing option '{option}'. MODEL needs it; without MODEL edgekit.toml names it.",
                code="option-missing",
            )
    nouns = {"model": _model_of(model, options), "eval": options.pop("evaluation")}
    nouns |= {name: options.pop(name) for name in ("samples", "out", "target")}
    _build("", {**nouns, "options": BuildOptions(**_with_model_options(options))}, wide)


def _build(target: str, options: dict[str, Any], wide: bool) -> None:
    if target:
        echo(f"target {target}:")
    with bars() as progress:
        progress("load", 0, 0)
        from edgekit import build

        result = build(progress=progress, **options)
    echo(result.text(wide=wide))


def _model_of(model: str, options: dict[str, Any]) -> Any:
    """Return the model of a build, and take ``--processor`` and ``--task`` out of the options.

    Raises:
        UsageError: If these options are given for a model that is no ONNX file.
    """
    processor = options.pop("processor", None)
    task = options.pop("task", None)
    if model.lower().endswith(".onnx"):
        return OnnxModel(file=model, processor=processor, task=task)
    if processor is not None or task is not None:
        option = "--processor" if processor is not None else "--task"
        raise UsageError(
            f"{option} goes with an ONNX file, and {model} is a folder or a hub id, which brings its own. "
            "Leave it out.",
            code="module-options",
        )
    return model


def _with_model_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return fields of :class:`BuildOptions`, with the options of heads, which only heads know, together."""
    known = {field.name for field in fields(BuildOptions)}
    of_heads = {name: value for name, value in options.items() if name not in known and value is not None}
    chosen = {name: value for name, value in options.items() if name in known and value is not None}
    return {**chosen, "model_options": of_heads} if of_heads else chosen


def _of_project(cli_options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the builds of the nearest ``edgekit.toml``, each as the name of its target and its options.

    The name is empty where there is one target.

    Raises:
        UsageError: If there is no such file or it lacks a key, or an output folder exists; before any build begins.
    """
    from edgekit.bundle.assemble import check_output
    from edgekit.spec import project as projects

    file = projects.nearest(
        Path.cwd(), "Write one (edgekit init), or name all here: edgekit build MODEL --samples FILE --eval FILE -o OUT."
    )
    source = click.get_current_context().get_parameter_source
    chosen = {
        name: value for name, value in cli_options.items() if source(name) is not click.core.ParameterSource.DEFAULT
    }
    file = replace(
        file,
        samples=chosen.pop("samples", file.samples),
        eval=chosen.pop("evaluation", file.eval),
        out=chosen.pop("out", file.out),
    )
    file.need("edgekit build", "model", "samples", "eval", "out")
    places = projects.places(file, only=chosen.pop("target", None))
    of_file = projects.build_options(file)
    model = _model_of(file.model, chosen)
    chosen = _with_model_options(chosen)
    chosen["budget"] = {**of_file.budget, **chosen.get("budget", {})}
    chosen["model_options"] = {**of_file.model_options, **chosen.get("model_options", {})}
    options = replace(of_file, **chosen)
    for place in places:
        check_output(Path(place.bundle), options.force)
    nouns = {"model": model, "samples": file.samples, "eval": file.eval, "options": options}
    builds = []
    for place in places:
        name = place.name if len(places) > 1 else ""
        builds.append((name, {**nouns, "target": place.target, "out": place.bundle}))
    return builds
