"""Model as ONNX files: the representation between export and compilation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.spec.tensor import Signature, merge_signatures

__all__ = ["Graph", "GraphSet"]


@dataclass(frozen=True)
class Graph:
    """One ``.onnx`` file with its external data.

    Attributes:
        signature: Inputs and outputs of the graph.
        path: Path of the file; its large tensors are in ``weights/SHA256`` beside it.
        method: Quantization method: a file name in ``quantize/``, e.g. ``float32``, ``static``, ``dynamic``.
        recipe: Settings that the method chose, as text, e.g. ``{"ranges": "mse", "smooth": "0.5"}``.
    """

    signature: Signature
    path: Path
    method: str
    recipe: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphSet:
    """All graphs of a model, with its task, loop and assets.

    Attributes:
        task: Task name: a file name in ``tasks/`` spelled with hyphens.
        loop: Name of the loop that runs the graphs: a file name in ``runtime/loops/``.
        graphs: One graph per signature.
        assets: Folder with ``tokenizer.json``, ``task.json``; plain files, nothing executable.
        provenance: Model id, revision, digests, tool versions.
    """

    task: str
    loop: str
    graphs: tuple[Graph, ...]
    assets: Path
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of all graphs, see :func:`edgekit.spec.tensor.merge_signatures`."""
        return merge_signatures([graph.signature for graph in self.graphs])

    @property
    def recipe(self) -> Mapping[str, str]:
        """Settings that the method chose, as text. Values that differ between the graphs are joined, each once."""
        parts: dict[str, list[str]] = {}
        for graph in self.graphs:
            for name, text in graph.recipe.items():
                parts.setdefault(name, []).extend(text.split(", "))
        return {name: ", ".join(dict.fromkeys(values)) for name, values in parts.items()}
