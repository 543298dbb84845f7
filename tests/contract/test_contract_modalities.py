"""The contract of all modalities: what samples, row ids, timing and reports rely on, whatever an input is.

A modality enters with a row in ``CASES``: how to bind it to a model, and cells of a sample file that make different inputs.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import small
from refusals import refused

from edgekit import modalities, tasks
from edgekit.modalities.image import ImageModality
from edgekit.modalities.pixels import Pixels
from edgekit.modalities.text import TextEncoder, TextModality
from edgekit.modalities.words import WordEncoder, WordsModality
from edgekit.spec.errors import SamplesError
from edgekit.spec.protocols import HasLimit

LONGEST = 40


@dataclass(frozen=True)
class Case:
    """A modality.

    Attributes:
        name: of its module.
        bind: binds it to a model, with the help of a folder.
        encode: makes arrays of inputs.
        cells: of rows of a sample file, all different.
        wrong: values of a cell of the first role that are no input.
    """

    name: str
    bind: Callable
    encode: Callable
    cells: list
    wrong: list


def text(folder):
    small.tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    return TextModality(
        TextEncoder(folder / "tokenizer.json", ("input_ids", "attention_mask"), small.MAX_LENGTH), small.MAX_LENGTH
    )


def words(folder):
    small.tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    return WordsModality(
        WordEncoder(folder / "tokenizer.json", ("input_ids", "attention_mask"), small.MAX_LENGTH, 8), small.MAX_LENGTH
    )


def images(folder):
    from PIL import Image

    draw = np.random.default_rng(0)
    for name, shape in (("a.png", (30, 20, 3)), ("b.jpg", (20, 30, 3))):
        Image.fromarray(draw.integers(40, 200, shape, np.uint8)).save(folder / name)
    return ImageModality(Pixels(8, 8, resize=(8, 8)))


CASES = [
    Case(
        "words",
        words,
        lambda modality, inputs: [row.arrays for row in modality.encoder(inputs)],
        [
            {"words": ["The", "film", "is", "fine", "."]},
            {"words": "The film is fine ."},
            {"words": '["The", "film is"]'},
            {"words": ""},
        ],
        [None, 3, [], ["a", 3], "\ud83d", ["\ud83d"]],
    ),
    Case(
        "image",
        images,
        lambda modality, inputs: [{"pixel_values": row} for row in modality.encode(inputs)],
        [{"image": "a.png"}, {"image": "b.jpg"}],
        [None, 3, "", "nowhere.png", "../a.png"],
    ),
    Case(
        "text",
        text,
        lambda modality, inputs: [row.arrays for row in modality.encoder(inputs)],
        [
            {"text": "The film is fine."},
            {"text": "The film is fine.", "text_pair": ""},
            {"text": "The film", "text_pair": " is fine."},
            {"text": ""},
        ],
        [None, 3, ["a"], "\ud83d"],
    ),
]


@pytest.fixture(params=CASES, ids=lambda c: c.name)
def case(request):
    return request.param


@pytest.fixture
def modality(case, tmp_path):
    if case.name == "image":
        pytest.importorskip("PIL")
    return case.bind(tmp_path)


@pytest.fixture
def inputs(case, modality, tmp_path):
    return [modality.read(cells, tmp_path) for cells in case.cells]


def test_every_modality_of_a_task_is_here():
    assert {case.name for case in CASES} == {tasks.get(name).MODALITY for name in tasks.names()}


def test_reading_needs_no_model(case, modality, inputs, tmp_path):
    unbound = modalities.get(case.name).UNBOUND
    assert unbound.roles == modality.roles
    assert all(set(cells) <= set(modality.roles) and modality.roles[0] in cells for cells in case.cells)
    read = [unbound.read(cells, tmp_path) for cells in case.cells]
    assert [unbound.content(value) for value in read] == [modality.content(value) for value in inputs]
    assert set(unbound.perturbations) == set(modality.perturbations)


def test_what_is_no_input_is_refused(case, modality, tmp_path):
    for value in case.wrong:
        with pytest.raises(SamplesError) as caught:
            modality.read({modality.roles[0]: value}, tmp_path)
        assert not str(caught.value)[0].isupper(), "the place of the row comes before the message"


def test_content_tells_inputs_apart(modality, inputs):
    contents = [modality.content(value) for value in inputs]
    assert all(isinstance(content, bytes) for content in contents)
    assert len(set(contents)) == len(inputs)
    assert [modality.content(value) for value in pickle.loads(pickle.dumps(inputs))] == contents


def test_generated_inputs_are_of_their_number_and_size(case, modality):
    for count in (1, 2, 25):
        made = modality.generate(count, LONGEST, 3)
        assert len(made) == count
        assert [modality.content(a) for a in made] == [
            modality.content(b) for b in modality.generate(count, LONGEST, 3)
        ]
        sizes = [modality.size(row) for row in case.encode(modality, made)]
        assert min(sizes) >= 1
        assert sizes[-1] == max(sizes) or sizes[-1] >= LONGEST
    assert [modality.content(a) for a in made] != [modality.content(b) for b in modality.generate(25, LONGEST, 4)]
    modality.check(made[:5], "f")


def test_joined_inputs_are_long_and_cut_ones_are_not(case, modality, inputs):
    rows = case.encode(modality, modality.join(inputs, LONGEST))
    assert all(modality.size(row) >= LONGEST for row in rows)
    for row in [*rows, *case.encode(modality, inputs)]:
        cut = modality.cut(row, LONGEST - 7)
        assert modality.size(cut) == min(modality.size(row), max(LONGEST - 7, 1))
        assert {name: array.dtype for name, array in cut.items()} == {name: array.dtype for name, array in row.items()}


def test_a_disturbance_is_decided_by_its_generator(modality, inputs):
    changed = set()
    for name, disturb in modality.perturbations.items():
        for value in inputs:
            one, two = (disturb(value, random.Random(5)) for _ in range(2))
            assert (one is None) == (two is None)
            if one is not None:
                assert modality.content(one) == modality.content(two) != modality.content(value)
                changed.add(name)
    assert changed == set(modality.perturbations)


def test_each_unit_is_left_out_once(modality, inputs):
    for filler in {modality.filler(), ""}:
        for value in inputs:
            units, without = modality.occlude(value, filler)
            without = list(without)
            assert len(units) == len(without)
            assert all(modality.content(other) != modality.content(value) for other in without)


def test_an_input_can_be_quoted(modality, inputs):
    quotes = [modality.quote(value) for value in inputs]
    assert all(isinstance(quote, str) for quote in quotes)
    assert len(set(quotes)) >= len(quotes) - 1


def test_a_limit_is_set_and_taken_back(modality):
    if not isinstance(modality, HasLimit):
        return
    usual = modality.limit
    modality.set_limit(3, truncate=True)
    assert (modality.limit.characters, modality.limit.truncate) == (3, True)
    modality.set_limit()
    assert modality.limit == usual
    with refused("limit-invalid"):
        modality.set_limit(-1)


@pytest.mark.parametrize("name", sorted({tasks.get(name).MODALITY for name in tasks.names()}))
def test_a_modality_without_a_model_can_be_asked_what_it_has(name):
    """``isinstance`` reads the properties of a capability: without a tokenizer these must answer, not raise."""
    unbound = modalities.get(name).UNBOUND
    if isinstance(unbound, HasLimit):
        assert unbound.limit.characters > 10**9
