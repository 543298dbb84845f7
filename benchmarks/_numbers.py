"""Numbers of the benchmarks: states of the machine, ratios by round with intervals, exponents, tables. No measuring,
no files."""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RESAMPLES = 2000
LEVEL = 0.95
FEWEST_ROUNDS = 3
"""Rounds that a median needs."""
_APART = 1.4
"""Smallest quotient of the latencies of two states."""


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval.

    Attributes:
        value: Estimate.
        low, high: Ends of the 95 % interval.
        count: Rounds behind it.
    """

    value: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 3) -> str:
        """Return the number with its interval."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def split_states(probes_us: Sequence[float]) -> list[str]:
    """Return the state of each round: ``near`` or ``far``, by how long two CPUs take for a round trip.

    The logarithms are cut where the sum of squares within the two parts is least (Otsu's threshold). All rounds are
    ``one`` state where the medians of the parts are closer than a factor of 1.4, or a probe is not a number.
    """
    if len(probes_us) < 2 or not all(math.isfinite(p) and p > 0 for p in probes_us):
        return ["one"] * len(probes_us)
    ordered = sorted(math.log(p) for p in probes_us)
    cut = min(range(1, len(ordered)), key=lambda i: _squares(ordered[:i]) + _squares(ordered[i:]))
    low = statistics.median(ordered[:cut])
    high = statistics.median(ordered[cut:])
    if high - low < math.log(_APART):
        return ["one"] * len(probes_us)
    limit = (ordered[cut - 1] + ordered[cut]) / 2
    return ["near" if math.log(p) < limit else "far" for p in probes_us]


def _squares(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values)


def ratio(side: Sequence[Sequence[float]], base: Sequence[Sequence[float]], seed: int = 0) -> Estimate | None:
    """Return the median over rounds of the quotient of two sides' total times, with a bootstrap interval over rounds.

    Args:
        side: Times of each round.
        base: Times of the same rounds on the other side.
        seed: Random seed for the resampling.

    Returns:
        The estimate; None with fewer than three rounds.
    """
    quotients = [sum(a) / sum(b) for a, b in zip(side, base, strict=True)]
    return median(quotients, seed)


def median(values: Sequence[float], seed: int = 0) -> Estimate | None:
    """Return the median of values with a bootstrap interval; None with fewer than three values."""
    if len(values) < FEWEST_ROUNDS:
        return None
    choose = random.Random(seed)
    drawn = [statistics.median(choose.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return Estimate(statistics.median(values), *_interval(drawn), len(values))


def mixed_over_single(
    mixed: Sequence[Sequence[tuple[int, float]]], single: Sequence[Sequence[tuple[int, float]]], seed: int = 0
) -> Estimate | None:
    """Return the time of a mixed stream over the length-weighted mean of the times at each length alone.

    Every input of the mixed stream counts once, against the mean time of its length in the other stream. Lengths that
    the other stream lacks do not count.

    Args:
        mixed: Length and milliseconds of each input, by round, in the order of a user.
        single: The same for rounds of one length each.
        seed: Random seed for the resampling of rounds.
    """
    if len(mixed) < FEWEST_ROUNDS or len(single) < FEWEST_ROUNDS:
        return None
    value = _mixed_quotient(mixed, single)
    if value is None:
        return None
    choose = random.Random(seed)
    drawn = []
    for _ in range(RESAMPLES // 4):
        quotient = _mixed_quotient(choose.choices(mixed, k=len(mixed)), choose.choices(single, k=len(single)))
        if quotient is not None:
            drawn.append(quotient)
    return Estimate(value, *_interval(drawn), len(mixed))


def _mixed_quotient(
    mixed: Sequence[Sequence[tuple[int, float]]], single: Sequence[Sequence[tuple[int, float]]]
) -> float | None:
    by_length: dict[int, list[float]] = defaultdict(list)
    for one in single:
        for length, ms in one:
            by_length[length].append(ms)
    expected = total = 0.0
    for one in mixed:
        for length, ms in one:
            if length in by_length:
                total += ms
                expected += statistics.fmean(by_length[length])
    return total / expected if expected else None


def _interval(drawn: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(drawn)
    tail = (1 - LEVEL) / 2
    last = len(ordered) - 1
    return ordered[int(tail * last)], ordered[math.ceil((1 - tail) * last)]


@dataclass(frozen=True)
class Fit:
    """A power law ``y = a * x ** exponent``, fitted in logarithms by least squares.

    Attributes:
        exponent: Slope.
        low, high: Ends of the 95 % interval of the slope (Student's t); infinite with two points.
        points: Number of points.
    """

    exponent: float
    low: float
    high: float
    points: int

    def text(self) -> str:
        """Return the slope with its interval."""
        return f"{self.exponent:.2f} ({self.low:.2f} to {self.high:.2f})"


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> Fit | None:
    """Return the exponent of growth; None with fewer than two different sizes.

    Raises:
        ValueError: If a size or value is not positive, or there is not one value for each size.
    """
    if len(sizes) != len(values) or any(v <= 0 for v in (*sizes, *values)):
        raise ValueError("expected one positive value for each positive size")
    if len(set(sizes)) < 2:
        return None
    x = [math.log(s) for s in sizes]
    y = [math.log(v) for v in values]
    slope, start = statistics.linear_regression(x, y)
    free = len(x) - 2
    if not free:
        return Fit(slope, -math.inf, math.inf, 2)
    from scipy.stats import t as student

    rest = sum((b - start - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    error = math.sqrt(rest / free / _squares(x))
    half = float(student.ppf(0.5 + LEVEL / 2, free)) * error
    return Fit(slope, slope - half, slope + half, len(x))


def verdict(value: float | None, limit: float, *, at_least: bool = False) -> str:
    """Return ``held``, ``not held`` or ``not measured`` for a limit."""
    if value is None:
        return "not measured"
    return "held" if (value >= limit if at_least else value <= limit) else "not held"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], numbers: int = 1) -> list[str]:
    """Return a Markdown table; columns from the ``numbers``-th on are aligned to the right."""
    line = ["---"] * numbers + ["---:"] * (len(header) - numbers)
    return [f"| {' | '.join(map(str, cells))} |" for cells in (header, line, *rows)]


def states_of(rounds: Sequence[Mapping[str, object]]) -> dict[str, list[int]]:
    """Return the indices of the rounds of each state; ``all`` has every round, unless there is one state."""
    states = split_states([float(one["probe_us"]) for one in rounds])  # type: ignore[arg-type]
    parts: dict[str, list[int]] = defaultdict(list)
    for index, state in enumerate(states):
        parts[state].append(index)
    return dict(parts) if len(parts) == 1 else {"all": list(range(len(rounds))), **parts}
