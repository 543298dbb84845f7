"""ONNX graphs in memory and on disk: helpers over onnx_ir that the export and every quantization method share."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekit.spec.digests import sha256
from edgekit.spec.errors import QuantizeError, near
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import Progress, silent
from edgekit.spec.quantization import Quantization

__all__ = [
    "EXTERNAL_FROM",
    "Linear",
    "check_layers",
    "constant",
    "dequantize_weight",
    "discard",
    "find_producer",
    "float_layer_names",
    "initializer",
    "insert_dequantize",
    "layer_names",
    "levels",
    "linears",
    "load",
    "number",
    "only_user",
    "per_channel",
    "replace",
    "rewrite",
    "save",
    "sweep",
]

Change = Callable[[Graph, ir.Model, set[str]], Mapping[str, str]]
"""Function that changes a loaded model in place, except the named layers, and returns the recipe."""

Check = Callable[[ir.Graph, str], None]
"""Function that raises if a finished graph is invalid; it takes the graph and its file name."""

EXTERNAL_FROM = 2**20
"""Size in bytes from which a tensor is stored beside the graph, in a file named by its content."""

_SMALLEST_LINEAR = 16  # Width of TensorRT's tiles; nvidia-modelopt excludes smaller layers too.


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer: the product with a weight, and its bias if the next node adds one.

    Attributes:
        node: MatMul node.
        last: Node whose output is the layer's output: the Add of the bias, or the MatMul itself.
        x: Activation ``[..., in]``.
        weight: Weight ``[in, out]``.
        bias: Bias ``[out]``, or None.
    """

    node: ir.Node
    last: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None

    @property
    def name(self) -> str:
        """Name in ``keep_float`` and in reports: that of the source module, e.g. ``encoder.layer.3.output.dense``."""
        return re.sub(r"/MatMul(_\d+)?$", r"\1", self.node.name or self.weight.name or "linear")


def linears(graph: ir.Graph) -> list[Linear]:
    """Return the layers that are worth INT8: products of a token-wise activation with a constant weight.

    Not included are products of a single row (pooler and classifier: INT8 does not speed up matrix-vector products) and
    layers with fewer than 16 inputs or outputs.
    """
    layers = []
    for node in graph:
        if node.op_type != "MatMul":
            continue
        x, weight = node.inputs
        array = constant(weight)
        if x is None or weight is None or array is None or array.ndim != 2 or min(array.shape) < _SMALLEST_LINEAR:
            continue
        if x.shape is None or len(x.shape) < 3 or constant(x) is not None:
            continue
        add, bias = _find_bias(node, array.shape[1])
        layers.append(Linear(node, node if add is None else add, x, weight, bias))
    return layers


def _find_bias(node: ir.Node, width: int) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the Add behind a MatMul and its constant bias ``[width]``; None and None if there is no bias."""
    add = only_user(node.outputs[0])
    if add is None or add.op_type != "Add":
        return None, None
    bias = add.inputs[1 if add.inputs[0] is node.outputs[0] else 0]
    array = constant(bias)
    if array is None or array.shape != (width,):
        return None, None
    return add, bias


def float_layer_names(graph: ir.Graph, settings: Quantization) -> set[str]:
    """Return the names of a graph's layers that match ``keep_float``."""
    return layer_names(graph, settings.keep_float)


def layer_names(graph: ir.Graph, patterns: Sequence[str]) -> set[str]:
    """Return the names of a graph's layers that match one of several patterns."""
    all_names = {layer.name for layer in linears(graph)}
    names: set[str] = set()
    for pattern in patterns:
        names |= {name for name in all_names if fnmatch.fnmatchcase(name, pattern)}
    return names


def check_layers(graphs: GraphSet, settings: Quantization) -> None:
    """Raise if ``keep_float`` or ``keep_int8`` names a layer that no graph has.

    Raises:
        QuantizeError: A pattern matches no layer; the message suggests the nearest name.
    """
    patterns = [("keep_float", pattern) for pattern in settings.keep_float]
    patterns += [("keep_int8", pattern) for pattern in settings.keep_int8]
    if not patterns:
        return
    names = [layer.name for graph in graphs.graphs for layer in linears(load(graph.path).graph)]
    for key, pattern in patterns:
        if fnmatch.filter(names, pattern):
            continue
        listing = ", ".join(names[:4])
        if len(names) > 5:
            listing += f" ... {names[-1]} ({len(names)} in all)"
        raise QuantizeError(
            f"{key} names the layer '{pattern}', which the graph does not have.{near(pattern, names)} "
            f"Layers: {listing}.",
            code="layer-unknown",
        )


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of a constant value, or None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def number(value: ir.Value | None) -> float | None:
    """Return a constant with one element as a float, or None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def find_producer(value: ir.Value | None, op: str) -> ir.Node | None:
    """Return the node that produces ``value`` if it is an ``op``, or None."""
    if value is None:
        return None
    node = value.producer()
    return node if node is not None and node.op_type == op else None


def only_user(value: ir.Value) -> ir.Node | None:
    """Return the only node that uses a value; None if there are several, or if the value is a graph output."""
    users = list(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add a constant to a graph under a name that is not yet in use, and return it."""
    unique = name
    count = 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    value = ir.val(unique, const_value=ir.tensor(array, name=unique))
    graph.register_initializer(value)
    return value


def replace(graph: ir.Graph, old: ir.Node, new: Sequence[ir.Node], result: ir.Value) -> None:
    """Replace a node by new nodes.

    Args:
        graph: Graph to change in place.
        old: Node to remove.
        new: Nodes to insert.
        result: Value that all users of ``old`` read from now on. It takes the type of the old output, and also its name
            if a new node produces it.
    """
    for node in new:
        node.metadata_props.update(old.metadata_props)
    if result.producer() in new:
        ir.convenience.replace_nodes_and_values(graph, old, [old], new, old.outputs, [result])
        return
    # An existing value keeps its name: it may be an input of the graph.
    if result.type is None:
        result.type = old.outputs[0].type
        result.shape = old.outputs[0].shape
    ir.convenience.replace_all_uses_with(old.outputs[0], result, replace_graph_outputs=True)
    graph.remove(old, safe=True)


def sweep(model: ir.Model) -> None:
    """Remove unused nodes, merge duplicate nodes, and sort the nodes topologically, in place."""
    passes.IdentityEliminationPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.TopologicalSortPass()(model)


def load(path: Path) -> ir.Model:
    """Load a model; large tensors stay in their files until they are used."""
    return ir.load(path)


def discard(model: ir.Model) -> None:
    """Free the constants of a model that is no longer used.

    Nodes and values refer to each other, so a model lives until Python collects cycles. In a process that has imported
    torch this takes minutes, and until then each model occupies memory as large as its weights.
    """
    for graph in model.graphs():
        # onnx-ir 1.1.0 counts the uses of inputs and initializers, and keeps the entry of a value that was removed.
        removed = getattr(graph.inputs, "_ref_counter", ())
        for value in (*graph.initializers.values(), *removed):
            value.const_value = None


def save(model: ir.Model, path: Path) -> None:
    """Write a model, with each large tensor in its own file ``weights/SHA256`` beside it.

    Graphs in one folder share equal tensors. The same model always gives the same bytes.
    """
    (path.parent / "weights").mkdir(parents=True, exist_ok=True)
    originals = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < EXTERNAL_FROM:
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.tensor(tensor.numpy(), name=value.name)
            continue
        location = f"weights/{_store(tensor, path.parent / 'weights')}"
        originals.append((value, tensor))
        value.const_value = ir.ExternalTensor(
            location,
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
            base_dir=path.parent,
        )
    model.producer_name = "edgekit"
    model.producer_version = None
    ir.save(model, path)
    for value, tensor in originals:
        value.const_value = tensor


def _store(tensor: ir.TensorProtocol, folder: Path) -> str:
    """Write the bytes of a tensor into a folder, under their sha256 in hex, which is returned."""
    source = _whole_file(tensor)
    if source is not None:
        # A file is copied without being mapped: mapped pages would count as memory of this process.
        digest = sha256(source)
        if not (folder / digest).exists():
            shutil.copyfile(source, folder / digest)
        return digest
    data = tensor.tobytes()
    digest = hashlib.sha256(data).hexdigest()
    if not (folder / digest).exists():
        (folder / digest).write_bytes(data)
    return digest


def _whole_file(tensor: ir.TensorProtocol) -> Path | None:
    """Return the file of an external tensor that holds nothing else; None for any other tensor."""
    if not isinstance(tensor, ir.ExternalTensor) or tensor.offset:
        return None
    file = Path(tensor.path)
    return file if file.stat().st_size == tensor.nbytes else None


def rewrite(
    graphs: GraphSet,
    settings: Quantization,
    out: Path,
    method: str,
    change: Change,
    progress: Progress = silent,
    check: Check | None = None,
) -> GraphSet:
    """Write a changed copy of each graph of a set.

    Args:
        graphs: Cleaned float32 graphs.
        settings: Settings whose ``keep_float`` names layers; the recipe lists them.
        out: Folder for the new graphs.
        method: Method name of the new graphs.
        change: Function that changes one model in place and returns its recipe.
        progress: Progress callback, called after each graph.
        check: Check of each finished graph.
    """
    written = []
    for index, graph in enumerate(graphs.graphs):
        model = load(graph.path)
        path = out / graph.path.name
        float_layers = float_layer_names(model.graph, settings)
        recipe = dict(change(graph, model, float_layers))
        if float_layers:
            recipe["keep_float"] = ", ".join(sorted(float_layers))
        sweep(model)
        if check is not None:
            check(model.graph, path.name)
        save(model, path)
        discard(model)
        written.append(Graph(graph.signature, path, method, recipe))
        progress(f"quantize {method}", index + 1, len(graphs.graphs))
    return dataclasses.replace(graphs, graphs=tuple(written))


def levels(settings: Quantization) -> int:
    """Return the number of weight levels on each side of zero.

    On x86 without VNNI, the products of a UINT8 and an INT8 pair are summed in 16 bits, which saturates (onnxruntime
    issue 5849). With 7-bit weights the largest sum, 2 x 255 x 63, fits.
    """
    return 63 if settings.weight_bits == 7 else 127


def per_channel(weight: np.ndarray, steps: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a weight to symmetric INT8 with one scale per output channel, rounding half to even.

    Args:
        weight: Weight, float32 ``[in, out]``.
        steps: Number of levels on each side of zero, see :func:`levels`.

    Returns:
        The values, int8 ``[in, out]`` within -steps to steps, and the scales, float32 ``[out]``. Scales are positive,
        also for a channel of zeros.
    """
    # One temporary array as large as the weight.
    largest = np.maximum(weight.max(axis=0), -weight.min(axis=0))
    scale = (largest / steps).astype(np.float32)
    scale[scale == 0] = np.float32(1.0)  # Any positive scale reproduces a channel of zeros.
    values = weight / scale
    np.rint(values, out=values)
    np.clip(values, -steps, steps, out=values)
    return values.astype(np.int8), scale


def dequantize_weight(graph: ir.Graph, layer: Linear, steps: int = 127) -> ir.Value:
    """Store a layer's weight as INT8 constants and insert a DequantizeLinear before the layer.

    Args:
        graph: Graph to change in place.
        layer: Linear layer; its input is not reconnected.
        steps: Number of levels on each side of zero, see :func:`levels`.

    Returns:
        Output of the DequantizeLinear.
    """
    weight = constant(layer.weight)
    assert weight is not None
    label = layer.weight.name or f"{layer.name}.weight"
    values, scales = per_channel(weight, steps)
    inputs = [
        initializer(graph, f"{label}_int8", values),
        initializer(graph, f"{label}_scale", scales),
        initializer(graph, f"{label}_zero_point", np.zeros(scales.shape, np.int8)),
    ]
    return insert_dequantize(graph, layer, inputs, label, axis=1)


def insert_dequantize(
    graph: ir.Graph, layer: Linear, inputs: Sequence[ir.Value], label: str, **attributes: int
) -> ir.Value:
    """Insert a DequantizeLinear of a layer's weight before the layer, and return its output."""
    node = ir.node("DequantizeLinear", inputs, attributes=attributes, name=f"{label}/DequantizeLinear")
    node.outputs[0].type = layer.weight.type
    node.outputs[0].shape = layer.weight.shape
    graph.insert_before(layer.node, node)
    return node.outputs[0]
