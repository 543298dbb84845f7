"""What a build does for backends that run engines: what can be verified of them here, and engines that can be made here.

An engine of TensorRT is bound to its device, so a build on another machine ends with graphs, profiles and a recipe. What can be
known of them without the device is checked here; what cannot is said.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import backends, quantize
from edgekit.backends import tensorrt_rtx
from edgekit.machine.cpu import cpu_name
from edgekit.quantize import _tensorrt
from edgekit.search.checks import LOW_FLOATS, STAND_IN
from edgekit.spec.engine import EngineRecipe, trtexec
from edgekit.spec.manifest import Variant
from edgekit.spec.progress import Progress
from edgekit.spec.tensor import Signature

LINES = "trtexec.txt"


@dataclass(frozen=True)
class Scored:
    """What the graphs of a build were scored on.

    Attributes:
        rows: evaluation rows.
        longest: tokens of the longest row.
        most: tokens that the model takes.
    """

    rows: int
    longest: int
    most: int


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


def verify(
    variants: tuple[Variant, ...], files: Mapping[str, Path], signatures: tuple[Signature, ...], scored: Scored, scratch: Path, progress: Progress
) -> Verified:
    """Checks what a device will make engines of, and makes those that can be made here.

    Args:
        variants: of the bundle.
        files: place in the bundle to file; graphs and their weights are found by it.
        signatures: entry points of the graphs.
        scored: what the graphs were scored on.
        scratch: a folder that goes when the build ends.
        progress: told how far each step is.

    Raises:
        QuantizeError: when a graph breaks a rule of a TensorRT that it is for.
        BackendError: when NVIDIA's own parser or builder refuses one.
    """
    found = Verified(variants)
    asked = [v for v in variants if v.engine is not None]
    if not asked:
        return found
    ahead = all(backends.get(v.backend).ENGINES == "host" for v in asked)
    here = backends.installed_version("tensorrt_rtx")
    made: list[Variant] = []
    for index, variant in enumerate(variants):
        recipe = variant.engine
        if recipe is None:
            made.append(variant)
            continue
        engines: dict[str, str] = {}
        for signature in signatures:
            graph = _laid_out(variant, variant.graphs[signature.name], files, scratch / f"verify-{index}")
            releases = _tensorrt.check(graph, recipe.minimum)
            if here is not None:
                plan = tensorrt_rtx.compile_ahead(graph, signature, recipe if ahead else replace(recipe, compute_capability=()), progress)
                if ahead:
                    engines[signature.name] = f"engines/{variant.method}-{signature.name}.plan"
                    found.files[engines[signature.name]] = plan
        made.append(replace(variant, engines=engines))
    found.variants = tuple(made)
    recipe = asked[0].engine
    assert recipe is not None
    methods = " and ".join(v.method for v in asked)
    found.done.append(f"Rules of TensorRT {', '.join(releases)}: operators, types, Q/DQ and strong typing of {methods} keep them all.")
    found.done += [_accuracy(variant, scored) for variant in asked]
    if here is not None:
        chips = f", for compute capability {', '.join(recipe.compute_capability)}" if ahead else ""
        found.done.append(f"NVIDIA's parser and builder: TensorRT-RTX {here} made an engine of each graph{chips}, without a GPU.")
    else:
        found.open.append("NVIDIA's parser and builder did not see the graphs: TensorRT-RTX is not installed here. Run: pip install 'edgekit[tensorrt-rtx]'")
    if ahead and here is not None:
        found.open.append("Who made it: engines are native code and are loaded only from a signed bundle. Run: edgekit keygen KEY; edgekit sign OUT --key KEY")
    else:
        found.open.append("The engine: made on the device, by 'edgekit compile' or the first load; golden inputs check there what it computes.")
    found.open.append("Latency, start and memory on the device, and which of the variants is faster there: it times them itself.")
    largest = max((profile["sequence"][2] for profile in recipe.profiles if "sequence" in profile), default=scored.most)
    if largest < scored.most:
        found.open.append(f"Rows beyond {largest} tokens: the model takes {scored.most}, the target's profiles end before. They are refused.")
    if scored.longest < min(largest, scored.most):
        found.open.append(f"Overflow in rows beyond {scored.longest} tokens: no longer row was scored here, the device takes {min(largest, scored.most)}.")
    # TensorRT-RTX has a tool of its own, with other options.
    if by_trtexec := [v for v in asked if backends.get(v.backend).ENGINES == "device"]:
        found.files[LINES] = _lines(by_trtexec, recipe, signatures).encode()
    return found


def _accuracy(variant: Variant, scored: Scored) -> str:
    """What a graph was scored by, and in which arithmetic."""
    low = [name for name in LOW_FLOATS if name in quantize.get(variant.method).PRECISIONS]
    arithmetic = (
        f"in {low[0]} arithmetic as IEEE 754 has it (each operator's result rounded, overflow infinite, sums inside an operator in float32)"
        if low
        else "in the types of the graph"
    )
    return (
        f"Accuracy: {variant.method} was scored on {scored.rows} rows by {STAND_IN} on this machine ({cpu_name()}), from the graphs that the device gets, "
        f"{arithmetic}; rows of up to {scored.longest} tokens, generated or joined from samples, gave finite answers."
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
        for line in trtexec(recipe, signature, variant.graphs[signature.name], f"{variant.method}.plan")
    ]
    return head + "\n".join(lines) + "\n"
