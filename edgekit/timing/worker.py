"""A session in a separate process, so that its memory and its cold start can be measured in isolation.

The child process runs :func:`edgekit.timing.child.main`. Requests and replies are binary frames
(:mod:`edgekit.timing.frames`) on its standard input and output. Inputs are sent through the pipe only, because other
users of the machine can read command-line arguments.

Times are measured in the child with ``time.perf_counter``, the system's monotonic clock (CLOCK_MONOTONIC on Linux).
All processes of a machine share this clock, so the parts of a cold start can be computed across both processes.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from edgekit.bundle.signature import Trust
from edgekit.spec import errors
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Input
from edgekit.spec.subject import Start
from edgekit.timing import frames

__all__ = ["Answered", "Worker", "clock_error"]

_EXIT_TIMEOUT_S = 10.0
"""Seconds to wait for a killed child. A child that waits for a device inside the kernel does not end in time."""
_INPUTS_PER_REQUEST = 50
"""Inputs between two progress reports."""
_STDERR_CHARS = 2000
"""Characters from the end of the child's standard error that go into an error message."""


@dataclass(frozen=True)
class Answered:
    """Answers to the inputs of one request.

    Attributes:
        rows: Outputs in the form of :func:`edgekit.spec.rows.pack`.
        truncated: Number of inputs that are longer than the model's maximum.
        times_ms: Latency of each call in milliseconds; empty for calls of several rows.
    """

    rows: Mapping[str, np.ndarray]
    truncated: int
    times_ms: Sequence[float]


class Worker(contextlib.AbstractContextManager["Worker"]):
    """The parent's side of a worker process.

    It is a context manager, and leaving it ends the child. The child also ends when the parent process ends for any
    reason.

    Attributes:
        CHILD: Python program of the child. A subclass may replace it, for example to slow the session down before it
            calls :func:`edgekit.timing.child.main`.
    """

    # -c puts the current folder on the module path. It is removed, so that a numpy.py in that folder is not run.
    CHILD = (
        "import sys; sys.path[:] = [p for p in sys.path if p]; "
        "from edgekit.timing.child import main; main(*sys.argv[1:])"
    )

    def __init__(
        self,
        bundle: Path,
        threads: int | None = None,
        backend: str | None = None,
        variant: Variant | None = None,
        trust: Trust | None = None,
        *,
        checked: bool = False,
    ) -> None:
        """Start the child process. It loads the bundle on the first request.

        Args:
            bundle: Bundle folder.
            threads: Thread count, as in :func:`edgekit.load`.
            backend: Backend name, as in :func:`edgekit.load`.
            variant: Variant to run in place of the variants in the manifest. None selects one as
                :func:`edgekit.load` does.
            trust: Trusted keys, as in :func:`edgekit.load`.
            checked: Flag that skips the integrity check. Set it only for a scratch bundle that this process has
                written, never for a user's bundle. The measured cold start then lacks the check.
        """
        trust_options: dict[str, Any] | None = None
        if trust is not None:
            trust_options = {**vars(trust), "keys": [str(key.absolute()) for key in trust.keys]}
        selection = {"threads": threads, "backend": backend} if variant is None else {"variant": plain(variant)}
        options = {"trust": trust_options, "checked": checked, **selection}
        command = [sys.executable, "-c", self.CHILD, str(bundle.absolute()), to_json(options)]
        package_root = str(Path(__file__).resolve().parents[2])
        module_path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
        self._bundle = bundle
        self._has_request = False
        self._can_suspend: bool | None = None  # Unknown until the first turn has ended.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # close() closes it.
        self._started_s = time.perf_counter()
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": module_path},
        )

    def start(self, value: Input) -> Start:
        """Measure the cold start, from the start of the process to the first answer.

        Call this first, once, and directly after the worker was created: a pause in between is part of the result. The
        parts of the start are disjoint. The total also contains the time of the pipe and any such pause.

        Args:
            value: Input of the first call.

        Raises:
            UsageError: If the worker has had a request before.
            BackendError: If a part is not positive or the parts exceed the total, which means that the clock is wrong.
        """
        if self._has_request:
            raise errors.UsageError(
                "The cold start can only be timed by the first request, and this worker has had a request before. "
                "Create another Worker.",
                code="worker-started",
            )
        reply = self._request(do="start", inputs=[value])
        total_ms = (time.perf_counter() - self._started_s) * 1e3
        start = Start(
            import_ms=(float(reply["began_s"]) - self._started_s) * 1e3,
            verify_ms=float(reply["verify_ms"]),
            load_ms=float(reply["load_ms"]),
            answer_ms=float(reply["answer_ms"]),
            total_ms=total_ms,
        )
        if start.import_ms <= 0 or start.import_ms + start.verify_ms + start.load_ms + start.answer_ms > total_ms:
            raise clock_error(f"the parts of the cold start exceed the total: {start}")
        return start

    def time(self, inputs: Sequence[Input]) -> list[float]:
        """Return the latency of each input in milliseconds. The inputs run one after the other.

        Raises:
            BackendError: If the clock goes backwards.
        """
        return [float(t) for t in self._request(do="time", inputs=list(inputs))["times_ms"]]

    def serve(self, inputs: Sequence[Input], arrivals_s: Sequence[float]) -> list[float]:
        """Return the milliseconds from arrival to answer of each input. Arrivals do not wait for answers (open loop).

        The inputs are answered in the order of their arrival, by as many threads as the variant has streams. Waiting
        time counts, so a slow answer also shows in the inputs behind it (no coordinated omission, G. Tene).

        An idle thread sleeps until half a millisecond before the next arrival and then spins on the clock. Half of
        the calls begin within 0.05 ms of their arrival. On a busy machine some calls begin milliseconds late, and this
        delay is part of the result.

        Args:
            inputs: Inputs in the order of their arrival.
            arrivals_s: Arrival time of each input in seconds from the start, ascending.

        Raises:
            InputError: If there is not one arrival per input, or the arrivals are not finite, at least 0 and ascending.
            BackendError: If the clock goes backwards.
        """
        arrivals = [float(a) for a in arrivals_s]
        in_range = all(math.isfinite(a) and a >= 0 for a in arrivals)
        if len(arrivals) != len(inputs) or not in_range or arrivals != sorted(arrivals):
            raise errors.InputError(
                f"There are {len(arrivals)} arrivals for {len(inputs)} inputs. "
                "Expected one arrival per input, in finite seconds from 0, ascending. Sort the arrivals.",
                code="scenario-arrivals",
            )
        return [float(t) for t in self._request(do="serve", inputs=list(inputs), arrivals_s=arrivals)["times_ms"]]

    def predict(
        self, inputs: Sequence[Input], progress: Progress = silent, *, batched: bool = False, step: str = "answers"
    ) -> list[Arrays]:
        """Return the model outputs for the inputs.

        Args:
            inputs: Inputs as a session takes them.
            progress: Progress callback, called after each request. A batched list is one request.
            batched: Flag to run the whole list in calls of several rows. By default each call has one row.
            step: Name of the step for ``progress``.

        Returns:
            Output names to arrays without the batch axis, one mapping per input, in the order of the inputs.

        Raises:
            InputError: If the session refuses an input.
            OutputError: If an output is not finite.
            BackendError: If the process ends.
        """
        size = max(1, len(inputs)) if batched else _INPUTS_PER_REQUEST
        rows: list[Arrays] = []
        for start in range(0, len(inputs), size):
            part = list(inputs[start : start + size])
            try:
                rows += frames.unpack_rows(self._request(do="predict", inputs=part, batched=batched)["rows"])
            except errors.OutputError as problem:
                if not start:
                    raise
                raise errors.OutputError(
                    f"{problem} The index counts from input {start}.", code="output-not-finite"
                ) from problem
            progress(step, len(rows), len(inputs))
        return rows

    def answer(self, inputs: Sequence[Input], *, batched: bool = False) -> Answered:
        """Answer inputs in one request, with the time of each one.

        Args:
            inputs: Inputs as a session takes them, at least one.
            batched: Flag to run the inputs in calls of several rows, which are not timed. By default each call has one
                row, and is timed as in :meth:`time`.

        Raises:
            InputError: If the session refuses an input.
            OutputError: If an output is not finite.
            BackendError: If the process ends, or the clock goes backwards.
        """
        reply = self._request(do="answer", inputs=list(inputs), batched=batched)
        return Answered(reply["rows"], int(reply["truncated"]), [float(t) for t in reply["times_ms"]])

    def seconds(self, inputs: Sequence[Input]) -> float:
        """Return the seconds of one call with the whole list."""
        return float(self._request(do="seconds", inputs=list(inputs))["seconds"])

    def fill(self, rows: int, length: int) -> None:
        """Run the list that needs the most memory, twice (:meth:`edgekit.runtime.session.Session.fill`)."""
        self._request(do="fill", rows=rows, length=length)

    def memory_mb(self) -> float:
        """Return the child's peak resident memory so far, in MiB."""
        return float(self._request(do="memory")["memory_mb"])

    def method_and_backend(self) -> tuple[str, str]:
        """Return the quantization method and the backend of the variant that runs."""
        reply = self._request(do="variant")
        return str(reply["method"]), str(reply["backend"])

    def variant_index(self) -> int:
        """Return the index in the manifest of the variant that runs."""
        return int(self._request(do="index")["index"])

    def streams(self) -> int:
        """Return how many inputs :meth:`serve` answers at the same time."""
        return int(self._request(do="variant")["streams"])

    def executed_precision(self) -> str:
        """Return the precision that the linear layers run in. This takes memory: call :meth:`memory_mb` before it."""
        return str(self._request(do="executed")["executed"])

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Resume the child on entry and suspend it (SIGSTOP) on exit, for processes that are timed interleaved.

        Idle threads of a backend spin before they sleep. Those of ONNX Runtime spin for about 2^20 rounds
        (``EigenNonBlockingThreadPool.h``), tens of milliseconds, and would take CPU time from the process that is
        timed next. The child runs until the first exit. Only Linux ends a suspended child with its parent, so on other
        systems the child is not suspended.
        """
        if self._can_suspend:
            self._child.send_signal(signal.SIGCONT)
        yield
        if self._can_suspend is None:
            self._can_suspend = bool(self._request(do="suspend")["supported"])
        if self._can_suspend:
            self._child.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the child. A second call does nothing."""
        self._child.kill()
        # The child's output is not read to its end, because a grandchild may keep the pipe open.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_EXIT_TIMEOUT_S)
        for pipe in (self._child.stdin, self._child.stdout, self._stderr):
            with contextlib.suppress(OSError):  # Closing flushes data that the child will not read.
                if pipe is not None:
                    pipe.close()

    def _request(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the reply. Raise the child's error here."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._has_request = True
        try:
            frames.write(cast(BinaryIO, self._child.stdin), request)
            reply = frames.read(cast(BinaryIO, self._child.stdout))
        except BrokenPipeError:
            reply = None
        if reply is None:
            status = self._child.wait()
            raise errors.BackendError(
                f"The process that ran {self._bundle} ended with status {status}. "
                f"Its error output: {self._error_output()}",
                code="worker-ended",
            )
        if "error" in reply:
            error_type = getattr(errors, reply["error"], errors.EdgekitError)
            raise error_type(reply["message"], code=reply["code"], **reply["fields"])
        return reply

    def _error_output(self) -> str:
        self._stderr.seek(0)
        text = self._stderr.read()[-_STDERR_CHARS:].decode("utf-8", "replace").strip()
        return text or "none (the process was killed, perhaps because the machine ran out of memory)"

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self.close()


def clock_error(reason: str) -> errors.BackendError:
    """Return the error for a measured time that is impossible.

    Args:
        reason: Impossible time, as a clause.
    """
    return errors.BackendError(
        f"The clock of this machine went backwards or stands still: {reason}. Times measured with it are not valid. "
        "Measure again; in a virtual machine choose a stable clock source, see "
        "/sys/devices/system/clocksource/clocksource0.",
        code="clock-backwards",
    )
