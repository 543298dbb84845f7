"""A session in a process of its own, so that its memory and its start can be measured and nothing else is in them.

The child runs :func:`edgekit.timing.child.main`; requests and replies are binary frames (:mod:`edgekit.timing.frames`) on its standard
input and output. Inputs travel through the pipe only: not in arguments, which other users of the machine can read.

Times are taken in the child with ``time.perf_counter``: the system's monotonic clock, which is one for all processes of a machine
(CLOCK_MONOTONIC on Linux), so that the parts of a start can be told apart across the two.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from edgekit.bundle.signature import Trust
from edgekit.spec import errors
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Input
from edgekit.spec.subject import Start
from edgekit.timing import frames

__all__ = ["Worker", "bad_clock"]

_LAST_S = 10.0  # that a killed child has to end; one that waits for a device in the kernel does not
_INPUTS_A_REQUEST = 50  # between two reports of progress


class Worker(contextlib.AbstractContextManager["Worker"]):
    """The parent's end. A context manager; leaving it ends the child, and so does the parent's own end, however it comes.

    Attributes:
        CHILD: the child's program. A subclass may give another one, e.g. to slow the session down before it calls :func:`edgekit.timing.child.main`.
    """

    # Without the current folder on the path, where -m and -c put it: a numpy.py that lies there must not be run.
    CHILD = "import sys; sys.path[:] = [p for p in sys.path if p]; from edgekit.timing.child import main; main(*sys.argv[1:])"

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
        """Starts the child; it loads the bundle on the first request.

        Args:
            bundle: its folder.
            threads: as :func:`edgekit.load` takes it.
            backend: as :func:`edgekit.load` takes it.
            variant: run this one as it is, whatever the bundle's own variants say beside its graphs.
            trust: as :func:`edgekit.load` takes it.
            checked: do not hash the bundle again. Only for a scratch bundle that this very process has written: never for one of a user. A start
                that is timed lacks the check then.
        """
        trusted = None if trust is None else {**vars(trust), "keys": [str(key.absolute()) for key in trust.keys]}
        how = {"threads": threads, "backend": backend} if variant is None else {"variant": plain(variant)}
        options = {"trust": trusted, "checked": checked, **how}
        command = [sys.executable, "-c", self.CHILD, str(bundle.absolute()), to_json(options)]
        package = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        }
        self._bundle = bundle
        self._asked = False
        self._stops: bool | None = None  # not known before its first turn has ended
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._started = time.perf_counter()
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, env=environment
        )

    def start(self, value: Input) -> Start:
        """The cold start, up to the answer to an input. To be called first, once, and at once: a pause after the worker was made counts.

        The parts are disjoint. What the total has beyond their sum is the pipe, and any such pause.

        Raises:
            UsageError: when something was asked before.
            BackendError: when a part is not above 0 or the parts exceed the total: the clock cannot be trusted.
        """
        if self._asked:
            raise errors.UsageError(
                "A start can only be timed by the first request, and this worker has had one. Make another Worker.",
                code="worker-started",
            )
        reply = self._ask(do="start", inputs=[value])
        total_ms = (time.perf_counter() - self._started) * 1e3
        import_ms = (float(reply["began_s"]) - self._started) * 1e3
        found = Start(
            import_ms, float(reply["verify_ms"]), float(reply["load_ms"]), float(reply["answer_ms"]), total_ms
        )
        if import_ms <= 0 or import_ms + found.verify_ms + found.load_ms + found.answer_ms > total_ms:
            raise bad_clock(f"its parts do not fit into the start: {found}")
        return found

    def time(self, inputs: Sequence[Input]) -> list[float]:
        """Milliseconds from input to answer of each input, one after the other.

        Raises:
            BackendError: when the clock goes backwards.
        """
        return [float(t) for t in self._ask(do="time", inputs=list(inputs))["times_ms"]]

    def serve(self, inputs: Sequence[Input], arrivals_s: Sequence[float]) -> list[float]:
        """Milliseconds from arrival to answer of each input, where arrivals do not wait for answers (open loop).

        Inputs are answered in the order of their arrival, by as many threads as the variant has streams, each when a thread is free.
        The time that an input has waited counts: a slow answer shows in those behind it, too (no coordinated omission, G. Tene).
        An idle thread sleeps until half a millisecond before the next arrival and then watches the clock: half of the calls begin within
        0.05 ms of their arrival. On a busy machine some begin milliseconds late, when the system lets them, and that counts.

        Args:
            inputs: inputs in the order of their arrival.
            arrivals_s: seconds from the begin to the arrival of each, ascending.

        Raises:
            InputError: for arrivals that are not one to an input, finite, at least 0 and ascending.
            BackendError: when the clock goes backwards.
        """
        arrivals = [float(a) for a in arrivals_s]
        if (
            len(arrivals) != len(inputs)
            or not all(math.isfinite(a) and a >= 0 for a in arrivals)
            or arrivals != sorted(arrivals)
        ):
            raise errors.InputError(
                f"There are {len(arrivals)} arrivals for {len(inputs)} inputs, expected one for each, in seconds from 0 up, finite and ascending. Sort them.",
                code="scenario-arrivals",
            )
        return [float(t) for t in self._ask(do="serve", inputs=list(inputs), arrivals_s=arrivals)["times_ms"]]

    def predict(
        self, inputs: Sequence[Input], progress: Progress = silent, *, batched: bool = False, step: str = "answers"
    ) -> list[Arrays]:
        """Outputs of the model for inputs: output name to an array without a batch axis, in the order of the inputs.

        Args:
            inputs: inputs as a session takes them.
            progress: told after each part of the inputs; a list that is answered at once is one part.
            batched: answer them as one list, in calls of several rows; else one at a time.
            step: name of the step for ``progress``.

        Raises:
            InputError: for an input that the session refuses.
            OutputError: when an output is not finite.
            BackendError: when the process ends.
        """
        size = max(1, len(inputs)) if batched else _INPUTS_A_REQUEST
        rows: list[Arrays] = []
        for start in range(0, len(inputs), size):
            part = list(inputs[start : start + size])
            try:
                rows += frames.rows_of(self._ask(do="predict", inputs=part, batched=batched)["rows"])
            except errors.OutputError as problem:
                if not start:
                    raise
                raise errors.OutputError(
                    f"{problem} The index counts from input {start}.", code="output-not-finite"
                ) from problem
            progress(step, len(rows), len(inputs))
        return rows

    def seconds(self, inputs: Sequence[Input]) -> float:
        """Seconds that one call with the whole list takes."""
        return float(self._ask(do="seconds", inputs=list(inputs))["seconds"])

    def fill(self, rows: int, length: int) -> None:
        """Has it answer the list that takes most memory, twice, see :meth:`edgekit.runtime.session.Session.fill`."""
        self._ask(do="fill", rows=rows, length=length)

    def memory_mb(self) -> float:
        """The child's peak resident memory so far, MiB."""
        return float(self._ask(do="memory")["memory_mb"])

    def method_and_backend(self) -> tuple[str, str]:
        """Method and backend of the variant that runs."""
        reply = self._ask(do="ran")
        return str(reply["method"]), str(reply["backend"])

    def streams(self) -> int:
        """Inputs that :meth:`serve` answers at the same time."""
        return int(self._ask(do="ran")["streams"])

    def executed_precision(self) -> str:
        """What the linear layers really run in. Costs memory: ask for :meth:`memory_mb` first."""
        return str(self._ask(do="executed")["executed"])

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """The child runs inside of this and is stopped outside, once this was left first: for processes that are timed in turns.

        Threads of a backend wait for more work by spinning, ONNX Runtime's for some 2^20 rounds (``EigenNonBlockingThreadPool.h``), tens of milliseconds:
        they would take a CPU from whoever is timed next. Only Linux ends a stopped child with its parent; on other systems it runs on.
        """
        if self._stops:
            self._child.send_signal(signal.SIGCONT)
        yield
        if self._stops is None:
            self._stops = bool(self._ask(do="stops")["ends"])
        if self._stops:
            self._child.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """Ends the child. A second call does nothing."""
        self._child.kill()
        # Its output is not read to the end: a process that it has started itself may hold it open.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_LAST_S)
        for pipe in (self._child.stdin, self._child.stdout, self._complaints):
            with contextlib.suppress(OSError):  # what was not yet sent to it
                if pipe is not None:
                    pipe.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._asked = True
        try:
            frames.write(cast(BinaryIO, self._child.stdin), request)
            reply = frames.read(cast(BinaryIO, self._child.stdout))
        except BrokenPipeError:
            reply = None
        if reply is None:
            raise errors.BackendError(
                f"The process that ran {self._bundle} ended with status {self._child.wait()}. It said: {self._last_words()}",
                code="worker-ended",
            )
        if "error" in reply:
            raise getattr(errors, reply["error"], errors.EdgekitError)(
                reply["message"], code=reply["code"], **reply["fields"]
            )
        return reply

    def _last_words(self) -> str:
        self._complaints.seek(0)
        return (
            self._complaints.read()[-2000:].decode("utf-8", "replace").strip()
            or "nothing (killed, perhaps for want of memory)"
        )

    def __exit__(self, *_: object) -> None:
        """Ends the child."""
        self.close()


def bad_clock(what: str) -> errors.BackendError:
    """The error of a time that cannot be."""
    return errors.BackendError(
        f"The clock of this machine went backwards, or stands still: {what}. No time taken with it means anything. "
        "Measure again; in a virtual machine choose a stable clock source, see /sys/devices/system/clocksource/clocksource0.",
        code="clock-backwards",
    )
