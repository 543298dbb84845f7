"""Descriptions of bundles and targets, as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit.bundle.trust import Bundle
from edgekit.report.table import built_text
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import IntegrityError
from edgekit.spec.manifest import Manifest, Variant, content_digest
from edgekit.spec.parsing import parse, plain
from edgekit.spec.target import Target
from edgekit.spec.tensor import TensorSpec
from edgekit.spec.text import on_one_line, wrap, wrap_lines

__all__ = ["engine_text", "inspect", "target_text"]

_LONGEST_VALUE = 72  # Most characters of a value without spaces that is not shortened.


def inspect(bundle: Bundle, *, wide: bool = False) -> str:
    """Return a description of a bundle: its files and signatures, how it runs, and the candidates of its build.

    Args:
        bundle: Checked bundle.
        wide: True for a table with all columns and for complete digests.
    """
    manifest = parse(Manifest, _on_one_line(plain(bundle.manifest)), str(bundle.path))
    size = f"{bundle.size / 2**20:.1f} MB in {len(manifest.files) + 1} files"
    head = [f"{bundle.path}: {manifest.task}, bundle format {manifest.format}, {size}, built for '{manifest.target}'"]
    for signature in manifest.signatures:
        inputs = ", ".join(map(_describe_tensor, signature.inputs))
        outputs = ", ".join(map(_describe_tensor, signature.outputs))
        head.append(f"{signature.name}: {inputs} -> {outputs}")
        head += [f"      state: {output} becomes {name} at the next call" for output, name in signature.state]
    if _remembers_words(bundle):
        head.append("words: token ids of words are remembered (equal to the tokenizer's on all samples of the build)")
    for variant in manifest.variants:
        head += _describe_variant(variant)
    head += ["", "candidates of the build:"]
    tail = []
    if manifest.sensitivity:
        kind = "INT4" if manifest.variants[0].executed.startswith("int4") else "INT8"
        divergence = f"divergence of the outputs from float32 if that layer alone is {kind}"
        tail += ["", f"layers by {kind} sensitivity ({divergence}):"]
        ranked = sorted(manifest.sensitivity.items(), key=lambda item: -item[1])
        tail += [f"  {damage:.3g}  {layer}" for layer, damage in ranked]
    tail += ["", f"content sha256:{content_digest(bundle.manifest)}", "made from:"]
    name_width = max(map(len, manifest.provenance), default=0)
    for name, value in sorted(manifest.provenance.items()):
        tail.append(f"  {name:<{name_width}}  {value if wide else _shorten(value)}")
    return "\n".join([*_wrap_all(head), *built_text(manifest, wide=wide), *_wrap_all(tail)])


def _remembers_words(bundle: Bundle) -> bool:
    """Return whether the settings of the task say that words are remembered. A task may have no such settings."""
    try:
        settings = json.loads((bundle.assets / "task.json").read_bytes())
    except (OSError, ValueError, IntegrityError):
        return False
    return isinstance(settings, dict) and settings.get("remembers_words") is True


def _wrap_all(paragraphs: list[str]) -> list[str]:
    """Return the lines of wrapped paragraphs."""
    return [line for paragraph in paragraphs for line in wrap(paragraph)]


def _describe_variant(variant: Variant) -> list[str]:
    """Return lines that say how a variant runs."""
    requirements = {**variant.requires, **variant.versions}
    versions = ", ".join(f"{name} {value}" for name, value in requirements.items())
    backend = f"{variant.backend} ({variant.device}, {variant.threads} thread(s))"
    lines = [f"runs: {variant.method} on {backend}, executed in {variant.executed}; built with {versions}"]
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
    """Return the beginning of a long digest, and other values unchanged."""
    return f"{value[:24]}..." if len(value) > _LONGEST_VALUE and " " not in value else value


def _on_one_line(value: Any) -> Any:
    """Return plain data without line feeds and other control characters in its texts and keys."""
    if isinstance(value, str):
        return on_one_line(value)
    if isinstance(value, Mapping):
        return {on_one_line(key): _on_one_line(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_on_one_line(part) for part in value]
    return value


def target_text(target: Target) -> str:
    """Return the settings of a target, one per line."""
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
    """Return the settings of TensorRT engines, one per line."""
    capability = ", ".join(recipe.compute_capability) or "any"
    memory = f"{recipe.memory_mb} MiB" if recipe.memory_mb else "unknown memory"
    workspace = f"{recipe.workspace_mb} MiB" if recipe.workspace_mb else "a quarter of the memory"
    flags = ", ".join(recipe.flags) or "none"
    lines = [
        f"chip       compute capability {capability}, {memory}; precisions {', '.join(recipe.precisions)}",
        f"engine     TensorRT {recipe.minimum} or newer, workspace {workspace}, "
        f"optimization level {recipe.optimization_level}, flags {flags}",
        f"profiles   {recipe.accepts()}",
    ]
    return "\n".join(lines)


def _describe_tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]"
