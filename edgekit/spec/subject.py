"""Measurements of one bundle and its machine: frozen data, the largest part of a report.

They contain no texts of samples.
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

_MEMORY_TOLERANCE = 0.02  # share of the larger value


@dataclass(frozen=True)
class Fingerprint:
    """Machine and installed software, as far as latency depends on them.

    A value is empty or 0 if the system does not report it, or there is no limit.

    Attributes:
        edgekit, python: Versions.
        system: Operating system, kernel release and architecture.
        cpu: Name of the processor.
        cpus: Number of CPUs available to the process.
        instructions: Instruction sets that determine the speed of INT8.
        memory_mb: Memory of the machine, in MiB.
        gpu: Name of the first GPU, or of the board.
        driver: Release of the GPU driver, L4T on a Jetson.
        backends: Version by name of each installed backend, and of the packages in every call: numpy and tokenizers.
        governor: CPU frequency governor.
        power_mode: Power mode (nvpmodel) of a Jetson; platform profile of other machines.
        cpu_limit: CPU limit of the cgroup, in CPUs.
        memory_limit_mb: Memory limit of the cgroup, in MiB.
        throttled: Number of throttling events of the machine or the cgroup since it started. It is not compared;
            its growth during a run is reported.
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
        """Return the differences, e.g. ``governor: powersave, then performance``; empty if latencies are comparable.

        Memory sizes within 2 % are equal, since the share of firmware and kernel varies between equal machines.
        """
        result = []
        for name in (f.name for f in fields(self) if f.name != "throttled"):
            before = getattr(self, name)
            after = getattr(other, name)
            is_equal = _is_same_memory(before, after) if name == "memory_mb" else before == after
            if not is_equal:
                result.append(f"{name.replace('_', ' ')}: {_format(before)}, then {_format(after)}")
        return result


def _is_same_memory(before: int, after: int) -> bool:
    return abs(before - after) <= _MEMORY_TOLERANCE * max(before, after)


def _format(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in sorted(value.items())) or "none"
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return str(value) or "unknown"


@dataclass(frozen=True)
class Start:
    """Duration of a cold start, from process start to the first answer.

    Attributes:
        import_ms: Start of the interpreter and import of EdgeKit, in ms.
        verify_ms: Verification of the digest of every bundle file, in ms.
        load_ms: Load of backend and graph, in ms.
        answer_ms: First answer, in ms.
        total_ms: All of this, as the parent process measures it, in ms.
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
        start: Cold start of the process.
        blocks_ms: Latency of each call from input to answer, in ms: ``[block][call]``. The first half of a block are
            its texts, the second half the same texts again. In a comparison, block i of both sides has the same texts.
        memory_mb: Peak resident memory of the process, in MiB.
        energy_mj: Energy per answer, in mJ; None if the machine does not report it.
        rows: Positions in the samples, from 0, of the texts of each block.
        probes_ms: Latency of each call of a probe kernel, in ms: ``[time][call]`` by kernel name with its number of
            repetitions. The times are before the first block and after each block; empty without probes.
        probe_start_ms: Start of the process with the probe kernels, which started beside this one, in ms; None without
            probes.
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
    """Earlier run that timed a bundle alone. The machine may be in another state in each run.

    Attributes:
        created: Time of the run in UTC, ISO 8601.
        processes: Timed processes.
    """

    created: str
    processes: tuple[Process, ...]


@dataclass(frozen=True)
class ByLength:
    """Latency of texts within a range of lengths.

    Attributes:
        low, high: Tokens of the shortest and of the longest of these texts.
        count: Number of calls.
        p50_ms: Median latency, in ms.
    """

    low: int
    high: int
    count: int
    p50_ms: float


@dataclass(frozen=True)
class Times:
    """Latency from input to answer, for one stream and batch 1.

    A percentile is None if there are too few calls to estimate it.

    Attributes:
        count: Number of calls.
        mean_ms, p50_ms, p90_ms, p99_ms: Mean and percentiles of all calls, in ms.
        needed: Number of calls that p50, p90 and p99 need (MLPerf early stopping), e.g. ``{"p99": 662}``.
        quantiles_ms: Observed 0th, 1st ... 100th percentile in ms, for plots.
        by_length: Latency by tokens of the text.
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
    """Scenario in the style of MLPerf. It is shorter than MLPerf requires, so it is not MLPerf-compliant.

    Attributes:
        name: ``SingleStream``, ``Offline`` or ``Server``.
        metric: Name of the metric, e.g. ``90th percentile, early-stopping estimate``.
        value: Value of the metric; None if it cannot be estimated.
        unit: ``ms``, ``rows/s`` or ``queries/s``.
        queries: Number of answered queries.
        detail: Sentence about the constant parameters, or about the reason for a missing value.
    """

    name: str
    metric: str
    value: float | None
    unit: str
    queries: int
    detail: str


@dataclass(frozen=True)
class Numbers:
    """An array of numbers.

    Attributes:
        dtype: Element type by its numpy name, e.g. ``float32``.
        shape: Size of each axis.
        values: All elements, the last axis fastest; integers and booleans as numbers.
    """

    dtype: str
    shape: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Predictions:
    """Outputs of a model for the samples, in the order of the file.

    Attributes:
        ids: Keyed hash of each row, in hex.
        outputs: Values of all rows, ``[rows, ...]``, by output name. If the rows differ in shape, the flat values of
            all rows one after the other, and the shape of each row under ``NAME.shapes``.
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
    """Scores under one perturbation of the texts. Descriptive, not a certificate.

    Attributes:
        name: Name of the perturbation, e.g. ``typos``.
        rows: Number of perturbed rows.
        changed: Number of these rows whose answer changes.
        clean, disturbed: Scores of the same rows without and with the perturbation.
        drop, low, high: Loss of score with the perturbation, with the ends of its 90 % interval.
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
    """Measurements of one bundle, or the predictions of a teacher.

    Attributes:
        name: Last part of the path, or ``teacher``.
        digest: Content digest of the bundle; empty for a teacher.
        format: Format version of the bundle; 0 for a teacher.
        model: Id of the model and its revision.
        task: Task name.
        identity: Plain data that two models must share to be comparable, e.g. the names of the labels.
        target, backend, method, executed: Target of the build, and the backend, method and precision that ran.
        threads: Threads per call.
        score_name: Name of ``score``.
        higher_is_better: Direction of ``score``; False for an error rate.
        score: Score on the samples; None without labels or if it is not defined.
        more_scores: Other scores of the task by name, which are reported but not gated; without undefined ones.
        truncated: Number of samples that are longer than the model accepts.
        calibration_error: Expected calibration error on the samples, 0 to 1; None if answers have no probability.
        labels: Names of the labels, in the order of ``confusion``; empty if answers are not labels.
        confusion: Number of items by true label (first axis) and answer (second axis); empty if an item can have
            several labels or none.
        size_mb: Size of the bundle on disk, in MiB; 0 for a teacher.
        energy_mj: Energy per answer, in mJ; None if the machine does not report it.
        energy_from: Source of ``energy_mj``, e.g. ``RAPL package-0``; without one, the reason.
        times: Latency over the calls of all processes; None if nothing was timed.
        start: Median cold start over the processes; None if no process was started.
        memory_mb: Median memory over the processes, in MiB; 0 if no process was started.
        processes: Timed processes.
        scenarios: Scenarios that were run.
        robustness: Scores on perturbed texts.
        slices: Scores by slice, where the bundle is described by itself.
        candidates: Candidates of the build.
        predictions: Outputs per row; None if they would quote the samples.
        settings: Runtime settings from the manifest as text, by name: the fields of the variants and the digest of
            each file. Empty for a teacher, and in reports of EdgeKit 0.1.
        path: Path of a baseline's bundle, relative to the folder of the baseline file; empty if it is not known.
        probes_ran: Backend and threads of the probe kernels, e.g. ``onnxruntime 2``; empty without probes.
        sessions: Earlier timing sessions of a baseline that was appended to, the oldest first. The last session is
            ``processes``.
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
