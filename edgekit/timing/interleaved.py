"""Latency of two bundles, measured interleaved: pairs of fresh processes run blocks of the same inputs in ABBA order.

Interference of the machine affects both sides alike (duet measurement: Bulej L. et al., "Duet Benchmarking", ICPE 2020,
arXiv 2001.05811). ABBA cancels a linear drift within a block. Fresh processes make the variation between processes
part of the confidence interval (:mod:`edgekit.stats.interval`). The idle process is suspended (SIGSTOP).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.machine import energy
from edgekit.machine.energy import Meter
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Input
from edgekit.spec.subject import Process, Start
from edgekit.stats.interval import FEWEST, Look
from edgekit.timing.probe import PRODUCTS, Prober, time_kernels
from edgekit.timing.sampler import InputSampler
from edgekit.timing.worker import Worker

__all__ = ["FIRST_LOOK", "MOST", "InterleavedTiming", "Opener", "Pair", "time_interleaved", "time_single"]

Opener = Callable[[], Worker]
"""Function that starts a process for a bundle. The process loads the bundle on the first request."""

# A block is long enough to outweigh a switch between processes, and short enough that a burst of noise affects few.
_MAX_BLOCK_INPUTS = 8
_BLOCK_MS = 80.0
_WARM_UP_CALLS = 16
_WARM_UP_S = 0.3
_WARMUP_AFTER_RESUME = 2
"""Calls after a switch that are not counted, because the caches still hold the data of the other process."""
_MEASURE_S = 1.0
"""Seconds of measurement per pair. It is extended to the time of both cold starts where that is longer."""
_MIN_BLOCKS = 2
_MAX_BLOCKS = 32
_FIT_CALLS = 9
"""Calls of the bundle whose minimum the repeats of the probe kernels are fitted to."""
_PROBE_WARM_UP_CALLS = 3
"""Warm-up calls of each probe kernel."""
_METERED_PAIRS = FEWEST
"""Pairs in which energy is measured, because the sensor of a board needs seconds per measurement."""
FIRST_LOOK = 6
"""Pairs after which the data are first tested for a decision."""
MOST = 40
"""Most pairs of one comparison."""

Pair = tuple[Process, Process]
"""Process of the baseline (before) and process of the new bundle (after)."""

_Block = tuple[float, ...]


@dataclass(frozen=True)
class InterleavedTiming:
    """Result of an interleaved measurement.

    Attributes:
        pairs: Pairs of processes, before and after.
        seconds: Duration of the whole measurement.
        looks: Interim analyses, in order. The last one is at all pairs.
    """

    pairs: tuple[Pair, ...]
    seconds: float
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class _WarmProcess:
    """A process that has loaded its bundle and run the warm-up.

    Attributes:
        worker: Running worker.
        start: Cold start of the worker.
        call_ms: Latency of the last warm-up call in milliseconds.
    """

    worker: Worker
    start: Start
    call_ms: float


@dataclass(frozen=True)
class Single:
    """How one bundle is timed by itself.

    Attributes:
        processes: Number of processes.
        probes: Probe kernels that are timed before and after each block. None for no probes.
        kernels: Kernel names with repeats (``int8 4``) of an earlier run. By default the repeats are fitted to the
            latency of the bundle.
        seed: Random seed for the order of the inputs.
        meter: Energy meter, or None to measure no energy.
    """

    processes: int
    probes: Prober | None = None
    kernels: Sequence[str] = ()
    seed: int = 0
    meter: Meter | None = None


def time_interleaved(
    sides: tuple[Opener, Opener],
    inputs: Sequence[Input],
    is_decided: Callable[[Sequence[Pair], Sequence[Look]], bool],
    *,
    max_time: float,
    seed: int = 0,
    meter: Meter | None = None,
    progress: Progress = silent,
) -> InterleavedTiming:
    """Time two bundles until an interim analysis decides, or the time is over.

    Args:
        sides: Functions that start a process of the baseline and of the new bundle.
        inputs: Inputs to run, in random order.
        is_decided: Stopping rule. It gets all pairs so far and all looks, the current one last.
        max_time: Time limit in seconds. At least four pairs are measured in any case.
        seed: Random seed for the order of the inputs.
        meter: Energy meter, or None to measure no energy.
        progress: Progress callback, called after each pair.

    Raises:
        BackendError: If a process cannot run its bundle, or the clock goes backwards.
        SamplesError: If there are no inputs.
    """
    began = time.monotonic()
    before, after = sides
    sampler = InputSampler(inputs, seed)
    pairs: list[Pair] = []
    looks: list[Look] = []
    while True:
        pair_meter = meter if len(pairs) < _METERED_PAIRS else None
        after_first = len(pairs) % 2 == 1
        pairs.append(_time_pair(before, after, sampler, after_first, inputs[0], pair_meter))
        seconds_per_pair = (time.monotonic() - began) / len(pairs)
        most = min(MOST, max(FEWEST, int(max_time / seconds_per_pair)))
        progress("time both bundles", len(pairs), most)
        is_over = len(pairs) >= most
        # No look is taken just before the end, because it would use up error probability for little gain.
        if is_over or _next_look(len(looks), most) <= len(pairs) <= most - 2:
            looks.append(Look(len(pairs), 1.0 if is_over else len(pairs) / most))
            if is_decided(pairs, looks) or is_over:
                return InterleavedTiming(tuple(pairs), time.monotonic() - began, tuple(looks))


def time_single(
    opener: Opener, inputs: Sequence[Input], plan: Single, progress: Progress = silent
) -> tuple[Process, ...]:
    """Time one bundle in several processes, one after the other.

    The inputs are sampled as in :func:`time_interleaved`.

    Args:
        opener: Function that starts a process of the bundle.
        inputs: Inputs to run, in random order.
        plan: Processes, probe kernels, seed and meter.
        progress: Progress callback, called after each process.

    Raises:
        BackendError: If a process cannot run its bundle, or the clock goes backwards.
        SamplesError: If there are no inputs.
    """
    sampler = InputSampler(inputs, plan.seed)
    probes = plan.probes
    kernels = plan.kernels
    results: list[Process] = []
    for index in range(plan.processes):
        with contextlib.ExitStack() as stack:
            # The order of the two starts alternates, as in a pair.
            probe: Worker | None = None
            probe_start_ms: float | None = None
            if index % 2:
                probe, probe_start_ms = _start_probe(stack, probes, kernels)
            process = _start_process(stack, opener, inputs[0], sampler)
            if not index % 2:
                probe, probe_start_ms = _start_probe(stack, probes, kernels)
            if probes is not None and probe is not None and not kernels:
                kernels = _fit_kernels(process.worker, probe, probes, sampler)
            result = _time_process(process, probe, kernels, sampler, plan.meter if index < _METERED_PAIRS else None)
            results.append(replace(result, probe_start_ms=probe_start_ms))
        progress("time processes", index + 1, plan.processes)
    return tuple(results)


def _next_look(looks: int, most: int) -> int:
    """Return the number of pairs of the next look: the second one is halfway from the first one to the end."""
    if looks == 0:
        return FIRST_LOOK
    if looks == 1:
        return (FIRST_LOOK + most) // 2
    return most


def _fit_kernels(worker: Worker, probe: Worker, probes: Prober, sampler: InputSampler) -> tuple[str, ...]:
    """Return the probe kernels with repeats that take about as long as a call of the bundle."""
    with worker.turn():
        call_ms = min(worker.time(sampler.next_inputs(_FIT_CALLS)))
    with probe.turn():
        return probes.fit_kernels(probe, call_ms)


def _time_process(
    process: _WarmProcess, probe: Worker | None, kernels: Sequence[str], sampler: InputSampler, meter: Meter | None
) -> Process:
    """Time blocks of one process, with the probe kernels before and after each block."""
    size = _block_size(process.call_ms)
    blocks: list[_Block] = []
    rows: list[tuple[int, ...]] = []
    probe_times: list[Mapping[str, Sequence[float]]] = []
    if probe is not None:
        probe_times.append(time_kernels(probe, kernels))
    end = time.monotonic() + max(_MEASURE_S, process.start.total_ms / 1e3)
    while len(blocks) < _MIN_BLOCKS or (len(blocks) < _MAX_BLOCKS and time.monotonic() < end):
        rows.append(sampler.next_rows(size))
        block = sampler.inputs_at(rows[-1])
        blocks.append(_time_block(process.worker, block) + _time_block(process.worker, block))
        if probe is not None:
            probe_times.append(time_kernels(probe, kernels))
    result = _finish_process(process, blocks, rows, meter, sampler.next_inputs(size))
    probes_ms: dict[str, tuple[_Block, ...]] = {}
    if probe is not None:
        for kernel in kernels:
            probes_ms[kernel] = tuple(_round_times(times[kernel]) for times in probe_times)
    return replace(result, probes_ms=probes_ms)


def _start_probe(
    stack: contextlib.ExitStack, probes: Prober | None, kernels: Sequence[str]
) -> tuple[Worker | None, float | None]:
    """Return a warm process with the probe kernels, and the milliseconds of its cold start."""
    if probes is None:
        return None, None
    worker = stack.enter_context(probes.worker())
    warm_up = tuple(kernels) or tuple(f"{name} 1" for name in PRODUCTS)
    with worker.turn():
        start = worker.start(warm_up[0])
        worker.time([kernel for kernel in warm_up for _ in range(_PROBE_WARM_UP_CALLS)])
    return worker, start.total_ms


def _time_pair(
    before: Opener, after: Opener, sampler: InputSampler, after_first: bool, first: Input, meter: Meter | None
) -> Pair:
    """Time one pair of processes. With ``after_first`` the new bundle is started and timed first."""
    openers = (after, before) if after_first else (before, after)
    with contextlib.ExitStack() as stack:
        one, two = (_start_process(stack, opener, first, sampler) for opener in openers)
        size = _block_size(max(one.call_ms, two.call_ms))
        one_blocks: list[_Block] = []
        two_blocks: list[_Block] = []
        rows: list[tuple[int, ...]] = []
        end = time.monotonic() + max(_MEASURE_S, (one.start.total_ms + two.start.total_ms) / 1e3)
        while len(rows) < _MIN_BLOCKS or (len(rows) < _MAX_BLOCKS and time.monotonic() < end):
            rows.append(sampler.next_rows(size))
            block = sampler.inputs_at(rows[-1])
            # The order is A B B A.
            one_first = _time_block(one.worker, block)
            two_first = _time_block(two.worker, block)
            two_blocks.append(two_first + _time_block(two.worker, block))
            one_blocks.append(one_first + _time_block(one.worker, block))
        energy_inputs = sampler.next_inputs(size)
        one_result = _finish_process(one, one_blocks, rows, meter, energy_inputs)
        two_result = _finish_process(two, two_blocks, rows, meter, energy_inputs)
    return (two_result, one_result) if after_first else (one_result, two_result)


def _start_process(stack: contextlib.ExitStack, opener: Opener, first: Input, sampler: InputSampler) -> _WarmProcess:
    """Start a process, time its cold start and run the warm-up."""
    worker = stack.enter_context(opener())
    times_ms: list[float] = []
    with worker.turn():
        start = worker.start(first)
        # The first request also compiles what the load deferred, which is no part of the warm-up's time.
        times_ms += worker.time(sampler.next_inputs(2))
        end = time.monotonic() + _WARM_UP_S
        while len(times_ms) < _WARM_UP_CALLS and time.monotonic() < end:
            times_ms += worker.time(sampler.next_inputs(2))
    return _WarmProcess(worker, start, times_ms[-1])


def _block_size(call_ms: float) -> int:
    """Return the number of inputs of a block."""
    return min(_MAX_BLOCK_INPUTS, max(1, int(_BLOCK_MS / call_ms)))


def _time_block(worker: Worker, block: list[Input]) -> _Block:
    """Return the latency of each input of a block in milliseconds."""
    with worker.turn():
        times_ms = worker.time([*block[:_WARMUP_AFTER_RESUME], *block])
    return _round_times(times_ms[-len(block) :])


def _round_times(times_ms: Sequence[float]) -> _Block:
    return tuple(round(t, 4) for t in times_ms)


def _finish_process(
    process: _WarmProcess,
    blocks: Sequence[_Block],
    rows: Sequence[tuple[int, ...]],
    meter: Meter | None,
    energy_inputs: Sequence[Input],
) -> Process:
    """Read the memory of a process, measure its energy where there is a meter, and return all measurements."""
    worker = process.worker
    energy_mj: float | None = None
    with worker.turn():
        memory_mb = worker.memory_mb()
        if meter is not None:
            energy_mj = _measure_energy(worker, meter, energy_inputs)
    return Process(process.start, tuple(blocks), memory_mb, energy_mj, tuple(rows))


def _measure_energy(worker: Worker, meter: Meter, inputs: Sequence[Input]) -> float | None:
    """Return the energy of one call in millijoules, or None where the meter gives no value."""

    def run_calls() -> int:
        calls = 0
        end = time.monotonic() + 1.2 * meter.least_s
        while time.monotonic() < end:
            calls += len(worker.time(inputs))
        return calls

    return energy.measure_per_answer(meter, run_calls)
