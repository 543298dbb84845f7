"""A build whose reference was misread, from end to end; a check of numbers that moved together; the same rows once and several times."""

from __future__ import annotations

import json
import runpy
import sys

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit import samples
from edgekit.report import check as verbs
from edgekit.spec.gates import OFF, AccuracyGates, Gates
from edgekit.spec.options import CheckOptions, CompareOptions
from edgekit.tasks.text_classification import Settings, bind

CASES = small.ROOT.parent / "shared" / "cases"
ANSWERS = Gates(OFF.latency, AccuracyGates(), OFF.footprint)


@pytest.fixture(scope="module")
def build(tmp_path_factory, tiny_model, tiny_samples):
    folder = tmp_path_factory.mktemp("guard")
    aim = small.target(folder / "exact.toml", extra="threads = 1")

    def call(rows, **options):
        dev = small.write_jsonl(folder / "dev.jsonl", rows)
        return small.build(
            tiny_model, samples=tiny_samples.train, eval=dev, out=folder / "out", target=aim, force=True, **options
        )

    return call


@pytest.mark.slow
def test_labels_in_another_order_stop_a_build(build, tiny_samples):
    order = dict(zip(small.LABELS, (small.LABELS[1], small.LABELS[0], *small.LABELS[2:]), strict=True))
    rows = [{**row, "label": order[row["label"]]} for row in tiny_samples.rows]
    with refused("model-unlike-labels", "0", "0.9", "--accept-reference"):
        build(rows)
    result = build(rows, accept_reference=True)
    check = result.bundle.manifest.reference_check
    assert (check.outcome, check.accepted, check.score_name) == ("doubtful", True, "MCC")
    assert "another numbering" in " ".join(result.table().split())


@pytest.mark.slow
def test_the_right_order_is_built_and_kept(build, tiny_samples):
    manifest = build(tiny_samples.rows).bundle.manifest
    check = manifest.reference_check
    assert (check.outcome, check.accepted, check.said, check.rows) == ("clear", False, "", len(tiny_samples.rows))
    assert 0 < check.low < check.value < check.high
    assert not any("different inputs" in note for note in manifest.notes)


@pytest.mark.slow
def test_repeated_rows_are_told(build, tiny_samples):
    result = build([*tiny_samples.rows, *tiny_samples.rows[:30]])
    assert f"{len(tiny_samples.rows) + 30} rows have {len(tiny_samples.rows)} different inputs" in " ".join(
        result.table().split()
    )
    few = build(tiny_samples.rows[:12]).bundle.manifest
    assert few.reference_check.outcome == "too few"
    assert "12 different inputs, too few" in " ".join(few.notes)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("times", [1, 2])
def test_a_check_of_the_same_rows_several_times(float32_ort, tiny_samples, tmp_path, times):
    dev = small.write_jsonl(tmp_path / "dev.jsonl", tiny_samples.rows * times)
    before = np.load(_logits(float32_ort, tiny_samples, tmp_path))
    np.save(tmp_path / "before.npy", np.tile(before + np.float32(1e-4), (times, 1)))
    found = verbs.compare(tmp_path / "before.npy", float32_ort, dev, options=CompareOptions(gates=ANSWERS))
    (gate,) = [g for g in found.gates if g.name == "accuracy.drop"]
    assert (gate.verdict, found.accuracy.inputs) == ("inconclusive", len(tiny_samples.rows)), (
        "120 different inputs do not prove 0.01"
    )
    assert found.notes[0] == found.accuracy.undecidable_reason
    assert any("count once" in note for note in found.notes) == (times > 1)


def _logits(bundle, tiny_samples, folder):
    with edgekit.load(bundle) as session:
        logits = small.logits(session, [row["text"] for row in tiny_samples.rows])
    np.save(folder / "logits.npy", np.float32(logits))
    return folder / "logits.npy"


# ---- cases beside the project


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    if not (CASES / "gen.py").is_file():
        pytest.skip("the generators of ../shared/cases are not here")
    folder = tmp_path_factory.mktemp("cases")

    def generate(name):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.syspath_prepend(str(CASES))
            patch.setattr(sys, "argv", ["gen.py", name])
            runpy.run_path(str(CASES / "gen.py"))
        return folder / name

    return generate


def truth(task, read):
    return task.parse_truth(read.rows, read.where).values.tolist()


def test_case_tables(case):
    folder = case("tables")
    task = bind(Settings("single_label_classification", ("bad", "good"), 64, ("input_ids",)), None)
    right = samples.read(folder / "dev.jsonl")
    for name in ("dev.csv", "pandas.tsv", "semicolon.csv", "array.json"):
        found = samples.read(folder / name)
        assert [row.input for row in found.rows] == [row.input for row in right.rows], name
        assert truth(task, found) == truth(task, right), name
    broken = samples.read(folder / "breaks.tsv")
    assert [row.input.replace(",\n", ", ") for row in broken.rows] == [row.input for row in right.rows]
    for name, said in (
        ("twice-text.csv", ("samples-column-twice", "text", "2")),
        ("short.csv", ("samples-csv-width", "line 52")),
    ):
        with refused(said):
            samples.read(folder / name)


def test_case_multi(case):
    folder = case("multi")
    task = bind(Settings("multi_label_classification", ("toxic", "threat"), 64, ("input_ids",)), None)
    right = truth(task, samples.read(folder / "dev.jsonl"))
    for name in ("onehot.csv", "names.csv", "flags.csv"):
        assert truth(task, samples.read(folder / name)) == right, name


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_case_regression(case, tmp_path):
    folder = case("regression")
    for name in ("model", "next"):
        small.build(
            folder / name,
            samples=folder / "cal.jsonl",
            eval=folder / "dev.jsonl",
            out=tmp_path / name,
            target=small.target(tmp_path / "exact.toml", extra="threads = 1"),
            accept_reference=name == "next",
        )
    found = verbs.check(
        tmp_path / "next", tmp_path / "model", folder / "dev.jsonl", options=CheckOptions(gates=ANSWERS, max_time=0.0)
    )
    assert found.exit_code() == 3
    assert {g.name: g.verdict for g in found.gates}["accuracy.error"] == "regression"


@pytest.mark.slow
def test_case_order(case, tmp_path):
    folder = case("order")
    options = {
        "samples": folder / "cal.jsonl",
        "out": tmp_path / "out",
        "target": small.target(tmp_path / "exact.toml", extra="threads = 1"),
    }
    with refused("model-unlike-labels", "0", "CONTRADICTION", "2", "ENTAILMENT"):
        small.build(folder / "model", eval=folder / "dev.jsonl", **options)
    assert not (tmp_path / "out").exists()
    with refused("samples-label", "-1"):
        small.build(folder / "model", eval=folder / "minus.jsonl", **options)
    assert small.build(folder / "model", eval=folder / "float.jsonl", **options).bundle.manifest.reference_score == 1.0
    labels = [json.loads(line)["label"] for line in (folder / "float.jsonl").read_text().splitlines()]
    assert all(isinstance(label, float) for label in labels)
