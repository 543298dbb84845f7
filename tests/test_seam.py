"""Separation of tasks from the rest: only ``tasks/``, ``modalities/`` and ``source/heads/`` may name a task."""

from __future__ import annotations

import re

import pytest
import small

from edgekit import tasks

PACKAGE = small.ROOT / "edgekit"
INSIDE = ("tasks/", "modalities/", "source/heads/")
"""Folders that may name a task."""

_NAMES = [form for name in tasks.names() for form in (name, name.replace("-", "_"), name.title().replace("-", ""))]
KNOWS = re.compile(
    "|".join([*_NAMES, "SequenceClassification", "problem.?type", "logits?", "(single|multi)_label_classification"]),
    re.IGNORECASE,
)
"""Names of a task or its class, kinds of heads, outputs of classifiers; in code, strings, comments and docstrings."""


def knowing(text: str) -> list[str]:
    """Return the lines that name a task, with their numbers."""
    return [f"{number}: {line.strip()}" for number, line in enumerate(text.splitlines(), 1) if KNOWS.search(line)]


def files() -> dict[str, str]:
    """Return the text of every file of the package outside the folders that may name a task."""
    texts = {}
    for file in sorted(PACKAGE.rglob("*")):
        name = file.relative_to(PACKAGE).as_posix()
        if file.is_file() and "__pycache__" not in name and not name.startswith(INSIDE):
            texts[name] = file.read_bytes().decode("utf-8", "replace")
    return texts


def test_no_other_file_names_a_task():
    assert {name: lines for name, text in files().items() if (lines := knowing(text))} == {}


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
def test_a_line_that_names_a_task_is_detected(line):
    assert knowing("\n" + line) == [f"2: {line}"]


def test_a_line_that_names_none_is_not_detected():
    assert knowing("classify the text\nlogistic\nproblem of a type that\noutputs = rows") == []
