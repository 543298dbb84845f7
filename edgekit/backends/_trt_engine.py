"""Runs an engine of TensorRT or TensorRT-RTX.

A call takes one of the device's streams, and with it a lane: contexts, input and output buffers, and scratch memory that all
contexts of the lane share, since one of them runs at a time. So calls on several streams share nothing and need no lock, and an
engine takes the memory of as many contexts as there are streams, however many threads call it.

The first call of a shape enqueues; the second captures copies and kernels into a CUDA graph; later ones launch that. A graph
pins shapes, addresses and the state of its context, and changing the context leaves the graph undefined (NVIDIA, "Working with
dynamic shapes" and "CUDA graphs" of the developer guide). So each graph has a context of its own, and the least recently used go.
Where the engine cannot be captured, the shape is enqueued for good.

On an integrated GPU (Jetson) host and device are one memory: inputs and outputs are pinned and mapped, and nothing is copied
but into and out of them. Elsewhere they are pinned, and copied on the stream.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import Feeds, summary
from edgekit.backends._cuda import view
from edgekit.backends._trt import multiplies_in, numpy_type
from edgekit.backends._trt_buffer import Buffer
from edgekit.spec.errors import BackendError, InputError
from edgekit.spec.tensor import Signature, TensorSpec

if TYPE_CHECKING:
    from edgekit.backends._trt_device import TensorRtDevice

_log = logging.getLogger("edgekit.tensorrt")
_GRAPHS = 16  # of one lane; each holds a context
_SEEN = 1024  # shapes that are counted until they are captured

Shapes = tuple[tuple[int, ...], ...]


@dataclass
class _Port:
    """One input or output of a lane: pinned memory on the host, and its address on the device."""

    host: int
    device: int
    mapped: bool


@dataclass
class _Captured:
    """A CUDA graph of one shape, with the context that it pins."""

    graph: int
    context: Any
    fills: list[np.ndarray]
    reads: dict[str, np.ndarray]


@dataclass
class _Lane:
    """What the calls on one stream use. One of them at a time."""

    stream: int
    scratch: int
    ports: dict[str, _Port]
    contexts: dict[int, Any] = field(default_factory=dict)
    shapes: dict[int, Shapes] = field(default_factory=dict)
    graphs: OrderedDict[Shapes, _Captured] = field(default_factory=OrderedDict)
    seen: OrderedDict[Shapes, bool] = field(default_factory=OrderedDict)  # False: it cannot be captured


class TensorRtEngine:
    """A deserialized engine."""

    def __init__(self, device: TensorRtDevice, engine: Any, signature: Signature) -> None:
        """Reads what the engine takes; contexts and buffers are made when a stream first calls.

        Raises:
            BackendError: when the engine is not of this signature.
        """
        self._device, self._engine, self._signature = device, engine, signature
        trt = device.trt
        named = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        for spec in (*signature.inputs, *signature.outputs):
            if spec.name not in named and spec in signature.outputs:
                raise BackendError(f"The engine has no output '{spec.name}'. It is of another graph: make it again with edgekit compile BUNDLE.")
        # An input that the graph does not use is not in the engine.
        self._inputs = [spec for spec in signature.inputs if spec.name in named]
        self._outputs = list(signature.outputs)
        self._types = {spec.name: numpy_type(engine.get_tensor_dtype(spec.name), spec.name) for spec in (*self._inputs, *self._outputs)}
        profiles = range(engine.num_optimization_profiles)
        self._profiles = [self._ranges(index) for index in profiles]
        self._scratch = max((int(engine.get_device_memory_size_for_profile_v2(index)) for index in profiles), default=0)
        self._allocation = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._lanes: dict[int, _Lane] = {}
        self._lock = threading.Lock()

    def _ranges(self, profile: int) -> dict[str, tuple[int, int]]:
        """Axis name to its least and largest size in a profile."""
        found: dict[str, tuple[int, int]] = {}
        for spec in self._inputs:
            least, _, largest = self._engine.get_tensor_profile_shape(spec.name, profile)
            for axis, low, high in zip(spec.shape, tuple(least), tuple(largest), strict=True):
                if isinstance(axis, str):
                    found[axis] = (int(low), int(high))
        return found

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, Any]:
        """Runs once, on a stream that no other call uses; waits for one where there is none.

        Args:
            feeds: arrays by input name, or buffers that an engine of this device kept.
            keep: outputs that stay on the device.

        Returns:
            Outputs by name: arrays, and a :class:`Buffer` for each of ``keep``.

        Raises:
            InputError: for shapes outside every profile, a value beyond the engine's integer type, or a buffer of another device or type.
            BackendError: when TensorRT or CUDA refuses.
        """
        given = [self._given(spec, feeds[spec.name]) for spec in self._inputs]
        shapes: Shapes = tuple(tuple(value.shape) for value in given)
        if keep and (unknown := [name for name in keep if name not in {s.name for s in self._outputs}]):
            raise InputError(f"Unknown output '{unknown[0]}' in keep. Outputs: {', '.join(s.name for s in self._outputs)}.")
        stream = self._device.free.get()
        try:
            lane = self._open_lane(stream)
            if not keep and all(isinstance(value, np.ndarray) for value in given):
                captured = lane.graphs.get(shapes)
                if captured is not None:
                    return self._launch(lane, shapes, captured, given)
                if lane.seen.get(shapes):
                    return self._capture(lane, shapes, given)
            return self._enqueue(lane, shapes, given, keep)
        finally:
            self._device.free.put(stream)

    def executed_precision(self) -> str:
        """Reads what the engine inspector tells of the layers that multiply; ``unknown`` where it shows no such layer (one fused kernel for all).

        Types of tensors that vary in size are told of a context alone, so one of the usual shapes is made for it.
        """
        stream = self._device.free.get()
        try:
            lane = self._open_lane(stream)
            context = self._new_context(lane, 0)
            self._prepare(context, lane, tuple(tuple(self._engine.get_tensor_profile_shape(spec.name, 0)[1]) for spec in self._inputs))
            inspector = self._engine.create_engine_inspector()
            inspector.execution_context = context
            told = json.loads(inspector.get_engine_information(self._device.trt.LayerInformationFormat.JSON))
        finally:
            self._device.free.put(stream)
        return summary([kind for layer in told.get("Layers", []) if isinstance(layer, dict) and (kind := multiplies_in(layer))])

    def close(self) -> None:
        """Frees contexts, buffers and the engine. Calls that run end first; a second call does nothing."""
        if self._engine is None:
            return
        held = [self._device.free.get() for _ in range(self._device.streams)]
        try:
            for lane in self._lanes.values():
                self._free(lane)
            self._lanes.clear()
            self._engine = None
        finally:
            for stream in held:
                self._device.free.put(stream)
        self._device.forget(self)

    def _free(self, lane: _Lane) -> None:
        cuda = self._device.cuda
        for captured in lane.graphs.values():
            cuda.destroy_graph(captured.graph)
        lane.graphs.clear()
        lane.contexts.clear()  # before the memory that they compute in
        for port in lane.ports.values():
            if not port.mapped:
                cuda.free(port.device)
            cuda.free_host(port.host)
        if lane.scratch:
            cuda.free(lane.scratch)

    # ---- inputs

    def _given(self, spec: TensorSpec, value: Any) -> Any:
        """What the engine is fed: an array of its own type, or a buffer."""
        wanted = self._types[spec.name]
        if isinstance(value, Buffer):
            if value.device is not self._device or value.dtype != wanted:
                what = "of another device" if value.device is not self._device else f"of {value.dtype}, the engine takes {wanted}"
                raise InputError(f"The buffer for input '{spec.name}' is {what}. Bring it to the host with .numpy() and give that.")
            return value
        array = np.asarray(value)
        if array.dtype == wanted:
            return array
        if wanted.kind in "iu" and array.dtype.kind in "iub" and array.size:
            info, low, high = np.iinfo(wanted), int(array.min()), int(array.max())
            if low < info.min or high > info.max:
                raise InputError(f"Input '{spec.name}' holds {low} to {high}, the engine takes {wanted}, {info.min} to {info.max}. Give smaller numbers.")
        elif array.dtype.kind != wanted.kind and not (wanted.kind == "f" and array.dtype.kind in "iu"):
            raise InputError(f"Input '{spec.name}' is {array.dtype}, the engine takes {wanted}. Convert it.")
        return array.astype(wanted)

    def _profile(self, shapes: Shapes) -> int:
        """The first profile that holds the shapes.

        Raises:
            InputError: naming the axis that is outside.
        """
        pairs = [pair for spec, shape in zip(self._inputs, shapes, strict=True) for pair in zip(spec.shape, shape, strict=True)]
        sizes = {axis: size for axis, size in pairs if isinstance(axis, str)}
        for index, ranges in enumerate(self._profiles):
            if all(low <= sizes[axis] <= high for axis, (low, high) in ranges.items()):
                return index
        accepted = "; ".join(", ".join(f"{axis} {low} to {high}" for axis, (low, high) in ranges.items()) for ranges in self._profiles)
        for axis, size in sizes.items():
            if not any(low <= size <= high for low, high in (ranges[axis] for ranges in self._profiles)):
                break
        else:
            axis, size = " x ".join(sizes), " x ".join(map(str, sizes.values()))  # type: ignore[assignment]
        raise InputError(
            f"Axis '{axis}' is {size}, which no optimization profile of this engine holds. It accepts: {accepted}. Give other sizes, or build the bundle again "
            "with wider profiles in the target's [engine] table."
        )

    # ---- lanes and contexts

    def _open_lane(self, stream: int) -> _Lane:
        """The lane of a stream, with the device's context on this thread, which other libraries may have replaced."""
        if self._engine is None:
            raise BackendError("This engine is closed, so it cannot run. Open the bundle again.")
        self._device.cuda.enter()
        return self._lanes.get(stream) or self._new_lane(stream)

    def _new_lane(self, stream: int) -> _Lane:
        cuda, made = self._device.cuda, _Lane(stream, 0, {})
        made.scratch = cuda.allocate(self._scratch) if self._scratch else 0
        for spec in (*self._inputs, *self._outputs):
            size = self._types[spec.name].itemsize * max(_count(spec, ranges) for ranges in self._profiles or [{}])
            host, device = cuda.allocate_host(size, mapped=cuda.integrated)
            made.ports[spec.name] = _Port(host, device if cuda.integrated else cuda.allocate(size), cuda.integrated)
        with self._lock:
            self._lanes[stream] = made
        return made

    def _new_context(self, lane: _Lane, profile: int) -> Any:
        context = self._engine.create_execution_context(self._allocation)
        if context is None:
            raise BackendError("TensorRT could not make an execution context; memory may not suffice. Close other programs, or use fewer streams.")
        if lane.scratch:
            context.set_device_memory(lane.scratch, self._scratch)
        _must(context.set_optimization_profile_async(profile, lane.stream), "set_optimization_profile_async")
        return context

    def _prepare(self, context: Any, lane: _Lane, shapes: Shapes) -> None:
        """Gives a context its shapes and the lane's own addresses."""
        for spec, shape in zip(self._inputs, shapes, strict=True):
            _must(context.set_input_shape(spec.name, shape), f"set_input_shape('{spec.name}', {list(shape)})")
        if missing := context.infer_shapes():
            raise BackendError(f"TensorRT cannot tell the shapes of the outputs: it misses {', '.join(map(str, missing))}. The engine is of another graph.")
        for name, port in lane.ports.items():
            _must(context.set_tensor_address(name, port.device), f"set_tensor_address('{name}')")

    def _result_shapes(self, context: Any) -> dict[str, tuple[int, ...]]:
        return {spec.name: tuple(int(size) for size in context.get_tensor_shape(spec.name)) for spec in self._outputs}

    # ---- three ways to run

    def _enqueue(self, lane: _Lane, shapes: Shapes, given: list[Any], keep: Collection[str]) -> dict[str, Any]:
        """Copies in, enqueues, copies out, waits."""
        profile = self._profile(shapes)
        context = lane.contexts.get(profile)
        if context is None:
            context = lane.contexts[profile] = self._new_context(lane, profile)
        if lane.shapes.get(profile) != shapes:
            lane.shapes.pop(profile, None)
            self._prepare(context, lane, shapes)
            lane.shapes[profile] = shapes
        moved = {spec.name: value for spec, value in zip(self._inputs, given, strict=True) if isinstance(value, Buffer)}
        results = self._result_shapes(context)
        moved |= {name: self._device.buffer(self._types[name], results[name]) for name in keep}
        try:
            for name, buffer in moved.items():
                _must(context.set_tensor_address(name, buffer.address), f"set_tensor_address('{name}')")
            for spec, value in zip(self._inputs, given, strict=True):
                if not isinstance(value, Buffer):
                    np.copyto(self._view(lane, spec.name, value.shape), value)
                    self._send(lane, spec.name, value)
            _must(context.execute_async_v3(lane.stream), "execute_async_v3")
            reads = {name: self._fetch(lane, name, shape) for name, shape in results.items() if name not in keep}
            self._device.cuda.synchronize(lane.stream)
            for name in moved:  # the next call of this shape finds the lane's own addresses
                _must(context.set_tensor_address(name, lane.ports[name].device), f"set_tensor_address('{name}')")
        except BaseException:
            lane.shapes.pop(profile, None)  # what the context has now is not known
            raise
        if shapes not in lane.seen:
            lane.seen[shapes] = True
            if len(lane.seen) > _SEEN:
                lane.seen.popitem(last=False)
        return {name: moved[name] if name in keep else reads[name].copy() for name in results}

    def _capture(self, lane: _Lane, shapes: Shapes, given: list[np.ndarray]) -> dict[str, Any]:
        """Runs once more, then captures; what cannot be captured is enqueued from now on."""
        cuda, profile = self._device.cuda, self._profile(shapes)
        context = self._new_context(lane, profile)
        self._prepare(context, lane, shapes)
        results = self._result_shapes(context)
        fills = [self._view(lane, spec.name, shape) for spec, shape in zip(self._inputs, shapes, strict=True)]
        for place, value in zip(fills, given, strict=True):
            np.copyto(place, value)
        # What TensorRT does once for a context and a shape is not to be in the graph.
        enqueued, reads = self._once(context, lane, fills, results)
        _must(enqueued, "execute_async_v3")
        cuda.synchronize(lane.stream)
        answer = {name: array.copy() for name, array in reads.items()}
        cuda.begin_capture(lane.stream)
        try:
            enqueued, _ = self._once(context, lane, fills, results)
        finally:
            graph = cuda.end_capture(lane.stream)
        if graph is None or not enqueued:
            if graph is not None:
                cuda.destroy_graph(graph)
            _log.info("shapes %s cannot be captured into a CUDA graph, they are enqueued", shapes)
            lane.seen[shapes] = False
            return answer
        lane.graphs[shapes] = _Captured(graph, context, fills, reads)
        if len(lane.graphs) > _GRAPHS:
            _, oldest = lane.graphs.popitem(last=False)
            cuda.destroy_graph(oldest.graph)
        return answer

    def _once(self, context: Any, lane: _Lane, fills: list[np.ndarray], results: Mapping[str, tuple[int, ...]]) -> tuple[bool, dict[str, np.ndarray]]:
        """Puts copies and kernels of one run on the stream; whether TensorRT took it, which it may not while it is captured."""
        for spec, array in zip(self._inputs, fills, strict=True):
            self._send(lane, spec.name, array)
        enqueued = bool(context.execute_async_v3(lane.stream))
        return enqueued, {name: self._fetch(lane, name, shape) for name, shape in results.items()}

    def _launch(self, lane: _Lane, shapes: Shapes, captured: _Captured, given: list[np.ndarray]) -> dict[str, Any]:
        lane.graphs.move_to_end(shapes)
        for place, value in zip(captured.fills, given, strict=True):
            np.copyto(place, value)
        cuda = self._device.cuda
        cuda.launch(captured.graph, lane.stream)
        cuda.synchronize(lane.stream)
        return {name: array.copy() for name, array in captured.reads.items()}

    # ---- copies

    def _send(self, lane: _Lane, name: str, value: np.ndarray) -> None:
        """From pinned memory to the device; on an integrated GPU they are one."""
        port = lane.ports[name]
        if not port.mapped:
            self._device.cuda.to_device(port.device, port.host, value.nbytes, lane.stream)

    def _fetch(self, lane: _Lane, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The pinned memory that an output will be in when the stream is done."""
        port, array = lane.ports[name], self._view(lane, name, shape)
        if not port.mapped:
            self._device.cuda.to_host(port.host, port.device, array.nbytes, lane.stream)
        return array

    def _view(self, lane: _Lane, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return view(lane.ports[name].host, self._types[name], shape)


def _must(done: Any, what: str) -> None:
    if done is False:
        raise BackendError(f"TensorRT refused {what}. Close the session and open it again; if that does not help, run: edgekit compile BUNDLE --force")


def _count(spec: TensorSpec, ranges: Mapping[str, tuple[int, int]]) -> int:
    """Elements of a tensor at the largest shape of a profile."""
    return int(np.prod([axis if isinstance(axis, int) else ranges[axis][1] for axis in spec.shape], dtype=np.int64))
