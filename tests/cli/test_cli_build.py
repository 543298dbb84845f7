"""``edgekit build``: what it says of a build that fails."""

from __future__ import annotations

import re

import pytest
import small


@pytest.mark.slow
def test_a_budget_that_cannot_be_met(edgekit, tiny_model, tiny_samples, tmp_path):
    target = small.target(tmp_path / "two.toml", methods=("float32", "dynamic"), extra="threads = 1\nshapes = []")
    arguments = (
        "--samples",
        tiny_samples.train,
        "--eval",
        tiny_samples.dev,
        "--target",
        target,
        "-o",
        tmp_path / "out",
    )
    budget = ("size_mb=0.01", "p50_ms=0.000001", "memory_mb=1")
    result = edgekit("build", tiny_model, *arguments, *(part for limit in budget for part in ("--budget", limit)))
    assert (result.code, result.out) == (3, "")
    assert "edgekit: error[budget-none-inside]: " in result.err
    for method in ("float32", "dynamic"):
        assert re.search(
            rf"{method} on onnxruntime: over budget: p50_ms .* ms over 1e-06 ms, memory_mb .* MB over 1 MB, size_mb .* MB over 0.01 MB",
            result.err,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["two.toml"]


def test_a_label_that_the_model_does_not_know(edgekit, tiny_model, tiny_samples, tmp_path):
    rows = [*tiny_samples.rows[:3], {"text": f"secret {small.CANARY}", "label": "nobody knows"}]
    bad = small.write_jsonl(tmp_path / "bad.jsonl", rows)
    result = edgekit("build", tiny_model, "--samples", tiny_samples.train, "--eval", bad, "-o", tmp_path / "out")
    assert (result.code, result.out) == (2, "")
    assert "edgekit: error[samples-label]: " in result.err
    assert "row 4" in result.err
    assert small.CANARY not in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]
