"""A bundle and a target as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.bundle.trust import Bundle
from edgekit.report.table import built_text
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.manifest import Manifest, Variant, content_digest
from edgekit.spec.parsing import parse, plain
from edgekit.spec.target import Target
from edgekit.spec.tensor import TensorSpec
from edgekit.spec.text import on_one_line, wrap, wrap_lines

__all__ = ["engine_text", "inspect", "target_text"]

_LONGEST_VALUE = 72  # characters of a value without spaces that is shown whole


def inspect(bundle: Bundle, *, wide: bool = False) -> str:
    """Return what a bundle holds, how it runs, and the candidates of its build.

    Args:
        bundle: Bundle that was checked.
        wide: Whether the table has all columns, and digests are whole.
    """
    m = parse(Manifest, _on_one_line(plain(bundle.manifest)), str(bundle.path))
    size = f"{bundle.size / 2**20:.1f} MB in {len(m.files) + 1} files"
    lines = [f"{bundle.path}: {m.task}, bundle format {m.format}, {size}, built for '{m.target}'"]
    for signature in m.signatures:
        inputs, outputs = (", ".join(map(_tensor, specs)) for specs in (signature.inputs, signature.outputs))
        lines.append(f"{signature.name}: {inputs} -> {outputs}")
        lines += [f"      state: {output} becomes {name} at the next call" for output, name in signature.state]
    for variant in m.variants:
        lines += _variant(variant)
    lines += ["", "candidates of the build:"]
    after = []
    if m.sensitivity:
        after += ["", "layers by the damage that INT8 does in each alone (divergence of the outputs from float32's):"]
        ranked = sorted(m.sensitivity.items(), key=lambda item: -item[1])
        after += [f"  {damage:.3g}  {layer}" for layer, damage in ranked]
    after += ["", f"content sha256:{content_digest(bundle.manifest)}", "made from:"]
    longest = max(map(len, m.provenance), default=0)
    for name, value in sorted(m.provenance.items()):
        after.append(f"  {name:<{longest}}  {value if wide else _shorten(value)}")
    wrapped = [line for paragraph in lines for line in wrap(paragraph)]
    return "\n".join([*wrapped, *built_text(m, wide=wide), *(line for text in after for line in wrap(text))])


def _variant(variant: Variant) -> list[str]:
    """Return how one variant runs."""
    needs = ", ".join(f"{name} {value}" for name, value in {**variant.requires, **variant.versions}.items())
    where = f"{variant.backend} ({variant.device}, {variant.threads} thread(s))"
    lines = [f"runs: {variant.method} on {where}, executed in {variant.executed}; built with {needs}"]
    recipe = dict(variant.recipe)
    if variant.shapes:
        recipe["buckets"] = "/".join(map(str, variant.shapes))
    if recipe:
        lines.append("      " + ", ".join(f"{name} {value}" for name, value in recipe.items()))
    if variant.engine is not None:
        origin = "in the bundle, compiled ahead of time" if variant.engines else "compiled on the device"
        lines.append(f"      engine: {origin}; accepts {variant.engine.accepts()}")
    return lines


def _shorten(value: str) -> str:
    """Return a digest by its beginning; other values whole."""
    return f"{value[:24]}..." if len(value) > _LONGEST_VALUE and " " not in value else value


def _on_one_line(value: Any) -> Any:
    """Return plain data in which no text holds a line feed or another control character."""
    if isinstance(value, str):
        return on_one_line(value)
    if isinstance(value, Mapping):
        return {on_one_line(key): _on_one_line(part) for key, part in value.items()}
    return [_on_one_line(part) for part in value] if isinstance(value, list) else value


def target_text(target: Target) -> str:
    """Return a target's settings, one a line."""
    limits = {name: limit for name, limit in vars(target.budget).items() if limit is not None}
    budget = ", ".join(f"{name} {limit:g}" for name, limit in limits.items()) or "none"
    quantize = ", ".join(f"{name} {value}" for name, value in vars(target.quantize).items() if value != ())
    lines = [
        f"{target.name}: {target.description}",
        f"backends   {', '.join(target.backends)}",
        f"methods    {', '.join(target.methods)}",
        f"device     {target.device}",
        f"threads    {target.threads or 'all CPUs'}",
        f"max_batch  {target.max_batch}",
        f"use        {target.use}",
        f"choose_on  {target.choose_on}",
        f"budget     {budget}",
        f"quantize   {quantize}",
    ]
    if target.engine is not None:
        lines.append(engine_text(target.engine))
    return wrap_lines("\n".join(lines))


def engine_text(recipe: EngineRecipe) -> str:
    """Return the settings of engines, one a line."""
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
