"""Bundles of earlier formats: ``tests/data/format-N`` was written by the release that wrote that format, and is opened and run by this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgekit
from edgekit.runtime import golden
from edgekit.spec.manifest import FORMAT

pytestmark = pytest.mark.device

DATA = Path(__file__).resolve().parents[1] / "data"


def test_every_earlier_format_has_a_bundle():
    """A new format keeps a bundle of the one before."""
    stored = {json.loads(file.read_text("utf-8"))["format"] for file in DATA.glob("format-*/manifest.json")}
    assert stored == set(range(1, FORMAT))


def test_a_bundle_of_format_1_answers_as_it_did_where_it_was_built():
    with edgekit.load(DATA / "format-1") as session:
        result = golden.check(session)
        assert result.passed
        assert result.flips == 0
        assert session("the film was lovely").label in ("negative", "neutral", "positive")
