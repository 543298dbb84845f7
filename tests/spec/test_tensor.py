"""Signatures: states from an output to an input of the next call, parsed strictly and only written if there are any."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from refusals import refused
from test_manifest import GOOD

from edgekit.spec.manifest import dumps, loads
from edgekit.spec.parsing import parse, plain
from edgekit.spec.tensor import Signature, TensorSpec, merge_signatures


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name, dtype, ("batch", *shape))


PAST = spec("past", 4, "length", 8)
NOW = spec("now", 4, "length", 8)
STEP = Signature(
    "step",
    (spec("ids", "length", dtype="int64"), PAST, spec("h", 32)),
    (spec("scores", "length", 9), NOW, spec("h_after", 32)),
)
STATE = (("now", "past"), ("h_after", "h"))


def test_a_state_is_read_as_it_was_written():
    signature = replace(STEP, state=STATE)
    assert parse(Signature, json.loads(json.dumps(plain(signature))), "a signature") == signature
    assert plain(signature)["state"] == [["now", "past"], ["h_after", "h"]]


def test_an_empty_state_is_not_written():
    assert set(plain(STEP)) == {"name", "inputs", "outputs"}
    assert parse(Signature, plain(STEP), "a signature") == STEP


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        ((("later", "past"),), ("'later'", "'past'", "scores, now, h_after", "ids, past, h")),
        ((("now", "before"),), ("'now'", "'before'")),
        ((("past", "past"),), ("'past'",)),
        ((("scores", "ids"),), ("float32 [batch, length, 9]", "int64 [batch, length]")),
        ((("scores", "past"),), ("float32 [batch, 4, length, 8]",)),
        ((("scores", "h"),), ("float32 [batch, 32]",)),
        ((("now", "past"), ("now", "past")), ("'step'",)),
    ],
)
def test_an_invalid_state(state, parts):
    with pytest.raises(ValueError, match="'step'") as caught:
        replace(STEP, state=state)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("output", "fits"),
    [
        (spec("x", 4, 8), True),
        (spec("x", 4, 9), False),
        (spec("x", "length", 8), False),
        (spec("x", 4), False),
        (spec("x", "rest", 8), False),
        (spec("x", 4, 8, dtype="float16"), False),
        (TensorSpec("x", "float32", ("rows", 4, 8)), False),
    ],
    ids=str,
)
def test_what_an_input_takes(output, fits):
    def make_signature():
        return Signature("step", (spec("h", 4, 8),), (output,), (("x", "h"),))

    if fits:
        assert make_signature().state == (("x", "h"),)
    else:
        with pytest.raises(ValueError, match=r"'x'.*'h'"):
            make_signature()


def test_a_manifest_of_a_model_with_a_state():
    manifest = replace(GOOD, signatures=(replace(STEP, name="forward", state=STATE),))
    assert loads(dumps(manifest), "manifest.json") == manifest
    assert '"state"' not in dumps(GOOD)
    data = json.loads(dumps(manifest))
    for state, error in (
        ([["now", "ids"]], ("value-invalid", "manifest.json", "now")),
        ([["now", "past", "h"]], ("value-length", "3", "2")),
        ([["now", 1]], "value-type"),
        ({"now": "past"}, "value-type"),
    ):
        data["signatures"][0]["state"] = state
        with refused(error):
            loads(json.dumps(data), "manifest.json")


def test_a_state_does_not_grow():
    """Sessions accept no empty axis, and the first variable axis is limited to the largest size of a row."""
    growing = spec("past", 4, "past_length", 8)
    with pytest.raises(ValueError, match=r"\[batch, 4, length, 8\].* float32 \[batch, 4, past_length, 8\]"):
        Signature("step", (growing,), (NOW,), (("now", "past"),))


def test_several_graphs_as_one_have_no_state():
    encode = Signature("encode", (spec("image", 3, 8, 8),), (spec("memory", 32),))
    whole = merge_signatures([encode, replace(STEP, state=STATE)])
    assert (whole.state, whole.varying) == ((), ("length",))
    assert merge_signatures([STEP]) is STEP
