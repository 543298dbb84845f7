"""A bundle's parts hold together: its graphs take, give and read what its manifest says. Checked when it is opened, not at the first call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from edgekit.bundle.onnx_reader import NO_INITIALIZER, Facts, Value
from edgekit.spec import manifest as manifests
from edgekit.spec.errors import IntegrityError

if TYPE_CHECKING:
    from edgekit.spec.manifest import FileEntry
    from edgekit.spec.tensor import Signature, TensorSpec

__all__ = ["WEIGHTS", "check_external", "check_signature"]

WEIGHTS = "weights"


def check_external(name: str, facts: Facts, files: Mapping[str, FileEntry]) -> set[str]:
    """Holds what a graph reads of other files against what EdgeKit writes: ``weights/SHA256`` beside it, and nothing behind a file's end.

    Args:
        name: of the graph, relative to the bundle.
        facts: that were read off it.
        files: of the manifest.

    Returns:
        The files, relative to the bundle.

    Raises:
        IntegrityError: for another place, a file that the manifest does not list, or one of another digest or too small; the end of a sentence.
    """
    if facts.stored != len(facts.external):
        raise IntegrityError(NO_INITIALIZER, code="bundle-graph")
    read = set()
    for tensor in facts.external:
        manifests.check_inside(tensor.location, name)
        file = (PurePosixPath(name).parent / tensor.location).as_posix()
        listed = files.get(file)
        if listed is None:
            raise IntegrityError(
                f"it names the file {tensor.location!r}, which the manifest does not list", code="bundle-graph"
            )
        if tensor.location != f"{WEIGHTS}/{listed.sha256}":
            raise IntegrityError(
                f"it names the file {tensor.location!r}, expected {WEIGHTS}/ and the file's sha256, as EdgeKit writes it",
                code="bundle-graph",
            )
        if tensor.offset + tensor.size > listed.size:
            raise IntegrityError(
                f"it reads {tensor.size} bytes from {tensor.offset} on in {tensor.location!r}, which has {listed.size}",
                code="bundle-graph",
            )
        read.add(file)
    return read


def check_signature(facts: Facts, signature: Signature) -> None:
    """Holds a graph's inputs and outputs against the signature that the manifest states.

    A graph may leave out inputs that it does not use: a backend is not fed those.

    Raises:
        IntegrityError: for another name, element type, number of axes or fixed size; the end of a sentence.
    """
    takes, gives = ({value.name: value for value in values} for values in (facts.inputs, facts.outputs))
    specs = {spec.name: spec for spec in signature.inputs}
    if unknown := sorted(takes.keys() - specs.keys()):
        raise IntegrityError(
            f"its input {unknown[0]!r} is not in the manifest's signature '{signature.name}', which has: {_names(specs)}",
            code="bundle-graph",
        )
    if signature.inputs and not takes:
        raise IntegrityError(
            f"it has no input, the manifest's signature '{signature.name}' has: {_names(specs)}", code="bundle-graph"
        )
    for name in takes:
        _check_value("input", takes[name], specs[name])
    for spec in signature.outputs:
        if spec.name not in gives:
            raise IntegrityError(
                f"it has no output {spec.name!r}, which the manifest's signature '{signature.name}' has; it gives: {_names(gives)}",
                code="bundle-graph",
            )
        _check_value("output", gives[spec.name], spec)


def _check_value(kind: str, value: Value, spec: TensorSpec) -> None:
    """Refuses an input or output that is another than the manifest states. A graph need not state the shape of an output."""
    if value.dtype != spec.dtype:
        raise IntegrityError(
            f"its {kind} {value.name!r} is of type {value.dtype or 'unknown'}, the manifest states {spec.dtype}",
            code="bundle-graph",
        )
    if value.shape is None:
        return
    fits = len(value.shape) == len(spec.shape) and all(
        mine is None or (mine == other if isinstance(other, int) else kind == "output")
        for mine, other in zip(value.shape, spec.shape, strict=True)
    )
    if not fits:
        shape = ", ".join("any" if size is None else str(size) for size in value.shape)
        raise IntegrityError(
            f"its {kind} {value.name!r} is [{shape}], the manifest states [{', '.join(map(str, spec.shape))}]",
            code="bundle-graph",
        )


def _names(names: Mapping[str, object] | Sequence[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:8]) + (" ..." if len(shown) > 8 else "") if shown else "none"
