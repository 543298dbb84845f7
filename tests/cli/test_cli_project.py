"""``edgekit.toml`` on the command line: what ``edgekit build`` and ``edgekit check`` take from it, and what wins over it."""

from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import pytest
import small
from measuring import quick_environment

from edgekit.report import files
from edgekit.report.render import NAMES
from edgekit.spec.errors import BackendError, IntegrityError
from edgekit.spec.gates import AccuracyGates, Gates
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION
from edgekit.spec.target import Budget


def project(folder, text):
    (folder / ".git").mkdir(exist_ok=True)
    (folder / "edgekit.toml").write_text(text, "utf-8")
    return folder


TWO = """
samples = "train.jsonl"
eval = "dev.jsonl"
model = "model"
targets = ["cpu", "own.toml"]
out = "out"
baseline = "baselines"
slices = ["source"]
columns = { text = "sentence" }
[budget]
size_mb = 9
[gates.accuracy]
drop = 0.02
[build]
max_time = 5
distill = [{ layers = 1 }]
[check]
max_time = 2
report = "reports"
"""


def test_check_reads_the_file(edgekit, tmp_path, monkeypatch, asked):
    folder = project(tmp_path, TWO)
    (folder / "deep").mkdir()
    monkeypatch.chdir(folder / "deep")
    asked.verdicts = {"cpu": (PASS, INCOMPARABLE), "own": (PASS,)}
    result = edgekit("check")
    assert (result.code, result.err) == (4, "")
    gates = Gates(accuracy=AccuracyGates(drop=0.02), budget=Budget(size_mb=9.0))
    options = {"columns": {"text": "sentence"}, "slices": ("source",), "gates": gates, "max_time": 2.0}
    dev = str(folder / "dev.jsonl")
    assert asked.calls == [
        (
            "check",
            (str(folder / "out" / name), str(folder / "baselines" / f"{name}.json"), dev),
            {**options, "report": str(folder / "reports" / name)},
        )
        for name in ("cpu", "own")
    ]
    assert [sorted(p.name for p in (folder / "reports" / name).iterdir()) for name in ("cpu", "own")] == [
        sorted(NAMES)
    ] * 2
    assert result.words.count("Wrote ") == 2
    asked.calls.clear()
    asked.verdicts = {"cpu": (PASS, INCOMPARABLE), "own": (INCONCLUSIVE,)}
    result = edgekit(
        "check",
        "--allow-incomparable",
        "--strict",
        "--baseline",
        "older",
        "--samples",
        "d.csv",
        "--max-time",
        "1",
        "-o",
        "here",
        "--slice",
        "x",
    )
    assert result.code == 4, "of the second alone"
    assert [(a[1:], o["max_time"], o["slices"]) for _, a, o in asked.calls] == [
        ((f"older/{n}.json", "d.csv"), 1.0, ("x",)) for n in ("cpu", "own")
    ]
    assert sorted(p.name for p in (folder / "deep/here").iterdir()) == ["cpu", "own"]


def test_the_gravest_of_several_counts_and_none_hides_another(edgekit, tmp_path, monkeypatch, asked):
    monkeypatch.chdir(project(tmp_path, TWO.replace('"own.toml"', '"jetson", "gpu"')))
    for verdicts, code in [
        (((PASS,), (PASS,), (PASS,)), 0),
        (((REGRESSION,), (INCOMPARABLE,), (PASS,)), 3),
        (((INCOMPARABLE,), BackendError("no such GPU"), (PASS,)), 1),
        ((BackendError("no such GPU"), (OVER_BUDGET,), (PASS,)), 3),
        ((IntegrityError("was altered"), (OVER_BUDGET,), BackendError("no such GPU")), 5),
    ]:
        asked.calls.clear()
        asked.verdicts = dict(zip(("cpu", "jetson", "gpu"), verdicts, strict=True))
        result = edgekit("check")
        assert (result.code, len(asked.calls)) == (code, 3)
    assert re.sub(r"error\[[a-z-]+\]: ", "", result.err) == "edgekit: cpu: was altered\nedgekit: gpu: no such GPU\n"


def test_check_says_what_the_file_lacks(edgekit, tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    for text, arguments, said in [
        ("", (), "edgekit.toml has no key 'out', which edgekit check needs"),
        ('out = "o"', (), "has no key 'eval'"),
        ('out = "o"\neval = "e.csv"', (), "error[baseline-missing]"),
        ('out = "o"\neval = "e.csv"', ("--self-check", "--strict"), "error[option-needs-other]"),
        ('outt = "o"', (), "Did you mean 'out'"),
    ]:
        project(tmp_path, text)
        result = edgekit("check", *arguments)
        assert (result.code, result.out) == (2, ""), text
        assert said in result.err
    assert asked.calls == []
    project(tmp_path, 'out = "o"\neval = "e.csv"\n[check]\nself_check = true')
    lost = edgekit("check")
    assert lost.code == 2 and "baseline-missing" in lost.err, "a baseline that was forgotten must not come to a pass"
    assert edgekit("check", "--self-check").code == 0
    assert [(name, arguments) for name, arguments, _ in asked.calls] == [
        ("self_check", (str(tmp_path / "o/cpu"), str(tmp_path / "e.csv")))
    ]


def test_build_reads_the_file(edgekit, tmp_path, monkeypatch):
    import edgekit as package

    folder, calls = project(tmp_path, TWO), []
    monkeypatch.chdir(folder)

    def build(model, *, progress, options, **nouns):
        calls.append({"model": model, **nouns, **vars(options)})
        return SimpleNamespace(text=lambda wide=False: "table")

    monkeypatch.setattr(package, "build", build, raising=False)
    result = edgekit("build")
    assert (result.code, result.err) == (0, "")
    assert re.findall(r"^target (\w+):$", result.out, re.MULTILINE) == ["cpu", "own"]
    cpu, own = calls
    assert (cpu["model"], cpu["samples"], cpu["eval"], cpu["test"], cpu["revision"]) == (
        "model",
        *(str(folder / n) for n in ("train.jsonl", "dev.jsonl")),
        None,
        None,
    )
    assert (cpu["target"], cpu["out"], own["target"], own["out"]) == (
        "cpu",
        str(folder / "out/cpu"),
        str(folder / "own.toml"),
        str(folder / "out/own"),
    )
    assert (cpu["budget"], cpu["columns"], cpu["seed"], cpu["max_time"], cpu["distill"]) == (
        {"size_mb": 9.0},
        {"text": "sentence"},
        0,
        5.0,
        ({"layers": 1},),
    )
    calls.clear()
    options = (
        "--target",
        "own",
        "--budget",
        "p50_ms=4",
        "--budget",
        "size_mb=8",
        "--seed",
        "5",
        "--samples",
        "s.csv",
        "-o",
        "new",
        "--max-time",
        "1",
    )
    result = edgekit("build", *options, "--columns", "label=y", "--force")
    assert (result.code, result.err) == (0, "")
    (one,) = calls
    assert (one["target"], one["out"], one["samples"], one["force"]) == (
        str(folder / "own.toml"),
        os.path.join("new", "own"),
        "s.csv",
        True,
    )
    assert (one["budget"], one["seed"], one["max_time"], one["columns"]) == (
        {"size_mb": 8.0, "p50_ms": 4.0},
        5,
        1.0,
        {"label": "y"},
    )
    assert "target own" not in result.out, "where there is one, nothing need be told apart"
    calls.clear()
    (folder / "out/own").mkdir(parents=True)
    result = edgekit("build")
    assert (result.code, result.out, calls) == (2, "", [])
    assert "error[output-exists]" in result.err
    assert edgekit("build", "m", "--samples", "s", "--eval", "e", "-o", "o").code == 0
    assert (calls[0]["model"], calls[0]["target"], calls[0]["budget"], calls[0]["max_time"]) == (
        "m",
        "cpu",
        {},
        None,
    ), "with MODEL the file is not read"
    for missing in ("--samples", "--eval", "-o"):
        rest = [part for option in ("--samples", "--eval", "-o") if option != missing for part in (option, "x")]
        assert f"Missing option '{missing}'" in edgekit("build", "m", *rest).err


@pytest.mark.slow
def test_a_repository_from_its_file_to_a_verdict(place, tmp_path, tiny_model, tiny_samples):
    """Build, baseline and check, as the user of a repository runs them."""
    small.target(tmp_path / "exact.toml")
    folder = project(
        tmp_path,
        f'model = "{tiny_model}"\nsamples = "{tiny_samples.train}"\neval = "{tiny_samples.dev}"\ntargets = ["exact.toml"]\nout = "bundle"\n'
        'baseline = "baseline.json"\n[budget]\naccuracy_drop = 0.05\n'
        + re.sub(r"\[(\w+)\]", r"[gates.\1]", place.gates.read_text("utf-8"))
        + "[check]\nreport = 'report'\n",
    )

    def run(*arguments):
        done = small.edgekit(*arguments, cwd=folder, **quick_environment())
        assert (done.returncode, small.without_steps(done.stderr.decode())) == (0, ""), done.stdout
        return done.stdout.decode()

    assert "float32 on onnxruntime is the fastest" in run("build")
    run("baseline")
    assert "verdict: pass" in run("check").splitlines()
    gates = {gate.name: gate for gate in files.read(folder / "report/report.json").gates}
    assert (
        gates["budget.accuracy_drop"].limit,
        gates["budget.accuracy_drop"].verdict,
        gates["budget.size_mb"].limit,
    ) == (0.05, PASS, 50)
    assert isinstance(json.loads((folder / "report/history.json").read_text()), list)
