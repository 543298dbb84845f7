"""Rules of the parser and builder of each supported TensorRT, checked on the finished graph without TensorRT.

Rules that depend on the version, and rules of strong typing:

- Opsets: 9 to 20 for TensorRT 10.x, 9 to 25 for 11.x (support matrices; ONNX opset guide of TensorRT 11).
- Operators and their input types: the support matrix of the parser of 10.1 ("Supported ONNX Operators",
  docs/operators.md of onnx/onnx-tensorrt), the last one published in full for a version up to 10.3. Later versions add
  operators (Attention in 10.14, RMSNormalization in 10.15) and remove none. One table therefore serves all versions,
  and operators missing from it are refused for 10.3 only.
- Constants where the parser requires constants: axes of Slice, Squeeze, Unsqueeze, CumSum and reductions; scales.
- One float type per node, which a strongly typed network requires. ONNX's type inference checks it.

:func:`lint` checks the rules for Q/DQ and constants while a graph is built. They come from the TensorRT developer guide
("Explicit quantization") and its ONNX parser. Each rule was tested on a graph of its own with the parser and builder of
TensorRT-RTX 1.7, which need no GPU.

- TensorRT-RTX 1.7 refuses: a zero point other than 0; a scale that is 0, negative or NaN; a number of scales that
  differs from the axis; UINT8 and INT16 weights; INT32 (bias) in ``DequantizeLinear``; INT8 constants with another
  reader; ``DynamicQuantizeLinear``, ``MatMulInteger`` and ``QLinearMatMul``.
- TensorRT-RTX 1.7 accepts, but other versions refuse or compute wrong results: UINT8 activations (refused up to 10.1);
  a pair without zero point (UINT8 for ONNX, INT8 for TensorRT); per-axis activations (the guide allows one scale); an
  infinite scale; constants beyond the range of float16 (minus infinity once the graph is cast, and 0 times that is
  NaN); operators of other domains, which are mistaken for the standard ones of the same name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from edgekit.quantize.graphs import constant, find_producer, load
from edgekit.spec.engine import version
from edgekit.spec.errors import QuantizeError

__all__ = ["LARGEST_FLOAT16", "RELEASES", "check", "lint", "load_typed"]

RELEASES = ("10.3", "10.16", "11.4")
"""TensorRT releases that graphs are checked for: those of JetPack 6.1, 7.2 and 7.2.2."""

LARGEST_FLOAT16 = 65504.0
"""Largest finite float16 number."""

_RUN_TIME = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_PAIR = ("QuantizeLinear", "DequantizeLinear")

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_NUMBERS = _FLOATS | {ir.DataType.INT32, ir.DataType.INT64}
_BOOL = {ir.DataType.BOOL}
_ANY = _NUMBERS | _BOOL

_NUMBER_OPERATORS = """
    Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mod Mul
    Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
""".split()  # noqa: SIM905
_FLOAT_OPERATORS = """
    Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh CumSum
    Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization GRU
    HardSigmoid HardSwish Hardmax InstanceNormalization IsInf LayerNormalization LeakyRelu Log LogSoftmax LRN LSTM
    LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization Pow PRelu QuantizeLinear Reciprocal Resize RNN Round
    Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu
""".split()  # noqa: SIM905
_ANY_OPERATORS = """
    Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity OneHot Reshape
    ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
""".split()  # noqa: SIM905
# Operator to the data types that its first input may have.
_INPUT_TYPES = {
    **dict.fromkeys(_NUMBER_OPERATORS, _NUMBERS),
    **dict.fromkeys(_FLOAT_OPERATORS, _FLOATS),
    **dict.fromkeys(_ANY_OPERATORS, _ANY),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), _BOOL),
    "Cast": _ANY | {ir.DataType.UINT8},
    "DequantizeLinear": {ir.DataType.INT8},
}
# Operator to the first version that supports it.
_NEWER = {"Attention": "10.14", "RMSNormalization": "10.15", "RotaryEmbedding": "10.15"}
# Operator to the indices of the inputs that must be constant.
_CONSTANT_INPUTS = {
    "Slice": (3,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "CumSum": (1,),
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
}


def check(path: Path, minimum: str) -> list[str]:
    """Check a finished graph against the rules of every supported TensorRT from a version on.

    Args:
        path: Path of the graph.
        minimum: Oldest TensorRT version that must accept the graph.

    Returns:
        Releases that the graph was checked for, e.g. ``["10.3", "10.16", "11.4"]``.

    Raises:
        QuantizeError: The graph breaks a rule; the message names the node, the version and a remedy.
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
    releases = [release for release in RELEASES if version(release) >= version(minimum)] or [minimum]
    opset = model.opset_imports.get("", 0)
    newest_opset = 25 if version(releases[0]) >= (11,) else 20
    if not 9 <= opset <= newest_opset:
        raise QuantizeError(
            f"{path.name} has opset {opset}, TensorRT {releases[0]} takes 9 to {newest_opset}. "
            f"Export it with opset {newest_opset} or less.",
            code="graph-opset",
        )
    for node in model.graph:
        _check_node(node, path.name, releases[0])
    return releases


def load_typed(path: Path) -> ir.Model:
    """Load a graph with the type of every value as ONNX infers it. Large weights stay in their files."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    types = {}
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        types[info.name] = ir.DataType(info.type.tensor_type.elem_type)
    model = load(path)
    for node in model.graph:
        for value in node.outputs:
            if value.name in types:
                value.dtype = types[value.name]
    return model


def _check_node(node: ir.Node, file: str, oldest: str) -> None:
    """Check operator, input types and constant inputs of a node.

    Args:
        node: Node to check.
        file: File name for messages.
        oldest: Oldest TensorRT version that must accept the node.

    Raises:
        QuantizeError: The node breaks a rule.
    """
    kind = node.op_type
    label = f"{file}: node '{node.name or kind}' ({kind})"
    if kind not in _INPUT_TYPES:
        _check_newer_operator(kind, label, oldest)
        return
    for index in (1, 2) if kind == "Where" else (0,):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and value.dtype is not None and value.dtype not in _INPUT_TYPES[kind]:
            supported = ", ".join(sorted(dtype.name for dtype in _INPUT_TYPES[kind]))
            raise QuantizeError(
                f"{label} reads {value.dtype.name}, but TensorRT {oldest} supports it with {supported}. "
                "Cast its input.",
                code="tensorrt-operator",
            )
    constant_inputs = (1,) if kind.startswith("Reduce") else _CONSTANT_INPUTS.get(kind, ())
    for index in constant_inputs:
        if index < len(node.inputs) and node.inputs[index] is not None and constant(node.inputs[index]) is None:
            raise QuantizeError(
                f"{label} computes input {index} at run time, but TensorRT requires a constant there. "
                "Export the model with fixed axes.",
                code="tensorrt-operator",
            )
    if kind == "LayerNormalization":
        used_outputs = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if len(used_outputs) > 1:
            raise QuantizeError(
                f"{label} outputs mean or deviation too, but TensorRT computes the normalized values only. "
                "Export the model without them.",
                code="tensorrt-operator",
            )


def _check_newer_operator(kind: str, label: str, oldest: str) -> None:
    """Raise unless every version from ``oldest`` on has an operator that the table lacks."""
    since = _NEWER.get(kind)
    if since is None:
        raise QuantizeError(
            f"{label} is not an operator of TensorRT {oldest}. Export the model without it.", code="tensorrt-operator"
        )
    if version(oldest) < version(since):
        raise QuantizeError(
            f"{label} is not an operator of TensorRT {oldest}; TensorRT has it from {since} on. "
            f'Set minimum = "{since}" in the target.',
            code="tensorrt-operator",
        )


def lint(graph: ir.Graph, where: str) -> None:
    """Check a Q/DQ graph for constructs that TensorRT refuses or computes wrongly.

    Args:
        graph: Finished graph.
        where: Name of the graph for messages, e.g. its file name.

    Raises:
        QuantizeError: The graph breaks a rule; the message names the node and a remedy.
    """
    for node in graph:
        if node.domain not in ("", "ai.onnx"):
            raise _error(where, node, f"is an operator of {node.domain}", "Use the standard operators of ONNX.")
        if node.op_type in _RUN_TIME or node.op_type.startswith("QLinear"):
            raise _error(
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
    """Check one QuantizeLinear or DequantizeLinear."""
    data = node.inputs[0]
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    kind = _quantized_type(node, data, zero_point)
    if kind == ir.DataType.INT32:
        raise _error(where, node, "dequantizes an INT32 constant (a quantized bias)", "Keep biases in float.")
    if kind not in (None, ir.DataType.INT8):
        raise _error(where, node, f"quantizes to {kind.name}", "Use INT8, symmetric.")
    if zero_point is not None:
        zero = constant(zero_point)
        if zero is None:
            raise _error(where, node, "computes its zero point at run time", "Quantize symmetrically.")
        if zero.any():
            raise _error(where, node, "has a zero point that is not 0", "Quantize symmetrically.")
    _check_scale(node, where, constant(node.inputs[1]), _weight_shape(data))


def _check_scale(node: ir.Node, where: str, scale: np.ndarray | None, weight_shape: tuple[int, ...] | None) -> None:
    """Check the scale of one QuantizeLinear or DequantizeLinear.

    Args:
        node: Node to check.
        where: Name of the graph for messages.
        scale: Constant scale; None if it is computed at run time.
        weight_shape: Shape of the constant weight; None for an activation.
    """
    if scale is None:
        raise _error(where, node, "computes its scale at run time", "Use a constant scale from calibration.")
    if not np.isfinite(scale).all() or not (scale > 0).all():
        raise _error(
            where,
            node,
            "has a scale that is not a positive finite number",
            "Give channels of zeros a small positive scale.",
        )
    if scale.size == 1:
        return
    if weight_shape is None:
        raise _error(
            where,
            node,
            f"quantizes an activation with {scale.size} scales",
            "Use one scale for an activation; only constant weights may have more.",
        )
    axis = node.attributes.get_int("axis", 1)
    rank = len(weight_shape)
    if scale.ndim != 1 or not -rank <= axis < rank or weight_shape[axis] != scale.size:
        raise _error(
            where,
            node,
            f"has {scale.size} scales on axis {axis} of a weight {list(weight_shape)}",
            "Use one scale per output channel.",
        )


def _check_constant(value: ir.Value, where: str) -> None:
    """Check that only Q/DQ nodes read an integer constant, and that a float constant fits float16."""
    if value.dtype in (ir.DataType.INT8, ir.DataType.INT4):
        for use in value.uses():
            if use.node.op_type not in _PAIR:
                raise _error(
                    where,
                    use.node,
                    f"reads the {value.dtype.name} constant '{value.name}'",
                    "Insert a DequantizeLinear directly after the constant.",
                )
    array = constant(value)
    if array is None or value.dtype is None or not value.dtype.is_floating_point() or array.size == 0:
        return
    largest = np.abs(array.astype(np.float64)).max()
    # Written so that NaN is refused too.
    if not largest <= LARGEST_FLOAT16:
        user = next((use.node for use in value.uses()), None)
        problem = f"reads the constant '{value.name}' of size {largest:g}, beyond float16's {LARGEST_FLOAT16:g}"
        raise _error(where, user, problem, "Use -10000 for minus infinity in a mask.")


def _weight_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of the constant behind a value (itself, or the input of its QuantizeLinear), or None."""
    array = constant(value)
    if array is None:
        producer = find_producer(value, "QuantizeLinear")
        array = None if producer is None else constant(producer.inputs[0])
    return None if array is None else array.shape


def _quantized_type(node: ir.Node, data: ir.Value | None, zero_point: ir.Value | None) -> ir.DataType | None:
    """Return the type on the integer side of a node; None if only the other node of its pair has the type."""
    if node.op_type == "DequantizeLinear" and data is not None and data.dtype is not None:
        return data.dtype
    if zero_point is not None:
        return zero_point.dtype
    if node.op_type == "DequantizeLinear":
        return None
    # UINT8 is ONNX's default without a zero point.
    return ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)


def _error(where: str, node: ir.Node | None, problem: str, remedy: str) -> QuantizeError:
    """Return the error for a node that TensorRT does not accept.

    Args:
        where: Name of the graph.
        node: Node; None if no node reads the constant.
        problem: Verb and object of the sentence.
        remedy: Sentence with the remedy.
    """
    name = "the graph" if node is None else f"node '{node.name or node.op_type}' ({node.op_type})"
    return QuantizeError(
        f"{where}: {name} {problem}, which TensorRT does not accept. {remedy}", code="tensorrt-operator"
    )
