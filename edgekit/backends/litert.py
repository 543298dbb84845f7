"""LiteRT with XNNPACK on CPUs. It runs ``.tflite`` graphs, whose weights are packed when the graph is loaded.

One graph serves all lengths. An interpreter packs a copy of the weights, so there is one interpreter per concurrent
call, and the second one is made when two calls first overlap.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import (
    Feeds,
    GraphBytes,
    WrongResultsError,
    check_cpu_target,
    check_installed,
    installed_version,
    not_installed_error,
    threads_per_stream,
)
from edgekit.backends._litert_interpreter import Interpreted, executed_precisions, open_interpreter
from edgekit.backends._litert_selftest import find_fault
from edgekit.drivers.fork import ForkAware
from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature

__all__ = [
    "ENGINES",
    "GRAPH",
    "PACKAGES",
    "STATIC_SHAPES",
    "LiteRtDevice",
    "LiteRtEngine",
    "check_here",
    "check_target",
    "open_device",
]

PACKAGES = ("ai-edge-litert",)
ENGINES = ""
GRAPH = ".tflite"
# An interpreter for each length saves the resizing, but each packs its own weights: measured 1.4 times slower on texts
# of mixed lengths (MiniLM-L6, LiteRT 2.3.0).
STATIC_SHAPES = False


check_target = functools.partial(check_cpu_target, "LiteRT")
check_here = functools.partial(check_installed, "litert")


def open_device(device: str, threads: int, streams: int = 1) -> LiteRtDevice:
    """Open a device.

    Args:
        device: ``cpu``.
        threads: Number of threads of all streams together.
        streams: Number of concurrent calls, each with ``threads // streams`` threads; further calls wait.

    Raises:
        BackendError: ai-edge-litert is not installed, there is no such device, or there are more streams than threads.
        WrongResultsError: This LiteRT computes wrong results on this machine.
    """
    call_threads = threads_per_stream(threads, streams)
    if device != "cpu":
        raise BackendError(f"LiteRT has no device '{device}'. Use device 'cpu'.", code="device-unavailable")
    library = _library()
    fault = _fault()
    if fault:
        raise WrongResultsError(
            f"LiteRT {installed_version('litert')} failed its self-test on this machine ({platform.machine()}), so it "
            f"is not used: {fault}. Install another version, or use the backend 'onnxruntime'.",
            code="backend-wrong-results",
        )
    return LiteRtDevice(library, call_threads, streams)


def _library() -> Any:
    """Import the interpreter of LiteRT, which needs numpy only.

    Raises:
        BackendError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError as problem:
        raise not_installed_error("litert") from problem
    return interpreter


@functools.cache
def _fault() -> str:
    """Return the fault that the self-test finds, or an empty text. It runs once per process, for some milliseconds."""
    return find_fault(_library())


class LiteRtDevice:
    """LiteRT with the number of threads of one call and the number of concurrent calls."""

    def __init__(self, library: Any, threads: int, streams: int) -> None:
        """Store the settings of the interpreters.

        Args:
            library: Module ``ai_edge_litert.interpreter``.
            threads: Number of threads of one call.
            streams: Number of concurrent calls.
        """
        self._library = library
        self._threads = threads
        self.streams = streams

    def load(self, source: Path | GraphBytes, signature: Signature, shapes: tuple[int, ...] = ()) -> LiteRtEngine:
        """Load a graph.

        Args:
            source: Graph file.
            signature: Inputs and outputs of the graph.
            shapes: Unsupported; must be empty.

        Raises:
            BackendError: LiteRT refuses the graph, or ``shapes`` is not empty.
        """
        if shapes:
            raise BackendError(
                f"LiteRT does not use static shapes, but {list(shapes)} were passed. "
                "Pass none, or use the backend 'openvino'.",
                code="shapes-unsupported",
            )
        return LiteRtEngine(self, source, signature)

    def open(self, model: Path | bytes, name: str, **options: bool) -> Any:
        """Open an interpreter on a graph.

        Args:
            model: Path of the graph, or its content.
            name: File name of the graph, for messages.
            options: Further options of the interpreter.

        Raises:
            BackendError: LiteRT refuses the graph.
        """
        try:
            return open_interpreter(self._library, model, self._threads, **options)
        except (ValueError, RuntimeError) as problem:
            raise BackendError(
                f"LiteRT {installed_version('litert')} refuses {name}: {problem}. "
                "Build the bundle again with this version.",
                code="graph-refused",
            ) from problem

    def close(self) -> None:
        """Do nothing: the device has no resources, and each engine frees its own interpreters."""


class LiteRtEngine(ForkAware):
    """A graph with one interpreter per concurrent call.

    The first interpreter maps the file, whose caller verifies afterwards that it is unchanged. Further ones share the
    verified bytes, because the file may have been replaced in the meantime.

    A forked child may use it on the calling thread: a caller computes what no thread of the pool has started. An
    interpreter that another thread of the parent was using at the fork is not used in the child.
    """

    def __init__(self, device: LiteRtDevice, source: Path | GraphBytes, signature: Signature) -> None:
        """Open the first interpreter. Further ones are opened when calls overlap."""
        self._device = device
        self._source = source
        self._signature = signature
        path = source.path if isinstance(source, GraphBytes) else source
        self._idle = [Interpreted(device.open(path, source.name), signature, source.name)]
        self._content: bytes | None = None
        self._count = 1
        self._waiting = 0
        self._is_closed = False
        self._changed = threading.Condition()
        super().__init__()

    def after_fork(self) -> None:
        """Keep the idle interpreters, with a lock that no thread of the parent holds."""
        self._changed = threading.Condition()
        self._waiting = 0
        self._count = len(self._idle)

    def run(self, feeds: Feeds, keep: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Run the graph once, on an interpreter that no other thread uses.

        Device memory is host memory: outputs in ``keep`` are arrays like all others.

        Args:
            feeds: Arrays by input name.
            keep: Names of outputs that stay on the device.

        Raises:
            BackendError: LiteRT failed.
        """
        interpreted = self._take()
        try:
            return interpreted.run(feeds)
        finally:
            self._put_back(interpreted)

    def _put_back(self, interpreted: Interpreted) -> None:
        if not self._is_closed:
            self._idle.append(interpreted)
        if self._waiting:  # A thread counts itself before it looks for an idle interpreter for the last time.
            with self._changed:
                self._changed.notify()

    def _take(self) -> Interpreted:
        """Return an idle interpreter; open one if fewer than the device's streams are in use, else wait."""
        try:
            return self._idle.pop()  # It is atomic, and needs no lock.
        except IndexError:
            interpreted = self._wait()
        return self._open_another() if interpreted is None else interpreted

    def _wait(self) -> Interpreted | None:
        """Wait for an idle interpreter. Return None, and count one more, if another may be opened."""
        with self._changed:
            self._waiting += 1
            try:
                while self._count >= self._device.streams:
                    with contextlib.suppress(IndexError):  # Another thread may be faster.
                        return self._idle.pop()
                    self._changed.wait()
            finally:
                self._waiting -= 1
            self._count += 1
        return None

    def _open_another(self) -> Interpreted:
        """Return a further interpreter, which is counted already."""
        try:
            with self._changed:
                if self._content is None:
                    self._content = self._read()
            interpreter = self._device.open(self._content, self._source.name)
            return Interpreted(interpreter, self._signature, self._source.name)
        except BaseException:
            with self._changed:
                self._count -= 1
                self._changed.notify()
            raise

    def precisions(self) -> list[str]:
        """Return the precision of each linear layer as XNNPACK took it, from a second interpreter on the graph.

        A layer that XNNPACK did not take is ``interpreted``.
        """
        content = self._content or self._read()
        return executed_precisions(
            self._device.open(content, self._source.name, experimental_disable_delegate_node_fusion=True)
        )

    def _read(self) -> bytes:
        """Return the verified content of the graph."""
        return self._source.read() if isinstance(self._source, GraphBytes) else self._source.read_bytes()

    def close(self) -> None:
        """Free the interpreters. A forked child does nothing, as with the other backends."""
        if self.inherited:
            return
        with self._changed:
            self._is_closed = True
            self._idle.clear()
            self._content = None
