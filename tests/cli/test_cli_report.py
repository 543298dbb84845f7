"""``edgekit eval -o``, ``compare``, ``baseline``, ``check``: what they ask, say and write, and their exit codes."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import small
from measuring import quick, quick_environment

from edgekit.report import files
from edgekit.report.render import NAMES
from edgekit.spec import gates as gate_files
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION
from edgekit.spec.target import Budget

# ---- the real thing


def test_a_baseline_says_what_it_measured_and_holds_no_text(place):
    said = place.said.decode()
    assert re.search(r"^baseline: onnxruntime, 120 samples, on .+ \(\d+ CPUs\), .+ UTC ", " ".join(said.split()))
    assert re.search(r"^  accuracy +0\.9500$", said, re.MULTILINE)
    assert re.search(
        r"^  first answer +[\d.]+ ms \(import [\d.]+, verify [\d.]+, load [\d.]+, first answer [\d.]+\)$",
        said,
        re.MULTILINE,
    )
    assert said.endswith(f"Wrote {place.baseline}.\n")
    found = files.read(place.baseline)
    assert (found.kind, found.rows, found.verdict) == ("baseline", 120, PASS)
    assert small.CANARY not in place.baseline.read_text("utf-8")


@pytest.mark.slow
def test_the_same_bundle_passes_and_another_one_does_not(edgekit, place, tmp_path):
    options = ("--baseline", place.baseline, "--samples", place.dev, "--gates", place.gates)
    with quick():
        same = edgekit("check", place.good, *options, "-o", tmp_path / "same")
    assert (same.code, same.err) == (0, ""), same.out
    assert same.out.splitlines()[0].startswith("check: onnxruntime against onnxruntime, 120 samples")
    assert re.search(
        r"^  pass +accuracy\.drop +[Tt]he outputs of both models are bit-identical", same.out, re.MULTILINE
    )
    assert "These samples can detect a drop of 0.0" in same.words
    assert "verdict: pass" in same.out.splitlines()
    assert same.words.endswith(f"Wrote {tmp_path / 'same'}: {', '.join(NAMES)}.")
    with quick(processes=1):
        worse = edgekit("check", place.worse, *options, "-o", tmp_path / "worse", "--slice", "source")
    assert (worse.code, worse.err) == (3, "")
    order = re.findall(r"^  (pass|inconclusive|regression) +(\S+)", worse.out, re.MULTILINE)
    assert ("regression", "accuracy.drop") in order
    assert {name for _, name in order if name.startswith("slice.source=")} == {"slice.source=phone", "slice.source=web"}
    assert [verdict == "pass" for verdict, _ in order] == sorted(verdict == "pass" for verdict, _ in order), (
        "the worst comes first"
    )
    assert "verdict: regression (exit 3)" in worse.out.splitlines()
    for folder in ("same", "worse"):
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == sorted(NAMES)
        assert [p.name for p in (tmp_path / folder).iterdir() if small.CANARY in p.read_text("utf-8")] == []
    assert small.CANARY not in same.out + worse.out
    assert files.read(tmp_path / "worse/report.json").verdict == REGRESSION


@pytest.mark.slow
def test_both_in_turns_and_the_report_as_json(edgekit, place, tmp_path):
    options = ("--samples", place.dev, "--gates", place.gates, "--max-time", "0.1")
    with quick():
        result = edgekit("check", place.good, "--baseline", place.good, *options, "--json")
    assert (result.code, result.err) == (0, ""), result.out
    found = files.loads(result.out.encode(), "standard output")
    assert (
        found.kind,
        found.speed.paired,
        {g.name for g in found.gates} >= {"latency.p50", "footprint.memory", "budget.size_mb"},
    ) == ("check", True, True)


@pytest.mark.slow
def test_another_machine_is_incomparable(edgekit, place, quick_timing, tmp_path):
    """Accuracy and size are judged all the same."""
    found = files.read(place.baseline)
    files.write(replace(found, fingerprint=replace(found.fingerprint, cpu="Another CPU")), tmp_path / "b.json")
    command = ("check", place.good, "--baseline", tmp_path / "b.json", "--samples", place.dev, "--gates", place.gates)
    result = edgekit(*command)
    assert (result.code, result.err) == (4, "")
    verdicts = {name: verdict for verdict, name in re.findall(r"^  (\w+) +(\w+\.\w+) ", result.out, re.MULTILINE)}
    assert (verdicts["latency.p50"], verdicts["accuracy.drop"], verdicts["footprint.size"]) == (
        INCOMPARABLE,
        PASS,
        PASS,
    )
    assert "cpu: Another CPU, then " in result.out
    assert "verdict: incomparable (exit 4)" in result.out


@pytest.mark.slow
def test_noise_alone(edgekit, place):
    with quick():
        result = edgekit("check", place.good, "--self-check", "--samples", place.dev, "--max-time", "0.1")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("self-check: onnxruntime against itself, 120 samples")
    assert re.search(r"Noise floor: .* noise alone can look like \+\d+\.\d % in p50 latency, \+\d", result.words)
    assert "verdict" not in result.out, "nothing is gated"


@pytest.mark.slow
def test_a_report_with_its_teacher(edgekit, place, quick_timing, tiny_model, tiny_samples, tmp_path):
    few = small.write_jsonl(tmp_path / "few.jsonl", tiny_samples.rows[:20])
    options = ("--scenario", "SingleStream", "--max-time", "0.1", "--teacher", tiny_model)
    result = edgekit("eval", place.good, "--samples", few, "-o", tmp_path / "r", *options)
    assert (result.code, result.err) == (0, "")
    found = files.read(tmp_path / "r/report.json")
    assert [s.name for s in found.subjects[-1].scenarios] == ["SingleStream"]
    assert (found.accuracy.flips, found.accuracy.divergence_p95 < 1e-6) == (0, True), (
        "a float32 bundle answers as its teacher does"
    )
    assert found.faithfulness.rank_correlation > 0.99
    assert "Attributions" in result.out


# ---- what is refused, before anything is measured


def test_what_is_missing_or_does_nothing(edgekit, place, tmp_path, monkeypatch, asked):
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    b, s = place.baseline, place.dev
    cases = [
        (("eval", place.good, "--samples", s, "--teacher", "t.npy"), "--teacher"),
        (("eval", place.good, "--samples", s, "-o", "r", "--json", "-"), "option-conflict"),
        (("eval", place.good, "-o", "r"), "'--samples'"),
        (("eval", place.good, "--samples", s, "-o", "r", "--scenario", "Offlin"), "Offline"),
        (
            ("eval", place.good, "--samples", s, "-o", "r", "--scenario", "Offline", "--server-bound", "5"),
            "Add --scenario Server",
        ),
        (("compare", place.good, "--samples", s), "'B'"),
        (("check", place.good, "--samples", s), "Missing option '--baseline'"),
        (("check", place.good, "--baseline", b), "Missing option '--samples'"),
        (("check", place.good, "--baseline", b, "--samples", s, "--max-time", "0"), "--max-time"),
        (("check", place.good, "--self-check", "--samples", s, "--gates", place.gates), "--gates"),
        (("check", place.good, "--self-check", "--samples", s, "--strict"), "--strict"),
        (("check", place.good, "--self-check", "--samples", s, "--slice", "a"), "--slice"),
        (("check", place.good, "--self-check", "--samples", s, "--include-text"), "--include-text"),
        (
            ("check", place.good, "--self-check", "--samples", s, "--allow-incomparable"),
            "--allow-incomparable",
        ),
        (("check", place.good, "--baseline", b, "--samples", s, "--gates", "none.toml"), "none.toml does not exist"),
        (("check",), "There is no edgekit.toml in "),
        (("build",), "There is no edgekit.toml in "),
        (("baseline", place.good, "--samples", s, "-o", "b.jsn"), "output-suffix"),
        (("baseline", place.good, "--samples", s), "'-o'"),
    ]
    for arguments, said in cases:
        result = edgekit(*arguments)
        assert (result.code, result.out) == (2, ""), arguments
        assert said in result.err, arguments
    (tmp_path / "gates.toml").write_text("[latency]\np5 = 1\n")
    assert (
        "Did you mean 'p50'"
        in edgekit("check", place.good, "--baseline", b, "--samples", s, "--gates", "gates.toml").err
    )
    assert asked.calls == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [".git", "gates.toml"]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(edgekit, place, tmp_path, asked):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    rest = ("--samples", place.dev)
    for arguments in (
        ("eval", place.good, *rest, "-o", tmp_path / "file"),
        ("compare", place.good, place.good, *rest, "-o", tmp_path / "file"),
        ("check", place.good, "--baseline", place.baseline, *rest, "-o", tmp_path / "file/below"),
        ("baseline", place.good, *rest, "-o", tmp_path / "folder.json"),
        ("baseline", place.good, *rest, "-o", tmp_path / "none/b.json"),
    ):
        result = edgekit(*arguments)
        assert result.code in (1, 2), arguments
        assert "cannot be written" in result.err or "is a folder" in result.err, arguments
    assert asked.calls == []


@pytest.mark.slow
def test_what_is_damaged_or_of_something_else(edgekit, place, tiny_model, tmp_path):
    text = place.baseline.read_text("utf-8")
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    for name, pattern, other in (
        ("changed", r'("score": ?)0\.95\b', r"\g<1>0.96"),
        ("newer", r'("schema": ?)2\b', r"\g<1>99"),
    ):
        (tmp_path / f"{name}.json").write_text(re.sub(pattern, other, text))
        assert (tmp_path / f"{name}.json").read_text() != text
    np.save(tmp_path / "few.npy", np.zeros((3, 3), np.float32))
    cases = [
        (("check", place.damaged, "--baseline", place.baseline), 5, "was altered"),
        (("check", place.good, "--baseline", place.damaged), 5, "was altered"),
        (("check", place.good, "--baseline", tmp_path / "cut.json"), 5, "cut.json"),
        (("check", place.good, "--baseline", tmp_path / "changed.json"), 5, "changed.json"),
        (("check", place.good, "--baseline", tmp_path / "newer.json"), 5, "schema 99"),
        (("check", place.good, "--baseline", tmp_path / "none.json"), 2, "none.json does not exist"),
        (("compare", tmp_path / "few.npy", place.good), 2, "few.npy"),
        (("compare", tmp_path / "none", place.good), 2, "does not exist"),
        (("compare", tiny_model / "config.json", place.good), 5, "config.json"),
        (("baseline", tiny_model, "-o", tmp_path / "b.json"), 2, "bundle-other-folder"),
    ]
    for arguments, code, said in cases:
        result = edgekit(*arguments, "--samples", place.dev)
        assert (result.code, result.out) == (code, ""), (arguments, result.err)
        assert said in result.err, (arguments, result.err)
        assert result.err.count("\n") == 1


def test_a_teacher_with_other_labels(edgekit, place, tmp_path):
    other = small.save(tmp_path / "other", labels=("neutral", "negative", "positive"))
    result = edgekit("compare", other, place.good, "--samples", place.dev)
    assert (result.code, result.out) == (2, "")
    assert "cannot be compared with the bundle: it has labels (3) neutral, negative, positive" in result.err
    assert "with the same labels in the same order" in result.err


def test_a_teacher_without_torch(place, tiny_model):
    code = "import sys; sys.modules['torch'] = None; from edgekit.cli import main; sys.argv[0] = 'edgekit'; main()"
    done = small.python(code, "compare", tiny_model, place.good, "--samples", place.dev)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"error[package-missing]" in done.stderr
    assert b"torch" in done.stderr
    assert b"pip install 'edgekit-sdk[build]'" in done.stderr


def test_without_the_extra(place, tmp_path):
    """Told at once, and not when all is measured."""
    code = (
        "import sys; sys.modules[sys.argv.pop(1)] = None; from edgekit.cli import main; sys.argv[0] = 'edgekit'; main()"
    )
    for package, verb in (("jinja2", "check"), ("scipy", "baseline")):
        more = ("--baseline", place.baseline, "-o", tmp_path / "r") if verb == "check" else ("-o", tmp_path / "b.json")
        done = small.python(code, package, verb, place.good, "--samples", place.dev, *more)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"edgekit: error[package-missing]: ")
        assert package in done.stderr.decode()
        assert b"pip install 'edgekit-sdk[report]'" in done.stderr


@pytest.mark.slow
def test_checking_needs_no_torch(place, tmp_path):
    """What a machine needs that only checks bundles: nothing of the build."""
    code = """
import sys

class NotThere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotThere())
from edgekit.cli import main
sys.argv[0] = "edgekit"
main()
"""
    gates = tmp_path / "gates.toml"  # none of a time, which so few processes do not decide
    gates.write_text(
        '[latency]\np50 = "off"\np90 = "off"\n[footprint]\nfirst_answer = "off"\nmemory = "off"\n', "utf-8"
    )
    options = ("--baseline", place.baseline, "--samples", place.dev, "--gates", gates)
    done = small.python(code, "check", place.good, *options, **quick_environment(processes=1))
    assert (done.returncode, small.without_steps(done.stderr.decode())) == (0, ""), done.stdout


# ---- what the verbs ask for


def test_the_exit_code_is_that_of_the_gates(edgekit, place, asked):
    rest = ("--baseline", place.baseline, "--samples", place.dev)
    for verdicts, options, code, said in [
        ((PASS, PASS), (), 0, "verdict: pass"),
        ((PASS, INCONCLUSIVE), (), 0, "verdict: inconclusive"),
        ((PASS, INCONCLUSIVE), ("--strict",), 4, "verdict: inconclusive (exit 4)"),
        ((PASS, INCOMPARABLE), (), 4, "verdict: incomparable (exit 4)"),
        ((PASS, INCOMPARABLE), ("--allow-incomparable",), 0, "verdict: incomparable"),
        ((INCOMPARABLE, INCONCLUSIVE), ("--allow-incomparable", "--strict"), 4, "verdict: incomparable (exit 4)"),
        ((INCOMPARABLE, REGRESSION), (), 3, "verdict: regression (exit 3)"),
        ((OVER_BUDGET, PASS), ("--strict",), 3, "verdict: over budget (exit 3)"),
    ]:
        asked.verdicts = {"onnxruntime": verdicts}
        result = edgekit("check", place.good, *rest, *options)
        assert (result.code, result.err, result.out.splitlines()[-1]) == (code, "", said)
    asked.verdicts = {"onnxruntime": (OVER_BUDGET,), place.baseline.name: (REGRESSION,)}
    assert edgekit("compare", place.baseline, place.good, "--samples", place.dev).code == 3


def test_every_option_reaches_the_report_code(edgekit, place, tmp_path, asked):
    common = ("--samples", place.dev, "--columns", "text=text", "--key", tmp_path / "k.pub", "--seed", "7")
    more = ("--slice", "a", "--slice", "b", "--gates", place.gates, "--include-text", "--max-time", "3.5")
    gates = gate_files.read(place.gates)
    assert gates == Gates(
        LatencyGates(9, None, None), AccuracyGates(0.1, slice_drop=0.5), FootprintGates(9, 1), Budget(size_mb=50)
    )
    shared = {"columns": {"text": "text"}, "seed": 7}
    both = {**shared, "slices": ("a", "b"), "gates": gates, "include_text": True, "max_time": 3.5}
    scenarios = (
        "--scenario",
        "Server",
        "--scenario",
        "Offline",
        "--server-bound",
        "20",
        "--teacher",
        "t.npy",
        "--backend",
        "openvino",
        "--threads",
        "1",
    )
    edgekit("eval", place.good, *common, *more, *scenarios, "-o", tmp_path / "r")
    edgekit("compare", place.baseline, place.good, *common, *more)
    edgekit(
        "baseline",
        place.good,
        *common,
        "-o",
        tmp_path / "b.json",
        "--backend",
        "openvino",
        "--threads",
        "1",
        "--append",
    )
    edgekit("check", place.good, "--baseline", place.baseline, *common, *more, "--self-check")
    edgekit("check", place.good, *common, "--self-check", "--max-time", "3.5")
    for name, _, options in asked.calls:
        options.pop("keys", None)  # of a check: read from edgekit.toml too, and handed on as trust
        if name == "self_check":
            assert (options.pop("gates"), options.pop("self_check")) == (Gates(), True)
        if isinstance(options.get("gates"), str):
            options["gates"] = gate_files.read(options["gates"])
    keys = [options.pop("trust").keys[0].name for _, _, options in asked.calls]
    assert keys == ["k.pub"] * 5
    run = {"backend": "openvino", "threads": 1}
    scenarios = {"scenarios": ("Server", "Offline"), "server_bound_ms": 20.0, "reference": "t.npy"}
    good, dev, old = str(place.good), str(place.dev), str(place.baseline)
    assert asked.calls == [
        ("report", (good, dev), {**both, **run, **scenarios}),
        ("compare", (old, good, dev), both),
        ("baseline", (good, dev), {**shared, **run, "file": tmp_path / "b.json", "append": True}),
        ("check", (good, old, dev), {**both, "self_check": True}),
        ("self_check", (good, dev), {**shared, "max_time": 3.5}),
    ]
