"""A stand-in for a backend that this machine does not have: the graphs of a device's bundle on ONNX Runtime, on the CPU.

The graphs of a bundle have explicit types, so a CPU computes what they define: Q/DQ is rounded and restored as it is written, products are made in
float32. That tells the accuracy of the bundle, not its latency, memory or start on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekit import backends
from edgekit.machine.cpu import cpus
from edgekit.spec.manifest import MAX_TOKENS, Variant

__all__ = ["AS_WRITTEN", "STAND_IN", "is_stand_in", "stand_in_for", "stand_in_variants"]

STAND_IN = "onnxruntime"
"""Backend that computes the graphs of a backend which this machine cannot run."""

AS_WRITTEN = "reference"
"""Device of the stand-in that computes a graph node by node, as ONNX defines it."""


def stand_in_for(variant: Variant) -> Variant:
    """Return a variant with the same graphs on the stand-in."""
    return replace(
        variant,
        backend=STAND_IN,
        device=AS_WRITTEN,
        threads=cpus(),
        streams=1,
        shapes=(),
        engine=None,
        engines={},
        max_tokens=MAX_TOKENS,
    )


def stand_in_variants(variants: Sequence[Variant], backend: str | None) -> list[Variant]:
    """Return the variants that ``backend`` stands in for, on the stand-in; none where it is a backend of the bundle.

    Args:
        variants: Variants of the bundle.
        backend: Backend that the caller asked for; None for the bundle's own.
    """
    if backend != STAND_IN or any(variant.backend == STAND_IN for variant in variants):
        return []
    return [stand_in_for(variant) for variant in variants if backends.get(variant.backend).ENGINES]


def is_stand_in(variant: Variant) -> bool:
    """Return whether a variant is one of :func:`stand_in_for`."""
    return (variant.backend, variant.device) == (STAND_IN, AS_WRITTEN)
