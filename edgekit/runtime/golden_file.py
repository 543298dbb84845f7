"""The file of golden inputs and outputs in a bundle: writer and strict reader of both layouts.

:mod:`edgekit.runtime.golden` describes the layouts.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime import _npz
from edgekit.runtime.loops import single
from edgekit.spec import rows as row_format
from edgekit.spec.errors import IntegrityError
from edgekit.spec.protocols import Arrays
from edgekit.spec.tensor import Signature, TensorSpec, merge_signatures

if TYPE_CHECKING:
    from edgekit.bundle.trust import Bundle

__all__ = ["FILE", "Golden", "pack", "read"]

FILE = "golden.npz"
_MAX_BYTES = 64 * 2**20
_MAX_ROWS = 256
_EXTRA = "kept."


@dataclass(frozen=True)
class Golden:
    """Golden inputs and outputs of a bundle.

    Attributes:
        rows: Inputs: arrays by name for each row, without padding and batch axis. They include the arrays that no graph
            takes, if the bundle has any.
        outputs: Outputs of the graphs at the build: ``outputs[variant][row]`` holds arrays by name.
        reference: Outputs of the float32 graph at the build, for each row; None in bundles of format 1.
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
    """Return the content of the file. Equal arrays give equal bytes.

    Integers of inputs are stored in the smallest type that holds them.

    Args:
        signature: Signature of the graph, or :func:`edgekit.spec.tensor.merge_signatures` of several graphs.
        rows: Inputs, at least one row.
        outputs: Outputs of each row, for each variant.
        reference: Outputs of each row in float32; None if they are not known.
    """
    pack_layout = _pack_table if _is_table(signature) else _pack_named
    named = pack_layout(signature, rows, outputs, reference)
    input_names = {spec.name for spec in signature.inputs}
    extra_rows = []
    for row in rows:
        extra_rows.append({f"{_EXTRA}{name}": array for name, array in row.items() if name not in input_names})
    named |= _shrink_all(row_format.pack(extra_rows))
    stream = io.BytesIO()
    np.savez(stream, **named)
    return stream.getvalue()


def _pack_table(
    signature: Signature,
    rows: Sequence[Arrays],
    outputs: Sequence[Sequence[Arrays]],
    reference: Sequence[Arrays] | None,
) -> dict[str, Any]:
    """Return the arrays of the table layout, in the order of the file."""
    (output,) = signature.outputs
    named: dict[str, Any] = {"lengths": np.array([single.size(signature, row) for row in rows], np.int64)}
    for index, variant in enumerate(outputs):
        named[f"outputs.{index}"] = np.stack([row[output.name] for row in variant])
    for name, array in single.collate(signature, rows).items():
        named[f"input.{name}"] = _shrink(array)
    if reference is not None:
        named["reference"] = np.stack([row[output.name] for row in reference])
    return named


def _pack_named(
    signature: Signature,
    rows: Sequence[Arrays],
    outputs: Sequence[Sequence[Arrays]],
    reference: Sequence[Arrays] | None,
) -> dict[str, Any]:
    """Return the arrays of the layout of named arrays, in the order of the file."""
    named: dict[str, Any] = {}
    for name, array in row_format.pack(_select_arrays(rows, signature.inputs)).items():
        named[f"input.{name}"] = _shrink(array)
    answers = {f"outputs.{index}": variant for index, variant in enumerate(outputs)}
    if reference is not None:
        answers["reference"] = reference
    for prefix, variant in answers.items():
        for name, array in row_format.pack(_select_arrays(variant, signature.outputs)).items():
            named[f"{prefix}.{name}"] = array
    return named


def _select_arrays(rows: Sequence[Arrays], specs: Sequence[TensorSpec]) -> list[Arrays]:
    """Return rows with the inputs or outputs of graphs only, without the arrays that a loop or a task adds."""
    names = {spec.name for spec in specs}
    selected: list[Arrays] = []
    for row in rows:
        selected.append({name: array for name, array in row.items() if name in names})
    return selected


def _shrink(array: np.ndarray) -> np.ndarray:
    """Return integers in the smallest type that holds them; other numbers unchanged."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    return array.astype(np.result_type(*map(np.min_scalar_type, (array.min(), array.max()))))


def _shrink_all(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: _shrink(array) for name, array in arrays.items()}


def _is_table(signature: Signature) -> bool:
    """Return whether the table layout applies.

    It does if all inputs are integers with one and the same variable axis, and the only output is float32 of a fixed
    shape.
    """
    if len(signature.varying) != 1 or len(signature.outputs) != 1:
        return False
    shape = ("batch", signature.varying[0])
    (output,) = signature.outputs
    fixed = output.dtype == "float32" and len(output.shape) == 2 and not set(output.shape[1:]) & set(signature.varying)
    return fixed and all(np.dtype(spec.dtype).kind in "iu" and spec.shape == shape for spec in signature.inputs)


def read(bundle: Bundle) -> Golden:
    """Read the golden inputs and outputs of a verified bundle.

    Args:
        bundle: Verified bundle.

    Raises:
        IntegrityError: If the file is missing, damaged, or does not match the manifest.
    """
    entry = bundle.manifest.files.get(FILE)
    try:
        if entry is not None and entry.size > _MAX_BYTES:
            raise ValueError(f"it has {entry.size} bytes, expected at most {_MAX_BYTES}")
        return _read(bundle.read(FILE), bundle)
    except ValueError as problem:
        raise IntegrityError(
            f"{bundle.path / FILE} cannot be read ({problem}). Build or copy the bundle again.", code="bundle-assets"
        ) from problem


def _read(content: bytes, bundle: Bundle) -> Golden:
    signatures = bundle.manifest.signatures
    signature = merge_signatures(signatures)
    outputs = [f"outputs.{i}" for i in range(len(bundle.manifest.variants))]
    if _is_table(signature):
        return _read_table(content, signature, outputs)
    return _read_named(content, signature, outputs, is_complete=len(signatures) == 1)


def _read_table(content: bytes, signature: Signature, outputs: Sequence[str]) -> Golden:
    """Read the table layout.

    Raises:
        ValueError: If an array is missing, unknown, or does not match the signature.
    """
    inputs = {f"input.{spec.name}": spec for spec in signature.inputs}
    arrays = _npz.read(content, ["lengths", *outputs, *inputs], ["reference"], _EXTRA)
    lengths = arrays["lengths"]
    if lengths.dtype != np.int64 or lengths.ndim != 1 or not 1 <= len(lengths) <= _MAX_ROWS or lengths.min() < 1:
        raise ValueError(
            f"its lengths are {lengths.dtype} {lengths.shape}, expected int64 of 1 to {_MAX_ROWS} rows, each at least 1"
        )
    size = (len(lengths), int(lengths.max()))
    for name in inputs:
        array = arrays[name]
        if not _is_safe_integer(array.dtype) or array.shape != size:
            raise ValueError(f"'{name}' is {array.dtype} {array.shape}, expected integers {size}")
    answers = list(outputs)
    if "reference" in arrays:
        answers.append("reference")
    width = arrays[outputs[0]].shape[-1:]
    for name in answers:
        array = arrays[name]
        if array.dtype != np.float32 or array.shape != (len(lengths), *width) or 0 in width:
            raise ValueError(f"'{name}' is {array.dtype} {array.shape}, expected float32 ({len(lengths)}, labels)")
    padded = {spec.name: arrays[name].astype(spec.dtype) for name, spec in inputs.items()}
    rows: list[Arrays] = []
    for index, length in enumerate(lengths.tolist()):
        rows.append({name: array[index, :length] for name, array in padded.items()})
    (output,) = signature.outputs
    columns: dict[str, list[Arrays]] = {}
    for name in answers:
        columns[name] = [{output.name: row} for row in arrays[name]]
    return Golden(_add_extra(rows, arrays), [columns[name] for name in outputs], columns.get("reference"))


def _read_named(content: bytes, signature: Signature, outputs: Sequence[str], *, is_complete: bool) -> Golden:
    """Read the layout of named arrays.

    Args:
        content: Content of the file.
        signature: Signature of the graph, or the merged one of several graphs.
        outputs: Prefixes of the variants' outputs.
        is_complete: Whether a row has all inputs and outputs of the signature. With several graphs, an array that one
            graph passes to another is missing.

    Raises:
        ValueError: If an array is missing, unknown, or does not match the signature.
    """
    parts: dict[str, tuple[TensorSpec, ...]] = {"input": signature.inputs}
    parts |= dict.fromkeys([*outputs, "reference"], signature.outputs)
    needed: list[str] = []
    allowed: list[str] = []
    for part, specs in parts.items():
        names = [f"{part}.{spec.name}" for spec in specs]
        allowed += names
        allowed += [name + row_format.SHAPES for name in names]
        if is_complete and part != "reference":
            needed += names
    arrays = _npz.read(content, needed, allowed, _EXTRA)
    present: dict[str, tuple[TensorSpec, ...]] = {}
    for part, specs in parts.items():
        present[part] = tuple(spec for spec in specs if f"{part}.{spec.name}" in arrays)
    if not present["reference"]:
        del present["reference"]
    for part, specs in present.items():
        if not specs or (part != "input" and specs != present[outputs[0]]):
            raise ValueError(
                f"'{part}' has the arrays {[spec.name for spec in specs]}, "
                "expected at least one, and the same outputs for each variant"
            )
    rows = {part: _read_rows(arrays, part, specs) for part, specs in present.items()}
    counts = {part: len(part_rows) for part, part_rows in rows.items()}
    if not 1 <= counts["input"] <= _MAX_ROWS or len(set(counts.values())) > 1:
        raise ValueError(f"it has {counts} rows, expected 1 to {_MAX_ROWS}, and the same number for all")
    if any(0 in array.shape for row in rows["input"] for array in row.values()):
        raise ValueError("an input is empty, expected at least one value")
    return Golden(_add_extra(rows["input"], arrays), [rows[name] for name in outputs], rows.get("reference"))


def _add_extra(rows: Sequence[Arrays], arrays: Mapping[str, np.ndarray]) -> list[Arrays]:
    """Return the inputs of graphs together with the arrays that no graph takes, if the file has any.

    Raises:
        ValueError: If the numbers of rows differ.
    """
    extra_rows = _unpack(arrays, "kept") or [{}] * len(rows)
    if len(extra_rows) != len(rows):
        raise ValueError(f"it has {len(rows)} rows of inputs and {len(extra_rows)} rows of 'kept' arrays")
    merged: list[Arrays] = []
    for row, extra in zip(rows, extra_rows, strict=True):
        whole = dict(row)
        for name, array in extra.items():
            whole[name] = array.astype(np.int64) if array.dtype.kind in "iu" else array
        merged.append(whole)
    return merged


def _read_rows(arrays: Mapping[str, np.ndarray], part: str, specs: Sequence[TensorSpec]) -> list[Arrays]:
    """Return the rows of one part of the file, in the dtypes of the signature.

    Raises:
        ValueError: If an array does not match the signature.
    """
    rows = _unpack(arrays, part)
    typed: list[Arrays] = []
    for row in rows:
        for spec in specs:
            array = row[spec.name]
            if not _matches(array, spec):
                raise ValueError(
                    f"'{part}.{spec.name}' has a row that is {array.dtype} {array.shape}, "
                    f"expected {spec.dtype} {spec.shape[1:]}"
                )
        typed.append({spec.name: row[spec.name].astype(spec.dtype, copy=False) for spec in specs})
    return typed


def _matches(array: np.ndarray, spec: TensorSpec) -> bool:
    """Return whether the array of a row has the rank, the fixed axes and the kind of dtype of the signature."""
    axes = spec.shape[1:]
    is_typed = array.dtype == spec.dtype or (_is_safe_integer(array.dtype) and np.dtype(spec.dtype).kind in "iu")
    if not is_typed or array.ndim != len(axes):
        return False
    return all(not isinstance(axis, int) or axis == size for axis, size in zip(axes, array.shape, strict=True))


def _is_safe_integer(dtype: np.dtype[Any]) -> bool:
    """Return whether all values of an integer type fit into int64."""
    return dtype.kind in "iu" and dtype != np.uint64


def _unpack(arrays: Mapping[str, np.ndarray], part: str) -> list[dict[str, np.ndarray]]:
    """Return the rows of one part of the file as they are stored.

    Raises:
        ValueError: If there are too many rows, or the arrays do not match each other.
    """
    packed = {name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")}
    # This check comes before any work that is done for each row.
    for name, array in packed.items():
        has_rows = name.endswith(row_format.SHAPES) or name + row_format.SHAPES not in packed
        if not array.ndim or (has_rows and len(array) > _MAX_ROWS):
            raise ValueError(f"'{part}' has more than {_MAX_ROWS} rows, or none")
    return row_format.unpack(packed)
