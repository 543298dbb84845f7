"""Loss of score on disturbed inputs: of one model, and of one model against another on the same disturbed inputs.

The numbers are descriptive, not a certificate of robustness.
"""

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

__all__ = ["Disturbances", "compare_disturbed", "disturb", "predict_disturbed", "score_disturbed"]

Disturbances = Mapping[str, tuple[Sequence[int], Callable[[int], Input]]]
"""Name of each kind of disturbance, with the rows that it changes (ascending, from 0) and a function from a row to its
disturbed input. The inputs are generated lazily, because all of them together can take gigabytes."""


def disturb(inputs: Sequence[Input], modality: Modality, rows: int = 200, seed: int = 0) -> Disturbances:
    """Sample rows and disturb each of them in every way of its modality.

    Args:
        inputs: Inputs of the samples.
        modality: Modality of the inputs.
        rows: Number of rows to sample, the same rows for every kind. All rows if there are fewer.
        seed: Random seed for the sampling and the disturbances. The same seed gives the same disturbed inputs.

    Returns:
        The disturbances. The rows of a kind leave out the inputs that it cannot change (a text without letters has no
        typos). A kind that can change no input is left out.

    Raises:
        UsageError: If ``rows`` is less than 1.
    """
    if rows < 1:
        raise UsageError(
            f"The number of rows to disturb is {rows}, expected at least 1. Give more, or leave the disturbances out.",
            code="disturbances-none",
        )
    sampled = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:rows]).tolist()
    disturbances: dict[str, tuple[Sequence[int], Callable[[int], Input]]] = {}
    for name, change in modality.perturbations.items():
        make = partial(_disturb_row, change, inputs, f"{seed}/{name}")
        if changed := [row for row in sampled if make(row) is not None]:
            disturbances[name] = (changed, make)
    return disturbances


def _disturb_row(
    change: Callable[[Input, random.Random], Input | None], inputs: Sequence[Input], seed: str, row: int
) -> Input | None:
    """Return the disturbed input of a row; None if it cannot be changed.

    Each row has its own random generator, so that the result does not depend on the other rows. Its seed is a text,
    which gives the same numbers on every machine.
    """
    return change(inputs[row], random.Random(f"{seed}/{row}"))


def predict_disturbed(
    answer: Answer, disturbances: Disturbances, progress: Progress = silent
) -> dict[str, list[Arrays]]:
    """Return the outputs of a model for the disturbed inputs.

    Args:
        answer: Function that runs the model, called with at most 50 inputs at a time.
        disturbances: Disturbances from :func:`disturb`.
        progress: Callback after each call.

    Returns:
        Outputs by kind, one row each.

    Raises:
        UsageError: If the model does not return one row of outputs for each input.
    """
    total = sum(len(rows) for rows, _ in disturbances.values())
    done = 0
    outputs: dict[str, list[Arrays]] = {}
    for name, (rows, make) in disturbances.items():
        outputs[name] = []
        for part in ask(answer, map(make, rows)):
            outputs[name] += part
            done += len(part)
            progress("robustness", done, total)
    return outputs


def score_disturbed(
    samples: Evaluation, disturbances: Disturbances, clean: Sequence[Arrays], disturbed: Mapping[str, Sequence[Arrays]]
) -> tuple[Perturbed, ...]:
    """Return the loss of one model by each kind of disturbance, paired row by row.

    Args:
        samples: All samples.
        disturbances: Disturbances from :func:`disturb`.
        clean: Outputs for all samples without a disturbance, one row each.
        disturbed: Outputs for the disturbed inputs, from :func:`predict_disturbed`.

    Returns:
        One result for each kind, on the rows that it changes. A kind is left out if the score is not defined on its
        rows, e.g. Pearson's r of a single row or of equal labels.

    Raises:
        UsageError: If the outputs are not of these rows, or one is NaN.
    """
    if len(clean) != len(samples):
        raise UsageError(
            f"There are outputs of {len(clean)} rows, but labels of {len(samples)} rows. "
            "Give both of the same samples.",
            code="rows-differ",
        )
    before: dict[str, list[Arrays]] = {}
    for name, (rows, _) in disturbances.items():
        before[name] = [clean[i] for i in rows]
    # The comparison of all kinds comes first, because it raises the errors for outputs of other rows.
    comparisons = list(_compare_kinds(samples, disturbances, before, disturbed))
    results = []
    for name, scores, pair in comparisons:
        changed = int((~samples.task.same_answer(disturbed[name], before[name])).sum())
        results.append(Perturbed(name, pair.rows, changed, *scores, pair.drop, pair.low, pair.high))
    return tuple(results)


def compare_disturbed(
    samples: Evaluation,
    disturbances: Disturbances,
    before: Mapping[str, Sequence[Arrays]],
    after: Mapping[str, Sequence[Arrays]],
) -> tuple[Robustness, ...]:
    """Return the loss of the candidate against the baseline on the same disturbed inputs.

    Args:
        samples: All samples.
        disturbances: Disturbances from :func:`disturb`, the same for both models.
        before: Outputs of the baseline, from :func:`predict_disturbed`.
        after: Outputs of the candidate, from :func:`predict_disturbed`.

    Returns:
        One result for each kind. A kind is left out if the score is not defined on its rows.

    Raises:
        UsageError: If the outputs are not of these rows, or one is NaN.
    """
    return tuple(
        Robustness(name, pair.rows, *scores, pair.drop, pair.low, pair.high)
        for name, scores, pair in _compare_kinds(samples, disturbances, before, after)
    )


def _compare_kinds(
    samples: Evaluation,
    disturbances: Disturbances,
    before: Mapping[str, Sequence[Arrays]],
    after: Mapping[str, Sequence[Arrays]],
) -> Iterator[tuple[str, tuple[float, float], Paired]]:
    """Yield the name, both scores and their comparison of each kind on whose rows the score is defined.

    Each row counts, also one of several with the same input, since each is disturbed differently.
    """
    for name, (rows, _) in disturbances.items():
        inputs = [samples.inputs[i] for i in rows]
        truth = [samples.truth[i] for i in rows]
        disturbed = Evaluation(samples.task, inputs, truth, list(rows))
        first, second, pair = compare_scores(disturbed, before[name], after[name])
        if first is not None and second is not None and pair is not None:
            yield name, (first, second), pair
