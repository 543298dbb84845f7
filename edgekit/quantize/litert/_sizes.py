"""Sizes of a graph's tensors as products of its variable axes, found by running it at two sets of sizes.

TensorFlow Lite allows one unknown size in a shape, and everything else has to be a number or computed from the inputs'
shapes. Symbolic inference of a cleaned graph leaves gaps (``None``, ``s27 + 1``). So the graph is run once for each of
two sets of axis sizes, all primes, and every size is read off: equal in both runs is a number, and a multiple of one or
two axes is recognised by both.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import constant, discard
from edgekit.spec.errors import QuantizeError
from edgekit.spec.tensor import Signature

__all__ = ["Observed", "Size", "observe"]

_PRIMES = ((5, 7, 11, 13), (17, 19, 23, 29))
_SIZED = ("Shape", "Size")


@dataclass(frozen=True)
class Size:
    """Size of an axis: ``factor`` times the sizes of the named axes; a number if there are none.

    Attributes:
        factor: Factor; 0 if the size is no multiple of axes, so that it is unknown.
        axes: Names of the axes, e.g. ``("batch", "sequence")``.
    """

    factor: int
    axes: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """The size if it is a number, else -1."""
        return -1 if self.axes or not self.factor else self.factor


class Observed:
    """What two runs showed of every value of a graph."""

    def __init__(
        self, model: ir.Model, axes: Sequence[Mapping[str, int]], runs: Sequence[Mapping[str, np.ndarray]]
    ) -> None:
        """Keep the results of two runs.

        Args:
            model: Model that was run.
            axes: Sizes of the variable axes in each run.
            runs: Arrays by name of the value, of each run.
        """
        self._axes = axes
        self._runs = [dict(run) for run in runs]
        self._sized: set[str | None] = set()
        self._fixed: set[str | None] = set(model.graph.initializers)
        for node in model.graph:
            names = {value.name for value in node.inputs if value is not None}
            outputs = [value.name for value in node.outputs]
            if names <= self._fixed:
                self._fixed.update(outputs)
            elif node.op_type in _SIZED or names <= self._fixed | self._sized:
                self._sized.update(outputs)

    def permute(self, value: ir.Value, source: ir.Value, order: Sequence[int]) -> None:
        """Enter a new value that is a transposed one of the graph."""
        for run in self._runs:
            run[value.name or ""] = run[source.name or ""].transpose(order)

    def concatenate(self, value: ir.Value, sources: Sequence[ir.Value], axis: int) -> None:
        """Enter a new value that holds values of the graph side by side."""
        for run in self._runs:
            run[value.name or ""] = np.concatenate([run[source.name or ""] for source in sources], axis)

    def dtype(self, value: ir.Value) -> np.dtype[np.generic]:
        """Return the element type of a value."""
        array = constant(value)
        return (self._runs[0][value.name or ""] if array is None else array).dtype

    def shape(self, value: ir.Value) -> tuple[Size, ...]:
        """Return the shape of a value."""
        array = constant(value)
        if array is not None:
            return tuple(Size(size) for size in array.shape)
        first, second = (run[value.name or ""].shape for run in self._runs)
        return tuple(self._express(*pair) for pair in zip(first, second, strict=True))

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """Return the array of a value that no input decides; None for any other."""
        array = constant(value)
        if array is not None or value is None:
            return array
        if value.name not in self._fixed and value.name not in self._sized:
            return None
        if value.name not in self._runs[0]:
            return None
        first, second = (run[value.name or ""] for run in self._runs)
        return first if first.shape == second.shape and np.array_equal(first, second) else None

    def sizes(self, value: ir.Value | None) -> tuple[Size, ...] | None:
        """Return the elements of an integer scalar or vector that is computed from shapes; None for any other value."""
        if value is None or value.name not in self._sized:
            return None
        first, second = (run[value.name or ""] for run in self._runs)
        if first.shape != second.shape or first.ndim > 1 or first.dtype.kind != "i":
            return None
        return tuple(self._express(int(a), int(b)) for a, b in zip(first.ravel(), second.ravel(), strict=True))

    def counts_up(self, indices: ir.Value, source: ir.Value) -> bool:
        """Return whether indices that no input decides are those of all elements of a vector in their order."""
        if indices.name not in self._fixed and indices.name not in self._sized:
            return False
        for run in self._runs:
            if indices.name not in run or source.name not in run:
                return False
            if not np.array_equal(run[indices.name].ravel(), np.arange(run[source.name].size)):
                return False
        return True

    def _express(self, first: int, second: int) -> Size:
        """Return the size that is this number in the first run and that one in the second."""
        if first == second:
            return Size(first)
        names = [name for name in self._axes[0] if self._axes[0][name] != self._axes[1][name]]
        for count in (1, 2):
            for axes in itertools.combinations(names, count):
                factor, rest = divmod(first, math.prod(self._axes[0][name] for name in axes))
                if rest == 0 and factor * math.prod(self._axes[1][name] for name in axes) == second:
                    return Size(factor, axes)
        return Size(0)


def observe(model: ir.Model, signature: Signature, batch: int | None) -> Observed:
    """Run a graph at two sets of sizes.

    Args:
        model: Model whose external weights are on disk.
        signature: Inputs of the graph, whose variable axes have names.
        batch: Fixed size of the first axis; None if it varies.

    Raises:
        QuantizeError: The graph does not run at these sizes.
    """
    names = list(dict.fromkeys(axis for spec in signature.inputs for axis in spec.shape if isinstance(axis, str)))
    rows = {str(spec.shape[0]) for spec in signature.inputs}
    axes = []
    for primes in _PRIMES:
        sizes = dict(zip(names, primes, strict=False))
        if batch is not None:
            sizes.update(dict.fromkeys(rows & sizes.keys(), batch))
        axes.append(sizes)
    feeds = []
    for sizes in axes:
        arrays = {}
        for spec in signature.inputs:
            shape = []
            for axis in spec.shape:
                shape.append(sizes[axis] if isinstance(axis, str) else axis)
            arrays[spec.name] = np.zeros(shape, spec.dtype)
        feeds.append(arrays)
    try:
        return Observed(model, axes, _run(model, feeds))
    except Exception as problem:  # The errors of ONNX Runtime have no other base.
        listing = ", ".join(f"{name} {size}" for name, size in axes[0].items())
        raise QuantizeError(
            f"The graph does not run at the sizes {listing}, which the writer of LiteRT graphs needs: {problem}. "
            "Use another backend for this model.",
            code="litert-sizes",
        ) from problem


def _run(model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Return every computed value of a graph by name, once for each set of feeds."""
    import onnxruntime

    copy = model.clone()
    # Dequantized weights are large, and are never asked for.
    values = [value for node in copy.graph if node.op_type != "DequantizeLinear" for value in node.outputs]
    names = [value.name or "" for value in values if value.name]
    copy.graph.outputs[:] = [value for value in values if value.name]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observe.onnx"
        ir.save(copy, path, external_data="weights")
        discard(copy)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        known = {entry.name for entry in session.get_inputs()}
        results = []
        for feed in feeds:
            arrays = session.run(names, {name: feed[name] for name in known})
            results.append({**feed, **dict(zip(names, arrays, strict=True))})
    return results
