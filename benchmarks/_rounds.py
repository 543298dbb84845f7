"""Sides of a comparison take turns in bursts: one process each, suspended while another one is measured.

A round is one burst of the same inputs on every side, in random order. Before it the latency between two CPUs is
measured: virtual machines move between states in which threads talk to each other fast and slowly, and a round
belongs to the state that it was measured in.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAUSE_S = 0.012
"""Pause before a burst, in which the other sides come to rest."""
_PROBE_BATCHES = 40
_PROBE_TRIPS = 250


class SideError(RuntimeError):
    """A side that ended, or did not start."""


class Side:
    """A process of ``peer.py``, suspended except during a request.

    Attributes:
        name: Name of the side.
        greeting: First line that the process wrote.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start the process, wait until it is ready, and suspend it."""
        self.name = name
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd="/",
                text=True,
            )
        self.greeting = self._read()
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Resume the process for one request. The idle threads of its backend, which may spin, stop with it."""
        self.send(**request)
        return self.receive()

    def send(self, **request: Any) -> None:
        """Resume the process and send it a request."""
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._read()  # raises with what the process wrote last

    def receive(self) -> dict[str, Any]:
        """Return the reply to a request, and suspend the process."""
        reply = self._read()
        self._process.send_signal(signal.SIGSTOP)
        return reply

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise SideError(f"{self.name} ended with {status}: {self._log.read_text('utf-8', 'replace')[-1500:]}")
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass(frozen=True)
class Burst:
    """Inputs that every side gets in one round.

    Attributes:
        stream: Name of what is measured, e.g. ``mixed``.
        inputs: Inputs that are timed.
        warm: Other inputs that each side answers before.
        sizes: Size of each input, e.g. in tokens.
    """

    stream: str
    inputs: tuple[Any, ...]
    warm: tuple[Any, ...]
    sizes: tuple[int, ...] = ()


def take_turns(
    bursts: Sequence[Burst], sides: Callable[[str], Mapping[str, Side]], seed: int, report: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Return the times of all sides for each burst. Bursts are drawn in random order, and so are sides within one.

    Args:
        bursts: Bursts of all streams.
        sides: Function that returns the sides of a stream by name.
        seed: Random seed for the orders.
        report: Function that gets the number of rounds done and their total.

    Returns:
        Rounds: the stream, sizes, microseconds of the probe, and the milliseconds of each input and its answer by side.
    """
    choose = random.Random(seed)
    rounds: list[dict[str, Any]] = []
    for burst in choose.sample(list(bursts), len(bursts)):
        present = dict(sides(burst.stream))
        one: dict[str, Any] = {"stream": burst.stream, "sizes": burst.sizes, "probe_us": round(probe_us(), 4)}
        one |= {"ms": {}, "answers": {}}
        for name in choose.sample(sorted(present), len(present)):
            time.sleep(PAUSE_S)
            reply = present[name].ask(do="each", warm=burst.warm, inputs=burst.inputs)
            one["ms"][name] = [round(ms, 5) for ms in reply["ms"]]
            one["answers"][name] = reply["answers"]
        rounds.append(one)
        report(len(rounds), len(bursts))
    return rounds


def probe_us() -> float:
    """Return the microseconds of a round trip between the first two CPUs that this process may use.

    Two processes, one on each CPU, take turns in writing to memory that they share. The lower quartile of short batches
    counts, because a batch that another process interrupts takes a hundred times as long. NaN where there is one CPU.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return float("nan")
    with mmap.mmap(-1, mmap.PAGESIZE) as shared, memoryview(shared) as cells:
        ping, pong, end = 0, 256, 512  # each in cache lines of its own
        child = os.fork()
        if not child:
            _echo(cells, cpus[1], (ping, pong, end))
        try:
            os.sched_setaffinity(0, {cpus[0]})
            return _trip_us(cells, ping, pong)
        finally:
            cells[end] = 1
            os.waitpid(child, 0)
            os.sched_setaffinity(0, set(cpus))


def _trip_us(cells: memoryview, ping: int, pong: int) -> float:
    times_s = []
    value = 1
    for _ in range(_PROBE_BATCHES):
        start = time.perf_counter()
        for _ in range(_PROBE_TRIPS):
            cells[ping] = value
            while cells[pong] != value:
                pass
            value = 3 - value
        times_s.append(time.perf_counter() - start)
    return sorted(times_s)[_PROBE_BATCHES // 4] / _PROBE_TRIPS * 1e6


def _echo(cells: memoryview, cpu: int, places: tuple[int, int, int]) -> None:
    """The other side of the probe. It never returns."""
    ping, pong, end = places
    try:
        os.sched_setaffinity(0, {cpu})
        value = 1
        while True:
            while cells[ping] != value:
                if cells[end]:
                    os._exit(0)
            cells[pong] = value
            value = 3 - value
    finally:
        os._exit(1)


def environment(threads: int = 2, path: Path | None = None) -> dict[str, str]:
    """Return the environment of a side: no network, and ``path`` as the only addition to its module path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    kept |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    return kept if path is None else {**kept, "PYTHONPATH": str(path)}
