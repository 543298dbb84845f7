"""How much models lose on disturbed inputs: by themselves, and one against another on the same inputs. Descriptive, not a certificate."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from edgekit.report.predictions import Answer, ask
from edgekit.report.slices import compare_scores
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import UsageError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Input, Modality
from edgekit.spec.report import Robustness
from edgekit.spec.subject import Perturbed
from edgekit.stats.paired import Paired

__all__ = ["Disturbances", "between", "disturb", "outputs_of", "own"]

Disturbances = Mapping[str, tuple[Sequence[int], Callable[[int], Input]]]
"""Name of a kind to the rows it disturbs (ascending, from 0), and what makes the disturbed input of a row: all of them at once may be gigabytes."""


def disturb(inputs: Sequence[Input], modality: Modality, rows: int = 200, seed: int = 0) -> Disturbances:
    """Draws rows and disturbs each in every way that its modality knows.

    Args:
        inputs: of the samples.
        modality: theirs.
        rows: how many are drawn, the same for every kind; all where there are fewer.
        seed: of the draw and of the disturbances: the same seed gives the same inputs.

    Returns:
        An input that a kind cannot change is not among that kind's rows (no letters: no typos); a kind that can change none is left out.

    Raises:
        UsageError: when less than one row is asked for.
    """
    if rows < 1:
        raise UsageError(
            f"{rows} rows were to be disturbed, expected at least 1. Give more, or leave the disturbances out.",
            code="disturbances-none",
        )
    drawn = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:rows]).tolist()
    found: dict[str, tuple[Sequence[int], Callable[[int], Input]]] = {}
    for name, change in modality.perturbations.items():
        make = partial(_changed, change, inputs, f"{seed}/{name}")
        if changed := [row for row in drawn if make(row) is not None]:
            found[name] = (changed, make)
    return found


def _changed(
    change: Callable[[Input, random.Random], Input | None], inputs: Sequence[Input], seed: str, row: int
) -> Input | None:
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
    total, done = sum(len(rows) for rows, _ in disturbances.values()), 0
    found: dict[str, list[Arrays]] = {}
    for name, (rows, make) in disturbances.items():
        found[name] = []
        for outputs in ask(answer, map(make, rows)):
            found[name] += outputs
            done += len(outputs)
            progress("robustness", done, total)
    return found


def own(
    given: Evaluation, disturbances: Disturbances, clean: Sequence[Arrays], disturbed: Mapping[str, Sequence[Arrays]]
) -> tuple[Perturbed, ...]:
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
        raise UsageError(
            f"There are outputs of {len(clean)} rows for {len(given)} rows of truth, expected those of the same samples. Give both of all.",
            code="rows-differ",
        )
    was = {name: [clean[i] for i in rows] for name, (rows, _) in disturbances.items()}
    compared = list(_compared(given, disturbances, was, disturbed))  # which refuses outputs of other rows
    changed = {name: int((~given.task.same_answer(disturbed[name], was[name])).sum()) for name, *_ in compared}
    return tuple(
        Perturbed(name, pair.rows, changed[name], *scores, pair.drop, pair.low, pair.high)
        for name, scores, pair in compared
    )


def between(
    given: Evaluation,
    disturbances: Disturbances,
    before: Mapping[str, Sequence[Arrays]],
    after: Mapping[str, Sequence[Arrays]],
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
    return tuple(
        Robustness(name, pair.rows, *scores, pair.drop, pair.low, pair.high)
        for name, scores, pair in _compared(given, disturbances, before, after)
    )


def _compared(
    given: Evaluation,
    disturbances: Disturbances,
    before: Mapping[str, Sequence[Arrays]],
    after: Mapping[str, Sequence[Arrays]],
) -> Iterator[tuple[str, tuple[float, float], Paired]]:
    """Each kind on whose rows the score is defined: both scores, and their comparison. Each row counts: equal inputs are disturbed differently."""
    for name, (rows, _) in disturbances.items():
        disturbed = Evaluation(given.task, [given.inputs[i] for i in rows], [given.truth[i] for i in rows], list(rows))
        first, second, pair = compare_scores(disturbed, before[name], after[name])
        if first is not None and second is not None and pair is not None:
            yield name, (first, second), pair
