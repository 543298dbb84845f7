"""What the parser and builder of each supported TensorRT take, checked on the finished graph where no TensorRT is.

Rules that depend on the version, and those of strong typing:

- opsets: 9 to 20 for 10.x, to 25 for 11.x (support matrices; ONNX opset guide of TensorRT 11);
- operators and the types of what they read: the support matrix of the parser of 10.1 ("Supported ONNX Operators", docs/operators.md
  of onnx/onnx-tensorrt), the last that was published in full for a version up to 10.3. Later versions add to it (Attention in 10.14,
  RMSNormalization in 10.15) and take nothing away that is in it; so one table serves all, and what it lacks is refused for 10.3 only;
- constants where the parser wants constants (axes of Slice, Squeeze, Unsqueeze, CumSum and reductions; scales);
- one float type per node, which is what a strongly typed network asks for: ONNX's own type inference holds the graph to it.

Rules for Q/DQ and constants, which :func:`lint` finds while a graph is made, are those of the TensorRT developer guide ("Explicit quantization") and of its
ONNX parser, and were held against the parser and builder of TensorRT-RTX 1.7 (which need no GPU), on a graph per rule. That version refuses a zero point that
is not 0, a scale that is 0, negative or NaN, a count of scales that is not the axis, UINT8 and INT16 weights, INT32 (bias)
in ``DequantizeLinear``, INT8 constants that something else reads, ``DynamicQuantizeLinear``, ``MatMulInteger`` and
``QLinearMatMul``. It lets pass, and other versions or the mathematics do not: UINT8 activations (refused up to 10.1), a pair without zero
point (UINT8 to ONNX, INT8 to TensorRT), per-axis activations (the guide allows one scale), an infinite scale, constants
beyond float16's range (minus infinity once the graph is cast, and 0 times that is NaN), and operators of other domains,
which it takes for the standard ones of that name.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnx_ir as ir

from edgekit.quantize.graphs import constant, load
from edgekit.spec.engine import version
from edgekit.spec.errors import QuantizeError

__all__ = ["LARGEST_FLOAT16", "RELEASES", "check", "lint", "load_typed"]

RELEASES = ("10.3", "10.16", "11.4")
"""TensorRT releases that are checked for: those of JetPack 6.1, 7.2 and 7.2.2."""

LARGEST_FLOAT16 = 65504.0

_RUN_TIME = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_PAIR = ("QuantizeLinear", "DequantizeLinear")

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_NUMBERS = _FLOATS | {ir.DataType.INT32, ir.DataType.INT64}
_BOOL = {ir.DataType.BOOL}
_ANY = _NUMBERS | _BOOL

_OF_NUMBERS = """
    Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mod Mul Neg Pad Range ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu ScatterElements ScatterND Shrink
    Sign SpaceToDepth Sub Sum TopK
""".split()  # noqa: SIM905
_OF_FLOATS = """
    Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor
    Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization GRU HardSigmoid HardSwish Hardmax InstanceNormalization IsInf
    LayerNormalization LeakyRelu Log LogSoftmax LRN LSTM LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization Pow PRelu QuantizeLinear
    Reciprocal Resize RNN Round Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu
""".split()  # noqa: SIM905
_OF_ANY = """
    Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity OneHot Reshape ReverseSequence Shape Size Slice
    Split Squeeze Tile Transpose Trilu Unsqueeze Where
""".split()  # noqa: SIM905
_TAKES = {
    **dict.fromkeys(_OF_NUMBERS, _NUMBERS),
    **dict.fromkeys(_OF_FLOATS, _FLOATS),
    **dict.fromkeys(_OF_ANY, _ANY),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), _BOOL),
    "Cast": _ANY | {ir.DataType.UINT8},
    "DequantizeLinear": {ir.DataType.INT8},
}
_NEWER = {"Attention": "10.14", "RMSNormalization": "10.15", "RotaryEmbedding": "10.15"}
_CONSTANT_INPUTS = {
    "Slice": (3,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "CumSum": (1,),
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
}


def check(path: Path, minimum: str) -> list[str]:
    """Holds a finished graph to the rules of every supported TensorRT from a version on.

    Args:
        path: the graph.
        minimum: the oldest TensorRT that is to take it.

    Returns:
        The releases that it was checked for, e.g. ``["10.3", "10.16", "11.4"]``.

    Raises:
        QuantizeError: for the first rule that is broken, with the node, the version and what to do.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = load_typed(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as problem:
        raise QuantizeError(
            f"{path.name} is not a valid strongly typed ONNX graph: {problem}. Please report the model's architecture.",
            code="graph-types",
        ) from problem
    lint(model.graph, path.name)
    releases = [r for r in RELEASES if version(r) >= version(minimum)] or [minimum]
    opset = model.opset_imports.get("", 0)
    most = 25 if version(releases[0]) >= (11,) else 20
    if not 9 <= opset <= most:
        raise QuantizeError(
            f"{path.name} has opset {opset}, TensorRT {releases[0]} takes 9 to {most}. Export it with opset {most} or less.",
            code="graph-opset",
        )
    for node in model.graph:
        _check_node(node, path.name, releases[0])
    return releases


def load_typed(path: Path) -> ir.Model:
    """A graph with the type of every value as ONNX infers it, whatever made the graph; shared weights stay in their files."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    types = {
        v.name: ir.DataType(v.type.tensor_type.elem_type) for v in (*inferred.graph.value_info, *inferred.graph.output)
    }
    model = load(path)
    for node in model.graph:
        for value in node.outputs:
            if value.name in types:
                value.dtype = types[value.name]
    return model


def _check_node(node: ir.Node, where: str, oldest: str) -> None:
    kind = node.op_type
    named = f"{where}: node '{node.name or kind}' ({kind})"
    if kind not in _TAKES:
        since = _NEWER.get(kind)
        if since is not None and version(oldest) >= version(since):
            return
        known = (
            f'takes it from {since} on: state minimum = "{since}" in the target'
            if since
            else "does not have it: export the model without it"
        )
        raise QuantizeError(f"{named} is no operator of TensorRT {oldest}; TensorRT {known}.", code="tensorrt-operator")
    for place in (1, 2) if kind == "Where" else (0,):
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is not None and value.dtype is not None and value.dtype not in _TAKES[kind]:
            taken = ", ".join(sorted(t.name for t in _TAKES[kind]))
            raise QuantizeError(
                f"{named} reads {value.dtype.name}, TensorRT {oldest} takes it with {taken}. Cast its input.",
                code="tensorrt-operator",
            )
    for place in (*_CONSTANT_INPUTS.get(kind, ()), *((1,) if kind.startswith("Reduce") else ())):
        if place < len(node.inputs) and node.inputs[place] is not None and constant(node.inputs[place]) is None:
            raise QuantizeError(
                f"{named} has input {place} made at run time, TensorRT wants a constant there. Export the model with fixed axes.",
                code="tensorrt-operator",
            )
    if kind == "LayerNormalization" and len([v for v in node.outputs if v.uses() or v.is_graph_output()]) > 1:
        raise QuantizeError(
            f"{named} gives mean or deviation too, of which TensorRT has the normalized values alone. Export the model without them.",
            code="tensorrt-operator",
        )


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
            _refuse(
                where,
                node,
                "computes in integers outside a Q/DQ pair",
                "Use QuantizeLinear and DequantizeLinear with constant scales.",
            )
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
            _refuse(
                where,
                node,
                "has a zero point that is not 0" if zero is not None else "has a zero point made at run time",
                "Quantize symmetrically.",
            )
    if scale is None:
        _refuse(where, node, "has a scale that is made at run time", "Use a constant scale from calibration.")
    if not np.isfinite(scale).all() or not (scale > 0).all():
        _refuse(
            where,
            node,
            "has a scale that is not a positive finite number",
            "Give channels that are zero throughout a small positive scale.",
        )
    if scale.size == 1:
        return
    if weight is None:
        _refuse(
            where,
            node,
            f"quantizes an activation with {scale.size} scales",
            "Use one scale for an activation; only constant weights may have more.",
        )
    axis = node.attributes.get_int("axis", 1)
    if scale.ndim != 1 or not -len(weight) <= axis < len(weight) or weight[axis] != scale.size:
        _refuse(
            where,
            node,
            f"has {scale.size} scales on axis {axis} of a weight {list(weight)}",
            "Use one scale per output channel.",
        )


def _check_constant(value: ir.Value, where: str) -> None:
    """INT8 belongs to a DequantizeLinear, and floats must survive float16."""
    if value.dtype in (ir.DataType.INT8, ir.DataType.INT4):
        for use in value.uses():
            if use.node.op_type not in _PAIR:
                _refuse(
                    where,
                    use.node,
                    f"reads the {value.dtype.name} constant '{value.name}'",
                    "Put a DequantizeLinear directly behind the constant.",
                )
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
    if (
        array is None
        and value is not None
        and (node := value.producer()) is not None
        and node.op_type == "QuantizeLinear"
    ):
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
    return ir.DataType(
        node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8
    )  # what ONNX says of an absent zero point


def _refuse(where: str, node: ir.Node | None, what: str, remedy: str) -> NoReturn:
    name = "the graph" if node is None else f"node '{node.name or node.op_type}' ({node.op_type})"
    raise QuantizeError(f"{where}: {name} {what}, which TensorRT does not take. {remedy}", code="tensorrt-operator")
