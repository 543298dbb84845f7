"""The embeddings of an exported model leave memory: onnxscript's rules refer to the last graph that they were applied to."""

from __future__ import annotations

import gc
import weakref

import tiny

import edgekit
from edgekit.export.graphs import export


def test_released_embeddings_are_freed_after_an_export(tmp_path):
    source = edgekit.source.read(tiny.folder("bert"))
    tables = [weakref.ref(table) for table in source.module.bert.embeddings.parameters()]
    export(source, tmp_path, tiny.TEXTS[:4])
    source.release()
    gc.collect()
    assert [table() for table in tables] == [None] * 5
