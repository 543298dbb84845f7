"""Makes the engines of a bundle on the device that it is on, and says which variant runs there and why."""

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
from edgekit.spec.engine import trtexec
from edgekit.spec.errors import BackendError
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import plain
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent

__all__ = ["CompileResult", "compile_bundle", "explain"]


@dataclass(frozen=True)
class CompileResult:
    """What a compilation came to.

    Attributes:
        bundle: its path.
        chosen: method and backend that runs here from now on.
        reason: why.
        runs: what became of each variant.
        device: what the engines are bound to, as the device tells of itself; empty for backends that run the graphs.
    """

    bundle: str
    chosen: str
    reason: str
    runs: tuple[Run, ...]
    device: Mapping[str, object]

    def record(self) -> dict[str, object]:
        """Plain data for JSON."""
        rows = [
            {
                "method": run.variant.method,
                "backend": run.variant.backend,
                "refused": run.refused,
                "compilation": plain(run.compilation),
                "golden": _finite(run.golden),
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
        """For a terminal."""
        lines = [f"device: {', '.join(f'{k} {v}' for k, v in self.device.items())}"] if self.device else []
        for run in self.runs:
            said = [run.compilation.text(), f"executed in {run.executed}"] if run.compilation is not None else []
            if run.golden is not None:
                said.append(
                    f"golden inputs {run.golden.difference:.2g} of the spread off, {run.golden.flips} label(s) changed"
                )
            said += [f"{run.ms:.2f} ms for all golden inputs"] if run.ms else []
            said += [f"cannot run here: {run.refused}"] if run.refused else []
            lines.append(f"{run.variant.method} on {run.variant.backend}: {'; '.join(said) or 'runs the graph itself'}")
        return "\n".join([*lines, f"runs from now on: {self.chosen}, {self.reason}"])


@takes_paths("bundle")
def compile_bundle(
    bundle: str | Path, *, trust: Trust | None = None, force: bool = False, progress: Progress = silent
) -> CompileResult:
    """Makes the engines that a bundle needs on this device, compares their answers with the golden ones, and races them.

    What is made is kept in the cache of this user, where :func:`edgekit.load` finds it.

    Args:
        bundle: its folder.
        trust: whose bundles may be compiled; None for anybody's: an engine that is made here is this device's own.
        force: make engines anew, also those that the cache has.
        progress: told how far the builder is.

    Raises:
        IntegrityError: when the bundle is altered, or not signed by whom ``trust`` names.
        BackendError: when no variant can run here, with the reason of each and NVIDIA's own lines.
        BuildError: when an engine cannot be kept.
    """
    opened = open_bundle(bundle, trust)
    if opened.manifest.choose_on != "device":
        first = opened.manifest.variants[0]
        check_instructions(first, opened.path)
        backends.get(first.backend).check_here()
        return CompileResult(
            str(bundle), _name(first), "it won the race where the bundle was built, and runs the graph itself", (), {}
        )
    choice = select_variant(opened, progress, make=True, force=force)
    if choice.session is not None:
        choice.session.close()
    variant = choice.variant
    return CompileResult(
        str(bundle),
        _name(variant),
        choice.reason,
        choice.runs,
        _identity(variant) if variant.engine is not None else {},
    )


@takes_paths("bundle")
def explain(bundle: str | Path, *, trust: Trust | None = None, force: bool = False) -> str:
    """What :func:`compile_bundle` would do here, and why; nothing is made, and no GPU is needed to ask.

    Args:
        bundle: its folder.
        trust: as there.
        force: as there.

    Raises:
        IntegrityError: when the bundle is altered, or not signed by whom ``trust`` names.
    """
    opened = open_bundle(bundle, trust)
    variants = opened.manifest.variants
    lines = [f"{opened.path}: built for target '{opened.manifest.target}', {len(variants)} variant(s)"]
    for variant in variants:
        lines += ["", *_explained(opened, variant, force)]
    if any(v.engine is not None for v in variants):
        lines += [
            "",
            "then: the answers to the golden inputs are compared with those of the build; of the variants that pass the fastest on them is kept.",
        ]
    return "\n".join(lines)


def _explained(bundle: Bundle, variant: Variant, force: bool) -> Sequence[str]:
    lines = [f"{_name(variant)}: graph {', '.join(variant.graphs.values())}"]
    recipe = variant.engine
    if recipe is None:
        return [*lines, "  runs the graph itself; nothing is compiled"]
    chips = ", ".join(recipe.compute_capability) or "any"
    on_device = backends.get(variant.backend).ENGINES == "device"
    library = f"TensorRT {recipe.minimum} or newer" if on_device else "TensorRT-RTX"
    lines.append(
        f"  for compute capability {chips}, {library}; strongly typed: the graph says what each layer computes in"
    )
    lines.append(f"  profiles: {recipe.accepts()}")
    workspace = f"{recipe.workspace_mb} MiB" if recipe.workspace_mb else "a quarter of the memory of the device"
    lines.append(f"  workspace: {workspace}; optimization level {recipe.optimization_level}")
    if variant.engines:
        signed = (
            "the bundle's signature is of a trusted key"
            if bundle.trusted
            else "loaded only with a key that is trusted, or made anew here"
        )
        lines.append(f"  engine: in the bundle, made ahead of time; {signed}")
    lines.append(f"  here: {_here(bundle, variant, force)}")
    if on_device:
        lines += [
            f"  like: {line}"
            for s in bundle.manifest.signatures
            for line in trtexec(recipe, s, variant.graphs[s.name], variant.plan(s.name))
        ]
    return lines


def _here(bundle: Bundle, variant: Variant, force: bool) -> str:
    backend = backends.get(variant.backend)
    try:
        backend.check_here()
        with contextlib.closing(backend.open_device(variant.device, 1)) as device:
            device.check(variant.engine)
            identity = device.identity()
            keys = [
                EngineCache.key(key_parts(bundle, variant, signature, identity))
                for signature in bundle.manifest.signatures
            ]
    except BackendError as problem:
        return f"cannot be made: {problem}"
    library = "TensorRT" if backend.ENGINES == "device" else "TensorRT-RTX"
    named = (
        f"{identity['device']}, compute capability {identity['compute_capability']}, {library} {identity['version']}"
    )
    if all(map(EngineCache().about, keys)):
        return f"{named}: the cache has the engine" + (", it would be made anew" if force else "")
    return f"{named}: the engine would be made"


def _finite(found: GoldenResult | None) -> dict[str, object] | None:
    """Plain data; answers that are no numbers are infinitely far off, which JSON has no word for: null."""
    if found is None:
        return None
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dict(plain(found)).items()
    }


def _identity(variant: Variant) -> dict[str, object]:
    with contextlib.closing(backends.get(variant.backend).open_device(variant.device, 1)) as device:
        found: dict[str, object] = device.identity()
        return found


def _name(variant: Variant) -> str:
    return f"{variant.method} on {variant.backend}"
