"""Floor 1: a file is a backend. It compiles and runs a graph, and knows nothing of text, labels or calibration.

Listing this folder is the registration. A backend module has::

    PACKAGE                                              the distribution to install
    STATIC_SHAPES                                        whether it gains from static shapes
    check_target(target) -> None                         refuses early, with a remedy
    compile_graph(graph, target, out) -> Path            an engine file, or the graph itself
    open_device(device, threads, streams=1) -> Device    Device.load(path, signature, shapes=()) -> Engine; Device.close()

``Engine.run(feeds)`` takes and gives numpy arrays by name; ``Engine.executed_precision()`` tells what the linear layers
really ran in, from the backend's own record; ``Engine.close()``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from edgekit.spec.errors import BackendError, UsageError, near
from edgekit.spec.graph import Graph
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature

Feeds = Mapping[str, np.ndarray]


class Engine(Protocol):
    """A loaded graph. ``run`` may be called from several threads at once."""

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Runs once; arrays by input name in, arrays by output name out."""

    def executed_precision(self) -> str:
        """What the linear layers ran in: ``float32``, ``int8``, or ``int8 36/37 linears``."""

    def close(self) -> None:
        """Frees the engine."""


class Device(Protocol):
    """An opened device of a backend."""

    def load(self, path: Path, signature: Signature, shapes: tuple[int, ...] = ()) -> Engine:
        """Loads an engine file or a graph, with static shapes for one row of so many tokens (ascending) beside any shape.

        The caller pads a row to one of them; a row of another length, or a batch, is answered too.
        """

    def close(self) -> None:
        """Frees the device."""


class Backend(Protocol):
    """What a module in this folder offers."""

    PACKAGE: str
    STATIC_SHAPES: bool

    def check_target(self, target: Target) -> None:
        """Refuses a target that this backend cannot serve."""

    def compile_graph(self, graph: Graph, target: Target, out: Path) -> Path:
        """Makes an engine file in ``out``, or returns the graph's own path."""

    def open_device(self, device: str, threads: int, streams: int = 1) -> Device:
        """Opens a device for ``streams`` calls at the same time that have ``threads`` between them."""


def names() -> list[str]:
    """Names of the backends, as targets and manifests spell them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> Backend:
    """The module of a backend. Importing it does not import the vendor's library.

    Raises:
        UsageError: for an unknown name, with the nearest known one.
    """
    if name not in names():
        raise UsageError(f"Unknown backend '{name}'.{near(name, names())} Known backends: {', '.join(names())}.")
    return importlib.import_module(f"edgekit.backends.{name}")


def installed_version(name: str) -> str | None:
    """Version of a backend's package, or None where it is not installed; does not import it."""
    try:
        return importlib.metadata.version(get(name).PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def not_installed(name: str) -> BackendError:
    """The error for a backend whose package is missing."""
    return BackendError(f"The backend '{name}' is not installed, and this bundle or target needs it. Run: pip install 'edgekit[{name}]'")


def threads_of_a_stream(threads: int, streams: int) -> int:
    """Threads that one of several calls at the same time has.

    Raises:
        BackendError: when there is not a thread for each.
    """
    if not 1 <= streams <= threads:
        raise BackendError(f"streams is {streams} with {threads} thread(s), expected 1 to {threads}: each stream needs a thread. Give fewer.")
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
