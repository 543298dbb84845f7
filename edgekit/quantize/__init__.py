"""GraphSet -> GraphSet. A file in ``methods/`` is a method.

A method module has ``BACKENDS`` (those it is a candidate for), ``NEEDS_SAMPLES`` (fewest calibration rows), ``PRECISIONS`` (what the device
must multiply in, by the names of ``spec.engine``) and
``quantize(graphs, calibration, settings, out, progress) -> GraphSet``. No torch here.
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

__all__ = ["Batches", "Method", "get", "linear_macs", "names", "rows_of"]

_SCALED_BY_TENSOR = (
    "DynamicQuantize"  # DynamicQuantizeLinear (ONNX), DynamicQuantizeMatMul and DynamicQuantizeLSTM (com.microsoft)
)

Batches = Sequence[Mapping[str, np.ndarray]]


class Method(Protocol):
    """What a method module offers."""

    BACKENDS: tuple[str, ...]
    NEEDS_SAMPLES: int
    PRECISIONS: tuple[str, ...]

    def quantize(
        self, graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
    ) -> GraphSet:
        """Writes quantized graphs into ``out`` and returns them; each says in its ``recipe`` what was chosen for it."""


_METHODS: Registry[Method] = Registry(f"{__name__}.methods", "method")
names, get = _METHODS.names, _METHODS.get


def rows_of(graphs: GraphSet) -> str:
    """Whether rows may share a call, as :attr:`edgekit.spec.manifest.Variant.rows` states it.

    ``DynamicQuantizeLinear``, ``DynamicQuantizeMatMul`` and their kin take one scale for the whole activation tensor when they run: an outlier in one
    row coarsens all others. Graphs with such an operator, in a nested graph or function too, run their rows alone.
    """
    from edgekit.quantize.graphs import load

    for model in (load(graph.path) for graph in graphs.graphs):
        inside = [node for function in model.functions.values() for node in function.all_nodes()]
        if any(node.op_type.startswith(_SCALED_BY_TENSOR) for node in (*model.graph.all_nodes(), *inside)):
            return "alone"
    return "together"


def linear_macs(graphs: GraphSet) -> int:
    """Multiply-accumulates that the linear layers take for one token: what a roofline counts. 0 of several graphs, which run so often each as its loop says."""
    from edgekit.quantize.graphs import constant, linears, load

    if len(graphs.graphs) > 1:
        return 0
    weights = (constant(layer.weight) for layer in linears(load(graphs.graphs[0].path).graph))
    return sum(weight.size for weight in weights if weight is not None)
