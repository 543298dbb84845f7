"""What tests of builds share: shorter measurements, and a cache that has the exported models alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILT = {"again", "for_device", "hurt", "jetson", "made", "saved", "twice"}
"""Fixtures of the test files beside this one that build a bundle."""


def pytest_collection_modifyitems(items):
    """Mark the tests that build with a fixture."""
    for item in items:
        if HERE in item.path.parents and BUILT.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture
def quick(monkeypatch):
    """Shorter turns and fewer processes: what is tested is not how well they measure."""
    from edgekit.report import run
    from edgekit.timing import interleaved

    monkeypatch.setattr(interleaved, "_MEASURE_S", 0.1)
    monkeypatch.setattr(interleaved, "_WARM_UP_S", 0.05)
    monkeypatch.setattr(interleaved, "FEWEST", 2)
    monkeypatch.setattr(run, "_PROCESSES", 2)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own with nothing but exported models, if there are any: all that follows is done anew."""
    folder = tmp_path / "own-cache"
    folder.mkdir()
    for file in Path(os.environ["EDGEKIT_CACHE"]).glob("*/entry.json"):
        if json.loads(file.read_text("utf-8"))["step"] == "export":
            shutil.copytree(file.parent, folder / file.parent.name)
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder))
    return folder
