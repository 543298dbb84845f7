"""What was measured of one bundle, and where: frozen data, the greater part of a report.

No text of a sample is in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from edgekit.spec.manifest import Trial

__all__ = [
    "ByLength",
    "Fingerprint",
    "Numbers",
    "Perturbed",
    "Predictions",
    "Process",
    "Scenario",
    "SliceScore",
    "Start",
    "Subject",
    "Times",
    "TimingSession",
]

_MEMORY = 0.02  # of the larger


@dataclass(frozen=True)
class Fingerprint:
    """The machine and what is installed on it, as far as latency depends on it. Empty or 0: the system does not tell, or there is no limit.

    Attributes:
        edgekit, python: versions.
        system: operating system, kernel release and architecture.
        cpu: the processor's name.
        cpus: how many this process may use.
        instructions: instruction sets that decide how fast INT8 is.
        memory_mb: of the machine, MiB.
        gpu: name of the first GPU, or the board's.
        driver: release of its driver, L4T on a Jetson.
        backends: version of each backend that is installed, and of what a call spends time in beside it: numpy and tokenizers.
        governor: of the CPU's frequency.
        power_mode: of a Jetson (nvpmodel); on other machines the platform profile.
        cpu_limit: of the cgroup, in CPUs.
        memory_limit_mb: of the cgroup, MiB.
        throttled: times that the machine slowed itself down, or the cgroup was held back, since it started; not compared, its growth in a run is told.
    """

    edgekit: str
    python: str
    system: str
    cpu: str
    cpus: int
    instructions: tuple[str, ...] = ()
    memory_mb: int = 0
    gpu: str = ""
    driver: str = ""
    backends: Mapping[str, str] = field(default_factory=dict)
    governor: str = ""
    power_mode: str = ""
    cpu_limit: float = 0.0
    memory_limit_mb: int = 0
    throttled: int = 0

    def differences(self, other: Fingerprint) -> list[str]:
        """What differs, e.g. ``governor: powersave, then performance``; empty where latencies may be compared.

        Memory of nearly the same size is the same: what firmware and kernel keep for themselves varies between machines that are alike.
        """
        found = []
        for name in (f.name for f in fields(self) if f.name != "throttled"):
            own, its = getattr(self, name), getattr(other, name)
            alike = abs(own - its) <= _MEMORY * max(own, its) if name == "memory_mb" else own == its
            if not alike:
                found.append(f"{name.replace('_', ' ')}: {_said(own)}, then {_said(its)}")
        return found


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in sorted(value.items())) or "none"
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return str(value) or "not told"


@dataclass(frozen=True)
class Start:
    """A cold start, in milliseconds: from process start to the first answer.

    Attributes:
        import_ms: the interpreter's start and the import of EdgeKit.
        verify_ms: every file of the bundle against its digest.
        load_ms: backend and graph.
        answer_ms: the first answer.
        total_ms: of all that, as whoever started the process sees it.
    """

    import_ms: float
    verify_ms: float
    load_ms: float
    answer_ms: float
    total_ms: float


@dataclass(frozen=True)
class Process:
    """One process that answered texts.

    Attributes:
        start: its cold start.
        blocks_ms: milliseconds from input to answer of each call: ``[block][call]``; a block's first half are its texts, its second half the same
            texts again. In a comparison block i of both sides holds the same texts.
        memory_mb: its peak resident memory, MiB.
        energy_mj: of one answer, millijoule; None where the machine does not tell.
        rows: of the samples, from 0, that the texts of each block are.
        probes_ms: of each probe kernel (its name and how often a call repeats it), milliseconds of each call ``[time][call]``, before the first block, behind
            it, and so on behind each; empty where none ran.
        probe_start_ms: start of the process with the probe kernels, which was started beside it; None where there was none.
    """

    start: Start
    blocks_ms: tuple[tuple[float, ...], ...]
    memory_mb: float
    energy_mj: float | None = None
    rows: tuple[tuple[int, ...], ...] = ()
    probes_ms: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    probe_start_ms: float | None = None


@dataclass(frozen=True)
class TimingSession:
    """An earlier run in which a bundle was timed by itself. Runs at other times meet the machine in another state.

    Attributes:
        created: UTC, ISO 8601.
        processes: those that were timed.
    """

    created: str
    processes: tuple[Process, ...]


@dataclass(frozen=True)
class ByLength:
    """Latency of texts of a length.

    Attributes:
        low, high: tokens of the shortest and the longest of them.
        count: calls.
        p50_ms: their median.
    """

    low: int
    high: int
    count: int
    p50_ms: float


@dataclass(frozen=True)
class Times:
    """Latency from input to answer, one stream, batch 1. A percentile that the count cannot carry is None.

    Attributes:
        count: calls.
        mean_ms, p50_ms, p90_ms, p99_ms: of all calls.
        needed: calls that p50, p90 and p99 need (MLPerf early stopping), e.g. ``{"p99": 662}``.
        quantiles_ms: the 0th, 1st ... 100th percentile of what was seen, for pictures.
        by_length: by tokens of the text.
    """

    count: int
    mean_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    needed: Mapping[str, int]
    quantiles_ms: tuple[float, ...]
    by_length: tuple[ByLength, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """A scenario by MLPerf's name. MLPerf-style, not MLPerf-compliant: it is shorter than MLPerf asks.

    Attributes:
        name: ``SingleStream``, ``Offline`` or ``Server``.
        metric: e.g. ``90th percentile, early-stopping estimate``.
        value: None where it cannot be estimated.
        unit: ``ms``, ``rows/s`` or ``queries/s``.
        queries: that were answered.
        detail: a sentence: what was held constant, or why there is no value.
    """

    name: str
    metric: str
    value: float | None
    unit: str
    queries: int
    detail: str


@dataclass(frozen=True)
class Numbers:
    """An array.

    Attributes:
        dtype: numpy name, e.g. ``float32``.
        shape: extent of each axis.
        values: all of them, the last axis fastest; whole numbers and truth values as numbers.
    """

    dtype: str
    shape: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Predictions:
    """What a model answers to the samples, row by row, in the order of the file.

    Attributes:
        ids: keyed hash of each row, hex.
        outputs: name of each output to the values of all rows, ``[rows, ...]``; of rows of several shapes to all values one after the other, and under
            ``NAME.shapes`` the shape of each row.
    """

    ids: tuple[str, ...]
    outputs: Mapping[str, Numbers]


@dataclass(frozen=True)
class SliceScore:
    """Score of one bundle on the rows that share a value of a column.

    Attributes:
        column: Column of the slice.
        value: Value that its rows share.
        rows: Number of rows.
        score: Score of the task on these rows; None where it is not defined on them.
    """

    column: str
    value: str
    rows: int
    score: float | None


@dataclass(frozen=True)
class Perturbed:
    """One kind of disturbance of the texts. Descriptive, not a certificate.

    Attributes:
        name: e.g. ``typos``.
        rows: that were disturbed.
        changed: of them, answered differently than undisturbed.
        clean, disturbed: score of the same rows without and with it.
        drop, low, high: how much worse the score is with it, with its 90 % interval.
    """

    name: str
    rows: int
    changed: int
    clean: float
    disturbed: float
    drop: float
    low: float
    high: float


@dataclass(frozen=True)
class Subject:
    """One bundle (or a teacher, of which predictions are all that is known) as it was measured.

    Attributes:
        name: the last part of its path, or ``teacher``.
        digest: content digest of the bundle; empty for a teacher.
        format: format version of the bundle; 0 for a teacher.
        model: id of the model and its revision.
        task: task name.
        identity: what must be equal for two models to be compared, e.g. the names of the labels.
        target, backend, method, executed: what it was built for and what ran.
        threads: of one call.
        score_name: what ``score`` is.
        higher_is_better: False where ``score`` is an error rate.
        score: on the samples; None where they have no labels or it is not defined.
        more_scores: name to value of the task's other scores, which are reported and not gated; without those that are not defined.
        truncated: samples that are longer than the model takes.
        calibration_error: expected calibration error on the samples, 0 to 1; None where answers have no probability.
        labels: names of the labels, in the order of ``confusion``; empty where answers are no labels.
        confusion: items by truth (first) and answer (second); empty where an item has not exactly one label.
        size_mb: of the bundle on disk, MiB; 0 for a teacher.
        energy_mj: of one answer, millijoule; None where the machine does not tell.
        energy_from: who told it, e.g. ``RAPL package-0``; else why nobody does.
        times: of all processes' calls; None where nothing was timed.
        start: median over the processes; None where nothing was started.
        memory_mb: median over the processes, MiB; 0 where nothing was started.
        processes: those that were timed.
        scenarios: those that were run.
        robustness: under disturbed texts.
        slices: Scores by slice, where the bundle is described by itself.
        candidates: of its build.
        predictions: row by row; None where they would quote the samples.
        settings: what its manifest says of how it runs, as text by name: variants field by field, and the digest of each file. Empty for a teacher,
            and in reports of EdgeKit 0.1.
        path: of a baseline's bundle, relative to the folder of the baseline's file; empty where that is not known.
        probes_ran: backend and threads that ran the probe kernels, e.g. ``onnxruntime 2``; empty where there were none.
        sessions: of a baseline that was appended to, those before the last, the oldest first; the last is ``processes``.
    """

    name: str
    digest: str
    format: int
    model: str
    task: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    target: str = ""
    backend: str = ""
    method: str = ""
    executed: str = ""
    threads: int = 0
    score_name: str = ""
    higher_is_better: bool = True
    score: float | None = None
    more_scores: Mapping[str, float] = field(default_factory=dict)
    truncated: int = 0
    calibration_error: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    size_mb: float = 0.0
    energy_mj: float | None = None
    energy_from: str = ""
    times: Times | None = None
    start: Start | None = None
    memory_mb: float = 0.0
    processes: tuple[Process, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    robustness: tuple[Perturbed, ...] = ()
    slices: tuple[SliceScore, ...] = ()
    candidates: tuple[Trial, ...] = ()
    predictions: Predictions | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    probes_ran: str = ""
    sessions: tuple[TimingSession, ...] = ()
