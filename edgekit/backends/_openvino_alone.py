"""Bodies of a graph that are compiled one by one, each at its first use, until one model holds them all.

A compiled model packs its own copy of the weights. A few bodies are therefore kept at a time; a body that had to go is
compiled again when it is needed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from edgekit.backends._openvino_requests import Requests

__all__ = ["AloneBodies"]


class AloneBodies:
    """Compiled models of one body each, by length. All methods are thread-safe."""

    def __init__(self, compile_body: Callable[[int], Requests], most: int) -> None:
        """Compile nothing yet.

        Args:
            compile_body: Function that compiles the body of a length.
            most: Largest number of bodies that are kept; the least recently used one goes first.
        """
        self._compile_body = compile_body
        self._most: int | None = most
        self._requests: OrderedDict[int, Requests] = OrderedDict()
        self._compiling: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths whose bodies are compiled, ascending."""
        with self._lock:
            return tuple(sorted(self._requests))

    def keep_all(self) -> None:
        """Keep every body from now on: no model is going to hold them all."""
        with self._lock:
            self._most = None

    def requests(self, length: int) -> Requests:
        """Return the requests of a body. If it is not compiled, it is now; threads that need the same body wait for it.

        Args:
            length: Length that ``compile_body`` knows.

        Raises:
            BackendError: OpenVINO refuses the body. The next call tries again.
        """
        requests = self._find(length)
        if requests is not None:
            return requests
        with self._lock:
            compiling = self._compiling.setdefault(length, threading.Lock())
        with compiling:
            requests = self._find(length)
            if requests is None:
                requests = self._compile_body(length)
                self._keep(length, requests)
        return requests

    def _find(self, length: int) -> Requests | None:
        """Return the requests of a compiled body, which becomes the most recently used one."""
        with self._lock:
            requests = self._requests.get(length)
            if requests is not None:
                self._requests.move_to_end(length)
        return requests

    def _keep(self, length: int, requests: Requests) -> None:
        """Add a body. A call that runs in a body that goes keeps it until it ends."""
        with self._lock:
            self._requests[length] = requests
            if self._most is not None and len(self._requests) > self._most:
                self._requests.popitem(last=False)
