"""Quantization methods: each maps a graph set to a graph set. Every module in ``methods/`` is a method.

A method module defines ``BACKENDS`` (backends for which it is a candidate), ``NEEDS_SAMPLES`` (minimum number of
calibration rows), ``PRECISIONS`` (precisions that the device must compute in, by the names of ``spec.engine``) and
``quantize(graphs, calibration, settings, out, progress) -> GraphSet``. A method whose layers need not go back to float
for their accuracy also defines ``REVERTS_TO``, see :func:`reverts_to`. This package does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgekit.spec.graph import GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization
from edgekit.spec.registry import Registry

if TYPE_CHECKING:
    from edgekit.quantize.calibration import Calibration

__all__ = ["Batches", "Method", "get", "linear_macs", "names", "reverts_to", "rows_of"]

# DynamicQuantizeLinear (ONNX), DynamicQuantizeMatMul and DynamicQuantizeLSTM (com.microsoft).
_SCALED_BY_TENSOR = "DynamicQuantize"

Batches = Sequence[Mapping[str, np.ndarray]]
"""Feeds by input name, one mapping per batch."""


class Method(Protocol):
    """Interface of a method module."""

    BACKENDS: tuple[str, ...]
    NEEDS_SAMPLES: int
    PRECISIONS: tuple[str, ...]

    def quantize(
        self, graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
    ) -> GraphSet:
        """Write quantized graphs to ``out`` and return them. The ``recipe`` of each records the settings it used."""


_METHODS: Registry[Method] = Registry(f"{__name__}.methods", "method")
names = _METHODS.names
get = _METHODS.get


def reverts_to(method: Method) -> str:
    """Return the setting that names the layers which a method does not quantize as usual, to restore the accuracy.

    It is a field of :class:`~edgekit.spec.quantization.Quantization`: ``keep_float``, or ``REVERTS_TO`` of the method.
    """
    return str(getattr(method, "REVERTS_TO", "keep_float"))


def rows_of(graphs: GraphSet) -> str:
    """Return whether rows may share a call: ``together`` or ``alone``, see :attr:`edgekit.spec.manifest.Variant.rows`.

    ``DynamicQuantizeLinear``, ``DynamicQuantizeMatMul`` and related operators compute one scale for the whole
    activation tensor at run time: an outlier in one row coarsens all other rows. Graphs with such an operator, also in
    a subgraph or function, run each row alone.
    """
    from edgekit.quantize.graphs import load

    for graph in graphs.graphs:
        model = load(graph.path)
        nodes = list(model.graph.all_nodes())
        for function in model.functions.values():
            nodes += function.all_nodes()
        if any(node.op_type.startswith(_SCALED_BY_TENSOR) for node in nodes):
            return "alone"
    return "together"


def linear_macs(graphs: GraphSet) -> int:
    """Return the multiply-accumulates of the linear layers that run for every token, as a roofline model counts them.

    A last layer that computes the positions of the head only costs the same for a row of any length. Its layers, except
    those of keys and values, are not counted.

    Returns:
        The number of operations for one token; 0 for several graphs, because the loop decides how often each of them
        runs.
    """
    from edgekit.quantize.graphs import constant, linears, load

    if len(graphs.graphs) > 1:
        return 0
    layers = linears(load(graphs.graphs[0].path).graph)
    # The axis of the tokens is a name, or the same number in every layer if all rows have one size.
    sizes = [list(layer.x.shape)[-2] for layer in layers if layer.x.shape is not None]
    has_names = any(not isinstance(size, int) for size in sizes)
    longest = max((size for size in sizes if isinstance(size, int)), default=0)
    weights = []
    for layer, size in zip(layers, sizes, strict=True):
        if not isinstance(size, int) or (not has_names and size == longest):
            weights.append(constant(layer.weight))
    return sum(weight.size for weight in weights if weight is not None)
