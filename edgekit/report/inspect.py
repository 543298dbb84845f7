"""A bundle and a target in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.bundle.trust import Bundle
from edgekit.report.table import built_text
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.manifest import Manifest, content_digest
from edgekit.spec.parsing import parse, plain
from edgekit.spec.target import Target
from edgekit.spec.tensor import TensorSpec
from edgekit.spec.text import on_one_line

__all__ = ["engine_text", "inspect", "target_text"]


def inspect(bundle: Bundle) -> str:
    """What a bundle holds, how it runs, and why it is what it is."""
    m = parse(Manifest, _on_one_line(plain(bundle.manifest)), str(bundle.path))
    lines = [
        f"{bundle.path}: {m.task}, bundle format {m.format}, {bundle.size / 2**20:.1f} MB in {len(m.files) + 1} files, built for '{m.target}'"
    ]
    for signature in m.signatures:
        lines.append(
            f"{signature.name}: {', '.join(map(_tensor, signature.inputs))} -> {', '.join(map(_tensor, signature.outputs))}"
        )
        lines += [f"      state: {output} becomes {name} at the next call" for output, name in signature.state]
    for variant in m.variants:
        needs = ", ".join(f"{k} {v}" for k, v in {**variant.requires, **variant.versions}.items())
        where = f"{variant.backend} ({variant.device}, {variant.threads} thread(s))"
        lines.append(f"runs: {variant.method} on {where}, executed in {variant.executed}; built with {needs}")
        how = {**variant.recipe, **({"buckets": "/".join(map(str, variant.shapes))} if variant.shapes else {})}
        if how:
            lines.append(f"      {', '.join(f'{k} {v}' for k, v in how.items())}")
        if variant.engine is not None:
            made = "in the bundle, made ahead of time" if variant.engines else "made on the device"
            lines.append(f"      engine: {made}; accepts {variant.engine.accepts()}")
    lines += ["", "candidates of the build:", *built_text(m)]
    if m.sensitivity:
        lines += ["", "layers by the damage that INT8 does in each alone (divergence of the answers from float32's):"]
        lines += [
            f"  {damage:.3g}  {layer}" for layer, damage in sorted(m.sensitivity.items(), key=lambda item: -item[1])
        ]
    lines += ["", f"content sha256:{content_digest(bundle.manifest)}", "made from:"]
    width = max(map(len, m.provenance), default=0)
    lines += [f"  {name:<{width}}  {value}" for name, value in sorted(m.provenance.items())]
    return "\n".join(lines)


def _on_one_line(value: Any) -> Any:
    """Plain data whose texts cannot look like a line of their own."""
    if isinstance(value, str):
        return on_one_line(value)
    if isinstance(value, Mapping):
        return {on_one_line(key): _on_one_line(part) for key, part in value.items()}
    return [_on_one_line(part) for part in value] if isinstance(value, list) else value


def target_text(target: Target) -> str:
    """A target's settings."""
    budget = ", ".join(f"{k} {v:g}" for k, v in vars(target.budget).items() if v is not None) or "none"
    threads = target.threads or "every CPU there is"
    engine = "" if target.engine is None else "\n" + engine_text(target.engine)
    return (
        f"{target.name}: {target.description}\n"
        f"backends   {', '.join(target.backends)}\nmethods    {', '.join(target.methods)}\ndevice     {target.device}\n"
        f"threads    {threads}\nmax_batch  {target.max_batch}\nuse        {target.use}\nchoose_on  {target.choose_on}\nbudget     {budget}\n"
        f"quantize   {', '.join(f'{k} {v}' for k, v in vars(target.quantize).items() if v != ())}" + engine
    )


def engine_text(recipe: EngineRecipe) -> str:
    """How engines are made, a line each."""
    memory = f"{recipe.memory_mb} MiB" if recipe.memory_mb else "memory not known"
    workspace = f"{recipe.workspace_mb} MiB" if recipe.workspace_mb else "a quarter of the memory"
    return (
        f"chip       compute capability {', '.join(recipe.compute_capability) or 'any'}, {memory}; multiplies in {', '.join(recipe.precisions)}\n"
        f"engine     TensorRT {recipe.minimum} or newer, workspace {workspace}, optimization level {recipe.optimization_level}, "
        f"flags {', '.join(recipe.flags) or 'none'}\n"
        f"profiles   {recipe.accepts()}"
    )


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]"
