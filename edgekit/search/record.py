"""Candidates of a search, their measured results, and the record of the measurements: ``race.json`` in a bundle.

A build is reproducible except for its times, so a build can take them from a record in place of a measurement.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.machine.busy import Busy
from edgekit.spec.agreement import Agreement
from edgekit.spec.errors import UsageError
from edgekit.spec.manifest import MAX_TOKENS, Variant
from edgekit.spec.parsing import parse, plain, to_json
from edgekit.spec.paths import takes_paths
from edgekit.spec.protocols import Arrays

if TYPE_CHECKING:
    from edgekit.bundle.trust import Bundle

__all__ = ["FILE", "Candidate", "CandidateResult", "Costs", "Race", "Record", "key", "read"]

FILE = "race.json"


@dataclass(frozen=True)
class Candidate:
    """A way to run the model, which takes part in the search.

    Attributes:
        bundle: Bundle with the graphs and assets, in a scratch folder.
        variant: Settings to run the graphs with.
        model: Name of the student that the graphs belong to. Empty for the model itself.
        sensitivity: Damage of quantizing a single layer, by layer name, if this decided which layers
            stay in float or INT8.
    """

    bundle: Bundle
    variant: Variant
    model: str = ""
    sensitivity: Mapping[str, float] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """All files of the bundle, by their path in the bundle."""
        return {name: self.bundle.path / name for name in self.bundle.manifest.files}

    def __str__(self) -> str:
        """Return a description, e.g. ``static on openvino, buckets 16/32/64, 2 thread(s)``."""
        variant = self.variant
        student = f"student {self.model}, " if self.model else ""
        parts = [f"{student}{variant.method} on {variant.backend}"]
        if variant.shapes:
            parts.append(f"buckets {'/'.join(map(str, variant.shapes))}")
        parts.append(f"{variant.threads} thread(s)")
        if variant.streams > 1:
            parts.append(f"{variant.streams} streams")
        if variant.rows == "alone":
            parts.append("rows alone")
        elif variant.batch > 1:
            parts.append(f"batch {variant.batch}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Costs:
    """Measured costs of a candidate besides its latency.

    Attributes:
        first_answer_ms: Time from process start to the first answer in ms.
        memory_mb: Peak resident memory of the process in MiB, after all rows and the largest call of a list.
        executed: Precision in which the linear layers ran.
        max_tokens: Token limit of a call, rows times padded length, by which lists are cut. It is the candidate's, or
            smaller if memory is limited.
        memory_rows: Rows of the largest call, on each stream.
        memory_tokens: Tokens of each row of the largest call.
        lists: Agreement of the outputs in lists with those of single rows. None before they were compared.
    """

    first_answer_ms: float
    memory_mb: float
    executed: str
    max_tokens: int = MAX_TOKENS
    memory_rows: int = 0
    memory_tokens: int = 0
    lists: Agreement | None = None


@dataclass(frozen=True)
class CandidateResult:
    """Measured outputs and costs of a candidate.

    Attributes:
        outputs: Outputs of each row, run one by one.
        costs: Costs besides latency.
        listed: Outputs of rows in lists.
        order: Row index of each entry of ``listed``.
        busy: Load of the machine during the measurement. None if nothing was timed.
    """

    outputs: Sequence[Arrays]
    costs: Costs
    listed: Sequence[Arrays] = ()
    order: tuple[int, ...] = ()
    busy: Busy | None = None


@dataclass(frozen=True)
class Race:
    """Raw times of candidates that ran interleaved, in the order of the candidates.

    Attributes:
        times_ms: Latency from input to answer in ms: ``[candidate][round][input]``. All candidates have the same inputs
            in a round.
        rows_per_s: Throughput of one list in rows per second: ``[candidate][round]``. Empty if it was not measured.
        busy: Load of the machine during the measurement. None in records without it.
    """

    times_ms: tuple[tuple[tuple[float, ...], ...], ...]
    rows_per_s: tuple[tuple[float, ...], ...] = field(default=())
    busy: Busy | None = None

    def noise(self) -> float:
        """Return the measurement noise of the race as a ratio, at least 1.

        The times of each candidate are divided by those of the fastest, input by input. The median of these ratios
        should be the same in the even rounds and in the odd rounds. The noise is the largest factor between the two
        medians over all candidates, so it has the same unit as the ratios that a choice compares. It is 1 for a single
        candidate or a single round.
        """
        costs: Sequence[Sequence[Sequence[float]]] = self.times_ms
        if self.rows_per_s:
            costs = [_invert_rates(rates) for rates in self.rows_per_s]
        if len(costs) < 2 or len(costs[0]) < 2:
            return 1.0
        medians = [float(np.median(np.concatenate(list(map(np.asarray, turns))))) for turns in costs]
        fastest = costs[medians.index(min(medians))]
        noise = 1.0
        for turns in costs:
            logs = [np.log(np.asarray(a) / np.asarray(b)) for a, b in zip(turns, fastest, strict=True)]
            even = np.median(np.concatenate(logs[::2]))
            odd = np.median(np.concatenate(logs[1::2]))
            noise = max(noise, float(np.exp(abs(even - odd))))
        return noise


def _invert_rates(rates: Sequence[float]) -> list[list[float]]:
    """Return seconds per row in the form of times, ``[round][1]``, for rows per second: ``[round]``."""
    return [[1.0 / rate] for rate in rates]


@dataclass(frozen=True)
class Record:
    """All results of a build that depend on the clock or the system.

    Attributes:
        machine: Name of the CPU that measured.
        costs: Costs by candidate key, see :func:`key`.
        races: Races by the digest of the candidates that took part.
        plans: Pruning plans by the digest of their inputs, as JSON of ``compress/prune.py``.
    """

    machine: str
    costs: dict[str, Costs] = field(default_factory=dict)
    races: dict[str, Race] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)

    def add_costs(self, candidate: Candidate, result: CandidateResult) -> None:
        """Record the costs of a candidate, unless they are recorded: the first measurement is on the evaluation set."""
        self.costs.setdefault(key(candidate), result.costs)

    def with_costs(self, candidate: Candidate, result: CandidateResult) -> CandidateResult:
        """Return a result with the same outputs and the recorded costs.

        Raises:
            UsageError: The record does not contain the candidate.
        """
        costs = self.costs.get(key(candidate))
        if costs is None:
            raise _missing_error(f"the candidate '{candidate}'")
        return replace(result, costs=costs)

    def add_race(self, candidates: Sequence[Candidate], race: Race) -> None:
        """Record the times of a race."""
        self.races[_race_key(candidates)] = race

    def race(self, candidates: Sequence[Candidate]) -> Race:
        """Return the recorded times of these candidates.

        Raises:
            UsageError: The record does not contain a race of these candidates.
        """
        race = self.races.get(_race_key(candidates))
        if race is None:
            raise _missing_error(f"a race of these {len(candidates)} candidates")
        return race

    def text(self) -> str:
        """Return the record as JSON text."""
        return to_json(plain(self), sort_keys=True) + "\n"


@takes_paths("path")
def read(path: str | Path) -> Record:
    """Read a ``race.json``.

    Raises:
        UsageError: The file is missing, or is not a race record.
    """
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UsageError(
            f"The race record {path} cannot be read ({problem}). Pass the race.json of a bundle.",
            code="race-record-unreadable",
        ) from problem
    return parse(Record, data, f"record {path}")


def key(candidate: Candidate) -> str:
    """Return the key of a candidate: a digest of its graph files, and the settings they run with."""
    variant = candidate.variant
    files = candidate.bundle.manifest.files
    digests = sorted((name, file.sha256) for name, file in files.items() if name.startswith("graphs/"))
    graphs = hashlib.sha256(repr(digests).encode()).hexdigest()[:16]
    return (
        f"{variant.method} {variant.backend} {graphs} shapes {list(variant.shapes)} threads {variant.threads} "
        f"streams {variant.streams} batch {variant.batch} rows {variant.rows} max_tokens {variant.max_tokens}"
    )


def _race_key(candidates: Sequence[Candidate]) -> str:
    return hashlib.sha256("\n".join(key(c) for c in candidates).encode()).hexdigest()


def _missing_error(missing: str) -> UsageError:
    return UsageError(
        f"The race record does not contain {missing}. It comes from another model, target, sample set or version. "
        "Omit --race to measure again.",
        code="race-record-other",
    )
