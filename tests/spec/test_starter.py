"""The first files of a project: the project's own readers take them, and nothing is written over."""

from __future__ import annotations

import pytest
from refusals import refused

from edgekit.spec import gates, project
from edgekit.spec.gates import Gates
from edgekit.spec.starter import GATES, WORKFLOW, start


def test_what_is_found_is_named(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.csv").write_text("text\n")
    (tmp_path / "data/val.jsonl").write_text("{}\n")
    started = start(tmp_path)
    read = project.read(tmp_path / "edgekit.toml")
    assert (read.model, read.samples, read.eval, read.targets) == (
        str(tmp_path / "model"), str(tmp_path / "data/train.csv"), str(tmp_path / "data/val.jsonl"), ("cpu",),
    )  # fmt: skip
    (place,) = project.places(read)
    assert place.bundle == str(tmp_path / "bundles/cpu")
    assert place.baseline == str(tmp_path / "baseline.json")
    assert all((tmp_path / name).is_file() for name in started.files)
    assert "Fill in" not in started.text()


def test_what_is_told_wins_and_odd_names_stay_what_they_are(tmp_path):
    names = {"model": 'an "odd" \\ name', "samples": "a b.csv", "eval": "ü.csv"}
    start(tmp_path, **names, target=["cpu", "jetson"], columns={"text": 'the "text"', "label": "y"})
    read = project.read(tmp_path / "edgekit.toml")
    assert read.targets == ("cpu", "jetson")
    assert dict(read.columns) == {"text": 'the "text"', "label": "y"}
    assert read.eval == str(tmp_path / "ü.csv")
    assert [place.baseline for place in project.places(read)] == [
        str(tmp_path / "baselines/cpu.json"),
        str(tmp_path / "baselines/jetson.json"),
    ]


def test_without_anything_the_user_fills_in(tmp_path):
    started = start(tmp_path)
    assert "Fill in model, samples, eval in edgekit.toml" in started.text()
    assert project.read(tmp_path / "edgekit.toml").model == ""


def test_gates_are_the_defaults(tmp_path):
    start(tmp_path)
    assert gates.read(tmp_path / GATES) == Gates()


def test_the_workflow_is_yaml(tmp_path):
    yaml = pytest.importorskip("yaml")
    start(tmp_path)
    read = yaml.safe_load((tmp_path / WORKFLOW).read_text("utf-8"))
    steps = read["jobs"]["check"]["steps"]
    runs = [step["run"] for step in steps if "run" in step]
    assert [run.split(" ")[:2] for run in runs[1:]] == [["edgekit", "build"], ["edgekit", "check"]]
    assert read[True] == {"pull_request": None, "workflow_dispatch": None}  # YAML 1.1 reads the key "on" as true


@pytest.mark.parametrize("name", ["edgekit.toml", GATES, WORKFLOW])
def test_nothing_is_written_over(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with refused("init-exists", path=name):
        start(tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_an_unknown_target(tmp_path):
    with refused("name-unknown"):
        start(tmp_path, target=["jetsen"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model", "samples", "eval"])
@pytest.mark.parametrize("value", ["", "a\0b"])
def test_what_no_path_is(tmp_path, name, value):
    with refused("path-type", name):
        start(tmp_path, **{name: value})
    assert list(tmp_path.iterdir()) == []
