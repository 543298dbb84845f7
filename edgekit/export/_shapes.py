"""Axes of the values of an imported graph, measured.

ONNX's shape inference loses the names of the axes where shapes are computed at run time, as older exports do for every
Reshape. The simplifications need them: which axis holds the rows, and which the tokens. So the graph runs once for each
of a few sizes, and an axis whose size is always that of an input's axis, or a multiple of it, gets its name.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import discard, save
from edgekit.spec.tensor import Signature

__all__ = ["name_axes"]

# Sizes of the first input axis, the second one and so on: primes, so that a product of two has one meaning.
_PROBES = ((2, 3, 5), (7, 11, 13), (17, 19, 23))


def name_axes(model: ir.Model, signature: Signature) -> int:
    """Name the axes of every value after the axes of the inputs, in place.

    Args:
        model: Model whose values have types.
        signature: Inputs with the names of their axes.

    Returns:
        Number of values whose axes are all known.
    """
    graph = model.graph
    names = list(dict.fromkeys(axis for spec in signature.inputs for axis in spec.shape if isinstance(axis, str)))
    values = [value for node in graph for value in node.outputs if value.name and value.dtype is not None]
    if len(names) > len(_PROBES) or not values:
        return 0
    sizes: dict[str, tuple[int, ...]] = dict(zip(names, _PROBES, strict=False))
    shapes = _measure(model, signature, [value.name or "" for value in values], sizes)
    count = 0
    for value, measured in zip(values, zip(*shapes, strict=True), strict=True):
        if len({len(shape) for shape in measured}) != 1 or value.is_graph_output():
            continue
        dims = [_name(axis_sizes, sizes) for axis_sizes in zip(*measured, strict=True)]
        value.shape = ir.Shape(dims)
        count += None not in dims
    return count


def _measure(
    model: ir.Model, signature: Signature, names: list[str], sizes: dict[str, tuple[int, ...]]
) -> list[list[tuple[int, ...]]]:
    """Return the shapes of named values for each probe."""
    import onnxruntime

    probe = model.clone()
    values = {value.name: value for node in probe.graph for value in node.outputs}
    probe.graph.outputs[:] = [values[name] for name in names]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    shapes = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        save(probe, path)
        discard(probe)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for number in range(len(_PROBES[0])):
            probe_sizes = {name: probes[number] for name, probes in sizes.items()}
            feeds = {}
            for spec in signature.inputs:
                shape = [_axis_size(axis, probe_sizes) for axis in spec.shape]
                feeds[spec.name] = np.zeros(shape, spec.dtype)  # Zeros are valid ids of every table.
            arrays = session.run(names, feeds)
            shapes.append([np.shape(array) for array in arrays])
    return shapes


def _axis_size(axis: str | int, sizes: Mapping[str, int]) -> int:
    return axis if isinstance(axis, int) else sizes[axis]


def _name(measured: tuple[int, ...], sizes: dict[str, tuple[int, ...]]) -> int | str | None:
    """Return the size of an axis that is always the same, or its name, e.g. ``sequence``, ``4*batch``; else None."""
    if len(set(measured)) == 1:
        return measured[0]
    groups: list[tuple[tuple[str, ...], tuple[int, ...]]] = [((name,), probes) for name, probes in sizes.items()]
    products = tuple(math.prod(probes) for probes in zip(*sizes.values(), strict=True))
    groups.append((tuple(sizes), products))
    for names, probes in groups:
        factors = {size / probe for size, probe in zip(measured, probes, strict=True)}
        if len(factors) == 1 and (factor := factors.pop()).is_integer():
            return "*".join([*([str(int(factor))] if factor > 1 else []), *names])
    return None
