"""Checks of a build for backends that run engines, and the engines that can be built ahead of time.

A TensorRT engine is bound to its device, so a build on another machine ends with graphs, profiles and a recipe. The
build checks all that can be known without the device, and lists the rest as not verified.
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
from edgekit.search.checks import STAND_IN
from edgekit.search.choose import Choice
from edgekit.search.context import BuildContext
from edgekit.search.outputs import LOW_FLOATS
from edgekit.spec.distribution import install_hint
from edgekit.spec.engine import EngineRecipe, trtexec
from edgekit.spec.manifest import Variant
from edgekit.spec.tensor import Signature, merge_signatures

__all__ = ["LINES", "Verified", "verify_engines"]

LINES = "trtexec.txt"
"""File in a bundle with command lines of NVIDIA's own tool."""


@dataclass
class Verified:
    """Result of the checks of a bundle's engines.

    Attributes:
        variants: Variants of the bundle, with the engines that were built here.
        files: Files to add to the bundle: path in the bundle to content.
        done: Completed checks, one sentence each.
        open: Facts that could not be checked here, one sentence each.
    """

    variants: tuple[Variant, ...]
    files: dict[str, Path | bytes] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


def verify_engines(ctx: BuildContext, choice: Choice) -> Verified:
    """Check the graphs that a device builds engines from, and build the engines that can be built here.

    Args:
        ctx: Build.
        choice: Variants and files of the bundle.

    Raises:
        QuantizeError: If a graph breaks a rule of a supported TensorRT.
        BackendError: If NVIDIA's parser or builder refuses a graph.
    """
    verified = Verified(choice.variants)
    variants = [v for v in choice.variants if v.engine is not None]
    if not variants:
        return verified
    signatures = choice.winner.bundle.manifest.signatures
    merged = merge_signatures(signatures)
    max_size = ctx.evaluation.task.max_size
    longest = stand_in.longest(ctx.target, merged, max_size)
    is_ahead = all(backends.get(v.backend).ENGINES == "host" for v in variants)
    rtx_version = backends.installed_version("tensorrt_rtx")
    releases = _build_engines(ctx, choice, verified, is_ahead and rtx_version is not None)
    recipe = variants[0].engine
    assert recipe is not None
    methods = " and ".join(v.method for v in variants)
    verified.done.append(
        f"Rules of TensorRT {', '.join(releases)}: the operators, types, Q/DQ and strong typing of {methods} meet all "
        "of them."
    )
    verified.done += [_describe_accuracy(variant, len(ctx.evaluation), longest) for variant in variants]
    if rtx_version is not None:
        chips = f" for compute capability {', '.join(recipe.compute_capability)}" if is_ahead else ""
        verified.done.append(
            f"NVIDIA's parser and builder: TensorRT-RTX {rtx_version} built an engine of each graph{chips}, "
            "without a GPU."
        )
    else:
        verified.open.append(
            "NVIDIA's parser and builder did not check the graphs: TensorRT-RTX is not installed here. "
            f"Run: {install_hint('tensorrt-rtx')}"
        )
    if is_ahead and rtx_version is not None:
        verified.open.append(
            "Origin of the engines: they are native code and are loaded only from a signed bundle. "
            "Run: edgekit keygen KEY; edgekit sign OUT --key KEY"
        )
    else:
        verified.open.append(
            "The engine: built on the device by 'edgekit compile' or at the first load, and checked there with the "
            "golden inputs."
        )
    verified.open.append(
        "Latency, startup time and memory on the device, and which variant is faster there: the device times them."
    )
    verified.open += _list_size_gaps(recipe, merged, longest, max_size)
    # TensorRT-RTX has another tool, with other options.
    trtexec_variants = [v for v in variants if backends.get(v.backend).ENGINES == "device"]
    if trtexec_variants:
        verified.files[LINES] = _format_trtexec(trtexec_variants, recipe, signatures).encode()
    return verified


def _build_engines(ctx: BuildContext, choice: Choice, verified: Verified, ship: bool) -> Sequence[str]:
    """Check each graph against the rules of TensorRT, and build its engine if TensorRT-RTX is installed.

    Args:
        ctx: Build.
        choice: Variants and files of the bundle.
        verified: Result, to which variants and engines are added.
        ship: Whether engines are added to the bundle; if not, they are built as a check only.

    Returns:
        Releases of TensorRT whose rules were checked.
    """
    # A build without engines does not import TensorRT.
    from edgekit.backends import tensorrt_rtx

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
            graph = _copy_graph(variant.graphs[signature.name], choice.files, folder)
            releases = tensorrt_rules.check(graph, recipe.minimum)
            if backends.installed_version("tensorrt_rtx") is None:
                continue
            engine_recipe = recipe if ship else replace(recipe, compute_capability=())
            plan = tensorrt_rtx.compile_ahead(graph, signature, engine_recipe, ctx.cache.progress)
            if ship:
                engines[signature.name] = f"engines/{variant.method}-{signature.name}.plan"
                verified.files[engines[signature.name]] = plan
        variants.append(replace(variant, engines=engines))
    verified.variants = tuple(variants)
    return releases


def _list_size_gaps(recipe: EngineRecipe, signature: Signature, longest: int, max_size: int) -> list[str]:
    """Return which row sizes the device refuses, or accepts although no row of that size was scored.

    Args:
        recipe: Recipe with the profiles of the engines.
        signature: Merged signature of the graphs.
        longest: Size of the longest scored row.
        max_size: Size of the longest row that the model accepts.
    """
    ends = [profile[axis][2] for profile in recipe.profiles for axis in signature.varying[:1] if axis in profile]
    largest = max(ends, default=max_size)
    sentences = []
    if largest < max_size:
        sentences.append(
            f"Rows beyond {largest} tokens: the target's profiles end there, so the device refuses longer rows. "
            f"The model takes up to {max_size}."
        )
    if longest < min(largest, max_size):
        sentences.append(
            f"Overflow in rows beyond {longest} tokens: no longer row was scored here, and the device takes up to "
            f"{min(largest, max_size)}."
        )
    return sentences


def _describe_accuracy(variant: Variant, row_count: int, longest: int) -> str:
    """Return how a graph was scored, and in which arithmetic."""
    low_floats = [name for name in LOW_FLOATS if name in quantize.get(variant.method).PRECISIONS]
    arithmetic = "the types of the graph"
    if low_floats:
        arithmetic = (
            f"{low_floats[0]} arithmetic as IEEE 754 has it (the result of each operator is rounded, overflow is "
            "infinite, and sums inside an operator are in float32)"
        )
    # Rows of one shape have no length; their size is 1.
    rows = "generated rows"
    if longest > 1:
        rows = f"rows of up to {longest} tokens, generated or joined from samples,"
    return (
        f"Accuracy: {variant.method} was scored on {row_count} rows by {STAND_IN} on this machine ({cpu_name()}) from "
        f"the graphs of the bundle, in {arithmetic}; {rows} gave finite answers."
    )


def _copy_graph(name: str, files: Mapping[str, Path], folder: Path) -> Path:
    """Copy a graph and its weights to a folder with the layout of the bundle, in which external data is found.

    Args:
        name: Path of the graph in the bundle.
        files: Files of the bundle: path in the bundle to source file.
        folder: Destination.

    Returns:
        Path of the copy.
    """
    for place, file in files.items():
        if place == name or place.startswith("graphs/weights/"):
            copy = folder / place
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                # ONNX does not read external data through links.
                shutil.copyfile(file, copy)
    return folder / name


def _format_trtexec(variants: list[Variant], recipe: EngineRecipe, signatures: tuple[Signature, ...]) -> str:
    """Return the text of ``trtexec.txt``: a comment, and one command per profile."""
    lines = ["# NVIDIA's trtexec, run here on the device, builds the engines of 'edgekit compile', one per profile."]
    for variant in variants:
        for signature in signatures:
            graph = variant.graphs[signature.name]
            lines += trtexec(recipe, signature, graph, variant.plan(signature.name))
    return "\n".join(lines) + "\n"
