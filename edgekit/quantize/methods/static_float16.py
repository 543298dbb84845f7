"""Static INT8 in a float16 graph, for strongly typed TensorRT networks: INT8 linear layers, everything else in float16.

Q/DQ pairs, ranges and smoothing are those of ``static``. Afterwards everything that is still float is cast as
``float16`` does. The scales become float16 too: in a strongly typed network DequantizeLinear outputs the type of its
scale, and a MatMul of float32 with float16 is refused. QuantizeLinear and DequantizeLinear accept float16 scales from
opset 19 on.

A layer in ``keep_float`` is not quantized to INT8 and computes in float16. Embedding tables are float16 as well,
because TensorRT looks up rows in float types only (see ``_embeddings`` for its handling of 8-bit tables).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from edgekit.quantize._casts import cast_graphs
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.graphs import load
from edgekit.quantize.methods import float16, static
from edgekit.quantize.tensorrt_rules import lint
from edgekit.spec.graph import GraphSet
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization

__all__ = ["BACKENDS", "NEEDS_SAMPLES", "PRECISIONS", "quantize"]

BACKENDS = ("tensorrt", "tensorrt_rtx")
NEEDS_SAMPLES = static.NEEDS_SAMPLES
PRECISIONS = ("float16", "int8")


def quantize(
    graphs: GraphSet, calibration: Calibration, settings: Quantization, out: Path, progress: Progress
) -> GraphSet:
    """Write each graph with INT8 linear layers and float16 everywhere else.

    Args:
        graphs: Cleaned float32 graphs.
        calibration: Feeds, input name to ``int64 [batch, sequence]``, padded as in production.
        settings: Settings of ``static``. ``embeddings`` in 8 or 4 bits is refused by the check of the finished graph.
        out: Folder for the new graphs.
        progress: Progress callback, called after each calibration batch.

    Raises:
        QuantizeError: An error of ``static`` or ``float16``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        int8_graphs = static.quantize(graphs, calibration, settings, Path(scratch), progress)
        cast = cast_graphs(
            int8_graphs,
            calibration,
            replace(settings, keep_float=()),
            out,
            progress,
            low=ir.DataType.FLOAT16,
            limit=float16.LIMIT,
        )
    finished = []
    for cast_graph, int8_graph in zip(cast.graphs, int8_graphs.graphs, strict=True):
        lint(load(cast_graph.path).graph, cast_graph.path.name)
        recipe = {**cast_graph.recipe, **int8_graph.recipe, "embeddings": cast_graph.recipe["embeddings"]}
        finished.append(replace(cast_graph, method="static_float16", recipe=recipe))
    return replace(graphs, graphs=tuple(finished))
