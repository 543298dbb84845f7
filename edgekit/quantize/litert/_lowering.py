"""Lowering of a graph: its values become tensors of a TensorFlow Lite file, operator by operator.

Each ONNX operator has a function in a table, which adds the operators of TensorFlow Lite that compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.quantize.litert._file import File
from edgekit.quantize.litert._sizes import Observed, Size
from edgekit.spec.errors import QuantizeError

__all__ = ["Lower", "Lowering", "table"]

Lower = Callable[["Lowering", ir.Node], None]
"""Function that adds what computes the outputs of a node."""


class Table:
    """Functions by name of the ONNX operator that they lower."""

    def __init__(self) -> None:
        """Begin with no operator."""
        self.functions: dict[str, Lower] = {}
        self._data: dict[str, tuple[int, ...]] = {}

    def add(self, *names: str, data: tuple[int, ...] | None = None) -> Callable[[Lower], Lower]:
        """Enter a function.

        Args:
            names: ONNX operators that the function lowers.
            data: Indices of the inputs that it reads as tensors; by default all. Others are read as sizes only.
        """

        def enter(function: Lower) -> Lower:
            for name in names:
                self.functions[name] = function
                if data is not None:
                    self._data[name] = data
            return function

        return enter

    def tensors_of(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs that a node reads as tensors."""
        indices = self._data.get(node.op_type, range(len(node.inputs)))
        return [value for i in indices if i < len(node.inputs) and (value := node.inputs[i]) is not None]


table = Table()


class Lowering:
    """A file that is being written for a graph, and the tensors of the graph's values.

    Attributes:
        file: File.
        observed: Sizes and constants of the graph.
    """

    def __init__(self, file: File, observed: Observed, inputs: dict[ir.Value, int]) -> None:
        """Begin with the inputs of a graph.

        Args:
            file: File that has the inputs.
            observed: Sizes and constants of the graph.
            inputs: Tensors of the graph's inputs.
        """
        self.file = file
        self.observed = observed
        self._tensors = dict(inputs)
        self._channels_last: dict[ir.Value, int] = {}
        self._sources: dict[str, tuple[int, int]] = {}
        self._sizes: dict[object, int] = {}
        for value, tensor in inputs.items():
            for place, size in enumerate(observed.shape(value)):
                if len(size.axes) == 1 and size.factor == 1:
                    self._sources.setdefault(size.axes[0], (tensor, place))

    def shape(self, value: ir.Value | None) -> tuple[Size, ...]:
        """Return the shape of a value."""
        assert value is not None
        return self.observed.shape(value)

    def rank(self, value: ir.Value | None) -> int:
        """Return the number of axes of a value."""
        return len(self.shape(value))

    def tensor(self, value: ir.Value | None) -> int:
        """Return the tensor of a value: computed before, or a constant that is added now."""
        assert value is not None
        if value not in self._tensors and value in self._channels_last:
            order = self.vector([0, 3, 1, 2])
            inputs = [self._channels_last[value], order]
            self._tensors[value] = self.step("TRANSPOSE", inputs, self.shape(value), dtype=self.observed.dtype(value))
        if value not in self._tensors:
            array = self.observed.constant(value)
            sizes = self.observed.sizes(value)
            if array is not None:
                self._tensors[value] = self.array(array)
            elif sizes is not None:
                self._tensors[value] = self.size_tensor(sizes, self.rank(value))
            else:
                raise KeyError(f"the value '{value.name}' was not computed")
        return self._tensors[value]

    def has_channels_last(self, value: ir.Value | None) -> bool:
        """Return whether an image was computed with its channels as the last axis."""
        return value in self._channels_last

    def channels_last(self, value: ir.Value | None) -> int:
        """Return the tensor of an image ``[batch, channels, height, width]`` with its channels as the last axis."""
        assert value is not None
        if value not in self._channels_last:
            inputs = [self.tensor(value), self.vector([0, 2, 3, 1])]
            shape = [self.shape(value)[axis] for axis in (0, 2, 3, 1)]
            self._channels_last[value] = self.step("TRANSPOSE", inputs, shape, dtype=self.observed.dtype(value))
        return self._channels_last[value]

    def set_channels_last(self, node: ir.Node, tensor: int) -> None:
        """Make a tensor with its channels as the last axis the output of a node. Other readers get it transposed."""
        self._channels_last[node.outputs[0]] = tensor

    def image_shape(self, node: ir.Node) -> list[Size]:
        """Return the shape of a node's output with its channels as the last axis."""
        shape = self.shape(node.outputs[0])
        return [shape[axis] for axis in (0, 2, 3, 1)]

    def lower_image(self, node: ir.Node, name: str, version: int) -> bool:
        """Add an operator on the elements of images, and return whether it is one.

        Args:
            node: Node whose operator works on one element at a time.
            name: Operator of TensorFlow Lite.
            version: Version of that operator.
        """
        if not any(value in self._channels_last for value in node.inputs):
            return False
        inputs = []
        for value in node.inputs:
            array = self.observed.constant(value)
            if value in self._channels_last:
                inputs.append(self.channels_last(value))
            elif array is not None and array.size == 1:
                inputs.append(self.array(array.reshape(())))
            elif array is not None and array.ndim in (3, 4) and array.size == array.shape[-3]:
                inputs.append(self.array(array.reshape(-1)))
            else:
                return False
        dtype = self.observed.dtype(node.outputs[0])
        self.set_channels_last(node, self.step(name, inputs, self.image_shape(node), version, dtype))
        return True

    def is_known(self, node: ir.Node) -> bool:
        """Return whether all outputs of a node are constants or sizes, which no operator has to compute."""
        observed = self.observed
        return all(observed.constant(value) is not None or observed.sizes(value) is not None for value in node.outputs)

    def array(self, array: np.ndarray) -> int:
        """Add a constant in the type that the file has for it: INT64 becomes INT32, and FLOAT16 becomes FLOAT32."""
        return self.file.constant(narrow(array))

    def vector(self, numbers: Sequence[int]) -> int:
        """Add a constant vector of INT32, e.g. of axes."""
        return self.file.constant(np.array(numbers, np.int32))

    def output(self, node: ir.Node, index: int = 0) -> int:
        """Add the tensor of an output of a node."""
        value = node.outputs[index]
        self._tensors[value] = self.temporary(self.shape(value), self.observed.dtype(value))
        return self._tensors[value]

    def temporary(self, shape: Sequence[Size], dtype: np.dtype[Any] | type = np.float32) -> int:
        """Add a tensor that is no value of the graph."""
        return self.file.tensor([size.number for size in shape], narrow_type(np.dtype(dtype)))

    def alias(self, node: ir.Node, tensor: int) -> None:
        """Make an existing tensor the first output of a node."""
        self._tensors[node.outputs[0]] = tensor

    def operator(self, name: str, inputs: Sequence[int], node: ir.Node, version: int = 1, **options: Any) -> None:
        """Add an operator that computes all outputs of a node."""
        outputs = [self.output(node, index) for index in range(len(node.outputs))]
        self.file.operator(name, inputs, outputs, version, **options)

    def step(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[Size],
        version: int = 1,
        dtype: Any = np.float32,
        **options: Any,
    ) -> int:
        """Add an operator that computes an intermediate tensor, and return the tensor."""
        output = self.temporary(shape, dtype)
        self.file.operator(name, inputs, [output], version, **options)
        return output

    def refuse(self, node: ir.Node, reason: str) -> QuantizeError:
        """Return the error for a node that cannot be lowered.

        Args:
            node: Node.
            reason: Property that is not supported, e.g. ``an axis other than the last``.
        """
        return QuantizeError(
            f"The operator {node.op_type} of the node '{node.name}' has {reason}, which the writer of LiteRT graphs "
            "does not know. Use another backend for this model.",
            code="litert-operator",
            operator=node.op_type,
            node=node.name,
        )

    def reshape(self, tensor: int, shape: Sequence[Size], node: ir.Node, output: int) -> None:
        """Add a RESHAPE: to a constant shape with one -1 at most, else to sizes computed from the inputs' shapes.

        XNNPACK takes the first form. The second runs outside of it, but is static all the same: ``SHAPE`` of an input,
        and what follows, is evaluated when tensors are allocated.

        Args:
            tensor: Tensor to reshape.
            shape: New shape.
            node: Node, for messages.
            output: Tensor of the result.

        Raises:
            QuantizeError: Two sizes vary, and one of them is no multiple of the inputs' axes.
        """
        numbers = [size.number for size in shape]
        if numbers.count(-1) <= 1:
            target = self.vector(numbers)
        elif any(size.factor == 0 for size in shape):
            raise self.refuse(node, "two sizes that are no multiples of the inputs' axes")
        else:
            target = self.size_tensor(shape, 1)
        self.file.operator("RESHAPE", [tensor, target], [output])

    def positions(self, size: Size) -> int:
        """Return the tensor of 0, 1, 2 ... up to a size, INT32."""
        key = ("positions", size)
        if key not in self._sizes:
            bounds = [self.array(np.array(0, np.int32)), self.size_tensor([size], 0), self.array(np.array(1, np.int32))]
            self._sizes[key] = self.step("RANGE", bounds, [size], dtype=np.int32)
        return self._sizes[key]

    def size_tensor(self, sizes: Sequence[Size], rank: int) -> int:
        """Return a tensor that holds sizes when tensors are allocated: INT32, a scalar or a vector."""
        key = (tuple(sizes), rank)
        if key not in self._sizes:
            if rank == 0:
                self._sizes[key] = self._size(sizes[0], 0)
            elif len(sizes) == 1:
                self._sizes[key] = self._size(sizes[0], 1)
            else:
                parts = [self._size(size, 1) for size in sizes]
                self._sizes[key] = self.step("CONCATENATION", parts, [Size(len(sizes))], dtype=np.int32, axis=0)
        return self._sizes[key]

    def _size(self, size: Size, rank: int) -> int:
        """Return a tensor with one size: INT32, a scalar or a vector of one element."""
        shape = [Size(1)] * rank
        if not size.axes:
            return self.file.constant(np.full([1] * rank, size.factor, np.int32))
        key = (size, rank)
        if key in self._sizes:
            return self._sizes[key]
        result = self._axis(size.axes[0], rank)
        for axis in size.axes[1:]:
            result = self.step("MUL", [result, self._axis(axis, rank)], shape, dtype=np.int32)
        if size.factor != 1:
            factor = self.file.constant(np.full([1] * rank, size.factor, np.int32))
            result = self.step("MUL", [result, factor], shape, dtype=np.int32)
        self._sizes[key] = result
        return result

    def _axis(self, axis: str, rank: int) -> int:
        """Return a tensor with the size of an input's axis."""
        key = (axis, rank)
        if key not in self._sizes:
            tensor, place = self._sources[axis]
            if ("shape", tensor) not in self._sizes:
                size = Size(self.file.rank(tensor))
                self._sizes["shape", tensor] = self.step("SHAPE", [tensor], [size], dtype=np.int32, outType=2)
            bounds = [self.vector([place]), self.vector([place + 1]), self.vector([1])]
            inputs = [self._sizes["shape", tensor], *bounds]
            mask = 1 if rank == 0 else 0
            self._sizes[key] = self.step("STRIDED_SLICE", inputs, [Size(1)] * rank, dtype=np.int32, shrinkAxisMask=mask)
        return self._sizes[key]


def narrow_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that a file has for an ONNX type."""
    return {np.dtype(np.int64): np.dtype(np.int32), np.dtype(np.float16): np.dtype(np.float32)}.get(dtype, dtype)


def narrow(array: np.ndarray) -> np.ndarray:
    """Return an array in the type that a file has for it. Numbers beyond INT32 stand for no limit, and are cut."""
    if array.dtype == np.int64:
        limits = np.iinfo(np.int32)
        cut: np.ndarray = np.clip(array, limits.min, limits.max)
        return cut.astype(np.int32)
    result: np.ndarray = array.astype(narrow_type(array.dtype), copy=False)
    return result
