"""What a build does for backends that run engines: what can be verified of them here, and engines that can be made here.

An engine of TensorRT is bound to its device, so a build on another machine ends with graphs, profiles and a recipe. What can be
known of them without the device is checked here; what cannot is said.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import backends, quantize
from edgekit.machine.cpu import cpu_name
from edgekit.quantize import tensorrt_rules
from edgekit.search import stand_in
from edgekit.search.checks import LOW_FLOATS, STAND_IN
from edgekit.search.choose import Choice
from edgekit.search.context import BuildContext
from edgekit.spec.distribution import install_hint
from edgekit.spec.engine import EngineRecipe, trtexec
from edgekit.spec.manifest import Variant
from edgekit.spec.tensor import Signature, merge_signatures

__all__ = ["LINES", "Verified", "verify_engines"]

LINES = "trtexec.txt"


@dataclass
class Verified:
    """What is known of the engines of a bundle.

    Attributes:
        variants: those of the bundle, with the engines that were made here.
        files: what goes into the bundle beside the graphs.
        done: what was checked, a sentence each.
        open: what could not be checked here, a sentence each.
    """

    variants: tuple[Variant, ...]
    files: dict[str, Path | bytes] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


def verify_engines(ctx: BuildContext, choice: Choice) -> Verified:
    """Checks what a device will make engines of, and makes those that can be made here.

    Args:
        ctx: the build.
        choice: variants and files of the bundle.

    Raises:
        QuantizeError: when a graph breaks a rule of a TensorRT that it is for.
        BackendError: when NVIDIA's own parser or builder refuses one.
    """
    verified = Verified(choice.variants)
    asked = [v for v in choice.variants if v.engine is not None]
    if not asked:
        return verified
    signatures, task = choice.winner.bundle.manifest.signatures, ctx.evaluation.task
    whole = merge_signatures(signatures)
    longest = stand_in.longest(ctx.target, whole, task.max_size)
    ahead = all(backends.get(v.backend).ENGINES == "host" for v in asked)
    here = backends.installed_version("tensorrt_rtx")
    releases = _make_engines(ctx, choice, verified, ahead and here is not None)
    recipe = asked[0].engine
    assert recipe is not None
    methods = " and ".join(v.method for v in asked)
    verified.done.append(
        f"Rules of TensorRT {', '.join(releases)}: operators, types, Q/DQ and strong typing of {methods} keep them all."
    )
    verified.done += [_accuracy(variant, len(ctx.evaluation), longest) for variant in asked]
    if here is not None:
        chips = f", for compute capability {', '.join(recipe.compute_capability)}" if ahead else ""
        verified.done.append(
            f"NVIDIA's parser and builder: TensorRT-RTX {here} made an engine of each graph{chips}, without a GPU."
        )
    else:
        verified.open.append(
            "NVIDIA's parser and builder did not see the graphs: TensorRT-RTX is not installed here. "
            f"Run: {install_hint('tensorrt-rtx')}"
        )
    if ahead and here is not None:
        signing = "Run: edgekit keygen KEY; edgekit sign OUT --key KEY"
        verified.open.append(
            f"Who made it: engines are native code and are loaded only from a signed bundle. {signing}"
        )
    else:
        verified.open.append(
            "The engine: made on the device, by 'edgekit compile' or the first load; golden inputs check there what it computes."
        )
    verified.open.append(
        "Latency, start and memory on the device, and which of the variants is faster there: it times them itself."
    )
    verified.open += _left_out_rows(recipe, whole, longest, task.max_size)
    # TensorRT-RTX has a tool of its own, with other options.
    if by_trtexec := [v for v in asked if backends.get(v.backend).ENGINES == "device"]:
        verified.files[LINES] = _lines(by_trtexec, recipe, signatures).encode()
    return verified


def _make_engines(ctx: BuildContext, choice: Choice, verified: Verified, ship: bool) -> Sequence[str]:
    """Holds each graph to the rules of TensorRT, and has TensorRT-RTX make its engine where that is installed.

    Args:
        ctx: the build.
        choice: variants and files of the bundle.
        verified: gets the engines.
        ship: whether engines go into the bundle; else they are made to see that they can be.

    Returns:
        Releases of TensorRT whose rules were looked at.
    """
    from edgekit.backends import tensorrt_rtx  # a build without engines needs nothing of TensorRT

    variants: list[Variant] = []
    releases: Sequence[str] = ()
    for variant in choice.variants:
        recipe = variant.engine
        if recipe is None:
            variants.append(variant)
            continue
        engines: dict[str, str] = {}
        folder = Path(tempfile.mkdtemp(prefix="verify-", dir=ctx.cache.scratch))
        for signature in choice.winner.bundle.manifest.signatures:
            graph = _laid_out(variant, variant.graphs[signature.name], choice.files, folder)
            releases = tensorrt_rules.check(graph, recipe.minimum)
            if backends.installed_version("tensorrt_rtx") is None:
                continue
            plan = tensorrt_rtx.compile_ahead(
                graph, signature, recipe if ship else replace(recipe, compute_capability=()), ctx.cache.progress
            )
            if ship:
                engines[signature.name] = f"engines/{variant.method}-{signature.name}.plan"
                verified.files[engines[signature.name]] = plan
        variants.append(replace(variant, engines=engines))
    verified.variants = tuple(variants)
    return releases


def _left_out_rows(recipe: EngineRecipe, signature: Signature, longest: int, most: int) -> list[str]:
    """Which rows the device refuses, or takes though none as long was scored."""
    ends = [profile[axis][2] for profile in recipe.profiles for axis in signature.varying[:1] if axis in profile]
    largest = max(ends, default=most)
    sentences = []
    if largest < most:
        sentences.append(
            f"Rows beyond {largest} tokens: the model takes {most}, the target's profiles end before. They are refused."
        )
    if longest < min(largest, most):
        sentences.append(
            f"Overflow in rows beyond {longest} tokens: no longer row was scored here, the device takes {min(largest, most)}."
        )
    return sentences


def _accuracy(variant: Variant, rows: int, longest: int) -> str:
    """What a graph was scored by, and in which arithmetic."""
    low = [name for name in LOW_FLOATS if name in quantize.get(variant.method).PRECISIONS]
    arithmetic = (
        f"in {low[0]} arithmetic as IEEE 754 has it (each operator's result rounded, overflow infinite, sums inside an operator in float32)"
        if low
        else "in the types of the graph"
    )
    finite = (
        f"rows of up to {longest} tokens, generated or joined from samples," if longest > 1 else "generated rows"
    )  # 1: rows of one shape have no length
    return (
        f"Accuracy: {variant.method} was scored on {rows} rows by {STAND_IN} on this machine ({cpu_name()}), from the graphs that the device gets, "
        f"{arithmetic}; {finite} gave finite answers."
    )


def _laid_out(variant: Variant, name: str, files: Mapping[str, Path], folder: Path) -> Path:
    """The graph in a folder as it will be in the bundle: external data is found by its place beside the graph."""
    for place, file in files.items():
        if place == name or place.startswith("graphs/weights/"):
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(file, target)  # ONNX reads no weights through links
    return folder / name


def _lines(variants: list[Variant], recipe: EngineRecipe, signatures: tuple[Signature, ...]) -> str:
    head = "# NVIDIA's own tool on the device, in the folder of this file: engines like those that 'edgekit compile' makes, one for each profile.\n"
    lines = [
        line
        for variant in variants
        for signature in signatures
        for line in trtexec(recipe, signature, variant.graphs[signature.name], variant.plan(signature.name))
    ]
    return head + "\n".join(lines) + "\n"
