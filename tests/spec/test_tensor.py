"""Signatures: which outputs are inputs at the next call, read strictly and written only where there are some."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from refusals import refused
from test_manifest import GOOD

from edgekit.spec.manifest import dumps, loads
from edgekit.spec.parsing import parse, plain
from edgekit.spec.tensor import Signature, TensorSpec, merged


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name, dtype, ("batch", *shape))


PAST, NOW = spec("past", 4, "length", 8), spec("now", 4, "length", 8)
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


def test_nothing_is_written_of_no_state():
    assert set(plain(STEP)) == {"name", "inputs", "outputs"}
    assert parse(Signature, plain(STEP), "a signature") == STEP


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            (("later", "past"),),
            "hands on its output 'later' as its input 'past', and has the outputs scores, now, h_after and the inputs ids, past, h",
        ),
        ((("now", "before"),), "hands on its output 'now' as its input 'before', and has"),
        ((("past", "past"),), "hands on its output 'past'"),
        ((("scores", "ids"),), r"the one is float32 \[batch, length, 9\], the other int64 \[batch, length\]"),
        ((("scores", "past"),), r"the other float32 \[batch, 4, length, 8\]"),
        ((("scores", "h"),), "Export the graph with one type and one shape of both"),
        ((("now", "past"), ("now", "past")), "hands on two outputs as one input"),
    ],
)
def test_a_state_that_cannot_be(state, said):
    with pytest.raises(ValueError, match=said):
        replace(STEP, state=state)


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
    def made():
        return Signature("step", (spec("h", 4, 8),), (output,), (("x", "h"),))

    if fits:
        assert made().state == (("x", "h"),)
    else:
        with pytest.raises(ValueError, match="hands on"):
            made()


def test_a_manifest_of_a_model_with_a_state():
    manifest = replace(GOOD, signatures=(replace(STEP, name="forward", state=STATE),))
    assert loads(dumps(manifest), "manifest.json") == manifest
    assert '"state"' not in dumps(GOOD)
    data = json.loads(dumps(manifest))
    for state, said in (
        ([["now", "ids"]], ("value-invalid", "manifest.json", "now")),
        ([["now", "past", "h"]], ("value-length", "3", "2")),
        ([["now", 1]], "value-type"),
        ({"now": "past"}, "value-type"),
    ):
        data["signatures"][0]["state"] = state
        with refused(said):
            loads(json.dumps(data), "manifest.json")


def test_a_state_does_not_grow():
    """Sessions take no empty axis, and a first axis that varies is held to the largest size of a row."""
    growing = spec("past", 4, "past_length", 8)
    with pytest.raises(ValueError, match=r"\[batch, 4, length, 8\], the other float32 \[batch, 4, past_length, 8\]"):
        Signature("step", (growing,), (NOW,), (("now", "past"),))


def test_several_graphs_as_one_have_no_state():
    encode = Signature("encode", (spec("image", 3, 8, 8),), (spec("memory", 32),))
    whole = merged([encode, replace(STEP, state=STATE)])
    assert (whole.state, whole.varying) == ((), ("length",))
    assert merged([STEP]) is STEP
