"""Checks of raw arrays against the signature of the graph that is to run on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.spec.errors import InputError, near
from edgekit.spec.tensor import Signature


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
        for axis, size in zip(spec.shape, array.shape, strict=True):
            expected_size = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
            if expected_size != size:
                raise InputError(
                    f"Input '{name}' has size {size} along '{axis}', expected {expected_size} as in the other inputs. "
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
