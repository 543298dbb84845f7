"""Inputs and outputs of a TensorRT engine: names, types, and the shapes that its optimization profiles cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.backends import Feeds
from edgekit.backends._trt import numpy_type
from edgekit.backends._trt_gpu import Buffer, Gpu
from edgekit.spec.errors import BackendError, InputError
from edgekit.spec.tensor import Signature, TensorSpec

Shapes = tuple[tuple[int, ...], ...]
"""Shapes of the inputs, in their order."""


class Tensors:
    """Inputs and outputs of an engine.

    Attributes:
        inputs: Inputs that the engine has; an input that the graph does not use is missing from it.
        outputs: All outputs.
        types: numpy type by tensor name.
        sizes: Size in bytes at the largest shape of any profile, by tensor name.
    """

    def __init__(self, engine: Any, signature: Signature) -> None:
        """Read the tensors of an engine.

        Args:
            engine: Engine of TensorRT.
            signature: Inputs and outputs of the graph.

        Raises:
            BackendError: The engine has another signature, or the size of an output depends on the data.
        """
        tensor_names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        engine_shapes = {name: tuple(engine.get_tensor_shape(name)) for name in tensor_names}
        self.inputs = [spec for spec in signature.inputs if spec.name in engine_shapes]
        self.outputs = list(signature.outputs)
        specs = {spec.name: spec for spec in (*self.inputs, *self.outputs)}
        for name in {**specs, **engine_shapes}:
            _check_shape(name, specs.get(name), engine_shapes.get(name))
        self.types = {name: numpy_type(engine.get_tensor_dtype(name), name) for name in specs}
        self._profiles = [self._read_profile(engine, index) for index in range(engine.num_optimization_profiles)]
        for spec in self.outputs:
            for axis in spec.shape:
                if isinstance(axis, str) and axis not in self._profiles[0]:
                    raise BackendError(
                        f"Output '{spec.name}' varies along '{axis}', which no input does: its size depends on the "
                        "data, and no memory can be reserved. "
                        "Export the model without it, or build for another backend.",
                        code="output-size-unknown",
                    )
        self.sizes = {}
        for name, spec in specs.items():
            largest_count = max(_count_elements(spec, ranges) for ranges in self._profiles)
            self.sizes[name] = largest_count * self.types[name].itemsize

    def _read_profile(self, engine: Any, profile: int) -> dict[str, tuple[int, int]]:
        """Return the smallest and largest size of each dynamic axis in a profile, by axis name."""
        ranges: dict[str, tuple[int, int]] = {}
        for spec in self.inputs:
            smallest, _, largest = engine.get_tensor_profile_shape(spec.name, profile)
            for axis, low, high in zip(spec.shape, tuple(smallest), tuple(largest), strict=True):
                if isinstance(axis, str):
                    ranges[axis] = (int(low), int(high))
        return ranges

    def order_feeds(self, feeds: Feeds, device: Gpu) -> list[Any]:
        """Return the feed of each input in order: an array of the engine's type, or a buffer.

        Args:
            feeds: Arrays or buffers by input name.
            device: Device of the engine.

        Raises:
            InputError: An input is missing or has another type, a value is out of the engine's integer range, or a
                buffer belongs to another device.
        """
        for spec in self.inputs:
            if spec.name not in feeds:
                raise InputError(
                    f"Input '{spec.name}' is missing. Pass all of: {', '.join(s.name for s in self.inputs)}.",
                    code="input-missing",
                )
        return [_convert_feed(spec, feeds[spec.name], self.types[spec.name], device) for spec in self.inputs]

    def profile(self, shapes: Shapes) -> int:
        """Return the index of the first profile that covers the shapes.

        Args:
            shapes: Shapes of the inputs.

        Raises:
            InputError: Two inputs disagree about the size of an axis, or no profile covers the shapes.
        """
        sizes = self._axis_sizes(shapes)
        for index, ranges in enumerate(self._profiles):
            if all(low <= sizes[axis] <= high for axis, (low, high) in ranges.items()):
                return index
        raise self._outside_error(sizes)

    def _axis_sizes(self, shapes: Shapes) -> dict[str, int]:
        """Return the size of each dynamic axis.

        Raises:
            InputError: Two inputs disagree about the size of an axis.
        """
        sizes: dict[str, int] = {}
        for spec, shape in zip(self.inputs, shapes, strict=True):
            expected = [sizes.get(str(axis), axis) for axis in spec.shape]
            if not _is_compatible(expected, shape):
                raise InputError(
                    f"Input '{spec.name}' is {list(shape)}, expected [{', '.join(map(str, expected))}]. "
                    "Pass all inputs with the same size along an axis.",
                    code="input-shape",
                )
            for axis, size in zip(spec.shape, shape, strict=True):
                if isinstance(axis, str):
                    sizes[axis] = size
        return sizes

    def _outside_error(self, sizes: Mapping[str, int]) -> InputError:
        """Return the error for axis sizes that no profile covers. It names an axis that is outside of every profile."""
        axes = list(sizes)
        for axis, size in sizes.items():
            if not any(ranges[axis][0] <= size <= ranges[axis][1] for ranges in self._profiles):
                axes = [axis]
                break
        profiles = []
        for ranges in self._profiles:
            profiles.append(", ".join(f"{axis} {low} to {high}" for axis, (low, high) in ranges.items()))
        return InputError(
            f"Axis '{' x '.join(axes)}' is {' x '.join(str(sizes[axis]) for axis in axes)}, which no optimization "
            f"profile of this engine covers. It accepts: {'; '.join(profiles)}. "
            "Change the sizes, or build the bundle again with wider profiles in the target's [engine] table.",
            code="input-outside-profiles",
        )

    def output_shapes(self, context: Any) -> dict[str, tuple[int, ...]]:
        """Return the output shapes for the current input shapes of a context.

        Args:
            context: Execution context of TensorRT.

        Raises:
            BackendError: TensorRT cannot determine a shape, or it is larger than the profiles allow.
        """
        shapes = {spec.name: tuple(map(int, context.get_tensor_shape(spec.name))) for spec in self.outputs}
        for name, shape in shapes.items():
            if min(shape, default=0) < 0:
                raise BackendError(
                    f"The shape of output '{name}' depends on the data ({list(shape)}), and no memory can be reserved. "
                    "Build for another backend.",
                    code="output-size-unknown",
                )
            if int(np.prod(shape, dtype=np.int64)) * self.types[name].itemsize > self.sizes[name]:
                raise BackendError(
                    f"Output '{name}' is {list(shape)}, more than the expected {self.sizes[name]} bytes. "
                    "Run: edgekit compile BUNDLE --force",
                    code="output-too-large",
                )
        return shapes


def _check_shape(name: str, spec: TensorSpec | None, engine_shape: tuple[int, ...] | None) -> None:
    """Raise unless a tensor has the same shape in the engine and in the bundle's signature."""
    if spec is not None and engine_shape is not None and _is_same_shape(spec.shape, engine_shape):
        return
    in_engine = "missing" if engine_shape is None else f"{list(engine_shape)}"
    in_bundle = "missing" if spec is None else f"[{', '.join(map(str, spec.shape))}]"
    raise BackendError(
        f"'{name}' is {in_engine} in the engine and {in_bundle} in the bundle: the engine belongs to another graph. "
        "Run: edgekit compile BUNDLE --force",
        code="engine-other-graph",
    )


def _convert_feed(spec: TensorSpec, value: Any, dtype: np.dtype[Any], device: Gpu) -> Any:
    """Return a feed as an array of the engine's type, or as a buffer.

    Raises:
        InputError: The feed has another type, is out of range, or is a buffer of another device.
    """
    if isinstance(value, Buffer):
        _check_buffer(spec, value, dtype, device)
        return value
    array = np.asarray(value)
    if array.dtype == dtype:
        return array
    if dtype.kind in "iu" and array.dtype.kind in "iub" and array.size:
        limits = np.iinfo(dtype)
        low = int(array.min())
        high = int(array.max())
        if low < limits.min or high > limits.max:
            raise InputError(
                f"Input '{spec.name}' contains {low} to {high}, but the engine takes {dtype}, {limits.min} to "
                f"{limits.max}. Pass smaller numbers.",
                code="input-out-of-range",
            )
    elif array.dtype.kind != dtype.kind and not (dtype.kind == "f" and array.dtype.kind in "iu"):
        raise InputError(
            f"Input '{spec.name}' is {array.dtype}, but the engine takes {dtype}. Convert it.", code="input-dtype"
        )
    return array.astype(dtype)


def _check_buffer(spec: TensorSpec, buffer: Buffer, dtype: np.dtype[Any], device: Gpu) -> None:
    """Raise if a buffer belongs to another device or has another type."""
    if buffer.device is not device:
        problem = "belongs to another device"
    elif buffer.dtype != dtype:
        problem = f"is {buffer.dtype}, but the engine takes {dtype}"
    else:
        return
    raise InputError(
        f"The buffer for input '{spec.name}' {problem}. Copy it to the host with .numpy() and pass the array.",
        code="buffer-as-input",
    )


def _is_same_shape(shape: tuple[str | int, ...], engine_shape: tuple[int, ...]) -> bool:
    """Return whether a shape of the engine, with -1 for dynamic axes, matches that of the signature."""
    if len(shape) != len(engine_shape):
        return False
    return all(isinstance(axis, str) or size in (axis, -1) for axis, size in zip(shape, engine_shape, strict=True))


def _is_compatible(expected: list[str | int], shape: tuple[int, ...]) -> bool:
    """Return whether a shape has the expected rank and the expected size on every axis that is a number."""
    if len(expected) != len(shape):
        return False
    return all(isinstance(axis, str) or axis == size for axis, size in zip(expected, shape, strict=True))


def _count_elements(spec: TensorSpec, ranges: Mapping[str, tuple[int, int]]) -> int:
    """Return the number of elements of a tensor at the largest shape of a profile."""
    count = 1
    for axis in spec.shape:
        count *= axis if isinstance(axis, int) else ranges[axis][1]
    return count
