"""ONNX in hand and on disk: small helpers over onnx_ir that export and every method share, weights to INT8 among them."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekit.spec.errors import QuantizeError, near
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress, silent
from edgekit.spec.quantization import Quantization

__all__ = [
    "EXTERNAL_FROM",
    "Linear",
    "check_layers",
    "constant",
    "find_producer",
    "in_float",
    "initializer",
    "levels",
    "linears",
    "load",
    "number",
    "only_user",
    "per_channel",
    "replace",
    "restored",
    "rewrite",
    "save",
    "sweep",
]

Change = Callable[[Graph, ir.Model, set[str]], Mapping[str, str]]
"""Changes a loaded graph in place, but for the layers that are named; what it returns is the recipe."""
Check = Callable[[ir.Graph, str], None]

EXTERNAL_FROM = 2**20
"""Tensors of at least this many bytes are stored beside the graph, in a file named by its content."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """A product with a weight, and its bias where the next node adds one.

    Attributes:
        node: the MatMul.
        last: the node whose output is the layer's: the Add of the bias, or the MatMul itself.
        x: activation ``[..., in]``.
        weight: ``[in, out]``.
        bias: ``[out]`` or None.
    """

    node: ir.Node
    last: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None

    @property
    def name(self) -> str:
        """What ``keep_float`` and reports call it: the module that it comes from, e.g. ``encoder.layer.3.output.dense``."""
        return re.sub(r"/MatMul(_\d+)?$", r"\1", self.node.name or self.weight.name or "linear")


def linears(graph: ir.Graph) -> list[Linear]:
    """The layers that are worth INT8: products of a token-wise activation with a constant weight.

    Left out: products of a single row (pooler, classifier: matrix-vector work that INT8 does not speed up) and those
    with fewer than 16 inputs or outputs (TensorRT's tiles; nvidia-modelopt leaves them out too).
    """
    found = []
    for node in graph:
        if node.op_type != "MatMul" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        x, weight = node.inputs[0], node.inputs[1]
        array = constant(weight)
        if (
            array is None
            or array.ndim != 2
            or min(array.shape) < 16
            or x.shape is None
            or len(x.shape) < 3
            or constant(x) is not None
        ):
            continue
        add, bias = only_user(node.outputs[0]), None
        if add is not None and add.op_type == "Add":
            other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
            shape = constant(other)
            bias = other if shape is not None and shape.shape == (array.shape[1],) else None
        found.append(Linear(node, add if bias is not None and add is not None else node, x, weight, bias))
    return found


def in_float(graph: ir.Graph, settings: Quantization) -> set[str]:
    """Names of the layers of a graph that ``keep_float`` means."""
    return {
        layer.name
        for layer in linears(graph)
        if any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in settings.keep_float)
    }


def check_layers(graphs: GraphSet, settings: Quantization) -> None:
    """Refuses layers in ``keep_float`` that none of the graphs has.

    Raises:
        QuantizeError: for such a name, with the nearest known one.
    """
    if not settings.keep_float:
        return
    known = [layer.name for graph in graphs.graphs for layer in linears(load(graph.path).graph)]
    for pattern in settings.keep_float:
        if not fnmatch.filter(known, pattern):
            shown = ", ".join(known[:4]) + (f" ... {known[-1]} ({len(known)} in all)" if len(known) > 5 else "")
            raise QuantizeError(
                f"keep_float names the layer '{pattern}', which the graph does not have.{near(pattern, known)} Layers: {shown}.",
                code="layer-unknown",
            )


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array behind a value that is known when the graph is made, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def number(value: ir.Value | None) -> float | None:
    """A constant of one element as a float, or None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def find_producer(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node that makes ``value``, if it is an ``op``."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that uses a value, if it is just one."""
    users = list(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Adds a constant under a name that is still free."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    value = ir.val(unique, const_value=ir.tensor(array, name=unique))
    graph.register_initializer(value)
    return value


def replace(graph: ir.Graph, old: ir.Node, new: Sequence[ir.Node], result: ir.Value) -> None:
    """Puts ``new`` nodes in the place of ``old``; whoever used its output now uses ``result``, which takes its type, and its name from a new node."""
    for node in new:
        node.metadata_props.update(old.metadata_props)
    if result.producer() in new:
        ir.convenience.replace_nodes_and_values(graph, old, [old], new, old.outputs, [result])
        return
    # What was there before keeps its name: it may be an input of the graph.
    if result.type is None:
        result.type, result.shape = old.outputs[0].type, old.outputs[0].shape
    ir.convenience.replace_all_uses_with(old.outputs[0], result, replace_graph_outputs=True)
    graph.remove(old, safe=True)


def sweep(model: ir.Model) -> None:
    """Removes what nothing uses, folds what is there twice, and orders the nodes."""
    passes.IdentityEliminationPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.TopologicalSortPass()(model)


def load(path: Path) -> ir.Model:
    """Reads a graph; its large tensors stay in their files until they are used."""
    return ir.load(path)


def save(model: ir.Model, path: Path) -> None:
    """Writes a graph, its large tensors to ``weights/SHA256`` beside it, once each.

    Graphs in one folder share what is equal. The same model gives the same bytes.
    """
    (path.parent / "weights").mkdir(parents=True, exist_ok=True)
    kept = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < EXTERNAL_FROM:
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.tensor(tensor.numpy(), name=value.name)
            continue
        data = tensor.tobytes()
        location = f"weights/{hashlib.sha256(data).hexdigest()}"
        if not (path.parent / location).exists():
            (path.parent / location).write_bytes(data)
        kept.append((value, tensor))
        value.const_value = ir.ExternalTensor(
            location,
            0,
            len(data),
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
            base_dir=path.parent,
        )
    model.producer_name, model.producer_version = "edgekit", None
    ir.save(model, path)
    for value, tensor in kept:
        value.const_value = tensor


def rewrite(
    graphs: GraphSet,
    settings: Quantization,
    out: Path,
    method: str,
    change: Change,
    progress: Progress = silent,
    check: Check | None = None,
) -> GraphSet:
    """Writes a changed copy of each graph of a set.

    Args:
        graphs: cleaned float32 graphs.
        settings: ``keep_float`` names layers, which the recipe then lists.
        out: folder for the new graphs.
        method: what the new graphs are called.
        change: changes one in place, and says what was chosen for it.
        progress: told after each graph.
        check: of the finished graph, by its file's name.
    """
    made = []
    for index, graph in enumerate(graphs.graphs):
        model, path = load(graph.path), out / graph.path.name
        kept = in_float(model.graph, settings)
        recipe = change(graph, model, kept)
        sweep(model)
        if check is not None:
            check(model.graph, path.name)
        save(model, path)
        made.append(
            Graph(
                graph.signature, path, method, {**recipe, **({"keep_float": ", ".join(sorted(kept))} if kept else {})}
            )
        )
        progress(f"quantize {method}", index + 1, len(graphs.graphs))
    return dataclasses.replace(graphs, graphs=tuple(made))


def levels(settings: Quantization) -> int:
    """Steps of a weight to each side of zero.

    On x86 without VNNI the product of a UINT8 and an INT8 pair is summed in 16 bits, which saturate (onnxruntime issue
    5849). With weights of 7 bits the largest sum, 2 x 255 x 63, fits.
    """
    return 63 if settings.weight_bits == 7 else 127


def per_channel(weight: np.ndarray, steps: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric INT8, one scale per output channel, rounding half to even.

    Args:
        weight: float32 ``[in, out]``.
        steps: to each side of zero, see :func:`levels`.

    Returns:
        int8 ``[in, out]`` within -steps..steps, and float32 scales ``[out]``, positive also for a channel of zeros.
    """
    scale = (np.abs(weight).max(axis=0) / steps).astype(np.float32)
    scale[scale == 0] = np.float32(1.0)  # a dead channel: any positive scale gives its zeros back
    return np.clip(np.rint(weight / scale), -steps, steps).astype(np.int8), scale


def restored(graph: ir.Graph, layer: Linear, steps: int = 127) -> ir.Value:
    """INT8 weight, scales and zero points of a linear as constants, and the DequantizeLinear in front of it, whose output this is."""
    weight, label = constant(layer.weight), layer.weight.name or f"{layer.name}.weight"
    assert weight is not None
    values, scales = per_channel(weight, steps)
    parts = [
        initializer(graph, f"{label}_int8", values),
        initializer(graph, f"{label}_scale", scales),
        initializer(graph, f"{label}_zero_point", np.zeros(scales.shape, np.int8)),
    ]
    back = ir.node("DequantizeLinear", parts, attributes={"axis": 1}, name=f"{label}/DequantizeLinear")
    back.outputs[0].type, back.outputs[0].shape = layer.weight.type, layer.weight.shape
    graph.insert_before(layer.node, back)
    return back.outputs[0]
