"""Measures candidates on this machine: what each answers, costs and takes, every one in a process of its own.

Latencies are taken in turns, a few inputs of each candidate at a time, so that a change of the machine's speed meets all of
them alike, and are compared input by input within a turn (duet measurement: Bulej et al., "Duet Benchmarking", arXiv 2001.05811).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import numpy as np

from edgekit.machine.busy import Watch
from edgekit.search import agree
from edgekit.search.record import Candidate, CandidateResult, Costs, Race
from edgekit.spec.manifest import Variant
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Input
from edgekit.timing.worker import Worker

__all__ = ["in_turns", "measure_candidate", "ratio", "turns"]

_WARM_UP = 5
_FEWEST_ROUNDS = 4
_RESAMPLES = 2000
_LIST = (
    320  # inputs of a list that is timed for throughput: some ten of the usual batches, so that length-sorting shows
)


def measure_candidate(
    candidate: Candidate, inputs: Sequence[Input], longest: int, limit_mb: float | None, progress: Progress
) -> CandidateResult:
    """Lets a candidate answer all inputs alone, and many of them in lists.

    Args:
        candidate: what runs.
        inputs: of the evaluation set.
        longest: size of the longest row that memory is measured at, e.g. in tokens.
        limit_mb: what the process may take, or None: lists are cut so that their calls stay below it, as far as a single row does.
        progress: told after each part.

    Raises:
        BackendError: when it cannot run.
        OutputError: when an answer is not finite.
    """
    batch = candidate.variant.batch or candidate.bundle.manifest.max_batch
    lists = agree.lists(len(inputs), batch)
    watch = Watch()
    with Worker(candidate.bundle.path, variant=candidate.variant) as worker:
        first_answer_ms = worker.start(inputs[0]).total_ms
        outputs = worker.predict(inputs, progress, step=f"evaluate {candidate}")
        listed = [row for rows in lists for row in worker.predict([inputs[i] for i in rows], batched=True)]
        memory_mb, largest, max_tokens = _largest_call(worker, candidate.variant, batch, longest, limit_mb)
        costs = Costs(
            first_answer_ms,
            memory_mb,
            worker.executed_precision(),
            max_tokens,
            memory_rows=largest,
            memory_tokens=longest,
        )
    return CandidateResult(outputs, costs, listed, tuple(i for rows in lists for i in rows), watch.stop())


def _largest_call(
    worker: Worker, variant: Variant, batch: int, longest: int, limit_mb: float | None
) -> tuple[float, int, int]:
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
    inputs: Sequence[Input],
    rounds: int,
    inputs_a_round: int,
    progress: Progress,
    *,
    lists: bool = False,
    until: float | None = None,
) -> Race:
    """Times all candidates, a few inputs of each in turn.

    Args:
        candidates: what runs.
        inputs: those that are timed are chosen from them, spread evenly.
        rounds: turns of each candidate.
        inputs_a_round: inputs of a turn.
        progress: told after each round.
        lists: also time each candidate in every round on a list, as one call: at most 320 inputs, spread evenly.
        until: ``time.monotonic()`` after which no further round is begun, once there were four.
    """
    parts = [[inputs[i] for i in turn] for turn in turns(len(inputs), rounds, inputs_a_round)]
    times: list[list[tuple[float, ...]]] = [[] for _ in candidates]
    rates: list[list[float]] = [[] for _ in candidates]
    listed = [inputs[i] for (i,) in turns(len(inputs), min(len(inputs), _LIST), 1)]
    watch = Watch()
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(c.bundle.path, variant=c.variant, checked=True)) for c in candidates]
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
    return Race(
        tuple(map(tuple, times)), tuple(map(tuple, rates)) if lists else (), watch.stop()
    )  # the workers have ended, so their time is known


def turns(count: int, rounds: int, inputs_a_round: int) -> list[list[int]]:
    """Which of ``count`` inputs are timed in which round: spread evenly over the set, and over it again in every round."""
    total = rounds * inputs_a_round
    chosen = [i * count // total for i in range(total)]
    return [chosen[turn::rounds] for turn in range(rounds)]


def ratio(own: Sequence[Sequence[float]], other: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """How many times the other's time this one takes, and the upper end of the 95 % interval of that.

    The statistic is the median of the paired ratios; the interval is a percentile bootstrap over rounds, since times
    within a round are not independent.

    Args:
        own: milliseconds ``[round][input]``.
        other: the same rounds and inputs of another candidate.
        seed: of the resampling.
    """
    logs = [np.log(np.asarray(a) / np.asarray(b)) for a, b in zip(own, other, strict=True)]
    middle = float(np.median(np.concatenate(logs)))
    random = np.random.default_rng(seed)
    picks = random.integers(0, len(logs), (_RESAMPLES, len(logs)))
    medians = [np.median(np.concatenate([logs[i] for i in pick])) for pick in picks]
    return float(np.exp(middle)), float(np.exp(np.quantile(medians, 0.975)))
