"""Short measurements, for tests of what is made of a measurement and not of how well it is measured."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

QUICK = Path(__file__).parent / "quick"
BLOCKS = 2
"""Blocks of calls in a process, however long its start took: on a busy machine it takes seconds."""


def quick_environment(processes: int = 4) -> dict[str, str]:
    """Environment of a child that measures in short turns and few processes. Fewer than 4 decide no gate of a time."""
    path = os.pathsep.join(filter(None, (str(QUICK), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "EDGEKIT_TEST_PROCESSES": str(processes)}


@contextlib.contextmanager
def quick(processes: int = 4):
    """Short turns and few processes, in this process and in its children."""
    from edgekit.report import run
    from edgekit.timing import interleaved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interleaved, "_MAX_BLOCKS", BLOCKS)
        patch.setattr(interleaved, "FEWEST", processes)
        patch.setattr(run, "_PROCESSES", processes)
        for name, value in quick_environment(processes).items():
            patch.setenv(name, value)
        yield
