"""Two bundles by the clock, in turns: pairs of fresh processes, and in each pair blocks of the same inputs in the order A B B A.

What the machine does meanwhile meets both sides alike (duet measurement: Bulej L. et al., "Duet Benchmarking", ICPE 2020, arXiv 2001.05811);
A B B A cancels a drift within a block; fresh processes make the luck of one process (``interval``) part of the interval.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgekit.machine import energy
from edgekit.machine.energy import Meter
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Input
from edgekit.spec.subject import Process, Start
from edgekit.stats.interval import FEWEST, Look
from edgekit.timing.draw import Draw
from edgekit.timing.probe import PRODUCTS, Prober, ask
from edgekit.timing.worker import Worker

__all__ = ["FIRST_LOOK", "MOST", "Duel", "Opener", "Pair", "duel", "solo"]

Opener = Callable[[], Worker]
"""Starts a process with a bundle; it loads it when it is asked first."""

# Inputs of a block: enough to outweigh a switch between processes, few enough that a burst of noise spoils few blocks.
_MOST_INPUTS = 8
_TURN_MS = 80.0
_WARM_UP = 16
_WARM_UP_S = 0.3
_AWAKE = 2  # calls behind a switch that are not counted: the caches are still the other's
_MEASURE_S = 1.0  # of a pair, or as long as both starts took where that is longer
_MOST_BLOCKS = 32
_FITTED = 9  # calls that the probe kernels' repeats are fitted to
_WARM_PROBE = 3  # calls of each probe kernel
_METERED = FEWEST  # pairs in which energy is measured: a meter of a board needs seconds each time
FIRST_LOOK = 6
MOST = 40

Pair = tuple[Process, Process]
"""The process before and the one after."""


@dataclass(frozen=True)
class Duel:
    """What was timed.

    Attributes:
        pairs: of processes, before and after.
        seconds: what it took.
        looks: when the data were looked at for a decision; the last is at all of them.
    """

    pairs: tuple[Pair, ...]
    seconds: float
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class Solo:
    """How one bundle is timed by itself.

    Attributes:
        processes: Number of processes, one after the other.
        probes: Kernels that are timed before and behind each block; None for none.
        kernels: Names of those kernels with their repeats, where they are to be those of an earlier run; empty to fit them to the bundle's time.
        seed: Random seed for the order of inputs.
        meter: Meter of energy, where the machine has one.
    """

    processes: int
    probes: Prober | None = None
    kernels: Sequence[str] = ()
    seed: int = 0
    meter: Meter | None = None


def duel(
    sides: tuple[Opener, Opener],
    inputs: Sequence[Input],
    decided: Callable[[Sequence[Pair], Sequence[Look]], bool],
    *,
    max_time: float,
    seed: int = 0,
    meter: Meter | None = None,
    progress: Progress = silent,
) -> Duel:
    """Times two bundles until a look at the data decides, or the time is over.

    Args:
        sides: Functions that start a process of each side, before and after.
        inputs: what is answered, in an order drawn by ``seed``.
        decided: told the pairs so far and all looks, this one last; whether that is enough.
        max_time: seconds; at least four pairs of processes are measured whatever they take.
        seed: of the order.
        meter: measures energy, where the machine tells it.
        progress: told after each pair.

    Raises:
        BackendError: when a process cannot run its bundle, or the clock goes backwards.
    """
    began = time.monotonic()
    draw = Draw(inputs, seed)
    before, after = sides
    pairs: list[Pair] = []
    looks: list[Look] = []
    while True:
        pairs.append(
            _pair(
                before,
                after,
                draw,
                backwards=len(pairs) % 2 == 1,
                first=inputs[0],
                meter=meter if len(pairs) < _METERED else None,
            )
        )
        each = (time.monotonic() - began) / len(pairs)
        most = min(MOST, max(FEWEST, int(max_time / each)))
        progress("time both in turns", len(pairs), most)
        over = len(pairs) >= most
        # The second look is half way from the first to the end; none is taken just before the end, which would have little left to spend.
        due = FIRST_LOOK if not looks else (FIRST_LOOK + most) // 2 if len(looks) == 1 else most
        if over or due <= len(pairs) <= most - 2:
            looks.append(Look(len(pairs), 1.0 if over else len(pairs) / most))
            if decided(pairs, looks) or over:
                return Duel(tuple(pairs), time.monotonic() - began, tuple(looks))


def solo(opener: Opener, inputs: Sequence[Input], plan: Solo, progress: Progress = silent) -> tuple[Process, ...]:
    """Times one bundle in several processes, one after the other, on inputs that are drawn as for :func:`duel`.

    Args:
        opener: starts a process with the bundle.
        inputs: what is answered.
        plan: Processes, probe kernels, seed and meter.
        progress: told after each process.

    Raises:
        BackendError: as for a duel.
    """
    draw, probes, kernels = Draw(inputs, plan.seed), plan.probes, plan.kernels
    found: list[Process] = []
    for index in range(plan.processes):
        with contextlib.ExitStack() as stack:
            probe, probe_start = _probe(stack, probes, kernels) if index % 2 else (None, None)
            worker, start, call_ms = _started(stack, opener, inputs[0], draw)
            if not index % 2:
                probe, probe_start = _probe(stack, probes, kernels)
            if probes is not None and probe is not None and not kernels:
                with worker.turn():
                    least_ms = min(worker.time(draw.take(_FITTED)))
                with probe.turn():
                    kernels = probes.kernels(probe, least_ms)
            size, blocks, drawn = _size(call_ms), list[tuple[float, ...]](), list[tuple[int, ...]]()
            beside = [ask(probe, kernels)] if probe is not None else []
            end = time.monotonic() + max(_MEASURE_S, start.total_ms / 1e3)
            while len(blocks) < 2 or (len(blocks) < _MOST_BLOCKS and time.monotonic() < end):
                drawn.append(draw.rows(size))
                block = draw.inputs(drawn[-1])
                blocks.append(_timed(worker, block) + _timed(worker, block))
                beside += [ask(probe, kernels)] if probe is not None else []
            made = _process(worker, start, blocks, drawn, plan.meter if index < _METERED else None, draw.take(size))
            told = {k: tuple(tuple(round(t, 4) for t in one[k]) for one in beside) for k in kernels} if beside else {}
            found.append(replace(made, probes_ms=told, probe_start_ms=probe_start))
        progress("time processes", index + 1, plan.processes)
    return tuple(found)


def _probe(
    stack: contextlib.ExitStack, probes: Prober | None, kernels: Sequence[str]
) -> tuple[Worker | None, float | None]:
    """A warm process with the probe kernels, and milliseconds of its start."""
    if probes is None:
        return None, None
    worker = stack.enter_context(probes.worker())
    warm = tuple(kernels) or tuple(f"{name} 1" for name in PRODUCTS)
    with worker.turn():
        start = worker.start(warm[0])
        worker.time([kernel for kernel in warm for _ in range(_WARM_PROBE)])
    return worker, start.total_ms


def _pair(before: Opener, after: Opener, draw: Draw, backwards: bool, first: Input, meter: Meter | None) -> Pair:
    """One pair of processes; ``backwards`` starts and times the second side first."""
    with contextlib.ExitStack() as stack:
        sides = [_started(stack, opener, first, draw) for opener in ((after, before) if backwards else (before, after))]
        one, two = (worker for worker, _, _ in sides)
        size = _size(max(call_ms for _, _, call_ms in sides))
        blocks: tuple[list[tuple[float, ...]], list[tuple[float, ...]]] = ([], [])
        drawn: list[tuple[int, ...]] = []
        end = time.monotonic() + max(_MEASURE_S, sum(start.total_ms for _, start, _ in sides) / 1e3)
        while len(blocks[0]) < 2 or (len(blocks[0]) < _MOST_BLOCKS and time.monotonic() < end):
            drawn.append(draw.rows(size))
            block = draw.inputs(drawn[-1])
            a, b = _timed(one, block), _timed(two, block)
            b += _timed(two, block)
            blocks[0].append(a + _timed(one, block))
            blocks[1].append(b)
        rest = draw.take(size)
        made = [
            _process(worker, start, timed, drawn, meter, rest)
            for (worker, start, _), timed in zip(sides, blocks, strict=True)
        ]
    return (made[1], made[0]) if backwards else (made[0], made[1])


def _started(stack: contextlib.ExitStack, opener: Opener, first: Input, draw: Draw) -> tuple[Worker, Start, float]:
    """A warm process, its start, and milliseconds of a call."""
    worker = stack.enter_context(opener())
    times: list[float] = []
    with worker.turn():
        start = worker.start(first)
        end = time.monotonic() + _WARM_UP_S
        while len(times) < 2 or (len(times) < _WARM_UP and time.monotonic() < end):
            times += worker.time(draw.take(2))
    return worker, start, times[-1]


def _size(call_ms: float) -> int:
    return min(_MOST_INPUTS, max(1, int(_TURN_MS / call_ms)))


def _timed(worker: Worker, block: list[Input]) -> tuple[float, ...]:
    with worker.turn():
        return tuple(round(t, 4) for t in worker.time([*block[:_AWAKE], *block])[-len(block) :])


def _process(
    worker: Worker,
    start: Start,
    blocks: Sequence[tuple[float, ...]],
    drawn: Sequence[tuple[int, ...]],
    meter: Meter | None,
    block: Sequence[Input],
) -> Process:
    """What a process comes to, with millijoule of one answer where there is a meter."""

    def work() -> int:
        answers, end = 0, time.monotonic() + 1.2 * meter.least_s if meter is not None else 0.0
        while time.monotonic() < end:
            answers += len(worker.time(block))
        return answers

    with worker.turn():
        memory = worker.memory_mb()
        used = energy.per_answer(meter, work) if meter is not None else None
    return Process(start, tuple(blocks), memory, used, tuple(drawn))
