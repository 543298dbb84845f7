"""Choice of the heads and neurons to remove: the least importance lost for a given saving of measured time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.compress._fisher import Importance
from edgekit.source import Source

__all__ = ["Latency", "Picks", "Table", "choose", "counts_to_measure", "largest_saving", "neuron_step"]

_UNITS = 1000  # Resolution of the dynamic program: the time to save, in units.
_STEP = 64  # Neurons per step: whole tiles of the INT8 kernels.
_FEWEST_STEPS = 8  # Smallest number of steps of a layer; a small layer has smaller steps.

Picks = list[tuple[list[int], list[int]]]
"""Indices of the heads and of the neurons to keep, ascending, one pair per stored layer."""


@dataclass(frozen=True)
class Latency:
    """Measurement of latencies on the target's backend.

    Attributes:
        measure: Function that times models in one race and returns the p50 of each as a fraction of the first model's.
        about: Everything else that the times depend on (target, tools, machine, texts): plain data.
        known: Recorded plans, as JSON by key, to use instead of measured ones; None to measure.
        used: Plans that were used, as JSON by key; the caller records them.
    """

    measure: Callable[[Sequence[Source]], Sequence[float]]
    about: Mapping[str, object]
    known: Mapping[str, str] | None = None
    used: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Cost of one stored layer by the number of its units.

    A cost is a fraction of the time of the whole model, up to an additive constant.

    Attributes:
        heads: Cost by number of heads.
        neurons: Cost by number of neurons.
    """

    heads: Mapping[int, float]
    neurons: Mapping[int, float]

    def saved(self, part: int, before: int, after: int) -> float:
        """Return the fraction of time that fewer units save, interpolated linearly between measured numbers.

        Args:
            part: Kind of the units: 0 for heads, 1 for neurons.
            before: Number of units before.
            after: Number of units after.
        """
        table = (self.heads, self.neurons)[part]
        counts = sorted(table)
        # By noise, a larger number of units can measure as faster than a smaller one.
        costs = np.maximum.accumulate([table[count] for count in counts])
        return float(np.interp(before, counts, costs) - np.interp(after, counts, costs))


def neuron_step(neurons: int) -> int:
    """Return the number of neurons per step; neurons are removed in whole steps."""
    return _STEP if neurons >= _STEP * _FEWEST_STEPS else max(1, neurons // _FEWEST_STEPS)


def counts_to_measure(heads: int, neurons: int) -> tuple[list[int], list[int]]:
    """Return the numbers of heads and the numbers of neurons at which a model is timed, all below the full number.

    Args:
        heads: Full number of heads.
        neurons: Full number of neurons.
    """
    size = neuron_step(neurons)
    head_counts = {max(1, round(heads * fraction)) for fraction in (0.0, 1 / 3, 2 / 3)}
    neuron_counts = {max(size, round(neurons * fraction / size) * size) for fraction in (0.0, 0.25, 0.5, 0.75)}
    return sorted(head_counts - {heads}), sorted(count for count in neuron_counts if count < neurons)


def largest_saving(importance: Sequence[Importance], table: Table) -> float:
    """Return the largest fraction of time that can be saved, with one head and one step of neurons in each layer.

    Args:
        importance: Importance of the units, layer by layer.
        table: Cost of a layer.
    """
    return sum(_options(part, index, table)[-1][1] for layer in importance for index, part in enumerate(layer))


def choose(importance: Sequence[Importance], table: Table, save: float) -> Picks:
    """Choose the heads and neurons to keep: at least ``save`` of the time saved, the least importance lost.

    Within a layer, the least important units are removed first, so only their number is open. That is a knapsack
    problem over the layers, solved by dynamic programming. Every layer keeps at least one head and one step of neurons.

    Args:
        importance: Importance of the units, layer by layer.
        table: Cost of a layer.
        save: Fraction of the whole model's time to save, at most that of :func:`largest_saving`.
    """
    parts = [(i, part) for i, layer in enumerate(importance) for part in range(2) if len(layer[part])]
    options = [_options(importance[i][part], part, table) for i, part in parts]
    unit = save / _UNITS
    least_loss = np.full(_UNITS + 1, np.inf)  # Smallest importance lost, by units of time saved.
    least_loss[0] = 0.0
    chosen = np.zeros((len(options), _UNITS + 1), np.int64)  # Option of each part, by units of time saved.
    for place, part_options in enumerate(options):
        best = np.full(_UNITS + 1, np.inf)
        for index, (_, gain, loss) in enumerate(part_options):
            # An option covers any smaller saving too, so savings beyond the target count as the target.
            before = np.maximum(np.arange(_UNITS + 1) - int(gain / unit + 1e-9), 0)
            candidate = least_loss[before] + loss
            is_better = candidate < best
            best[is_better] = candidate[is_better]
            chosen[place, is_better] = index
        least_loss = best
    counts = []
    if not np.isfinite(least_loss[_UNITS]):
        # Units are rounded down, so even the largest saving may be just below the target.
        counts = [part_options[-1][0] for part_options in options]
    else:
        units_left = _UNITS
        for place in reversed(range(len(options))):
            count, gain, _ = options[place][chosen[place, units_left]]
            counts.append(count)
            units_left = max(units_left - int(gain / unit + 1e-9), 0)
        counts.reverse()
    picks: Picks = [([], []) for _ in importance]
    for (i, part), count in zip(parts, counts, strict=True):
        most_important = np.argsort(-importance[i][part], kind="stable")[:count]
        picks[i][part].extend(sorted(int(n) for n in most_important))
    return picks


def _options(values: np.ndarray, part: int, table: Table) -> list[tuple[int, float, float]]:
    """Return the possible numbers of units of one part of a layer, from all units to the fewest.

    Args:
        values: Importance of each unit: float64 ``[units]``.
        part: Kind of the units: 0 for heads, 1 for neurons.
        table: Cost of a layer.

    Returns:
        Number of units kept, fraction of time saved and importance lost, for each option.
    """
    total = len(values)
    size = neuron_step(total) if part else 1
    counts = [total, *(n for n in range((total - 1) // size * size, 0, -size))]
    lost = np.concatenate([[0.0], np.cumsum(np.sort(values))])
    return [(n, table.saved(part, total, n), float(lost[total - n])) for n in counts]
