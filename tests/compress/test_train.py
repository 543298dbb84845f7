"""Training on modules and arrays: students of ten architectures, the loss against torch and scipy, batches, and runs that stop and go on."""

from __future__ import annotations

import copy
import math
import os
import runpy
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import small
import ten as models
import torch
from refusals import refused
from scipy.special import rel_entr, softmax

from edgekit.compress import _teacher
from edgekit.compress._examples import Examples, batches
from edgekit.compress._layers import keep_layers
from edgekit.compress.distill import ArrayRows, Loss, Objective, Training, distill_module
from edgekit.compress.objective import gram, rows_loss
from edgekit.compress.training import TrainingData, accelerator, train
from edgekit.source import heads
from edgekit.source.batches import tensors
from edgekit.source.processors import text
from edgekit.source.stack import depth
from edgekit.spec.options import ModuleDistillOptions
from edgekit.spec.progress import silent

FAST = Training(
    epochs=4, patience=4, batch=8, learning_rate=1e-3, copies=0, freeze_embeddings=False, precision="float32"
)


def divergence(model, teacher, rows):
    """Mean KL of the answers, by scipy."""
    p, q = (softmax(models.logits(m, rows).astype(np.float64), axis=1) for m in (teacher, model))
    return float(rel_entr(p, q).sum(axis=1).mean())


def lesson(name, count=48):
    rows = models.rows(name, count)
    return rows, models.logits(models.teacher(name), rows).argmax(axis=1)


def objective(kind="single_label_classification", pads=models.PADS):
    return Objective.of_head(heads.get(heads.DEFAULT), kind, pads)


def taught(name="bert", training=FAST, layers=2, progress=silent, **options):
    rows, labels = lesson(name)
    options = {"score": models.accuracy, "pads": models.PADS, "training": training, **options}
    chosen = ModuleDistillOptions(layers=layers, **options)
    return distill_module(
        models.teacher(name),
        ArrayRows(rows, labels),
        ArrayRows(rows[:24], labels[:24]),
        options=chosen,
        progress=progress,
    )


@pytest.mark.train
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_a_student_of_each_architecture_learns(name):
    """Two of four layers: its answers come nearer to the teacher's than they were."""
    teacher, rows = models.teacher(name), models.rows(name, 48)
    before = divergence(keep_layers(teacher, (0, 3)).eval(), teacher, rows)
    student, epochs = taught(name)
    assert not student.training
    assert depth(student) == 2
    assert len(epochs) == 4
    assert epochs[-1].loss < epochs[0].loss
    assert divergence(student, teacher, rows) < 0.8 * before


@pytest.mark.train
def test_a_student_of_one_s_own():
    """A BERT teaches a narrower DistilBERT, which shares nothing with it but the labels: from far away to nearer."""
    own = copy.deepcopy(models.teacher("distilbert"))
    rows, labels = lesson("bert")
    before = divergence(own, models.teacher("bert"), rows)
    given, options = ArrayRows(rows, labels), ModuleDistillOptions(student=own, pads=models.PADS, training=FAST)
    student, _ = distill_module(models.teacher("bert"), given, given, options=options)
    assert student is own
    assert divergence(student, models.teacher("bert"), rows) < 0.6 * before


# ---- the loss


def test_the_parts_of_the_loss():
    """By scipy and torch, one head at a time; a row without a label has the teacher's part alone."""
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((5, 3)).astype(np.float32) * 2 for _ in range(2))
    labels, labelled = np.array([0, 2, 1, 0, 0]), np.array([True, True, True, True, False])
    loss = Loss(teacher=0.6, labels=0.4, relation=0.0, temperature=2.0)
    student, teacher_outputs = ({"logits": torch.from_numpy(a)} for a in (x, y))

    def rows(kind, truth):
        known = [value if has else None for value, has in zip(truth, labelled, strict=True)]
        return rows_loss(loss, objective(kind), {}, student, teacher_outputs, known, None).numpy()

    got = rows("single_label_classification", labels)
    teacher = 4 * rel_entr(softmax(y / 2, axis=1), softmax(x / 2, axis=1)).sum(axis=1)
    own = -np.log(softmax(x, axis=1)[np.arange(5), labels]) * labelled
    np.testing.assert_allclose(got, 0.6 * teacher + 0.4 * own, rtol=1e-5)

    flags = random.random((5, 3)).round().astype(np.float32)
    got = rows("multi_label_classification", flags > 0)
    p, q = 1 / (1 + np.exp(-y / 2)), 1 / (1 + np.exp(-x / 2))
    teacher = -4 * (p * np.log(q) + (1 - p) * np.log(1 - q)).mean(axis=1)
    r = 1 / (1 + np.exp(-x))
    own = -(flags * np.log(r) + (1 - flags) * np.log(1 - r)).mean(axis=1) * labelled
    np.testing.assert_allclose(got, 0.6 * teacher + 0.4 * own, rtol=1e-4)

    got = rows("regression", flags)
    np.testing.assert_allclose(
        got, 0.6 * ((x - y) ** 2).mean(axis=1) + 0.4 * ((x - flags) ** 2).mean(axis=1) * labelled, rtol=1e-5
    )


def test_the_relation_is_between_real_tokens_only():
    random = np.random.default_rng(1)
    ours, theirs = (random.standard_normal((2, 4, 8)).astype(np.float32) for _ in range(2))
    real = np.array([[True] * 4, [True, True, False, False]])
    zeros = {"logits": torch.zeros(2, 1)}
    got = rows_loss(
        Loss(teacher=1e-9, labels=0, relation=1.0), objective("regression"), {}, zeros, zeros, [None, None],
        (gram(torch.from_numpy(ours)), gram(torch.from_numpy(theirs)), torch.from_numpy(real)),
    )  # fmt: skip
    for row, size in ((0, 4), (1, 2)):
        cosines = [
            [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in x[:size]] for a in x[:size]]
            for x in (ours[row], theirs[row])
        ]
        assert float(got[row]) == pytest.approx(np.mean((np.array(cosines[0]) - np.array(cosines[1])) ** 2), rel=1e-4)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_the_teacher_s_answers_are_those_of_each_row_alone(name, tmp_path):
    """Padding, sorting and the file change nothing; relations by the model's own list of hidden states."""
    rows = models.rows(name, 70, seed=5)
    _teacher.write_targets(models.teacher(name), rows, objective(), True, tmp_path, lambda *_: None)
    targets = _teacher.read_targets(tmp_path)
    np.testing.assert_allclose(
        [row["logits"] for row in targets.outputs], models.logits(models.teacher(name), rows), atol=1e-4
    )
    cosines, real = targets.relation([3, 69, 11])
    for place, index in enumerate((3, 69, 11)):
        with torch.inference_mode():
            state = (
                models.teacher(name)(**tensors([rows[index]], {}), output_hidden_states=True)
                .hidden_states[-1][0]
                .numpy()
            )
        unit = state / np.linalg.norm(state, axis=1, keepdims=True)
        size = len(unit)
        assert real[place].tolist() == [True] * size + [False] * (real.shape[1] - size)
        np.testing.assert_allclose(cosines[place, :size, :size].numpy(), unit @ unit.T, atol=2e-3)


@pytest.mark.parametrize(
    "values",
    [
        {"teacher": -0.1},
        {"teacher": 0, "labels": 0},
        {"temperature": 0},
        {"relation": math.nan},
        {"temperature": math.inf},
    ],
    ids=str,
)
def test_a_loss_that_is_none(values):
    with refused("training-settings", "0"):
        Loss(**values)


@pytest.mark.parametrize(
    "values",
    [{"epochs": 0}, {"batch": 0}, {"learning_rate": math.nan}, {"mask": 0.95}, {"precision": "int8"}, {"seed": -1}],
    ids=str,
)
def test_training_that_is_none(values):
    with refused("training-settings", f"{next(iter(values))}"):
        Training(**values)


# ---- what an epoch is made of


def test_batches_hold_each_index_once_and_rows_of_like_length():
    sizes = np.random.default_rng(0).integers(3, 60, 4000)
    chosen = np.arange(0, 4000, 2)
    made = batches(chosen, sizes, 32, seed=4)
    assert sorted(i for b in made for i in b) == chosen.tolist()
    assert len(made) == math.ceil(2000 / 32)
    assert {len(b) for b in made} <= {32, 2000 % 32}
    assert np.mean([sizes[b].max() / sizes[b].mean() for b in made]) < 1.15, "little of a batch is padding"
    assert made == batches(chosen, sizes, 32, seed=4)
    assert made != batches(chosen, sizes, 32, seed=5)
    longest = [sizes[b].max() for b in made]
    assert longest != sorted(longest), "long and short batches take turns"


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch_without_an_example_twice(processes):
    for batch in batches(np.arange(101), np.ones(101, np.int64), 8, seed=0):
        shares = [batch[i::processes] for i in range(processes)]
        assert sorted(i for share in shares for i in share) == sorted(batch)


def test_an_epoch_takes_one_version_of_each_row_and_the_next_epoch_another():
    rows = [{"x": np.array([i])} for i in range(10)]
    examples = Examples([rows, rows, rows], {}, [0] * 10)
    taken = [examples.epoch(n) for n in range(3)]
    assert all((t % 10).tolist() == list(range(10)) for t in taken)
    assert all(len({int(t[i]) for t in taken}) == 3 for i in range(10))
    assert len({int(i) // 10 for i in taken[0]}) == 3, "versions are mixed within an epoch"


def altered(texts, mask, swap, crop, token, seed):
    return text.altered(SimpleNamespace(mask_token=token), texts, mask=mask, swap=swap, crop=crop, seed=seed)


def test_altered_texts():
    texts = [f"{'w' * (i % 3 + 1)} one two three four five six seven eight nine" for i in range(400)]
    made = altered(texts, 0.2, 0.1, 0.0, "[MASK]", seed=1)
    assert made == altered(texts, 0.2, 0.1, 0.0, "[MASK]", seed=1)
    assert made != altered(texts, 0.2, 0.1, 0.0, "[MASK]", seed=2)
    words = [w for t in made for w in t.split()]
    assert words.count("[MASK]") / len(words) == pytest.approx(0.2, abs=0.02)
    assert all(len(t.split()) == 10 for t in made)
    assert all(set(t.split()) <= {"[MASK]", "w", "ww", "www", *texts[0].split()} for t in made)
    assert altered(texts, 0.0, 0.0, 0.0, "[MASK]", seed=1) == texts
    counts = [len(t.split()) for t in altered(texts, 0.0, 0.0, 0.5, "[MASK]", seed=1)]
    assert counts.count(10) / 400 == pytest.approx(0.55, abs=0.08), (
        "half of them, and a tenth of the runs are as long as the text"
    )
    assert min(counts) == 1
    assert all(
        short in long for short, long in zip(altered(texts, 0.0, 0.0, 1.0, "[MASK]", seed=1), texts, strict=True)
    ), "a run of words"
    gone = altered(texts, 0.2, 0.0, 0.0, None, seed=1)
    assert sum(len(t.split()) for t in gone) / 4000 == pytest.approx(0.8, abs=0.02)
    (pair,) = altered([("a b c d e f", "g")], 0.5, 0.0, 0.0, "[MASK]", seed=3)
    assert isinstance(pair, tuple)
    assert pair[1] == "g", "a word alone stays"


def test_rows_of_several_shapes_need_a_pad_value():
    with refused("pads-missing", "x"):
        tensors([{"x": np.zeros(3)}, {"x": np.zeros(4)}], {})


# ---- runs


def weights(model):
    return {n: p.detach().numpy().copy() for n, p in model.named_parameters()}


def same(a, b, atol=0.0):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=atol, rtol=0, err_msg=name)


@pytest.mark.train
def test_the_same_seed_gives_the_same_student_and_another_seed_another():
    short = {**vars(FAST), "epochs": 1}
    one, two, other = (weights(taught(training=Training(**{**short, "seed": seed}))[0]) for seed in (0, 0, 1))
    same(one, two)
    assert any(not np.array_equal(one[n], other[n]) for n in one)


@pytest.mark.train
def test_a_killed_run_goes_on_from_its_last_epoch(tmp_path):
    whole, epochs = taught()

    def killer(step, done, total):
        if step.startswith("epoch 3/") and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taught(work=tmp_path, progress=killer)
    assert sorted(p.name.partition("-")[0] for p in tmp_path.iterdir()) == ["best", "state"], "what is over is removed"
    seen = []
    student, again = taught(work=tmp_path, progress=lambda step, *_: seen.append(step))
    assert {s.split()[1] for s in seen if s.startswith("epoch")} == {"3/4", "4/4"}
    assert [e.loss for e in again] == pytest.approx([e.loss for e in epochs])
    assert [e.score for e in again] == [e.score for e in epochs]
    same(weights(student), weights(whole), atol=1e-7)


@pytest.mark.train
def test_training_stops_when_the_score_does_and_the_best_epoch_is_kept(monkeypatch, tmp_path):
    from edgekit.compress import _student

    kept, scores = [], iter([0.1, 0.5, 0.4, 0.5, 0.9])
    real = _student.shared_outputs

    def spying(module, *rest):
        kept.append(weights(module))
        return real(module, *rest)

    monkeypatch.setattr(_student, "shared_outputs", spying)
    student, epochs = taught(
        training=Training(**{**vars(FAST), "patience": 2, "epochs": 10}), score=lambda *_: next(scores)
    )
    assert [e.score for e in epochs] == [0.1, 0.5, 0.4, 0.5]
    same(weights(student), kept[1])


@pytest.mark.train
def test_the_lowest_score_is_the_best_of_an_error_rate(tmp_path):
    rows, labels = lesson("bert")
    teacher, scores = models.teacher("bert"), iter([0.5, 0.2, 0.3, 0.1])
    (tmp_path / "teacher").mkdir()
    _teacher.write_targets(teacher, rows, objective(), False, tmp_path / "teacher", lambda *_: None)
    examples, targets = Examples([rows], models.PADS, list(labels)), _teacher.read_targets(tmp_path / "teacher")
    best = []

    def score(module):
        best.append(weights(module))
        return next(scores)

    training = Training(**{**vars(FAST), "patience": 2, "epochs": 3})
    student = keep_layers(teacher, (0, 3))
    history = train(
        student,
        TrainingData(examples, targets, objective(), higher_is_better=False),
        score,
        training,
        accelerator("float32"),
        tmp_path,
        lambda *_: None,
    )
    assert [e.score for e in history] == [0.5, 0.2, 0.3]
    same(weights(student), best[1])


@pytest.mark.train
def test_a_run_that_diverges():
    training = Training(
        **{**vars(FAST), "learning_rate": 900.0, "clip": 1e9, "warmup": 0.0, "epochs": 50, "patience": 50}
    )
    with refused("training-diverged", "900"):
        taught("vit", training)


MEMORY = """
import resource, sys, numpy as np, torch
torch.set_num_threads(1)
from transformers import BertConfig, BertForSequenceClassification
from edgekit.compress.distill import ArrayRows, Training, distill_module
from edgekit.spec.options import ModuleDistillOptions
from edgekit import CompressError
model = BertForSequenceClassification(BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, vocab_size=60)).eval()
rows = [{"input_ids": np.full(128, i % 50 + 4), "attention_mask": np.ones(128, np.int64)} for i in range(512)]
def limit(step, done, total):
    if done == 512:  # the teacher has answered: from now on there are some 300 MiB more
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
training = Training(batch=512, copies=0, precision="float32")
try:
    distill_module(model, ArrayRows(rows), ArrayRows(rows[:2], [0, 1]), options=ModuleDistillOptions(layers=1, training=training), progress=limit)
except CompressError as problem:
    print(problem)
"""


@pytest.mark.slow
@pytest.mark.train
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and /proc are Linux's")
def test_memory_that_does_not_suffice():
    """The batch that it names is tried out: it is smaller, and a power of two below."""
    out = small.python(MEMORY, timeout=300).stdout.decode()
    assert out.startswith("Memory is insufficient for a training step of 512 rows. A batch of "), out
    fits = int(out.split("A batch of ")[1].split()[0])
    assert fits in (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert f"--batch {fits}." in out


TWO = """
import copy, sys, numpy as np, torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[2:]
import ten as models
from edgekit.compress.distill import ArrayRows, Training, distill_module
from edgekit.spec.options import ModuleDistillOptions
from accelerate import PartialState
teacher = copy.deepcopy(models.teacher("bert"))
for m in teacher.modules():
    if isinstance(m, torch.nn.Dropout):
        m.p = 0.0
teacher.config.hidden_dropout_prob = teacher.config.attention_probs_dropout_prob = 0.0
for layer in teacher.bert.encoder.layer:
    layer.attention.self.dropout_prob = 0.0
rows = models.rows("bert", 45)
labels = models.logits(teacher, rows).argmax(axis=1)
training = Training(epochs=2, batch=8, learning_rate=1e-3, copies=0, precision="float32")
options = ModuleDistillOptions(layers=2, pads=models.PADS, score=models.accuracy, training=training)
student, epochs = distill_module(teacher, ArrayRows(rows, labels), ArrayRows(rows[:21], labels[:21]), options=options)
state = PartialState()
if state.is_main_process:
    np.savez(sys.argv[1], processes=state.num_processes, loss=[e.loss for e in epochs], score=[e.score for e in epochs],
             **{n: p.detach().numpy() for n, p in student.named_parameters()})
"""


@pytest.mark.slow
@pytest.mark.train
@pytest.mark.system
def test_two_processes_take_the_steps_of_one(tmp_path, monkeypatch):
    """45 rows in batches of 8: the last batch has 5, so shares of 3 and 2.

    Without dropout the weights are the same but for rounding.
    """
    script = tmp_path / "two.py"
    script.write_text(TWO)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "one.npz")])
    runpy.run_path(str(script))
    paths = [str(p) for p in (small.ROOT / "tests" / "compress", small.ROOT / "tests")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # As torchrun and accelerate's launcher start them, one process a rank.
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(script), str(tmp_path / "two.npz"), *paths]
    children = []
    for rank in ("0", "1"):
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment))
    try:
        for child in children:
            output, _ = child.communicate(timeout=300)
            assert child.returncode == 0, output.decode()[-2000:]
    finally:
        for child in children:
            child.kill()
    found = [np.load(tmp_path / f"{name}.npz") for name in ("one", "two")]
    one, two = found
    assert (int(one["processes"]), int(two["processes"])) == (1, 2)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
    np.testing.assert_allclose(two["score"], one["score"])
    for name in one.files:
        if name not in ("processes", "loss", "score") and not name.endswith(
            "key.bias"
        ):  # whose gradient is 0: Adam makes steps of its rounding
            np.testing.assert_allclose(two[name], one[name], atol=2e-4, err_msg=name)


def test_an_option_that_is_misspelt():
    given = ArrayRows([{"input_ids": np.array([1, 2, 3])}] * 2, [0, 1])
    with refused("task-option-unknown", "problem_typ", "problem_type"):
        options = ModuleDistillOptions(layers=1, model_options={"problem_typ": "regression"})
        distill_module(models.teacher("bert"), given, given, options=options)
    own = Objective.of_head(heads.get("text-classification"), "single_label_classification", {})
    with refused("training-objective"):
        options = ModuleDistillOptions(layers=1, task=own, model_options={"problem_type": "regression"})
        distill_module(models.teacher("bert"), given, given, options=options)
