"""Runs an engine of TensorRT or TensorRT-RTX.

A call takes one of the device's streams, and with it a lane: contexts, input and output buffers, and scratch memory that all
contexts of the lane share, since one of them runs at a time. So calls on several streams share nothing and need no lock, and an
engine takes the memory of as many contexts as there are streams, however many threads call it.

The first call of a shape enqueues; the second captures copies and kernels into a CUDA graph; later ones launch that. A graph
pins shapes, addresses and the state of its context, and changing the context leaves the graph undefined (NVIDIA, "Working with
dynamic shapes" and "CUDA graphs" of the developer guide). So each graph has a context of its own, and the least recently used go.
Where the engine cannot be captured, the shape is enqueued for good. TensorRT-RTX captures by itself: it puts kernels for a shape in
the place of general ones some calls later, which a graph of ours would miss (NVIDIA, "Working with RTX CUDA graphs").

On an integrated GPU (Jetson) host and device are one memory: inputs and outputs are pinned and mapped, and nothing is copied
but into and out of them. Elsewhere they are pinned, and copied on the stream.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.backends import Feeds
from edgekit.backends._trt import is_rtx, multiplies_in
from edgekit.backends._trt_gpu import Buffer, Gpu
from edgekit.backends._trt_tensors import Shapes, Tensors
from edgekit.drivers.cuda import view
from edgekit.spec.errors import BackendError, InputError
from edgekit.spec.tensor import Signature

_log = logging.getLogger("edgekit.tensorrt")
_GRAPHS = 16  # of one lane; each holds a context
_OFTEN = 32  # calls that a capture (a context, two runs) is worth where another graph goes for it
_SEEN = 1024  # shapes whose calls are counted
_NEVER = -1  # in place of that count: it cannot be captured


@dataclass
class _Port:
    """One input or output of a lane: pinned memory on the host, and its address on the device."""

    host: int
    device: int
    memory: np.ndarray  # that of the host, as bytes


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
    scratch: int = 0
    ports: dict[str, _Port] = field(default_factory=dict)
    contexts: dict[int, Any] = field(default_factory=dict)  # by profile
    shapes: dict[int, Shapes] = field(default_factory=dict)  # that they have
    graphs: OrderedDict[Shapes, _Captured] = field(default_factory=OrderedDict)
    seen: OrderedDict[Shapes, int] = field(default_factory=OrderedDict)  # calls that were enqueued


class TensorRtEngine:
    """A deserialized engine."""

    def __init__(self, device: Gpu, engine: Any, signature: Signature) -> None:
        """Reads what the engine takes; contexts and buffers are made when a stream first calls.

        Raises:
            BackendError: when the engine is not of this signature.
        """
        self._device, self._engine = device, engine
        self._tensors = Tensors(engine, signature)
        profiles = range(engine.num_optimization_profiles)
        self._scratch = max(int(engine.get_device_memory_size_for_profile_v2(index)) for index in profiles)
        self._captures = not is_rtx(device.trt)
        self._settings = self._context_settings(engine)
        self._lanes: dict[int, _Lane] = {}
        # Of TensorRT's objects an engine is for one thread at a time, and its contexts for one each (developer guide, "Threading").
        self._lock = threading.Lock()

    def _context_settings(self, engine: Any) -> Any:
        """What a context is made with: the lane brings its memory, and TensorRT-RTX sees to CUDA graphs."""
        trt = self._device.trt
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not is_rtx(trt):
            return managed
        settings = engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(managed)
        settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return settings

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, Any]:
        """Runs once, on a stream that no other call uses; waits for one where there is none.

        Args:
            feeds: arrays by input name, or buffers that an engine of this device kept.
            keep: outputs that stay on the device.

        Returns:
            Outputs by name: arrays, and a :class:`Buffer` for each of ``keep``.

        Raises:
            InputError: for an input that is missing, shapes outside every profile, a value beyond the engine's integer type, or a buffer of
                another device or type.
            BackendError: when TensorRT or CUDA refuses.
        """
        given = self._tensors.given(feeds, self._device)
        shapes: Shapes = tuple(tuple(value.shape) for value in given)
        if keep and (unknown := [name for name in keep if name not in {s.name for s in self._tensors.outputs}]):
            raise InputError(
                f"Unknown output '{unknown[0]}' in keep. Outputs: {', '.join(s.name for s in self._tensors.outputs)}.",
                code="output-unknown",
            )
        with self._lane() as lane:
            if self._captures and not keep and all(isinstance(value, np.ndarray) for value in given):
                captured = lane.graphs.get(shapes)
                if captured is not None:
                    return self._launch(lane, shapes, captured, given)
                if lane.seen.get(shapes, 0) >= (1 if len(lane.graphs) < _GRAPHS else _OFTEN):
                    return self._capture(lane, shapes, given)
            return self._enqueue(lane, shapes, given, keep)

    def precisions(self) -> list[str]:
        """Reads what the engine inspector tells of the layers that multiply; none where it shows no such layer (one fused kernel for all).

        Types of tensors that vary in size are told of a context alone, so one of the usual shapes is made for it.
        """
        with self._lane() as lane:
            context = self._new_context(lane, 0)
            self._prepare(
                context,
                lane,
                tuple(tuple(self._engine.get_tensor_profile_shape(spec.name, 0)[1]) for spec in self._tensors.inputs),
            )
            with self._lock:
                inspector = self._engine.create_engine_inspector()
                inspector.execution_context = context
                told = json.loads(inspector.get_engine_information(self._device.trt.LayerInformationFormat.JSON))
        return [kind for layer in told.get("Layers", []) if isinstance(layer, dict) and (kind := multiplies_in(layer))]

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._engine is None

    def close(self) -> None:
        """Frees contexts, buffers and the engine. Calls that run end first; a second call does nothing."""
        with self._device.alone():
            if self._engine is None:
                return
            try:
                self._device.cuda.enter()
                for lane in self._lanes.values():
                    self._free(lane)
            except BackendError as problem:  # the GPU failed, which a call has told; nothing can be freed any more
                _log.warning(
                    "What the engine holds on the GPU goes with the process: %s", str(problem)
                )  # not with its frames
            self._lanes.clear()
            self._engine = self._settings = None

    def _free(self, lane: _Lane) -> None:
        cuda = self._device.cuda
        for captured in lane.graphs.values():
            cuda.destroy_graph(captured.graph)
        lane.graphs.clear()
        lane.contexts.clear()  # before the memory that they compute in
        for port in lane.ports.values():
            if port.device and not cuda.integrated:
                cuda.free(port.device)
            cuda.free_host(port.host)
        if lane.scratch:
            cuda.free(lane.scratch)

    # ---- lanes and contexts

    @contextlib.contextmanager
    def _lane(self) -> Iterator[_Lane]:
        """The lane of a stream that is free, with the device's context on this thread, which other libraries may have replaced."""
        stream = self._device.free.get()
        mark = self._device.heard.mark()
        try:
            if self._engine is None:
                raise BackendError(
                    "This engine is closed, so it cannot run. Open the bundle again.", code="engine-closed"
                )
            self._device.cuda.enter()
            yield self._lanes.get(stream) or self._new_lane(stream)
        except BaseException as problem:
            # What is queued still uses memory that is about to get another owner.
            with contextlib.suppress(BackendError):
                self._device.cuda.synchronize(stream)
            if isinstance(problem, RuntimeError):  # which is what the bindings raise, and _must
                said = "; ".join(self._device.heard.errors(mark)) or "it gave no reason"
                advice = (
                    "Close the session and open it again; if that does not help, run: edgekit compile BUNDLE --force"
                )
                raise BackendError(
                    f"TensorRT could not run the engine ({problem}): {said}. {advice}", code="engine-run-failed"
                ) from problem
            raise
        finally:
            self._device.free.put(stream)

    def _new_lane(self, stream: int) -> _Lane:
        cuda, made = self._device.cuda, _Lane(stream)
        try:
            made.scratch = cuda.allocate(self._scratch)
            for name, size in self._tensors.sizes.items():
                host, device = cuda.allocate_host(size, mapped=cuda.integrated)
                port = made.ports[name] = _Port(host, device, view(host, np.uint8, (size,)))
                if not cuda.integrated:
                    port.device = cuda.allocate(size)
        except BaseException:
            self._free(made)
            raise
        with self._lock:
            self._lanes[stream] = made
        return made

    def _new_context(self, lane: _Lane, profile: int) -> Any:
        with self._lock:
            context = self._engine.create_execution_context(self._settings)
        if context is None:
            raise BackendError(
                "TensorRT could not make an execution context; memory may not suffice. Close other programs, or use fewer streams.",
                code="engine-context",
            )
        context.set_device_memory(lane.scratch, self._scratch)
        _must(context.set_optimization_profile_async(profile, lane.stream), "set_optimization_profile_async")
        return context

    def _prepare(self, context: Any, lane: _Lane, shapes: Shapes) -> None:
        """Gives a context its shapes and the lane's own addresses."""
        for spec, shape in zip(self._tensors.inputs, shapes, strict=True):
            _must(context.set_input_shape(spec.name, shape), f"set_input_shape('{spec.name}', {list(shape)})")
        if missing := context.infer_shapes():
            raise BackendError(
                f"TensorRT cannot tell the shapes of the outputs: it misses {', '.join(map(str, missing))}. The engine is of another graph.",
                code="engine-other-graph",
            )
        for name, port in lane.ports.items():
            _must(context.set_tensor_address(name, port.device), f"set_tensor_address('{name}')")

    # ---- three ways to run

    def _enqueue(self, lane: _Lane, shapes: Shapes, given: list[Any], keep: Collection[str]) -> dict[str, Any]:
        """Copies in, enqueues, copies out, waits."""
        profile = self._tensors.profile(shapes)
        context = lane.contexts.get(profile)
        if context is None:
            context = lane.contexts[profile] = self._new_context(lane, profile)
        if lane.shapes.get(profile) != shapes:
            lane.shapes.pop(profile, None)
            self._prepare(context, lane, shapes)
            lane.shapes[profile] = shapes
        moved = {
            spec.name: value
            for spec, value in zip(self._tensors.inputs, given, strict=True)
            if isinstance(value, Buffer)
        }
        results = self._tensors.results(context)
        moved |= {name: self._device.buffer(self._tensors.types[name], results[name]) for name in keep}
        try:
            for name, buffer in moved.items():
                _must(context.set_tensor_address(name, buffer.address), f"set_tensor_address('{name}')")
            for spec, value in zip(self._tensors.inputs, given, strict=True):
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
        calls = lane.seen.pop(shapes, 0)
        lane.seen[shapes] = calls if calls == _NEVER else calls + 1  # the last now
        if len(lane.seen) > _SEEN:
            lane.seen.popitem(last=False)
        return {name: moved[name] if name in keep else reads[name].copy() for name in results}

    def _capture(self, lane: _Lane, shapes: Shapes, given: list[np.ndarray]) -> dict[str, Any]:
        """Runs once more, then captures; what cannot be captured is enqueued from now on."""
        cuda, profile = self._device.cuda, self._tensors.profile(shapes)
        try:
            context = self._new_context(lane, profile)
        except (BackendError, RuntimeError) as problem:
            self._give_up(lane, shapes, problem)
            return self._enqueue(lane, shapes, given, ())
        self._prepare(context, lane, shapes)
        results = self._tensors.results(context)
        fills = [self._view(lane, spec.name, shape) for spec, shape in zip(self._tensors.inputs, shapes, strict=True)]
        for place, value in zip(fills, given, strict=True):
            np.copyto(place, value)
        # What TensorRT does once for a context and a shape is not to be in the graph.
        enqueued, reads = self._once(context, lane, fills, results)
        _must(enqueued, "execute_async_v3")
        cuda.synchronize(lane.stream)
        answer = {name: array.copy() for name, array in reads.items()}
        try:
            graph = self._record(context, lane, fills, results)
        except BackendError as problem:  # memory, for one; the answer is there, and what is worse meets the next call
            self._give_up(lane, shapes, problem)
            return answer
        if graph is None:
            self._give_up(lane, shapes, "TensorRT does what a CUDA graph cannot hold")
            return answer
        lane.seen.pop(shapes)
        lane.graphs[shapes] = _Captured(graph, context, fills, reads)
        if len(lane.graphs) > _GRAPHS:
            _, oldest = lane.graphs.popitem(last=False)
            cuda.destroy_graph(oldest.graph)
        return answer

    def _give_up(self, lane: _Lane, shapes: Shapes, reason: object) -> None:
        lane.seen[shapes] = _NEVER
        _log.info("shapes %s are enqueued and not captured into a CUDA graph: %s", shapes, str(reason))

    def _record(
        self, context: Any, lane: _Lane, fills: list[np.ndarray], results: Mapping[str, tuple[int, ...]]
    ) -> int | None:
        """A CUDA graph of one run; None where it cannot be captured."""
        cuda, enqueued = self._device.cuda, False
        cuda.begin_capture(lane.stream)
        try:
            enqueued, _ = self._once(context, lane, fills, results)
        finally:
            graph = cuda.end_capture(lane.stream)
            if graph is not None and not enqueued:
                cuda.destroy_graph(graph)
        return graph if enqueued else None

    def _once(
        self, context: Any, lane: _Lane, fills: list[np.ndarray], results: Mapping[str, tuple[int, ...]]
    ) -> tuple[bool, dict[str, np.ndarray]]:
        """Puts copies and kernels of one run on the stream; whether TensorRT took it, which it may not while it is captured."""
        for spec, array in zip(self._tensors.inputs, fills, strict=True):
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
        if not self._device.cuda.integrated:
            self._device.cuda.to_device(port.device, port.host, value.nbytes, lane.stream)

    def _fetch(self, lane: _Lane, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The pinned memory that an output will be in when the stream is done."""
        port, array = lane.ports[name], self._view(lane, name, shape)
        if not self._device.cuda.integrated:
            self._device.cuda.to_host(port.host, port.device, array.nbytes, lane.stream)
        return array

    def _view(self, lane: _Lane, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(np.ndarray(shape, self._tensors.types[name], lane.ports[name].memory))


def _must(done: Any, what: str) -> None:
    if done is False:
        raise RuntimeError(f"{what} was refused")
