"""Main program of a worker process: it loads a bundle and answers the requests of a ``Worker``.

Only this module imports the runtime. The parent process does not need it.
"""

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
from edgekit.runtime import evaluation
from edgekit.runtime.load import load_checked
from edgekit.runtime.session import Session
from edgekit.spec import errors
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import parse
from edgekit.spec.protocols import Input
from edgekit.timing import frames
from edgekit.timing.worker import clock_error

__all__ = ["Opener", "main"]

_LEAD_S = 0.001
"""Seconds from the start of a schedule to its time 0, so that all threads are waiting when the first input arrives."""
_SPIN_S = 0.0005
"""Seconds before an arrival that are spent spinning: a sleep ends about 0.1 ms late, on a busy machine later."""
_FILL_CALLS = 2
"""Calls with the largest input: ONNX Runtime plans the memory of a shape in the first call and allocates it as one
block in the second."""
_COLD_REQUESTS = ("start", "suspend", "variant", "index")
"""Requests that a session answers as it was loaded. For all others it compiles what it deferred, so that times and
memory are those of a process that has run for a while."""
_PR_SET_PDEATHSIG = 1

Opener = Callable[[str, dict[str, Any]], tuple[Any, float, float]]
"""Function that opens what the worker process runs, called with the bundle folder and the options of the worker.

It returns an object that is called like a session, the seconds of the integrity check and the seconds of loading."""


def main(bundle: str, options: str, opener: Opener | None = None) -> None:
    """Answer requests from standard input until it is closed.

    Args:
        bundle: Bundle folder.
        options: Options of the worker, as JSON.
        opener: Function that opens what answers the requests. By default a session of the bundle.
    """
    began_s = time.perf_counter()
    if hasattr(select, "poll"):
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Text that a native or Python library prints must not corrupt the protocol.
    session: Any = None
    while (request := frames.read(requests)) is not None:
        try:
            start: dict[str, float] = {}
            if session is None:
                session, verify_s, load_s = (opener or _open_session)(bundle, json.loads(options))
                start = {"began_s": began_s, "verify_ms": verify_s * 1e3, "load_ms": load_s * 1e3}
            if request["do"] not in _COLD_REQUESTS and isinstance(session, Session):
                session.warm_up()  # It returns at once from the second time on.
            reply = {**start, **_reply(session, request, request.get("inputs", []))}
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


def _exit_with_parent() -> None:
    """Kill this process when the parent has closed the pipe, even while a request is being answered."""
    hangup = select.poll()
    hangup.register(0, 0)  # POLLHUP is reported without being requested.
    hangup.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_with_parent_thread() -> bool:
    """Let the kernel kill this process when the parent thread that started it ends (``PR_SET_PDEATHSIG``, prctl(2)).

    A suspended process cannot notice a closed pipe, so it may be suspended only where this works.

    Returns:
        True if the system supports this.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)


def _open_session(bundle: str, options: dict[str, Any]) -> tuple[Session, float, float]:
    """Return a session, and the seconds that the integrity check and the loading took."""
    start_s = time.perf_counter()
    trust_options = options.pop("trust")
    trust = None if trust_options is None else Trust(**trust_options)
    opened_bundle = open_written(bundle) if options.pop("checked") else open_bundle(bundle, trust)
    verify_s = _elapsed_s(start_s)
    start_s = time.perf_counter()
    if "variant" in options:
        session = Session(opened_bundle, parse(Variant, options["variant"], "a worker's variant"))
    else:
        session = load_checked(opened_bundle, **options)
    return session, verify_s, _elapsed_s(start_s)


def _reply(session: Session, request: dict[str, Any], inputs: list[Input]) -> dict[str, Any]:
    """Return the reply to a request."""
    match request["do"]:
        case "start":
            return {"answer_ms": _call_ms(session, inputs[0])}
        case "time":
            return {"times_ms": [_call_ms(session, value) for value in inputs]}
        case "serve":
            return {"times_ms": _serve(session, inputs, request["arrivals_s"])}
        case "predict":
            return {"rows": frames.pack_rows(session.outputs(inputs, batched=request["batched"]))}
        case "answer":
            return _answer(session, inputs, request["batched"])
        case "seconds":
            return {"seconds": _call_ms(session, inputs) / 1e3}
        case "fill":
            for _ in range(_FILL_CALLS):
                session.fill(request["rows"], request["length"])
            return {}
        case "variant":
            return {"method": session.info.method, "backend": session.info.backend, "streams": session.info.streams}
        case "index":
            return {"index": session.variant_index}
        case "suspend":
            return {"supported": _kill_with_parent_thread()}
        case "executed":
            return {"executed": session.executed_precision()}
    return {"memory_mb": memory_mb()}


def _answer(session: Session, inputs: Sequence[Input], batched: bool) -> dict[str, Any]:
    """Return the outputs of inputs, how many were truncated, and the milliseconds of each call with a single input."""
    times_ms: list[float] = []
    if batched:
        rows, truncated = evaluation.answer_list(session, inputs)
    else:
        rows = []
        truncated = 0
        for value in inputs:
            start_s = time.perf_counter()
            _, outputs, is_truncated = evaluation.answer_one(session, value)
            times_ms.append(_elapsed_s(start_s) * 1e3)
            rows.append(outputs)
            truncated += is_truncated
    return {"rows": frames.pack_rows(rows), "truncated": truncated, "times_ms": times_ms}


def _serve(session: Session, inputs: Sequence[Input], arrivals_s: Sequence[float]) -> list[float]:
    """Return the milliseconds from scheduled arrival to answer of each input."""
    times_ms = [0.0] * len(inputs)
    pending = iter(enumerate(arrivals_s))
    lock = threading.Lock()
    streams = session.info.streams
    begin_s = time.perf_counter() + _LEAD_S

    def run_stream(_: int) -> None:
        while True:
            with lock:  # An idle stream takes the next input of the queue and waits for its arrival.
                index, arrival_s = next(pending, (-1, 0.0))
            if index < 0:
                return
            due_s = begin_s + arrival_s
            while (remaining_s := due_s - time.perf_counter()) > 0:
                time.sleep(max(remaining_s - _SPIN_S, 0))
            try:
                session(inputs[index])
                times_ms[index] = _elapsed_s(due_s) * 1e3
            except BaseException:
                with lock:  # Emptying the queue ends the other streams.
                    list(pending)
                raise

    if streams == 1:
        run_stream(0)
    else:
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(run_stream, range(streams)))
    return times_ms


def _call_ms(session: Session, value: Input) -> float:
    """Return the milliseconds of one call."""
    start_s = time.perf_counter()
    session(value)
    return _elapsed_s(start_s) * 1e3


def _elapsed_s(start_s: float) -> float:
    """Return the seconds since ``start_s``.

    Raises:
        BackendError: If no time has elapsed.
    """
    elapsed_s = time.perf_counter() - start_s
    if elapsed_s <= 0:
        raise clock_error(f"a call took {elapsed_s * 1e3:g} ms")
    return elapsed_s
