"""The seam between tasks and the rest: what knows a task stands in ``tasks/``, ``modalities/`` and ``source/heads/``, and nowhere else."""

from __future__ import annotations

import re

import pytest
import small

from edgekit import tasks

PACKAGE = small.ROOT / "edgekit"
INSIDE = ("tasks/", "modalities/", "source/heads/")
"""Folders that may know a task."""

_NAMES = [form for name in tasks.names() for form in (name, name.replace("-", "_"), name.title().replace("-", ""))]
KNOWS = re.compile(
    "|".join([*_NAMES, "SequenceClassification", "problem.?type", "logits?", "(single|multi)_label_classification"]),
    re.IGNORECASE,
)
"""Names of a task or its class, a kind of head, an output of classifiers: in code, strings, comments and docstrings alike."""


def knowing(text: str) -> list[str]:
    """Lines that know a task, with their numbers."""
    return [f"{number}: {line.strip()}" for number, line in enumerate(text.splitlines(), 1) if KNOWS.search(line)]


def files() -> dict[str, str]:
    """Every text file of the package that is outside of the folders that may know a task."""
    found = {}
    for file in sorted(PACKAGE.rglob("*")):
        name = file.relative_to(PACKAGE).as_posix()
        if file.is_file() and "__pycache__" not in name and not name.startswith(INSIDE):
            found[name] = file.read_bytes().decode("utf-8", "replace")
    return found


FILES = files()


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_outside_knows_a_task(name):
    assert knowing(FILES[name]) == []


@pytest.mark.parametrize(
    "line",
    [
        "from edgekit.tasks import text_classification",
        "x = TextClassification()",
        "# of logits",
        "'text-classification'",
        "def f(problem_type):",
        "# a logit",
    ],
)
def test_what_knows_a_task_is_found(line):
    assert knowing("\n" + line) == [f"2: {line}"]


def test_what_knows_none_is_not_found():
    assert knowing("classify the text\nlogistic\nproblem of a type that\noutputs = rows") == []
