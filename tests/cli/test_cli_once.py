"""An option that takes one value and is given twice is an error, on every verb that has one."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("build", "model", "--target", "cpu", "--target", "jetson"), "--target"),
        (("build", "model", "-o", "one", "--out", "two"), "--out"),
        (("check", "bundle", "--seed=1", "--seed=1"), "--seed"),
        (("run", "bundle", "--threads", "1", "a text", "--threads", "2"), "--threads"),
    ],
)
def test_an_option_of_one_value_is_given_once(edgekit, arguments, option):
    said = edgekit(*arguments)
    assert said.code == 2
    assert f"Option '{option}' is given 2 times" in said.err


def test_options_of_several_values_and_flags_may_be_repeated(edgekit, tmp_path):
    arguments = (
        "--budget",
        "accuracy_drop=0.1",
        "--budget",
        "p50_ms=3",
        "--force",
        "--force",
        "--samples",
        "x",
        "--eval",
        "y",
        "-o",
        str(tmp_path / "out"),
    )
    said = edgekit("build", str(tmp_path / "none"), *arguments)
    assert "times" not in said.err
    assert said.code == 2, "the model does not exist"


@pytest.mark.parametrize(("old", "new"), [("slice", "prune"), ("trim", "trim-vocab"), ("report", "eval -o FOLDER")])
def test_a_verb_of_an_earlier_release_says_its_new_name(edgekit, old, new):
    said = edgekit(old, "model", "--samples", "x")
    assert (said.code, said.out) == (2, "")
    assert "error[verb-renamed]" in said.err
    assert f"edgekit {new}" in said.err.splitlines()[-1]
