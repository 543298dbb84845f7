"""The second example: its script on a small bundle, and the shell of its CI definitions, run for real."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import small
import tomllib
import yaml
from measuring import quick_environment

from edgekit.report import files
from edgekit.report.render import NAMES
from edgekit.spec import gates, project
from edgekit.spec.report import PASS, REGRESSION

EXAMPLE = small.ROOT / "examples" / "02_check"
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")  # as GitHub runs `shell: bash`


@pytest.fixture(scope="module")
def shown(tmp_path_factory, tiny_bundle, tiny_samples):
    """The script on the small bundle."""
    work = tmp_path_factory.mktemp("check") / "work"
    done = small.run(
        sys.executable,
        EXAMPLE / "demo.py",
        "--bundle",
        tiny_bundle,
        "--samples",
        tiny_samples.dev,
        "--work",
        work,
        timeout=600,
        **quick_environment(processes=1),
    )
    return SimpleNamespace(work=work, done=done, out=done.stdout.decode())


@pytest.fixture
def verbs(tmp_path, monkeypatch):
    """A folder on the path whose ``edgekit`` is this package's command."""
    command = tmp_path / "bin" / "edgekit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgekit "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in quick_environment(processes=1).items():
        monkeypatch.setenv(name, value)
    return command


@pytest.fixture(scope="module")
def action():
    return yaml.safe_load((EXAMPLE / "action.yml").read_text("utf-8"))


@pytest.mark.slow
def test_the_script_shows_what_each_exit_code_is(shown):
    assert shown.done.returncode == 0, shown.out + shown.done.stderr.decode()
    assert re.findall(r"^-> exit code (\d) \((\w+)\)$", shown.out, re.MULTILINE) == [
        ("0", "pass"),
        ("0", "pass"),
        ("3", "regression"),
        ("5", "damaged"),
    ]
    verdicts = {gate.name: gate.verdict for gate in files.read(shown.work / "report_broken/report.json").gates}
    assert (verdicts["accuracy.drop"], verdicts["accuracy.flips"], verdicts["budget.memory_mb"]) == (
        REGRESSION,
        REGRESSION,
        PASS,
    )
    assert "was altered" in shown.done.stderr.decode()
    assert sorted(p.name for p in (shown.work / "report").iterdir()) == sorted(NAMES)
    assert [p for p in shown.work.rglob("*") if p.is_file() and small.CANARY.encode() in p.read_bytes()] == []
    assert small.CANARY not in shown.out


def test_the_script_without_a_bundle(tmp_path):
    done = small.run(sys.executable, EXAMPLE / "demo.py", "--bundle", tmp_path / "none", "--work", tmp_path / "work")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Run `make demo` first" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_its_files_say_the_same():
    found = project.read(EXAMPLE / "edgekit.toml")
    assert found.gates == gates.read(EXAMPLE / "gates.toml")
    first = small.ROOT / ".work" / "voice_commands"
    assert [os.path.normpath(p) for p in (found.model, found.eval, found.out)] == [
        str(first / p) for p in ("model", "data/dev.jsonl", "bundles")
    ]


# ---- the action


def test_the_action_is_one(action):
    """Keys of a composite action: name, description, runs.using, runs.steps, each with a shell or with what it uses."""
    assert {"name", "description", "inputs", "runs"} == set(action)
    assert action["runs"]["using"] == "composite"
    (needed,) = [name for name, given in action["inputs"].items() if given.get("required")]
    assert needed == "package"
    assert all(isinstance(given["default"], str) for name, given in action["inputs"].items() if name != needed)
    for step in action["runs"]["steps"]:
        assert set(step) <= {"name", "if", "shell", "env", "run", "uses", "with"}
        assert ("run" in step) != ("uses" in step)
        assert ("run" in step) == (step.get("shell") == "bash")
        assert "${{" not in step.get("run", ""), "an input inside a script is a way to run anything"
    text = (EXAMPLE / "action.yml").read_text("utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(action["inputs"])
    last = action["runs"]["steps"][-1]
    assert last["uses"].startswith("actions/upload-artifact@v")
    assert [step.get("if") for step in action["runs"]["steps"]] == [None, None, "always()", "always()"]


@pytest.mark.parametrize("file", ["action.yml", "gitlab-ci.yml"])
def test_what_is_installed_exists(file):
    declared = tomllib.loads((small.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    text = (EXAMPLE / file).read_text("utf-8")
    for said in re.findall(r"(?:edgekit|whl)\[([\w,-]+)\]", text):
        assert "report" in said.split(",") and set(said.split(",")) <= set(declared)
    assert re.search(r"whl\[", text), "a wheel of EdgeKit, not whatever has its name on an index"


def steps(action, folder, **inputs):
    """Runs the action's own steps as a runner does: the inputs' defaults, the conditions, one shell each. Those that ask the network are left out."""
    values = {name: given.get("default", "") for name, given in action["inputs"].items()} | inputs
    summary, code, ran = folder / "summary.md", 0, []
    for step in action["runs"]["steps"]:
        if "run" not in step or step["name"].startswith("Install") or (code and step.get("if") != "always()"):
            continue
        script = folder / "step.sh"
        script.write_text(step["run"])
        given = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: values[m[1]], text)
            for name, text in step["env"].items()
        }
        done = small.run(*BASH, script, cwd=folder, GITHUB_STEP_SUMMARY=str(summary), RUNNER_TEMP=str(folder), **given)
        code, ran = code or done.returncode, [*ran, done]
    said = b"".join(done.stdout + done.stderr for done in ran).decode()
    return SimpleNamespace(code=code, said=said, summary=summary.read_text("utf-8") if summary.exists() else "")


@pytest.mark.slow
def test_the_action_fails_with_a_summary(action, verbs, shown, tiny_samples, tmp_path):
    """A name with a space and a quote in it is a name."""
    gate = tmp_path / "it's a gate.toml"
    gate.write_text((EXAMPLE / "gates.toml").read_text("utf-8"))
    inputs = {
        "bundle": str(shown.work / "broken"),
        "baseline": str(shown.work / "baseline.json"),
        "samples": str(tiny_samples.dev),
        "gates": gate.name,
    }
    found = steps(action, tmp_path, **inputs)
    assert found.code == 3, found.said
    assert "verdict: regression (exit 3)" in found.said
    assert "accuracy.drop" in found.summary
    assert "regression" in found.summary.lower()
    assert sorted(p.name for p in (tmp_path / "edgekit-report").iterdir()) == sorted(NAMES), "what the last step keeps"
    assert small.CANARY not in found.said + found.summary


@pytest.mark.slow
def test_the_action_without_a_report_to_show(action, verbs, shown, tiny_samples, tmp_path):
    inputs = {
        "bundle": str(shown.work / "damaged"),
        "baseline": str(shown.work / "baseline.json"),
        "samples": str(tiny_samples.dev),
    }
    found = steps(action, tmp_path, **inputs, strict="true", report="r")
    assert found.code == 5 and "was altered" in found.said
    assert "was altered" in found.summary and "pass" not in found.summary, (
        "whoever looks at the summary alone sees what broke"
    )


def test_the_options_of_the_action(action, tmp_path, monkeypatch):
    """A stand-in for the command that says what it was given."""
    command = tmp_path / "bin" / "edgekit"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    assert steps(action, tmp_path).said == "<check><-o><edgekit-report>"
    inputs = {"bundle": "-b", "baseline": "a b", "samples": "$(id)", "gates": "g'.toml", "report": "r"}
    inputs |= dict.fromkeys(("strict", "allow-incomparable", "self-check"), "true")
    expected = "<check><-o><r><--baseline><a b><--samples><$(id)><--gates><g'.toml><--strict><--allow-incomparable><--self-check><--><-b>"
    assert steps(action, tmp_path, **inputs).said == expected


# ---- the job for GitLab


@pytest.mark.slow
def test_the_job_for_gitlab(verbs, shown, tiny_samples, tmp_path):
    jobs = yaml.safe_load((EXAMPLE / "gitlab-ci.yml").read_text("utf-8"))
    (job,) = jobs.values()
    assert job["artifacts"]["when"] == "always" and "allow_failure" not in job
    assert any("--allow-incomparable" in line for line in job["script"])
    small.copy(shown.work / "broken", tmp_path / "bundles" / "cpu")
    text = f'out = "{tmp_path / "bundles"}"\neval = "{tiny_samples.dev}"\nbaseline = "{shown.work / "baseline.json"}"\n'
    text += re.sub(r"^\[(\w+)\]", r"[gates.\1]", (EXAMPLE / "gates.toml").read_text("utf-8"), flags=re.MULTILINE)
    (tmp_path / "edgekit.toml").write_text(text)
    done = small.run(*BASH, "-c", "\n".join(job["script"]), cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    (junit,) = tmp_path.glob(job["artifacts"]["reports"]["junit"])
    assert junit.parent == tmp_path / Path(job["artifacts"]["paths"][0])
    failed = {
        f"{case.get('classname')}.{case.get('name')}": case.find("failure") is not None
        for case in ElementTree.parse(junit).iter("testcase")
    }
    assert {failed["edgekit.accuracy.drop"], failed["edgekit.accuracy.flips"]} == {True}
    assert not failed["edgekit.footprint.size"]
