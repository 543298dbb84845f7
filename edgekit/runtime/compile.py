"""Compilation of a bundle's engines on this device, and the choice of the variant that runs here."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import backends
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import Bundle, open_bundle
from edgekit.engines.compile import key_parts
from edgekit.engines.engine_cache import EngineCache
from edgekit.runtime.choice import Run, check_instructions, select_variant
from edgekit.runtime.golden import GoldenResult
from edgekit.spec.engine import EngineRecipe, trtexec
from edgekit.spec.errors import BackendError
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import plain
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent

__all__ = ["CompileResult", "compile_bundle", "explain"]


@dataclass(frozen=True)
class CompileResult:
    """Result of a compilation.

    Attributes:
        bundle: Path of the bundle.
        chosen: Method and backend of the variant that runs here from now on.
        reason: Reason of the choice, as text.
        runs: Result of each variant.
        device: Device and library version that the engines are bound to, as the device reports them; empty for backends
            that run the graphs themselves.
    """

    bundle: str
    chosen: str
    reason: str
    runs: tuple[Run, ...]
    device: Mapping[str, object]

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        rows = [
            {
                "method": run.variant.method,
                "backend": run.variant.backend,
                "refused": run.refused,
                "compilation": plain(run.compilation),
                "golden": _golden_record(run.golden),
                "executed": run.executed,
                "ms": run.ms,
            }
            for run in self.runs
        ]
        return {
            "bundle": self.bundle,
            "chosen": self.chosen,
            "reason": self.reason,
            "device": dict(self.device),
            "variants": rows,
        }

    def text(self) -> str:
        """Return the result as text for a terminal."""
        lines = []
        if self.device:
            lines.append(f"device: {', '.join(f'{name} {value}' for name, value in self.device.items())}")
        lines += [f"{_name(run.variant)}: {_describe_run(run)}" for run in self.runs]
        return "\n".join([*lines, f"runs from now on: {self.chosen}, {self.reason}"])


def _describe_run(run: Run) -> str:
    """Return the result of a variant as text."""
    parts = []
    if run.compilation is not None:
        parts += [run.compilation.text(), f"executed in {run.executed}"]
    if run.golden is not None:
        parts.append(
            f"golden inputs differ by {run.golden.difference:.2g} of the output range, "
            f"{run.golden.flips} label(s) changed"
        )
    if run.ms:
        parts.append(f"{run.ms:.2f} ms for all golden inputs")
    if run.refused:
        parts.append(f"cannot run here: {run.refused}")
    return "; ".join(parts) or "runs the graph itself"


@takes_paths("bundle")
def compile_bundle(
    bundle: str | Path, *, trust: Trust | None = None, force: bool = False, progress: Progress = silent
) -> CompileResult:
    """Compile the engines that a bundle needs on this device, compare them with the golden outputs, and race them.

    Engines are stored in the user's cache, where :func:`edgekit.load` finds them.

    Args:
        bundle: Folder of the bundle.
        trust: Keys of the makers whose bundles may be compiled; None for any maker, since the engines are compiled by
            this device.
        force: Whether engines are compiled even if the cache has them.
        progress: Progress callback of the compilation.

    Raises:
        IntegrityError: If the bundle is modified, or not signed by a key of ``trust``.
        BackendError: If no variant can run here; with the reason of each, and NVIDIA's messages.
        BuildError: If an engine cannot be cached.
    """
    opened = open_bundle(bundle, trust)
    if opened.manifest.choose_on != "device":
        first = opened.manifest.variants[0]
        check_instructions(first, opened.path)
        backends.get(first.backend).check_here()
        reason = "it won the race where the bundle was built, and runs the graph itself"
        return CompileResult(str(bundle), _name(first), reason, (), {})
    choice = select_variant(opened, progress, make=True, force=force)
    if choice.session is not None:
        choice.session.close()
    variant = choice.variant
    device = _device_identity(variant) if variant.engine is not None else {}
    return CompileResult(str(bundle), _name(variant), choice.reason, choice.runs, device)


@takes_paths("bundle")
def explain(bundle: str | Path, *, trust: Trust | None = None, force: bool = False) -> str:
    """Describe what :func:`compile_bundle` would do here. Nothing is compiled, and no GPU is needed.

    Args:
        bundle: Folder of the bundle.
        trust: Keys of the makers whose bundles may be compiled; None for any maker.
        force: Whether engines would be compiled even if the cache has them.

    Returns:
        Description with one block of lines per variant.

    Raises:
        IntegrityError: If the bundle is modified, or not signed by a key of ``trust``.
    """
    opened = open_bundle(bundle, trust)
    variants = opened.manifest.variants
    lines = [f"{opened.path}: built for target '{opened.manifest.target}', {len(variants)} variant(s)"]
    for variant in variants:
        lines += ["", *_explain_variant(opened, variant, force)]
    if any(v.engine is not None for v in variants):
        lines += [
            "",
            "then: the outputs for the golden inputs are compared with those of the build; "
            "the fastest variant that passes is used.",
        ]
    return "\n".join(lines)


def _explain_variant(bundle: Bundle, variant: Variant, force: bool) -> Sequence[str]:
    lines = [f"{_name(variant)}: graph {', '.join(variant.graphs.values())}"]
    recipe = variant.engine
    if recipe is None:
        return [*lines, "  runs the graph itself; nothing is compiled"]
    on_device = backends.get(variant.backend).ENGINES == "device"
    chips = ", ".join(recipe.compute_capability) or "any"
    library = f"TensorRT {recipe.minimum} or newer" if on_device else "TensorRT-RTX"
    workspace = f"{recipe.workspace_mb} MiB" if recipe.workspace_mb else "a quarter of the memory of the device"
    lines += [
        f"  for compute capability {chips}, {library}; strongly typed: the graph defines the precision of each layer",
        f"  profiles: {recipe.accepts()}",
        f"  workspace: {workspace}; optimization level {recipe.optimization_level}",
    ]
    if variant.engines:
        lines.append(f"  engine: in the bundle, compiled ahead of time; {_describe_trust(bundle)}")
    lines.append(f"  here: {_explain_here(bundle, variant, force)}")
    if on_device:
        lines += _trtexec_lines(bundle, variant, recipe)
    return lines


def _describe_trust(bundle: Bundle) -> str:
    """Return whether an engine of the bundle would be loaded, as text."""
    if bundle.trusted:
        return "the bundle is signed by a trusted key"
    return "loaded only with a trusted key, or compiled here"


def _trtexec_lines(bundle: Bundle, variant: Variant, recipe: EngineRecipe) -> list[str]:
    """Return the equivalent calls of NVIDIA's ``trtexec``."""
    lines = []
    for signature in bundle.manifest.signatures:
        calls = trtexec(recipe, signature, variant.graphs[signature.name], variant.plan(signature.name))
        lines += [f"  like: {line}" for line in calls]
    return lines


def _explain_here(bundle: Bundle, variant: Variant, force: bool) -> str:
    """Return what would happen on this device, or why the engine cannot be compiled, as text."""
    backend = backends.get(variant.backend)
    try:
        backend.check_here()
        with contextlib.closing(backend.open_device(variant.device, 1)) as device:
            device.check(variant.engine)
            identity = device.identity()
            keys = []
            for signature in bundle.manifest.signatures:
                keys.append(EngineCache.key(key_parts(bundle, variant, signature, identity)))
    except BackendError as problem:
        return f"cannot be compiled: {problem}"
    library = "TensorRT" if backend.ENGINES == "device" else "TensorRT-RTX"
    place = (
        f"{identity['device']}, compute capability {identity['compute_capability']}, {library} {identity['version']}"
    )
    if not all(map(EngineCache().about, keys)):
        return f"{place}: the engine would be compiled"
    if force:
        return f"{place}: the cache has the engine, it would be compiled again"
    return f"{place}: the cache has the engine"


def _golden_record(result: GoldenResult | None) -> dict[str, object] | None:
    """Return plain data for JSON, with null for an infinite difference, which JSON cannot express."""
    if result is None:
        return None
    record = dict(plain(result))
    for name, value in record.items():
        if isinstance(value, float) and not math.isfinite(value):
            record[name] = None
    return record


def _device_identity(variant: Variant) -> dict[str, object]:
    """Return what the device reports about itself."""
    with contextlib.closing(backends.get(variant.backend).open_device(variant.device, 1)) as device:
        identity: dict[str, object] = device.identity()
        return identity


def _name(variant: Variant) -> str:
    return f"{variant.method} on {variant.backend}"
