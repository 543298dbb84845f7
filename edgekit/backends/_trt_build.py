"""From an ONNX graph to an engine, with the parser and builder of TensorRT or TensorRT-RTX."""

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

_SHARE = 4  # a quarter of the device's memory, where the recipe names no workspace


@dataclass(frozen=True)
class Built:
    """What a build gave.

    Attributes:
        plan: the engine in its serialized form, what ``deserialize_cuda_engine`` takes.
        timing_cache: what the builder measured of kernels here, for the next build; empty where the library keeps none.
    """

    plan: bytes
    timing_cache: bytes


@dataclass(frozen=True)
class Hardware:
    """The device that an engine is built for.

    Attributes:
        memory: Memory of the device, bytes; 0 where it is not known.
        chips: Compute capabilities that TensorRT-RTX builds for, e.g. ``8.9``; empty for the one of this device. TensorRT always builds for that.
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
    """Parses a graph and builds an engine of it.

    Args:
        trt: the module ``tensorrt``, or that of TensorRT-RTX.
        graph: an ONNX file with external data beside it.
        signature: its inputs, for the shapes of the profiles.
        recipe: profiles and settings.
        hardware: Device that the engine is for.
        timing_cache: of an earlier build here; empty for none. One of another version or device is not used.
        progress: told how far the builder is, from another thread; what it raises ends the build and is raised here.

    Raises:
        BackendError: when the graph is refused or the build fails, with NVIDIA's own lines and what to do.
    """
    monitor = _monitor(trt, progress)
    begin = threading.Event()

    def work() -> Built:
        begin.wait()
        if monitor.stopped is not None:
            raise monitor.stopped
        return _build(trt, graph, signature, recipe, timing_cache, partial(_configure, trt, recipe, hardware), monitor)

    # In a thread of its own, because Python handles Ctrl-C in whatever the main thread runs next. That would be a callback of the builder's,
    # the logger's as a rule, where the bindings print the exception and drop it.
    with ThreadPoolExecutor(1, "edgekit-build") as pool:
        try:
            made = pool.submit(work)
            begin.set()  # only now: the pool waits for a thread that it has noted, and Ctrl-C could come before it has
            return made.result()
        except BaseException as stop:
            monitor.stopped = (
                monitor.stopped or stop
            )  # the builder ends at its next step, which leaving the pool waits for
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
    log, heard = logger(trt)
    mark = heard.mark()
    try:
        builder = trt.Builder(log)
    except TypeError as problem:  # how pybind says that the factory gave a null pointer
        raise _failed(trt, graph, heard.errors(mark) or [str(problem)]) from problem
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise _refused(trt, graph, [parser.get_error(i) for i in range(parser.num_errors)], heard.errors(mark))
    config = builder.create_builder_config()
    configure(config)
    for sizes in recipe.profiles:
        profile = builder.create_optimization_profile()
        for name, (least, usual, largest) in shapes(signature, sizes).items():
            profile.set_shape(name, least, usual, largest)
        # A profile that cannot be does not raise: it is refused with an index of -1.
        if config.add_optimization_profile(profile) < 0:
            raise _failed(trt, graph, heard.errors(mark) or [f"the profile {dict(sizes)} was refused"])
    kept = _give_timing_cache(config, timing_cache) if not is_rtx(trt) else None
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        raise _failed(trt, graph, heard.errors(mark))
    # The builder writes into the cache that it was given, which must live until here.
    return Built(bytes(plan), bytes(memoryview(config.get_timing_cache().serialize())) if kept is not None else b"")


def _network_flags(trt: Any) -> int:
    """Strong typing: asked for in 10.x, and all there is in 11. A flag's value differs between versions, so it is asked by name."""
    if is_rtx(trt) or version_of(trt) >= (11,):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _configure(trt: Any, recipe: EngineRecipe, hardware: Hardware, config: Any) -> None:
    memory = hardware.memory
    workspace = recipe.workspace_mb * 2**20 or memory // _SHARE
    if memory and workspace > memory:
        have = memory // 2**20
        raise BackendError(
            f"The bundle asks for a workspace of {recipe.workspace_mb} MiB, the device has {have} MiB. Build it for a smaller one.",
            code="engine-workspace",
        )
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.builder_optimization_level = recipe.optimization_level
    # So that the engine can tell what its layers compute in.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in recipe.flags:
        config.set_flag(member(trt.BuilderFlag, name, "The recipe's flags"))
    if is_rtx(trt):
        _set_chips(trt, config, hardware.chips)


def _set_chips(trt: Any, config: Any, chips: Sequence[str]) -> None:
    names = [f"SM{chip.replace('.', '')}" for chip in chips] or ["CURRENT"]
    found = [member(trt.ComputeCapability, name, "compute_capability of the recipe") for name in names]
    config.num_compute_capabilities = len(found)
    for index, chip in enumerate(found):
        if not config.set_compute_capability(chip, index):
            raise BackendError(
                f"TensorRT-RTX does not build for {names[index]} beside {', '.join(names)}. Build for fewer chips at once.",
                code="engine-chips-together",
            )


def _give_timing_cache(config: Any, blob: bytes) -> Any:
    """A cache of an earlier build, or a new one where that is of another version or device."""
    cache = config.create_timing_cache(blob)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(trt: Any, progress: Progress) -> Any:
    """Tells ``progress`` of the outermost phase, and ends the build when that raises: an exception may not pass through the builder."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._steps: dict[str, int] = {}
            self._lock = threading.Lock()  # phases are told of from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                with self._lock:
                    self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                total = self._steps.get(phase_name)
            if self.stopped is None:
                try:
                    # Of inner phases nothing is shown; whoever wants to stop is asked all the same.
                    progress("" if total is None else "TensorRT builds the engine", step + 1, total or 0)
                except BaseException as stop:
                    self.stopped = stop
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)

    return Monitor()


def _name(trt: Any) -> str:
    return f"{'TensorRT-RTX' if is_rtx(trt) else 'TensorRT'} {trt.__version__}"


def _refused(trt: Any, graph: Path, errors: Sequence[Any], lines: Sequence[str]) -> BackendError:
    """The parser's first error with its node."""
    if not errors:
        return _failed(trt, graph, lines)
    error = errors[0]
    text = next((line for line in str(error.desc()).splitlines() if "Error Code" in line), str(error.desc()))
    # Where the parser says no more than that its check failed, the operator is not supported.
    advice = "TensorRT does not have this operator: export the model without it." if text == "false" else remedy(text)
    where = f"node '{error.node_name()}' ({error.node_operator()})" if error.node_operator() else "the graph"
    said = f"{where} is not supported" if text == "false" else f"{where}: {text}"
    return BackendError(f"{_name(trt)} refuses {graph.name}: {said}. {advice}", code="engine-graph-refused")


def _failed(trt: Any, graph: Path, lines: Sequence[str]) -> BackendError:
    """A build that gave nothing: there is no exception, the reason is in the log alone."""
    shown = "\n".join(f"  {line}" for line in lines) or "  (it gave no reason)"
    return BackendError(
        f"{_name(trt)} could not build an engine of {graph.name}. What it said:\n{shown}\n{remedy(' '.join(lines))}",
        code="engine-build-failed",
    )
