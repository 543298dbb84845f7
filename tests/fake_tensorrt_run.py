"""The run side of the fake TensorRT: runtime, engine, inspector and execution context."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fake_tensorrt_graph as graphs
import numpy as np
from fake_tensorrt_native import ALIGNMENT, Dims, ILogger, Native, buffer, check_type, create, log, number, string


class Runtime(Native):
    """Loader of engines."""

    __slots__ = ("_logger",)

    def __init__(self, logger: Any) -> None:
        self._logger = check_type(logger, ILogger, "__init__")

    logger = property(lambda self: self._logger)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        """Return an engine; None if the bytes belong to another version or device, or are not an engine."""
        plan = buffer(serialized_engine, "deserialize_cuda_engine")
        fake = self._fake
        try:
            header, model = graphs.unpack(plan)
            if header["version"] != fake.version:
                text = f"not compatible with this version of TensorRT, expecting library version {fake.version} got {header['version']}, please rebuild."
                raise ValueError(f"Error Code 6: API Usage Error (The engine plan file is {text})")
            if header["compute"] != fake.compute:
                here, there = (".".join(map(str, compute)) for compute in (fake.compute, header["compute"]))
                text = f"generated on an incompatible device, expecting compute {here} got compute {there}, please rebuild."
                raise ValueError(f"Error Code 6: API Usage Error (The engine plan file is {text})")
        except ValueError as problem:
            log(self._logger, "ERROR", f"IRuntime::deserializeCudaEngine: {problem}")
            return None
        parsed = graphs.read(model, None)
        fields = {
            "header": header,
            "plan": plan,
            "runtime": self,
            "logger": self._logger,
            "runner": graphs.Runner(model),
            "inputs": {tensor.name: tensor for tensor in graphs.inputs(parsed)},
            "outputs": {tensor.name: tensor for tensor in graphs.outputs(parsed)},
            "quantized": any(node.op_type == "QuantizeLinear" for node in parsed.graph.node),
        }
        engine = create(fake.trt.ICudaEngine, **fields)
        fake._engines.add(engine)
        return engine


class ICudaEngine(Native):
    """A loaded engine."""

    __slots__ = ("_header", "_inputs", "_logger", "_outputs", "_plan", "_quantized", "_runner", "_runtime")
    name = property(lambda self: "Unnamed Network 0")
    num_io_tensors = property(lambda self: len(self._inputs) + len(self._outputs))
    num_layers = property(lambda self: len(self._header["layers"]))
    num_optimization_profiles = property(lambda self: len(self._header["profiles"]))
    profiling_verbosity = property(lambda self: getattr(self._fake.trt.ProfilingVerbosity, self._header["verbosity"]))

    @property
    def device_memory_size_v2(self) -> int:
        return max(self._memory(index) for index in range(self.num_optimization_profiles))

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self._memory(number(profile_index, "get_device_memory_size_for_profile_v2"))

    def get_tensor_name(self, index: int) -> Any:
        names = [*self._inputs, *self._outputs]
        if 0 <= number(index, "get_tensor_name") < len(names):
            return names[index]
        log(
            self._logger,
            "ERROR",
            "ICudaEngine::getIOTensorName: Error Code 3: API Usage Error (Parameter check failed, condition: index < nbIOTensors.)",
        )
        return None

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._fake.trt.TensorIOMode
        return (
            modes.INPUT
            if string(name, "get_tensor_mode") in self._inputs
            else modes.OUTPUT
            if name in self._outputs
            else modes.NONE
        )

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._fake.trt.DataType, self._tensor(string(name, "get_tensor_dtype")).dtype)

    def get_tensor_shape(self, name: str) -> Any:
        tensor = self._tensor(string(name, "get_tensor_shape"))
        return self._fake.trt.Dims(tensor.dims) if tensor.name else self._nothing()

    def get_tensor_location(self, name: str) -> Any:
        return self._fake.trt.TensorLocation.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        """Return minimum, optimum and maximum; shapes of -1 dimensions for an output, which has none."""
        shapes = self._profile(
            string(name, "get_tensor_profile_shape"), number(profile_index, "get_tensor_profile_shape")
        )
        return [self._fake.trt.Dims(shape) for shape in shapes] if shapes else [self._nothing() for _ in range(3)]

    def create_execution_context(self, strategy: Any = None) -> Any:
        trt, strategies = self._fake.trt, self._fake.trt.ExecutionContextAllocationStrategy
        managed = (
            strategy is not None
            and check_type(strategy, strategies, "create_execution_context") == strategies.USER_MANAGED
        )
        if self._fake.out_of_memory and not managed:
            log(
                self._logger, "ERROR", "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
            )
            return None
        fields = {
            "managed": managed,
            "profile": 0,
            "shapes": {},
            "addresses": {},
            "memory": None,
            "need": None,
            "fresh": True,
            "queued": [],
        }
        context = create(trt.IExecutionContext, engine=self, logger=self._logger, guard=threading.RLock(), **fields)
        self._fake._contexts.add(context)
        return context

    def create_engine_inspector(self) -> Any:
        return create(self._fake.trt.EngineInspector, engine=self, context=None)

    def _tensor(self, name: str) -> graphs.Tensor:
        tensor = self._inputs.get(name) or self._outputs.get(name)
        if tensor is None:
            text = f"Given invalid tensor name: {name}. Get valid tensor names with getIOTensorName()"
            log(self._logger, "ERROR", f"ICudaEngine::getTensorShape: Error Code 3: API Usage Error ({text})")
        return tensor or graphs.Tensor("", "FLOAT", ())

    def _nothing(self) -> Any:
        dims = self._fake.trt.Dims()
        dims._count = -1
        return dims

    def _profile(self, name: str, index: int) -> Any:
        if name not in self._inputs or not 0 <= index < self.num_optimization_profiles:
            return None
        return self._header["profiles"][index].get(name) or [self._inputs[name].dims] * 3

    def _memory(self, index: int, shapes: Any = None) -> int:
        """Return the size of the scratch memory of an execution, bytes."""
        shapes = shapes or {name: self._profile(name, index)[2] for name in self._inputs}
        elements = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
        return -(-64 * elements // ALIGNMENT) * ALIGNMENT


class EngineInspector(Native):
    """Inspector of the layers of an engine."""

    __slots__ = ("_context", "_engine")

    @property
    def execution_context(self) -> Any:
        context = self._context and self._context()
        assert context is not None or self._context is None, (
            "the inspector's context is gone: the bindings do not keep it alive"
        )
        return context

    @execution_context.setter
    def execution_context(self, context: Any) -> None:
        self._context = (
            None if context is None else weakref.ref(check_type(context, IExecutionContext, "execution_context"))
        )

    def get_engine_information(self, format: Any) -> str:
        """Return the layers as JSON. Dynamic sizes, and the types of such tensors, need a context with all shapes set."""
        formats = self._fake.trt.LayerInformationFormat
        assert check_type(format, formats, "get_engine_information") == formats.JSON, "this fake supports JSON only"
        engine, context, major = self._engine, self.execution_context, self._fake.major
        axes = context._axes() if context is not None and not context._missing() else None
        layers = [graphs.inspected(layer, axes, major) for layer in engine._header["layers"]]
        verbosity = engine._header["verbosity"]
        record = {
            "Layers": {"DETAILED": layers, "LAYER_NAMES_ONLY": [layer["Name"] for layer in layers], "NONE": []}[
                verbosity
            ]
        }
        if major < 11:
            return json.dumps({**record, "Bindings": [*engine._inputs, *engine._outputs]})
        modes = [(tensor, "Input") for tensor in engine._inputs.values()] + [
            (tensor, "Output") for tensor in engine._outputs.values()
        ]
        tensors = [
            {
                "Name": t.name,
                "IOMode": mode,
                "DataType": t.dtype.capitalize(),
                "Dimensions": list(t.dims),
                "Location": "Device",
            }
            for t, mode in modes
        ]
        return json.dumps({"ProfilingVerbosity": verbosity, **record, "I/O Tensors": tensors})


class IExecutionContext(Native):
    """Shapes and addresses of one caller. Concurrent use is detected here and undefined in TensorRT."""

    __slots__ = (
        "_addresses",
        "_engine",
        "_fresh",
        "_guard",
        "_logger",
        "_managed",
        "_memory",
        "_need",
        "_profile",
        "_queued",
        "_shapes",
    )
    engine = property(lambda self: self._engine)
    active_optimization_profile = property(lambda self: self._profile)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._guard.acquire(blocking=False), (
            "an execution context is used by two threads at the same time: it is not thread-safe"
        )
        try:
            yield
        finally:
            self._guard.release()

    def _error(self, text: str, function: str = "enqueueV3") -> bool:
        log(
            self._logger,
            "ERROR",
            f"IExecutionContext::{function}: Error Code 3: API Usage Error (Parameter check failed, condition: {text})",
        )
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Return True or raise RuntimeError (never False). Shapes must be set again after a change."""
        index = number(profile_index, "set_optimization_profile_async")
        number(stream_handle, "set_optimization_profile_async", least=0)
        with self._alone():
            if not 0 <= index < self._engine.num_optimization_profiles:
                self._error(
                    "profileIndex >= 0 && profileIndex < mEngine.getNbOptimizationProfiles().",
                    "setOptimizationProfileInternal",
                )
                raise RuntimeError("Error in set optimization profile async.")
            if index != self._profile:
                self._profile, self._shapes, self._need, self._fresh = index, {}, None, True
            return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        dims = tuple(shape if isinstance(shape, Dims) else Dims(shape))
        with self._alone():
            tensor = self._engine._inputs.get(string(name, "set_input_shape"))
            if tensor is None:
                return self._error(f"isInput. Given invalid tensor name: {name}.", "setInputShape")
            fits = len(dims) == len(tensor.dims) and all(
                size in (-1, actual) for size, actual in zip(tensor.dims, dims, strict=True)
            )
            if not fits:
                text = f"Static dimension mismatch while setting input shape for {name}. Set dimensions are {_list(dims)}. "
                return self._error(
                    f"engineDims.d[i] == dims.d[i]. {text}Expected dimensions are {_list(tensor.dims)}.",
                    "setInputShape",
                )
            least, _, most = self._engine._profile(name, self._profile)
            if not all(a <= size <= b for a, size, b in zip(least, dims, most, strict=True)):
                text = f"Set dimension {_list(dims)} for tensor {name} does not satisfy any optimization profiles. "
                valid = f"Valid range for profile {self._profile}: {_list(least)}..{_list(most)}."
                return self._error(f"satisfyProfile. {text}{valid}", "setInputShape")
            if self._shapes.get(name) != dims:
                self._shapes[name], self._need, self._fresh = dims, None, True
            return True

    def infer_shapes(self) -> list[str]:
        """Return the inputs without a shape; raise RuntimeError if shapes disagree."""
        with self._alone():
            missing = self._missing()
            if not missing and self._axes() is None:
                self._error(
                    "sizes of a named dimension are equal. Dimensions with name must have the same value.",
                    "inferShapes",
                )
                raise RuntimeError("infer_shapes error code: -1")
            return missing

    def get_tensor_shape(self, name: str) -> Any:
        """Return a shape; axes of an output are -1 until all inputs have shapes."""
        with self._alone():
            tensor = self._engine._tensor(string(name, "get_tensor_shape"))
            if not tensor.name:
                return self._engine._nothing()
            if name in self._engine._inputs:
                return self._fake.trt.Dims(self._shapes.get(name, tensor.dims))
            axes = None if self._missing() else self._axes()
            return self._fake.trt.Dims(tensor.dims if axes is None else self._output_shape(tensor, axes))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        address = number(memory, "set_tensor_address", least=0)
        with self._alone():
            if not self._engine._tensor(string(name, "set_tensor_address")).name:
                return False
            if address % ALIGNMENT:
                return self._error(
                    f"address is aligned to {ALIGNMENT} bytes. Tensor {name} has {address:#x}.", "setTensorAddress"
                )
            self._addresses[name] = address
            return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(string(name, "get_tensor_address"), 0)

    def update_device_memory_size_for_shapes(self) -> int:
        """Return the memory size for the current shapes, bytes; 0 on error."""
        with self._alone():
            self._need = None if self._missing() else self._engine._memory(self._profile, self._all_shapes())
            return self._need or 0

    def set_device_memory(self, memory: int, size: int) -> None:
        with self._alone():
            self._memory = (number(memory, "set_device_memory", least=0), number(size, "set_device_memory"))

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = number(stream_handle, "execute_async_v3", least=0)
        with self._alone():
            if stream == 0:
                text = "Using default stream in enqueueV3() may lead to performance issues due to additional calls to cudaStreamSynchronize() by TensorRT."
                log(self._logger, "WARNING", text)
            if problem := self._unready():
                return self._error(problem)
            assert set(self._queued) <= {stream}, "an execution context is queued on two streams at the same time"
            capture = self._fake.capture(stream)
            # The first execution after a change of shapes does work that cannot be captured: run once before a capture
            # (Developer Guide, CUDA graphs).
            if capture and (self._fake.refuse_capture or self._fresh):
                capture.invalid = True
                log(
                    self._logger,
                    "ERROR",
                    "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)",
                )
                return False
            self._fake.queue(stream, self._work(None if capture else stream))
            self._fresh = self._fresh and bool(capture)
            return True

    def _missing(self) -> list[str]:
        return [name for name, tensor in self._engine._inputs.items() if -1 in tensor.dims and name not in self._shapes]

    def _all_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self._shapes.get(name, tensor.dims) for name, tensor in self._engine._inputs.items()}

    def _axes(self) -> dict[str, int] | None:
        """Return sizes by axis name; None if inputs disagree. All inputs must have shapes."""
        axes: dict[str, int] = {}
        for name, shape in self._all_shapes().items():
            for axis, size in zip(self._engine._inputs[name].shape, shape, strict=True):
                if isinstance(axis, str) and axes.setdefault(axis, size) != size:
                    return None
        return axes

    def _output_shape(self, tensor: graphs.Tensor, axes: dict[str, int]) -> tuple[int, ...]:
        shape = [size if isinstance(size, int) else axes.get(size or "", -1) for size in tensor.shape]
        if -1 in shape:  # No input has this axis: run the graph.
            engine = self._engine
            feeds = {
                name: np.zeros(shape, graphs.NUMPY[engine._inputs[name].dtype])
                for name, shape in self._all_shapes().items()
            }
            return engine._runner.run(feeds, [tensor.name])[0].shape
        return tuple(shape)

    def _unready(self) -> str | None:
        """Return why the context cannot execute, or None."""
        engine = self._engine
        if missing := self._missing():
            text = f"Following input tensors' dimensions are not specified: {', '.join(missing)}."
            return f"inputDimensionSpecified && inputShapesSpecified. Not all shapes are specified. {text}"
        if self._axes() is None:
            return "sizes of a named dimension are equal."
        bound = "mContext.profileObliviousBindings.at(profileObliviousIndex) != nullptr"
        for name in engine._inputs:
            if not self._addresses.get(name):
                return f"{bound}. Address is not set for input tensor {name}. Call setInputTensorAddress or setTensorAddress before enqueue/execute."
        for name in engine._outputs:
            if not self._addresses.get(name):
                return f"{bound} || outputAllocator. Neither address or allocator is set for output tensor {name}."
        need = self._need or engine._memory(self._profile)
        if self._managed and self._memory is None:
            return "mDeviceMemory != nullptr. Device memory of a context with the strategy kUSER_MANAGED is not set."
        if self._managed and (self._memory[0] % ALIGNMENT or self._memory[0] == 0 or self._memory[1] < need):
            return (
                f"deviceMemorySize >= {need}. Device memory is at {self._memory[0]:#x} and has {self._memory[1]} bytes."
            )
        return None

    def _work(self, stream: int | None) -> Callable[[], None]:
        """Return an execution with the current shapes and addresses. It does not keep the context alive.

        Args:
            stream: Stream of the queue; None for a captured graph.
        """
        engine, fake, alive = self._engine, self._fake, weakref.ref(self)
        axes = self._axes() or {}
        reads = [
            (name, self._addresses[name], shape, graphs.NUMPY[engine._inputs[name].dtype])
            for name, shape in self._all_shapes().items()
        ]
        writes = [
            (name, self._addresses[name], self._output_shape(t, axes), graphs.NUMPY[t.dtype])
            for name, t in engine._outputs.items()
        ]
        scratch = (self._memory[0], self._need or engine._memory(self._profile)) if self._managed else None
        self._queued += [] if stream is None else [stream]

        def work() -> None:
            context = alive()
            assert context is not None, "an execution was queued, or a graph launched, whose execution context is gone"
            with context._alone(), fake.scratch(id(context), *scratch) if scratch else contextlib.nullcontext():
                if stream is not None:
                    context._queued.remove(stream)
                feeds = {name: fake.memory(address, shape, dtype).copy() for name, address, shape, dtype in reads}
                outputs = engine._runner.run(feeds, [name for name, *_ in writes])
                time.sleep(fake.slow_ms.get(graphs.precision(engine._header["layers"]), 0) / 1000)
                for (_, address, shape, dtype), array in zip(writes, outputs, strict=True):
                    wrong = fake.wrong if engine._quantized and np.issubdtype(dtype, np.floating) else 0
                    fake.memory(address, shape, dtype)[...] = array + np.asarray(wrong, dtype) if wrong else array
                fake.count()

        return work


def _list(sizes: Sequence[int]) -> str:
    return f"[{','.join(map(str, sizes))}]"


KINDS = (Runtime, ICudaEngine, EngineInspector, IExecutionContext)
