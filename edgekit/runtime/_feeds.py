"""Raw arrays as inputs of a graph: the check against its signature, and the run in several calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.spec.errors import InputError, UsageError, near
from edgekit.spec.protocols import Arrays, Runs
from edgekit.spec.tensor import Signature


def find_signature(known: Mapping[str, Signature], name: str) -> Signature:
    """Return a signature by name.

    Args:
        known: Signatures of a bundle by name.
        name: Name of a signature.

    Raises:
        UsageError: If the bundle has no such signature.
    """
    if name not in known:
        raise UsageError(
            f"Unknown signature '{name}'.{near(name, known)} Signatures of this bundle: {', '.join(known)}.",
            code="signature-unknown",
        )
    return known[name]


def sizes_of(feeds: Mapping[str, np.ndarray], signature: Signature, limit: int) -> dict[str, int]:
    """Return the size of each variable axis, which all feeds share.

    Args:
        feeds: Arrays by input name, batch axis first.
        signature: Signature of the graph.
        limit: Largest size along the first variable axis.

    Raises:
        InputError: If a name is missing or unknown, a dtype, rank or fixed size differs, or sizes disagree.
    """
    specs = {s.name: s for s in signature.inputs}
    if not isinstance(feeds, Mapping):
        raise InputError(
            f"run() was called with a {type(feeds).__name__}, expected a dict of arrays by input name. "
            f"Inputs: {', '.join(specs)}.",
            code="input-type",
        )
    for name in feeds:
        if name not in specs:
            raise InputError(
                f"Unknown input '{name}'.{near(name, specs)} Inputs of this bundle: {', '.join(specs)}.",
                code="input-unknown",
            )
    sizes: dict[str, int] = {}
    for name, spec in specs.items():
        expected = f"expected {spec.dtype} [{', '.join(map(str, spec.shape))}]"
        if name not in feeds:
            raise InputError(
                f"Input '{name}' is missing, {expected}. Pass all of: {', '.join(specs)}.", code="input-missing"
            )
        array = feeds[name]
        if not isinstance(array, np.ndarray):
            raise InputError(
                f"Input '{name}' is a {type(array).__name__}, {expected}. "
                f"Convert it with numpy.asarray(..., numpy.{spec.dtype}).",
                code="input-type",
            )
        if array.dtype != spec.dtype or array.ndim != len(spec.shape) or 0 in array.shape:
            raise InputError(
                f"Input '{name}' is {array.dtype} {list(array.shape)}, {expected} with no empty axis. "
                "Convert or reshape it.",
                code="input-shape",
            )
        for position, (axis, size) in enumerate(zip(spec.shape, array.shape, strict=True)):
            if isinstance(axis, int) and axis != size:
                raise InputError(
                    f"Input '{name}' has size {size} along axis {position}, {expected}. Resize it.",
                    code="input-sizes-differ",
                )
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise InputError(
                    f"Input '{name}' has size {size} along '{axis}', expected {sizes[axis]} as in the other inputs. "
                    "Pass inputs of one size along each axis.",
                    code="input-sizes-differ",
                )
    axis = next(iter(signature.varying), "")
    if sizes.get(axis, 0) > limit:
        raise InputError(
            f"The inputs have size {sizes[axis]} along '{axis}', this model takes at most {limit}. Shorten them.",
            code="input-too-long",
        )
    return sizes


def run_parts(
    engine: Runs, signature: Signature, feeds: Mapping[str, np.ndarray], parts: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Run a graph on raw arrays in several calls, and concatenate the outputs.

    Args:
        engine: Engine of the graph.
        signature: Signature of the graph.
        feeds: Arrays by input name, batch axis first.
        parts: Consecutive indices along the batch axis, for each call.

    Returns:
        Arrays by output name, batch axis first.
    """
    batched_names = [spec.name for spec in signature.inputs if spec.shape[:1] == ("batch",)]
    results = []
    for part in parts:
        slices = {name: feeds[name][part[0] : part[-1] + 1] for name in batched_names}
        results.append(engine.run({**feeds, **slices}))
    outputs: dict[str, Any] = {}
    for spec in signature.outputs:
        arrays = [result[spec.name] for result in results]
        outputs[spec.name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return outputs


def split_rows(outputs: Mapping[str, np.ndarray], count: int) -> list[Arrays]:
    """Return the arrays of each row, without the batch axis.

    Args:
        outputs: Arrays by name, batch axis first.
        count: Number of rows.
    """
    rows: list[Arrays] = []
    for index in range(count):
        rows.append({name: array[index] for name, array in outputs.items()})
    return rows
