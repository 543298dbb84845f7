"""Latency and throughput by batch and length, on token ids: what the engine does, without the tokenizer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.engines.measure import Latency, cpu_name, latency
from edgekit.report.table import table
from edgekit.runtime.session import Session, load
from edgekit.spec.errors import InputError
from edgekit.spec.parsing import plain
from edgekit.spec.progress import Progress, silent

_WARM_UP = 5
_FEWEST = 11  # calls that a median needs


@dataclass(frozen=True)
class Point:
    """One pair of batch and length.

    Attributes:
        batch: rows.
        length: tokens of each row.
        latency: of one call.
        rows_per_s: throughput at the mean time.
    """

    batch: int
    length: int
    latency: Latency
    rows_per_s: float


@dataclass(frozen=True)
class Bench:
    """All pairs."""

    bundle: str
    backend: str
    method: str
    threads: int
    cpu: str
    points: tuple[Point, ...]

    def record(self) -> dict[str, object]:
        """Plain data for JSON."""
        return dict(plain(self))

    def text(self) -> str:
        """For a terminal."""

        def ms(value: float | None) -> str:
            return "-" if value is None else f"{value:.2f}"

        rows = [
            (str(p.batch), str(p.length), ms(p.latency.p50_ms), ms(p.latency.p90_ms), ms(p.latency.p99_ms), str(p.latency.count), f"{p.rows_per_s:.0f}")
            for p in self.points
        ]
        head = f"{self.bundle}: {self.method} on {self.backend}, {self.threads} thread(s), {self.cpu}; token ids in, logits out"
        header = ("batch", "length", "p50 ms", "p90 ms", "p99 ms", "calls", "rows/s")
        return f"{head}\n{table(header, rows, left=())}\n(-: too few calls for that percentile; give it more --seconds)"


def bench(
    bundle: str | Path,
    batches: Sequence[int],
    lengths: Sequence[int],
    *,
    seconds: float = 1.0,
    backend: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Bench:
    """Times every pair of batch and length for about ``seconds``, at least 11 calls.

    Raises:
        InputError: for a length that the model does not take.
    """
    with load(bundle, backend=backend, threads=threads) as session:
        info = session.info
        if max(lengths) > info.max_length:
            raise InputError(f"Length {max(lengths)} is more than the {info.max_length} tokens that this model takes. Give --lengths up to that.")
        pairs = [(b, n) for b in batches for n in lengths]
        points = []
        for index, (batch, length) in enumerate(pairs):
            points.append(_point(session, batch, length, seconds))
            progress("bench", index + 1, len(pairs))
    return Bench(str(bundle), info.backend, info.method, info.threads, cpu_name(), tuple(points))


def _point(session: Session, batch: int, length: int, seconds: float) -> Point:
    feeds = session.example_feeds(batch, length)
    for _ in range(_WARM_UP):
        session.run(feeds)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < _FEWEST:
        start = time.perf_counter()
        session.run(feeds)
        times.append((time.perf_counter() - start) * 1e3)
    return Point(batch, length, latency(times), batch * 1e3 / float(np.mean(times)))
