"""Disturbed texts by the definition of each kind; drops counted by hand; a real bundle."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import small
from heads import MULTI, REGRESSION, SINGLE, evaluation, rows
from heads import task as head
from refusals import refused

import edgekit
from edgekit import tasks
from edgekit.modalities.text import UNBOUND
from edgekit.report import predictions, robustness
from edgekit.spec.parsing import parse, plain
from edgekit.spec.report import Robustness
from edgekit.spec.subject import Perturbed
from edgekit.stats.paired import tango_interval

CANARY = "zyxcanaryqv"
KINDS = ("typos", "case", "punctuation", "homoglyphs", "invisible", "truncation")
LONG = "The quick brown fox jumps over the lazy dog, and nobody was ever really surprised by it."


def task(kind=SINGLE, labels=("lower", "UPPER")):
    return head(kind, labels)


def disturb(texts, rows=200, seed=0):
    return robustness.disturb(texts, UNBOUND, rows, seed)


def inputs_of(found):
    """Each kind's rows and their disturbed inputs."""
    return {name: (list(places), [make(row) for row in places]) for name, (places, make) in found.items()}


def outputs_of(answer, found, *progress):
    return robustness.predict_disturbed(lambda texts: rows(answer(texts)), found, *progress)


def own(the_task, found, clean, disturbed, truth):
    return robustness.score_disturbed(evaluation(the_task, truth), found, rows(clean), disturbed)


def between(the_task, found, before, after, truth):
    return robustness.compare_disturbed(evaluation(the_task, truth), found, before, after)


def of(name, text, seed=0, row=0):
    return UNBOUND.perturbations[name](text, random.Random(f"{seed}/{name}/{row}"))


# ---- which rows


def test_rows_and_texts():
    texts = [LONG, "", "🎬", "ALL CAPS, NO LOWER", ("one two three.", "four"), "שלום עולם יפה"]
    found = disturb(texts, rows=100, seed=1)
    assert {name: places for name, (places, _) in found.items()} == {
        "typos": [0, 3, 4, 5],
        "case": [0, 4],
        "punctuation": [0, 2, 3, 4, 5],
        "homoglyphs": [0, 3, 4],
        "invisible": [0, 3, 4, 5],
        "truncation": [0, 3, 4, 5],
    }
    assert inputs_of(found)["case"][1] == [LONG.upper(), ("ONE TWO THREE.", "FOUR")]
    assert disturb([], rows=5) == disturb(["", " "], rows=5) == {}
    with refused("disturbances-none", "0"):
        disturb(texts, rows=0)


def test_the_seed_decides_and_a_text_does_not_depend_on_the_others():
    texts = small.texts(60, seed=9)
    assert inputs_of(disturb(texts, 20, seed=1)) == inputs_of(disturb(texts, 20, seed=1))
    assert disturb(texts, 20, seed=1)["case"][0] != disturb(texts, 20, seed=2)["case"][0]
    assert len({of("typos", LONG, seed, row) for seed in range(5) for row in range(5)}) == 25
    some, every = (inputs_of(disturb(texts, count, seed=1)) for count in (20, 60))
    for name, (places, made) in some.items():
        assert len(places) == 20
        whole = dict(zip(*every[name], strict=True))
        assert [whole[row] for row in places] == made


class Pictures:
    """A modality of arrays, which counts what is made."""

    def __init__(self):
        self.made = 0

    @property
    def perturbations(self):
        return {"noise": self.noise, "never": lambda value, draw: None}

    def noise(self, value, draw):
        self.made += 1
        return None if value[0] == 3 else value + draw.random()


def test_disturbed_inputs_are_made_when_they_are_asked_for():
    pictures, inputs = Pictures(), [np.full(1000, float(i)) for i in range(8)]
    found = robustness.disturb(inputs, pictures)
    assert (list(found), found["noise"][0], pictures.made) == (["noise"], [0, 1, 2, 4, 5, 6, 7], 8)
    first, second = (found["noise"][1](5) for _ in range(2))
    assert np.array_equal(first, second)
    assert pictures.made == 10


def test_a_model_is_asked_about_few_large_arrays_at_once(monkeypatch):
    monkeypatch.setattr(predictions, "_REQUEST_BYTES", 20_000)
    sizes = []

    def answer(group):
        sizes.append(len(group))
        return np.array([[v[0], 0] for v in group], np.float32)

    made = outputs_of(answer, robustness.disturb([np.full(1000, float(i)) for i in range(8)], Pictures()))
    assert sizes == [3, 3, 1]
    assert len(made["noise"]) == 7


# ---- scores


def shouts(texts):
    """Calls a text UPPER when more than half of its letters are capitals."""
    share = [np.mean([c.isupper() for c in t if c.isalpha()] or [0]) for t in texts]
    return np.array([[0.0, 8 * s - 4] for s in share], np.float32)


def deaf(texts):
    return np.tile(np.float32([[1.0, 0.0]]), (len(texts), 1))


def test_losses_counted_by_hand():
    texts = [f"row number {chr(97 + i % 26)}{'x' * i} of them." for i in range(60)]
    truth = np.zeros(60, np.int64)
    truth[:6] = 1  # wrong undisturbed, right in capitals
    found = disturb(texts, rows=60)
    clean = shouts(texts)
    result = {p.name: p for p in own(task(), found, clean, outputs_of(shouts, found), truth)}
    assert tuple(result) == KINDS
    upper = result["case"]
    assert (upper.rows, upper.changed, upper.clean, upper.disturbed) == (60, 60, 0.9, 0.1)
    assert upper.drop == pytest.approx(0.8)
    assert (upper.low, upper.high) == pytest.approx(tango_interval(54, 6, 60))
    calm = result["typos"]
    assert (calm.changed, calm.clean, calm.disturbed, calm.drop) == (0, 0.9, 0.9, 0.0)
    assert (calm.low, calm.high) == pytest.approx(tango_interval(0, 0, 60))
    against = {r.name: r for r in between(task(), found, outputs_of(deaf, found), outputs_of(shouts, found), truth)}
    assert (against["case"].rows, against["case"].before, against["case"].after) == (60, 0.9, 0.1)
    assert (against["case"].low, against["case"].high) == pytest.approx(tango_interval(54, 6, 60))
    assert against["truncation"].drop == 0.0
    said = json.dumps(plain([*result.values(), *against.values()]))
    assert "number" not in said
    assert [parse(Perturbed, d, "x") for d in json.loads(json.dumps(plain(list(result.values()))))] == list(
        result.values()
    )
    assert [parse(Robustness, d, "x") for d in json.loads(json.dumps(plain(list(against.values()))))] == list(
        against.values()
    )


def test_only_the_rows_that_were_disturbed_count():
    texts = ["ALREADY LOUD."] * 5 + ["quiet."] * 5
    truth = np.array([0] * 5 + [0] * 5)  # the first five are wrong, and not disturbed by capitals
    found = {"case": disturb(texts)["case"]}
    result = own(task(), found, shouts(texts), outputs_of(shouts, found), truth)[0]
    assert (result.rows, result.clean, result.disturbed) == (5, 1.0, 0.0)


def test_numbers_and_several_labels():
    texts = [f"{'word ' * (i % 7 + 3)}end" for i in range(30)]
    found = disturb(texts)

    def count(group):
        return np.array([[len(t.split())] for t in group], np.float32)

    numbers = count(texts).astype(np.float64)
    result = {p.name: p for p in own(task(REGRESSION, ("n",)), found, count(texts), outputs_of(count, found), numbers)}
    assert result["case"].clean == result["case"].disturbed == pytest.approx(1.0)
    cut = count(inputs_of(found)["truncation"][1])[:, 0]
    assert result["truncation"].disturbed == pytest.approx(np.corrcoef(cut, numbers[:, 0])[0, 1])
    assert result["truncation"].low <= result["truncation"].drop <= result["truncation"].high
    flags = np.concatenate([count(texts) > 6, count(texts) > 8], axis=1)

    def both(group):
        return np.concatenate([count(group) - 6.5, count(group) - 8.5], axis=1).astype(np.float32)

    several = {
        p.name: p for p in own(task(MULTI, ("long", "longer")), found, both(texts), outputs_of(both, found), flags)
    }
    assert several["punctuation"].clean == 1.0
    assert several["truncation"].disturbed < 1.0


@pytest.mark.parametrize("numbers", [[1.0, 1.0, 1.0], [2.0], [1.0, 1.0, 1.0, 1.0, 2.0]])
def test_a_score_that_is_not_defined_is_not_given(numbers):
    texts = [f"some words {i}" for i in range(len(numbers))]
    truth = np.array(numbers)[:, None]
    found = disturb(texts)

    def answer(group):
        return np.array([[float(len(t))] for t in group], np.float32)

    made = outputs_of(answer, found)
    the_task = task(REGRESSION, ("n",))
    if len(set(numbers)) == 1:
        assert own(the_task, found, answer(texts), made, truth) == between(the_task, found, made, made, truth) == ()
    else:  # few, but defined
        assert all(np.isfinite([p.drop, p.low, p.high]).all() for p in own(the_task, found, answer(texts), made, truth))


def test_one_row():
    found = disturb(["only this one, alas"])
    result = own(task(), found, deaf(["x"]), outputs_of(deaf, found), np.array([0]))
    assert [p.name for p in result] == list(KINDS)
    assert all(p.low < 0 < p.high for p in result)  # one row proves nothing


def test_calls_and_progress():
    texts = small.texts(120, seed=3)
    found = disturb(texts, rows=120)
    sizes, told = [], []

    def answer(group):
        sizes.append(len(group))
        return np.array([[hash(t) % 1000, 0] for t in group], np.float32)

    made = outputs_of(answer, found, lambda *step: told.append(step))
    assert max(sizes) == 50
    total = sum(len(places) for places, _ in found.values())
    assert sum(sizes) == total == told[-1][1] == told[-1][2]
    assert {step[0] for step in told} == {"robustness"}
    for name, (_, group) in inputs_of(found).items():
        assert [row["logits"][0] for row in made[name]] == [float(hash(t) % 1000) for t in group]


def test_answers_to_other_inputs():
    with refused("rows-differ", "2", "1") as caught:
        outputs_of(lambda g: np.zeros((1, 2)), disturb([f"{CANARY} one two", "three four five"]))
    assert CANARY not in str(caught.value)


def test_rows_of_other_samples():
    found = disturb([f"{CANARY} one two"] * 3)
    made = outputs_of(deaf, found)
    with refused("rows-differ", "2", "3"):
        own(task(), found, deaf(["a", "b"]), made, np.zeros(3, np.int64))
    broken = {name: rows(np.full((len(x), 2), np.nan)) for name, x in made.items()}
    with refused("outputs-not-finite"):
        own(task(), found, deaf("abc"), broken, np.zeros(3, np.int64))
    with refused("outputs-not-finite"):
        between(task(), found, made, broken, np.zeros(3, np.int64))


# ---- a real bundle


def test_a_bundle(float32_ort, tiny_samples):
    texts = [row["text"] for row in tiny_samples.rows]
    the_task = tasks.get("text-classification").load(float32_ort / "assets")
    truth = np.array([the_task.labels.index(row["label"]) for row in tiny_samples.rows])
    given = evaluation(the_task, truth, inputs=texts)
    found = disturb(texts, rows=40)
    with edgekit.load(float32_ort) as session:
        clean, made = session.outputs(texts), robustness.predict_disturbed(session.outputs, found)
        second = robustness.predict_disturbed(session.outputs, found)
    result = {p.name: p for p in robustness.score_disturbed(given, found, clean, made)}
    assert tuple(result) == KINDS
    assert (result["case"].changed, result["case"].drop) == (0, 0.0)  # its tokenizer is uncased
    assert (result["invisible"].changed, result["invisible"].drop) == (0, 0.0)  # and takes control characters out
    assert result["typos"].changed > 0  # words that it knows become letters
    for kind in result.values():
        places = found[kind.name][0]
        assert kind.clean == pytest.approx(np.mean([clean[i]["logits"].argmax() == truth[i] for i in places]))
        assert kind.disturbed == pytest.approx(
            np.mean([row["logits"].argmax() == truth[i] for i, row in zip(places, made[kind.name], strict=True)])
        )
    same = robustness.compare_disturbed(given, found, made, second)
    assert [(r.name, r.drop) for r in same] == [(name, 0.0) for name in KINDS]
    assert small.CANARY not in json.dumps(plain([*result.values(), *same]))
