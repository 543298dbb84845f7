"""Compilation of static shapes after an engine was loaded, in a thread of its own.

A model with static bodies takes as long to compile as its bodies together: eight times as long as one of them. Dynamic
shapes, or bodies that are compiled alone, therefore serve all calls until it is compiled.
``benchmarks/openvino_start.py`` compares the alternatives.

The thread keeps the priority of its process. A lower one would remain with the threads that OpenVINO starts for the
new model, because a thread inherits it from the thread that starts it, and Linux lets no user raise it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgekit.spec.errors import BackendError

__all__ = ["LateCompile"]


class LateCompile:
    """A compilation that runs at most once. All methods are thread-safe.

    The thread is no daemon: the process waits for it at exit, because OpenVINO must not be unloaded while it compiles.
    """

    def __init__(self, work: Callable[[], None], shapes: tuple[int, ...]) -> None:
        """Create a compilation that has not started.

        Args:
            work: Function that compiles the bodies and puts them into use.
            shapes: Sequence lengths of the bodies.
        """
        self._work: Callable[[], None] | None = work
        self._shapes = shapes
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None
        self._lock = threading.Lock()

    @property
    def error(self) -> BackendError | None:
        """Error of a compilation that failed; None before the end and after a success."""
        problem = self._problem
        if problem is None:
            return None
        cause = problem.__cause__ or problem
        lengths = ", ".join(map(str, self._shapes))
        error = BackendError(
            f"OpenVINO could not compile the static shapes of {lengths} tokens as one model: "
            f"{str(cause) or type(cause).__name__}. Calls go on without it, which is slower or takes more memory. Free "
            "memory and load the bundle again, or build it again with this version.",
            code="static-shapes-failed",
            shapes=lengths,
        )
        error.__cause__ = cause
        return error

    def start(self) -> None:
        """Start the thread, unless it was started or cancelled before."""
        with self._lock:
            if self._thread is not None or self._work is None:
                return
            thread = threading.Thread(target=self._run, name="edgekit-static-shapes", daemon=False)
            try:
                thread.start()
            except RuntimeError as problem:  # The process has as many threads as it may have, or is about to exit.
                self._problem = problem
                self._work = None
                return
            self._thread = thread

    def wait(self) -> None:
        """Start the compilation if it has not started, and wait for its end.

        Raises:
            BackendError: The compilation failed.
        """
        self.start()
        if self._thread is not None:
            self._thread.join()
        error = self.error
        if error is not None:
            raise error

    def cancel(self) -> None:
        """Let the compilation not start any more. If it has started, wait for its end: OpenVINO cannot interrupt it."""
        with self._lock:
            thread = self._thread
            if thread is None:
                self._work = None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        """Do the work, and release what it refers to."""
        work = self._work
        assert work is not None
        try:
            work()
        except Exception as problem:  # It is raised by wait() and reported by the next call of the engine.
            self._problem = problem
        finally:
            self._work = None
