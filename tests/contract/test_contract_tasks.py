"""The contract of all tasks: what statistics, searches and reports rely on, whatever a row is.

A task enters with rows in ``CASES``: how to make it without a model, random outputs and truths of it, and its scores computed in another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats

from edgekit import modalities, tasks
from edgekit.modalities.pixels import Pixels
from edgekit.runtime import loops
from edgekit.source import heads
from edgekit.spec.protocols import Explainable, HasConfidence, HasLabels, HasNumbers
from edgekit.spec.rows import difference, finite, pack, unpack
from edgekit.tasks import image_classification, text_classification, token_classification

ROWS = 60
NAMES = ("bad", "so-so", "good")


@dataclass(frozen=True)
class Case:
    """A task of one kind.

    Attributes:
        name: of the task.
        kind: what tells cases of the task apart.
        make: makes the task, without a model.
        draw: outputs and truth of so many rows.
        scores: metric name to the score of (outputs, truth), by other means than the task's.
    """

    name: str
    kind: str
    make: Callable
    draw: Callable
    scores: dict


# ---- text classification


def texts(kind, labels):
    return text_classification.bind(text_classification.Settings(kind, NAMES[:labels], 8, ("input_ids",)), None)


def logits(draw, rows, labels):
    return [{"logits": (draw.standard_normal(labels) * 3).astype(np.float32)} for _ in range(rows)]


def near(outputs, draw):
    """Logits and numbers near them."""
    table = np.stack([row["logits"] for row in outputs]).astype(np.float64)
    return table, table + draw.standard_normal(table.shape) * 2


def one_label(draw, rows):
    outputs = logits(draw, rows, 3)
    return outputs, list(near(outputs, draw)[1].argmax(axis=1))


def labels(count):
    def drawn(draw, rows):
        outputs = logits(draw, rows, count)
        return outputs, list(near(outputs, draw)[1] > 0)

    return drawn


def numbers(draw, rows):
    outputs = logits(draw, rows, 2)
    return outputs, list(near(outputs, draw)[1])


def accuracy(outputs, truth):
    right = [
        max(range(3), key=row["logits"].tolist().__getitem__) == answer
        for row, answer in zip(outputs, truth, strict=True)
    ]
    return sum(right) / len(right)


def yes_or_no(outputs, truth):
    right = [bool(row["logits"][0] > 0) == bool(answer[0]) for row, answer in zip(outputs, truth, strict=True)]
    return sum(right) / len(right)


def micro_f1(outputs, truth):
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for row, answer in zip(outputs, truth, strict=True):
        for value, right in zip(row["logits"].tolist(), answer.tolist(), strict=True):
            counts[value > 0, right] += 1
    precision = counts[True, True] / (counts[True, True] + counts[True, False])
    recall = counts[True, True] / (counts[True, True] + counts[False, True])
    return 2 * precision * recall / (precision + recall)


def pearson(outputs, truth):
    table = np.stack([row["logits"] for row in outputs]).astype(np.float64)
    return np.mean([scipy.stats.pearsonr(table[:, i], np.stack(truth)[:, i]).statistic for i in range(table.shape[1])])


# ---- image classification


def images(kind, labels):
    return image_classification.bind(image_classification.Settings(kind, NAMES[:labels], Pixels(8, 8, resize=(8, 8))))


# ---- token classification

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def words(labels):
    return token_classification.TokenClassification(token_classification.Settings(labels, 12, 2, ("input_ids",)), None)


def of_words(labels):
    """Rows of one window, the same words in every draw; first and last token are special, and words have one to three tokens."""

    def drawn(draw, rows):
        outputs, truth, sizes = [], [], np.random.default_rng(rows)
        for _ in range(rows):
            tokens = sizes.integers(1, 4, sizes.integers(1, 9))
            starts = np.full(tokens.sum() + 2, -1, np.int64)
            places = 1 + np.cumsum([0, *tokens[:-1]])
            starts[places] = np.arange(len(tokens))
            values = (draw.standard_normal((len(starts), labels)) * 3).astype(np.float32)
            outputs.append({"logits": values, "words": starts, "windows": np.array([len(starts)])})
            truth.append((values[places] + draw.standard_normal((len(tokens), labels)) * 3).argmax(axis=1))
        return outputs, truth

    return drawn


def tags(outputs):
    return [[int(np.argmax(v)) for v, w in zip(row["logits"], row["words"], strict=True) if w >= 0] for row in outputs]


def word_accuracy(outputs, truth):
    pairs = [
        (a, b)
        for row, right in zip(tags(outputs), truth, strict=True)
        for a, b in zip(row, right.tolist(), strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


def span_f1(outputs, truth):
    def found(row):
        """Letters of the tags of BIO, where a lower-case letter goes on: a span is a letter and its lower-case ones, or lower-case ones alone."""
        return {
            (m.start(), m.end(), m[0][0].lower())
            for m in re.finditer("Pp*|Ll*|p+|l+", "".join(" PpLl"[tag] for tag in row))
        }

    pairs = [(found(row), found(right.tolist())) for row, right in zip(tags(outputs), truth, strict=True)]
    right, given, wanted = (
        sum(len(part) for part in parts) for parts in zip(*((a & b, a, b) for a, b in pairs), strict=True)
    )
    return 2 * right / (given + wanted)


TEXTS, IMAGES, WORDS = "text-classification", "image-classification", "token-classification"
CASES = [
    Case(IMAGES, "single-label", lambda: images("single_label_classification", 3), one_label, {"accuracy": accuracy}),
    Case(IMAGES, "multi-label", lambda: images("multi_label_classification", 3), labels(3), {"micro F1": micro_f1}),
    Case(IMAGES, "regression", lambda: images("regression", 2), numbers, {"Pearson r": pearson}),
    Case(WORDS, "spans", lambda: words(BIO), of_words(5), {"span F1": span_f1, "token accuracy": word_accuracy}),
    Case(WORDS, "tags", lambda: words(("NOUN", "VERB", "X")), of_words(3), {"token accuracy": word_accuracy}),
    Case(TEXTS, "single-label", lambda: texts("single_label_classification", 3), one_label, {"accuracy": accuracy}),
    Case(TEXTS, "multi-label", lambda: texts("multi_label_classification", 3), labels(3), {"micro F1": micro_f1}),
    Case(TEXTS, "one-output", lambda: texts("multi_label_classification", 1), labels(1), {"accuracy": yes_or_no}),
    Case(TEXTS, "regression", lambda: texts("regression", 2), numbers, {"Pearson r": pearson}),
]


@pytest.fixture(params=CASES, ids=lambda c: f"{c.name}-{c.kind}")
def case(request):
    return request.param


@pytest.fixture
def task(case):
    return case.make()


@pytest.fixture
def drawn(case):
    """Outputs, and the truth of the same rows."""
    return case.draw(np.random.default_rng(5), ROWS)


@pytest.fixture
def other(case):
    """Outputs of another model to the same rows."""
    return case.draw(np.random.default_rng(6), ROWS)[0]


def test_every_task_is_here():
    assert {case.name for case in CASES} == set(tasks.names())


def test_a_task_is_two_files_of_one_name():
    assert heads.names() == tasks.names()


@pytest.mark.parametrize("name", tasks.names())
def test_a_module_names_its_loop_and_its_modality(name):
    module = tasks.get(name)
    assert loops.get(module.LOOP).SIGNATURES
    modality = modalities.get(module.MODALITY).UNBOUND
    assert modality.roles
    assert all(callable(disturb) for disturb in modality.perturbations.values())


# ---- what a row contributes


def test_evidence_is_a_table_of_finite_numbers(task, case, drawn):
    assert {m.name for m in task.metrics} == set(case.scores)
    for metric in task.metrics:
        found = task.evidence(*drawn, metric)
        assert found.dtype == np.float64
        assert found.ndim == 2
        assert len(found) == ROWS
        assert np.isfinite(found).all()
        if metric.binary:
            assert found.shape[1] == 1
            assert set(np.unique(found)) <= {0.0, 1.0}
            assert metric.of(found) == found.mean()


def test_scores_against_another_computation(task, case, drawn):
    for metric in task.metrics:
        assert metric.of(task.evidence(*drawn, metric)) == pytest.approx(case.scores[metric.name](*drawn), abs=1e-12)


def test_a_weight_is_a_number_of_copies(task, drawn):
    draw = np.random.default_rng(7)
    weights = draw.multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=20)
    weights = np.concatenate([weights, np.eye(ROWS, dtype=np.int64)[:2]])
    for metric in task.metrics:
        evidence = task.evidence(*drawn, metric)
        copies = [metric.of(np.repeat(evidence, row, axis=0)) for row in weights]
        np.testing.assert_allclose(metric.score(evidence, weights), copies, atol=1e-12, equal_nan=True)
        assert metric.undefined.endswith(".")


def test_a_row_contributes_the_same_whatever_rows_are_beside_it(task, drawn):
    outputs, truth = drawn
    rows = np.random.default_rng(8).permutation(ROWS)[:17].tolist()
    for metric in task.metrics:
        part = task.evidence([outputs[i] for i in rows], [truth[i] for i in rows], metric)
        np.testing.assert_array_equal(part, task.evidence(outputs, truth, metric)[rows])


def test_a_row_of_nan_is_not_scored(task, drawn):
    outputs, truth = drawn
    broken = [
        {name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array for name, array in outputs[0].items()},
        *outputs[1:],
    ]
    assert finite(broken).tolist() == [False] + [True] * (ROWS - 1)
    for metric in task.metrics:
        assert np.isnan(task.evidence(broken, truth, metric)).any(axis=1).tolist() == [True] + [False] * (ROWS - 1)


def test_truths_of_equal_inputs_become_one(task, drawn):
    for truth in drawn[1][:5]:
        assert task.describe_truth([task.merge_truth([truth] * 3)]) == task.describe_truth([truth])


# ---- two models


def test_equal_outputs_are_equal_answers(task, drawn, other):
    outputs, _ = drawn
    assert task.same_answer(outputs, outputs).tolist() == [True] * ROWS
    assert task.divergence(outputs, outputs).tolist() == [0.0] * ROWS
    same, apart = task.same_answer(outputs, other), task.divergence(outputs, other)
    assert (same.shape, same.dtype, apart.shape, apart.dtype) == ((ROWS,), bool, (ROWS,), np.float64)
    assert not same.all()
    assert (apart > 0).all()


def pushed(array, tolerance, draw):
    """Each number moved up or down; places and sizes as they are."""
    return (
        array
        if array.dtype.kind != "f"
        else (array + tolerance * draw.choice([-1.0, 1.0], array.shape)).astype(array.dtype)
    )


def test_what_is_decided_stays(task, drawn):
    outputs, _ = drawn
    draw, tolerance = np.random.default_rng(9), 0.4
    decided = task.decided(outputs, tolerance)
    assert (decided.shape, decided.dtype) == ((ROWS,), bool)
    assert not task.decided(outputs, 1e30).any()
    assert task.decided(outputs, 0.0).all()
    changed = np.zeros(ROWS, bool)
    for _ in range(60):
        # To the very ends of what is allowed, which is where answers change.
        moved = [{name: pushed(array, 0.999 * tolerance, draw) for name, array in row.items()} for row in outputs]
        assert difference(moved, outputs) < tolerance
        changed |= ~task.same_answer(moved, outputs)
    assert not (changed & decided).any()


def test_rows_come_back_from_a_file_or_a_pipe(task, drawn):
    outputs, truth = drawn
    back = unpack(pack(outputs))
    for one, two in zip(outputs, back, strict=True):
        assert list(one) == list(two)
        for name in one:
            assert one[name].dtype == two[name].dtype
            np.testing.assert_array_equal(one[name], two[name])
    for metric in task.metrics:
        np.testing.assert_array_equal(task.evidence(back, truth, metric), task.evidence(outputs, truth, metric))


# ---- words and capabilities


def test_words_for_answers_and_truths(task, drawn):
    outputs, truth = drawn
    for said in (task.describe(outputs), task.describe_truth(truth)):
        assert len(said) == ROWS
        assert all(isinstance(one, str) and one for one in said)
    same = [a == b for a, b in zip(task.describe(outputs), task.describe_truth(truth), strict=True)]
    if task.metrics[0].binary:
        assert same == (task.evidence(outputs, truth, task.metrics[0])[:, 0] > 0).tolist()


def test_identity_is_plain_data(task, case):
    assert json.loads(json.dumps(task.identity)) == task.identity
    assert task.identity == case.make().identity
    assert isinstance(task.answers_quote_input, bool)
    assert task.max_size >= 1


def test_capabilities_hold_what_they_promise(task, drawn):
    outputs, truth = drawn
    if isinstance(task, HasConfidence):
        confidence, right = task.confidence(outputs, truth)
        assert confidence.shape == right.shape
        assert right.dtype == bool
        assert ((confidence >= 0) & (confidence <= 1)).all()
        margin = task.margin(outputs)
        assert margin.shape == (ROWS,)
        assert ((margin >= 0) & (margin <= 1)).all()
    if isinstance(task, HasLabels):
        right, answered = task.label_matrix(outputs, truth)
        assert right.shape == answered.shape == (len(right), len(task.labels))
        assert right.dtype == answered.dtype == bool
        if task.exclusive:
            assert (right.sum(axis=1) == 1).all()
            assert (answered.sum(axis=1) == 1).all()
    if isinstance(task, HasNumbers):
        right, answered = task.number_matrix(outputs, truth)
        assert right.shape == answered.shape == (ROWS, len(task.numbers))
        assert right.dtype == answered.dtype == np.float64
    if isinstance(task, Explainable):
        support = task.target_score(outputs, outputs[0])
        assert (support.shape, support.dtype) == ((ROWS,), np.float64)
        assert task.target_name(outputs[0])


def test_no_rows(task):
    assert task.same_answer([], []).shape == (0,)
    assert task.divergence([], []).shape == (0,)
    assert task.describe([]) == []
