"""The ONNX graph of the fake TensorRT: errors of the parser, precisions of the layers, and computation.

Texts are NVIDIA's: those of TensorRT-RTX 1.7 on a machine without a GPU, and those of 10.x in the issue tracker of
TensorRT.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

# TensorRT's name of an ONNX type, the inspector's name of it, and bytes of an element.
_TYPES = {
    TensorProto.FLOAT: ("FLOAT", "Float", np.float32),
    TensorProto.FLOAT16: ("HALF", "Half", np.float16),
    TensorProto.INT8: ("INT8", "Int8", np.int8),
    TensorProto.INT32: ("INT32", "Int32", np.int32),
    TensorProto.INT64: ("INT64", "Int64", np.int64),
    TensorProto.BOOL: ("BOOL", "Bool", np.bool_),
    TensorProto.UINT8: ("UINT8", "UInt8", np.uint8),
}
NUMPY = {name: dtype for name, _, dtype in _TYPES.values()}
_INSPECTED = {name: word for name, word, _ in _TYPES.values()}
_FORMATS = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT8": "Int8",
    "INT32": "Int32",
    "INT64": "Int64",
    "BOOL": "BOOL",
    "UINT8": "UInt8",
}

# ONNX operators that TensorRT's parser refuses.
_REFUSED = ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul")
_GEMMS = {"MatMul": "gemm", "Gemm": "gemm", "Conv": "CaskConvolution"}
_ACTIVATIONS = ("Gelu", "Relu", "Sigmoid", "Tanh")
_UNKNOWN = "N/A due to dynamic shapes"
_TACTICS = {
    "INT8": "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize64x64x64_stage6_warpsize2x2x1_tensor16x8x32",
    "HALF": "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64_stage6_warpsize2x2x1_tensor16x8x16",
    "FLOAT": "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize64x64x8_stage3_warpsize1x4x1_ffma",
}


class Refusal(Exception):
    """An error of the parser. ``code`` is a member of ``ErrorCode``, ``node`` the index of a node."""

    def __init__(
        self, code: str, desc: str, function: str, file: str = "ModelImporter.cpp", line: int = 1, **where: Any
    ) -> None:
        """Store the fields of a ``ParserError``. ``where`` has ``node``, ``name`` and ``operator`` of a node."""
        super().__init__(desc)
        self.code, self.desc, self.function, self.file, self.line = code, desc, function, file, line
        self.node, self.name, self.operator = where.get("node", -1), where.get("name", ""), where.get("operator", "")


class Tensor:
    """An input or output. In ``shape``, a text is the name of a dynamic axis, and None an axis without a name."""

    def __init__(self, name: str, dtype: str, shape: Sequence[int | str | None]) -> None:
        """Store name, type and shape."""
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape as TensorRT reports it: -1 for dynamic axes."""
        return tuple(size if isinstance(size, int) else -1 for size in self.shape)


def read(data: bytes, path: str | None) -> onnx.ModelProto:
    """Read a model with all external data.

    Args:
        data: Content of the file.
        path: Path of the file, for external data; None for the working directory.

    Raises:
        Refusal: The data is not a model, or external data is missing.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as problem:
        text = "Assertion failed: model->ParseFromCodedStream(&codedInput): Failed to parse the ONNX model."
        raise Refusal("MODEL_DESERIALIZE_FAILED", text, "deserializeOnnxModel", "onnxProtoUtils.hpp", 73) from problem
    folder = Path(path).parent if path else Path()
    for tensor in model.graph.initializer:
        if onnx.external_data_helper.uses_external_data(tensor):
            try:
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            except (OSError, ValueError, onnx.checker.ValidationError) as problem:
                text = f"Failed to import initializer: In node -1 with name:  and operator:  (importInitializers): UNSUPPORTED_NODE: {tensor.name}"
                raise Refusal("INVALID_GRAPH", text, "importInitializers", line=899) from problem
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def inputs(model: onnx.ModelProto) -> list[Tensor]:
    """Return the inputs that are not weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [_tensor(value) for value in model.graph.input if value.name not in weights]


def outputs(model: onnx.ModelProto) -> list[Tensor]:
    """Return the outputs."""
    return [_tensor(value) for value in model.graph.output]


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    if kind.elem_type not in _TYPES:
        text = 'Assertion failed: convertDtype(onnxDtype.elem_type(), &trtDtype) && "Failed to convert ONNX date type to TensorRT data type."'
        raise Refusal("UNSUPPORTED_NODE", text, "importInput", line=992)
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim]
    return Tensor(value.name, _TYPES[kind.elem_type][0], shape)


def check(model: onnx.ModelProto) -> onnx.ModelProto:
    """Check a model as the parser does.

    Returns:
        The model with the types of all tensors.

    Raises:
        Refusal: TensorRT would refuse a node.
    """
    inputs(model), outputs(model)
    known = {tensor.name for tensor in model.graph.initializer} | {value.name for value in model.graph.input} | {""}
    constants = _constants(model)
    for index, node in enumerate(model.graph.node):
        refuse = functools.partial(Refusal, node=index, name=node.name, operator=node.op_type)
        if not set(node.input) <= known:
            raise refuse(
                "INVALID_GRAPH",
                "Assertion failed: (ctx->tensors().count(inputName)): Node input was not registered.",
                "parseNode",
                line=356,
            )
        known |= set(node.output)
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            text = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
            raise refuse("INVALID_NODE", text, "checkFallbackPluginImporter", "onnxOpCheckers.cpp", 998)
        if node.op_type in _REFUSED:
            raise refuse("UNSUPPORTED_NODE", "false", f"check{node.op_type}", "onnxOpCheckers.cpp", 1140)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_quantization(node, constants, refuse)
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True)
    except onnx.shape_inference.InferenceError as problem:
        raise _mismatch(model, str(problem)) from problem


def _check_quantization(
    node: onnx.NodeProto, constants: Mapping[str, np.ndarray], refuse: Callable[..., Refusal]
) -> None:
    scale = constants.get(node.input[1])
    if scale is None:
        raise refuse(
            "INVALID_NODE",
            "Assertion failed: scale.is_weights(): The scale must be an initializer.",
            "resolveScaleInput",
            "onnxOpImporters.cpp",
        )
    if np.any(scale <= 0):
        text = "Assertion failed: (scaleAllPositive || allowNegativeScale): Scale coefficients must all be positive"
        raise refuse("INVALID_NODE", text, "resolveScaleInput", "onnxOpImporters.cpp", 1889)
    # Without a zero point ONNX quantizes to UINT8. TensorRT 10 refuses that, and 11 treats it as INT8, which changes
    # the numbers: EdgeKit's graphs must not have it.
    absent = np.zeros((), np.uint8 if node.op_type == "QuantizeLinear" else np.int8)
    zero = constants[node.input[2]] if len(node.input) > 2 else absent
    if zero.dtype != np.int8:
        raise refuse(
            "UNSUPPORTED_NODE_DATATYPE",
            f'notInvalidType(zeroPoint, {{"{zero.dtype.name.upper()}"}})',
            "checkQuantizeLinear",
        )
    if np.any(zero):
        text = "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported."
        raise refuse("INVALID_NODE", text, "buildZeroPointTensor", "onnxOpImporters.cpp", 1929)


def _mismatch(model: onnx.ModelProto, text: str) -> Refusal:
    """Return the error for mismatched types: TensorRT inserts no casts into a strongly typed network."""
    name = (re.search(r"node name: ([^)]*)\)", text) or re.search(r"()", text)).group(1)
    index, node = next(((i, n) for i, n in enumerate(model.graph.node) if n.name == name), (-1, onnx.NodeProto()))
    layer = {"MatMul": "IMatrixMultiplyLayer", "Gemm": "IMatrixMultiplyLayer"}.get(node.op_type, "IElementWiseLayer")
    desc = f"Invalid Node - {name}\nITensor::getDimensions: Error Code 4: API Usage Error ({name}: {layer} must have same input types. {text.splitlines()[0]})"
    return Refusal("INVALID_NODE", desc, "parseNode", line=489, node=index, name=name, operator=node.op_type)


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return constants


def layers(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return the layers of an engine, roughly as TensorRT fuses them: bias and activation join the product before.

    Args:
        model: Model with the types of all tensors, from :func:`check`.

    Returns:
        The inspector's record of each layer, with the ``type`` of a tensor instead of its format, axes by name, and
        ``"product"``: the precision of a matrix product or convolution, INT8, HALF or FLOAT.
    """
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    types = {value.name: _tensor(value) for value in values if value.type.tensor_type.elem_type in _TYPES}
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    fixed = _fixed(model)
    records: list[dict[str, Any]] = []
    fused: set[str] = set()
    for node in model.graph.node:
        if node.output[0] in fixed | fused or node.op_type in ("Constant", "QuantizeLinear", "DequantizeLinear"):
            continue
        together = [node]
        while node.op_type in _GEMMS and (follower := _follower(together[-1], readers, fixed)) is not None:
            together.append(follower)
            fused.add(follower.output[0])
        reads = [name for name in node.input if name and name not in fixed]
        product = None
        if node.op_type in _GEMMS:
            quantized = all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:2])
            product = "INT8" if quantized else types[node.input[0]].dtype
            reads = [makers[name].input[0] if quantized else name for name in reads]
        records.append(_layer(len(records), together, reads, product, types))
    return records


def _fixed(model: onnx.ModelProto) -> set[str]:
    """Return the names of constants, including the outputs of nodes that read only constants."""
    fixed = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if set(node.input) <= fixed:
            fixed |= set(node.output)
    return fixed


def _follower(
    node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]], fixed: set[str]
) -> onnx.NodeProto | None:
    """Return the bias or activation that is fused into a node, if it is the only reader of its output."""
    reading = readers.get(node.output[0], [])
    if len(reading) != 1:
        return None
    bias = reading[0].op_type == "Add" and any(name in fixed for name in reading[0].input)
    return reading[0] if bias or reading[0].op_type in _ACTIVATIONS else None


def _layer(
    index: int, together: list[onnx.NodeProto], reads: list[str], product: str | None, types: Mapping[str, Tensor]
) -> dict[str, Any]:
    first, last = together[0], together[-1]
    kind = _GEMMS.get(first.op_type, "kgen")
    name = f"{first.name.replace('.', '_')}_myl0_{index}"
    tactic = (
        _TACTICS[product]
        if product in _TACTICS
        else f"__myl_{first.op_type[:3]}_0x{hashlib.md5(name.encode()).hexdigest()}"
    )
    if last.op_type in _ACTIVATIONS and kind == "gemm":
        name, kind = f"__myl_Fc_myl0_{index}", "fusion"

    def describe(tensor: str, quantized: bool) -> dict[str, Any]:
        known = types.get(tensor, Tensor(tensor, "FLOAT", ()))
        return {"Name": tensor, "Dimensions": list(known.shape), "type": "INT8" if quantized else known.dtype}

    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [describe(tensor, product == "INT8") for tensor in reads],
        "Outputs": [describe(last.output[0], False)],
        "TacticName": tactic,
        "StreamId": 0,
        # Only the metadata has the original names, one record for each fused node.
        "Metadata": "\x1e".join(f"[ONNX Layer: {node.name}]" for node in together),
        "product": product,
    }


def precision(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the lowest precision of an engine's products: ``int8``, ``half`` or ``float``."""
    products = {layer["product"] for layer in records}
    return next((name.lower() for name in ("INT8", "HALF") if name in products), "float")


def inspected(layer: Mapping[str, Any], axes: Mapping[str, int] | None, major: int) -> dict[str, Any]:
    """Return a layer as the inspector of TensorRT 10 or 11 reports it.

    Args:
        layer: Record from :func:`layers`.
        axes: Sizes by axis name, of a context with shapes; None without a context. Then dynamic axes are -1 and the
            type of a tensor with such an axis is not reported.
        major: Major version, 10 or 11; they report formats under different keys.
    """

    def describe(tensor: Mapping[str, Any]) -> dict[str, Any]:
        sizes = [size if isinstance(size, int) else (axes or {}).get(size, -1) for size in tensor["Dimensions"]]
        hidden = axes is None and -1 in sizes
        word = _UNKNOWN if hidden else _INSPECTED[tensor["type"]]
        if major < 11:
            return {"Name": tensor["Name"], "Location": "Device", "Dimensions": sizes, "Format/Datatype": word}
        layout = _UNKNOWN if hidden else f"Row major linear {_FORMATS[tensor['type']]} format (kLINEAR)"
        return {"Name": tensor["Name"], "Location": "Device", "Dimensions": sizes, "Format": layout, "Datatype": word}

    record = {key: value for key, value in layer.items() if key != "product"}
    record["Inputs"] = [describe(tensor) for tensor in layer["Inputs"]]
    record["Outputs"] = [describe(tensor) for tensor in layer["Outputs"]]
    return record


_MAGIC = b"ftrt"


def pack(header: Mapping[str, Any], model: bytes) -> bytes:
    """Return a serialized engine: a header, and the graph with all weights."""
    head = json.dumps(header).encode()
    body = len(head).to_bytes(8, "little") + head + model
    return _MAGIC + hashlib.sha256(body).digest() + body


def unpack(plan: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the graph of a serialized engine.

    Raises:
        ValueError: The bytes are not an engine; the message is NVIDIA's text.
    """
    if not plan:
        raise ValueError("Error Code 3: API Usage Error (Cannot deserialize with an empty memory buffer.)")
    if plan[:4] != _MAGIC:
        raise ValueError(
            "Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match)"
        )
    body = plan[36:]
    if hashlib.sha256(body).digest() != plan[4:36]:
        raise ValueError("Error Code 2: Internal Error (Assertion bufferSize >= minBufferSize failed.)")
    split = 8 + int.from_bytes(body[:8], "little")
    return json.loads(body[8:split]), body[split:]


class Runner:
    """Runner of a graph with ONNX Runtime, on the CPU in one thread. The first call loads the graph."""

    def __init__(self, model: bytes) -> None:
        """Store the graph."""
        self._model, self._lock = model, threading.Lock()

    @functools.cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Return the outputs of these names.

        Raises:
            Exception: ONNX Runtime refuses the graph or the inputs.
        """
        with self._lock:
            session = self._session
        return session.run(list(names), dict(feeds))
