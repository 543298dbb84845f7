"""A race on record: ``race.json`` in a bundle. Its times are the one part of a build that no seed repeats, so they can be given again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.search.results import Candidate, CandidateResult, Costs, Race
from edgekit.spec.errors import UsageError
from edgekit.spec.parsing import parse, plain, to_json
from edgekit.spec.paths import takes_paths

__all__ = ["FILE", "Record", "key", "read"]

FILE = "race.json"


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
        raise UsageError(f"The record of a race {path} cannot be read ({problem}). Give the race.json of a bundle.") from problem
    return parse(Record, data, f"record {path}")


def key(candidate: Candidate) -> str:
    """Names a candidate by what it is: its graphs' bytes, and how they are run."""
    v, files = candidate.variant, candidate.bundle.manifest.files
    graphs = hashlib.sha256(repr(sorted((n, f.sha256) for n, f in files.items() if n.startswith("graphs/"))).encode()).hexdigest()[:16]
    how = f"threads {v.threads} streams {v.streams} batch {v.batch} rows {v.rows} max_tokens {v.max_tokens}"
    return f"{v.method} {v.backend} {graphs} shapes {list(v.shapes)} {how}"


def _race_key(candidates: Sequence[Candidate]) -> str:
    return hashlib.sha256("\n".join(key(c) for c in candidates).encode()).hexdigest()


def _other(what: str) -> UsageError:
    return UsageError(
        f"The record of the race does not hold {what}: it is of another model, target, sample set or version. "
        "Leave --race out to measure anew."
    )
