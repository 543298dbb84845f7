"""What a user's type checker sees: one input gives one answer; a list or a column gives a list."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import small

PROGRAM = """
from typing import Any

import numpy as np
from typing_extensions import assert_type

import edgekit


class Column:
    def to_list(self) -> list[str]:
        return []


def use(session: edgekit.Session, text: str, texts: list[str], array: "np.ndarray[Any, np.dtype[np.str_]]") -> None:
    assert_type(session(text), Any)
    assert_type(session((text, text)), Any)
    assert_type(session(texts), list[Any])
    assert_type(session([text]), list[Any])
    session(array).append("an array is taken; mypy gives Any, since the shape of an array is Any")
    assert_type(session(Column()), list[Any])
    edgekit.load("out", threads="four")  # wrong
"""


@pytest.mark.slow
def test_types_of_answers(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    file = tmp_path / "user.py"
    file.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--follow-imports", "silent", "--cache-dir", "/dev/null", str(file)]
    done = subprocess.run(command, cwd=small.ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert '"threads"' in errors[0]
