"""What TensorRT would refuse in a quantized graph, found while the graph is made rather than on the device.

The rules are those of the TensorRT developer guide ("Explicit quantization") and of its ONNX parser, and were held against
the parser and builder of TensorRT-RTX 1.7 (which need no GPU), on a graph per rule. That version refuses a zero point that
is not 0, a scale that is 0, negative or NaN, a count of scales that is not the axis, UINT8 and INT16 weights, INT32 (bias)
in ``DequantizeLinear``, INT8 constants that something else reads, ``DynamicQuantizeLinear``, ``MatMulInteger`` and
``QLinearMatMul``. It lets pass, and other versions or the mathematics do not: UINT8 activations (refused up to 10.1), a pair without zero
point (UINT8 to ONNX, INT8 to TensorRT), per-axis activations (the guide allows one scale), an infinite scale, constants
beyond float16's range (minus infinity once the graph is cast, and 0 times that is NaN), and operators of other domains,
which it takes for the standard ones of that name.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import onnx_ir as ir

from edgekit.quantize.graphs import constant
from edgekit.spec.errors import QuantizeError

LARGEST_FLOAT16 = 65504.0

_RUN_TIME = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def lint(graph: ir.Graph, where: str) -> None:
    """Refuses a Q/DQ graph that TensorRT would refuse or miscompute.

    Args:
        graph: the finished graph.
        where: what the message calls it, e.g. its file name.

    Raises:
        QuantizeError: for the first rule that is broken, with the node and what to do.
    """
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            _refuse(where, node, f"is an operator of {node.domain}", "Use the standard operators of ONNX.")
        if node.op_type in _RUN_TIME or node.op_type.startswith("QLinear"):
            _refuse(where, node, "computes in integers outside a Q/DQ pair", "Use QuantizeLinear and DequantizeLinear with constant scales.")
        if node.op_type in _PAIR:
            _check_pair(node, where)
    for value in graph.initializers.values():
        _check_constant(value, where)


def _check_pair(node: ir.Node, where: str) -> None:
    """The rules for one QuantizeLinear or DequantizeLinear."""
    data, scale = node.inputs[0], constant(node.inputs[1])
    weight = _weight_shape(data)
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    kind = _quantized_type(node, data, zero_point)
    if kind == ir.DataType.INT32:
        _refuse(where, node, "restores an INT32 constant, a quantized bias", "Keep biases in float.")
    if kind not in (None, ir.DataType.INT8):
        _refuse(where, node, f"quantizes to {kind.name}", "Use INT8, symmetric.")
    if zero_point is not None:
        zero = constant(zero_point)
        if zero is None or zero.any():
            _refuse(where, node, "has a zero point that is not 0" if zero is not None else "has a zero point made at run time", "Quantize symmetrically.")
    if scale is None:
        _refuse(where, node, "has a scale that is made at run time", "Use a constant scale from calibration.")
    if not np.isfinite(scale).all() or not (scale > 0).all():
        _refuse(where, node, "has a scale that is not a positive finite number", "Give channels that are zero throughout a small positive scale.")
    if scale.size == 1:
        return
    if weight is None:
        _refuse(where, node, f"quantizes an activation with {scale.size} scales", "Use one scale for an activation; only constant weights may have more.")
    axis = node.attributes.get_int("axis", 1)
    if scale.ndim != 1 or not -len(weight) <= axis < len(weight) or weight[axis] != scale.size:
        _refuse(where, node, f"has {scale.size} scales on axis {axis} of a weight {list(weight)}", "Use one scale per output channel.")


def _check_constant(value: ir.Value, where: str) -> None:
    """INT8 belongs to a DequantizeLinear, and floats must survive float16."""
    if value.dtype in (ir.DataType.INT8, ir.DataType.INT4):
        for use in value.uses():
            if use.node.op_type not in _PAIR:
                _refuse(where, use.node, f"reads the {value.dtype.name} constant '{value.name}'", "Put a DequantizeLinear directly behind the constant.")
    array = constant(value)
    if array is None or value.dtype is None or not value.dtype.is_floating_point() or array.size == 0:
        return
    largest = np.abs(array.astype(np.float64)).max()
    if not largest <= LARGEST_FLOAT16:  # this way round NaN is refused too
        user = next((use.node for use in value.uses()), None)
        what = f"reads the constant '{value.name}' of size {largest:g}, beyond float16's {LARGEST_FLOAT16:g}"
        _refuse(where, user, what, "Use -10000 for minus infinity in a mask.")


def _weight_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Shape of the constant behind a value: itself, or what its QuantizeLinear reads."""
    array = constant(value)
    if array is None and value is not None and (node := value.producer()) is not None and node.op_type == "QuantizeLinear":
        array = constant(node.inputs[0])
    return None if array is None else array.shape


def _quantized_type(node: ir.Node, data: ir.Value | None, zero_point: ir.Value | None) -> ir.DataType | None:
    """Type on the integer side of a node, or None where it cannot be told (then it is what its pair says)."""
    if node.op_type == "DequantizeLinear" and data is not None and data.dtype is not None:
        return data.dtype
    if zero_point is not None:
        return zero_point.dtype
    if node.op_type == "DequantizeLinear":
        return None
    return ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)  # what ONNX says of an absent zero point


def _refuse(where: str, node: ir.Node | None, what: str, remedy: str) -> NoReturn:
    name = "the graph" if node is None else f"node '{node.name or node.op_type}' ({node.op_type})"
    raise QuantizeError(f"{where}: {name} {what}, which TensorRT does not take. {remedy}")
