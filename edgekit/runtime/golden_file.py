"""The file of golden inputs and outputs in a bundle: writing and strict reading of both of its layouts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime import _npz
from edgekit.runtime.loops import single
from edgekit.spec import rows as of_rows
from edgekit.spec.errors import IntegrityError
from edgekit.spec.protocols import Arrays
from edgekit.spec.tensor import Signature, TensorSpec, merge_signatures

if TYPE_CHECKING:
    from edgekit.bundle.trust import Bundle

__all__ = ["FILE", "Golden", "pack", "read"]

FILE = "golden.npz"
_LIMIT = 64 * 2**20
_MOST_ROWS = 256
_KEPT = "kept."


@dataclass(frozen=True)
class Golden:
    """What a bundle holds to be compared with.

    Attributes:
        rows: inputs without padding: name to an array without a batch axis, those that no graph takes among them, where the bundle has these.
        outputs: what graphs gave for each row where the bundle was built, for each variant.
        reference: outputs of the float32 graph there; None in bundles of format 1.
    """

    rows: list[Arrays]
    outputs: list[list[Arrays]]
    reference: list[Arrays] | None


def pack(
    signature: Signature,
    rows: Sequence[Arrays],
    outputs: Sequence[Sequence[Arrays]],
    reference: Sequence[Arrays] | None,
) -> bytes:
    """The content of the file; the same arrays give the same bytes. Integer inputs are stored as the smallest type that holds them.

    Args:
        signature: signature of the graph; of a model with several, what :func:`edgekit.spec.tensor.merge_signatures` makes of theirs.
        rows: inputs, at least one row.
        outputs: outputs of each row, for each variant.
        reference: outputs of each row in float32; None where they are not known.
    """
    answered = {f"outputs.{i}": variant for i, variant in enumerate(outputs)} | (
        {} if reference is None else {"reference": reference}
    )
    taken = _of_graphs(rows, signature.inputs)
    named: dict[str, Any] = {}
    if _is_table(signature):
        (output,) = signature.outputs
        given = {f"input.{name}": _smallest(array) for name, array in single.collate(signature, rows).items()}
        columns = {name: np.stack([row[output.name] for row in variant]) for name, variant in answered.items()}
        reference_column = {name: columns.pop(name) for name in ("reference",) if name in columns}
        named = {
            "lengths": np.array([single.size(signature, row) for row in rows], np.int64),
            **columns,
            **given,
            **reference_column,
        }
    else:
        named = {f"input.{name}": _smallest(array) for name, array in of_rows.pack(taken).items()}
        for prefix, variant in answered.items():
            named |= {
                f"{prefix}.{name}": array
                for name, array in of_rows.pack(_of_graphs(variant, signature.outputs)).items()
            }
    kept = [
        {f"{_KEPT}{name}": array for name, array in row.items() if name not in own}
        for row, own in zip(rows, taken, strict=True)
    ]
    named |= {name: _smallest(array) for name, array in of_rows.pack(kept).items()}
    stream = io.BytesIO()
    np.savez(stream, **named)
    return stream.getvalue()


def _of_graphs(rows: Sequence[Arrays], specs: Sequence[TensorSpec]) -> list[Arrays]:
    """Rows without what a loop or a task keeps in them beside the inputs and outputs of graphs."""
    names = {spec.name for spec in specs}
    return [{name: array for name, array in row.items() if name in names} for row in rows]


def read(bundle: Bundle) -> Golden:
    """Reads the golden inputs and outputs of a bundle that was checked.

    Raises:
        IntegrityError: when the file is missing, damaged, or does not go with the manifest.
    """
    entry = bundle.manifest.files.get(FILE)
    try:
        if entry is not None and entry.size > _LIMIT:
            raise ValueError(f"it has {entry.size} bytes, expected at most {_LIMIT}")
        return _read(bundle.read(FILE), bundle)
    except ValueError as problem:
        raise IntegrityError(
            f"{bundle.path / FILE} cannot be read ({problem}). Build or copy the bundle again.", code="bundle-assets"
        ) from problem


def _is_table(signature: Signature) -> bool:
    """Whether all inputs are integers of one axis that varies, the same, and the one output is float32 of a fixed shape."""
    if len(signature.varying) != 1 or len(signature.outputs) != 1:
        return False
    shape = ("batch", signature.varying[0])
    (output,) = signature.outputs
    fixed = output.dtype == "float32" and len(output.shape) == 2 and not set(output.shape[1:]) & set(signature.varying)
    return fixed and all(np.dtype(spec.dtype).kind in "iu" and spec.shape == shape for spec in signature.inputs)


def _smallest(array: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them; other numbers as they are."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    return array.astype(np.result_type(*map(np.min_scalar_type, (array.min(), array.max()))))


def _read(content: bytes, bundle: Bundle) -> Golden:
    signatures = bundle.manifest.signatures
    signature, outputs = merge_signatures(signatures), [f"outputs.{i}" for i in range(len(bundle.manifest.variants))]
    if _is_table(signature):
        return _read_table(content, signature, outputs)
    return _read_packed(content, signature, outputs, whole=len(signatures) == 1)


def _read_table(content: bytes, signature: Signature, outputs: Sequence[str]) -> Golden:
    names = {f"input.{spec.name}": spec for spec in signature.inputs}
    arrays = _npz.read(content, ["lengths", *outputs, *names], ["reference"], _KEPT)
    lengths = arrays["lengths"]
    if lengths.dtype != np.int64 or lengths.ndim != 1 or not 1 <= len(lengths) <= _MOST_ROWS or lengths.min() < 1:
        raise ValueError(
            f"its lengths are {lengths.dtype} {lengths.shape}, expected int64 of 1 to {_MOST_ROWS} rows, each at least 1"
        )
    size = (len(lengths), int(lengths.max()))
    for name in names:
        if arrays[name].dtype.kind not in "iu" or arrays[name].dtype == np.uint64 or arrays[name].shape != size:
            raise ValueError(f"'{name}' is {arrays[name].dtype} {arrays[name].shape}, expected integers {size}")
    kept = [*outputs, *(["reference"] if "reference" in arrays else [])]
    width = arrays[outputs[0]].shape[-1:]
    for name in kept:
        if arrays[name].dtype != np.float32 or arrays[name].shape != (len(lengths), *width) or 0 in width:
            raise ValueError(
                f"'{name}' is {arrays[name].dtype} {arrays[name].shape}, expected float32 ({len(lengths)}, labels)"
            )
    whole = {spec.name: arrays[name].astype(spec.dtype) for name, spec in names.items()}
    rows: list[Arrays] = [
        {name: array[i, :length] for name, array in whole.items()} for i, length in enumerate(lengths.tolist())
    ]
    (output,) = signature.outputs
    columns: dict[str, list[Arrays]] = {name: [{output.name: row} for row in arrays[name]] for name in kept}
    return Golden(_with_kept(rows, arrays), [columns[name] for name in outputs], columns.get("reference"))


def _read_packed(content: bytes, signature: Signature, outputs: Sequence[str], *, whole: bool) -> Golden:
    """Reads the layout of named arrays; ``whole``: a row has all inputs and outputs. Of several graphs some are made and used up between them."""
    parts = {"input": signature.inputs, **dict.fromkeys([*outputs, "reference"], signature.outputs)}
    known = {part: [f"{part}.{spec.name}" for spec in specs] for part, specs in parts.items()}
    needed = [name for part, names in known.items() for name in names if whole and part != "reference"]
    arrays = _npz.read(
        content, needed, [name + end for names in known.values() for name in names for end in ("", ".shapes")], _KEPT
    )
    parts = {part: tuple(spec for spec in specs if f"{part}.{spec.name}" in arrays) for part, specs in parts.items()}
    if not parts["reference"]:
        del parts["reference"]
    for part, specs in parts.items():
        if not specs or (part != "input" and specs != parts[outputs[0]]):
            raise ValueError(
                f"of '{part}' it holds {[spec.name for spec in specs]}, expected the arrays of a row, the same of each variant"
            )
    rows = {part: _packed_rows(arrays, part, specs) for part, specs in parts.items()}
    count = len(rows["input"])
    if not 1 <= count <= _MOST_ROWS or any(len(found) != count for found in rows.values()):
        raise ValueError(
            f"it is of {count} inputs and {[len(found) for found in rows.values()]} answers, expected 1 to {_MOST_ROWS} rows of all"
        )
    if any(0 in array.shape for row in rows["input"] for array in row.values()):
        raise ValueError("an input is empty, expected at least one value")
    return Golden(_with_kept(rows["input"], arrays), [rows[name] for name in outputs], rows.get("reference"))


def _with_kept(rows: Sequence[Arrays], arrays: Mapping[str, np.ndarray]) -> list[Arrays]:
    """Inputs of graphs with the arrays beside them, where the file has these."""
    kept = _unpacked(arrays, "kept") or [{}] * len(rows)
    if len(kept) != len(rows):
        raise ValueError(f"it is of {len(rows)} inputs and what was kept of {len(kept)}")
    whole_numbers = [
        {name: array.astype(np.int64) if array.dtype.kind in "iu" else array for name, array in row.items()}
        for row in kept
    ]
    return [{**row, **beside} for row, beside in zip(rows, whole_numbers, strict=True)]


def _packed_rows(arrays: Mapping[str, np.ndarray], part: str, specs: Sequence[TensorSpec]) -> list[Arrays]:
    """The rows of one part of the file in the types of the signature.

    Raises:
        ValueError: for arrays that do not fit it.
    """
    rows = _unpacked(arrays, part)
    for row in rows:
        for spec in specs:
            array, axes = row[spec.name], spec.shape[1:]
            typed = array.dtype == spec.dtype or (
                array.dtype.kind in "iu" and array.dtype != np.uint64 and np.dtype(spec.dtype).kind in "iu"
            )
            if (
                not typed
                or array.ndim != len(axes)
                or any(a != n for a, n in zip(axes, array.shape, strict=True) if isinstance(a, int))
            ):
                raise ValueError(
                    f"'{part}.{spec.name}' has a row that is {array.dtype} {array.shape}, expected {spec.dtype} {axes}"
                )
    return [{spec.name: row[spec.name].astype(spec.dtype, copy=False) for spec in specs} for row in rows]


def _unpacked(arrays: Mapping[str, np.ndarray], part: str) -> list[dict[str, np.ndarray]]:
    """The rows of one part of the file as they are stored.

    Raises:
        ValueError: for more rows than a bundle has, and for arrays that do not fit each other.
    """
    taken = {name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")}
    if any(
        not array.ndim or (len(array) > _MOST_ROWS and (key.endswith(".shapes") or f"{key}.shapes" not in taken))
        for key, array in taken.items()
    ):
        raise ValueError(f"'{part}' has more than {_MOST_ROWS} rows, or none")  # before anything is done for each row
    return of_rows.unpack(taken)
