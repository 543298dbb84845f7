"""Heads and neurons cut out of the weights; against the whole model with the same heads and neurons set to nothing by hand."""

from __future__ import annotations

import copy
import itertools
import json
import shutil

import numpy as np
import onnx
import pytest
import small
import ten as models
import tiny
import torch
from refusals import refused
from scipy.special import rel_entr, softmax

import edgekit.samples
import edgekit.source
from edgekit.compress._fisher import Importance, importance
from edgekit.compress._layers import keep_layers, prune_units
from edgekit.compress.folders import save
from edgekit.compress.objective import Loss, Objective
from edgekit.compress.plan import Latency, Table, choose, largest_saving
from edgekit.compress.prune import Base, Recovery, prune_layers
from edgekit.compress.training import Training
from edgekit.compress.vocabulary import trim_source
from edgekit.export.graphs import export
from edgekit.quantize.methods import dynamic
from edgekit.source import heads
from edgekit.source.stack import KEPT_SIZES, blocks, stack, widths
from edgekit.spec.quantization import Quantization

WITHOUT_HEADS = ("mpnet",)
FAST = Training(
    epochs=15, patience=15, batch=16, learning_rate=1e-3, copies=0, precision="float32", loss=Loss(labels=0.0)
)


def objective(kind):
    return Objective.of_head(heads.get(heads.DEFAULT), kind, models.PADS)


def masked(model, picks, rows):
    """The answers of the whole model when all other heads and neurons give nothing."""
    handles = []
    for layer, found, (some, neurons) in zip(stack(model)[1], blocks(model), picks, strict=True):
        for path, keep, count in (
            (found.attention[3] if found.attention else None, some, found.heads),
            (found.down, neurons, found.neurons),
        ):
            if path is None:
                continue
            linear = layer.get_submodule(path)
            factor = torch.zeros(count)
            factor[list(keep)] = 1.0
            factor = factor.repeat_interleave(linear.in_features // count)
            handles.append(linear.register_forward_pre_hook(lambda _, given, factor=factor: (given[0] * factor,)))
    try:
        return models.logits(model, rows)
    finally:
        for handle in handles:
            handle.remove()


PICKS = [([0, 2], [*range(0, 64, 3)]), ([1, 2, 3], [*range(5, 64)]), ([3], [7]), ([0, 1, 2, 3], [*range(64)])]


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_a_pruned_model_is_the_whole_one_with_parts_set_to_nothing(name):
    teacher, rows = models.teacher(name), models.rows(name, 5, seed=3)
    picks = [([0] if name in WITHOUT_HEADS else h, n) for h, n in PICKS]
    before = models.logits(teacher, rows)
    pruned = prune_units(teacher, picks).eval()
    assert getattr(pruned.config, KEPT_SIZES) == widths(pruned) == [[len(h), len(n)] for h, n in picks]
    answers = models.logits(pruned, rows)
    np.testing.assert_allclose(answers, masked(teacher, picks, rows), rtol=1e-5, atol=2e-5)
    assert np.abs(answers - before).max() > 0.05, "these parts do something"
    assert np.array_equal(models.logits(teacher, rows), before), "the teacher is as it was"
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in teacher.parameters())


@pytest.mark.parametrize("name", ["albert", "deberta-v2", "modernbert"])
def test_gates_positions_and_shared_layers(name):
    """Gates beside their neurons, terms of positions that go through queries and keys, and one layer that is applied again."""
    model = edgekit.source.read(tiny.folder(name)).module
    before = widths(model)
    picks = [([0, 2][: max(1, h - 2)] if h > 1 else [0], [*range(1, n, 3)]) for h, n in before]
    rows = tiny.rows(tiny.source(name), tiny.SENTENCES)
    np.testing.assert_allclose(
        models.logits(prune_units(model, picks).eval(), rows), masked(model, picks, rows), rtol=1e-4, atol=2e-5
    )


def test_a_folder_with_other_widths_than_its_weights_is_refused(pruned_bert, tmp_path):
    folder = shutil.copytree(pruned_bert, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for wrong in ([[2, 30]], [[2, 30], [4, 30]], [[2, 30], "x"]):
        (folder / "config.json").write_text(json.dumps({**config, KEPT_SIZES: wrong}))
        with refused("model-load"):
            _ = edgekit.source.read(folder).module


@pytest.fixture
def pruned_bert(tmp_path):
    origin = edgekit.source.read(tiny.folder("bert"))
    return saved(origin, [([0, 2], [*range(30)]), ([3], [*range(20, 50)])], tmp_path / "bert")


def saved(origin, picks, folder):
    save(prune_units(origin.module, picks), origin.processor, folder, {})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_a_pruned_folder_is_read_exported_and_smaller(name, tmp_path):
    origin = edgekit.source.read(tiny.folder(name))
    before = widths(origin.module)
    picks = [(list(range(max(1, h - 1))), list(range(1, n // 2))) for h, n in before]
    module = prune_units(origin.module, picks)
    rows = origin.encode(tiny.TEXTS)
    expected = tiny.logits(
        edgekit.source.Source("pruned", "local", origin.task, "x", lambda: (module, origin.processor), origin.kind),
        rows,
    )
    save(module, origin.processor, tmp_path / "model", {})
    found = edgekit.source.read(tmp_path / "model")
    assert widths(found.module) == [[len(h), len(n)] for h, n in picks]
    np.testing.assert_allclose(tiny.logits(found, rows), expected, atol=1e-5)
    export(found, tmp_path / "small", tiny.TEXTS)  # compares the graph with torch
    sizes = weight_sizes(tmp_path / "small" / "model.onnx")
    width = found.module.config.hidden_size
    for (all_heads, all_neurons), (some_heads, some_neurons) in zip(before, picks, strict=True):
        kept_width = width // all_heads * len(some_heads)
        assert len(some_neurons) in sizes and kept_width in sizes
        # Keys and values of the last layer are packed, and may be as wide together as the layer had neurons.
        assert all_neurons not in sizes or all_neurons == 2 * kept_width


@pytest.mark.parametrize("name", ["beit", "deit", "vit"])
def test_a_pruned_image_model_is_read(name, tmp_path):
    """Their weights have other names on the hub than in memory."""
    images = pytest.importorskip("tiny_images")
    origin = edgekit.source.read(images.folder(name))
    picks = [([0, 2], list(range(1, 40))) for _ in widths(origin.module)]
    module = prune_units(origin.module, picks)
    save(module, origin.processor, tmp_path / "model", {})
    found = edgekit.source.read(tmp_path / "model").module.state_dict()
    assert {n: t.tolist() for n, t in found.items()} == {n: t.tolist() for n, t in module.state_dict().items()}


def weight_sizes(graph):
    """Numbers of rows and of columns of all matrices that a graph multiplies by."""
    nodes = onnx.load(graph, load_external_data=False).graph
    used = {name for node in nodes.node if node.op_type in ("MatMul", "Gemm") for name in node.input}
    return {size for weight in nodes.initializer if weight.name in used for size in weight.dims}


@pytest.mark.slow
def test_the_same_answers_by_fused_attention_in_int8(pruned_bert, tmp_path):
    """ONNX Runtime's fused attention reads the number of heads and the sizes of Q, K and V from a graph that was pruned."""
    import onnxruntime

    origin = edgekit.source.read(pruned_bert)
    floats = export(origin, tmp_path / "float", tiny.TEXTS)
    made = dynamic.quantize(floats, None, Quantization(weight_bits=7), tmp_path / "int8", lambda *_: None)
    operators = {n.op_type for n in onnx.load(made.graphs[0].path).graph.node}
    assert "QAttention" in operators
    rows = origin.encode(tiny.TEXTS)
    session = onnxruntime.InferenceSession(made.graphs[0].path)
    answers = [
        session.run(None, {i.name: np.array([row[i.name]], np.int64) for i in session.get_inputs()})[0][0]
        for row in rows
    ]
    expected = tiny.logits(origin, rows)
    assert np.abs(np.array(answers) - expected).max() < 0.1 * np.ptp(expected)


# ---- what matters, and what goes


@pytest.mark.slow
def test_importance_is_the_fisher_information():
    """Against finite differences of the probabilities, label by label, of one row that is drawn for very often."""
    (row,), model = models.rows("bert", 1, seed=5), copy.deepcopy(models.teacher("bert"))
    count = 3000
    found = importance(model, [row] * count, objective("single_label_classification"), 0, lambda *_: None)
    step = 1e-3
    model.double()

    def log_probabilities(layer, part, index, value):
        b = blocks(model)[layer]
        linear = stack(model)[1][layer].get_submodule(b.down if part else b.attention[3])
        factor = torch.ones((b.heads, b.neurons)[part], dtype=torch.float64)
        factor[index] = value
        each = factor.repeat_interleave(linear.in_features // len(factor))
        handle = linear.register_forward_pre_hook(lambda _, given: (given[0] * each,))
        try:
            return (
                model(**{n: torch.from_numpy(a)[None] for n, a in row.items()})
                .logits[0]
                .log_softmax(0)
                .detach()
                .numpy()
            )
        finally:
            handle.remove()

    for layer, part, index in ((0, 0, 1), (3, 0, 2), (1, 1, 10), (3, 1, 40)):
        slopes = (log_probabilities(layer, part, index, 1 + step) - log_probabilities(layer, part, index, 1 - step)) / (
            2 * step
        )
        expected = float((np.exp(log_probabilities(layer, part, index, 1.0)) * slopes**2).sum())
        assert found[layer][part][index] / count == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_importance_of_other_heads(kind):
    model, rows = models.teacher("bert"), models.rows("bert", 20)
    found = importance(model, rows, objective(kind), 0, lambda *_: None)
    assert all((layer.heads > 0).all() and (layer.neurons > 0).all() for layer in found)
    assert all(p.requires_grad for p in model.parameters()), "as they were"


def test_a_layer_that_is_applied_again_has_one_importance():
    model = edgekit.source.read(tiny.folder("albert")).module
    rows = tiny.rows(tiny.source("albert"), tiny.SENTENCES)
    found = importance(model, rows, Objective.of(tiny.source("albert")), 0, lambda *_: None)
    assert [(len(i.heads), len(i.neurons)) for i in found] == [(4, 64)]


def test_what_goes_is_the_least_for_the_time_that_it_takes():
    """Against every combination there is."""
    random = np.random.default_rng(0)
    table = Table({1: 0.02, 2: 0.06, 3: 0.08}, {2: 0.01, 10: 0.07, 16: 0.1})
    for wanted in (0.05, 0.15, 0.25):
        matters = [Importance(random.random(3) ** 4, random.random(16) ** 4) for _ in range(2)]
        picks = choose(matters, table, wanted)

        def worth(counts, matters=matters):
            """Time saved, importance lost."""
            gain = sum(
                table.saved(part, len(m), n) for m, part, n in zip(flat(matters), (0, 1, 0, 1), counts, strict=True)
            )
            return gain, sum(np.sort(m)[: len(m) - n].sum() for m, n in zip(flat(matters), counts, strict=True))

        every = [worth(c) for c in itertools.product(range(1, 4), range(2, 17, 2), range(1, 4), range(2, 17, 2))]
        best = min(lost for gain, lost in every if gain >= wanted)
        gain, lost = worth([len(part) for pick in picks for part in pick])
        assert gain >= wanted * 0.995
        assert lost <= best * 1.02 + 1e-9
        for (chosen, neurons), m in zip(picks, matters, strict=True):
            assert set(chosen) == set(np.argsort(-m.heads)[: len(chosen)])
            assert set(neurons) == set(np.argsort(-m.neurons)[: len(neurons)])


def flat(matters):
    return [part for m in matters for part in m]


def test_the_most_that_can_go():
    assert largest_saving(
        [Importance(np.ones(3), np.ones(16))], Table({1: 0.02, 3: 0.08}, {2: 0.01, 16: 0.09})
    ) == pytest.approx(0.14)


# ---- the whole of it, by a clock that counts


@pytest.fixture(scope="module")
def lesson(tmp_path_factory, tiny_module):
    folder = tmp_path_factory.mktemp("slices")
    texts = small.texts(160, seed=31)
    answers = small.torch_logits(tiny_module, texts).argmax(axis=1)
    train = small.write_jsonl(
        folder / "train.jsonl", [{"text": t, "label": small.LABELS[a]} for t, a in zip(texts, answers, strict=True)]
    )
    dev = small.write_jsonl(
        folder / "dev.jsonl", small.labelled(tiny_module, small.texts(200, seed=33), count=60, wrong=3)
    )
    return [edgekit.samples.read(train)], edgekit.samples.read(dev)


def values(outputs):
    return np.stack([row["logits"] for row in outputs])


def counting(asked):
    """A clock by which a neuron takes 1, a head 8, and all else 100."""

    def measure(sources):
        asked.append(len(sources))
        costs = [100 + sum(8 * h + n for h, n in widths(s.module)) for s in sources]
        return [c / costs[0] for c in costs]

    return Latency(measure, {"name": "counting"})


@pytest.mark.slow
@pytest.mark.train
def test_it_is_as_fast_as_was_asked_and_comes_back(tiny_model, lesson):
    origin, asked = edgekit.source.read(tiny_model), []
    made = prune_layers(origin, Base(origin), 1.8, Recovery(*lesson, None), counting(asked))
    assert made.speedup >= 1.8 * 0.99
    before, after = (100 + sum(8 * h + n for h, n in w) for w in (made.before, made.after))
    assert before / after == pytest.approx(made.speedup)
    assert made.student.epochs == ()
    fresh = []
    again = prune_layers(origin, Base(origin), 1.8, Recovery(*lesson, None), counting(fresh))
    assert (again.after, fresh) == (made.after, []), "from the cache"
    learnt = prune_layers(origin, Base(origin), 1.8, Recovery(*lesson, FAST), counting([]))
    assert learnt.after == made.after
    apart = [
        rel_entr(softmax(values(m.student.reference), axis=1), softmax(values(m.student.outputs), axis=1)).sum()
        for m in (made, learnt)
    ]
    assert apart[1] < apart[0], "it learnt the answers of the model as it was"
    found = edgekit.source.read(learnt.student.folder)
    assert [tuple(w) for w in widths(found.module)] == list(learnt.after)
    assert f"{learnt.speedup:.2f} x as fast" in learnt.text()


def test_more_than_all_cannot_go(tiny_model, lesson):
    origin = edgekit.source.read(tiny_model)
    with refused("prune-speedup", "5.00", "16", "2.84"):
        prune_layers(origin, Base(origin), 5.0, Recovery(*lesson, None), counting([]))


def test_a_clock_that_does_not_keep_what_its_table_says(tiny_model, lesson):
    """Whatever is cut, the model gets only so fast: the best of three plans is taken, and it is said that it falls short."""
    origin, shares = edgekit.source.read(tiny_model), iter((0.8, 0.7, 0.75))

    def measure(sources):
        if len(sources) == 2:
            return [1.0, next(shares)]
        return counting([]).measure(sources)

    clock = Latency(measure, {"name": "stubborn"})
    made = prune_layers(origin, Base(origin), 1.6, Recovery(*lesson, None), clock)
    assert made.speedup == pytest.approx(1 / 0.7)
    assert "note: The requested speedup of 1.6 x was not reached: the fastest of 3 plans is used." in made.text()
    (plan,) = clock.used.values()
    replayed = prune_layers(
        origin, Base(origin), 1.6, Recovery(*lesson, None), Latency(measure, {"name": "other"}, dict(clock.used))
    )
    assert replayed.after == made.after
    assert json.loads(plan)["speedup"] == made.speedup
    with refused("race-record-other"):
        prune_layers(
            origin, Base(origin), 1.7, Recovery(*lesson, None), Latency(measure, {"name": "other"}, dict(clock.used))
        )


@pytest.mark.parametrize("speedup", [1.0, 0.5, 100.0, float("nan")])
def test_a_speedup_that_is_none(speedup, tiny_model, lesson):
    origin = edgekit.source.read(tiny_model)
    with refused("prune-speedup", "1", "100"):
        prune_layers(origin, Base(origin), speedup, Recovery(*lesson, None), counting([]))


def test_layers_of_a_pruned_model_keep_their_widths(pruned_bert):
    student = keep_layers(edgekit.source.read(pruned_bert).module, (1,))
    assert widths(student) == getattr(student.config, KEPT_SIZES) == [[1, 30]]


def test_a_pruned_model_is_trimmed(pruned_bert, tmp_path):
    origin = edgekit.source.read(pruned_bert)
    trim_source(origin, ["no"], None, None, tmp_path / "out", lambda *_: None)
    rows = [
        tiny.logits(edgekit.source.read(f), edgekit.source.read(f).encode(["no"]))
        for f in (pruned_bert, tmp_path / "out")
    ]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
