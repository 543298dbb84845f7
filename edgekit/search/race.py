"""Outputs, costs and latencies of candidates on this machine. Each candidate runs in a process of its own.

Candidates are timed interleaved, a few inputs of each in turn, so that a change in the speed of the machine affects all
of them alike. They are compared input by input within a round (duet measurement: Bulej et al., "Duet Benchmarking",
arXiv 2001.05811).
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
from edgekit.spec.protocols import Arrays, Input
from edgekit.timing.worker import Worker

__all__ = ["measure_candidate", "ratio", "time_candidates", "turns"]

_WARM_UP = 5
"""Calls at the start of each turn that are not counted."""
_FEWEST_ROUNDS = 4
_RESAMPLES = 2000
_LIST_INPUTS = 320
"""Most inputs of the list for throughput, about ten usual batches, so that sorting by length has an effect."""


def measure_candidate(
    candidate: Candidate, inputs: Sequence[Input], longest: int, limit_mb: float | None, progress: Progress
) -> CandidateResult:
    """Run a candidate on all inputs one by one, and on many of them in lists.

    Args:
        candidate: Candidate to run.
        inputs: Inputs of the evaluation set.
        longest: Size of the longest row, e.g. in tokens, at which memory is measured.
        limit_mb: Memory limit of the process in MiB, or None. Lists are cut so that their calls stay below it, down to
            single rows.
        progress: Function that is called after each part.

    Raises:
        BackendError: The candidate cannot run.
        OutputError: An output is not finite.
    """
    batch = candidate.variant.batch or candidate.bundle.manifest.max_batch
    lists = agree.lists(len(inputs), batch)
    order = tuple(i for rows in lists for i in rows)
    watch = Watch()
    with Worker(candidate.bundle.path, variant=candidate.variant) as worker:
        first_answer_ms = worker.start(inputs[0]).total_ms
        outputs = worker.predict(inputs, progress, step=f"evaluate {candidate}")
        listed: list[Arrays] = []
        for rows in lists:
            listed.extend(worker.predict([inputs[i] for i in rows], batched=True))
        memory_mb, memory_rows, max_tokens = _measure_memory(worker, candidate.variant, batch, longest, limit_mb)
        costs = Costs(
            first_answer_ms=first_answer_ms,
            memory_mb=memory_mb,
            executed=worker.executed_precision(),
            max_tokens=max_tokens,
            memory_rows=memory_rows,
            memory_tokens=longest,
        )
    return CandidateResult(outputs, costs, listed, order, watch.stop())


def _measure_memory(
    worker: Worker, variant: Variant, batch: int, longest: int, limit_mb: float | None
) -> tuple[float, int, int]:
    """Measure the peak memory of the largest call of a list.

    The memory of attention grows with the square of the length. Of all calls with the same number of tokens, the call
    with the longest rows therefore needs the most memory.

    Returns:
        The peak memory in MiB; the rows of the largest call; and the token limit of calls that keeps lists to it.
    """
    fitting_rows = max(1, variant.max_tokens // longest) if variant.max_tokens else batch
    most_rows = 1 if variant.rows == "alone" else min(batch, fitting_rows)
    counts = [most_rows]
    if limit_mb is not None:
        # The rows double, starting at one. The peak only rises, so it is always the peak of the last call.
        powers = [2**i for i in range(most_rows.bit_length())]
        counts = [*(count for count in powers if count < most_rows), most_rows]
    peak_mb = 0.0
    rows = 1
    for count in counts:
        worker.fill(count, longest)
        memory_mb = worker.memory_mb()
        if limit_mb is not None and memory_mb > limit_mb and count > 1:
            return peak_mb, rows, rows * longest
        peak_mb = memory_mb
        rows = count
    return peak_mb, rows, variant.max_tokens


def time_candidates(
    candidates: Sequence[Candidate],
    inputs: Sequence[Input],
    rounds: int,
    inputs_a_round: int,
    progress: Progress,
    *,
    lists: bool = False,
    until: float | None = None,
) -> Race:
    """Time all candidates interleaved, a few inputs of each in turn.

    Args:
        candidates: Candidates to time.
        inputs: Inputs to choose from. The timed inputs are spread evenly over them.
        rounds: Number of rounds. Each candidate has one turn per round.
        inputs_a_round: Number of inputs in a turn.
        progress: Function that is called after each round.
        lists: Whether to also time each candidate in every round on one list of at most 320 inputs, spread evenly.
        until: Time, as in ``time.monotonic()``, after which no further round starts once four have run. None for no
            limit.
    """
    parts = []
    for indices in turns(len(inputs), rounds, inputs_a_round):
        parts.append([inputs[i] for i in indices])
    list_inputs = [inputs[i] for (i,) in turns(len(inputs), min(len(inputs), _LIST_INPUTS), 1)]
    times: list[list[tuple[float, ...]]] = [[] for _ in candidates]
    rates: list[list[float]] = [[] for _ in candidates]
    watch = Watch()
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(c.bundle.path, variant=c.variant, checked=True)) for c in candidates]
        for worker in workers:
            with worker.turn():
                worker.time(parts[0][: 2 * _WARM_UP])
        for turn, part in enumerate(parts):
            if until is not None and turn >= _FEWEST_ROUNDS and time.monotonic() > until:
                break
            order = list(range(len(workers)))
            if turn % 2:
                # Odd rounds run in reverse order, so that no candidate is always the first after a pause.
                order.reverse()
            for index in order:
                worker = workers[index]
                with worker.turn():
                    times[index].append(tuple(worker.time([*part[:_WARM_UP], *part])[-len(part) :]))
                    if lists:
                        rates[index].append(len(list_inputs) / worker.seconds(list_inputs))
            progress("race candidates", turn + 1, rounds)
    # The watch stops after the workers have ended, because only then is their CPU time known.
    busy = watch.stop()
    return Race(tuple(map(tuple, times)), tuple(map(tuple, rates if lists else ())), busy)


def turns(count: int, rounds: int, inputs_a_round: int) -> list[list[int]]:
    """Return which of ``count`` inputs each round times. The inputs of every round are spread evenly over the set.

    Args:
        count: Number of inputs.
        rounds: Number of rounds.
        inputs_a_round: Number of inputs in a turn.

    Returns:
        Input indices: ``[round][input]``.
    """
    total = rounds * inputs_a_round
    indices = [i * count // total for i in range(total)]
    return [indices[turn::rounds] for turn in range(rounds)]


def ratio(
    times: Sequence[Sequence[float]], other_times: Sequence[Sequence[float]], seed: int = 0
) -> tuple[float, float]:
    """Return the ratio of a candidate's times to those of another candidate, with a confidence bound.

    The statistic is the median of the paired ratios. The interval is a percentile bootstrap over rounds, because times
    within a round are not independent.

    Args:
        times: Times of the candidate in ms: ``[round][input]``.
        other_times: Times of the other candidate in ms, for the same rounds and inputs.
        seed: Random seed for the bootstrap.

    Returns:
        The ratio, and the upper end of its 95 % interval.
    """
    logs = []
    for turn, other_turn in zip(times, other_times, strict=True):
        logs.append(np.log(np.asarray(turn) / np.asarray(other_turn)))
    middle = float(np.median(np.concatenate(logs)))
    random = np.random.default_rng(seed)
    resamples = random.integers(0, len(logs), (_RESAMPLES, len(logs)))
    medians = []
    for resample in resamples:
        medians.append(np.median(np.concatenate([logs[i] for i in resample])))
    return float(np.exp(middle)), float(np.exp(np.quantile(medians, 0.975)))
