"""Token classifiers: from a folder of Transformers to a graph, against torch and Transformers' pipeline."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import tiny
import tiny_words
import torch
from refusals import refused
from transformers import TokenClassificationPipeline

import edgekit.source
from edgekit import tasks
from edgekit.export.graphs import export
from edgekit.runtime import runner
from edgekit.source import heads

LONG = " ".join(tiny.SENTENCES)
INPUTS = [*tiny.SENTENCES[:4], tuple(tiny.SENTENCES[4].split()), LONG]
HEAD = heads.get("token-classification")
EXPORTED = ("bert", "deberta-v2", "modernbert", "roberta")
"""Architectures whose graphs answer here; ``test_architectures`` exports all of them, as classifiers of texts."""


def assert_as_the_pipeline(source, task, encoded, outputs):
    """Expects the answers to ``INPUTS`` to be those of Transformers' pipeline."""
    assert source.task == "token-classification"
    assert len(encoded[-1].arrays["windows"]) > 2
    answers = task.postprocess(outputs, encoded)
    stride = task.settings.stride
    pipeline = TokenClassificationPipeline(
        model=source.module, tokenizer=source.processor, aggregation_strategy="simple", stride=stride
    )
    for value, answer in zip(INPUTS, answers, strict=True):
        if isinstance(value, tuple):
            assert [word.text for word in answer.words] == list(value)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = pipeline(value)
        assert [(e.label, e.start, e.end) for e in answer.entities] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        np.testing.assert_allclose([e.score for e in answer.entities], [e["score"] for e in expected], atol=1e-4)
    assert sum(len(answer.entities) for answer in answers) > 20


@pytest.mark.parametrize("name", sorted(set(tiny.ARCHITECTURES) - set(EXPORTED)))
def test_a_source_answers_as_the_pipeline_does(name, tmp_path):
    source = edgekit.source.read(tiny_words.folder(name))
    source.save_assets(tmp_path)
    task = tasks.get(source.task).load(tmp_path)
    outputs = source.outputs(source.encode(INPUTS))
    assert_as_the_pipeline(source, task, task.preprocess(INPUTS), outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_a_graph_answers_as_the_pipeline_does(name, tmp_path):
    source = edgekit.source.read(tiny_words.folder(name))
    graphs = export(source, tmp_path, INPUTS)
    task = tasks.get(source.task).load(graphs.assets)
    (graph,) = graphs.graphs
    task.check_signature(graph.signature)
    encoded = task.preprocess(INPUTS)
    with runner.open_runner(
        {graph.signature.name: graph.path},
        {graph.signature.name: graph.signature},
        "onnxruntime",
        loop=graphs.loop,
        batch=4,
    ) as opened:
        outputs = opened.run([row.arrays for row in encoded])
    assert_as_the_pipeline(source, task, encoded, outputs)
    reference = source.outputs(source.encode(INPUTS))
    assert task.same_answer(outputs, reference).all()
    assert task.divergence(outputs, reference).max() < 1e-6


def test_the_strategy_is_told_or_simple(tmp_path):
    assert edgekit.source.read(tiny_words.folder("bert")).settings.aggregation == "simple"
    assert edgekit.source.read(tiny_words.folder("bert"), aggregation="average").settings.aggregation == "average"
    with refused("aggregation-unknown"):
        edgekit.source.read(tiny_words.folder("bert"), aggregation="averages")


def test_labels_that_do_not_fit_the_weights_are_refused(tmp_path):
    shutil.copytree(tiny_words.folder("bert"), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["id2label"] = {"0": "O", "1": "B-PER"}
    config["label2id"] = {"O": 0, "B-PER": 1}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with refused("model-head-size", "5"):
        edgekit.source.read(tmp_path / "m")


def batch():
    """Outputs of student and teacher, and feeds: the second row has one token less."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = ({"logits": torch.randn(2, 5, 3, generator=draw)} for _ in range(2))
    feeds = {
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        "words": torch.tensor([[-1, 0, -1, 1, -1], [-1, 0, 1, -1, -1]]),
        "windows": torch.tensor([[5], [4]]),
    }
    return student, teacher, feeds


def test_the_loss_of_labels_is_that_of_the_first_tokens_of_words():
    student, _, feeds = batch()
    truth = HEAD.truth_tensor("simple", [np.array([2, 0]), None])
    found = HEAD.truth_loss("simple", feeds, student, truth)
    p = student["logits"].log_softmax(-1)
    assert found[0] == pytest.approx(float(-(p[0, 1, 2] + p[0, 3, 0]) / 2), rel=1e-5)
    assert torch.isfinite(found).all()


def test_the_loss_of_a_teacher_leaves_padding_out():
    student, teacher, feeds = batch()
    found = HEAD.teacher_loss("simple", feeds, student, teacher, 2.0)
    for row, length in enumerate((5, 4)):
        q, p = (x["logits"][row, :length].div(2).softmax(-1) for x in (student, teacher))
        assert found[row] == pytest.approx(float(4 * (p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    changed = {"logits": student["logits"].clone()}
    changed["logits"][1, 4] = 50
    assert torch.equal(HEAD.teacher_loss("simple", feeds, changed, teacher, 2.0), found)
    draws = [
        HEAD.sampled_nll("simple", feeds, outputs, torch.Generator().manual_seed(1)) for outputs in (student, student)
    ]
    assert draws[0] == draws[1] > 0


def test_no_module_is_trained_on_windows_of_a_row():
    _, _, feeds = batch()
    with refused("training-row-too-long"):
        HEAD.forward(None, {**feeds, "windows": torch.tensor([[5, 3], [4, 0]])})


def test_a_word_without_a_token_is_no_row():
    """Without it the labels of later words would be those of the words before."""
    source = edgekit.source.read(tiny_words.folder("bert"))
    first, second = tiny.SENTENCES[0].split()[:2]
    with refused("word-without-token", "2"):
        source.encode([(first, "\u200b", second)])
    (row,) = source.encode([(first, second)])
    assert sorted(place for place in row["words"] if place >= 0) == [0, 1]
