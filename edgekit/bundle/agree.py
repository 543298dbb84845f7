"""Consistency of a bundle's graphs with its manifest: inputs, outputs and external data.

It is checked when a bundle is opened, not at the first call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from edgekit import backends
from edgekit.bundle import onnx_reader, tflite_reader
from edgekit.bundle.onnx_reader import NO_INITIALIZER, Facts, Value
from edgekit.bundle.tflite_reader import TfliteFacts
from edgekit.spec import manifest as manifests
from edgekit.spec.errors import IntegrityError

if TYPE_CHECKING:
    from edgekit.spec.manifest import FileEntry, Manifest
    from edgekit.spec.tensor import Signature, TensorSpec

__all__ = ["WEIGHTS", "check_external", "check_graph", "check_signature"]

WEIGHTS = "weights"
_TFLITE = ".tflite"  # All other graphs are ONNX files.
_NARROW = {
    "int64": "int32"
}  # Types in a .tflite file where the manifest states another: LiteRT looks ids up in 32 bits.
_MAX_NAMES = 8


def check_graph(name: str, data: bytes, manifest: Manifest) -> None:
    """Check a graph against the manifest: its format, its inputs and outputs, and its external data.

    Args:
        name: Path of the graph in the bundle.
        data: Content of the graph file.
        manifest: Manifest of the bundle.

    Raises:
        IntegrityError: If they disagree, or the graph is not readable. The message is a clause.
    """
    reader = tflite_reader if name.endswith(_TFLITE) else onnx_reader
    facts = reader.read(data)
    check_external(name, facts, manifest.files)
    for stated in manifest.signatures:
        users = [variant.backend for variant in manifest.variants if variant.graphs[stated.name] == name]
        for backend in users:
            _check_format(name, backend)
        if users:
            check_signature(facts, stated)


def _check_format(name: str, backend: str) -> None:
    """Check that a backend reads graphs of a format, if this version has the backend."""
    if backend in backends.names():
        suffix = backends.get(backend).GRAPH
        if not name.endswith(suffix):
            raise IntegrityError(
                f"the backend {backend!r} reads {suffix} files, but it is named for this graph", code="bundle-graph"
            )


def check_external(name: str, facts: Facts, files: Mapping[str, FileEntry]) -> set[str]:
    """Check that a graph reads external data only from the files that EdgeKit writes (``weights/SHA256``).

    Args:
        name: Path of the graph in the bundle.
        facts: Content of the graph file.
        files: Files of the manifest, by their path in the bundle.

    Returns:
        Paths of the external files in the bundle.

    Raises:
        IntegrityError: If a tensor is in another place, in a file that the manifest does not list, in a file with
            another digest, or behind the end of the file. The message is a clause.
    """
    if facts.stored != len(facts.external):
        raise IntegrityError(NO_INITIALIZER, code="bundle-graph")
    paths = set()
    for tensor in facts.external:
        manifests.check_inside(tensor.location, name)
        path = (PurePosixPath(name).parent / tensor.location).as_posix()
        entry = files.get(path)
        if entry is None:
            raise IntegrityError(
                f"it names the file {tensor.location!r}, which the manifest does not list", code="bundle-graph"
            )
        if tensor.location != f"{WEIGHTS}/{entry.sha256}":
            raise IntegrityError(
                f"it names the file {tensor.location!r}, expected {WEIGHTS}/ and the sha256 of the file",
                code="bundle-graph",
            )
        if tensor.offset + tensor.size > entry.size:
            raise IntegrityError(
                f"it reads {tensor.size} bytes at offset {tensor.offset} of {tensor.location!r}, "
                f"which has {entry.size} bytes",
                code="bundle-graph",
            )
        paths.add(path)
    return paths


def check_signature(facts: Facts, signature: Signature) -> None:
    """Check the inputs and outputs of a graph against a signature of the manifest.

    A graph may lack inputs that it does not use. A backend is not given those inputs. A ``.tflite`` graph has integers
    of 32 bits where the manifest states 64, and may take one row a call where the manifest states any number.

    Args:
        facts: Content of the graph file.
        signature: Signature of the manifest.

    Raises:
        IntegrityError: If a name, an element type, the rank or a fixed size differs. The message is a clause.
    """
    is_tflite = isinstance(facts, TfliteFacts)
    if isinstance(facts, TfliteFacts) and facts.signature != signature.name:
        raise IntegrityError(
            f"its signature is {facts.signature!r}, the manifest states {signature.name!r}", code="bundle-graph"
        )
    inputs = {value.name: value for value in facts.inputs}
    outputs = {value.name: value for value in facts.outputs}
    specs = {spec.name: spec for spec in signature.inputs}
    if unknown := sorted(inputs.keys() - specs.keys()):
        raise IntegrityError(
            f"its input {unknown[0]!r} is not in the manifest's signature '{signature.name}', "
            f"which has: {_join_names(specs)}",
            code="bundle-graph",
        )
    if signature.inputs and not inputs:
        raise IntegrityError(
            f"it has no input, but the manifest's signature '{signature.name}' has: {_join_names(specs)}",
            code="bundle-graph",
        )
    for name in inputs:
        _check_value("input", inputs[name], specs[name], is_tflite)
    for spec in signature.outputs:
        if spec.name not in outputs:
            raise IntegrityError(
                f"it has no output {spec.name!r} of the manifest's signature '{signature.name}', "
                f"only: {_join_names(outputs)}",
                code="bundle-graph",
            )
        _check_value("output", outputs[spec.name], spec, is_tflite)


def _check_value(kind: str, value: Value, spec: TensorSpec, is_tflite: bool) -> None:
    """Refuse an input or output that differs from the manifest. A graph may lack the shape of an output."""
    expected_dtype = _NARROW.get(spec.dtype, spec.dtype) if is_tflite else spec.dtype
    if value.dtype != expected_dtype:
        raise IntegrityError(
            f"its {kind} {value.name!r} has type {value.dtype or 'unknown'}, the manifest states {spec.dtype}"
            + (f", expected {expected_dtype}" if expected_dtype != spec.dtype else ""),
            code="bundle-graph",
        )
    if value.shape is None:
        return
    if len(value.shape) == len(spec.shape):
        axes = list(zip(value.shape, spec.shape, strict=True))
        if is_tflite and axes[:1] == [(1, "batch")]:
            axes = axes[1:]
        if all(_is_axis_valid(size, stated, kind) for size, stated in axes):
            return
    shape = ", ".join(map(str, value.shape)).replace("None", "any")
    expected = ", ".join(map(str, spec.shape))
    raise IntegrityError(
        f"its {kind} {value.name!r} has shape [{shape}], the manifest states [{expected}]",
        code="bundle-graph",
    )


def _is_axis_valid(size: int | None, stated: str | int, kind: str) -> bool:
    """Return whether the size of an axis in the graph agrees with the manifest.

    Args:
        size: Size in the graph. None if it varies.
        stated: Size in the manifest, or the name of an axis that varies.
        kind: ``input`` or ``output``. An output may have a fixed size where the manifest has a name.
    """
    if size is None:
        return True
    if isinstance(stated, int):
        return size == stated
    return kind == "output"


def _join_names(names: Iterable[str]) -> str:
    quoted = [repr(name) for name in names]
    if not quoted:
        return "none"
    return ", ".join(quoted[:_MAX_NAMES]) + (" ..." if len(quoted) > _MAX_NAMES else "")
