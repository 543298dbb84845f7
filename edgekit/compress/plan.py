"""Which heads and neurons go: the least damage for the time that is to be saved, by what was measured on the backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.compress._fisher import Importance
from edgekit.source import Source

__all__ = ["Latency", "Picks", "Table", "choose", "most", "points", "step"]

_UNITS = 1000  # that the time to be saved is counted in
_STEP = 64  # neurons: whole tiles of the INT8 kernels
_FEWEST_STEPS = 8

Picks = list[tuple[list[int], list[int]]]
"""Heads and neurons that stay, ascending, layer by layer."""


@dataclass(frozen=True)
class Latency:
    """A clock: how long models take on the target's backend.

    Attributes:
        measure: the p50 of each of some models, as a share of the first one's, all in one race.
        about: what else the times depend on: target, tools, machine, texts. Plain data.
        known: plans on record, which are taken in place of measured ones; None to measure.
        used: gets each plan that was taken, for a record.
    """

    measure: Callable[[Sequence[Source]], Sequence[float]]
    about: Mapping[str, object]
    known: Mapping[str, str] | None = None
    used: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """What one stored layer costs, as a share of the whole model's time up to a constant, by what is left in it.

    Attributes:
        heads: number of heads to cost.
        neurons: number of neurons to cost.
    """

    heads: Mapping[int, float]
    neurons: Mapping[int, float]

    def saved(self, part: int, before: int, after: int) -> float:
        """By fewer heads (part 0) or neurons (part 1); between two measured points in a line."""
        table = (self.heads, self.neurons)[part]
        points = sorted(table)
        costs = np.maximum.accumulate([table[p] for p in points])  # a point that noise put below a smaller one
        return float(np.interp(before, points, costs) - np.interp(after, points, costs))


def step(neurons: int) -> int:
    """Neurons go in multiples of this."""
    return _STEP if neurons >= _STEP * _FEWEST_STEPS else max(1, neurons // _FEWEST_STEPS)


def points(heads: int, neurons: int) -> tuple[list[int], list[int]]:
    """Numbers of heads and of neurons at which a model is timed, fewer than all."""
    size = step(neurons)
    some = {max(1, round(heads * share)) for share in (0.0, 1 / 3, 2 / 3)} - {heads}
    many = {max(size, round(neurons * share / size) * size) for share in (0.0, 0.25, 0.5, 0.75)} - {neurons}
    return sorted(some), sorted(n for n in many if n < neurons)


def most(importance: Sequence[Importance], table: Table) -> float:
    """The share of the model's time that goes when each layer keeps a head and a step of neurons alone."""
    return sum(_options(part, index, table)[-1][1] for layer in importance for index, part in enumerate(layer))


def choose(importance: Sequence[Importance], table: Table, save: float) -> Picks:
    """The heads and neurons that stay when at least ``save`` of the model's time is to go, with the least importance lost.

    Within a layer the least important go first, so what is open is how many of each: a knapsack over layers, solved by dynamic programming.
    Every layer keeps a head and a step of neurons.

    Args:
        importance: layer by layer.
        table: what layers cost.
        save: share of the whole model's time; at most what :func:`most` says.
    """
    parts = [(i, part) for i, layer in enumerate(importance) for part in range(2) if len(layer[part])]
    options = [_options(importance[i][part], part, table) for i, part in parts]
    unit = save / _UNITS
    least = np.full(_UNITS + 1, np.inf)
    least[0] = 0.0
    taken = np.zeros((len(options), _UNITS + 1), np.int64)
    for place, some in enumerate(options):
        best = np.full(_UNITS + 1, np.inf)
        for index, (_, gain, damage) in enumerate(some):
            # What saves at least so many units; more than is asked for counts as what is asked for.
            reach = np.maximum(np.arange(_UNITS + 1) - int(gain / unit + 1e-9), 0)
            offered = least[reach] + damage
            better = offered < best
            best[better], taken[place, better] = offered[better], index
        least = best
    if not np.isfinite(least[_UNITS]):  # units are rounded down, so the very most may fall short by a hair
        counts = [o[-1][0] for o in options]
    else:
        counts, left = [], _UNITS
        for place in reversed(range(len(options))):
            count, gain, _ = options[place][taken[place, left]]
            counts.append(count)
            left = max(left - int(gain / unit + 1e-9), 0)
        counts.reverse()
    made: Picks = [([], []) for _ in importance]
    for (i, part), count in zip(parts, counts, strict=True):
        most_important = np.argsort(-importance[i][part], kind="stable")[:count]
        made[i][part].extend(sorted(int(n) for n in most_important))
    return made


def _options(values: np.ndarray, part: int, table: Table) -> list[tuple[int, float, float]]:
    """How many may stay, what that saves, and the importance that goes with the others; from all to the fewest."""
    total, size = len(values), step(len(values)) if part else 1
    counts = [total, *(n for n in range((total - 1) // size * size, 0, -size))]
    ordered = np.concatenate([[0.0], np.cumsum(np.sort(values))])
    return [(n, table.saved(part, total, n), float(ordered[total - n])) for n in counts]
