"""Measures candidates on this machine: what each answers, costs and takes, every one in a process of its own.

Latencies are taken in turns, a few texts of each candidate at a time, so that a change of the machine's speed meets all of
them alike, and are compared text by text within a turn (duet measurement: Bulej et al., "Duet Benchmarking", arXiv 2001.05811).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.bundle.trust import Bundle
from edgekit.machine.busy import Busy, Watch
from edgekit.modalities.text import Text
from edgekit.search import agree
from edgekit.spec.agreement import Agreement
from edgekit.spec.manifest import MAX_TOKENS, Variant
from edgekit.spec.progress import Progress
from edgekit.timing.worker import Worker

_WARM_UP = 5
_TEXTS_A_REQUEST = 100
_FEWEST_ROUNDS = 4
_RESAMPLES = 2000
_LIST = 320  # texts of a list that is timed for throughput: some ten of the usual batches, so that length-sorting shows


@dataclass(frozen=True)
class Candidate:
    """A way to run the model that may win.

    Attributes:
        bundle: its graphs and assets, in a scratch folder.
        variant: how they are run.
        model: name of the student whose graphs they are; empty for the model itself.
    """

    bundle: Bundle
    variant: Variant
    model: str = ""

    def __str__(self) -> str:
        """E.g. ``static on openvino, buckets 16/32/64``."""
        v = self.variant
        shapes = f", buckets {'/'.join(map(str, v.shapes))}" if v.shapes else ""
        streams = f", {v.streams} streams" if v.streams > 1 else ""
        student = f"student {self.model}, " if self.model else ""
        rows = ", rows alone" if v.rows == "alone" else f", batch {v.batch}" if v.batch > 1 else ""
        return f"{student}{v.method} on {v.backend}{shapes}, {v.threads} thread(s){streams}{rows}"


@dataclass(frozen=True)
class Answers:
    """What a candidate answers and costs.

    Attributes:
        logits: float32 ``[rows, labels]``, one text at a time.
        first_answer_ms: process start to the first label.
        memory_mb: peak resident memory of the predicting process after all texts and the largest call that a list is cut into, MiB.
        executed: what the linear layers ran in.
        listed: float32 ``[answers, labels]``, in lists.
        order: ``int64 [answers]``, the row that each answer in ``listed`` is of.
        max_tokens: rows times padded length that a list is to be cut by: the candidate's, or less where memory is limited.
        memory_rows, memory_tokens: rows of that largest call on each stream, and tokens of each.
        lists: how far ``listed`` is from ``logits``; None before it was compared.
    """

    logits: np.ndarray
    first_answer_ms: float
    memory_mb: float
    executed: str
    listed: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    max_tokens: int = MAX_TOKENS
    memory_rows: int = 0
    memory_tokens: int = 0
    lists: Agreement | None = None


@dataclass(frozen=True)
class Race:
    """Raw times, candidate by candidate, in the order that they were given.

    Attributes:
        times_ms: milliseconds from text to label: ``[candidate][round][text]``, the same texts in a round for all.
        rows_per_s: texts of one list per second: ``[candidate][round]``; empty where throughput was not asked for.
        busy: what else the machine did meanwhile; None on records that do not say.
    """

    times_ms: tuple[tuple[tuple[float, ...], ...], ...]
    rows_per_s: tuple[tuple[float, ...], ...] = field(default=())
    busy: Busy | None = None

    def noise(self) -> float:
        """How far two halves of the race, between which nothing differs, are apart: at least 1.

        Each candidate's time is taken over that of the fastest, text by text, in the odd rounds and in the even ones: a ratio of the two that is not 1 is
        noise of the very kind that a choice between candidates rests on. The largest of all candidates; 1 for one candidate or one round.
        """
        costs = [[[1.0 / rate] for rate in rates] for rates in self.rows_per_s] if self.rows_per_s else self.times_ms
        if len(costs) < 2 or len(costs[0]) < 2:
            return 1.0
        first = min(range(len(costs)), key=lambda i: float(np.median(np.concatenate([np.asarray(turn) for turn in costs[i]]))))
        apart = [1.0]
        for index in range(len(costs)):
            logs = [np.log(np.asarray(a) / np.asarray(b)) for a, b in zip(costs[index], costs[first], strict=True)]
            apart.append(float(np.exp(abs(np.median(np.concatenate(logs[::2])) - np.median(np.concatenate(logs[1::2]))))))
        return max(apart)


def answers(candidate: Candidate, texts: Sequence[Text], longest: int, limit_mb: float | None, progress: Progress) -> Answers:
    """Lets a candidate answer all texts alone, and many of them in lists.

    Args:
        candidate: what runs.
        texts: of the evaluation set.
        longest: tokens of the longest row that memory is measured at.
        limit_mb: what the process may take, or None: lists are cut so that their calls stay below it, as far as a single row does.
        progress: told after each part.

    Raises:
        BackendError: when it cannot run.
        OutputError: when an answer is not finite.
    """
    batch = candidate.variant.batch or candidate.bundle.manifest.max_batch
    groups = agree.lists(len(texts), batch)
    with Worker(candidate.bundle.path, variant=candidate.variant) as worker:
        first = worker.start(texts[0]).total_ms
        parts = []
        for start in range(0, len(texts), _TEXTS_A_REQUEST):
            parts.append(worker.logits(texts[start : start + _TEXTS_A_REQUEST]))
            progress(f"evaluate {candidate}", start, len(texts))
        listed = [worker.logits([texts[i] for i in group], batched=True) for group in groups]
        memory, rows, tokens = _largest_call(worker, candidate.variant, batch, longest, limit_mb)
        return Answers(
            logits=np.concatenate(parts),
            first_answer_ms=first,
            memory_mb=memory,
            executed=worker.executed_precision(),
            listed=np.concatenate(listed),
            order=np.array([i for group in groups for i in group], np.int64),
            max_tokens=tokens,
            memory_rows=rows,
            memory_tokens=longest,
        )


def _largest_call(worker: Worker, variant: Variant, batch: int, longest: int, limit_mb: float | None) -> tuple[float, int, int]:
    """Peak memory at the largest call of a list, the rows of that call, and the limit of tokens that makes it so.

    Attention takes memory by the square of the length: of all calls with so many tokens that of the longest rows takes most.
    """
    fitting = max(1, variant.max_tokens // longest) if variant.max_tokens else batch
    most = 1 if variant.rows == "alone" else min(batch, fitting)
    before, rows = 0.0, 1
    # One row, and twice as many each time: the peak only rises, so that it is that of the last.
    for count in [most] if limit_mb is None else [*(2**i for i in range(most.bit_length()) if 2**i < most), most]:
        worker.fill(count, longest)
        memory = worker.memory_mb()
        if limit_mb is not None and memory > limit_mb and count > 1:
            return before, rows, rows * longest
        before, rows = memory, count
    return before, rows, variant.max_tokens


def in_turns(
    candidates: Sequence[Candidate],
    texts: Sequence[Text],
    rounds: int,
    texts_a_round: int,
    progress: Progress,
    *,
    lists: bool = False,
    until: float | None = None,
) -> Race:
    """Times all candidates, a few texts of each in turn.

    Args:
        candidates: what runs.
        texts: those that are timed are chosen from them, spread evenly.
        rounds: turns of each candidate.
        texts_a_round: texts of a turn.
        progress: told after each round.
        lists: also time each candidate in every round on a list, as one call: at most 320 texts, spread evenly.
        until: ``time.monotonic()`` after which no further round is begun, once there were four.
    """
    parts = [[texts[i] for i in turn] for turn in turns(len(texts), rounds, texts_a_round)]
    times: list[list[tuple[float, ...]]] = [[] for _ in candidates]
    rates: list[list[float]] = [[] for _ in candidates]
    listed = [texts[i] for (i,) in turns(len(texts), min(len(texts), _LIST), 1)]
    watch = Watch()
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(c.bundle.path, variant=c.variant)) for c in candidates]
        for worker in workers:
            with worker.turn():
                worker.time(parts[0][: 2 * _WARM_UP])
        for turn, part in enumerate(parts):
            if until is not None and turn >= _FEWEST_ROUNDS and time.monotonic() > until:
                break
            # Every other round backwards: none is always the first behind a pause.
            for index in range(len(workers)) if turn % 2 == 0 else reversed(range(len(workers))):
                with workers[index].turn():
                    times[index].append(tuple(workers[index].time([*part[:_WARM_UP], *part])[-len(part) :]))
                    if lists:
                        rates[index].append(len(listed) / workers[index].seconds(listed))
            progress("race candidates", turn + 1, rounds)
    return Race(tuple(map(tuple, times)), tuple(map(tuple, rates)) if lists else (), watch.stop())  # the workers have ended, so their time is known


def turns(count: int, rounds: int, texts_a_round: int) -> list[list[int]]:
    """Which of ``count`` texts are timed in which round: spread evenly over the set, and over it again in every round."""
    total = rounds * texts_a_round
    chosen = [i * count // total for i in range(total)]
    return [chosen[turn::rounds] for turn in range(rounds)]


def ratio(own: Sequence[Sequence[float]], other: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """How many times the other's time this one takes, and the upper end of the 95 % interval of that.

    The statistic is the median of the paired ratios; the interval is a percentile bootstrap over rounds, since times
    within a round are not independent.

    Args:
        own: milliseconds ``[round][text]``.
        other: the same rounds and texts of another candidate.
        seed: of the resampling.
    """
    logs = [np.log(np.asarray(a) / np.asarray(b)) for a, b in zip(own, other, strict=True)]
    middle = float(np.median(np.concatenate(logs)))
    random = np.random.default_rng(seed)
    picks = random.integers(0, len(logs), (_RESAMPLES, len(logs)))
    medians = [np.median(np.concatenate([logs[i] for i in pick])) for pick in picks]
    return float(np.exp(middle)), float(np.exp(np.quantile(medians, 0.975)))
