"""What an engine of TensorRT takes and gives: names, types, and the shapes that its optimization profiles hold."""

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
"""Of the inputs, in their order."""


class Tensors:
    """Inputs and outputs of an engine.

    Attributes:
        inputs: those that are in the engine; one that the graph does not use is not.
        outputs: all of them.
        types: numpy type by name.
        sizes: by name, bytes at the largest shape that a profile holds.
    """

    def __init__(self, engine: Any, signature: Signature) -> None:
        """Reads them off the engine.

        Raises:
            BackendError: when the engine is not of this signature, or the size of an output depends on the data.
        """
        found = {
            name: tuple(engine.get_tensor_shape(name))
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        self.inputs = [spec for spec in signature.inputs if spec.name in found]
        self.outputs = list(signature.outputs)
        specs = {spec.name: spec for spec in (*self.inputs, *self.outputs)}
        for name in {**specs, **found}:
            if name not in specs or name not in found or not _same(specs[name].shape, found[name]):
                has = f"{list(found[name])}" if name in found else "none"
                wanted = f"[{', '.join(map(str, specs[name].shape))}]" if name in specs else "none"
                raise BackendError(
                    f"'{name}' is {has} in the engine and {wanted} in the bundle, which is another graph. Run: edgekit compile BUNDLE --force",
                    code="engine-other-graph",
                )
        self.types = {name: numpy_type(engine.get_tensor_dtype(name), name) for name in specs}
        self._profiles = [self._ranges(engine, index) for index in range(engine.num_optimization_profiles)]
        for spec in self.outputs:
            for axis in spec.shape:
                if isinstance(axis, str) and axis not in self._profiles[0]:
                    raise BackendError(
                        f"Output '{spec.name}' varies along '{axis}', which no input does: its size depends on the data, and no memory can be set aside. "
                        "Export the model without it, or build for another backend.",
                        code="output-size-unknown",
                    )
        self.sizes = {
            name: max(_count(spec, ranges) for ranges in self._profiles) * self.types[name].itemsize
            for name, spec in specs.items()
        }

    def _ranges(self, engine: Any, profile: int) -> dict[str, tuple[int, int]]:
        """Axis name to its least and largest size in a profile."""
        found: dict[str, tuple[int, int]] = {}
        for spec in self.inputs:
            least, _, largest = engine.get_tensor_profile_shape(spec.name, profile)
            for axis, low, high in zip(spec.shape, tuple(least), tuple(largest), strict=True):
                if isinstance(axis, str):
                    found[axis] = (int(low), int(high))
        return found

    def given(self, feeds: Feeds, device: Gpu) -> list[Any]:
        """What the inputs are fed, in their order: arrays of the engine's own types, or buffers.

        Raises:
            InputError: for a name that is missing, another type, a value beyond the engine's, or a buffer of another device.
        """
        for spec in self.inputs:
            if spec.name not in feeds:
                raise InputError(
                    f"Input '{spec.name}' is missing. Give all of: {', '.join(s.name for s in self.inputs)}.",
                    code="input-missing",
                )
        return [_given(spec, feeds[spec.name], self.types[spec.name], device) for spec in self.inputs]

    def profile(self, shapes: Shapes) -> int:
        """The first profile that holds the shapes.

        Raises:
            InputError: when inputs disagree about an axis, or naming the axis that is outside.
        """
        sizes: dict[str, int] = {}
        for spec, shape in zip(self.inputs, shapes, strict=True):
            known = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.shape]
            if len(shape) != len(known) or any(
                isinstance(axis, int) and axis != size for axis, size in zip(known, shape, strict=True)
            ):
                raise InputError(
                    f"Input '{spec.name}' is {list(shape)}, expected [{', '.join(map(str, known))}]. Give all inputs one size along an axis.",
                    code="input-shape",
                )
            sizes |= {axis: size for axis, size in zip(spec.shape, shape, strict=True) if isinstance(axis, str)}
        for index, ranges in enumerate(self._profiles):
            if all(low <= sizes[axis] <= high for axis, (low, high) in ranges.items()):
                return index
        outside = [
            axis
            for axis, size in sizes.items()
            if not any(low <= size <= high for low, high in (ranges[axis] for ranges in self._profiles))
        ]
        axes = outside[:1] or list(sizes)
        accepted = "; ".join(
            ", ".join(f"{axis} {low} to {high}" for axis, (low, high) in ranges.items()) for ranges in self._profiles
        )
        raise InputError(
            f"Axis '{' x '.join(axes)}' is {' x '.join(str(sizes[axis]) for axis in axes)}, which no optimization profile of this engine holds. "
            f"It accepts: {accepted}. Give other sizes, or build the bundle again with wider profiles in the target's [engine] table.",
            code="input-outside-profiles",
        )

    def results(self, context: Any) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs for the input shapes that a context has.

        Raises:
            BackendError: when TensorRT cannot tell one, or it is larger than the profiles say.
        """
        found = {spec.name: tuple(int(size) for size in context.get_tensor_shape(spec.name)) for spec in self.outputs}
        for name, shape in found.items():
            if min(shape, default=0) < 0:
                raise BackendError(
                    f"The shape of output '{name}' depends on the data ({list(shape)}): no memory can be set aside. Build for another backend.",
                    code="output-size-unknown",
                )
            if int(np.prod(shape, dtype=np.int64)) * self.types[name].itemsize > self.sizes[name]:
                raise BackendError(
                    f"Output '{name}' is {list(shape)}, more than {self.sizes[name]} bytes. Run: edgekit compile BUNDLE --force",
                    code="output-too-large",
                )
        return found


def _given(spec: TensorSpec, value: Any, wanted: np.dtype[Any], device: Gpu) -> Any:
    if isinstance(value, Buffer):
        if value.device is not device or value.dtype != wanted:
            what = "of another device" if value.device is not device else f"of {value.dtype}, the engine takes {wanted}"
            raise InputError(
                f"The buffer for input '{spec.name}' is {what}. Bring it to the host with .numpy() and give that.",
                code="buffer-as-input",
            )
        return value
    array = np.asarray(value)
    if array.dtype == wanted:
        return array
    if wanted.kind in "iu" and array.dtype.kind in "iub" and array.size:
        info, low, high = np.iinfo(wanted), int(array.min()), int(array.max())
        if low < info.min or high > info.max:
            raise InputError(
                f"Input '{spec.name}' holds {low} to {high}, the engine takes {wanted}, {info.min} to {info.max}. Give smaller numbers.",
                code="input-out-of-range",
            )
    elif array.dtype.kind != wanted.kind and not (wanted.kind == "f" and array.dtype.kind in "iu"):
        raise InputError(
            f"Input '{spec.name}' is {array.dtype}, the engine takes {wanted}. Convert it.", code="input-dtype"
        )
    return array.astype(wanted)


def _same(shape: tuple[str | int, ...], found: tuple[int, ...]) -> bool:
    """Whether a shape of the engine, -1 where it varies, can be that of the signature."""
    return len(shape) == len(found) and all(
        isinstance(axis, str) or size in (axis, -1) for axis, size in zip(shape, found, strict=True)
    )


def _count(spec: TensorSpec, ranges: Mapping[str, tuple[int, int]]) -> int:
    """Elements of a tensor at the largest shape of a profile."""
    return int(np.prod([axis if isinstance(axis, int) else ranges[axis][1] for axis in spec.shape], dtype=np.int64))
