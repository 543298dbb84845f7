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

RUN = [
    small.ROOT / "README.md",
    *sorted((small.ROOT / "docs/tutorials").glob("*.md")),
    small.ROOT / "docs/how-to/python.md",
]
READ = [
    path for folder in ("docs", "examples") for path in sorted((small.ROOT / folder).rglob("*.md")) if path not in RUN
] + [small.ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")]

# The scale of the small model: it has two layers, is trained for a moment, and is built for one backend.
SMALLER = (
    ("--layers 3", "--layers 1"),
    ("layers=3", "layers=1"),
    ("--target cpu", "--target quick.toml"),
    ("--speedup 1.25", "--speedup 1.02"),
    ("max_time=120", "max_time=5, accept_reference=True"),
    ('out="out",', 'out="out", target="quick.toml",'),
)
BRIEFLY = {
    "init": "--target quick.toml",
    "build": "--max-time 5 --accept-reference",
    "distill": "--epochs 4 --copies 1 --learning-rate 1e-3",
    "prune": "--epochs 2",
    "check": "--max-time 4",
    "compare": "--max-time 4",
    "bench": "--seconds 0.05 --batches 1 --lengths 8",
}
TARGET = """extends = "cpu"
name = "quick"
backends = ["onnxruntime"]
methods = ["dynamic", "float32"]
shapes = []
"""
SECONDS = 230


class Page:
    """A page whose blocks are run in order, in a folder of their own.

    Attributes:
        path: The Markdown file.
        place: The working folder, with the model and the samples that the pages name.
    """

    def __init__(self, path: Path, place: Path) -> None:
        self.path = path
        self.place = place
        self.blocks = list(blocks.blocks(path))
        self.names: dict[str, object] = {"__name__": "docs"}

    def run(self, environment: dict[str, str], device: sshd.Device | None) -> None:
        """Run all blocks in order."""
        for block in self.blocks:
            where = f"{self.path.name}:{block.line}"
            if block.mode == "file":
                (self.place / block.value).write_text(block.text)
            elif block.language == "python":
                exec(compile(shrink(block.text), where, "exec"), self.names)
            elif block.language == "console":
                _console(block, where, self.place, environment, device)
            else:
                assert block.language in ("json", "toml", "yaml", "text"), f"{where}: nobody knows how to run this"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables of the commands: ``edgekit`` and ``pytest`` on the PATH are this checkout's."""
    programs = tmp_path_factory.mktemp("bin")
    for name in ("edgekit", "pytest"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(small.ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with a model and samples under the names that the pages use. The model has wide layers, so that pruning can gain."""
    folder = tmp_path_factory.mktemp("material")
    module = small.module(neurons=256)
    small.save(folder / "my-model", neurons=256)
    texts = small.texts(300, seed=2)
    rows = small.labelled(module, texts, count=100, wrong=4)
    small.write_jsonl(folder / "dev.jsonl", rows[:60])
    small.write_jsonl(folder / "train.jsonl", rows[60:])
    small.write_jsonl(folder / "unlabelled.jsonl", [{"text": text} for text in small.texts(20, seed=3)])
    (folder / "quick.toml").write_text(TARGET)
    return folder


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The ssh server of the tests, or None with no server installed."""
    folder = tmp_path_factory.mktemp("sshd")
    try:
        with sshd.running(folder, PYTHONPATH=str(small.ROOT), OMP_NUM_THREADS="1") as server:
            yield server
    except pytest.skip.Exception:
        yield None


def shrink(text: str) -> str:
    """Return a command or a program with the numbers of the small model."""
    for old, new in SMALLER:
        text = text.replace(old, new)
    return text


def scaled(command: str) -> str:
    """Return a command at the scale of the small model."""
    command = shrink(command)

    def with_options(match: re.Match) -> str:
        verb = match[1]
        target = (
            " --target quick.toml" if "--samples" in command and "--target" not in command and verb == "build" else ""
        )
        return f"{match[0]} {BRIEFLY[verb]}{target}" if verb in BRIEFLY else match[0]

    return re.sub(r"\bedgekit ([a-z-]+)", with_options, command, count=1)


def run(command: str, place: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=place,
        env=environment,
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


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_a_page_runs(path, material, environment, device, tmp_path, monkeypatch):
    """One test a page: its blocks build on each other."""
    for file in material.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    Page(path, tmp_path).run(environment, device)


def _console(block, where, place, environment, device):
    if block.mode == "parse" or (block.mode == "ssh" and device is None):
        for command, _ in block.steps():
            blocks.check_parses(command)
        return
    for number, (command, shown) in enumerate(block.steps(), start=1):
        if command.startswith("edgekit") and "|" not in command:
            blocks.check_parses(command)
        variables, line = environment, scaled(command)
        if block.mode == "ssh":
            folder = place / f"ssh-{block.line}-{number}"
            device.programs(folder)
            variables = environment | {"PATH": f"{folder}{os.pathsep}{environment['PATH']}"}
            line = re.sub(r"ssh://\S+", device.url, line) + f" --python {sys.executable}"
            line = re.sub(r"(edgekit deploy) \S+", rf"\1 {block.value}", line)
        done = run(line, place, variables)
        last = block.mode == "exit" and number == len(block.steps())
        expected = [int(code) for code in block.value.split(",")] if last else [0]
        assert done.returncode in expected, f"{where}: {line}\n{done.stdout}\n{done.stderr}"
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
            assert block.language in ("json", "yaml", "text", "sh", "kotlin", ""), (
                f"{page}:{block.line}: {block.language}"
            )


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
