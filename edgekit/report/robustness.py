"""How much models lose on disturbed inputs: by themselves, and one against another on the same inputs. Descriptive, not a certificate."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import overload

import numpy as np

from edgekit.report.predictions import Answer, grouped
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Input, Modality
from edgekit.spec.report import Robustness
from edgekit.spec.subject import Perturbed

__all__ = ["Disturbances", "between", "disturb", "outputs_of", "own"]

Disturbances = Mapping[str, tuple[Sequence[int], Sequence[Input]]]
"""Name of a kind to the rows it disturbs (ascending, from 0) and their inputs with it."""

_INPUTS_A_REQUEST = 50
_MOST_BYTES = 2**28  # of disturbed arrays that are kept; what is beyond is made again each time that it is asked for


class _Inputs(Sequence[Input]):
    """Disturbed inputs of some rows: those that are kept, and the others made when they are asked for."""

    def __init__(self, rows: Sequence[int], kept: Mapping[int, Input], make: Callable[[int], Input | None]) -> None:
        self._rows, self._kept, self._make = rows, kept, make

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Input: ...

    @overload
    def __getitem__(self, place: slice) -> list[Input]: ...

    def __getitem__(self, place: int | slice) -> Input | list[Input]:
        if isinstance(place, slice):
            return [self._of(row) for row in self._rows[place]]
        return self._of(self._rows[place])

    def _of(self, row: int) -> Input:
        return self._kept[row] if row in self._kept else self._make(row)


def disturb(inputs: Sequence[Input], modality: Modality, rows: int = 200, seed: int = 0) -> dict[str, tuple[list[int], Sequence[Input]]]:
    """Draws rows and disturbs each in every way that its modality knows.

    Args:
        inputs: of the samples.
        modality: theirs.
        rows: how many are drawn, the same for every kind; all where there are fewer.
        seed: of the draw and of the disturbances: the same seed gives the same inputs.

    Returns:
        As :data:`Disturbances`; inputs that would take much memory together are made when they are asked for.
        An input that a kind cannot change is not among that kind's rows (no letters: no typos); a kind that can change none is
        left out.

    Raises:
        UsageError: when less than one row is asked for.
    """
    if rows < 1:
        raise UsageError(f"{rows} rows were to be disturbed, expected at least 1. Give more, or leave the disturbances out.")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:rows]).tolist()
    found: dict[str, tuple[list[int], Sequence[Input]]] = {}
    room = _MOST_BYTES
    for name, change in modality.perturbations.items():
        make = partial(_changed, change, inputs, f"{seed}/{name}")
        changed, kept = list[int](), dict[int, Input]()
        for row in drawn:
            value = make(row)
            if value is None:
                continue
            changed.append(row)
            size = int(getattr(value, "nbytes", 0))
            if size <= room:
                kept[row], room = value, room - size
        if changed:
            found[name] = (changed, list(kept.values()) if len(kept) == len(changed) else _Inputs(changed, kept, make))
    return found


def _changed(change: Callable[[Input, random.Random], Input | None], inputs: Sequence[Input], seed: str, row: int) -> Input | None:
    """A row's input disturbed by a generator of its own, whatever other rows there are; seeded by the digest of a string, so the same everywhere."""
    return change(inputs[row], random.Random(f"{seed}/{row}"))


def outputs_of(answer: Answer, disturbances: Disturbances, progress: Progress = silent) -> dict[str, list[Arrays]]:
    """What a model answers to the disturbed inputs.

    Args:
        answer: called with 50 inputs at a time at most.
        disturbances: from :func:`disturb`.
        progress: told after each call.

    Returns:
        Outputs by kind, one row each.

    Raises:
        UsageError: when ``answer`` does not give a row of outputs for each input.
    """
    total, done = sum(len(inputs) for _, inputs in disturbances.values()), 0
    found: dict[str, list[Arrays]] = {}
    for name, (_, inputs) in disturbances.items():
        found[name] = []
        for group in grouped(inputs, _INPUTS_A_REQUEST):
            outputs = list(answer(group))
            if len(outputs) != len(group):
                raise UsageError(f"The model answers {len(group)} inputs with {len(outputs)} rows of outputs, expected one for each.")
            found[name] += outputs
            done += len(group)
            progress("robustness", done, total)
    return found


def own(given: Evaluation, disturbances: Disturbances, clean: Sequence[Arrays], disturbed: Mapping[str, Sequence[Arrays]]) -> tuple[Perturbed, ...]:
    """What one model loses by each kind, on the rows that the kind disturbs, paired row by row.

    Args:
        given: all samples.
        disturbances: from :func:`disturb`.
        clean: outputs to all samples as they are.
        disturbed: from :func:`outputs_of`.

    Returns:
        One for each kind. A kind on whose rows the score is not defined (Pearson's r of one row, or of equal labels) is left out: there is no number to give.

    Raises:
        UsageError: when the outputs are not of these rows, or one is NaN.
    """
    if len(clean) != len(given):
        raise UsageError(f"There are outputs of {len(clean)} rows for {len(given)} rows of truth, expected those of the same samples. Give both of all.")
    found = []
    for name, (rows, _) in disturbances.items():
        right, was, now = _rows(given, rows), [clean[i] for i in rows], disturbed[name]
        try:
            pair = right.compare(now, was)
        except SamplesError:
            continue
        changed = int((~given.task.same_answer(now, was)).sum())
        found.append(Perturbed(name, len(rows), changed, right.score(was), right.score(now), pair.drop, pair.low, pair.high))
    return tuple(found)


def between(
    given: Evaluation, disturbances: Disturbances, before: Mapping[str, Sequence[Arrays]], after: Mapping[str, Sequence[Arrays]]
) -> tuple[Robustness, ...]:
    """What the candidate loses against the baseline on the same disturbed inputs.

    Args:
        given: all samples.
        disturbances: from :func:`disturb`; both models answered these.
        before: from :func:`outputs_of`, of the baseline.
        after: of the candidate.

    Returns:
        One for each kind; those on whose rows the score is not defined are left out.

    Raises:
        UsageError: when the outputs are not of these rows, or one is NaN.
    """
    found = []
    for name, (rows, _) in disturbances.items():
        right = _rows(given, rows)
        try:
            pair = right.compare(after[name], before[name])
        except SamplesError:
            continue
        found.append(Robustness(name, len(rows), right.score(before[name]), right.score(after[name]), pair.drop, pair.low, pair.high))
    return tuple(found)


def _rows(given: Evaluation, rows: Sequence[int]) -> Evaluation:
    """Some of the rows, each of which counts: equal inputs are disturbed differently."""
    return Evaluation(given.task, [given.inputs[i] for i in rows], [given.truth[i] for i in rows], list(rows))
