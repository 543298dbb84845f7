"""Ways to run a model that compete, what was measured of each, and the record of it: ``race.json`` in a bundle.

Times are the one part of a build that no seed repeats, so they can be given again.
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
    """A way to run the model that may win.

    Attributes:
        bundle: its graphs and assets, in a scratch folder.
        variant: how they are run.
        model: name of the student whose graphs they are; empty for the model itself.
        sensitivity: layer to the damage that quantizing it alone does, where layers were taken back to float by that.
    """

    bundle: Bundle
    variant: Variant
    model: str = ""
    sensitivity: Mapping[str, float] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """Place in the bundle to file, of all of its files."""
        return {name: self.bundle.path / name for name in self.bundle.manifest.files}

    def __str__(self) -> str:
        """E.g. ``static on openvino, buckets 16/32/64``."""
        v = self.variant
        shapes = f", buckets {'/'.join(map(str, v.shapes))}" if v.shapes else ""
        streams = f", {v.streams} streams" if v.streams > 1 else ""
        student = f"student {self.model}, " if self.model else ""
        rows = ", rows alone" if v.rows == "alone" else f", batch {v.batch}" if v.batch > 1 else ""
        return f"{student}{v.method} on {v.backend}{shapes}, {v.threads} thread(s){streams}{rows}"


@dataclass(frozen=True)
class Costs:
    """What a candidate took beside time for its inputs, and what of its lists a choice rests on.

    Attributes:
        first_answer_ms: process start to the first answer.
        memory_mb: peak resident memory of the predicting process after all rows and the largest call that a list is cut into, MiB.
        executed: what the linear layers ran in.
        max_tokens: rows times padded length that a list is to be cut by: the candidate's, or less where memory is limited.
        memory_rows, memory_tokens: rows of that largest call on each stream, and tokens of each.
        lists: how far answers in lists are from those to rows alone; None before they were compared.
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
    """What a candidate answers and costs.

    Attributes:
        outputs: one entry a row, run one at a time.
        costs: what it took.
        listed: outputs in lists.
        order: row that each entry of ``listed`` is of.
        busy: what else the machine did meanwhile; None where nothing was timed.
    """

    outputs: Sequence[Arrays]
    costs: Costs
    listed: Sequence[Arrays] = ()
    order: tuple[int, ...] = ()
    busy: Busy | None = None


@dataclass(frozen=True)
class Race:
    """Raw times, candidate by candidate, in the order that they were given.

    Attributes:
        times_ms: milliseconds from input to answer: ``[candidate][round][input]``, the same inputs in a round for all.
        rows_per_s: rows of one list per second: ``[candidate][round]``; empty where throughput was not asked for.
        busy: what else the machine did meanwhile; None on records that do not say.
    """

    times_ms: tuple[tuple[tuple[float, ...], ...], ...]
    rows_per_s: tuple[tuple[float, ...], ...] = field(default=())
    busy: Busy | None = None

    def noise(self) -> float:
        """How far two halves of the race, between which nothing differs, are apart: at least 1.

        Each candidate's time is taken over that of the fastest, input by input, in the odd rounds and in the even ones: a ratio of the two that is not 1 is
        noise of the very kind that a choice between candidates rests on. The largest of all candidates; 1 for one candidate or one round.
        """
        costs = [[[1.0 / rate] for rate in rates] for rates in self.rows_per_s] if self.rows_per_s else self.times_ms
        if len(costs) < 2 or len(costs[0]) < 2:
            return 1.0
        first = min(
            range(len(costs)), key=lambda i: float(np.median(np.concatenate([np.asarray(turn) for turn in costs[i]])))
        )
        apart = [1.0]
        for index in range(len(costs)):
            logs = [np.log(np.asarray(a) / np.asarray(b)) for a, b in zip(costs[index], costs[first], strict=True)]
            apart.append(
                float(np.exp(abs(np.median(np.concatenate(logs[::2])) - np.median(np.concatenate(logs[1::2])))))
            )
        return max(apart)


@dataclass(frozen=True)
class Record:
    """Everything of a build's races that came from a clock or from the system.

    Attributes:
        machine: where it ran.
        costs: by candidate, see :func:`key`.
        races: by the candidates that took part.
        plans: how models were pruned, by what they were pruned from: JSON of ``compress/prune.py``.
    """

    machine: str
    costs: dict[str, Costs] = field(default_factory=dict)
    races: dict[str, Race] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)

    def add_costs(self, candidate: Candidate, result: CandidateResult) -> None:
        """Notes what a candidate took; the first time counts, which is that of the evaluation set."""
        self.costs.setdefault(key(candidate), result.costs)

    def with_costs(self, candidate: Candidate, result: CandidateResult) -> CandidateResult:
        """The same answers with the costs on record.

        Raises:
            UsageError: when the record does not have the candidate.
        """
        found = self.costs.get(key(candidate))
        if found is None:
            raise _other(f"the candidate '{candidate}'")
        return replace(result, costs=found)

    def add_race(self, candidates: Sequence[Candidate], race: Race) -> None:
        """Notes the times of a race."""
        self.races[_race_key(candidates)] = race

    def race(self, candidates: Sequence[Candidate]) -> Race:
        """The times on record.

        Raises:
            UsageError: when these candidates did not race.
        """
        found = self.races.get(_race_key(candidates))
        if found is None:
            raise _other(f"a race of these {len(candidates)} candidates")
        return found

    def text(self) -> str:
        """As JSON."""
        return to_json(plain(self), sort_keys=True) + "\n"


@takes_paths("path")
def read(path: str | Path) -> Record:
    """Reads a ``race.json``.

    Raises:
        UsageError: when the file is missing or not such a record.
    """
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UsageError(
            f"The record of a race {path} cannot be read ({problem}). Give the race.json of a bundle.",
            code="race-record-unreadable",
        ) from problem
    return parse(Record, data, f"record {path}")


def key(candidate: Candidate) -> str:
    """Names a candidate by what it is: its graphs' bytes, and how they are run."""
    v, files = candidate.variant, candidate.bundle.manifest.files
    graphs = hashlib.sha256(
        repr(sorted((n, f.sha256) for n, f in files.items() if n.startswith("graphs/"))).encode()
    ).hexdigest()[:16]
    how = f"threads {v.threads} streams {v.streams} batch {v.batch} rows {v.rows} max_tokens {v.max_tokens}"
    return f"{v.method} {v.backend} {graphs} shapes {list(v.shapes)} {how}"


def _race_key(candidates: Sequence[Candidate]) -> str:
    return hashlib.sha256("\n".join(key(c) for c in candidates).encode()).hexdigest()


def _other(what: str) -> UsageError:
    return UsageError(
        f"The record of the race does not hold {what}: it is of another model, target, sample set or version. "
        "Leave --race out to measure anew.",
        code="race-record-other",
    )
