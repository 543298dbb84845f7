"""The build side of the fake TensorRT: network, parser, profiles, timing cache and builder."""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import fake_tensorrt_graph as graphs
from fake_tensorrt_native import (
    Dims,
    ILogger,
    IProgressMonitor,
    Native,
    buffer,
    check_type,
    create,
    log,
    memory,
    number,
    setting,
    string,
)

_PRECISION_FLAGS = ("FP16", "INT8", "BF16", "FP8", "INT4", "FP4")


class ITensor(Native):
    """An input or output of a network."""

    __slots__ = ("_tensor",)
    name = property(lambda self: self._tensor.name)
    dtype = property(lambda self: getattr(self._fake.trt.DataType, self._tensor.dtype))
    shape = property(lambda self: self._fake.trt.Dims(self._tensor.dims))


class INetworkDefinition(Native):
    """A network that a parser fills; layers cannot be added one by one."""

    __slots__ = ("_flags", "_inputs", "_logger", "_model", "_outputs", "_parser")
    name = property(lambda self: "Unnamed Network 0")
    flags = property(lambda self: self._flags)
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._model.graph.node) if self._model is not None else 0)

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(check_type(flag, self._fake.trt.NetworkDefinitionCreationFlag, "get_flag")) & 1)

    def get_input(self, index: int) -> Any:
        return self._get(self._inputs, index, "Input")

    def get_output(self, index: int) -> Any:
        return self._get(self._outputs, index, "Output")

    def _get(self, tensors: Sequence[Any], index: Any, which: str) -> Any:
        if 0 <= number(index, f"get_{which.lower()}") < len(tensors):
            return tensors[index]
        condition = f"condition: (0) <= (index) && (index) < (getNb{which}s())"
        log(
            self._logger,
            "ERROR",
            f"INetworkDefinition::get{which}: Error Code 3: API Usage Error (Parameter check failed, {condition}.)",
        )
        return None


class ParserError(Native):
    """An error of the parser."""

    __slots__ = ("_refusal",)

    def code(self) -> Any:
        return getattr(self._fake.trt.ErrorCode, self._refusal.code)

    def desc(self) -> str:
        return self._refusal.desc

    def node(self) -> int:
        return self._refusal.node

    def node_name(self) -> str:
        return self._refusal.name

    def node_operator(self) -> str:
        return self._refusal.operator

    def func(self) -> str:
        return self._refusal.function

    def file(self) -> str:
        return self._refusal.file

    def line(self) -> int:
        return self._refusal.line

    def local_function_stack(self) -> list[str]:
        return []

    def local_function_stack_size(self) -> int:
        return 0

    def __str__(self) -> str:
        where = f"In node {self.node()} with name: {self.node_name()} and operator: {self.node_operator()} "
        text = f"({self.func()}): {self._refusal.code}: {self.desc()}"
        return text if self._refusal.code == "MODEL_DESERIALIZE_FAILED" else where + text

    __repr__ = __str__


class OnnxParser(Native):
    """Parser of an ONNX graph into a network."""

    __slots__ = ("_errors", "_logger", "_network")

    def __init__(self, network: Any, logger: Any) -> None:
        self._network = weakref.ref(check_type(network, INetworkDefinition, "__init__"))
        self._logger = check_type(logger, ILogger, "__init__")
        self._errors: list[Any] = []
        network._parser = self

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index] if 0 <= number(index, "get_error") < len(self._errors) else None

    def clear_errors(self) -> None:
        self._errors = []

    def parse(self, model: Any, path: str | None = None) -> bool:
        data = buffer(model, "parse")
        return self._parse(lambda: data, None if path is None else string(path, "parse"))

    def parse_from_file(self, model: str) -> bool:
        path = string(model, "parse_from_file")

        def load() -> bytes:
            if not os.path.isfile(path):
                text = f"Assertion failed: stat(onnxModelFile, &sb) == 0 && S_ISREG(sb.st_mode): Input file cannot be found, or is not a regular file: {path}"
                raise graphs.Refusal("INVALID_VALUE", text, "parseFromFile", line=1422)
            with open(path, "rb") as file:
                return file.read()

        return self._parse(load, path)

    def _parse(self, load: Callable[[], bytes], path: str | None) -> bool:
        network, trt = self._network(), self._fake.trt
        assert network is not None, (
            "the parser's network is gone: the bindings do not keep it alive, and the real parser crashes"
        )
        if network._model is not None:
            log(self._logger, "ERROR", "ModelImporter.cpp:1170: Parse was called with a non-empty network definition")
            return False
        try:
            model = graphs.read(load(), path)
            network._inputs = [create(trt.ITensor, tensor=tensor) for tensor in graphs.inputs(model)]
            for tensor in network._inputs:
                if tensor.dtype == trt.DataType.INT64:
                    log(
                        self._logger,
                        "WARNING",
                        f"ModelImporter.cpp:1071: Make sure input {tensor.name} has Int64 binding.",
                    )
            network._model = graphs.check(model)
            network._outputs = [create(trt.ITensor, tensor=tensor) for tensor in graphs.outputs(model)]
            return True
        except graphs.Refusal as refusal:
            self._errors.append(create(trt.ParserError, refusal=refusal))
            if refusal.operator:
                log(
                    self._logger,
                    "ERROR",
                    f"ModelImporter.cpp:140: While parsing node number {refusal.node} [{refusal.operator}]:",
                )
            code = int(self._errors[-1].code())
            log(
                self._logger,
                "ERROR",
                f"ModelImporter.cpp:151: ERROR: {refusal.file}:{refusal.line} In function {refusal.function}:\n[{code}] {refusal.desc}",
            )
            return False


class IOptimizationProfile(Native):
    """An optimization profile: the shapes that an engine supports."""

    __slots__ = ("_logger", "_shapes")

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = [shape if isinstance(shape, Dims) else Dims(shape) for shape in (min, opt, max)]
        for word, dims in zip(("min", "opt", "max"), shapes, strict=True):
            if any(size < 0 for size in dims):
                text = "IOptimizationProfile::setDimensions: Error Code 3: API Usage Error (Parameter check failed, condition: all sizes >= 0.)"
                log(self._logger, "ERROR", text)
                raise RuntimeError(f"Shape provided for {word} is inconsistent with other shapes.")
        self._shapes[string(input, "set_shape")] = [tuple(dims) for dims in shapes]

    def get_shape(self, input: str) -> list[Any]:
        return [self._fake.trt.Dims(shape) for shape in self._shapes.get(string(input, "get_shape"), [])]

    def __bool__(self) -> bool:
        for name, (least, usual, most) in self._shapes.items():
            same = len(least) == len(usual) == len(most)
            if not same or not all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True)):
                text = f"Invalid optimization profiles for input tensors {name}, please ensure that the optimization profiles satisfy MIN<=OPT<=MAX."
                log(self._logger, "ERROR", f"IOptimizationProfile::isValid: Error Code 4: API Usage Error ({text})")
                return False
        return True


class ITimingCache(Native):
    """Kernel timings of earlier builds."""

    __slots__ = ("_compute", "_entries")

    def serialize(self) -> Any:
        content = {"version": self._fake.version, "compute": self._compute, "entries": sorted(self._entries)}
        return memory(self._fake.trt, json.dumps(content).encode())

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        if check_type(input_cache, ITimingCache, "combine")._compute != self._compute and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True


class IBuilderConfig(Native):
    """Settings of a build."""

    __slots__ = ("_cache", "_flags", "_limits", "_logger", "_profiles", "_settings")

    builder_optimization_level = setting("builder_optimization_level", lambda fake: int, lambda level: min(level, 5))
    max_aux_streams = setting("max_aux_streams", lambda fake: int)
    avg_timing_iterations = setting("avg_timing_iterations", lambda fake: int)
    profiling_verbosity = setting("profiling_verbosity", lambda fake: fake.trt.ProfilingVerbosity)
    hardware_compatibility_level = setting(
        "hardware_compatibility_level", lambda fake: fake.trt.HardwareCompatibilityLevel
    )
    progress_monitor = setting("progress_monitor", lambda fake: (IProgressMonitor, type(None)))
    num_optimization_profiles = property(lambda self: len(self._profiles))

    @property
    def flags(self) -> int:
        return sum(1 << value for value in self._flags)

    def _flag(self, flag: Any, function: str) -> int:
        return int(check_type(flag, self._fake.trt.BuilderFlag, function))

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._flag(flag, "set_flag"))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._flag(flag, "clear_flag"))

    def get_flag(self, flag: Any) -> bool:
        return self._flag(flag, "get_flag") in self._flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        check_type(pool, self._fake.trt.MemoryPoolType, "set_memory_pool_limit")
        self._limits[pool] = number(pool_size, "set_memory_pool_limit", least=0)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._limits.get(check_type(pool, self._fake.trt.MemoryPoolType, "get_memory_pool_limit"), 0)

    def add_optimization_profile(self, profile: Any) -> int:
        if not check_type(profile, IOptimizationProfile, "add_optimization_profile"):
            text = "IBuilderConfig::addOptimizationProfile: Error Code 3: API Usage Error (Parameter check failed, condition: profile->isValid().)"
            log(self._logger, "ERROR", text)
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        data = buffer(serialized_timing_cache, "create_timing_cache")
        content: dict[str, Any] = {"compute": self._fake.compute, "entries": []}
        if data:
            try:
                read = json.loads(data)
                if read["version"] != self._fake.version:
                    raise ValueError("another version")
                content = read
            except (ValueError, KeyError):
                log(self._logger, "WARNING", "The timing cache will not be used!")
                log(self._logger, "WARNING", "Failed to deserialize timing cache. Returning an empty timing cache.")
        return create(self._fake.trt.ITimingCache, compute=content["compute"], entries=set(content["entries"]))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if check_type(cache, ITimingCache, "set_timing_cache")._compute != self._fake.compute and not ignore_mismatch:
            log(self._logger, "WARNING", "Timing cache was built on another device.")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class Builder(Native):
    """Builder of engines."""

    __slots__ = ("_logger",)

    def __init__(self, logger: Any) -> None:
        self._logger = check_type(logger, ILogger, "__init__")

    logger = property(lambda self: self._logger)

    def create_network(self, flags: int = 0) -> Any:
        value = number(flags, "create_network", least=0)
        known = self._fake.trt.NetworkDefinitionCreationFlag.__members__
        if value >> (1 + max(map(int, known.values()))):
            text = (
                "Parameter check failed, condition: flagSet.toU32() < (1U << EnumMax<NetworkDefinitionCreationFlag>())."
            )
            log(self._logger, "ERROR", f"IBuilder::createNetworkV2: Error Code 3: API Usage Error ({text})")
            return None
        value |= 1 << int(known["STRONGLY_TYPED"]) if self._fake.major >= 11 else 0
        return create(
            self._fake.trt.INetworkDefinition,
            flags=value,
            inputs=[],
            outputs=[],
            model=None,
            logger=self._logger,
            parser=None,
        )

    def create_builder_config(self) -> Any:
        trt = self._fake.trt
        settings = {
            "builder_optimization_level": 3,
            "max_aux_streams": -1,
            "avg_timing_iterations": 1,
            "max_num_tactics": -1,
            "profiling_verbosity": trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
            "hardware_compatibility_level": trt.HardwareCompatibilityLevel.NONE,
            "progress_monitor": None,
        }
        fields = {
            "flags": {int(trt.BuilderFlag.TF32)},
            "limits": {},
            "profiles": [],
            "settings": settings,
            "cache": None,
            "logger": self._logger,
        }
        return create(trt.IBuilderConfig, **fields)

    def create_optimization_profile(self) -> Any:
        return create(self._fake.trt.IOptimizationProfile, shapes={}, logger=self._logger)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """Return the engine; None on failure, with the reason only in the log."""
        fake, name = self._fake, "build_serialized_network"
        problem = self._problem(check_type(network, INetworkDefinition, name), check_type(config, IBuilderConfig, name))
        layers = [] if problem else graphs.layers(network._model)
        if not problem and not _report(config.progress_monitor, len(layers)):
            problem = "Error Code 7: BuildCanceled (Build canceled by user)"
        if problem:
            log(self._logger, "ERROR", f"IBuilder::buildSerializedNetwork: {problem}")
            return None
        products = {
            f"{layer['TacticName']} {layer['Inputs']} {layer['Outputs']}" for layer in layers if layer["product"]
        }
        cached = (
            config._cache._entries if config._cache is not None and config.builder_optimization_level > 0 else set()
        )
        fake.timed += len(products - cached)
        cached |= products
        fake.builds += 1
        header = {
            "version": fake.version,
            "compute": fake.compute,
            "profiles": [profile._shapes for profile in config._profiles] or [{}],
            "verbosity": config.profiling_verbosity.name,
            "layers": layers,
            "nonce": os.urandom(8).hex(),  # No two builds are equal, because kernels are chosen by timing.
        }
        return memory(fake.trt, graphs.pack(header, network._model.SerializeToString()))

    def _problem(self, network: Any, config: Any) -> str | None:
        """Return why a build fails, or None."""
        flags, typed = self._fake.trt.BuilderFlag, self._fake.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        usage = "Error Code 4: API Usage Error ({})"
        if self._fake.build_returns_none:
            return "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[...]}.)"
        if not network._outputs:
            return usage.format("Network must have at least one output")
        forbidden = [
            name for name in _PRECISION_FLAGS if hasattr(flags, name) and config.get_flag(getattr(flags, name))
        ]
        if forbidden and network.get_flag(typed):
            return usage.format(f"BuilderFlag::k{forbidden[0]} is not compatible with a strongly typed network")
        for tensor in network._inputs:
            if -1 in tensor.shape and not config._profiles:
                return usage.format(
                    "Network has dynamic or shape inputs, but no optimization profile has been defined."
                )
        for index, profile in enumerate(config._profiles):
            if not profile:
                return usage.format(f"Optimization profile {index} is invalid.")
            for tensor in network._inputs:
                if text := _unfit(tensor.name, tensor._tensor.dims, index, profile._shapes.get(tensor.name)):
                    return usage.format(text)
        return None


def _unfit(name: str, dims: tuple[int, ...], index: int, shapes: Any) -> str | None:
    """Return why the shapes of a profile do not fit an input, or None."""
    if -1 not in dims and shapes is None:
        return None
    if shapes is None:
        return f"Dynamic input tensor {name} is missing dimensions in profile {index}."
    if len(shapes[0]) != len(dims):
        return f"Dynamic-shaped input tensor {name} has {len(dims)} dimensions but profile {index} has {len(shapes[0])} dimensions."
    for axis, size in enumerate(dims):
        least, usual, most = (shape[axis] for shape in shapes)
        if size >= 0 and not least == usual == most == size:
            sizes = f"profile has min={least}, opt={usual}, max={most} but tensor has {size}."
            return f"Dimension mismatch for tensor {name} and profile {index}. At dimension axis {axis}, {sizes}"
    return None


def _report(monitor: Any, layers: int) -> bool:
    """Report a build to a monitor. Return False if the monitor ends it; an exception is printed and ends it too."""
    if monitor is None:
        return True

    def call(name: str, *arguments: Any) -> bool:
        try:
            return bool(getattr(monitor, name)(*arguments))
        except BaseException as problem:
            sys.stderr.write(f"[ERROR] Exception caught in {name}(): {type(problem).__name__}: {problem}\n")
            return False

    phases = (("Cloning network graph", 2), ("Preparing graph for optimization", 4), ("Timing tactics", 1 + layers))
    outer = "Building engine"
    going = True
    call("phase_start", outer, None, len(phases))
    for index, (name, steps) in enumerate(phases):
        call("phase_start", name, outer, steps)
        going = all(call("step_complete", name, step) for step in range(steps))
        call("phase_finish", name)
        going = going and call("step_complete", outer, index)
        if not going:
            break
    call("phase_finish", outer)
    return going


KINDS = (
    ITensor,
    INetworkDefinition,
    ParserError,
    OnnxParser,
    IOptimizationProfile,
    ITimingCache,
    IBuilderConfig,
    Builder,
)
