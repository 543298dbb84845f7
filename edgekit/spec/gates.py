"""What a check holds a bundle to: margins over a baseline, and limits of its own. People write it as TOML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from edgekit.spec.errors import UsageError
from edgekit.spec.parsing import parse
from edgekit.spec.paths import takes_paths
from edgekit.spec.target import Budget, read_toml

__all__ = ["OFF", "AccuracyGates", "FootprintGates", "Gates", "LatencyGates", "parse_gates", "read"]

# A drop of all there is can never be exceeded, and a growth by 1000 % is a percentage that was meant as a share.
_BELOW = {"accuracy": 1.0, "latency": 10.0, "footprint": 10.0}


@dataclass(frozen=True)
class LatencyGates:
    """Largest growth over the baseline that is allowed, as a share of it: 0.05 is 5 %. None: measured, not gated.

    Attributes:
        p50: of the median time from input to answer.
        p90: of its 90th percentile.
        p99: of its 99th percentile. Not gated unless asked for: it takes 662 calls, and a few bursts of a shared machine decide it.
    """

    p50: float | None = 0.05
    p90: float | None = 0.10
    p99: float | None = None


@dataclass(frozen=True)
class AccuracyGates:
    """Largest losses against the baseline that are allowed. None: measured, not gated.

    Attributes:
        drop: of the task's score, in its unit: the margin of a non-inferiority test (0.01 is one point of accuracy).
        flips: rows that are answered differently, as a share of all.
        calibration_error: growth of the expected calibration error, 0.02 is two points.
        slice_drop: as ``drop``, in each slice.
        error: growth of the mean absolute error of numbers, in standard deviations of the labels.
        recall_drop: of the recall of a label, where the most frequent label has at least twice the rows of the rarest.
    """

    drop: float | None = 0.01
    flips: float | None = None
    calibration_error: float | None = None
    slice_drop: float | None = None
    error: float | None = 0.02
    recall_drop: float | None = 0.05


@dataclass(frozen=True)
class FootprintGates:
    """Largest growth over the baseline that is allowed, as a share of it. None: measured, not gated.

    Attributes:
        first_answer: time from process start to the first label.
        memory: peak resident memory of the predicting process.
        size: of the bundle on disk.
        energy: of one answer, where the machine tells it.
    """

    first_answer: float | None = 0.25
    memory: float | None = 0.10
    size: float | None = 0.10
    energy: float | None = None


@dataclass(frozen=True)
class Gates:
    """All gates of a check.

    Attributes:
        latency, accuracy, footprint: against the baseline.
        budget: limits of the bundle by itself; the point estimate is held to them.
    """

    latency: LatencyGates = field(default_factory=LatencyGates)
    accuracy: AccuracyGates = field(default_factory=AccuracyGates)
    footprint: FootprintGates = field(default_factory=FootprintGates)
    budget: Budget = field(default_factory=Budget)


OFF = Gates(
    LatencyGates(None, None, None),
    AccuracyGates(None, error=None, recall_drop=None),
    FootprintGates(None, None, None, None),
)
"""No gate at all."""


@takes_paths("path")
def read(path: str | Path) -> Gates:
    """Reads ``gates.toml``.

    Raises:
        UsageError: when it is missing, not TOML, has an unknown key, or a margin that is no number of at least 0.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UsageError(
            f"Gates {file} {what}, expected a TOML file with tables {', '.join(f.name for f in fields(Gates))}. Correct the path.",
            code="gates-not-found",
        )
    return parse_gates(read_toml(file), f"gates {file.name}")


def parse_gates(data: Mapping[str, object], where: str) -> Gates:
    """Gates of plain data; ``"off"`` in place of a margin is no gate, since TOML has no null.

    Raises:
        UsageError: for an unknown key, or a margin that is no number of at least 0; naming the key.
    """
    opened = {
        k: {n: None if v == "off" else v for n, v in t.items()} if isinstance(t, Mapping) else t
        for k, t in data.items()
    }
    gates = parse(Gates, opened, where)
    for table in fields(gates):
        for key, value in vars(getattr(gates, table.name)).items():
            below = _BELOW.get(table.name, math.inf)
            if value is not None and not 0 <= value < below:
                expected = (
                    "a number of at least 0"
                    if below == math.inf
                    else f'a number from 0 to below {below:g}, or "off" for no gate'
                )
                hint = f"Write 0.05 for 5 %: {value:g} is {value:.0%}." if value > 0 else "Correct it."
                raise UsageError(
                    f"{where}: {table.name}: {key} is {value:g}, expected {expected}. {hint}", code="gates-value"
                )
    return gates
