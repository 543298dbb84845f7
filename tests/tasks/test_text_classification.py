"""The task's numbers against scipy, scikit-learn and hand-made constants; its tokens against Transformers."""

from __future__ import annotations

import itertools
import json
import threading

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import small
from refusals import refused

from edgekit import tasks
from edgekit.modalities.text import TextEncoder
from edgekit.samples import Sample
from edgekit.spec.errors import IntegrityError, UsageError
from edgekit.spec.protocols import Encoded, Explainable, HasConfidence, HasLabels, HasNumbers
from edgekit.tasks._labels import parse as parse_labels
from edgekit.tasks.text_classification import Settings, bind, load, save

NAMES = ("bad", "so-so", "good")
FIELDS = ("input_ids", "token_type_ids", "attention_mask")
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"

ODD_TEXTS = [
    "the film was very fine.",
    "",
    " ",
    "THE Film\tWAS\n\n fine",
    "😀👍🏽 and 👩‍👩‍👧‍👦",
    "שלום עולם",
    "mixed с кириллицей 中文字 and العربية",
    "e\u0301\u0301\u00e9 \u200b\u200d\ufeff zero width",
    "[MASK] [SEP] [CLS] [PAD] ##ing",
    "\x00\x07 control",
    "word" * 60,
    "a " * 500,
]
PAIRS = [
    ("the plot was dull", "the cast is strong"),
    ("", ""),
    ("a", ""),
    ("", "b"),
    ("a " * 100, "b"),
    ("a", "b " * 100),
    ("a " * 100, "b " * 90),
]


def task(kind, names=NAMES):
    return bind(Settings(kind, names, 8, ("input_ids",)), None)


def tokens(count, truncated=False):
    return [Encoded({"input_ids": np.zeros(3, np.int64)}, truncated)] * count


def rows(logits):
    return [{"logits": row} for row in logits]


def size(encoded):
    return len(encoded.arrays["input_ids"])


def read(made, *values):
    """Labels in a column, as the task reads them."""
    return made.parse_truth([Sample("a", label=value) for value in values], "f").values


def score(made, logits, truth):
    metric = made.metrics[0]
    return metric.of(made.evidence(rows(logits), truth, metric))


def divergence(made, logits, reference):
    return made.divergence(rows(logits), rows(reference)).mean()


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    settings = Settings(SINGLE, NAMES, small.MAX_LENGTH, FIELDS, dict.fromkeys(FIELDS, 0))
    save(settings, small.tokenizer().backend_tokenizer.to_str(), folder)
    return folder


@pytest.fixture(scope="module")
def encode(assets):
    return load(assets).preprocess


# ---- logits to answers


LOGITS = np.array(
    [[0.1, -2.0, 3.0], [80.0, 79.5, -300.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0], [-0.5, 1e-6, 0.5]], np.float32
)


@pytest.mark.parametrize(
    ("kind", "truth"),
    [(SINGLE, lambda x: scipy.special.softmax(x, axis=1)), (MULTI, scipy.special.expit), (REGRESSION, lambda x: x)],
    ids=[SINGLE, MULTI, REGRESSION],
)
def test_probabilities_against_scipy(kind, truth):
    with np.errstate(all="raise", under="ignore"):
        answers = task(kind).postprocess(rows(LOGITS), tokens(5))
    expected = truth(LOGITS.astype(np.float64))
    np.testing.assert_allclose([[a.scores[n] for n in NAMES] for a in answers], expected, rtol=1e-12, atol=1e-300)
    assert all(type(a.score) is float for a in answers)


def test_answers_of_a_single_label_head():
    answers = task(SINGLE).postprocess(rows(LOGITS), tokens(5))
    assert [a.label for a in answers] == ["good", "bad", "so-so", "bad", "good"]
    assert [a.labels for a in answers] == [("good",), ("bad",), ("so-so",), ("bad",), ("good",)]
    assert [a.score for a in answers] == [max(a.scores.values()) for a in answers]
    assert [list(a.scores) for a in answers] == [list(NAMES)] * 5


def test_answers_of_a_multi_label_head():
    answers = task(MULTI).postprocess(
        rows(np.array([[0.1, -2, 3], [-1, -2, -0.1], [0, 1e-6, -1e-6], [1, 2, 3]], np.float32)), tokens(4)
    )
    assert [a.labels for a in answers] == [("bad", "good"), (), ("so-so",), NAMES]
    assert [a.label for a in answers] == ["good", "good", "so-so", "good"]
    assert answers[1].score == pytest.approx(1 / (1 + np.exp(0.1)))


def test_answers_of_a_regression_head():
    one = task(REGRESSION, ("stars",)).postprocess(rows(np.array([[-7.25], [0.5]], np.float32)), tokens(2))
    assert [(a.label, a.score, a.scores, a.labels) for a in one] == [
        ("stars", -7.25, {"stars": -7.25}, ()),
        ("stars", 0.5, {"stars": 0.5}, ()),
    ]
    two = task(REGRESSION, ("joy", "fear")).postprocess(rows(np.array([[1.0, 5.0]], np.float32)), tokens(1))[0]
    assert (two.label, two.score, two.scores) == ("joy", 1.0, {"joy": 1.0, "fear": 5.0})


def test_truncated_is_handed_on():
    mixed = tokens(1, True) + tokens(1, False)
    assert [a.truncated for a in task(SINGLE).postprocess(rows(LOGITS[:2]), mixed)] == [True, False]


# ---- label columns


def test_labels_of_a_single_label_head():
    assert read(task(SINGLE), "good", "bad", "so-so").tolist() == [2, 0, 1]
    assert read(task(SINGLE), 2, "0", 1).tolist() == [2, 0, 1]
    assert read(task(SINGLE, ("1", "0")), 0, "1").tolist() == [1, 0], "a name comes before an index"
    with refused("samples-label", "row 1", "0"):
        read(task(SINGLE, ("1", "2", "3")), 0, 1, 2)  # some are names: then all are, or 1 would be both
    assert read(task(SINGLE, ("False", "True")), True, "False").tolist() == [1, 0]


@pytest.mark.parametrize("label", ["goood", 3, "3", -1, 1.0, True, "", "²", [1], {"a": 1}, "9" * 5000])
def test_labels_that_the_model_does_not_know(label):
    with refused("samples-label", "row 2") as caught:
        read(task(SINGLE), "good", label)
    if label == "goood":
        assert "Did you mean 'good'?" in str(caught.value)


def test_labels_of_a_multi_label_head():
    truth = read(task(MULTI), ["bad", "good"], "bad|so-so", "so-so", [], "good")
    assert truth.dtype == bool
    assert truth.astype(int).tolist() == [[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert read(task(MULTI), "0|2", 1, ["0"], [0, 2]).astype(int).tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
        [1, 0, 1],
    ]
    flags = [[0, 0, 1], [1, 0, 0], [1.0, 1.0, 0.0]]
    assert read(task(MULTI), *flags).astype(int).tolist() == flags, "flags in every row are flags, not indices"
    for wrong in ("bad|god", ["bad", 3], [["bad"]], 1.5):
        with refused("samples-label", "row 1"):
            read(task(MULTI), wrong)
    with refused("samples-label", "row 1"):
        read(task(MULTI), "good|good")


def test_labels_of_a_regression_head():
    assert read(task(REGRESSION, ("stars",)), 1, "2.5", -3.5, "1e-3", [4]).tolist() == [
        [1.0],
        [2.5],
        [-3.5],
        [0.001],
        [4.0],
    ]
    assert read(task(REGRESSION, ("a", "b")), [1, 2], "3|4").tolist() == [[1.0, 2.0], [3.0, 4.0]]
    for wrong in ("good", "nan", float("inf"), "1e999", [1, 2], [], "1|2", "", 10**400, [10**400], [None], {"a": 1}):
        with refused("samples-label", "row 1", "1"):
            read(task(REGRESSION, ("stars",)), wrong)


# ---- scores


def test_accuracy_by_hand():
    logits = np.array([[2, 1, 0], [0, 1, 2], [1, 0, 2], [0, 3, 1], [5, 4, 3]], np.float32)
    assert score(task(SINGLE), logits, np.array([0, 2, 0, 1, 1])) == 3 / 5
    assert task(SINGLE).metrics[0].name == "accuracy"


def test_micro_f1_by_hand_and_against_scikit_learn():
    logits = np.array([[1, -1, -1], [1, 1, -1], [-1, -1, -1], [-1, -1, 1]], np.float32)
    truth = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]], bool)
    # 4 given, 5 true, 3 both: precision 3/4, recall 3/5.
    assert score(task(MULTI), logits, truth) == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5), abs=1e-15)
    assert task(MULTI).metrics[0].name == "micro F1"
    metrics = pytest.importorskip("sklearn.metrics", reason="the hand-made case above holds without it")
    generator = np.random.default_rng(0)
    for _ in range(20):
        logits, truth = generator.normal(size=(30, 3)).astype(np.float32), generator.random((30, 3)) < 0.4
        assert score(task(MULTI), logits, truth) == pytest.approx(
            metrics.f1_score(truth, scipy.special.expit(logits) > 0.5, average="micro"), abs=1e-12
        )


def test_micro_f1_where_there_is_nothing():
    nothing = np.zeros((2, 3), bool)
    assert score(task(MULTI), np.full((2, 3), -1, np.float32), nothing) == 1.0
    assert score(task(MULTI), np.full((2, 3), 1, np.float32), nothing) == 0.0


def test_pearson_against_scipy():
    generator = np.random.default_rng(1)
    truth = generator.normal(size=(40, 2))
    logits = (truth * [1, -0.3] + generator.normal(size=(40, 2)) * 0.5 + 7).astype(np.float32)
    expected = np.mean([scipy.stats.pearsonr(logits[:, i], truth[:, i]).statistic for i in range(2)])
    assert score(task(REGRESSION, ("a", "b")), logits, truth) == pytest.approx(expected, abs=1e-6)
    assert score(task(REGRESSION, ("a",)), truth[:, :1].astype(np.float32) * 3 + 1, truth[:, :1]) == pytest.approx(1.0)
    assert task(REGRESSION).metrics[0].name == "Pearson r"


def test_pearson_where_it_is_not_defined():
    one = task(REGRESSION, ("a",))
    assert np.isnan(score(one, np.array([[1.0], [2.0]], np.float32), np.array([[3.0], [3.0]])))
    assert np.isnan(score(one, np.arange(9.0, dtype=np.float32)[:, None], np.full((9, 1), 0.1))), (
        "whose standard deviation is 1.4e-17"
    )
    assert np.isnan(score(one, np.array([[1.0]], np.float32), np.array([[3.0]])))
    assert "All labels" in one.metrics[0].undefined
    assert score(one, np.full((9, 1), 0.1, np.float32), np.arange(9.0)[:, None]) == 0.0
    assert score(one, np.array([[5.0], [5.0]], np.float32), np.array([[1.0], [2.0]])) == 0.0, (
        "a model that answers a constant"
    )


# ---- divergence from a reference


def logits_of(size, shape=(40, 3)):
    choose = np.random.default_rng(int(size * 10))
    return [(choose.standard_normal(shape) * size).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize("size", [0.1, 2.0, 30.0])
def test_divergence_of_a_single_label_head_against_scipy(size):
    logits, reference = logits_of(size)
    p, q = (scipy.special.softmax(x.astype(np.float64), axis=1) for x in (reference, logits))
    assert divergence(task(SINGLE), logits, reference) == pytest.approx(
        scipy.stats.entropy(p, q, axis=1).mean(), rel=1e-6
    )


@pytest.mark.parametrize("size", [0.1, 2.0, 10.0])
def test_divergence_of_a_multi_label_head_against_scipy(size):
    """A yes and a no for each label, summed over the labels."""
    logits, reference = logits_of(size)
    yes, no = ([scipy.special.expit(sign * x.astype(np.float64)) for x in (reference, logits)] for sign in (1, -1))
    expected = (scipy.special.rel_entr(*yes) + scipy.special.rel_entr(*no)).sum(axis=1).mean()
    assert divergence(task(MULTI), logits, reference) == pytest.approx(expected, rel=1e-6)


def test_divergence_of_a_regression_head_against_scipy():
    """Between normal distributions of unit variance around the two numbers, integrated."""
    logits, reference = logits_of(1.5, (5, 1))

    def density(x, p, q):
        return scipy.stats.norm.pdf(x, p) * (scipy.stats.norm.logpdf(x, p) - scipy.stats.norm.logpdf(x, q))

    expected = np.mean(
        [
            scipy.integrate.quad(density, p - 12, p + 12, args=(p, q))[0]
            for p, q in zip(reference[:, 0], logits[:, 0], strict=True)
        ]
    )
    assert divergence(task(REGRESSION, ("a",)), logits, reference) == pytest.approx(expected, rel=1e-5)
    both = divergence(task(REGRESSION), *logits_of(1.5))
    x, y = (a.astype(np.float64) for a in logits_of(1.5))
    assert both == pytest.approx(
        sum(((x[:, i] - y[:, i]) ** 2).mean() / 2 for i in range(3)), rel=1e-9
    )  # summed over outputs


@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
def test_divergence_is_0_where_answers_are_equal_and_grows(kind):
    logits, reference = logits_of(2.0)
    assert divergence(task(kind), reference, reference) == 0.0
    shift = (logits - reference).astype(np.float32)
    sizes = [divergence(task(kind), reference + part * shift, reference) for part in (0.01, 0.1, 1.0)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(("kind", "expected"), [(SINGLE, 1000.0), (MULTI, 2000.0), (REGRESSION, 1e6)])
def test_divergence_of_far_logits_is_finite(kind, expected):
    """Where probabilities are 0 and 1 in floats: the divergence is what the logits are apart."""
    far = np.array([[1000.0, 0.0] if kind == SINGLE else [1000.0, -1000.0]], np.float32)
    other = far[:, ::-1] if kind != REGRESSION else far + np.float32(1000.0)
    assert divergence(task(kind, ("a", "b")), other, far) == pytest.approx(expected)


# ---- tokens


def both(texts, encode, max_length=small.MAX_LENGTH):
    """Ours, and Transformers', each as lists of three lists."""
    reference = small.tokenizer()
    theirs = []
    for text in texts:
        columns = [[part] for part in (text if isinstance(text, tuple) else (text,))]
        encoded = reference(*columns, truncation=True, max_length=max_length)
        theirs.append([encoded[n][0] for n in FIELDS])
    return [[t.arrays[n].tolist() for n in FIELDS] for t in encode(texts)], theirs


def test_tokens_equal_transformers(encode):
    for text in [*ODD_TEXTS, *PAIRS]:
        ours, theirs = both([text], encode)
        assert ours == theirs
    ours, theirs = both([*ODD_TEXTS, *PAIRS, *small.texts(50, seed=9)], encode)
    assert ours == theirs, "as one list"
    assert max(len(row[0]) for row in ours) == small.MAX_LENGTH


def test_tokens_are_int64(encode):
    for array in encode(["the film"])[0].arrays.values():
        assert (array.dtype, array.shape) == (np.dtype(np.int64), (4,))
    assert size(encode(["the film"])[0]) == 4
    assert list(encode(["the film"])[0].arrays) == list(FIELDS)


@pytest.mark.parametrize(
    ("words", "cut"), [(1, False), (small.MAX_LENGTH - 2, False), (small.MAX_LENGTH - 1, True), (800, True)]
)
def test_truncation_is_told(encode, words, cut):
    for found in (
        encode(["film " * words])[0],
        encode(["film " * words, "x"])[0],
        encode([("", "film " * (words - 1))])[0],
    ):
        assert found.truncated is cut
        assert size(found) == min(words + 2, small.MAX_LENGTH)


def test_a_tokenizer_with_padding_and_truncation_of_its_own(tmp_path):
    reference = small.tokenizer().backend_tokenizer
    reference.enable_padding(length=40)
    reference.enable_truncation(5)
    reference.save(str(tmp_path / "tokenizer.json"))
    found = TextEncoder(tmp_path / "tokenizer.json", FIELDS, small.MAX_LENGTH)(["film " * 20])[0]
    assert (size(found), found.truncated) == (22, False)


def test_tokens_from_threads(encode):
    texts = [*ODD_TEXTS, *small.texts(40, seed=4)]
    expected = [t.arrays["input_ids"].tolist() for t in encode(texts)]
    wrong = []

    def work():
        for text, ids in zip(texts, expected, strict=True):
            if encode([text])[0].arrays["input_ids"].tolist() != ids:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "NoneType"),
        (3, "int"),
        (b"bytes", "bytes"),
        (["a", "b"], "list"),
        (("a",), "a tuple of 1"),
        (("a", "b", "c"), "a tuple of 3"),
        (("a", None), "a tuple of str and NoneType"),
        ((), "a tuple of 0"),
        ({"text": "a"}, "dict"),
    ],
)
def test_what_is_no_text(encode, wrong, said):
    with refused("input-type", f"{said}") as caught:
        encode([wrong])
    assert isinstance(caught.value, ValueError)
    with refused("input-type", f"{said}", "position 2"):
        encode(["a", ("b", "c"), wrong, "d"])


@pytest.mark.parametrize("text", ["secret \ud83d", ("fine", "secret \udc00")])
def test_a_lone_surrogate(encode, text):
    with refused("text-surrogate", "7") as caught:
        encode([text])
    assert "secret" not in str(caught.value)
    with refused("text-surrogate", "position 1"):
        encode(["a", text])


# ---- settings


def test_settings_come_back(assets):
    loaded = load(assets)
    assert loaded.settings == Settings(SINGLE, NAMES, small.MAX_LENGTH, FIELDS, dict.fromkeys(FIELDS, 0))
    assert not loaded.preprocess(["a"])[0].truncated


@pytest.mark.parametrize(
    "change",
    [
        {"problem_type": "multi_label"},
        {"labels": []},
        {"labels": ["a", "a"]},
        {"labels": "ab"},
        {"max_length": True},
        {"maxlength": 3},
    ],
    ids=str,
)
def test_settings_that_are_not_right(assets, tmp_path, change):
    small.copy(assets, tmp_path / "a")
    file = tmp_path / "a" / "task.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises((IntegrityError, UsageError)):
        load(tmp_path / "a")


@pytest.mark.parametrize("name", ["task.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b"{}"], ids=lambda c: str(c)[:8]
)
def test_assets_that_cannot_be_read(assets, tmp_path, name, content):
    small.copy(assets, tmp_path / "a")
    if content is None:
        (tmp_path / "a" / name).unlink()
    else:
        (tmp_path / "a" / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=name):
        load(tmp_path / "a")


def test_names_of_tasks():
    assert "text-classification" in tasks.names()
    assert not any(name.startswith("-") for name in tasks.names()), "files with an underscore are private"
    with refused("name-unknown", "text-clasification", "text-classification"):
        tasks.get("text-clasification")
    with refused("name-unknown"):
        tasks.get("_text")


# ---- ways to write labels


@pytest.mark.parametrize(
    ("names", "values", "expected", "note"),
    [
        (NAMES, [2.0, "1.0", 0], [2, 1, 0], ""),
        (NAMES, ["Good", " bad ", "so-so"], [2, 0, 1], "2 labels of f"),
        (NAMES, ["LABEL_2", "LABEL_0"], [2, 0], "read as indices"),
        (("LABEL_0", "LABEL_1"), ["label_1", "LABEL_0"], [1, 0], "1 labels of f"),
        (("LABEL_0", "LABEL_1"), [1, 0], [1, 0], ""),
        (("no", "yes"), [True, False], [1, 0], "true was read as 'yes'"),
        (("no", "yes"), ["TRUE", "false"], [1, 0], "true was read as 'yes'"),
        (("true", "false"), [True, False], [0, 1], "2 labels of f"),
        (NAMES, [["good"], ["bad"]], [2, 0], ""),
        (NAMES, [[0, 1, 0], [1, 0, 0]], [1, 0], ""),
        (("a|b", "c,d", "[e]"), ["c,d", "a|b", "[e]"], [1, 0, 2], ""),
        (("x", "X"), ["X", "x"], [1, 0], ""),
    ],
)
def test_ways_to_write_a_label(names, values, expected, note):
    truth = parse_labels(SINGLE, names, values, "f")
    assert truth.values.tolist() == expected
    assert note in " ".join(truth.notes)
    assert bool(note) == bool(truth.notes)


@pytest.mark.parametrize(
    ("names", "values", "row", "words"),
    [
        (NAMES, [0, -1], 2, ("'-1'", "row without a label")),
        (NAMES, [1, 2, 3], 3, ("'3'", "counts from 1")),
        (NAMES, [1, 7], 2, ("'7'",)),
        (NAMES, [0, 1.5], 2, ("'1.5'",)),
        (NAMES, [0, float("nan")], 2, ("'nan'",)),
        (NAMES, [True, False], 1, ("'True'",)),
        (("x", "X"), ["x", " X "], 2, ("x, X",)),
        (NAMES, ["LABEL_3", "LABEL_0"], 1, ("7 characters",)),
        (NAMES, ["good", "a secret text of another column"], 2, ("31 characters",)),
        (NAMES, [[1, 1, 0], [1, 0, 0]], 1, ("2 labels",)),
    ],
)
def test_labels_that_are_refused(names, values, row, words):
    with refused("samples-label", f"f, row {row}", *words, row=row) as caught:
        parse_labels(SINGLE, names, values, "f")
    assert "secret" not in str(caught.value)


# ---- how clear an answer is


@pytest.mark.parametrize("kind", [SINGLE, MULTI])
@pytest.mark.parametrize("names", [NAMES, NAMES[:2], NAMES[:1]], ids=len)
def test_no_change_within_the_tolerance_changes_a_decided_answer(kind, names):
    """And one that is a little larger does, in the worst direction: every logit up or down by so much, tried in all ways."""
    made, signs = task(kind, names), np.array(list(itertools.product((-1.0, 1.0), repeat=len(names))))
    logits = np.random.default_rng(3).standard_normal((40, len(names))) * 3
    if kind == SINGLE and len(names) == 1:
        assert made.decided(rows(logits), 1e30).all(), "there is no other label"
        return
    for row in logits:
        tolerance = widest(made, row)
        changed = [
            [not made.same_answer(rows((row + share * tolerance * sign)[None]), rows(row[None]))[0] for sign in signs]
            for share in (0.999, 1.001)
        ]
        assert not any(changed[0])
        assert any(changed[1])


def widest(made, row):
    """The largest tolerance at which a row is decided, by bisection."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if made.decided(rows(row[None]), middle)[0] else (low, middle)
    return low


def test_a_number_is_never_decided():
    assert not task(REGRESSION).decided(rows(LOGITS), 1e-9).any()


@pytest.mark.parametrize(
    ("kind", "capabilities"),
    [
        (SINGLE, {HasConfidence, HasLabels, Explainable}),
        (MULTI, {HasConfidence, HasLabels, Explainable}),
        (REGRESSION, {HasNumbers, Explainable}),
    ],
)
def test_capabilities_are_those_of_the_head(kind, capabilities):
    assert {c for c in (HasConfidence, HasLabels, HasNumbers, Explainable) if isinstance(task(kind), c)} == capabilities


def test_the_most_frequent_label_of_equal_inputs_counts_and_the_mean_number():
    merged = task(SINGLE).merge_truth([np.int64(2), np.int64(0), np.int64(0)])
    assert (merged, merged.dtype) == (0, np.int64)
    assert task(SINGLE).merge_truth([np.int64(1), np.int64(0)]) == 1, "of equally many the first"
    flags = [np.array(f, bool) for f in ([1, 0, 0], [1, 1, 0], [1, 1, 0])]
    assert task(MULTI).merge_truth(flags).tolist() == [True, True, False]
    assert task(REGRESSION).merge_truth([np.array([1.0, 2.0, 0.0]), np.array([2.0, 4.0, 0.0])]).tolist() == [
        1.5,
        3.0,
        0.0,
    ]


def test_which_rows_have_a_label():
    made = task(MULTI)
    assert made.labelled([Sample("a", label="bad"), Sample("b", empty=True), Sample("c")]) == [True, False, False]
    assert made.labelled([Sample("a", others=dict.fromkeys(NAMES, 1))] * 2) == [True, True]
    assert made.labelled([Sample("a", others={"bad": 1, "good": 0})] * 2) == [False, False], "one label has no column"
    assert made.labelled([]) == []


def test_rows_of_nan_are_never_right():
    """Compared with anything NaN is neither larger nor smaller, so that such a row could count as right."""
    logits = np.array([[np.nan, 1, 2], [1, 2, 3]], np.float32)
    for kind, truth in (
        (SINGLE, np.array([0, 2])),
        (MULTI, np.array([[0, 1, 1], [1, 1, 1]], bool)),
        (REGRESSION, np.zeros((2, 3))),
    ):
        made = task(kind)
        assert np.isnan(made.evidence(rows(logits), truth, made.metrics[0])).any(axis=1).tolist() == [True, False]


def test_rows_that_write_their_labels_in_different_ways():
    with refused("samples-label", "row 2", "1", "0", "3"):
        parse_labels(MULTI, NAMES, [dict.fromkeys(NAMES, 1), ["good"]], "f")
