"""Attributions of models whose attributions are known by hand; ranks against scipy."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import small
from heads import MULTI, REGRESSION, SINGLE, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

import edgekit
from edgekit import tasks
from edgekit.modalities.text import UNBOUND
from edgekit.report import predictions
from edgekit.report.faithfulness import MOST_WORDS, FaithfulnessOptions, faithfulness, spearman, top_overlap
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.parsing import parse, plain
from edgekit.spec.progress import silent
from edgekit.spec.report import Faithfulness
from edgekit.tasks.text_classification import Settings, bind

MASK = "[MASK]"
CANARY = "zyxcanaryqv"
REVIEWS = [t for t in small.texts(120, seed=5) if 4 <= len(t.split()) <= 40]


def task(kind=REGRESSION, labels=("value",), longest=10**6):
    """A task whose tokenizer cuts off what has more than ``longest`` words."""

    def encode(texts):
        return [SimpleNamespace(truncated=len(UNBOUND.occlude(text, "")[0]) > longest) for text in texts]

    return bind(Settings(kind, labels, 512, ("input_ids",)), encode)


def weight(word):
    """Of a word, by its letters; no two words of the tests share one, and it is a multiple of 2^-20: sums of them are exact."""
    return 0.0 if word == MASK else (int.from_bytes(word.encode(), "big") % 1048573 - 524286) / 2**20


def total(text, of=weight):
    return sum(of(w) for part in (text if isinstance(text, tuple) else (text,)) for w in part.split())


def bag(of=weight):
    """A linear model of one output: what a word adds is its weight."""
    return lambda texts: np.array([[total(t, of)] for t in texts], np.float32)


def two(of=weight):
    """The same as the difference of two labels' logits."""
    return lambda texts: np.array([[0.0, total(t, of)] for t in texts], np.float32)


def sequence(texts):
    """A model of word pairs: what is left when a word goes depends on whether something is put in its place."""
    return np.array(
        [
            [sum(math.sin(7 * weight(a) + 11 * weight(b)) for a, b in zip(t.split(), t.split()[1:], strict=False))]
            for t in texts
        ],
        np.float32,
    )


def explain(before, after, texts, the_task=None, mask=MASK, progress=silent, **options):
    given = Evaluation(the_task or task(), texts, [None] * len(texts))
    ids = [f"id{i}" for i in range(len(texts))]
    return faithfulness(
        given,
        lambda t: rows(before(t)),
        lambda t: rows(after(t)),
        ids,
        filler=mask,
        options=FaithfulnessOptions(**options),
        progress=progress,
    )


class Counted:
    """A modality of words, which counts what is left out, and whose inputs are large arrays."""

    def __init__(self):
        self.made = 0
        self.encoder = lambda values: [SimpleNamespace(truncated=False) for _ in values]

    def occlude(self, value, filler):
        def copies():
            for i in range(len(value)):
                self.made += 1
                copy = value.copy()
                copy[i] = 0.0 if filler else 0.5
                yield copy

        return [str(i) for i in range(len(value))], copies()


def test_copies_are_made_in_parts_and_none_to_count_units(monkeypatch):
    monkeypatch.setattr(predictions, "_REQUEST_BYTES", 100)
    modality, sizes = Counted(), []
    the_task = task()
    the_task.modality = modality

    def model(group):
        sizes.append(len(group))
        return rows(np.array([[v @ np.arange(1, len(v) + 1)] for v in group], np.float32))

    inputs = [np.ones(2), np.ones(61), np.arange(1.0, 5.0)]  # of these the last alone is explained
    given = Evaluation(the_task, inputs, [None] * 3, list(range(3)))
    found = faithfulness(given, model, model, ["a", "b", "c"], filler=MASK)
    assert (found.rows, found.rank_correlation, found.forward_calls) == (1, 1.0, 5)
    assert modality.made == 3 * 4
    assert sizes == [4, 1, 4, 4, 1]  # 32 bytes each


# ---- attributions


def test_a_linear_models_attributions_are_its_weights():
    found = explain(bag(), bag(lambda w: 1.01 * weight(w)), ["red green blue", "one two three four"], include_text=True)
    assert found.rows == 2
    by_row = {d.row: d for d in found.drifts}
    for row, text in enumerate(["red green blue", "one two three four"], 1):
        drift = by_row[row]
        assert drift.id == f"id{row - 1}"
        assert drift.words == tuple(text.split())
        assert drift.before == pytest.approx([weight(w) for w in text.split()], abs=2e-6)
        assert drift.after == pytest.approx([1.01 * weight(w) for w in text.split()], abs=2e-6)


def test_probabilities_of_the_answer_before_on_both_sides():
    labels = ("no", "yes")
    texts = ["alpha beta gamma", "delta epsilon zeta eta"]
    signs = {t: 1 if total(t) > 0 else 0 for t in texts}
    found = explain(two(), two(lambda w: 0.8 * weight(w)), texts, task(SINGLE, labels))
    for drift in found.drifts:
        text = texts[drift.row - 1]
        way = 1 if signs[text] else -1
        assert drift.answer == labels[signs[text]]
        for scale, seen in ((1, drift.before), (0.8, drift.after)):
            whole, parts = scale * total(text), [scale * (total(text) - weight(w)) for w in text.split()]
            assert seen == pytest.approx(
                [1 / (1 + math.exp(-way * whole)) - 1 / (1 + math.exp(-way * p)) for p in parts], abs=1e-6
            )


def test_a_flipped_text_counts_but_is_no_drift():
    # Of the first text the other label becomes more probable, by a constant: the words still add to the answer before, in the same order.
    texts = ["alpha beta gamma", "delta epsilon zeta eta"]
    shift = -3.0 if total(texts[0]) > 0 else 3.0

    def after(group):
        return two()(group) + np.array([[0.0, shift if len(group) == 4 else 0.0] for _ in group], np.float32)

    found = explain(two(), after, texts, task(SINGLE, ("no", "yes")))
    assert (found.rows, found.rank_correlation) == (2, 1.0)
    assert [d.row for d in found.drifts] == [2]


def test_the_answer_is_that_of_before():
    # Of the first label both say the same; of the second, the answer after, the opposite.
    def model(first, second, way):
        return lambda texts: np.array(
            [[first + total(t), second + way * total(t, lambda w: -weight(w[::-1]))] for t in texts], np.float32
        )

    found = explain(model(3, -3, 1), model(-3, 3, -1), ["alpha beta gamma delta"], task(MULTI, ("a", "b")))
    assert (found.rank_correlation, found.drifts) == (1.0, ())


def test_a_multi_label_head_is_explained_by_its_most_probable_label():
    def three(texts):
        return np.array([[-1.0, total(t), 1.0 + 2 * total(t)] for t in texts], np.float32)

    text = "nice little words"
    found = explain(three, three, [text], task(MULTI, ("a", "b", "c")))
    assert found.drifts[0].answer == "c"
    whole = 1 + 2 * total(text)
    assert found.drifts[0].before == pytest.approx(
        [1 / (1 + math.exp(-whole)) - 1 / (1 + math.exp(2 * weight(w) - whole)) for w in text.split()], abs=1e-6
    )


def test_numbers_of_any_size_are_told_apart():
    found = explain(lambda t: bag()(t) * 1e-9, lambda t: bag()(t) * 1e9, ["red green blue white"])
    assert (found.rows, found.rank_correlation) == (1, 1.0)


def test_what_float32_cannot_tell_apart_is_a_tie():
    def noisy(texts):  # around a probability of one half, the last digits by chance
        return two(lambda w: float(w == "good"))(texts) + np.array(
            [[0.0, 1e-7 * (hash(t) % 7)] for t in texts], np.float32
        )

    found = explain(two(lambda w: float(w == "good")), noisy, ["a good film with a cast"], task(SINGLE, ("no", "yes")))
    assert found.rank_correlation == 1.0


# ---- agreement


def test_a_model_and_itself():
    found = explain(bag(), bag(), REVIEWS, k=3)
    assert (found.rows, found.rank_correlation, found.top_k) == (40, 1.0, 1.0)
    assert (found.ceiling_rank, found.ceiling_top_k) == (
        1.0,
        1.0,
    )  # of a linear model a word left out and a word masked are one


def test_the_opposite():
    found = explain(bag(), bag(lambda w: -weight(w)), ["red green blue", "one two three four"], k=1)
    assert found.rank_correlation == -1.0
    assert found.top_k == 0.0


@pytest.mark.parametrize("mask", [MASK, ""])
def test_means_against_scipy(mask):
    """All from the definition: texts rebuilt word by word, ranks by scipy, tops as sets."""

    def other(texts):
        return sequence(texts) + 0.6 * bag()(texts)

    texts = [t for t in dict.fromkeys(REVIEWS) if len(set(t.split())) == len(t.split())][:25]
    found = explain(sequence, other, texts, mask=mask, rows=25, k=2)

    def without(text, i, put):
        parts = text.split()
        return " ".join(parts[:i] + ([put] if put else []) + parts[i + 1 :])

    def attributions(model, text, put):
        return np.array(
            [float(model([text])[0, 0]) - float(model([without(text, i, put)])[0, 0]) for i in range(len(text.split()))]
        )

    def top(x):
        return set(np.argsort(-x)[:2])

    second = "" if mask else "."
    pairs = [[attributions(m, t, p) for m, p in ((sequence, mask), (other, mask), (sequence, second))] for t in texts]
    assert found.rank_correlation == pytest.approx(
        np.mean([scipy.stats.spearmanr(a, b).statistic for a, b, _ in pairs]), abs=1e-3
    )
    assert found.ceiling_rank == pytest.approx(
        np.mean([scipy.stats.spearmanr(a, c).statistic for a, _, c in pairs]), abs=1e-3
    )
    assert found.top_k == pytest.approx(np.mean([len(top(a) & top(b)) / 2 for a, b, _ in pairs]), abs=1e-9)
    assert found.ceiling_top_k == pytest.approx(np.mean([len(top(a) & top(c)) / 2 for a, _, c in pairs]), abs=1e-9)
    assert found.ceiling_rank < 0.99
    worst = sorted((scipy.stats.spearmanr(a, b).statistic, i + 1) for i, (a, b, _) in enumerate(pairs))
    near = (np.abs(sequence(texts) - other(texts)) <= 0.05 * np.ptp(sequence(texts)))[:, 0]
    alike = {row: rank for rank, row in worst if near[row - 1]}
    assert [d.rank_correlation for d in found.drifts] == pytest.approx(list(alike.values())[:10], abs=1e-9)
    assert all(d.rank_correlation == pytest.approx(alike[d.row], abs=1e-9) for d in found.drifts)
    assert not near.all()
    assert len(found.drifts) > 5


def test_the_floor_is_what_chance_gives():
    texts = [" ".join(f"w{i}x{j}" for j in range(10)) for i in range(40)]
    found = explain(bag(), bag(), texts, k=3)
    # The mean of 800 correlations of 10 ranks (standard deviation 1/3 each), and of 800 overlaps of 3 out of 10 (about 0.25 each).
    assert abs(found.floor_rank) < 4 / 3 / 800**0.5
    assert abs(found.floor_top_k - 0.3) < 4 * 0.25 / 800**0.5


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_spearman_with_ties_is_scipys(pairs):
    x, y = np.array(pairs, float).T
    if np.ptp(x) and np.ptp(y):
        assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    else:
        assert spearman(x, y) == 0.0


@pytest.mark.parametrize(
    ("x", "y", "k", "share"),
    [
        ([5, 4, 3, 2, 1], [5, 4, 3, 2, 1], 2, 1.0),
        ([5, 4, 3, 2, 1], [5, 1, 2, 3, 4], 2, 0.5),
        ([5, 4, 3, 2, 1], [1, 2, 3, 4, 5], 2, 0.0),
        ([9, 1, 1, 1, 1], [9, 1, 1, 1, 1], 2, 1.0),  # four tie for the second place: all are in, on both sides
        ([9, 1, 1, 1, 1], [9, 8, 0, 0, 0], 2, 0.4),  # two of five
        ([3, 2, 1], [1, 2, 3], 3, 0.5),  # all three would always be the same: two of them
    ],
)
def test_top_overlap(x, y, k, share):
    assert top_overlap(np.array(x, float), np.array(y, float), k) == pytest.approx(share)


def test_a_text_without_an_order_is_left_out_and_a_side_without_one_agrees_with_nothing():
    texts = ["nothing here counts", "one two three four"]
    dull = bag(lambda w: 0.0 if w in texts[0] else weight(w))
    assert explain(dull, bag(), texts).rows == 1
    found = explain(bag(), dull, texts)
    assert (found.rows, found.rank_correlation) == (2, 0.5)
    assert explain(dull, bag(), texts[:1]) is None


# ---- which texts, and how they are called


def test_calls_are_lists_of_one_text_and_are_counted():
    seen = {"before": [], "after": []}

    def watched(side):
        def answer(texts):
            seen[side].append(list(texts))
            return bag()(texts)

        return answer

    told = []
    found = explain(
        watched("before"), watched("after"), ["a  b\tc", ("d e", "f")], rows=2, progress=lambda *step: told.append(step)
    )
    first = ["a  b\tc", "[MASK]  b\tc", "a  [MASK]\tc", "a  b\t[MASK]"]
    pair = [("d e", "f"), ("[MASK] e", "f"), ("d [MASK]", "f"), ("d e", "[MASK]")]
    left_out = (["b\tc", "a  c", "a  b"], [("e", "f"), ("d", "f"), ("d e", "")])
    assert sorted(seen["after"], key=str) == sorted([first, pair], key=str)
    assert sorted(seen["before"], key=str) == sorted([first, pair, *left_out], key=str)
    assert found.forward_calls == 8 == sum(map(len, seen["after"]))
    assert told == [("faithfulness", 1, 2), ("faithfulness", 2, 2)]


def test_only_texts_that_can_be_explained():
    long, longest = " ".join(f"w{i}" for i in range(MOST_WORDS)), " ".join(f"w{i}" for i in range(MOST_WORDS + 1))
    no = [
        "",
        "   ",
        "word",
        "two words",
        "...",
        "🎬",
        longest,
        "x" * 200_000,
        ("", ""),
        ("one", "two"),
        "漢字だけの文です",
        " ".join("a" * 1_000),
    ]
    yes = ["שלום עולם יפה", "🎬 👍 🙂", ("one two", "three"), "! ? !", long, "\u2003em space\u00a0and more\n"]
    the_task = task()
    found = explain(bag(), bag(), [*no, *yes], the_task, rows=100, include_text=True)
    assert {d.row for d in found.drifts} == {len(no) + i + 1 for i in range(len(yes))}
    assert next(d for d in found.drifts if d.row == len(no) + 3).words == ("one", "two", "three")
    assert explain(bag(), bag(), no) is None
    assert explain(bag(), bag(), []) is None
    assert explain(bag(), bag(), ["a b c d"], task(longest=3)) is None  # the model would not read the fourth word
    assert explain(bag(), bag(), ["a b c d"], task(longest=4)).rows == 1


def test_the_seed_decides():
    def other(texts):
        return sequence(texts) + 0.6 * bag()(texts)

    first, again, second = (explain(sequence, other, REVIEWS, rows=10, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.forward_calls != second.forward_calls or first.drifts != second.drifts


def test_no_word_without_include_text():
    texts = [f"{CANARY}{i} {CANARY} here {CANARY}x" for i in range(15)]
    found = explain(bag(), bag(), texts)
    assert len(found.drifts) == 10
    said = json.dumps(plain(found))
    assert CANARY not in said
    assert "here" not in said
    assert parse(Faithfulness, json.loads(said), "report") == found  # finite numbers of the declared types
    assert CANARY in json.dumps(plain(explain(bag(), bag(), texts, include_text=True)))


@pytest.mark.parametrize(
    ("before", "after", "options", "match"),
    [
        (lambda t: np.zeros((len(t), 2), np.float32), bag(), {}, ("outputs-shape", "2", "1")),
        (bag(), lambda t: np.zeros((1, 1), np.float32), {}, ("rows-differ", "4", "1")),
        (bag(), lambda t: np.full((len(t), 1), np.nan), {}, ("outputs-not-finite", "4")),
        (lambda t: np.full((len(t), 1), np.inf), bag(), {}, ("outputs-not-finite", "4")),
        (bag(), bag(), {"rows": 0}, ("rows-differ", "0")),
        (bag(), bag(), {"k": 0}, ("rows-differ", "0")),
    ],
)
def test_bad_input_is_told_without_its_text(before, after, options, match):
    with refused(match) as caught:
        explain(before, after, [f"{CANARY} b c"], **options)
    assert CANARY not in str(caught.value)


def test_an_id_for_each_text():
    with refused("rows-differ", "1", "0"):
        faithfulness(Evaluation(task(), ["a b c"], [None]), bag(), bag(), [], filler=MASK)


# ---- a real bundle


def test_a_bundle_against_itself_and_on_another_backend(float32_ort, float32_openvino, tiny_samples):
    texts = [row["text"] for row in tiny_samples.rows]
    ids = [str(i) for i in range(len(texts))]
    of_bundle = tasks.get("text-classification").load(float32_ort / "assets")
    filler = of_bundle.modality.filler()
    assert filler == MASK
    given = Evaluation(of_bundle, texts, [None] * len(texts))
    with edgekit.load(float32_ort) as session, edgekit.load(float32_openvino) as other:
        itself = faithfulness(
            given, session.outputs, session.outputs, ids, filler=filler, options=FaithfulnessOptions(rows=8)
        )
        found = faithfulness(
            given,
            other.outputs,
            session.outputs,
            ids,
            filler=filler,
            options=FaithfulnessOptions(rows=8),
        )
    assert (itself.rank_correlation, itself.top_k, itself.rows) == (1.0, 1.0, 8)
    assert found.rank_correlation > 0.99
    assert itself.ceiling_rank < 0.99
    assert abs(itself.floor_rank) < 0.2
    assert itself.floor_top_k < itself.top_k
    assert small.CANARY not in json.dumps(plain(found))


# ---- other tasks


class Inexplicable:
    """A task without attributions."""


def test_of_a_task_without_attributions_there_is_nothing():
    assert faithfulness(Evaluation(Inexplicable(), ["a b c"], [None]), bag(), bag(), ["id"], filler="") is None
