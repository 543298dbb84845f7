"""Build an engine from an ONNX graph with the parser and builder of TensorRT or TensorRT-RTX."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.backends._trt import is_rtx, logger, member, remedy, version_of
from edgekit.spec.engine import EngineRecipe, shapes
from edgekit.spec.errors import BackendError
from edgekit.spec.progress import Progress
from edgekit.spec.tensor import Signature

_WORKSPACE_SHARE = 4  # Without a workspace in the recipe, a quarter of the device's memory.


@dataclass(frozen=True)
class Built:
    """Result of a build.

    Attributes:
        plan: Serialized engine for ``deserialize_cuda_engine``.
        timing_cache: Kernel timings for the next build; empty if the library has no timing cache.
    """

    plan: bytes
    timing_cache: bytes


@dataclass(frozen=True)
class Hardware:
    """The device that an engine is built for.

    Attributes:
        memory: Memory of the device, bytes; 0 where it is not known.
        chips: Compute capabilities that TensorRT-RTX builds for, e.g. ``8.9``; empty for that of this device. TensorRT
            always builds for this device.
    """

    memory: int = 0
    chips: Sequence[str] = ()


def build(
    trt: Any,
    graph: Path,
    signature: Signature,
    recipe: EngineRecipe,
    *,
    hardware: Hardware,
    timing_cache: bytes,
    progress: Progress,
) -> Built:
    """Parse a graph and build an engine.

    Args:
        trt: Module ``tensorrt``, or that of TensorRT-RTX.
        graph: Path of an ONNX file with its external data beside it.
        signature: Inputs of the graph, for the shapes of the profiles.
        recipe: Profiles and settings.
        hardware: Device that the engine is for.
        timing_cache: Timing cache of an earlier build on this device, or empty. A cache of another version or device is
            ignored.
        progress: Progress callback, called from another thread. An exception from it ends the build and is raised here.

    Raises:
        BackendError: The graph is refused or the build fails; the message has NVIDIA's log lines and a remedy.
    """
    monitor = _monitor(trt, progress)
    begin = threading.Event()

    def work() -> Built:
        begin.wait()
        if monitor.stopped is not None:
            raise monitor.stopped
        return _build(trt, graph, signature, recipe, timing_cache, partial(_configure, trt, recipe, hardware), monitor)

    # The build runs in a thread of its own, because Python raises KeyboardInterrupt in whatever the main thread runs
    # next. In a build that is usually the logger callback, where the bindings print the exception and drop it.
    with ThreadPoolExecutor(1, "edgekit-build") as pool:
        try:
            future = pool.submit(work)
            # The pool waits only for registered threads. The work starts after submit has returned, so that Ctrl-C
            # cannot come before the thread is registered.
            begin.set()
            return future.result()
        except BaseException as stop:
            # The builder ends at its next step; leaving the pool waits for that.
            monitor.stopped = monitor.stopped or stop
            begin.set()
            raise


def _build(
    trt: Any,
    graph: Path,
    signature: Signature,
    recipe: EngineRecipe,
    timing_cache: bytes,
    configure: Callable[[Any], None],
    monitor: Any,
) -> Built:
    trt_logger, messages = logger(trt)
    mark = messages.mark()
    try:
        builder = trt.Builder(trt_logger)
    except TypeError as problem:  # pybind raises it if the factory function returned a null pointer.
        raise _build_error(trt, graph, messages.errors(mark) or [str(problem)]) from problem
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, trt_logger)
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise _parser_error(trt, graph, errors, messages.errors(mark))
    config = builder.create_builder_config()
    configure(config)
    for sizes in recipe.profiles:
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in shapes(signature, sizes).items():
            profile.set_shape(name, smallest, usual, largest)
        # An invalid profile does not raise; its index is -1.
        if config.add_optimization_profile(profile) < 0:
            raise _build_error(trt, graph, messages.errors(mark) or [f"the profile {dict(sizes)} was refused"])
    # The builder writes to its timing cache, which must live until the end of the build.
    builder_cache = None if is_rtx(trt) else _set_timing_cache(config, timing_cache)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        raise _build_error(trt, graph, messages.errors(mark))
    if builder_cache is None:
        return Built(bytes(plan), b"")
    return Built(bytes(plan), bytes(memoryview(config.get_timing_cache().serialize())))


def _network_flags(trt: Any) -> int:
    """Return the flags for a strongly typed network: an option in 10.x, the only mode in 11.

    The value of the flag differs between versions, so it is looked up by name.
    """
    if is_rtx(trt) or version_of(trt) >= (11,):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _configure(trt: Any, recipe: EngineRecipe, hardware: Hardware, config: Any) -> None:
    """Apply a recipe to a builder configuration.

    Raises:
        BackendError: A setting does not fit the device or the version of TensorRT.
    """
    memory = hardware.memory
    workspace = recipe.workspace_mb * 2**20 or memory // _WORKSPACE_SHARE
    if memory and workspace > memory:
        raise BackendError(
            f"The bundle asks for a workspace of {recipe.workspace_mb} MiB, but the device has {memory // 2**20} MiB. "
            "Build the bundle with a smaller workspace.",
            code="engine-workspace",
        )
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.builder_optimization_level = recipe.optimization_level
    # The engine inspector then reports the precision of each layer.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in recipe.flags:
        config.set_flag(member(trt.BuilderFlag, name, "The list of flags in the recipe"))
    if is_rtx(trt):
        _set_chips(trt, config, hardware.chips)


def _set_chips(trt: Any, config: Any, chips: Sequence[str]) -> None:
    """Set the compute capabilities that TensorRT-RTX builds for.

    Raises:
        BackendError: TensorRT-RTX does not know a chip, or does not build for these chips together.
    """
    names = [f"SM{chip.replace('.', '')}" for chip in chips] or ["CURRENT"]
    members = [member(trt.ComputeCapability, name, "compute_capability in the recipe") for name in names]
    config.num_compute_capabilities = len(members)
    for index, chip in enumerate(members):
        if not config.set_compute_capability(chip, index):
            raise BackendError(
                f"TensorRT-RTX cannot build one engine for {names[index]} and {', '.join(names)} together. "
                "Build for fewer chips at once.",
                code="engine-chips-together",
            )


def _set_timing_cache(config: Any, content: bytes) -> Any:
    """Set the timing cache of an earlier build, or a new one if that belongs to another version or device."""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(trt: Any, progress: Progress) -> Any:
    """Return a monitor that reports the outermost phase to ``progress`` and ends the build if that raises.

    The exception is stored in ``stopped``, because it must not pass through the builder.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._steps: dict[str, int] = {}
            self._lock = threading.Lock()  # The builder reports phases from several threads.

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                with self._lock:
                    self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                total = self._steps.get(phase_name)
            if self.stopped is None:
                try:
                    # Inner phases have no text, but the callback may still raise to stop the build.
                    step_name = "" if total is None else "TensorRT builds the engine"
                    progress(step_name, step + 1, total or 0)
                except BaseException as stop:
                    self.stopped = stop
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)

    return Monitor()


def _library_name(trt: Any) -> str:
    title = "TensorRT-RTX" if is_rtx(trt) else "TensorRT"
    return f"{title} {trt.__version__}"


def _parser_error(trt: Any, graph: Path, errors: Sequence[Any], lines: Sequence[str]) -> BackendError:
    """Return the error for a refused graph: the parser's first error with its node.

    Args:
        trt: Module ``tensorrt``, or that of TensorRT-RTX.
        graph: Path of the graph.
        errors: Errors of the parser.
        lines: Errors from the log, used if the parser reports none.
    """
    if not errors:
        return _build_error(trt, graph, lines)
    error = errors[0]
    description = str(error.desc())
    text = next((line for line in description.splitlines() if "Error Code" in line), description)
    place = f"node '{error.node_name()}' ({error.node_operator()})" if error.node_operator() else "the graph"
    # If the parser reports no more than a failed check, the operator is not supported.
    if text == "false":
        problem = f"{place} is not supported"
        advice = "TensorRT does not have this operator: export the model without it."
    else:
        problem = f"{place}: {text}"
        advice = remedy(text)
    return BackendError(f"{_library_name(trt)} refuses {graph.name}: {problem}. {advice}", code="engine-graph-refused")


def _build_error(trt: Any, graph: Path, lines: Sequence[str]) -> BackendError:
    """Return the error for a failed build. TensorRT raises no exception; the reason is only in its log."""
    listing = "\n".join(f"  {line}" for line in lines) or "  (no reason reported)"
    return BackendError(
        f"{_library_name(trt)} could not build an engine from {graph.name}. Its messages:\n{listing}\n"
        f"{remedy(' '.join(lines))}",
        code="engine-build-failed",
    )
