"""Heads and processors: what every one of them must have, how a head is found, and batches that are cut back to rows."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import tiny_words
import torch
from refusals import refused

from edgekit import modalities, source, tasks
from edgekit.source import batches, heads, processors
from edgekit.spec.head import Head, Processors
from edgekit.spec.tensor import Signature, TensorSpec

each = pytest.mark.parametrize("task", heads.names())


def members(protocol):
    """Names of a protocol with the parameters of its functions, ``self`` left out; None for what is no function."""
    found = {name: None for name in protocol.__annotations__}
    return found | {
        n: list(inspect.signature(f).parameters)[1:]
        for n, f in vars(protocol).items()
        if inspect.isfunction(f) and not n.startswith("_")
    }


def test_every_task_has_a_head_of_its_name():
    assert heads.names() == tasks.names()
    assert heads.DEFAULT in heads.names()
    assert {tasks.get(name).MODALITY for name in heads.names()} <= set(processors.names())
    for name in processors.names():
        assert modalities.get(name)


@each
def test_a_head_has_all_that_is_asked_of_one(task):
    for name, parameters in members(Head).items():
        found = getattr(heads.get(task), name)
        if parameters is not None:
            assert len(inspect.signature(found).parameters) == len(parameters), name
    assert heads.for_architectures([f"Bert{heads.get(task).ARCHITECTURES}"]) == task


@pytest.mark.parametrize("modality", processors.names())
def test_processors_have_all_that_is_asked_of_them(modality):
    for name, parameters in members(Processors).items():
        found = getattr(processors.get(modality), name)
        if parameters is not None:
            assert len(inspect.signature(found).parameters) == len(parameters), name


def test_an_unknown_task_and_an_unknown_option():
    with refused("name-unknown", "text-clasification", "text-classification"):
        source.from_module(torch.nn.Linear(1, 1), object(), "text-clasification")
    with refused("task-option-unknown", "problem_typ", "problem_type"):
        source.read(tiny.folder("bert"), problem_typ="regression")
    assert heads.for_architectures(["BertForMaskedLM"]) is None


def test_an_option_of_a_module_leaves_its_outputs_questioned():
    """Probabilities are refused where another option is given, and taken where they are said to be some."""
    module, processor = tiny_words.made("bert")

    class Ends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config = module, module.config

        def forward(self, **feeds):
            return self.inner(**feeds).logits.softmax(dim=2)

    texts = list(tiny.SENTENCES[:4])

    def read(**told):
        return source.from_module(Ends(), processor, "token-classification", **told)

    with refused("model-probabilities", "probabilities"):
        read(aggregation="first").check_outputs(texts)
    with refused("outputs-unknown", "probabilitys"):
        read(outputs="probabilitys")
    found = read(outputs="probabilities", aggregation="first")
    found.check_outputs(texts)
    assert found.settings.aggregation == "first"
    plain = source.from_module(module, processor)
    rows = plain.encode(texts)
    for undone, logits in zip(found.outputs(rows), plain.outputs(rows), strict=True):
        expected = torch.from_numpy(logits["logits"]).log_softmax(dim=1).numpy()
        np.testing.assert_allclose(undone["logits"], expected, atol=1e-4)


def test_what_is_left_out_changes_nothing():
    assert source.read(tiny.folder("bert"), problem_type=None, tokenizer=None).digest == tiny.source("bert").digest
    assert source.read(tiny.folder("bert"), tokenizer="file").digest != tiny.source("bert").digest


# ---- batches


_VARYING = TensorSpec("y", "float32", ("batch", "sequence", 2))
TOKENS = Signature(
    "forward",
    (TensorSpec("x", "int64", ("batch", "sequence"), 7),),
    (_VARYING, TensorSpec("z", "float32", ("batch", 3))),
)


def test_outputs_that_vary_are_cut_to_the_length_of_their_row():
    """A module that says which values it was fed: padding is fed, and is not given back."""
    rows = [{"x": np.arange(size)} for size in (3, 1, 40, 2, *[5] * 40)]

    class Module(torch.nn.Module):
        pass

    fed = []

    def forward(module, feeds):
        fed.append(feeds["x"])
        x = feeds["x"].float()
        return {"y": torch.stack([x, -x], dim=2), "z": x.sum(dim=1, keepdim=True).repeat(1, 3)}

    told = []
    found = batches.reference(forward, Module(), TOKENS, rows, lambda *step: told.append(step))
    for row, got in zip(rows, found, strict=True):
        np.testing.assert_array_equal(got["y"], np.stack([row["x"], -row["x"]], axis=1))
        assert got["z"].shape == (3,)
    assert any((feeds == 7).any() for feeds in fed), "some rows were padded"
    assert [step[1] for step in told] == [32, 44]


def test_rows_without_a_pad_value_are_of_one_shape():
    images = [{"x": np.full((3, 4, 4), i, np.float32)} for i in range(3)]
    assert batches.tensors(images, {})["x"].shape == (3, 3, 4, 4)
    stacked = batches.stack_outputs([{"y": np.ones(2)}, {"y": np.ones(3)}])["y"]
    assert stacked.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_model_without_a_tokenizer_has_no_vocabulary(monkeypatch, tmp_path):
    from edgekit.compress import vocabulary

    monkeypatch.setattr(vocabulary, "processors_of", lambda task: SimpleNamespace(NOUN="image processor"))
    with refused("vocabulary-none"):
        vocabulary.trim_vocab(tiny.folder("bert"), samples=tmp_path / "no-such-file.jsonl", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
