"""The weights of an exported module leave memory: onnxscript's rules refer to the last graph that they were applied to."""

from __future__ import annotations

import gc
import weakref

import tiny

import edgekit
from edgekit.export.graphs import export


def test_released_weights_are_freed_after_an_export(tmp_path):
    source = edgekit.source.read(tiny.folder("bert"))
    weights = {name: weakref.ref(weight) for name, weight in source.module.named_parameters()}
    export(source, tmp_path, tiny.TEXTS[:4])
    source.release()
    gc.collect()
    assert [name for name, weight in weights.items() if weight() is not None] == []
