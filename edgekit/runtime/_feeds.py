"""Raw arrays that a graph is to be run on, held to its signature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.spec.errors import InputError, near
from edgekit.spec.tensor import Signature


def sizes_of(feeds: Mapping[str, np.ndarray], signature: Signature, limit: int) -> dict[str, int]:
    """Axis that varies to its size in all feeds.

    Args:
        feeds: arrays by input name, batch first.
        signature: of the graph.
        limit: largest size along the first axis that varies.

    Raises:
        InputError: for a missing or unknown name, another dtype, rank or fixed size, or sizes that disagree.
    """
    specs = {s.name: s for s in signature.inputs}
    if not isinstance(feeds, Mapping):
        raise InputError(
            f"run() was called with a {type(feeds).__name__}, expected a dict of arrays by input name. Inputs: {', '.join(specs)}.",
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
                f"Input '{name}' is missing, {expected}. Give all of: {', '.join(specs)}.", code="input-missing"
            )
        array = feeds[name]
        if not isinstance(array, np.ndarray):
            raise InputError(
                f"Input '{name}' is a {type(array).__name__}, {expected}. Wrap it in numpy.asarray(..., numpy.{spec.dtype}).",
                code="input-type",
            )
        if array.dtype != spec.dtype or array.ndim != len(spec.shape) or 0 in array.shape:
            raise InputError(
                f"Input '{name}' is {array.dtype} {list(array.shape)}, {expected} with no empty axis. Convert or reshape it.",
                code="input-shape",
            )
        for axis, size in zip(spec.shape, array.shape, strict=True):
            fixed = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
            if fixed != size:
                raise InputError(
                    f"Input '{name}' has {size} along '{axis}', another input has {fixed}. Give all inputs one size there.",
                    code="input-sizes-differ",
                )
    axis = next(iter(signature.varying), "")
    if sizes.get(axis, 0) > limit:
        raise InputError(
            f"The inputs have {sizes[axis]} along '{axis}', this model takes {limit}. Shorten them.",
            code="input-too-long",
        )
    return sizes
