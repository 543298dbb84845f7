"""How much models lose on disturbed texts: by themselves, and one against another on the same texts. Descriptive, not a certificate."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.modalities.text import UNBOUND
from edgekit.report.predictions import Answer
from edgekit.samples.evaluation import paired
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.report import Robustness
from edgekit.spec.subject import Perturbed
from edgekit.tasks.text_classification import Text, TextClassification

Disturbances = Mapping[str, tuple[np.ndarray, list[Text]]]
"""Name of a kind to the rows it disturbs (int64 ``[disturbed]``, ascending, from 0) and their texts with it."""

_TEXTS_A_REQUEST = 50


def disturb(texts: Sequence[Text], rows: int = 200, seed: int = 0) -> dict[str, tuple[np.ndarray, list[Text]]]:
    """Draws rows and disturbs each in every way; see ``edgekit/modalities/_text_perturbations.py`` for the ways and where they come from.

    Args:
        texts: of the samples.
        rows: how many are drawn, the same for every kind; all where there are fewer.
        seed: of the draw and of the disturbances: the same seed gives the same texts.

    Returns:
        As :data:`Disturbances`. A text that a kind cannot change is not among that kind's rows (no letters: no typos); a kind that can change none is
        left out.

    Raises:
        UsageError: when less than one row is asked for.
    """
    if rows < 1:
        raise UsageError(f"{rows} rows were to be disturbed, expected at least 1. Give more, or leave the disturbances out.")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(texts))[:rows]).tolist()
    found: dict[str, tuple[np.ndarray, list[Text]]] = {}
    for name in UNBOUND.perturbations:
        made = {row: UNBOUND.perturbations[name](texts[row], random.Random(f"{seed}/{name}/{row}")) for row in drawn}
        kept = {row: text for row, text in made.items() if text is not None}
        if kept:
            found[name] = (np.array(list(kept), np.int64), list(kept.values()))
    return found


def logits_of(answer: Answer, disturbances: Disturbances, progress: Progress = silent) -> dict[str, np.ndarray]:
    """What a model answers to the disturbed texts.

    Args:
        answer: called with 50 texts at a time at most.
        disturbances: from :func:`disturb`.
        progress: told after each call.

    Returns:
        By kind, float32 ``[disturbed, labels]``.

    Raises:
        UsageError: when ``answer`` does not give a row of logits for each text.
    """
    total, done = sum(len(texts) for _, texts in disturbances.values()), 0
    found = {}
    for name, (_, texts) in disturbances.items():
        parts = []
        for start in range(0, len(texts), _TEXTS_A_REQUEST):
            group = texts[start : start + _TEXTS_A_REQUEST]
            logits = np.asarray(answer(group), np.float32)
            if logits.ndim != 2 or len(logits) != len(group):
                raise UsageError(f"The model's answer has the shape {list(logits.shape)}, expected [{len(group)}, labels]: a row of logits for each text.")
            parts.append(logits)
            done += len(group)
            progress("robustness", done, total)
        found[name] = np.concatenate(parts)
    return found


def own(
    task: TextClassification, disturbances: Disturbances, clean_logits: np.ndarray, disturbed_logits: Mapping[str, np.ndarray], truth: np.ndarray
) -> tuple[Perturbed, ...]:
    """What one model loses by each kind, on the rows that the kind disturbs, paired row by row.

    Args:
        task: whose score it is.
        disturbances: from :func:`disturb`.
        clean_logits: float32 ``[rows, labels]``, of all samples as they are.
        disturbed_logits: from :func:`logits_of`.
        truth: of all samples, as ``task.parse_labels`` gives it.

    Returns:
        One for each kind. A kind on whose rows the score is not defined (Pearson's r of one row, or of equal labels) is left out: there is no number to give.

    Raises:
        UsageError: when the logits are not of these rows, or one is NaN.
    """
    _check_rows(clean_logits, truth)
    found = []
    for name, (rows, _) in disturbances.items():
        clean, disturbed, right = clean_logits[rows], disturbed_logits[name], truth[rows]
        try:
            pair = paired(task, disturbed, clean, right)
        except SamplesError:
            continue
        scores = task.score(clean, right), task.score(disturbed, right)
        found.append(Perturbed(name, len(rows), task.changed(disturbed, clean), *scores, pair.drop, pair.low, pair.high))
    return tuple(found)


def between(
    task: TextClassification,
    disturbances: Disturbances,
    before_logits: Mapping[str, np.ndarray],
    after_logits: Mapping[str, np.ndarray],
    truth: np.ndarray,
) -> tuple[Robustness, ...]:
    """What the candidate loses against the baseline on the same disturbed texts.

    Args:
        task: whose score it is.
        disturbances: from :func:`disturb`; both models answered these.
        before_logits: from :func:`logits_of`, of the baseline.
        after_logits: of the candidate.
        truth: of all samples, as ``task.parse_labels`` gives it.

    Returns:
        One for each kind; those on whose rows the score is not defined are left out.

    Raises:
        UsageError: when the logits are not of these rows, or one is NaN.
    """
    found = []
    for name, (rows, _) in disturbances.items():
        right = truth[rows]
        try:
            pair = paired(task, after_logits[name], before_logits[name], right)
        except SamplesError:
            continue
        scores = task.score(before_logits[name], right), task.score(after_logits[name], right)
        found.append(Robustness(name, len(rows), *scores, pair.drop, pair.low, pair.high))
    return tuple(found)


def _check_rows(logits: np.ndarray, truth: np.ndarray) -> None:
    if len(logits) != len(truth):
        raise UsageError(f"There are {len(logits)} rows of logits and {len(truth)} of truth, expected those of the same samples. Give both of all samples.")
