"""The layer stack of ten architectures: found, cut, saved and loaded; against the model itself with its layers skipped by hand."""

from __future__ import annotations

import numpy as np
import pytest
import ten as models
import torch
from refusals import refused
from transformers import AlbertConfig, AlbertForSequenceClassification

from edgekit.compress._layers import capture_last_layer, keep_layers, spread_evenly
from edgekit.source.stack import depth, stack

PATHS = {
    "bert": "bert.encoder.layer", "roberta": "roberta.encoder.layer", "distilbert": "distilbert.transformer.layer", "electra": "electra.encoder.layer",
    "mpnet": "mpnet.encoder.layer", "whisper": "encoder.layers", "wav2vec2": "wav2vec2.encoder.layers", "hubert": "hubert.encoder.layers",
}  # fmt: skip


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_the_stack_is_found(name):
    path, layers = stack(models.teacher(name))
    assert path == PATHS.get(name, path)
    assert len(layers) == depth(models.teacher(name)) == models.LAYERS
    assert layers is models.teacher(name).get_submodule(path)


@pytest.mark.parametrize("keep", [(0, 3), (1,), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_a_student_is_the_teacher_with_layers_skipped(name, keep, tmp_path, monkeypatch):
    teacher, rows = models.teacher(name), models.rows(name, 5, seed=3)
    before = models.logits(teacher, rows)
    student = keep_layers(teacher, keep).eval()
    answers = models.logits(student, rows)
    assert np.array_equal(models.logits(teacher, rows), before), "the teacher is as it was"

    _, layers = stack(teacher)
    kind = layers[0](torch.zeros(1, 4, 32)) if name != "whisper" else layers[0](torch.zeros(1, 4, 32), None)
    for index in set(range(models.LAYERS)) - set(keep):
        monkeypatch.setattr(layers[index], "forward", lambda x, *_, **__: (x,) if isinstance(kind, tuple) else x)
    if name != "hubert" or len(keep) == models.LAYERS:  # that one also mixes all layers, of which a student has fewer
        np.testing.assert_allclose(answers, models.logits(teacher, rows), atol=1e-5)
    else:
        assert student.layer_weights.shape == (len(keep) + 1,)

    student.save_pretrained(tmp_path)
    loaded, said = type(teacher).from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert depth(loaded) == len(keep)
    np.testing.assert_allclose(models.logits(loaded.eval(), rows), answers, atol=1e-5)


def test_the_weighted_sum_keeps_the_weights_of_the_layers_that_stay():
    teacher = models.teacher("hubert")
    with torch.no_grad():
        teacher.layer_weights.copy_(torch.arange(5.0))
    try:
        assert keep_layers(teacher, (0, 2)).layer_weights.tolist() == [0.0, 1.0, 3.0]
    finally:
        torch.nn.init.constant_(teacher.layer_weights, 1 / 5)


def test_albert_goes_through_its_one_layer_less_often(monkeypatch):
    config = AlbertConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=60,
        embedding_size=16,
    )
    teacher = AlbertForSequenceClassification(config).eval()
    assert depth(teacher) == 4
    student = keep_layers(teacher, (0, 3)).eval()
    calls = []
    stack(student)[1][0].register_forward_hook(lambda *_: calls.append(1))
    student(input_ids=torch.arange(4, 10)[None])
    assert len(calls) == depth(student) == student.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("count", "of", "expected"),
    [
        (3, 6, (0, 2, 5)),
        (2, 6, (0, 5)),
        (1, 6, (0,)),
        (6, 6, (0, 1, 2, 3, 4, 5)),
        (4, 12, (0, 4, 7, 11)),
        (6, 12, (0, 2, 4, 7, 9, 11)),
    ],
)
def test_evenly(count, of, expected):
    assert spread_evenly(count, of) == expected


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ((0, 1, 2, 3, 4), ("student-layers", "0", "1", "2", "3", "4")),
        ((), ("student-layers", "0", "3")),
        ((1, 0), ("student-layers", "1", "0")),
        ((1, 1), ("student-layers", "1")),
        ((0, 4), ("student-layers", "0", "4")),
        ((-1, 2), ("student-layers", "1", "2")),
    ],
)
def test_layers_that_are_not_there(keep, said):
    with refused(said):
        keep_layers(models.teacher("bert"), keep)


def test_a_module_without_a_stack():
    with refused("model-no-layers"):
        stack(torch.nn.Sequential(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_the_tap_gives_what_the_last_layer_gives(name):
    """By the model's own list of hidden states; where a norm follows the stack, that norm of the tap."""
    model, row = models.teacher(name), models.rows(name, 1)[0]
    feeds = {n: torch.from_numpy(a)[None] for n, a in row.items()}
    with torch.inference_mode(), capture_last_layer(model) as seen:
        states = model(**feeds, output_hidden_states=True).hidden_states
    (state,) = seen
    assert state.shape == states[-1].shape
    after = (
        model.encoder.layer_norm
        if name == "whisper"
        else model.hubert.encoder.layer_norm
        if name == "none"
        else (lambda x: x)
    )
    with torch.inference_mode():
        np.testing.assert_allclose(after(state).numpy(), states[-1].numpy(), atol=1e-5)
    with torch.inference_mode():
        model(**feeds)
    assert seen[0] is state, "the hook is gone"
