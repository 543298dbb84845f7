"""How much models lose on disturbed inputs: by themselves, and one against another on the same inputs. Descriptive, not a certificate."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.report.predictions import Answer
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Input, Modality
from edgekit.spec.report import Robustness
from edgekit.spec.subject import Perturbed

__all__ = ["Disturbances", "between", "disturb", "outputs_of", "own"]

Disturbances = Mapping[str, tuple[Sequence[int], list[Input]]]
"""Name of a kind to the rows it disturbs (ascending, from 0) and their inputs with it."""

_INPUTS_A_REQUEST = 50


def disturb(inputs: Sequence[Input], modality: Modality, rows: int = 200, seed: int = 0) -> dict[str, tuple[list[int], list[Input]]]:
    """Draws rows and disturbs each in every way that its modality knows.

    Args:
        inputs: of the samples.
        modality: theirs.
        rows: how many are drawn, the same for every kind; all where there are fewer.
        seed: of the draw and of the disturbances: the same seed gives the same inputs.

    Returns:
        As :data:`Disturbances`. An input that a kind cannot change is not among that kind's rows (no letters: no typos); a kind that can change none is
        left out.

    Raises:
        UsageError: when less than one row is asked for.
    """
    if rows < 1:
        raise UsageError(f"{rows} rows were to be disturbed, expected at least 1. Give more, or leave the disturbances out.")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:rows]).tolist()
    found: dict[str, tuple[list[int], list[Input]]] = {}
    for name, change in modality.perturbations.items():
        # A generator for each row, whatever other rows there are; of a string: seeded by its digest, so the same everywhere.
        made = {row: change(inputs[row], random.Random(f"{seed}/{name}/{row}")) for row in drawn}
        kept = {row: value for row, value in made.items() if value is not None}
        if kept:
            found[name] = (list(kept), list(kept.values()))
    return found


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
        for start in range(0, len(inputs), _INPUTS_A_REQUEST):
            group = inputs[start : start + _INPUTS_A_REQUEST]
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
