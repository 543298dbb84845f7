"""Calls with their raw outputs are the calls of a session."""

from __future__ import annotations

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit.runtime.evaluation import answer_list, answer_one

TEXTS = [*small.texts(20, seed=3), "film " * 90]


@pytest.fixture
def session(float32_bundle):
    with edgekit.load(float32_bundle) as opened:
        yield opened


def test_one_input(session):
    for text in TEXTS:
        answer, outputs, truncated = answer_one(session, text)
        assert answer == session(text)
        assert truncated is (text == TEXTS[-1])
        np.testing.assert_array_equal(outputs["logits"], session.outputs([text])[0]["logits"])


def test_a_list(session):
    outputs, truncated = answer_list(session, tuple(TEXTS))
    assert truncated == 1
    np.testing.assert_array_equal(small.column(outputs), small.logits(session, TEXTS, batched=True))


def test_a_list_is_not_one_input(session):
    with refused("input-type"):
        answer_one(session, TEXTS)


def test_a_closed_session(session):
    session.close()
    for call, value in ((answer_one, TEXTS[0]), (answer_list, TEXTS)):
        with refused("session-closed"):
            call(session, value)


def test_the_form_of_an_input_is_warned_of_as_in_a_call(session):
    with pytest.warns(UserWarning, match="pair"):
        answer_one(session, ("a film", "another"))
