"""Agreement of the occlusion attributions of two models. Descriptive, not a certificate.

The attribution of a word is the support of the answer (usually its probability) with all words, minus the support
without this word. A word is any unit of an input, as the modality defines it. Sources: Zeiler M. D. and Fergus R.,
"Visualizing and Understanding Convolutional Networks", ECCV 2014; for words, Li J. et al., "Understanding Neural
Networks through Representation Erasure", 2016.

Occlusion needs forward calls only, so it works in the same way on every backend, and for a teacher that is a function.
It removes one word at a time: two words with the same meaning may both get no attribution.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.report.predictions import Answer, ask, check_finite
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.errors import UsageError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, Explainable, HasConfidence, Input
from edgekit.spec.report import Drift, Faithfulness

__all__ = [
    "DRIFTS",
    "FEWEST_WORDS",
    "FILLER_TOKEN",
    "MOST_WORDS",
    "FaithfulnessOptions",
    "faithfulness",
    "spearman",
    "top_overlap",
]

FEWEST_WORDS = 3
"""Minimum number of words of an explained input. Two words have the same order by chance half of the time."""

MOST_WORDS = 60
"""Maximum number of words of an explained input. The number of calls grows with the words."""

DRIFTS = 10
"""Maximum number of drifts in the result."""

FILLER_TOKEN = "."
"""Replacement of a word for the ceiling, if the attributions themselves are computed with words removed.

It is in the vocabulary of every tokenizer and has little meaning.
"""

_MIN_EFFECT = 0.01  # attribution of the most important word, as a probability, that a listed drift has at least
_DRAWS_PER_INPUT = 20  # random attributions for the floor; a single draw would be noisy
_DIGITS = 6  # precision of a probability from float32 outputs; equal words are tied, not ranked by rounding errors


@dataclass(frozen=True)
class _Explanation:
    """Attributions of one input.

    Attributes:
        row: Position of the row in the samples, from 0.
        words: Words of the input.
        before, after: Attributions of the two models, float64 ``[words]``.
        ceiling: Attributions of the model before, with words removed instead of masked, float64 ``[words]``.
        outputs_before, outputs_after: Outputs of the two models to the whole input.
    """

    row: int
    words: tuple[str, ...]
    before: np.ndarray
    ceiling: np.ndarray
    after: np.ndarray
    outputs_before: Arrays
    outputs_after: Arrays


@dataclass(frozen=True, kw_only=True)
class FaithfulnessOptions:
    """Options of :func:`faithfulness`.

    Attributes:
        rows: Number of inputs to explain.
        k: Number of most important words to compare. For an input of at most k words it is one less than its words,
            because all words would always agree.
        seed: Random seed for the choice of inputs and for the floor.
        include_text: True if the result may contain words.
    """

    rows: int = 40
    k: int = 3
    seed: int = 0
    include_text: bool = False


def faithfulness(
    evaluation: Evaluation,
    before: Answer,
    after: Answer,
    ids: Sequence[str],
    *,
    filler: str,
    options: FaithfulnessOptions | None = None,
    progress: Progress = silent,
) -> Faithfulness | None:
    """Compare the occlusion attributions of two models for the answers of the first one.

    Inputs are drawn among those with 3 to 60 words that the model does not truncate: truncated words have no
    attribution on either side, which would count as agreement. An input is left out after its calls if ``before`` gives
    all of its words the same attribution, since these have no order. If only ``after`` does so, the correlation is 0.

    The ceiling shows how much the method itself varies: it compares ``before`` with itself, with words removed instead
    of masked. If ``filler`` is empty, words are removed, and for the ceiling they are masked with a full stop. The
    floor compares ``before`` with random attributions.

    Args:
        evaluation: Samples. Their task encodes the inputs to detect truncation.
        before: Model of the baseline or teacher. It is called twice per input: with the input and its copies without
            one word, and with the copies for the ceiling. Large arrays are passed in several parts.
        after: Model of the candidate. It is called once per input, with the first of these lists.
        ids: Keyed hash of each input.
        filler: Replacement of a word, from the modality. Empty if the two models have different ones.
        options: Options; None for the defaults.
        progress: Progress callback, called after each input.

    Returns:
        The agreement; None if no input or no answer of the task can be explained. ``forward_calls`` counts the inputs
        per model, without those for the ceiling.

    Raises:
        UsageError: If the number of ids differs from that of inputs, ``rows`` or ``k`` is below 1, or a model does not
            return finite outputs for each input.
        InputError: If the task refuses an input.
    """
    chosen = options or FaithfulnessOptions()
    k = chosen.k
    if len(ids) != len(evaluation) or chosen.rows < 1 or k < 1:
        raise UsageError(
            f"There are {len(evaluation)} inputs, {len(ids)} ids, rows={chosen.rows} and k={k}; "
            "expected one id per input, and at least 1 for rows and k.",
            code="rows-differ",
        )
    if not isinstance(evaluation.task, Explainable):
        return None
    order = np.random.default_rng([chosen.seed, 0]).permutation(len(evaluation)).tolist()
    explained_rows = list(itertools.islice(_find_explicable(evaluation, order, filler), chosen.rows))
    explanations = []
    calls = 0
    for done, row in enumerate(explained_rows, 1):
        explanation = _explain(evaluation, before, after, row, filler)
        calls += 1 + len(explanation.words)
        if np.ptp(explanation.before) > 0:
            explanations.append(explanation)
        progress("faithfulness", done, len(explained_rows))
    if not explanations:
        return None
    generator = np.random.default_rng([chosen.seed, 1])
    random_pairs = []
    for explanation in explanations:
        for _ in range(_DRAWS_PER_INPUT):
            random_pairs.append((explanation.before, generator.random(len(explanation.before))))
    rank, top = _measure_agreement([(e.before, e.after) for e in explanations], k)
    ceiling_rank, ceiling_top = _measure_agreement([(e.before, e.ceiling) for e in explanations], k)
    floor_rank, floor_top = _measure_agreement(random_pairs, k)
    return Faithfulness(
        rows=len(explanations),
        forward_calls=calls,
        k=k,
        rank_correlation=rank,
        top_k=top,
        ceiling_rank=ceiling_rank,
        ceiling_top_k=ceiling_top,
        floor_rank=floor_rank,
        floor_top_k=floor_top,
        drifts=_list_drifts(evaluation, explanations, ids, chosen.include_text),
    )


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rank correlation, with mean ranks for ties.

    Args:
        x: Attributions, float64 ``[words]``, at least one.
        y: Attributions of the same words, float64 ``[words]``.

    Returns:
        Rank correlation, -1 to 1. If one argument is constant, it is not defined, and 0 (no agreement) is returned.
    """
    from scipy.stats import spearmanr  # scipy is not installed on devices, and slow to import.

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.clip(spearmanr(x, y).statistic, -1.0, 1.0))


def top_overlap(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Return the share of the k words with the highest attributions that both sides have in common.

    A word that is tied with the k-th is included, so that the order of words does not decide. The share is then that of
    the larger top.

    Args:
        x: Attributions, float64 ``[words]``, at least two.
        y: Attributions of the same words, float64 ``[words]``.
        k: Number of words, at least 1. At most the number of words less one is used.

    Returns:
        Share of common words, 0 to 1.
    """
    k = min(k, len(x) - 1)
    top_x = x >= np.sort(x)[-k]
    top_y = y >= np.sort(y)[-k]
    return float((top_x & top_y).sum() / max(top_x.sum(), top_y.sum()))


def _find_explicable(evaluation: Evaluation, order: Sequence[int], filler: str) -> Iterator[int]:
    """Yield the rows, in this order, that have 3 to 60 words and are not truncated."""
    for row in order:
        value = evaluation.inputs[row]
        words, _ = evaluation.task.modality.occlude(value, filler)
        if FEWEST_WORDS <= len(words) <= MOST_WORDS and not evaluation.task.preprocess([value])[0].truncated:
            yield row


def _explain(evaluation: Evaluation, before: Answer, after: Answer, row: int, filler: str) -> _Explanation:
    """Compute the attributions of one input on both sides, and those for the ceiling."""
    task = evaluation.task
    value = evaluation.inputs[row]
    assert isinstance(task, Explainable)  # The caller has checked it.
    words, _ = task.modality.occlude(value, filler)

    def occlude(replacement: str) -> Iterable[Input]:
        return task.modality.occlude(value, replacement)[1]

    outputs_before = _run(before, itertools.chain([value], occlude(filler)), "before")
    outputs_ceiling = _run(before, occlude("" if filler else FILLER_TOKEN), "before")
    outputs_after = _run(after, itertools.chain([value], occlude(filler)), "after")
    answer = outputs_before[0]
    support_before = task.target_score(outputs_before, answer)
    support_ceiling = task.target_score(outputs_ceiling, answer)
    support_after = task.target_score(outputs_after, answer)
    unit = 1.0
    # Support that is not a probability has an arbitrary scale, which determines what counts as a tie.
    if not isinstance(task, HasConfidence):
        unit = float(np.abs(support_before).max()) or 1.0

    def attribute(whole: float, occluded: np.ndarray) -> np.ndarray:
        # Adding 0.0 turns -0.0 into 0.0.
        return np.asarray(np.round((whole - occluded) / unit, _DIGITS) * unit + 0.0)

    return _Explanation(
        row=row,
        words=tuple(words),
        before=attribute(support_before[0], support_before[1:]),
        ceiling=attribute(support_before[0], support_ceiling),
        after=attribute(support_after[0], support_after[1:]),
        outputs_before=answer,
        outputs_after=outputs_after[0],
    )


def _run(answer: Answer, inputs: Iterable[Input], side: str) -> list[Arrays]:
    """Return the finite outputs of a model, one mapping per input."""
    outputs = [row for part in ask(answer, inputs, f"The model {side}") for row in part]
    check_finite(outputs, f"the model {side}")
    return outputs


def _measure_agreement(pairs: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[float, float]:
    """Return the mean rank correlation and the mean top-k overlap of pairs of attributions."""
    correlations = [spearman(x, y) for x, y in pairs]
    overlaps = [top_overlap(x, y, k) for x, y in pairs]
    return float(np.mean(correlations)), float(np.mean(overlaps))


def _list_drifts(
    evaluation: Evaluation, explanations: Sequence[_Explanation], ids: Sequence[str], include_text: bool
) -> tuple[Drift, ...]:
    """Return the inputs with equal answers and the lowest rank correlations."""
    task = evaluation.task
    assert isinstance(task, Explainable)  # The caller has checked it.
    outputs_before = [e.outputs_before for e in explanations]
    outputs_after = [e.outputs_after for e in explanations]
    is_same = task.same_answer(outputs_after, outputs_before).tolist()
    # If no word affects the answer, the ranks are those of rounding errors.
    min_effect = _MIN_EFFECT if isinstance(task, HasConfidence) else 0.0
    drifts = []
    for explanation, same in zip(explanations, is_same, strict=True):
        before = tuple(explanation.before.tolist())
        if not same or max(map(abs, before)) < min_effect:
            continue
        # Answers that are text of the user are treated like inputs.
        answer = ""
        if include_text or not task.answers_quote_input:
            answer = task.target_name(explanation.outputs_before)
        drift = Drift(
            id=ids[explanation.row],
            row=explanation.row + 1,
            answer=answer,
            words=explanation.words if include_text else (),
            before=before,
            after=tuple(explanation.after.tolist()),
            rank_correlation=spearman(explanation.before, explanation.after),
        )
        drifts.append(drift)
    drifts.sort(key=lambda drift: (drift.rank_correlation, drift.row))
    return tuple(drifts[:DRIFTS])
