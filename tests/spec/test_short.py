"""Reprs of results are one short line, whatever they hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from edgekit.spec.short import ShortRepr, shorten
from edgekit.tasks import Classification

pytestmark = pytest.mark.device


@dataclass(frozen=True, repr=False)
class Result(ShortRepr):
    name: str
    values: tuple[float, ...]
    hidden: str = field(default="secret", repr=False)


def test_shorten():
    assert shorten(0.123456) == "0.1235"
    assert shorten([1, 2]) == "[1, 2]"
    assert shorten((1,)) == "(1,)"
    assert shorten(list(range(10))) == "[0, 1, 2, 3, ... 6 more]"
    assert shorten({"z": 1, "a": 2}) == "{'z': 1, 'a': 2}", "the model's order, not the alphabet's"
    assert shorten(np.zeros((512, 384), np.float32)) == "<float32 [512, 384]>"
    assert len(shorten("x" * 1000)) <= 60


def test_a_dataclass_shows_its_fields():
    assert repr(Result("a", (0.5,) * 6)) == "Result(name='a', values=(0.5, 0.5, 0.5, 0.5, ... 2 more))"
    assert shorten([Result("a", ())]) == "[Result(name='a', values=())]"


def test_an_answer_of_many_labels_is_short():
    scores = {f"label {i}": i / 1000 for i in range(1000)}
    answer = Classification("label 999", 0.999, scores, ("label 999",), False)
    shown = repr(answer)
    assert shown.startswith("Classification(label='label 999', score=0.999, scores={'label 0': 0, ")
    assert "... 996 more}" in shown
    assert len(shown) < 250
