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

__all__ = ["MOST_PARTS", "Lower", "Lowering", "narrow", "narrow_type", "permutation", "table"]

MOST_PARTS = 4
"""Largest number of parts of a SPLIT that XNNPACK takes."""

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
            last = self.rank(value) - 1
            order = [0, last, *range(1, last)]
            self._tensors[value] = self._move_channels(self._channels_last[value], value, order, self.shape(value))
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

    def channels_last(self, value: ir.Value | None) -> int:
        """Return the tensor of an image ``[batch, channels, ...]`` with its channels as the last axis."""
        assert value is not None
        if value not in self._channels_last:
            order = [0, *range(2, self.rank(value)), 1]
            shape = self.arranged_shape(value, is_image=True)
            self._channels_last[value] = self._move_channels(self.tensor(value), value, order, shape)
        return self._channels_last[value]

    def _move_channels(self, tensor: int, value: ir.Value, order: Sequence[int], shape: Sequence[Size]) -> int:
        """Return a tensor with the channels of an image elsewhere; where no element moves, by its shape alone."""
        dtype = self.observed.dtype(value)
        if self.is_still(value):
            return self.step("RESHAPE", [tensor, self.vector([size.number for size in shape])], shape, dtype=dtype)
        return self.step("TRANSPOSE", [tensor, self.vector(order)], shape, dtype=dtype)

    def is_still(self, value: ir.Value | None) -> bool:
        """Return whether no element of an image moves where its channels become the last axis."""
        numbers = [size.number for size in self.shape(value)]
        has_one = numbers[1] == 1 or set(numbers[2:]) == {1}
        return has_one and numbers.count(-1) <= 1

    def has_channels_last(self, value: ir.Value | None) -> bool:
        """Return whether an image was computed with its channels as the last axis."""
        return value in self._channels_last

    def set_channels_last(self, node: ir.Node, tensor: int, index: int = 0) -> None:
        """Make a tensor with its channels as the last axis an output of a node. Other readers get it transposed."""
        self._channels_last[node.outputs[index]] = tensor

    def set_output(self, node: ir.Node, tensor: int, is_image: bool, index: int = 0) -> None:
        """Make an existing tensor an output of a node; that of an image has its channels as the last axis."""
        if is_image:
            self.set_channels_last(node, tensor, index)
        else:
            self._tensors[node.outputs[index]] = tensor

    def arranged(self, value: ir.Value | None, is_image: bool) -> int:
        """Return the tensor of a value; that of an image with its channels as the last axis."""
        return self.channels_last(value) if is_image else self.tensor(value)

    def arranged_shape(self, value: ir.Value | None, is_image: bool) -> list[Size]:
        """Return the shape of the tensor that :meth:`arranged` returns."""
        batch, *rest = self.shape(value) or [Size(1)]
        if not is_image:
            return list(self.shape(value))
        return [batch, *rest[1:], rest[0]]

    def arranged_axis(self, value: ir.Value | None, axis: int, is_image: bool) -> int:
        """Return the place of an axis of a value, which may count from the end, in :meth:`arranged`."""
        rank = self.rank(value)
        axis %= rank
        if not is_image or axis == 0:
            return axis
        return rank - 1 if axis == 1 else axis - 1

    def operands(self, node: ir.Node) -> tuple[list[int], bool]:
        """Return the tensors of what an operator on elements reads, and whether they have their channels last.

        Constants and images that were computed otherwise follow the image that they meet.
        """
        rank = self.rank(node.outputs[0])
        is_image = any(value in self._channels_last and self.rank(value) == rank for value in node.inputs)
        constants = [self.observed.constant(value) for value in node.inputs]
        for value, array in zip(node.inputs, constants, strict=True):
            is_image = is_image and (array is not None or self.rank(value) == rank)
        if not is_image:
            return [self.tensor(value) for value in node.inputs], False
        tensors = []
        for value, array in zip(node.inputs, constants, strict=True):
            tensors.append(self.channels_last(value) if array is None else self.array(_move_last(array, rank)))
        return tensors, True

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
        self.set_output(node, tensor, is_image=False)

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        node: ir.Node,
        version: int = 1,
        is_image: bool = False,
        **options: Any,
    ) -> None:
        """Add an operator that computes all outputs of a node; as images, they have their channels as the last axis."""
        outputs = []
        for index, value in enumerate(node.outputs):
            if is_image:
                outputs.append(self.temporary(self.arranged_shape(value, is_image), self.observed.dtype(value)))
                self.set_channels_last(node, outputs[-1], index)
            else:
                outputs.append(self.output(node, index))
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

    def reshaped(self, tensor: int, shape: Sequence[Size], node: ir.Node, dtype: Any = np.float32) -> int:
        """Return a tensor with another shape, see :meth:`reshape`."""
        output = self.temporary(shape, dtype)
        self.reshape(tensor, shape, node, output)
        return output

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


def permutation(node: ir.Node, rank: int) -> list[int]:
    """Return the order of axes of a Transpose; by default, they are reversed."""
    if "perm" in node.attributes:
        return list(node.attributes["perm"].as_ints())
    return list(range(rank))[::-1]


def _move_last(array: np.ndarray, rank: int) -> np.ndarray:
    """Return a constant that meets an image, with the channels as its last axis and no leading axes of one."""
    if array.size == 1:
        return array.reshape(())
    padded = array.reshape([1] * (rank - array.ndim) + list(array.shape))
    moved = padded.transpose([0, *range(2, rank), 1])
    while moved.ndim > 1 and len(moved) == 1:
        moved = moved[0]
    return moved


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
