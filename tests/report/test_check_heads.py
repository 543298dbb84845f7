"""The same verbs for other heads and inputs: several labels, numbers, pairs of texts, a single row."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import onnx
import pytest
import short
import small

import edgekit
from edgekit.bundle.trust import open_bundle
from edgekit.report import check as verbs
from edgekit.report import files
from edgekit.report.predictions import unpack
from edgekit.report.render import write_all
from edgekit.spec.gates import OFF, AccuracyGates, Budget, Gates, LatencyGates
from edgekit.spec.options import CheckOptions, CompareOptions, MeasureOptions

pytestmark = pytest.mark.slow
HEADS = {"multi_label_classification": ("a", "b", "c"), "regression": ("value",)}
OPEN = Gates(
    LatencyGates(9.0, None, None),
    AccuracyGates(0.5, flips=0.9, calibration_error=0.9, slice_drop=0.9),
    OFF.footprint,
    Budget(size_mb=900),
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with short.measurements(processes=1):
        yield


def truth(logits, kind):
    if kind == "regression":
        return [float(row[0]) for row in logits]
    return ["|".join(name for name, value in zip(HEADS[kind], row, strict=True) if value > 0) for row in logits]


def with_head(bundle, place, kind):
    """A copy of a float32 bundle whose head is of another kind; a regression keeps the first output alone."""
    copy = small.copy(bundle, place)
    file = copy / "assets/task.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text("utf-8")), "problem_type": kind, "labels": HEADS[kind]}), "utf-8"
    )
    signatures = json.loads((copy / "manifest.json").read_text("utf-8"))["signatures"]
    outputs = len(HEADS[kind])
    signatures[0]["outputs"][0]["shape"] = ["batch", outputs]
    model = onnx.load(copy / "graphs/model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.startswith("model.classifier."):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[:outputs], tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = outputs
    onnx.save(model, copy / "graphs/model.onnx")
    with np.load(copy / "golden.npz") as golden:
        arrays = {name: golden[name] for name in golden}
    for name in ("outputs.0", "reference"):
        arrays[name] = arrays[name][:, :outputs]
    np.savez(copy / "golden.npz", **arrays)
    small.sign(copy, signatures=signatures)
    return copy


def label_pairs(kind, answer, count):
    """Rows of pairs of texts, each with what ``answer`` gives as its label; a row without any label is left out."""
    pairs = list(zip(small.texts(count, seed=6), small.texts(count, seed=7), strict=True))
    labels = truth(answer(pairs), kind)
    rows = [
        {"text": a, "text_pair": b, "label": label, "topic": "xy"[i % 2]}
        for i, ((a, b), label) in enumerate(zip(pairs, labels, strict=True))
    ]
    return [row for row in rows if row["label"] != ""]


@pytest.fixture(scope="module", params=HEADS)
def head(request, tmp_path_factory, float32_ort):
    """A float32 bundle of such a head for pairs of texts, and its own answers as the truth."""
    folder, kind = tmp_path_factory.mktemp("head"), request.param
    bundle = with_head(float32_ort, folder / "bundle", kind)
    with edgekit.load(bundle) as session:
        rows = label_pairs(kind, partial(small.logits, session), 40)
    return kind, bundle, small.write_jsonl(folder / "dev.jsonl", rows), rows, folder


def test_a_build(tmp_path):
    """A head of numbers for pairs of texts: the bundle has the model's score and its answers."""
    module = small.module(seed=5, labels=HEADS["regression"], problem_type="regression")
    module.save_pretrained(tmp_path / "model")
    small.tokenizer().save_pretrained(tmp_path / "model")
    rows = label_pairs("regression", partial(small.torch_logits, module), 16)
    dev = small.write_jsonl(tmp_path / "dev.jsonl", rows)
    edgekit.build(
        tmp_path / "model", samples=dev, eval=dev, out=tmp_path / "bundle", target=small.target(tmp_path / "exact.toml")
    )
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.score_name == "Pearson r" and manifest.reference_score == pytest.approx(1.0)
    with edgekit.load(tmp_path / "bundle") as session:
        answers = small.logits(session, [(row["text"], row["text_pair"]) for row in rows])
    np.testing.assert_allclose(answers[:, 0], [row["label"] for row in rows], atol=1e-3)


def test_a_comparison_of_every_part(head, tmp_path):
    kind, bundle, dev, rows, _ = head
    found = verbs.report(
        bundle,
        dev,
        options=MeasureOptions(
            reference=bundle, gates=OPEN, slices=["topic"], include_text=True, max_time=0.0, scenarios=()
        ),
    )
    assert found.exit_code() == (4 if kind == "regression" else 0), "a calibration error is of classifiers alone"
    assert found.accuracy.flips == 0 and found.accuracy.drop == pytest.approx(0.0)
    assert (
        found.subjects[1].score == pytest.approx(1.0, abs=1e-3) and found.subjects[1].identity["problem_type"] == kind
    )
    assert {s.column for s in found.accuracy.slices} == {"topic", "length"}
    write_all(found, tmp_path)
    assert files.read(tmp_path / "report.json").subjects[1].predictions == found.subjects[1].predictions
    assert found.subjects[0].predictions.outputs["logits"].shape == (len(rows), len(HEADS[kind]))
    assert rows[0]["text"].split()[0] in (tmp_path / "report.html").read_text("utf-8") or not found.faithfulness.drifts


def test_a_worse_one_is_found(head, tmp_path):
    """Answers that have nothing to do with the texts."""
    kind, bundle, dev, rows, _ = head
    np.save(
        tmp_path / "other.npy", np.random.default_rng(0).normal(size=(len(rows), len(HEADS[kind]))).astype(np.float32)
    )
    found = verbs.compare(
        tmp_path / "other.npy",
        bundle,
        dev,
        options=CompareOptions(gates=Gates(accuracy=AccuracyGates(0.01, flips=0.05))),
    )
    assert found.accuracy.drop < -0.2, "the bundle is the better one"
    told = {"accuracy.error": "pass"} if kind == "regression" else {}
    verdicts = {g.name: g.verdict for g in found.gates if g.name != "accuracy.recall_drop"}
    assert verdicts == {"accuracy.drop": "pass", "accuracy.flips": "regression", **told}
    assert "the answers of the baseline" in " ".join(found.notes).lower()


def test_one_row(head, tmp_path):
    _, bundle, _, rows, _ = head
    one = small.write_jsonl(tmp_path / "one.jsonl", rows[:1])
    with edgekit.load(bundle) as session:
        answer = small.logits(session, [(rows[0]["text"], rows[0]["text_pair"])])
    np.save(tmp_path / "same.npy", answer)
    np.save(tmp_path / "near.npy", answer * np.float32(1.01))
    gates = Gates(LatencyGates(9.0, None, None), AccuracyGates(0.01), OFF.footprint)
    found = verbs.check(bundle, tmp_path / "same.npy", one, options=CheckOptions(gates=gates))
    assert {g.name: g.verdict for g in found.gates}["accuracy.drop"] == "pass", "both answer alike, to the last bit"
    assert np.array_equal(unpack(found.subjects[1].predictions)[0]["logits"], answer[0])
    found = verbs.compare(tmp_path / "near.npy", bundle, one, options=CompareOptions(max_time=0.0))
    assert {g.name: g.verdict for g in found.gates}["accuracy.drop"] in ("inconclusive", "incomparable"), (
        "of one row nothing is proved"
    )
    assert "1 different inputs, too few to tell" in " ".join(found.notes)
    write_all(found, tmp_path / "report")
