"""Execution of an engine of TensorRT or TensorRT-RTX.

A call takes one of the device's streams, and with it a lane: contexts, input and output buffers, and scratch memory
that all contexts of the lane share, because only one of them runs at a time. Calls on different streams share nothing
and need no lock. The memory of an engine depends on the number of streams, not on the number of calling threads.

The first call with new input shapes is enqueued; the second captures its copies and kernels into a CUDA graph; later
calls launch the graph. A graph fixes shapes, addresses and the state of its context, and a change of the context makes
the graph undefined (NVIDIA, "Working with dynamic shapes" and "CUDA graphs" of the developer guide). Each graph
therefore has its own context, and the least recently used graphs are freed. Shapes that cannot be captured are always
enqueued. TensorRT-RTX captures by itself: after some calls it replaces general kernels by kernels for one shape, and a
graph captured here would not contain them (NVIDIA, "Working with RTX CUDA graphs").

On an integrated GPU (Jetson) host and device share one memory: inputs and outputs are pinned and mapped, and the only
copies are those into and out of them. On other GPUs they are pinned and copied on the stream.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from edgekit.backends import Feeds
from edgekit.backends._trt import is_rtx, weight_precision
from edgekit.backends._trt_gpu import Buffer, Gpu
from edgekit.backends._trt_lane import CapturedGraph, Lane
from edgekit.backends._trt_tensors import Shapes, Tensors
from edgekit.spec.errors import BackendError, InputError
from edgekit.spec.tensor import Signature

_log = logging.getLogger("edgekit.tensorrt")
_GRAPHS = 16  # Largest number of graphs of a lane; each holds a context.
_OFTEN = 32  # Number of calls after which shapes replace the least recently used graph.
_SEEN = 1024  # Largest number of shapes whose calls are counted.
_NEVER = -1  # Count of shapes that cannot be captured.


class TensorRtEngine:
    """A deserialized engine."""

    def __init__(self, device: Gpu, engine: Any, signature: Signature) -> None:
        """Read the inputs and outputs of an engine. The first call on a stream creates contexts and buffers.

        Args:
            device: Device of the engine.
            engine: Engine of TensorRT.
            signature: Inputs and outputs of the graph.

        Raises:
            BackendError: The engine has another signature.
        """
        self._device = device
        self._engine = engine
        self._tensors = Tensors(engine, signature)
        profiles = range(engine.num_optimization_profiles)
        self._scratch = max(int(engine.get_device_memory_size_for_profile_v2(index)) for index in profiles)
        self._captures = not is_rtx(device.trt)
        self._settings = self._context_settings(engine)
        self._lanes: dict[int, Lane] = {}
        # TensorRT's engine is not thread-safe, and each context serves one thread (developer guide, "Threading").
        self._lock = threading.Lock()

    def _context_settings(self, engine: Any) -> Any:
        """Return the settings of a context: the lane provides the memory, and TensorRT-RTX captures CUDA graphs."""
        trt = self._device.trt
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not is_rtx(trt):
            return strategy
        settings = engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(strategy)
        settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return settings

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, Any]:
        """Run the engine once, on a stream that no other call uses; wait if there is none.

        Args:
            feeds: Arrays by input name, or buffers that an engine of this device returned.
            keep: Names of outputs that stay on the device.

        Returns:
            Arrays by output name; a :class:`Buffer` for each output in ``keep``.

        Raises:
            InputError: An input is missing, no profile covers the shapes, a value is out of the engine's integer range,
                or a buffer has another device or type.
            BackendError: TensorRT or CUDA failed.
        """
        values = self._tensors.order_feeds(feeds, self._device)
        shapes: Shapes = tuple(tuple(value.shape) for value in values)
        self._check_output_names(keep)
        with self._acquire_lane() as lane:
            if self._captures and not keep and all(isinstance(value, np.ndarray) for value in values):
                captured = lane.graphs.get(shapes)
                if captured is not None:
                    return self._launch(lane, shapes, captured, values)
                calls_before_capture = 1 if len(lane.graphs) < _GRAPHS else _OFTEN
                if lane.seen.get(shapes, 0) >= calls_before_capture:
                    return self._capture(lane, shapes, values)
            return self._enqueue(lane, shapes, values, keep)

    def _check_output_names(self, names: Collection[str]) -> None:
        """Raise if a name is not an output."""
        outputs = [spec.name for spec in self._tensors.outputs]
        for name in names:
            if name not in outputs:
                raise InputError(
                    f"Unknown output '{name}' in keep. Outputs: {', '.join(outputs)}.", code="output-unknown"
                )

    def precisions(self) -> list[str]:
        """Return the precision of each layer with weights from the engine inspector.

        The result is empty if the inspector shows no such layer (one fused kernel for everything). It reports the data
        types of tensors with dynamic shapes only for a context, so a context with the usual shapes is created.
        """
        with self._acquire_lane() as lane:
            usual_shapes = [tuple(self._engine.get_tensor_profile_shape(s.name, 0)[1]) for s in self._tensors.inputs]
            context = self._new_context(lane, 0)
            self._prepare(context, lane, tuple(usual_shapes))
            with self._lock:
                inspector = self._engine.create_engine_inspector()
                inspector.execution_context = context
                text = inspector.get_engine_information(self._device.trt.LayerInformationFormat.JSON)
        layers = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
        return [precision for precision in map(weight_precision, layers) if precision]

    @property
    def closed(self) -> bool:
        """Whether the engine is closed."""
        return self._engine is None

    def close(self) -> None:
        """Free contexts, buffers and the engine after all running calls; a second call does nothing."""
        with self._device.alone():
            if self._engine is None:
                return
            try:
                self._device.cuda.enter()
                for lane in self._lanes.values():
                    lane.free()
            except BackendError as problem:
                # The GPU failed during a call, which reported it; nothing can be freed any more. Only the text is
                # logged: a reference to the exception would keep its frames alive.
                _log.warning(
                    "GPU memory of an engine could not be freed and stays allocated until the process ends: %s",
                    str(problem),
                )
            self._lanes.clear()
            self._engine = None
            self._settings = None

    # ---- lanes and contexts

    @contextlib.contextmanager
    def _acquire_lane(self) -> Iterator[Lane]:
        """Acquire the lane of a free stream and make the device's CUDA context current on this thread."""
        stream = self._device.free.get()
        mark = self._device.messages.mark()
        try:
            if self._engine is None:
                raise BackendError(
                    "This engine is closed, so it cannot run. Open the bundle again.", code="engine-closed"
                )
            self._device.cuda.enter()
            yield self._lanes.get(stream) or self._new_lane(stream)
        except BaseException as problem:
            # Queued work still uses memory that another call is about to get.
            with contextlib.suppress(BackendError):
                self._device.cuda.synchronize(stream)
            # The bindings and _require raise RuntimeError.
            if isinstance(problem, RuntimeError):
                lines = "; ".join(self._device.messages.errors(mark)) or "no reason reported"
                raise BackendError(
                    f"TensorRT could not run the engine ({problem}): {lines}. Close the session and open it again; "
                    "if that does not help, run: edgekit compile BUNDLE --force",
                    code="engine-run-failed",
                ) from problem
            raise
        finally:
            self._device.free.put(stream)

    def _new_lane(self, stream: int) -> Lane:
        lane = Lane(self._device.cuda, stream, self._tensors.types)
        lane.allocate(self._scratch, self._tensors.sizes)
        with self._lock:
            self._lanes[stream] = lane
        return lane

    def _new_context(self, lane: Lane, profile: int) -> Any:
        with self._lock:
            context = self._engine.create_execution_context(self._settings)
        if context is None:
            raise BackendError(
                "TensorRT could not create an execution context; there may not be enough memory. "
                "Close other programs, or use fewer streams.",
                code="engine-context",
            )
        context.set_device_memory(lane.scratch, self._scratch)
        _require(context.set_optimization_profile_async(profile, lane.stream), "set_optimization_profile_async")
        return context

    def _prepare(self, context: Any, lane: Lane, shapes: Shapes) -> None:
        """Set the input shapes of a context and the addresses of the lane."""
        for spec, shape in zip(self._tensors.inputs, shapes, strict=True):
            _require(context.set_input_shape(spec.name, shape), f"set_input_shape('{spec.name}', {list(shape)})")
        missing_names = context.infer_shapes()
        if missing_names:
            raise BackendError(
                "TensorRT cannot determine the output shapes without "
                f"{', '.join(map(str, missing_names))}. The engine belongs to another graph.",
                code="engine-other-graph",
            )
        for name, port in lane.ports.items():
            _require(context.set_tensor_address(name, port.device), f"set_tensor_address('{name}')")

    # ---- three ways to run

    def _enqueue(self, lane: Lane, shapes: Shapes, values: list[Any], keep: Collection[str]) -> dict[str, Any]:
        """Copy the inputs, enqueue the kernels, copy the outputs and wait."""
        profile = self._tensors.profile(shapes)
        context = self._prepared_context(lane, profile, shapes)
        output_shapes = self._tensors.output_shapes(context)
        buffers: dict[str, Buffer] = {}
        arrays: dict[str, np.ndarray] = {}
        for spec, value in zip(self._tensors.inputs, values, strict=True):
            if isinstance(value, Buffer):
                buffers[spec.name] = value
            else:
                arrays[spec.name] = value
        for name in keep:
            buffers[name] = self._device.buffer(self._tensors.types[name], output_shapes[name])
        try:
            for name, buffer in buffers.items():
                _require(context.set_tensor_address(name, buffer.address), f"set_tensor_address('{name}')")
            for name, array in arrays.items():
                np.copyto(lane.view(name, array.shape), array)
                lane.send(name, array.nbytes)
            _require(context.execute_async_v3(lane.stream), "execute_async_v3")
            outputs = {name: lane.fetch(name, shape) for name, shape in output_shapes.items() if name not in keep}
            self._device.cuda.synchronize(lane.stream)
            # The next call with these shapes uses the addresses of the lane again.
            for name in buffers:
                _require(context.set_tensor_address(name, lane.ports[name].device), f"set_tensor_address('{name}')")
        except BaseException:
            lane.shapes.pop(profile, None)  # The state of the context is unknown now.
            raise
        _count_call(lane, shapes)
        results: dict[str, Any] = {name: array.copy() for name, array in outputs.items()}
        results |= {name: buffers[name] for name in keep}
        return {name: results[name] for name in output_shapes}

    def _prepared_context(self, lane: Lane, profile: int, shapes: Shapes) -> Any:
        """Return the context of a profile with the input shapes and addresses set."""
        context = lane.contexts.get(profile)
        if context is None:
            context = self._new_context(lane, profile)
            lane.contexts[profile] = context
        if lane.shapes.get(profile) != shapes:
            lane.shapes.pop(profile, None)
            self._prepare(context, lane, shapes)
            lane.shapes[profile] = shapes
        return context

    def _capture(self, lane: Lane, shapes: Shapes, values: list[np.ndarray]) -> dict[str, Any]:
        """Run once, then capture a CUDA graph. If the capture fails, these shapes are enqueued from now on."""
        cuda = self._device.cuda
        profile = self._tensors.profile(shapes)
        try:
            context = self._new_context(lane, profile)
        except (BackendError, RuntimeError) as problem:
            _give_up_capture(lane, shapes, problem)
            return self._enqueue(lane, shapes, values, ())
        self._prepare(context, lane, shapes)
        output_shapes = self._tensors.output_shapes(context)
        inputs = [lane.view(spec.name, shape) for spec, shape in zip(self._tensors.inputs, shapes, strict=True)]
        for array, value in zip(inputs, values, strict=True):
            np.copyto(array, value)
        # This run keeps the one-time work of TensorRT for a context and a shape out of the graph.
        is_enqueued, outputs = self._queue_run(context, lane, inputs, output_shapes)
        _require(is_enqueued, "execute_async_v3")
        cuda.synchronize(lane.stream)
        result = {name: array.copy() for name, array in outputs.items()}
        try:
            graph = self._record(context, lane, inputs, output_shapes)
        except BackendError as problem:
            # E.g. not enough memory. The result is complete; a lasting failure is raised by the next call.
            _give_up_capture(lane, shapes, problem)
            return result
        if graph is None:
            _give_up_capture(lane, shapes, "TensorRT does work that a CUDA graph cannot contain")
            return result
        lane.seen.pop(shapes)
        lane.graphs[shapes] = CapturedGraph(graph, context, inputs, outputs)
        if len(lane.graphs) > _GRAPHS:
            _, oldest = lane.graphs.popitem(last=False)
            cuda.destroy_graph(oldest.graph)
        return result

    def _record(
        self, context: Any, lane: Lane, inputs: list[np.ndarray], output_shapes: Mapping[str, tuple[int, ...]]
    ) -> int | None:
        """Return a CUDA graph of one run; None if it cannot be captured."""
        cuda = self._device.cuda
        is_enqueued = False
        cuda.begin_capture(lane.stream)
        try:
            is_enqueued, _ = self._queue_run(context, lane, inputs, output_shapes)
        finally:
            graph = cuda.end_capture(lane.stream)
            if graph is not None and not is_enqueued:
                cuda.destroy_graph(graph)
        return graph if is_enqueued else None

    def _queue_run(
        self, context: Any, lane: Lane, inputs: list[np.ndarray], output_shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[bool, dict[str, np.ndarray]]:
        """Queue copies and kernels of one run on the stream.

        Returns:
            True if TensorRT enqueued its kernels, which it can refuse during a capture; and the outputs by name.
        """
        for spec, array in zip(self._tensors.inputs, inputs, strict=True):
            lane.send(spec.name, array.nbytes)
        is_enqueued = bool(context.execute_async_v3(lane.stream))
        return is_enqueued, {name: lane.fetch(name, shape) for name, shape in output_shapes.items()}

    def _launch(self, lane: Lane, shapes: Shapes, captured: CapturedGraph, values: list[np.ndarray]) -> dict[str, Any]:
        """Run a captured graph."""
        lane.graphs.move_to_end(shapes)
        for array, value in zip(captured.inputs, values, strict=True):
            np.copyto(array, value)
        cuda = self._device.cuda
        cuda.launch(captured.graph, lane.stream)
        cuda.synchronize(lane.stream)
        return {name: array.copy() for name, array in captured.outputs.items()}


def _count_call(lane: Lane, shapes: Shapes) -> None:
    """Count an enqueued call and make its shapes the most recently used."""
    calls = lane.seen.pop(shapes, 0)
    lane.seen[shapes] = calls if calls == _NEVER else calls + 1
    if len(lane.seen) > _SEEN:
        lane.seen.popitem(last=False)


def _give_up_capture(lane: Lane, shapes: Shapes, reason: object) -> None:
    """Never try to capture these shapes again."""
    lane.seen[shapes] = _NEVER
    _log.info("Shapes %s are enqueued and not captured into a CUDA graph: %s", shapes, str(reason))


def _require(result: Any, call: str) -> None:
    """Raise RuntimeError if a call of TensorRT returned False."""
    if result is False:
        raise RuntimeError(f"{call} was refused")
