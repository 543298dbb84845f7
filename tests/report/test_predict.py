"""Predictions for a whole file: order, columns, errors by row, and a file that appears whole or not at all."""

from __future__ import annotations

import csv
import gzip
import json
import sys

import pytest
import small
from refusals import refused

import edgekit
from edgekit.report.predict import predict
from edgekit.samples.stream import read_rows
from edgekit.spec.options import PredictOptions


def read_jsonl(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def answers(float32_ort, tiny_samples):
    """What a session answers to the evaluation rows, one at a time."""
    with edgekit.load(float32_ort) as session:
        return [session(row["text"]) for row in tiny_samples.rows]


def test_one_row_for_each_in_order(float32_ort, tiny_samples, answers, tmp_path):
    steps = []
    out = tmp_path / "out.jsonl"
    result = predict(
        float32_ort, tiny_samples.dev, out, progress=lambda *step: steps.append(step), options=PredictOptions(batch=50)
    )
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["label"] for row in rows] == [answer.label for answer in answers]
    assert [row["score"] for row in rows] == pytest.approx([answer.score for answer in answers], abs=1e-5)
    assert (result.rows, result.errors, result.backend) == (len(answers), 0, "onnxruntime")
    assert [step for step in steps if step[0] == "predict"][-1] == ("predict", 120, 120)
    assert small.CANARY not in (tmp_path / "out.jsonl").read_text("utf-8")


def test_a_table_with_kept_columns_scores_and_top_labels(float32_ort, tmp_path, answers, tiny_samples):
    rows = [{"text": row["text"], "id": str(i)} for i, row in enumerate(tiny_samples.rows[:7])]
    source = small.write_jsonl(tmp_path / "in.jsonl", rows)
    predict(
        float32_ort, source, tmp_path / "out.csv", options=PredictOptions(keep=["id"], scores=True, top_k=2, batch=3)
    )
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    expected = ["id", "label", "score", *(f"score_{name}" for name in small.LABELS)]
    assert list(table[0]) == [*expected, "label_1", "score_1", "label_2", "score_2", "truncated"]
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    for row, answer in zip(table, answers, strict=False):
        ranked = sorted(answer.scores, key=lambda name: -answer.scores[name])
        assert [row["label_1"], row["label_2"]] == ranked[:2]
        assert float(row["score_neutral"]) == pytest.approx(answer.scores["neutral"], abs=1e-5)


def test_below_the_threshold_there_is_no_label(float32_ort, tiny_samples, answers, tmp_path):
    predict(float32_ort, tiny_samples.dev, tmp_path / "out.jsonl", options=PredictOptions(threshold=0.9))
    labels = [row["label"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert labels == [answer.label if answer.score >= 0.9 else None for answer in answers]
    assert None in labels
    assert set(labels) != {None}


def test_a_bad_row(float32_ort, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"text": "fine"}\n\n{"text": 3}\n{\n{"text": "' + "x " * 5000 + '"}\n{"text": "dull"}\n', "utf-8"
    )
    with refused("samples-row", row=2):
        predict(float32_ort, source, tmp_path / "out.jsonl")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl"]
    result = predict(float32_ort, source, tmp_path / "out.jsonl", options=PredictOptions(skip_errors=True))
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert (result.rows, result.errors) == (5, 3)
    assert [row["error"] is None for row in rows] == [True, False, False, False, True]
    assert "line 3" in rows[1]["error"]
    assert rows[4]["label"] in small.LABELS
    long = predict(float32_ort, source, tmp_path / "cut.jsonl", options=PredictOptions(skip_errors=True, truncate=True))
    assert (long.errors, long.truncated) == (2, 1)


def test_a_row_that_the_session_refuses_is_named(float32_ort, tmp_path):
    source = small.write_jsonl(tmp_path / "in.jsonl", [{"text": "fine"}, {"text": "x " * 5000}])
    with refused("predict-row", row=2):
        predict(float32_ort, source, tmp_path / "out.csv")


def test_an_output_that_exists_stays(float32_ort, tiny_samples, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with refused("output-exists", str(out)):
        predict(float32_ort, tiny_samples.dev, out)
    assert out.read_text() == "mine"
    predict(float32_ort, tiny_samples.dev, out, options=PredictOptions(force=True))
    assert out.read_text().startswith("label,score,truncated\n")
    assert out.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"out": "out.txt"}, "output-suffix"),
        ({"out": "missing/out.csv"}, "output-not-writable-folder"),
        ({"keep": ["nothing"]}, "predict-no-column"),
        ({"keep": ["label"]}, "predict-column-twice"),
        ({"top_k": 0}, "predict-top-k"),
        ({"threshold": 1.5}, "predict-threshold"),
        ({"batch": 0}, "batch-out-of-range"),
    ],
)
def test_what_cannot_be(float32_ort, tiny_samples, tmp_path, options, code):
    chosen = PredictOptions(**{name: value for name, value in options.items() if name != "out"})
    with refused(code):
        predict(float32_ort, tiny_samples.dev, tmp_path / options.get("out", "out.csv"), options=chosen)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["in.csv", "in.json", "in.jsonl.gz", "in.tsv"])
def test_inputs_of_every_type(float32_ort, answers, tiny_samples, tmp_path, name):
    rows = [{"text": row["text"]} for row in tiny_samples.rows[:5]]
    text = "\n".join(json.dumps(row) for row in rows)
    if name == "in.json":
        text = json.dumps(rows)
    elif name in ("in.csv", "in.tsv"):
        text = "text\tn\n" + "\n".join(f"{row['text']}\t{i}" for i, row in enumerate(rows)) + "\n"
        text = text.replace("\t", "," if name == "in.csv" else "\t") if "," not in text else text
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    predict(float32_ort, tmp_path / name, tmp_path / "out.jsonl")
    assert [row["label"] for row in read_jsonl(tmp_path / "out.jsonl")] == [answer.label for answer in answers[:5]]


def test_json_lines_are_read_as_they_are_asked_for(tmp_path):
    from edgekit.modalities.text import UNBOUND

    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(5)) + "{broken", "utf-8")
    rows = read_rows(source, None, UNBOUND)
    assert [next(rows).input for _ in range(5)] == [f"row {i}" for i in range(5)]
    assert next(rows).problem.code == "samples-json"


def test_parquet_both_ways(float32_ort, tiny_samples, answers, tmp_path):
    pytest.importorskip("pyarrow")
    predict(float32_ort, tiny_samples.dev, tmp_path / "a.parquet", options=PredictOptions(keep=["text"]))
    predict(float32_ort, tmp_path / "a.parquet", tmp_path / "b.jsonl")
    assert [row["label"] for row in read_jsonl(tmp_path / "b.jsonl")] == [answer.label for answer in answers]


def test_parquet_without_pyarrow(float32_ort, tiny_samples, tmp_path, monkeypatch):
    if "pyarrow" in sys.modules:
        pytest.skip("pyarrow is installed and imported")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("package-missing"):
        predict(float32_ort, tiny_samples.dev, tmp_path / "out.parquet")
