"""Static INT8 in a float16 graph: what a strongly typed TensorRT network needs to multiply in INT8 and compute the rest in float16.

The Q/DQ pairs, ranges and smoothing are those of ``static``; then everything that is left in float is cast as ``float16`` does
it. The scales become float16 with the rest: in a strongly typed network a DequantizeLinear gives the type of its scale, and
a MatMul of float32 with float16 is refused. QuantizeLinear and DequantizeLinear take float16 scales from opset 19 on.

A layer in ``keep_float`` is kept out of INT8 and computes in float16. Embedding tables are float16 too: TensorRT looks up
in float types only (``_embeddings`` says what it makes of 8 bits).
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
    """Writes the form of each graph in INT8 and float16.

    Args:
        graphs: cleaned float32 graphs.
        calibration: feeds, input name to ``int64 [batch, sequence]``, padded as in use.
        settings: as ``static`` takes them; ``embeddings`` in 8 or 4 bits is refused by the check of the finished graph.
        out: folder for the new graphs.
        progress: told after each calibration batch.

    Raises:
        QuantizeError: as ``static`` and ``float16`` raise it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        in_int8 = static.quantize(graphs, calibration, settings, Path(scratch), progress)
        typed = cast_graphs(
            in_int8,
            calibration,
            replace(settings, keep_float=()),
            out,
            progress,
            low=ir.DataType.FLOAT16,
            limit=float16.LIMIT,
        )
    made = []
    for cast, pairs in zip(typed.graphs, in_int8.graphs, strict=True):
        lint(load(cast.path).graph, cast.path.name)
        made.append(
            replace(
                cast,
                method="static_float16",
                recipe={**cast.recipe, **pairs.recipe, "embeddings": cast.recipe["embeddings"]},
            )
        )
    return replace(graphs, graphs=tuple(made))
