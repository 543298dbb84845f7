"""The child's end of a worker: a process that loads a bundle and answers requests. Whoever only asks does not import the runtime."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import open_bundle, open_written
from edgekit.machine.cpu import memory_mb
from edgekit.runtime.load import load_checked
from edgekit.runtime.session import Session
from edgekit.spec import errors
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import parse
from edgekit.spec.protocols import Input
from edgekit.timing import frames
from edgekit.timing.worker import bad_clock

__all__ = ["Opener", "main"]

_LEAD_S = 0.001  # before the first arrival of a schedule, so that all threads stand ready
_SPIN_S = 0.0005  # before an arrival that are not slept through: a sleep ends some 0.1 ms late, on a busy machine later

Opener = Callable[[str, dict[str, Any]], tuple[Any, float, float]]
"""Opens what a child answers with, called as a session is: the folder and the options of the worker; with the seconds that checking and loading took."""


def main(bundle: str, options: str, opener: Opener | None = None) -> None:
    """The child: answers requests until its input ends, with a session of the bundle, or what ``opener`` opens in its place."""
    began = time.perf_counter()
    if hasattr(select, "poll"):
        threading.Thread(target=_end_with_the_parent, daemon=True).start()
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints, in whatever language, must not break the protocol
    session: Any = None
    while (request := frames.read(requests)) is not None:
        try:
            parts: dict[str, float] = {}
            if session is None:
                session, verify_s, load_s = (opener or _opened)(bundle, json.loads(options))
                parts = {"began_s": began, "verify_ms": verify_s * 1e3, "load_ms": load_s * 1e3}
            reply = {**parts, **_answered(session, request, request.get("inputs", []))}
        except errors.EdgekitError as problem:
            message = str(problem)
            if session is None and bundle not in message:
                message = f"{bundle} cannot be loaded: {message}"
            reply = {
                "error": type(problem).__name__,
                "message": message,
                "code": problem.code,
                "fields": problem.fields,
            }
        frames.write(replies, reply)


def _end_with_the_parent() -> None:
    """Ends the child in the middle of a request, too, when nobody is left to read the reply."""
    hangup = select.poll()
    hangup.register(0, 0)  # that the other end is closed is told unasked
    hangup.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _end_while_stopped() -> bool:
    """A stopped child sees no hang-up. Whether the system ends it when the thread that started it ends (``PR_SET_PDEATHSIG``, prctl(2))."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) == 0)


def _opened(bundle: str, options: dict[str, Any]) -> tuple[Session, float, float]:
    """A session, and the seconds that checking the bundle and loading it took."""
    start = time.perf_counter()
    trusted = options.pop("trust")
    trust = None if trusted is None else Trust(**trusted)
    checked = open_written(bundle) if options.pop("checked") else open_bundle(bundle, trust)
    verify_s = _since(start)
    start = time.perf_counter()
    session = (
        Session(checked, parse(Variant, options["variant"], "a worker's variant"))
        if "variant" in options
        else load_checked(checked, **options)
    )
    return session, verify_s, _since(start)


def _answered(session: Session, request: dict[str, Any], inputs: list[Input]) -> dict[str, Any]:
    """The reply to a request."""
    match request["do"]:
        case "start":
            return {"answer_ms": _timed(session, inputs[0])}
        case "time":
            return {"times_ms": [_timed(session, value) for value in inputs]}
        case "serve":
            return {"times_ms": _served(session, inputs, request["arrivals_s"])}
        case "predict":
            return {"rows": frames.sent_rows(session.outputs(inputs, batched=request["batched"]))}
        case "seconds":
            return {"seconds": _timed(session, inputs) / 1e3}
        case "fill":
            for _ in range(
                2
            ):  # ONNX Runtime plans the memory of a shape in its first call, and takes it in one piece in the second
                session.fill(request["rows"], request["length"])
            return {}
        case "ran":
            return {"method": session.info.method, "backend": session.info.backend, "streams": session.info.streams}
        case "stops":
            return {"ends": _end_while_stopped()}
        case "executed":
            return {"executed": session.executed_precision()}
    return {"memory_mb": memory_mb()}


def _served(session: Session, inputs: Sequence[Input], arrivals_s: Sequence[float]) -> list[float]:
    """Milliseconds from scheduled arrival to answer, input by input."""
    times_ms = [0.0] * len(inputs)
    pending, lock = iter(enumerate(arrivals_s)), threading.Lock()
    streams = session.info.streams
    begin = time.perf_counter() + _LEAD_S

    def stream(_: int) -> None:
        while True:
            with lock:  # whoever is free takes the next in line, and waits for its arrival
                index, arrival_s = next(pending, (-1, 0.0))
            if index < 0:
                return
            due = begin + arrival_s
            while (left := due - time.perf_counter()) > 0:
                time.sleep(max(left - _SPIN_S, 0))
            try:
                session(inputs[index])
                times_ms[index] = _since(due) * 1e3
            except BaseException:
                with lock:  # the other streams stop as well
                    list(pending)
                raise

    if streams == 1:
        stream(0)
    else:
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(stream, range(streams)))
    return times_ms


def _timed(session: Session, value: Input) -> float:
    start = time.perf_counter()
    session(value)
    return _since(start) * 1e3


def _since(start: float) -> float:
    """Seconds that have passed.

    Raises:
        BackendError: when none have.
    """
    passed = time.perf_counter() - start
    if passed <= 0:
        raise bad_clock(f"{passed * 1e3:g} ms passed in a call")
    return passed
