"""Inference backends: one module per backend compiles and runs a graph.

A backend knows graphs, tensors and devices. It knows nothing of text, labels or calibration.

The modules of this folder are the registry; no list has to be kept. A backend module defines:

=====================================  ==============================================================================
``PACKAGES``                           Distributions that provide the backend, the preferred one first.
``STATIC_SHAPES``                      True if the backend runs faster with static input shapes.
``ENGINES``                            ``""``: the backend runs the graph file. ``"device"``: it runs an engine that is
                                       compiled on the target device. ``"host"``: its engines can be compiled on any
                                       machine.
``GRAPH``                              Suffix of the graph files that the backend reads: ``.onnx`` or ``.tflite``.
``check_target(target)``               Raise early if a target cannot be served; the message names the remedy.
``check_here()``                       Raise if this machine cannot run the backend, without loading vendor libraries.
``open_device(device, threads,         Return a :class:`Device`.
streams=1)``
=====================================  ==============================================================================

``Device.load(source, signature, shapes=())`` returns an :class:`Engine`; a backend with ``STATIC_SHAPES`` also takes
``when`` (:data:`When`). ``Engine.run(feeds, keep=())`` maps input arrays to output arrays by name. Outputs named
in ``keep`` stay on the device as opaque buffers, which every engine of the same device accepts as feeds. A device of a
backend with engines is a :class:`CompilingDevice`: it also has ``identity()`` and ``compile(graph, signature, recipe,
timing_cache, progress)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import BackendError
from edgekit.spec.registry import Registry, version_of

if TYPE_CHECKING:
    from edgekit.spec.engine import EngineRecipe
    from edgekit.spec.progress import Progress
    from edgekit.spec.target import Target
    from edgekit.spec.tensor import Signature

__all__ = [
    "Backend",
    "Compiled",
    "CompilingDevice",
    "Device",
    "Engine",
    "EngineMismatchError",
    "Feeds",
    "GraphBytes",
    "HasStaticShapes",
    "When",
    "WrongResultsError",
    "check_cpu_target",
    "check_installed",
    "get",
    "installed_version",
    "is_integer",
    "is_needed_to_build",
    "load_graph",
    "names",
    "not_installed_error",
    "ready_shapes",
    "summary",
    "threads_per_stream",
    "warm_up",
]

_INTEGERS = ("int4", "int8")  # The type of the weights; activations of such a layer are INT8.

Feeds = Mapping[str, Any]
"""Input name to a numpy array, or to a buffer that an engine of the same device returned for ``keep``."""

When = Literal["load", "use", "later"]
"""Time at which an engine compiles its static shapes.

``load``: all at the load. ``use``: each at its first use, for which the call waits; all of them in the background after
some calls. An answer has the same bits before and after. ``later``: all in the background after some calls. Dynamic
shapes serve all calls until then, so an answer may differ afterwards as those of two float kernels do.
"""


@dataclass(frozen=True)
class GraphBytes:
    """A graph file of a bundle whose integrity was verified.

    Attributes:
        path: Path of the graph file; its external weight files lie beside it. A caller that loads the graph by path
            must verify afterwards that the file is unchanged.
        read: Function that returns the verified bytes.
    """

    path: Path
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """File name, for messages."""
        return self.path.name


class Engine(Protocol):
    """A loaded graph. ``run`` is thread-safe."""

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, Any]:
        """Run the graph once.

        Args:
            feeds: Arrays or device buffers by input name. Axes of one name have one size, which loops see to: not every
                library checks it.
            keep: Names of outputs that stay on the device.

        Returns:
            Arrays by output name; device buffers for the outputs in ``keep``.
        """

    def precisions(self) -> list[str]:
        """Return the precision each linear layer executed in, e.g. ``int8``, as the backend itself records it.

        :func:`summary` turns the list into words.
        """

    def close(self) -> None:
        """Free the engine."""


@runtime_checkable
class HasStaticShapes(Protocol):
    """An engine that may compile its static shapes after the load (:data:`When`)."""

    @property
    def ready_shapes(self) -> tuple[int, ...]:
        """Sequence lengths whose static shapes are compiled, ascending."""

    def warm_up(self) -> None:
        """Compile all static shapes, or wait until another thread has.

        Raises:
            BackendError: The compilation failed.
        """


class Device(Protocol):
    """An open device of a backend."""

    def load(self, source: Any, signature: Signature, shapes: tuple[int, ...] = ()) -> Engine:
        """Load a graph or an engine.

        Args:
            source: Graph as a path or :class:`GraphBytes`, or the bytes of a compiled engine.
            signature: Inputs and outputs of the graph.
            shapes: Ascending sequence lengths for which the graph is also compiled with static shapes at batch 1, at
                the load or later (:class:`HasStaticShapes`). The caller pads a row to one of them; other lengths and
                batch sizes run with dynamic shapes.

        Raises:
            EngineMismatchError: The engine was built by another version or for another chip, or it is damaged.
        """

    def close(self) -> None:
        """Free the device."""


class Compiled(Protocol):
    """Result of a compilation.

    Attributes:
        plan: Content of the engine file.
        timing_cache: Kernel timings from which the next compilation on this device can start.
    """

    plan: bytes
    timing_cache: bytes


class CompilingDevice(Device, Protocol):
    """A device of a backend whose engines are compiled where they run. It loads engines, not graphs."""

    def identity(self) -> dict[str, object]:
        """Return everything that an engine depends on as plain data: versions, chip and memory."""

    def compile(
        self, graph: Path, signature: Signature, recipe: EngineRecipe, timing_cache: bytes, progress: Progress
    ) -> Compiled:
        """Compile a graph to an engine for this device."""


class EngineMismatchError(BackendError):
    """The engine was not built by this version for this device; it has to be rebuilt."""


class WrongResultsError(BackendError):
    """The self-test of a backend failed: this installation computes wrong results."""


class Backend(Protocol):
    """Interface of a module in this folder."""

    PACKAGES: tuple[str, ...]
    STATIC_SHAPES: bool
    ENGINES: str
    GRAPH: str

    def check_target(self, target: Target) -> None:
        """Raise if this backend cannot serve the target."""

    def check_here(self) -> None:
        """Raise if this machine cannot run the backend."""

    def open_device(self, device: str, threads: int, streams: int = 1) -> Any:
        """Open a device.

        Args:
            device: Name of the device, e.g. ``cpu``.
            threads: Number of threads that all concurrent calls share.
            streams: Number of concurrent calls.

        Returns:
            A :class:`Device`; a :class:`CompilingDevice` if the backend has engines.
        """


_BACKENDS: Registry[Backend] = Registry(__name__, "backend")
names = _BACKENDS.names
get = _BACKENDS.get


def installed_version(name: str) -> str | None:
    """Return the version of a backend's package, or None if it is not installed. The package is not imported."""
    return next(filter(None, map(version_of, get(name).PACKAGES)), None)


def check_installed(name: str) -> None:
    """Raise if the package of a backend is missing.

    Raises:
        BackendError: The package is missing; the message has the install command.
    """
    if installed_version(name) is None:
        raise not_installed_error(name)


def check_cpu_target(backend_title: str, target: Target) -> None:
    """Raise if a target is for another device than ``cpu``.

    Args:
        backend_title: Name of the backend for the message, e.g. ``ONNX Runtime``.
        target: Target to check.

    Raises:
        BackendError: The target is for another device.
    """
    if target.device != "cpu":
        raise BackendError(
            f"{backend_title} runs on the device 'cpu' only. Target '{target.name}' asks for '{target.device}'. "
            "Use another backend or device.",
            code="backend-wrong-device",
        )


def not_installed_error(name: str) -> BackendError:
    """Return the error for a backend whose package is missing."""
    return BackendError(
        f"The backend '{name}' is not installed, but this bundle or target needs it. Run: {install_hint(name)}",
        code="backend-not-installed",
    )


def is_needed_to_build(name: str, target: Target) -> bool:
    """Return whether a build for a target needs a backend on the build machine.

    It does if the candidates race there, or if the backend reads no ONNX file: then its packages write its graphs, and
    no other backend can score them.

    Args:
        name: Name of the backend.
        target: Target that has the backend.
    """
    return target.choose_on == "host" or get(name).GRAPH != ".onnx"


def load_graph(
    name: str, device: Any, source: Any, signature: Signature, shapes: tuple[int, ...], *, when: When
) -> Engine:
    """Load a graph on a device whose backend runs graph files.

    Args:
        name: Name of the backend.
        device: Open device of the backend.
        source: Graph as a path or :class:`GraphBytes`.
        signature: Inputs and outputs of the graph.
        shapes: Static shapes as for :meth:`Device.load`; empty for a backend that has none.
        when: Time at which the static shapes are compiled. A backend that has none ignores it.
    """
    options = {"when": when} if get(name).STATIC_SHAPES else {}
    engine: Engine = device.load(source, signature, shapes, **options)
    return engine


def warm_up(engines: Iterable[object]) -> None:
    """Compile what engines deferred at their load, and wait for the end.

    Raises:
        BackendError: The compilation failed.
    """
    for engine in engines:
        if isinstance(engine, HasStaticShapes):
            engine.warm_up()


def ready_shapes(engines: Iterable[object]) -> tuple[int, ...]:
    """Return the sequence lengths that are compiled with static shapes in all engines that have such shapes."""
    lengths: set[int] | None = None
    for engine in engines:
        if isinstance(engine, HasStaticShapes):
            ready = set(engine.ready_shapes)
            lengths = ready if lengths is None else lengths & ready
    return tuple(sorted(lengths or ()))


def threads_per_stream(threads: int, streams: int) -> int:
    """Return the number of threads of each of several concurrent calls.

    Raises:
        BackendError: There are fewer threads than streams.
    """
    if not 1 <= streams <= threads:
        raise BackendError(
            f"streams is {streams} with {threads} thread(s), expected 1 to {threads}: each stream needs a thread. "
            "Reduce streams.",
            code="streams-out-of-range",
        )
    return threads // streams


def summary(precisions: list[str]) -> str:
    """Return the executed precisions in words: ``int8``, ``int8 36/38 linears`` or ``int4 9/38 int8 27/38 linears``.

    One or two layers in float are usual (pooler and classifier are too small to gain from INT8), so a mixed result is
    labelled by its integers together with their shares.
    """
    if not precisions:
        return "unknown"
    shares = []
    for name in _INTEGERS:
        if 0 < precisions.count(name) < len(precisions):
            shares.append(f"{name} {precisions.count(name)}/{len(precisions)}")
    if shares:
        return f"{' '.join(shares)} linears"
    return max(sorted(set(precisions)), key=precisions.count)


def is_integer(executed: str, in_float: int = 0) -> bool:
    """Return whether more than half of the linear layers multiplied in INT8, whatever the size of their weights.

    Args:
        executed: Text that :func:`summary` returned.
        in_float: Number of layers that were meant to stay in float; they are not counted.
    """
    if executed in _INTEGERS:
        return True
    words = executed.split()
    integer_count = 0
    layer_count = 0
    for name, share in itertools.pairwise(words):
        if name in _INTEGERS:
            count, _, total = share.partition("/")
            integer_count += int(count)
            layer_count = int(total)
    return integer_count > 0 and 2 * integer_count > layer_count - in_float
