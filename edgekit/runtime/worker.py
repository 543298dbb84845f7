"""A session in a process of its own, so that its memory and its start can be measured and nothing else is in them.

The child runs :func:`main`; requests and replies are one JSON object a line on its standard
input and output. Texts travel through the pipe only: not in arguments, which other users of the machine can read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgekit.engines.measure import memory_mb
from edgekit.engines.signature import Trust
from edgekit.engines.trust import open_bundle
from edgekit.spec import errors
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import parse, plain
from edgekit.tasks._text import Text

# Without the current folder on the path, where -m and -c put it: a numpy.py that lies there must not be run.
_CHILD = "import sys; sys.path[:] = [p for p in sys.path if p]; from edgekit.runtime.worker import main; main(*sys.argv[1:])"


class Worker:
    """The parent's end. A context manager; leaving it ends the child."""

    def __init__(
        self, bundle: Path, threads: int | None = None, backend: str | None = None, variant: Variant | None = None, trust: Trust | None = None
    ) -> None:
        """Starts the child; it loads the bundle on the first request.

        Args:
            bundle: its folder.
            threads: as :func:`edgekit.load` takes it.
            backend: as :func:`edgekit.load` takes it.
            variant: run this one as it is, whatever the bundle's own variants say beside its graphs.
            trust: as :func:`edgekit.load` takes it.
        """
        keys = [str(key.absolute()) for key in trust.keys] if trust is not None else []
        options = {"threads": threads, "backend": backend, "keys": keys} if variant is None else {"variant": plain(variant)}
        command = [sys.executable, "-c", _CHILD, str(bundle.absolute()), json.dumps(options)]
        package = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._started = time.perf_counter()
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, env=environment, text=True, encoding="utf-8"
        )

    def first_answer_ms(self, text: Text) -> float:
        """Milliseconds from process start to the first answer; to be called once, before anything else."""
        self._ask(do="time", texts=[text])
        return (time.perf_counter() - self._started) * 1e3

    def time(self, texts: Sequence[Text]) -> list[float]:
        """Milliseconds from text to label of each text, one after the other."""
        return [float(t) for t in self._ask(do="time", texts=list(texts))["times_ms"]]

    def logits(self, texts: Sequence[Text], batched: bool = False) -> np.ndarray:
        """Raw outputs: float32 ``[rows, labels]``; one text at a time, or in batches as a list is answered."""
        return np.array(self._ask(do="logits", texts=list(texts), batched=batched)["logits"], np.float32)

    def seconds(self, texts: Sequence[Text]) -> float:
        """Seconds that one call with the whole list takes."""
        return float(self._ask(do="seconds", texts=list(texts))["seconds"])

    def memory_mb(self) -> float:
        """The child's peak resident memory so far, MiB."""
        return float(self._ask(do="memory")["memory_mb"])

    def ran(self) -> tuple[str, str]:
        """Method and backend of the variant that runs."""
        reply = self._ask(do="ran")
        return str(reply["method"]), str(reply["backend"])

    def executed_precision(self) -> str:
        """What the linear layers really run in. Costs memory: ask for :meth:`memory_mb` first."""
        return str(self._ask(do="executed")["executed"])

    def close(self) -> None:
        """Ends the child."""
        self._child.kill()
        self._child.communicate()
        self._complaints.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise errors.BackendError(f"The process that ran the bundle ended with status {self._child.wait()}. It said: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise getattr(errors, reply["error"], errors.EdgekitError)(reply["message"])
        return reply

    def _last_words(self) -> str:
        self._complaints.seek(0)
        return self._complaints.read()[-2000:].decode("utf-8", "replace").strip() or "nothing (killed, perhaps for want of memory)"

    def __enter__(self) -> Worker:
        """The worker itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the child."""
        self.close()


def main(bundle: str, options: str) -> None:
    """The child: answers requests until its input ends."""
    replies, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not break the protocol
    session = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            texts: list[Any] = [tuple(t) if isinstance(t, list) else t for t in request.get("texts", [])]
            session = session or _opened(bundle, json.loads(options))
            if request["do"] == "time":
                reply: dict[str, Any] = {"times_ms": [_timed(session, text) for text in texts]}
            elif request["do"] == "logits":
                reply = {"logits": session.logits(texts, batched=request["batched"]).tolist()}
            elif request["do"] == "seconds":
                start = time.perf_counter()
                session(texts)
                reply = {"seconds": time.perf_counter() - start}
            elif request["do"] == "ran":
                reply = {"method": session.info.method, "backend": session.info.backend}
            elif request["do"] == "executed":
                reply = {"executed": session.executed_precision()}
            else:
                reply = {"memory_mb": memory_mb()}
        except errors.EdgekitError as problem:
            reply = {"error": type(problem).__name__, "message": str(problem)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _opened(bundle: str, options: dict[str, Any]) -> Any:
    from edgekit.runtime.load import load
    from edgekit.runtime.session import Session

    if "variant" not in options:
        keys = options.pop("keys")
        return load(bundle, trust=Trust(keys) if keys else None, **options)
    return Session(open_bundle(bundle), parse(Variant, options["variant"], "a worker's variant"))


def _timed(session: Any, text: Text) -> float:
    start = time.perf_counter()
    session(text)
    return (time.perf_counter() - start) * 1e3

