"""Simplification of an exported graph to the encoder's own operators.

A graph from ``torch.onnx.export`` is correct, but contains traces of the Python code: shapes computed at run time,
position ids sliced from a buffer, activations of five nodes. Each function here simplifies one such pattern in place
and returns the number of changes; none changes the result of the graph beyond rounding. Runtimes match their fused
kernels on these simple forms.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekit.export._flat import unflatten_products
from edgekit.export._gelu import fuse_gelu
from edgekit.export._mask import HIDDEN, canonical_masks
from edgekit.export._positions import restrict_positions
from edgekit.quantize.graphs import Linear, constant, find_producer, initializer, linears, replace, sweep


def clean(model: ir.Model, max_length: int) -> None:
    """Apply all simplifications to a model in place.

    Args:
        model: Model exported by torch.
        max_length: Length of the longest row the model accepts, in tokens.
    """
    canonical_masks(model, max_length)
    fuse_gelu(model)
    for step in (
        static_reshapes,
        unflatten_products,
        slice_positions,
        drop_nan_guards,
        drop_open_masks,
        finite_constants,
        floats_only,
    ):
        step(model.graph)
        sweep(model)
    restrict_positions(model)
    sweep(model)
    name_nodes(model.graph)
    pack_projections(model.graph)
    sweep(model)
    # The metadata hold stack traces with paths of the build machine.
    passes.ClearMetadataAndDocStringPass()(model)


def static_reshapes(graph: ir.Graph) -> int:
    """Replace a Reshape's shape that is computed at run time by a constant.

    An axis that equals the input's axis at the same index becomes 0 (copy); one other unknown axis may become -1.
    """
    count = 0
    for node in graph:
        if node.op_type != "Reshape" or constant(node.inputs[1]) is not None:
            continue
        source = node.inputs[0]
        result = node.outputs[0]
        if source is None or source.shape is None or result.shape is None:
            continue
        shape = []
        unknown = 0
        for axis, dim in enumerate(result.shape):
            if isinstance(dim, int):
                shape.append(dim)
            elif axis < len(source.shape) and dim.value is not None and dim == source.shape[axis]:
                shape.append(0)
            else:
                shape.append(-1)
                unknown += 1
        if unknown > 1:
            continue
        node.replace_input_with(1, initializer(graph, f"{result.name}_shape", np.array(shape, np.int64)))
        node.attributes.pop("allowzero", None)
        count += 1
    return count


def slice_positions(graph: ir.Graph) -> int:
    """Replace the look-up of positions 0..n by a slice: Gather(table, Slice(arange, 0, n)) -> Slice(table, 0, n)."""
    count = 0
    for node in list(graph):
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        table, index = node.inputs
        cut = index.producer() if index is not None else None
        if table is None or cut is None or cut.op_type != "Slice" or constant(table) is None:
            continue
        ids = constant(cut.inputs[0])
        start = constant(cut.inputs[1])
        axes = constant(cut.inputs[3])
        if ids is None or start is None or axes is None or ids.ndim != 2 or axes.tolist() != [1]:
            continue
        first = int(ids[0, 0])
        is_range = ids.shape[0] == 1 and np.array_equal(ids[0], np.arange(first, first + ids.shape[1]))
        if not is_range or start.tolist() != [0]:
            continue
        rows = constant(table)[first : first + ids.shape[1]]  # type: ignore[index]
        table_rows = len(constant(table))  # type: ignore[arg-type]
        whole = table if len(rows) == table_rows else initializer(graph, f"{table.name}_rows", rows)
        zero = initializer(graph, "axis_0", np.array([0], np.int64))
        sliced = ir.node("Slice", [whole, cut.inputs[1], cut.inputs[2], zero])
        sliced.outputs[0].type = node.outputs[0].type
        lifted = ir.node("Unsqueeze", [sliced.outputs[0], zero])
        replace(graph, node, [sliced, lifted], lifted.outputs[0])
        count += 1
    return count


def drop_nan_guards(graph: ir.Graph) -> int:
    """Replace Where(IsNaN(p), 0, p) by p behind a Softmax: with a finite mask its rows are never NaN."""
    count = 0
    for node in list(graph):
        if node.op_type != "Where" or node.inputs[0] is None:
            continue
        test = node.inputs[0].producer()
        value = node.inputs[2]
        if test is None or test.op_type != "IsNaN" or value is None or test.inputs[0] is not value:
            continue
        if value.producer() is not None and value.producer().op_type == "Softmax":  # type: ignore[union-attr]
            replace(graph, node, [], value)
            count += 1
    return count


def drop_open_masks(graph: ir.Graph) -> int:
    """Replace Add(scores, Where(all true, 0, low)) by the scores.

    The mask of a model whose rows have one size hides nothing, but runtimes fuse no attention behind it.
    """
    count = 0
    for node in list(graph):
        for scores, mask in (node.inputs, node.inputs[::-1]) if node.op_type == "Add" else ():
            chosen = find_producer(mask, "Where")
            if chosen is None or scores is None or scores.shape != node.outputs[0].shape:
                continue
            test = find_producer(chosen.inputs[0], "Expand")
            condition = chosen.inputs[0] if test is None else test.inputs[0]
            visible = constant(condition)
            addend = constant(chosen.inputs[1])
            if visible is not None and addend is not None and visible.all() and not addend.any():
                replace(graph, node, [], scores)
                count += 1
                break
    return count


def name_nodes(graph: ir.Graph) -> None:
    """Name nodes and unnamed weights after the module that they come from.

    A user can find ``encoder.layer.3.output.dense`` in the model, but not ``node_MatMul_212``.
    """
    used_names: set[str] = set()
    for index, node in enumerate(graph):
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        parts = [s for s in scopes.strip("[]").replace("'", "").split(", ") if s]
        module = parts[-2].removeprefix("model.") if len(parts) > 1 else ""
        name = f"{module}/{node.op_type}" if module else f"{node.op_type}_{index}"
        node.name = name if name not in used_names else f"{name}_{index}"
        used_names.add(node.name)
        weight = node.inputs[1] if node.op_type == "MatMul" and len(node.inputs) > 1 else None
        if weight is not None and weight.is_initializer() and module:
            renamed = f"{module}.weight_transposed"
            if renamed not in graph.initializers and len(weight.uses()) == 1:
                graph.initializers.pop(weight.name)  # type: ignore[arg-type]
                weight.name = renamed
                graph.register_initializer(weight)


def finite_constants(graph: ir.Graph) -> int:
    """Replace constants that stand for minus infinity, e.g. the lowest float32 in a mask, by -10000."""
    count = 0
    for name, value in graph.initializers.items():
        array = constant(value)
        if array is None or array.dtype.kind != "f" or array.size == 0 or array.min() > -1e30:
            continue
        value.const_value = ir.tensor(np.where(array < -1e30, HIDDEN, array).astype(array.dtype), name=name)
        count += 1
    return count


def floats_only(graph: ir.Graph) -> int:
    """Replace CumSum of integers by CumSum of float32, and Clip of integers by Max and Min.

    TensorRT 10's parser supports both operators for floats only. The summands are positions and masks, and float32
    counts exactly up to 2**24.
    """
    count = 0
    for node in list(graph):
        value = node.inputs[0] if node.inputs else None
        if node.op_type not in ("CumSum", "Clip") or value is None:
            continue
        if value.dtype not in (ir.DataType.INT32, ir.DataType.INT64):
            continue
        dtype: ir.DataType = value.dtype
        if node.op_type == "CumSum":
            wide = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT})
            summed = ir.node("CumSum", [wide.outputs[0], node.inputs[1]], attributes=dict(node.attributes))
            steps = [wide, summed, ir.node("Cast", summed.outputs, attributes={"to": value.dtype})]
            dtype = ir.DataType.FLOAT
        else:
            steps = []
            for op, bound in zip(("Max", "Min"), node.inputs[1:], strict=False):
                if bound is not None:
                    steps.append(ir.node(op, [steps[-1].outputs[0] if steps else value, bound]))
        for step in steps[:-1]:
            step.outputs[0].dtype = dtype
            step.outputs[0].shape = node.outputs[0].shape
        replace(graph, node, steps, steps[-1].outputs[0] if steps else value)
        count += 1
    return count


def pack_projections(graph: ir.Graph) -> int:
    """Pack linears that read the same activation (Q, K and V) into one linear and a Split.

    One larger product uses both cores better, and needs one quantizer instead of three. Static INT8 of MiniLM took a
    third of the time in ONNX Runtime, which fuses only an activation with one reader, and three quarters in OpenVINO.
    Layers with a bias and layers without are packed separately. Returns the number of packed linears.
    """
    groups: dict[tuple[ir.Value, bool], list[Linear]] = defaultdict(list)
    for layer in linears(graph):
        groups[layer.x, layer.bias is None].append(layer)
    packed = [group for group in groups.values() if len(group) > 1]
    for group in packed:
        _pack(graph, group)
    return len(packed)


def _pack(graph: ir.Graph, group: list[Linear]) -> None:
    """Replace linears that read one activation, all with a bias or all without, by one linear and a Split."""
    x = group[0].x
    weights = [array for layer in group if (array := constant(layer.weight)) is not None]
    biases = [array for layer in group if (array := constant(layer.bias)) is not None]
    names = [(layer.node.name or "linear").removesuffix("/MatMul") for layer in group]
    name = names[0].rpartition(".")[0] + "." + "_".join(n.rpartition(".")[2] for n in names)
    sizes = np.array([weight.shape[1] for weight in weights], np.int64)
    weight = initializer(graph, f"{name}.weight_transposed", np.concatenate(weights, axis=1))
    nodes = [ir.node("MatMul", [x, weight], name=f"{name}/MatMul")]
    if biases:
        bias = initializer(graph, f"{name}.bias", np.concatenate(biases))
        nodes.append(ir.node("Add", [nodes[0].outputs[0], bias], name=f"{name}/Add"))
    for node in nodes:
        node.outputs[0].type = group[0].last.outputs[0].type
        node.outputs[0].shape = None if x.shape is None else ir.Shape([*x.shape[:-1], int(sizes.sum())])
    split = ir.node(
        "Split",
        [nodes[-1].outputs[0], initializer(graph, "split", sizes)],
        attributes={"axis": -1},
        num_outputs=len(group),
        name=f"{name}/Split",
    )
    for layer, part in zip(group, split.outputs, strict=True):
        replace(graph, layer.last, [*nodes, split] if layer is group[0] else [], part)
