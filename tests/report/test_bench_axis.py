"""Which lengths an engine holds is asked of the axis that the model's own signature names."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from edgekit.report import bench as benching
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.options import BenchOptions
from edgekit.spec.tensor import Signature, TensorSpec


@pytest.mark.parametrize("axis", ["sequence", "frames"])
def test_lengths_are_those_of_the_axis_of_the_signature(axis, monkeypatch):
    recipe = EngineRecipe(precisions=("float16",), profiles=({"batch": (1, 1, 1), axis: (1, 64, 128)},))
    variant = SimpleNamespace(backend="tensorrt", method="float16", engine=recipe, linear_macs=0)
    signature = Signature(
        "forward", (TensorSpec("x", "float32", ("batch", axis, 80)),), (TensorSpec("y", "float32", ("batch", 3)),)
    )
    opened = SimpleNamespace(manifest=SimpleNamespace(signatures=(signature,), variants=(variant,)))
    info = SimpleNamespace(
        max_length=512, backend="tensorrt", method="float16", threads=1, rows="together", max_tokens=0
    )
    asked = []
    session = SimpleNamespace(
        info=info,
        example_rows=lambda *sizes: asked.append(sizes),
        run_rows=lambda rows, **_: [],
        warm_up=lambda: None,
    )
    monkeypatch.setattr(benching, "open_bundle", lambda *_: opened)
    monkeypatch.setattr(benching, "load", lambda *_, **__: contextlib.nullcontext(session))
    found = benching.bench("bundle", options=BenchOptions(batches=[1], lengths=[64, 256], seconds=0.0))
    assert asked == [(1, 64)]
    assert found.left_out == ("1 x 256",)
