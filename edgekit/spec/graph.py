"""A model as ONNX files: the one representation between export and compile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.spec.tensor import Signature, merge_signatures

__all__ = ["Graph", "GraphSet"]


@dataclass(frozen=True)
class Graph:
    """One ``.onnx`` file with the external data that it lists.

    Attributes:
        signature: what it takes and gives.
        path: the file; its large tensors are in ``weights/SHA256`` beside it.
        method: how its precision was decided: a file name in ``quantize/``, e.g. ``float32``, ``static``, ``dynamic``.
        recipe: what the method chose, in words, e.g. ``{"ranges": "mse", "smooth": "0.5"}``.
    """

    signature: Signature
    path: Path
    method: str
    recipe: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphSet:
    """All graphs of a model, and what is needed to feed and to read them.

    Attributes:
        task: a file name in ``tasks/`` in its public spelling, with hyphens.
        loop: a file name in ``runtime/loops/``: how the graphs are driven.
        graphs: one per signature.
        assets: folder with ``tokenizer.json``, ``task.json``; plain files, nothing executable.
        provenance: where it came from: model id, revision, digests, tool versions.
    """

    task: str
    loop: str
    graphs: tuple[Graph, ...]
    assets: Path
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """All that its graphs take and give, see :func:`edgekit.spec.tensor.merge_signatures`."""
        return merge_signatures([graph.signature for graph in self.graphs])

    @property
    def recipe(self) -> Mapping[str, str]:
        """What the method chose, in words: where it chose otherwise for another graph, one after the other; of lists each entry once."""
        names = dict.fromkeys(name for graph in self.graphs for name in graph.recipe)
        return {
            name: ", ".join(
                dict.fromkeys(part for g in self.graphs if name in g.recipe for part in g.recipe[name].split(", "))
            )
            for name in names
        }
