"""A file is a backend. It compiles and runs a graph, and knows nothing of text, labels or calibration.

Listing this folder is the registration. A backend module has::

    PACKAGES                                             distributions that bring it, the one to install first
    STATIC_SHAPES                                        whether it gains from static shapes
    ENGINES                                              "": it runs the graph; "device": it runs an engine that is made where it runs;
                                                         "host": an engine that can be made anywhere
    check_target(target) -> None                         refuses early, with a remedy
    check_here() -> None                                 refuses where this machine cannot run it; loads nothing of the vendor's
    open_device(device, threads, streams=1) -> Device    Device.load(source, signature, shapes=()) -> Engine; Device.close()

``Engine.run(feeds, keep=())`` takes and gives numpy arrays by name; outputs named in ``keep`` stay on the device as opaque
buffers, which any engine of the same device takes as feeds. ``Engine.precisions()`` tells what the linear layers
really ran in, from the backend's own record; ``Engine.close()``. A device of a backend with engines has ``identity()`` and
``compile(graph, signature, recipe, timing_cache, progress)`` besides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
    "WrongResultsError",
    "check_cpu_target",
    "check_installed",
    "get",
    "installed_version",
    "mostly_int8",
    "names",
    "not_installed",
    "summary",
    "threads_of_a_stream",
]

Feeds = Mapping[str, Any]
"""Input name to a numpy array, or to a buffer that an engine of the same device kept."""


@dataclass(frozen=True)
class GraphBytes:
    """A graph of a bundle that was checked.

    Attributes:
        path: its file; the weights that it names lie beside it. Whoever loads it from here compares afterwards that nothing changed.
        read: gives the very bytes that were checked.
    """

    path: Path
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """Of its file, for messages."""
        return self.path.name


class Engine(Protocol):
    """A loaded graph. ``run`` may be called from several threads at once."""

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, Any]:
        """Runs once; arrays by input name in, arrays by output name out, or buffers for the outputs in ``keep``."""

    def precisions(self) -> list[str]:
        """What each of its linear layers ran in, e.g. ``int8``; :func:`summary` makes words of them."""

    def close(self) -> None:
        """Frees the engine."""


class Device(Protocol):
    """An opened device of a backend."""

    def load(self, source: Any, signature: Signature, shapes: tuple[int, ...] = ()) -> Engine:
        """Loads a graph (a path or :class:`GraphBytes`), with static shapes for one row of so many tokens (ascending) beside any shape; or an engine's bytes.

        The caller pads a row to one of them; a row of another length, or a batch, is answered too.

        Raises:
            EngineMismatchError: for an engine that was made by another version or for another chip, or is damaged.
        """

    def close(self) -> None:
        """Frees the device."""


class Compiled(Protocol):
    """An engine file's content, and what the next compilation here can start from."""

    plan: bytes
    timing_cache: bytes


class CompilingDevice(Device, Protocol):
    """A device of a backend whose engines are made where they run; it loads no graphs, but engines."""

    def identity(self) -> dict[str, object]:
        """All that an engine is bound to: versions, chip, memory; plain data."""

    def compile(
        self, graph: Path, signature: Signature, recipe: EngineRecipe, timing_cache: bytes, progress: Progress
    ) -> Compiled:
        """Makes an engine of a graph for this device."""


class EngineMismatchError(BackendError):
    """An engine that this device did not make like this: it is to be made again."""


class WrongResultsError(BackendError):
    """This installation of a backend computes wrong results: its self-test said so."""


class Backend(Protocol):
    """What a module in this folder offers."""

    PACKAGES: tuple[str, ...]
    STATIC_SHAPES: bool
    ENGINES: str

    def check_target(self, target: Target) -> None:
        """Refuses a target that this backend cannot serve."""

    def check_here(self) -> None:
        """Refuses where this machine cannot run it."""

    def open_device(self, device: str, threads: int, streams: int = 1) -> Any:
        """Opens a device for ``streams`` calls at the same time that have ``threads`` between them: a Device, or a CompilingDevice where it has engines."""


_BACKENDS: Registry[Backend] = Registry(__name__, "backend")
names, get = _BACKENDS.names, _BACKENDS.get


def installed_version(name: str) -> str | None:
    """Version of a backend's package, or None where it is not installed; does not import it."""
    return next(filter(None, map(version_of, get(name).PACKAGES)), None)


def check_installed(name: str) -> None:
    """Refuses where a backend's package is missing.

    Raises:
        BackendError: with what to install.
    """
    if installed_version(name) is None:
        raise not_installed(name)


def check_cpu_target(who: str, target: Target) -> None:
    """Refuses a target of another device than ``cpu``, which is all that this backend is offered for.

    Raises:
        BackendError: with both.
    """
    if target.device != "cpu":
        raise BackendError(
            f"{who} serves the device(s) cpu here, target '{target.name}' asks for '{target.device}'.",
            code="backend-wrong-device",
        )


def not_installed(name: str) -> BackendError:
    """The error for a backend whose package is missing."""
    return BackendError(
        f"The backend '{name}' is not installed, and this bundle or target needs it. Run: {install_hint(name)}",
        code="backend-not-installed",
    )


def threads_of_a_stream(threads: int, streams: int) -> int:
    """Threads that one of several calls at the same time has.

    Raises:
        BackendError: when there is not a thread for each.
    """
    if not 1 <= streams <= threads:
        raise BackendError(
            f"streams is {streams} with {threads} thread(s), expected 1 to {threads}: each stream needs a thread. Give fewer.",
            code="streams-out-of-range",
        )
    return threads // streams


def summary(precisions: list[str]) -> str:
    """Words for what the linear layers ran in, e.g. ``int8`` or ``int8 36/38 linears``.

    A layer or two in float is usual (pooler, classifier: too small to gain), so INT8 is named with its share.
    """
    if not precisions:
        return "unknown"
    low = precisions.count("int8")
    if 0 < low < len(precisions):
        return f"int8 {low}/{len(precisions)} linears"
    return max(sorted(set(precisions)), key=precisions.count)


def mostly_int8(executed: str, in_float: int = 0) -> bool:
    """Whether words of :func:`summary` say that more than half of the linear layers ran in INT8, those that are to stay in float not counted.

    Args:
        executed: the words.
        in_float: layers that were asked to stay in float.
    """
    name, _, share = executed.partition(" ")
    low, _, all_of_them = share.partition(" ")[0].partition("/")
    return name == "int8" and (not share or 2 * int(low) > int(all_of_them) - in_float)
