"""The commands of README and of the tutorials, run in order on a small model; the commands of all other pages, parsed.

What a page shows of an output is compared by shape: the keys of JSON, the heads of tables, the first words of lines. Numbers, times
and names of machines are not compared.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import blocks
import click
import pytest
import small
import sshd

RUN = [small.ROOT / "README.md", *sorted((small.ROOT / "docs/tutorials").glob("*.md"))]
READ = [
    path for folder in ("docs", "examples") for path in sorted((small.ROOT / folder).rglob("*.md")) if path not in RUN
] + [small.ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")]

# The scale of the small model: it has two layers, and is trained for a moment.
SMALLER = (("--layers 3", "--layers 1"), ("layers=3", "layers=1"))
BRIEFLY = {
    "build": "--max-time 10",
    "distill": "--epochs 4 --copies 1 --learning-rate 1e-3",
    "prune": "--epochs 1",
    "check": "--max-time 4",
    "compare": "--max-time 4",
    "bench": "--seconds 0.05 --batches 1 --lengths 8",
}
SECONDS = 400


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_model, tiny_samples):
    """A model and its samples under the names that the pages use, and a folder of programs that come first on the PATH."""
    folder = tmp_path_factory.mktemp("docs")
    programs = folder / "bin"
    programs.mkdir()
    for name, module in (("edgekit", "edgekit"), ("pytest", "pytest")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        program.chmod(0o755)
    return {"model": tiny_model, "samples": tiny_samples, "programs": programs}


@pytest.fixture
def place(tmp_path, material, monkeypatch):
    """The working folder of a page."""
    (tmp_path / "my-model").symlink_to(material["model"])
    rows = [json.loads(line) for line in Path(material["samples"].train).read_text("utf-8").splitlines()]
    small.write_jsonl(tmp_path / "unlabelled.jsonl", [{"text": row["text"]} for row in rows])
    labels = [row["label"] for row in material["samples"].rows]
    labelled = [{**row, "label": labels[i % len(labels)]} for i, row in enumerate(rows)]
    small.write_jsonl(tmp_path / "train.jsonl", labelled)
    (tmp_path / "dev.jsonl").write_bytes(Path(material["samples"].dev).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{material['programs']}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(small.ROOT))
    return tmp_path


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The ssh server of the tests, or None with no server installed."""
    folder = tmp_path_factory.mktemp("sshd")
    try:
        manager = sshd.running(folder, PYTHONPATH=str(small.ROOT), OMP_NUM_THREADS="1")
        with manager as server:
            yield server
    except pytest.skip.Exception:
        yield None


def scaled(command: str) -> str:
    """Return a command at the scale of the small model."""
    for old, new in SMALLER:
        command = command.replace(old, new)

    def with_options(match: re.Match) -> str:
        return f"{match[0]} {BRIEFLY[match[1]]}" if match[1] in BRIEFLY else match[0]

    return re.sub(r"\bedgekit ([a-z-]+)", with_options, command, count=1)


def run(command: str, place: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def keys(line: str) -> list[str]:
    """Return the keys of a line of JSON, which may be cut with dots, at its first level."""
    inside = re.sub(r"(?<=.)[\[{][^\[\]{}]*[\]}]", "0", line.strip())
    return re.findall(r'"(\w+)":', inside)


def check_shape(shown: list[str], output: str) -> None:
    """Compare what a page shows of an output with the output."""
    lines = output.splitlines()
    starts = [" ".join(re.split(r"\d|\.\.\.", line, maxsplit=1)[0].split()[:1]) for line in lines]
    answers = [line for line in lines if line.startswith("{")]
    for number, line in enumerate(shown):
        text = line.strip()
        if not text or text == "..." or set(text) <= set("- "):
            continue
        if text.startswith("{"):
            assert keys(text) == list(json.loads(answers.pop(0))), text
        elif number + 1 < len(shown) and re.fullmatch(r" *-{2,}[ -]*", shown[number + 1]):
            known = [" ".join(other.split()) for other in lines]
            assert any(" ".join(text.split()[-3:]) in other or " ".join(text.split()) == other for other in known), text
        else:
            assert text.split()[0] in starts, f"no line of the output begins as: {text}\n{output}"


@pytest.mark.parametrize("page", RUN, ids=lambda path: path.stem)
def test_the_commands_of_a_page(page, place, device, monkeypatch, capsys):
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks.blocks(page):
        where = f"{page.name}:{block.line}"
        if block.mode == "file":
            (place / block.value).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "console":
            _console(block, where, place, device, monkeypatch)
        else:
            assert block.language in ("json", "toml", "yaml", "text"), f"{where}: nobody knows how to run this"


def _console(block, where, place, device, monkeypatch):
    if block.mode == "parse" or (block.mode == "ssh" and device is None):
        for command, _ in block.steps():
            blocks.check_parses(command)
        return
    for number, (command, shown) in enumerate(block.steps(), start=1):
        blocks.check_parses(command) if command.startswith("edgekit") and "|" not in command else None
        scale = scaled(command)
        if block.mode == "ssh":
            for name, value in device.programs(place / f"ssh-{block.line}-{number}").items():
                monkeypatch.setenv(name, value)
            scale = re.sub(r"ssh://\S+", device.url, scale) + f" --python {sys.executable}"
            scale = re.sub(r"(edgekit deploy) \S+", rf"\1 {block.value}", scale)
        done = run(scale, place)
        expected = int(block.value) if block.mode == "exit" and number == len(block.steps()) else 0
        assert done.returncode == expected, f"{where}: {scale}\n{done.stdout}\n{done.stderr}"
        check_shape(shown, done.stdout)


@pytest.mark.parametrize("page", READ, ids=lambda path: path.relative_to(small.ROOT).as_posix())
def test_the_commands_of_a_page_parse(page):
    for block in blocks.blocks(page):
        if block.language == "console":
            for command, _ in block.steps():
                blocks.check_parses(command)
        elif block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")
        elif block.language == "toml":
            pytest.importorskip("tomllib").loads(block.text)
        else:
            assert block.language in ("json", "yaml", "text", "sh", ""), f"{page}:{block.line}: {block.language}"


def test_what_does_not_parse():
    """The checks above can fail."""
    for command in (
        "edgekit nothing out",
        "edgekit build m --no-such-option",
        "make no-such-target",
        "pip install 'edgekit-sdk[nothing]'",
        "pip install somebody-elses",
        "rm -r out",
    ):
        with pytest.raises((AssertionError, ImportError, click.UsageError)):
            blocks.check_parses(command)
    with pytest.raises(AssertionError):
        check_shape(['{"label": "a", "other": 1}'], '{"label": "b"}\n')
    with pytest.raises(AssertionError):
        check_shape(["verdict: pass"], "nothing of the kind\n")
    check_shape(['{"label": "a", "scores": {"a": 0.1, ...}}'], '{"label": "b", "scores": {"b": 1}}\n')


def test_steps_of_a_block():
    block = blocks.Block("console", "$ a \\\n    b\nshown\n$ c\n", "run", "", 1)
    assert block.steps() == [("a b", ["shown"]), ("c", [])]
