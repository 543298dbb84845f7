"""Gates of a check: margins over a baseline, and limits of the bundle itself. Users write them as TOML."""

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

# A drop of 1.0 can never be exceeded, and a growth by 1000 % is most likely a percentage in place of a share.
_UPPER_BOUNDS = {"accuracy": 1.0, "latency": 10.0, "footprint": 10.0}


@dataclass(frozen=True)
class LatencyGates:
    """Largest allowed growth over the baseline, as a share (0.05 is 5 %). None is measured but not gated.

    Attributes:
        p50: Growth of the median latency from input to answer.
        p90: Growth of the 90th percentile.
        p99: Growth of the 99th percentile. Off by default: it needs 662 calls, and a few bursts of load on a shared
            machine decide it.
    """

    p50: float | None = 0.05
    p90: float | None = 0.10
    p99: float | None = None


@dataclass(frozen=True)
class AccuracyGates:
    """Largest allowed losses against the baseline. None is measured but not gated.

    Attributes:
        drop: Loss of the task's score in its unit: the margin of a non-inferiority test (0.01 is one point of
            accuracy).
        flips: Share of rows with another answer.
        calibration_error: Growth of the expected calibration error (0.02 is two points).
        slice_drop: Loss of score in each slice, like ``drop``.
        error: Growth of the mean absolute error of numbers, in standard deviations of the labels.
        recall_drop: Loss of recall of each label, if the most frequent label has at least twice the rows of the
            rarest.
    """

    drop: float | None = 0.01
    flips: float | None = None
    calibration_error: float | None = None
    slice_drop: float | None = None
    error: float | None = 0.02
    recall_drop: float | None = 0.05


@dataclass(frozen=True)
class FootprintGates:
    """Largest allowed growth over the baseline, as a share. None is measured but not gated.

    Attributes:
        first_answer: Growth of the time from process start to the first answer.
        memory: Growth of the peak resident memory of the predicting process.
        size: Growth of the size of the bundle on disk.
        energy: Growth of the energy per answer, if the machine reports it.
    """

    first_answer: float | None = 0.25
    memory: float | None = 0.10
    size: float | None = 0.10
    energy: float | None = None


@dataclass(frozen=True)
class Gates:
    """All gates of a check.

    Attributes:
        latency, accuracy, footprint: Gates against the baseline.
        budget: Limits of the bundle itself, compared with the point estimates.
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
"""Gates that are all off."""


@takes_paths("path")
def read(path: str | Path) -> Gates:
    """Read ``gates.toml``.

    Raises:
        UsageError: If the file is missing or not TOML, a key is unknown, or a margin is not a number of at least 0.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        tables = ", ".join(f.name for f in fields(Gates))
        raise UsageError(
            f"Gates {file} {what}, expected a TOML file with tables {tables}. Correct the path.",
            code="gates-not-found",
        )
    return parse_gates(read_toml(file), f"gates {file.name}")


def parse_gates(data: Mapping[str, object], where: str) -> Gates:
    """Return the gates of plain data. ``"off"`` turns a gate off, since TOML has no null.

    Args:
        data: Tables by name.
        where: Name of the file, for messages.

    Raises:
        UsageError: If a key is unknown, or a margin is not a number of at least 0; with the key.
    """
    tables: dict[str, object] = {}
    for name, table in data.items():
        if isinstance(table, Mapping):
            tables[name] = {key: _parse_off(value) for key, value in table.items()}
        else:
            tables[name] = table
    gates = parse(Gates, tables, where)
    for table_field in fields(gates):
        upper = _UPPER_BOUNDS.get(table_field.name, math.inf)
        for key, value in vars(getattr(gates, table_field.name)).items():
            if value is not None and not 0 <= value < upper:
                raise UsageError(
                    f"{where}: {table_field.name}: {key} is {value:g}, expected {_expected(upper)}. {_hint(value)}",
                    code="gates-value",
                )
    return gates


def _parse_off(value: object) -> object:
    """Return None for ``"off"``, any other value unchanged."""
    return None if value == "off" else value


def _expected(upper: float) -> str:
    if upper == math.inf:
        return "a number of at least 0"
    return f'a number from 0 to below {upper:g}, or "off" for no gate'


def _hint(value: float) -> str:
    if value > 0:
        return f"Write 0.05 for 5 %: {value:g} is {value:.0%}."
    return "Correct it."
