"""The same verbs for other heads and inputs: several labels, numbers, pairs of texts, a single row."""

from __future__ import annotations

import numpy as np
import pytest
import small

import edgekit
from edgekit.report import check as verbs
from edgekit.report import files, run
from edgekit.report.predictions import unpack
from edgekit.report.render import write_all
from edgekit.spec.gates import OFF, AccuracyGates, Budget, Gates, LatencyGates
from edgekit.spec.options import CheckOptions, CompareOptions, MeasureOptions
from edgekit.timing import interleaved

HEADS = {"multi_label_classification": ("a", "b", "c"), "regression": ("value",)}
OPEN = Gates(
    LatencyGates(9.0, None, None),
    AccuracyGates(0.5, flips=0.9, calibration_error=0.9, slice_drop=0.9),
    OFF.footprint,
    Budget(size_mb=900),
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interleaved, "_MEASURE_S", 0.1)
        patch.setattr(run, "_PROCESSES", 4)
        yield


def truth(logits, kind):
    if kind == "regression":
        return [float(row[0]) for row in logits]
    return ["|".join(name for name, value in zip(HEADS[kind], row, strict=True) if value > 0) for row in logits]


@pytest.fixture(scope="module", params=HEADS)
def head(request, tmp_path_factory):
    """A float32 bundle of such a head for pairs of texts, and the model's own answers as the truth."""
    folder, kind = tmp_path_factory.mktemp("head"), request.param
    model = small.module(seed=5, labels=HEADS[kind], problem_type=kind)
    model.save_pretrained(folder / "model")
    small.tokenizer().save_pretrained(folder / "model")
    pairs = list(zip(small.texts(40, seed=6), small.texts(40, seed=7), strict=True))
    labels = truth(small.torch_logits(model, pairs), kind)
    rows = [
        {"text": a, "text_pair": b, "label": label, "topic": "xy"[i % 2]}
        for i, ((a, b), label) in enumerate(zip(pairs, labels, strict=True))
    ]
    rows = [row for row in rows if row["label"] != ""]
    dev = small.write_jsonl(folder / "dev.jsonl", rows)
    edgekit.build(
        folder / "model", samples=dev, eval=dev, out=folder / "bundle", target=small.target(folder / "exact.toml")
    )
    return kind, folder / "bundle", dev, rows, folder


def test_a_comparison_of_every_part(head, tmp_path):
    kind, bundle, dev, rows, _ = head
    found = verbs.report(
        bundle,
        dev,
        options=MeasureOptions(reference=bundle, gates=OPEN, slices=["topic"], include_text=True, max_time=1.0),
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
    found = verbs.check(
        bundle,
        bundle,
        one,
        options=CheckOptions(
            gates=Gates(LatencyGates(9.0, None, None), AccuracyGates(0.01), OFF.footprint), max_time=0.0
        ),
    )
    assert {g.name: g.verdict for g in found.gates}["accuracy.drop"] == "pass", "both answer alike, to the last bit"
    np.save(tmp_path / "near.npy", np.float32([unpack(found.subjects[0].predictions)[0]["logits"]]) * np.float32(1.01))
    found = verbs.compare(tmp_path / "near.npy", bundle, one, options=CompareOptions(max_time=0.0))
    assert {g.name: g.verdict for g in found.gates}["accuracy.drop"] in ("inconclusive", "incomparable"), (
        "of one row nothing is proved"
    )
    assert "1 different inputs, too few to tell" in " ".join(found.notes)
    write_all(found, tmp_path / "report")
