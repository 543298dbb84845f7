"""TensorFlow Lite files: tensors and operators that become one flatbuffer.

The schema ships with ``ai-edge-litert``; neither TensorFlow nor torch takes part. Both ``flatbuffers`` and the schema
are imported when a file is begun, so that this module can be listed without them.
https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import BackendError, QuantizeError

__all__ = ["File", "schema"]

_IDENTIFIER = b"TFL3"
_VERSION = 3
_TYPES = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "int32": "INT32",
    "int8": "INT8",
    "int4": "INT4",
    "uint8": "UINT8",
    "bool": "BOOL",
}
_LARGEST = 2**31 - 2**20  # A flatbuffer has 32-bit offsets; a runtime maps no larger one.


@functools.cache
def schema() -> Any:
    """Return the module with the classes of the schema.

    Raises:
        BackendError: ``ai-edge-litert`` or ``flatbuffers`` is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise BackendError(
            "Writing a graph for LiteRT needs the packages ai-edge-litert and flatbuffers. "
            f"Run: {install_hint('build')}",
            code="backend-not-installed",
        ) from error
    return schema_py_generated


def _type_of(dtype: np.dtype[Any]) -> int:
    """Return the number of an element type in the schema.

    Raises:
        QuantizeError: Files for LiteRT have no such tensors.
    """
    name = _TYPES.get(dtype.name)
    if name is None:
        raise QuantizeError(
            f"The graph has a tensor of the type {dtype.name}, which the writer of LiteRT graphs does not know "
            f"({', '.join(_TYPES)}). Use another backend for this model.",
            code="litert-type",
        )
    return int(getattr(schema().TensorType, name))


class _Buffer:
    """Data of a constant, which is copied when the file is packed. Until then a transposed weight occupies nothing."""

    def __init__(self, array: np.ndarray) -> None:
        """Refer to an array, which must not change."""
        self._array = array

    def Pack(self, builder: Any) -> int:
        """Write the data as ``BufferT.Pack()`` does, which would make two copies on the way."""
        data = _bytes_of(self._array)
        builder.StartVector(1, data.size, 1)
        end = builder.Head()
        builder.head = end - data.size
        memoryview(builder.Bytes)[builder.head : end] = data.data
        builder.vectorNumElems = data.size
        vector = builder.EndVector()
        schema().BufferStart(builder)
        schema().BufferAddData(builder, vector)
        return int(schema().BufferEnd(builder))


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """Return the bytes of an array in the order of its elements: uint8 ``[bytes]``, a view if they lie like that."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _digest(array: np.ndarray) -> bytes:
    """Return the sha256 of the bytes of an array."""
    return hashlib.sha256(_bytes_of(array).data).digest()


class File:
    """A model with one subgraph that is being written.

    Tensors are numbered in the order in which they are added; equal constants are stored once.
    """

    def __init__(self) -> None:
        """Begin an empty file."""
        self._model = schema().ModelT()
        self._model.version = _VERSION
        self._model.description = b"edgekit"
        self._model.operatorCodes = []
        self._model.buffers = [schema().BufferT()]  # The first buffer is the empty one.
        self._graph = schema().SubGraphT()
        self._graph.name = b"main"
        self._graph.tensors = []
        self._graph.operators = []
        self._codes: dict[tuple[int, int], int] = {}
        self._buffers: dict[bytes, int] = {}  # By the digest of the data.
        self._size = 0
        self._constants: dict[tuple[object, ...], int] = {}

    def tensor(self, shape: Sequence[int], dtype: np.dtype[Any] | type, name: str = "") -> int:
        """Add a tensor that is computed or fed, and return its number.

        Args:
            shape: Sizes; -1 for an axis whose size the caller chooses.
            dtype: Element type.
            name: Name; by default that of its place.
        """
        tensor = schema().TensorT()
        tensor.name = (name or f"t{len(self._graph.tensors)}").encode()
        tensor.type = _type_of(np.dtype(dtype))
        tensor.shape = [max(size, 1) for size in shape]
        tensor.hasRank = True
        if -1 in shape:
            tensor.shapeSignature = list(shape)
        tensor.buffer = 0
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def rank(self, tensor: int) -> int:
        """Return the number of axes of a tensor."""
        return len(self._graph.tensors[tensor].shape)

    def constant(self, array: np.ndarray, scales: np.ndarray | None = None, name: str = "") -> int:
        """Add a constant and return its number.

        Args:
            array: Values. They must not change until the file is written.
            scales: Scales of symmetric INT8 values, float32, one for each index of axis 0.
            name: Name; by default that of its place.
        """
        scale_data = b"" if scales is None else scales.astype(np.float32).tobytes()
        identity = (_digest(array), array.shape, array.dtype.name, scale_data)
        if identity in self._constants:
            return self._constants[identity]
        number = self._constant(array.shape, array.dtype, array, name)
        if scales is not None:
            quantization = schema().QuantizationParametersT()
            quantization.scale = scales.astype(np.float32)
            quantization.zeroPoint = np.zeros(len(scales), np.int64)
            quantization.quantizedDimension = 0
            self._graph.tensors[number].quantization = quantization
        self._constants[identity] = number
        return number

    def blocks(self, array: np.ndarray, scales: np.ndarray, name: str = "") -> int:
        """Add a constant of INT4 values in blocks, and return its number.

        Args:
            array: Values, int4 ``[outputs, inputs]``; two are stored in a byte, the first in its lower half.
            scales: Scales, float16 ``[outputs, blocks]``; the blocks divide the inputs into equal parts.
            name: Name; by default that of its place.
        """
        pairs = array.astype(np.uint8).reshape(-1, 2) & 15
        data = pairs[:, 0] | pairs[:, 1] << 4
        identity = (_digest(data), array.shape, array.dtype.name, scales.tobytes())
        if identity not in self._constants:
            number = self._constant(array.shape, array.dtype, data, name)
            details = schema().BlockwiseQuantizationT()
            details.scales = self.constant(scales)
            details.zeroPoints = -1  # All zero points are 0.
            details.blockSize = array.shape[1] // scales.shape[1]
            quantization = schema().QuantizationParametersT()
            quantization.detailsType = schema().QuantizationDetails.BlockwiseQuantization
            quantization.details = details
            self._graph.tensors[number].quantization = quantization
            self._constants[identity] = number
        return self._constants[identity]

    def _constant(self, shape: Sequence[int], dtype: np.dtype[Any], data: np.ndarray, name: str) -> int:
        """Add a tensor with data as they are stored, and return its number. Equal data are stored once."""
        number = self.tensor(shape, dtype, name)
        digest = _digest(data)
        if digest not in self._buffers:
            self._size += data.nbytes
            self._buffers[digest] = len(self._model.buffers)
            self._model.buffers.append(_Buffer(data))
        self._graph.tensors[number].buffer = self._buffers[digest]
        return number

    def operator(
        self, name: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any
    ) -> None:
        """Add an operator.

        Args:
            name: Name in ``BuiltinOperator``, e.g. ``FULLY_CONNECTED``.
            inputs: Numbers of its inputs; -1 for one that is left out.
            outputs: Numbers of its outputs.
            version: Version of the operator. One that is too low or too high makes a delegate skip it without a word.
            options: Fields of its options, by their names in Python; the class is that of the operator.
        """
        operator = schema().OperatorT()
        operator.opcodeIndex = self._code(name, version)
        operator.inputs = list(inputs)
        operator.outputs = list(outputs)
        kind = _OPTIONS.get(name) or "".join(part.capitalize() for part in name.split("_"))
        operator.builtinOptionsType = getattr(schema().BuiltinOptions, f"{kind}Options", 0)
        if operator.builtinOptionsType:
            operator.builtinOptions = getattr(schema(), f"{kind}OptionsT")()
        for field, value in options.items():
            if not hasattr(operator.builtinOptions, field):
                raise TypeError(f"the options of {name} have no field {field}")
            setattr(operator.builtinOptions, field, value)
        self._graph.operators.append(operator)

    def _code(self, name: str, version: int) -> int:
        """Return the index of an operator and version among the operators of the file."""
        number = getattr(schema().BuiltinOperator, name)
        if (number, version) not in self._codes:
            code = schema().OperatorCodeT()
            code.builtinCode = number
            code.deprecatedBuiltinCode = min(number, 127)
            code.version = version
            self._codes[number, version] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        return self._codes[number, version]

    def write(self, path: Path, key: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Finish the file.

        Args:
            path: Path of the file.
            key: Key of the signature under which a caller finds inputs and outputs.
            inputs: Numbers of the input tensors by name.
            outputs: Numbers of the output tensors by name.

        Raises:
            QuantizeError: The file would be larger than the format allows.
        """
        import flatbuffers

        if self._size > _LARGEST:
            raise QuantizeError(
                f"The graph has {self._size / 2**30:.1f} GiB of weights, "
                "but a TensorFlow Lite file holds less than 2 GiB. Use another backend, or a smaller model.",
                code="litert-size",
            )
        self._graph.inputs = list(inputs.values())
        self._graph.outputs = list(outputs.values())
        self._model.subgraphs = [self._graph]
        signature = schema().SignatureDefT()
        signature.signatureKey = key.encode()
        signature.subgraphIndex = 0
        signature.inputs = _names(inputs)
        signature.outputs = _names(outputs)
        self._model.signatureDefs = [signature]
        builder = flatbuffers.Builder(self._size + 2**16)
        builder.Finish(self._model.Pack(builder), _IDENTIFIER)
        # Builder.Output() would return a copy of the whole file.
        path.write_bytes(memoryview(builder.Bytes)[builder.Head() :])


def _names(tensors: Mapping[str, int]) -> list[Any]:
    """Return the entries of a signature for named tensors."""
    entries = []
    for name, number in tensors.items():
        entry = schema().TensorMapT()
        entry.name = name.encode()
        entry.tensorIndex = number
        entries.append(entry)
    return entries


# Operators whose options are not named after them.
_OPTIONS = {
    "MEAN": "Reducer",
    "SUM": "Reducer",
    "CUMSUM": "Cumsum",
    "STRIDED_SLICE": "StridedSlice",
    "BATCH_MATMUL": "BatchMatMul",
    "CONCATENATION": "Concatenation",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "MAX_POOL_2D": "Pool2D",
    "AVERAGE_POOL_2D": "Pool2D",
    "REDUCE_MAX": "Reducer",
    "PADV2": "PadV2",
    "MAXIMUM": "MaximumMinimum",
    "MINIMUM": "MaximumMinimum",
}
