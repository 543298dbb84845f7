"""Static INT8: explicit symmetric Q/DQ, one file that OpenVINO, ONNX Runtime and TensorRT read alike.

Placement follows NVIDIA's rules for explicit quantization (TensorRT developer guide, "Q/DQ placement recommendations"):
both inputs of every linear, per-channel weights, per-tensor activations, nothing between MatMul, bias and GELU,
LayerNorm, Softmax, scores and residual additions in float. One activation has one Q/DQ pair however many layers read it,
so Q, K and V share theirs. Zero points are 0: TensorRT takes nothing else.

Ranges come from the calibration samples through running histograms (``_ranges``), so memory does not grow with their
number; ``onnxruntime.quantization`` keeps every intermediate tensor of every sample until the end, which is why it is
not used here.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace as with_changes
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.quantize import Batches
from edgekit.quantize._graphs import Linear, constant, initializer, linears, load, save, sweep
from edgekit.quantize._ranges import LEVELS, Histogram, least_squares
from edgekit.quantize._weights import per_channel
from edgekit.spec.errors import QuantizeError
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress

BACKENDS = ("onnxruntime", "openvino")
NEEDS_SAMPLES = 16


def quantize(graphs: GraphSet, batches: Batches, out: Path, progress: Progress) -> GraphSet:
    """Writes the static INT8 form of each graph.

    Args:
        graphs: cleaned float32 graphs.
        batches: calibration feeds, input name to ``int64 [batch, sequence]``, padded as in use.
        out: folder for the new graphs.
        progress: told after each calibration batch.

    Raises:
        QuantizeError: for an activation with NaN or infinity, named by its node.
    """
    made = []
    for graph in graphs.graphs:
        model = load(graph.path)
        thresholds = {name: least_squares(h) for name, h in calibrate(model, batches, progress).items()}
        insert_pairs(model.graph, thresholds)
        sweep(model)
        path = out / graph.path.name
        save(model, path)
        made.append(Graph(graph.signature, path, "static"))
    return with_changes(graphs, graphs=tuple(made))


def calibrate(model: ir.Model, batches: Batches, progress: Progress) -> dict[str, Histogram]:
    """Runs the batches and counts the values of every linear's input.

    Returns:
        A histogram for each activation, by its name in the graph.

    Raises:
        QuantizeError: for NaN or infinity, with the node that made it.
    """
    import onnxruntime

    graph = model.graph
    wanted = {layer.x.name: layer.x for layer in linears(graph) if layer.x.name is not None}
    histograms = {name: Histogram() for name in wanted}
    own = len(graph.outputs)
    already = {v.name for v in graph.outputs}
    graph.outputs.extend(v for name, v in wanted.items() if name not in already)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "calibrate.onnx"
            save(model, path)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            fed = {i.name for i in session.get_inputs()}
            for index, batch in enumerate(batches):
                values = session.run(list(wanted), {n: a for n, a in batch.items() if n in fed})
                for (name, value), array in zip(wanted.items(), values, strict=True):
                    if not np.isfinite(array).all():
                        node = value.producer()
                        raise QuantizeError(
                            f"The output of node '{node.name if node else name}' is NaN or infinite on calibration batch {index + 1}, "
                            "so it has no range. Check the model and the samples: the float32 model has the same problem."
                        )
                    histograms[name].add(array)
                progress("calibrate", index + 1, len(batches))
    finally:
        del graph.outputs[own:]
    return histograms


def insert_pairs(graph: ir.Graph, thresholds: dict[str, float]) -> int:
    """Puts Q/DQ in front of both inputs of every linear that has a threshold; returns how many linears."""
    zero = np.array(0, np.int8)
    pairs: dict[str, ir.Value] = {}
    weights: dict[ir.Value, ir.Value] = {}
    count = 0
    for layer in linears(graph):
        x, name = layer.x, layer.x.name or ""
        if name not in thresholds:
            continue
        if name not in pairs:
            # A tensor that was zero throughout still needs a positive scale.
            step = np.array(max(thresholds[name], 1e-6) / LEVELS, np.float32)
            scale, point = initializer(graph, f"{name}_scale", step), initializer(graph, f"{name}_zero_point", zero)
            quantized = ir.node("QuantizeLinear", [x, scale, point], name=f"{name}/QuantizeLinear")
            restored = ir.node("DequantizeLinear", [quantized.outputs[0], scale, point], name=f"{name}/DequantizeLinear")
            restored.outputs[0].type, restored.outputs[0].shape = x.type, x.shape
            graph.insert_before(layer.node, [quantized, restored])
            pairs[name] = restored.outputs[0]
        layer.node.replace_input_with(0, pairs[name])
        if layer.weight not in weights:  # layers that share a weight (ALBERT) share its INT8 form
            weights[layer.weight] = _restored_weight(graph, layer, layer.weight.name or f"{name}_weight")
        layer.node.replace_input_with(1, weights[layer.weight])
        count += 1
    return count


def _restored_weight(graph: ir.Graph, layer: Linear, label: str) -> ir.Value:
    """INT8 weight, scales and zero points of a linear as constants, and the DequantizeLinear in front of it."""
    weight = constant(layer.weight)
    assert weight is not None
    values, scales = per_channel(weight)
    parts = [
        initializer(graph, f"{label}_int8", values),
        initializer(graph, f"{label}_scale", scales),
        initializer(graph, f"{label}_zero_point", np.zeros(scales.shape, np.int8)),
    ]
    back = ir.node("DequantizeLinear", parts, attributes={"axis": 1}, name=f"{label}/DequantizeLinear")
    back.outputs[0].type, back.outputs[0].shape = layer.weight.type, layer.weight.shape
    graph.insert_before(layer.node, back)
    return back.outputs[0]
