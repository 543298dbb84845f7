"""Stand-in for a backend that this machine does not have: ONNX Runtime runs the graphs of a device's bundle on the CPU.

The graphs of a bundle have explicit types, so a CPU can compute what they define: Q/DQ pairs round as written, and
products are computed in float32. The result shows the accuracy of the bundle, but not its latency, memory or startup
time on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekit import backends
from edgekit.machine.cpu import cpus
from edgekit.spec.manifest import MAX_TOKENS, Variant

__all__ = ["AS_WRITTEN", "STAND_IN", "is_stand_in", "stand_in_for", "stand_in_variants"]

STAND_IN = "onnxruntime"
"""Backend that runs the graphs of a backend that this machine does not have."""

AS_WRITTEN = "reference"
"""Device of the stand-in, which computes a graph node by node as ONNX defines it."""


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
    """Return the variants of a device's backends, on the stand-in; empty if ``backend`` is not a stand-in here.

    Args:
        variants: Variants of the bundle.
        backend: Backend that the caller requested; None if none. It is a stand-in if it is ``onnxruntime`` and the
            bundle has no variant for ``onnxruntime``.
    """
    if backend != STAND_IN or any(variant.backend == STAND_IN for variant in variants):
        return []
    return [stand_in_for(variant) for variant in variants if backends.get(variant.backend).ENGINES]


def is_stand_in(variant: Variant) -> bool:
    """Return whether a variant comes from :func:`stand_in_for`."""
    return (variant.backend, variant.device) == (STAND_IN, AS_WRITTEN)
