"""Lists, arrays and columns are lists of inputs; a tuple is one pair, and a model built on single texts says so."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import small

import edgekit
from edgekit.bundle.trust import open_bundle
from edgekit.modalities.text import UNBOUND
from edgekit.runtime._inputs import form_warning, list_of
from edgekit.spec.errors import InputError

pytestmark = pytest.mark.device

TEXTS = ["the film was fine", "their cast is strong", "a dull plot"]


class Series:
    """A column of a data frame, as far as a session looks at it."""

    def __init__(self, values):
        self.values = values

    def to_list(self):
        return list(self.values)


@pytest.fixture(scope="module")
def session(float32_ort):
    with edgekit.load(float32_ort) as opened:
        yield opened


@pytest.mark.parametrize(
    "inputs",
    [TEXTS, np.array(TEXTS), np.array(TEXTS, dtype=object), Series(TEXTS)],
    ids=["list", "str array", "object array", "series"],
)
def test_a_list_of_inputs(session, inputs):
    assert list_of(inputs) == TEXTS
    assert all(type(text) is str for text in list_of(inputs))
    assert session(inputs) == session(TEXTS)
    assert len(session.outputs(inputs)) == len(TEXTS)


@pytest.mark.parametrize("value", ["text", np.str_("text"), ("a", "b"), np.zeros((2, 3), np.uint8), None, 3])
def test_a_single_input(value):
    assert list_of(value) is None


@pytest.mark.parametrize("array", [np.array([["a", "b"]]), np.array("a"), np.array([["a"]], dtype=object)])
def test_an_array_of_texts_has_one_axis(session, array):
    with pytest.raises(InputError) as raised:
        session(array)
    assert (raised.value.code, raised.value.fields) == ("input-array-shape", {"axes": array.ndim})


def test_a_missing_value_in_a_column_is_refused(session):
    with pytest.raises(InputError) as raised:
        session(Series(["a", float("nan")]))
    assert raised.value.code == "input-type"


def test_an_empty_array(session):
    assert session(np.array([], dtype=object)) == []


# ---- forms


def test_a_build_records_the_forms_of_its_samples(float32_ort):
    assert json.loads((float32_ort / "manifest.json").read_text())["input_forms"] == ["text"]


def test_a_tuple_warns_once(float32_ort):
    with edgekit.load(float32_ort) as session:
        with pytest.warns(UserWarning, match="one pair of texts") as warned:
            answer = session(("a", "b"))
        assert [w.filename for w in warned] == [__file__], "the place of the caller"
        assert answer.label in small.LABELS
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session(("a", "b"))


def test_a_pair_in_a_list_warns(float32_ort):
    with edgekit.load(float32_ort) as session, pytest.warns(UserWarning, match="one pair of texts"):
        session(["a", ("a", "b")])


def test_single_texts_do_not_warn(float32_ort):
    with edgekit.load(float32_ort) as session, warnings.catch_warnings():
        warnings.simplefilter("error")
        session("a")
        session(TEXTS)
        session(np.array(TEXTS))


@pytest.mark.parametrize("forms", [[], ["pair", "text"], ["pair"]], ids=["older bundle", "both", "pairs"])
def test_a_tuple_is_usual_elsewhere(float32_ort, tmp_path, forms):
    bundle = small.copy(float32_ort, tmp_path / "bundle")
    small.sign(bundle, input_forms=forms)
    with edgekit.load(bundle) as session, warnings.catch_warnings():
        warnings.simplefilter("error")
        session(("a", "b"))


def test_a_text_where_the_model_was_built_on_pairs():
    assert "built on pairs" in form_warning(UNBOUND, [("a", "b"), "a"], ["pair"])
    assert form_warning(UNBOUND, [("a", "b")], ["pair"]) == ""
    assert form_warning(UNBOUND, [3], ["pair"]) == "", "what is no input is refused by the encoder"
    assert form_warning(object(), ["a"], ["pair"]) == "", "a modality of one form"


# ---- reprs


def test_reprs_are_one_short_line(float32_ort, tiny_bundle):
    with edgekit.load(float32_ort) as session:
        assert repr(session) == f"<Session text-classification, onnxruntime float32, {float32_ort}>"
        answers = repr(session(TEXTS))
    assert repr(session) == f"<Session text-classification, onnxruntime float32, {float32_ort}, closed>"
    assert len(answers) < 600
    bundle = open_bundle(tiny_bundle)
    for shown in (repr(bundle), repr(bundle.manifest)):
        assert len(shown) < 2500
        assert "\n" not in shown
    assert repr(bundle).startswith(f"<Bundle {tiny_bundle}, text-classification, ")


def test_samples_are_not_shown(tiny_samples):
    from edgekit import samples

    assert small.CANARY not in repr(samples.read(tiny_samples.train))


def test_dir_lists_the_public_names():
    assert {"build", "distill", "load", "Session"} <= set(dir(edgekit))
    assert dir(edgekit) == sorted(edgekit.__all__)
