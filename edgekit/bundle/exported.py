"""Metadata of exported graphs: what an app must know that runs a ``.tflite`` file of a bundle without EdgeKit.

It lies beside the graph, as ``graphs/NAME.json`` for ``graphs/NAME.tflite``, and repeats what the manifest, the task
and the graph say, in the types and shapes of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from edgekit.bundle import tflite_reader
from edgekit.bundle.onnx_reader import Value
from edgekit.spec.manifest import Manifest
from edgekit.spec.parsing import to_json
from edgekit.spec.tensor import Signature

__all__ = ["FORMAT", "metadata"]

FORMAT = 1
"""Format of the metadata."""

_SUFFIX = ".tflite"
_ASSETS = "assets/"
_SETTINGS = "assets/task.json"
_STEPS = (
    "Encode the input as settings and files below say: token ids of the tokenizer, cut to settings.max_length.",
    "Resize each input of the signature to [1, number of tokens], then allocate the tensors.",
    "Set the inputs, invoke, read the outputs. Where the first axis is -1, a batch pads its rows with the pad values.",
)


def metadata(manifest: Manifest, files: Mapping[str, Path | bytes]) -> dict[str, bytes]:
    """Return the metadata files of all ``.tflite`` graphs of a bundle: path in the bundle to content.

    Args:
        manifest: Manifest of the bundle; its list of files is not read.
        files: Path in the bundle to its content, or to the file.
    """
    contents: dict[str, bytes] = {}
    for variant in manifest.variants:
        for signature in manifest.signatures:
            name = variant.graphs[signature.name]
            if name.endswith(_SUFFIX):
                path = str(PurePosixPath(name).with_suffix(".json"))
                contents[path] = _describe(name, signature, manifest, files)
    return contents


def _describe(name: str, signature: Signature, manifest: Manifest, files: Mapping[str, Path | bytes]) -> bytes:
    """Return the metadata of one graph as JSON."""
    graph = _content(files[name])
    facts = tflite_reader.read(graph)
    pads = {spec.name: spec.pad for spec in signature.inputs}
    inputs = [{**_tensor(value), "pad": pads[value.name]} for value in facts.inputs]
    assets = {}
    for asset in sorted(files):
        if asset.startswith(_ASSETS):
            assets[f"../{asset}"] = _digest(_content(files[asset]))
    settings = json.loads(_content(files[_SETTINGS])) if _SETTINGS in files else {}
    data = {
        "format": FORMAT,
        "graph": {
            "file": PurePosixPath(name).name,
            "sha256": _digest(graph),
            "size": len(graph),
            "signature": facts.signature,
            "inputs": inputs,
            "outputs": [_tensor(value) for value in facts.outputs],
        },
        "task": manifest.task,
        "settings": settings,
        "files": assets,
        "score": {"name": manifest.score_name, "reference": manifest.reference_score},
        "steps": list(_STEPS),
    }
    return (to_json(data, indent=2, ensure_ascii=False) + "\n").encode()


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tensor(value: Value) -> dict[str, object]:
    """Return a tensor in the types and shapes of the file, with -1 for an axis that varies, as LiteRT has it."""
    shape = []
    for size in value.shape or ():
        shape.append(-1 if size is None else size)
    return {"name": value.name, "dtype": value.dtype, "shape": shape}
