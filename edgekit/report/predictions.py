"""What models answer, row by row: in a report (without the inputs), and in a file that a teacher left.

A row is known by a keyed hash of its input. A plain hash would give short texts away: whoever has the report could hash a dictionary of
likely sentences and compare. With a key that stays with the user, ids tell only whether two rows are the same.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.report.row_ids import KEY_VARIABLE, id_key, row_ids
from edgekit.spec import rows as packing
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.protocols import Arrays, Input
from edgekit.spec.subject import Numbers, Predictions
from edgekit.spec.tensor import TensorSpec

__all__ = [
    "FILE_TYPES",
    "KEY_VARIABLE",
    "Answer",
    "ask",
    "check_finite",
    "id_key",
    "named",
    "pack",
    "read_outputs",
    "row_ids",
    "unpack",
]

Answer = Callable[[Sequence[Input]], Sequence[Arrays]]
"""Inputs to a model's outputs, one row each: a bundle's process, or a teacher."""

_Column = np.ndarray | Sequence[np.ndarray]  # the values of one output, a row each

FILE_TYPES = (".npy", ".npz", ".jsonl")
"""Of a teacher's outputs."""

_INPUTS_A_REQUEST = 50
_BYTES_A_REQUEST = 2**26  # of arrays in memory, that a model is asked about at once
_TYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)


def pack(outputs: Sequence[Arrays], ids: Sequence[str]) -> Predictions:
    """Predictions as a report holds them. Each float32 is that float32 itself, so that JSON gives the very same one back.

    Args:
        outputs: of a model, one row each.
        ids: of the rows, at least one.

    Raises:
        UsageError: when they are not of the same rows, or an output is not a finite number.
    """
    if not ids or len(outputs) != len(ids):
        raise UsageError(
            f"There are outputs of {len(outputs)} rows for {len(ids)} ids, expected as many, and at least one. Give the same rows.",
            code="rows-differ",
        )
    check_finite(outputs, "the outputs")
    return Predictions(tuple(ids), {name: _numbers(array) for name, array in packing.pack(outputs).items()})


def unpack(predictions: Predictions) -> list[dict[str, np.ndarray]]:
    """Undoes :func:`pack`: outputs, one row each.

    Raises:
        ValueError: with what does not fit, as a phrase behind "has".
    """
    packed = {}
    for name, found in predictions.outputs.items():
        values = np.array(found.values, np.float64)
        if found.dtype not in _TYPES or any(n < 0 for n in found.shape) or math.prod(found.shape) != len(values):
            raise ValueError(
                f"predictions of the type {found.dtype[:20]} and the shape {list(found.shape)} with {len(values)} values as '{name}'"
            )
        dtype = np.dtype(found.dtype)
        most = 1 if dtype.kind == "b" else float(np.finfo(dtype).max if dtype.kind == "f" else np.iinfo(dtype).max)
        least = -most if dtype.kind == "f" else 0 if dtype.kind == "b" else float(np.iinfo(dtype).min)
        whole = dtype.kind == "f" or bool((values == np.floor(values)).all())
        if not whole or not ((least <= values) & (values <= most)).all():  # nor is NaN
            raise ValueError(f"predictions that are no {found.dtype}, as '{name}'")
        packed[name] = values.astype(dtype).reshape(found.shape)
    try:
        rows = packing.unpack(packed)
    except (ValueError, TypeError) as problem:
        raise ValueError(f"predictions whose parts do not fit ({problem})") from problem
    if not rows or len(rows) != len(predictions.ids):
        raise ValueError(f"predictions of {len(rows)} rows for {len(predictions.ids)} ids")
    return rows


def ask(answer: Answer, inputs: Iterable[Input], whose: str = "The model") -> Iterator[list[Arrays]]:
    """Asks a model about inputs: 50 at a time at most, and fewer where they are large arrays.

    Args:
        answer: the model.
        inputs: are taken when they are asked for, so that they may be made one by one.
        whose: the model, for the message.

    Yields:
        Outputs to the next inputs, one row each.

    Raises:
        UsageError: when ``answer`` does not give a row of outputs for each input.
    """
    left = iter(inputs)
    while group := list(_group(left)):
        outputs = list(answer(group))
        if len(outputs) != len(group):
            raise UsageError(
                f"{whose} answers {len(group)} inputs with {len(outputs)} rows of outputs, expected one for each.",
                code="rows-differ",
            )
        yield outputs


def _group(inputs: Iterator[Input]) -> Iterator[Input]:
    """The next inputs that are asked about together."""
    size = 0
    for value in itertools.islice(inputs, _INPUTS_A_REQUEST):
        yield value
        size += int(getattr(value, "nbytes", 0))
        if size >= _BYTES_A_REQUEST:
            return


def check_finite(outputs: Sequence[Arrays], whose: str) -> None:
    """Refuses outputs that cannot be scored.

    Args:
        outputs: one row each.
        whose: they are, for the message.

    Raises:
        UsageError: with the number of rows that hold NaN or infinity.
    """
    if broken := int((~packing.finite(outputs)).sum()):
        raise UsageError(
            f"{broken} of {len(outputs)} rows of {whose} hold NaN or infinity, expected numbers. Such a model cannot be scored: reject it.",
            code="outputs-not-finite",
        )


def named(found: object, rows: int, outputs: Sequence[TensorSpec], where: str) -> list[dict[str, np.ndarray]]:
    """Outputs in the forms in which a teacher gives them, as rows of named arrays.

    Args:
        found: a row of named arrays for each input; or one array ``[rows, ...]`` of a model with one output.
        rows: expected number.
        outputs: of the graph that they are compared with, by which names, types and shapes are checked.
        where: who gave them, for messages.

    Raises:
        SamplesError: for outputs of other rows or of another shape, or what is not a finite number.
    """
    if isinstance(found, Sequence) and found and isinstance(found[0], Mapping):
        columns: dict[str, _Column] = {}
        for spec in outputs:
            if any(spec.name not in row for row in found):
                raise SamplesError(
                    f"{where} gives no output '{spec.name}' in some rows, only {', '.join(map(str, found[0]))}. Name it so.",
                    code="predictions-output",
                )
            columns[spec.name] = [np.asarray(row[spec.name]) for row in found]
    elif len(outputs) == 1:
        columns = {outputs[0].name: np.asarray(found)}
    else:
        raise SamplesError(
            f"{where} gives one array, expected an array for each of the outputs {', '.join(s.name for s in outputs)}. Give a mapping a row.",
            code="predictions-output",
        )
    return _named_rows(columns, rows, outputs, where)


def read_outputs(file: str | Path, rows: int, outputs: Sequence[TensorSpec]) -> list[dict[str, np.ndarray]]:
    """Reads the outputs that a teacher left in a file. Nothing in it is run: a pickled array is refused.

    Args:
        file: ``.npz`` with an array for each output, ``[rows, ...]`` in the order of the samples, or as ``spec.rows.pack`` makes them of rows of several
            shapes; ``.jsonl`` with an object from output to list a line; or, of a model with one output, ``.npy``.
        rows: of the samples.
        outputs: of the graph that they are compared with.

    Returns:
        One row of named arrays for each sample.

    Raises:
        UsageError: when the file is missing, cannot be read, or is of another type.
        SamplesError: when it is malformed, of another shape, or holds something that is not a finite number.
    """
    path = Path(file)
    readers: dict[str, Callable[[Path, Sequence[str]], dict[str, _Column]]] = {
        ".npy": _numpy,
        ".npz": _numpy,
        ".jsonl": _jsonl,
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise UsageError(
            f"Predictions {path} end in '{path.suffix}', expected one of: {', '.join(FILE_TYPES)}. Convert or rename the file.",
            code="predictions-suffix",
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(
            f"Predictions {path} {what}, expected a file of a model's outputs ({', '.join(FILE_TYPES)}). Correct the path.",
            code="predictions-not-found",
        )
    try:
        columns = read(path, [spec.name for spec in outputs])
    except PermissionError as problem:
        raise UsageError(
            f"Predictions {path} cannot be read: {problem.strerror}. Check its permissions.",
            code="predictions-unreadable",
        ) from problem
    except Exception as problem:  # a damaged file brings numpy's, zipfile's, zlib's and tokenize's errors, which have nothing in common
        pickled = any(word in str(problem) for word in ("pickle", "Python object"))
        reason = "it holds pickled objects, which are code" if pickled else str(problem) or "it is cut off"
        raise SamplesError(
            f"Predictions {path} cannot be read as an array of numbers: {reason}. Save the outputs again.",
            code="predictions-unreadable",
        ) from problem
    return _named_rows(columns, rows, outputs, f"Predictions {path}")


def _named_rows(
    columns: Mapping[str, _Column], rows: int, outputs: Sequence[TensorSpec], where: str
) -> list[dict[str, np.ndarray]]:
    checked = {spec.name: _checked(columns[spec.name], rows, spec, where) for spec in outputs}
    return [dict(zip(checked, row, strict=True)) for row in zip(*checked.values(), strict=True)]


def _checked(column: _Column, rows: int, spec: TensorSpec, where: str) -> list[np.ndarray]:
    """The rows of one output in the type of the graph's, each without a batch axis."""
    expected = list(spec.shape[1:])
    remedy = "Give the outputs of these samples, a row each and in their order."
    if not isinstance(column, np.ndarray) and len({row.shape for row in column}) == 1:
        column = np.stack(column)
    if isinstance(column, np.ndarray) and (
        column.ndim != len(spec.shape) or len(column) != rows or not _fits(column.shape[1:], expected)
    ):
        raise SamplesError(
            f"{where} have the shape {list(column.shape)}, expected {[rows, *expected]}: rows, then the output's own axes. {remedy}",
            code="predictions-shape",
        )
    if len(column) != rows:
        raise SamplesError(
            f"{where} have the shape [{len(column)}, ...], expected {[rows, *expected]}: rows, then the output's own axes. {remedy}",
            code="predictions-shape",
        )
    found, bad = [], []
    for place, row in enumerate(column):
        if not _fits(row.shape, expected):
            raise SamplesError(
                f"{where} have the shape {list(row.shape)} in row {place + 1}, expected {expected}. {remedy}",
                code="predictions-shape",
            )
        if row.dtype.kind not in ("fiu" if spec.dtype.startswith("float") else spec.dtype[0]):
            raise SamplesError(
                f"{where} are of the type {row.dtype}, expected numbers of the type {spec.dtype}. Save the outputs as {spec.dtype}.",
                code="predictions-dtype",
            )
        with np.errstate(over="ignore"):  # what does not fit into float32 is infinite there, and refused
            found.append(np.array(row, spec.dtype, order="C"))
        bad += [] if np.isfinite(found[-1]).all() else [place]
    if bad:
        raise SamplesError(
            f"{where} hold NaN, infinity or a number beyond {spec.dtype} in {len(bad)} of {rows} rows, first in row {bad[0] + 1}. "
            "Expected finite numbers: let the teacher answer these rows again.",
            code="outputs-not-finite-file",
        )
    return found


def _fits(shape: Sequence[int], expected: Sequence[str | int]) -> bool:
    return len(shape) == len(expected) and all(
        isinstance(e, str) or n == e for n, e in zip(shape, expected, strict=True)
    )


def _numpy(path: Path, names: Sequence[str]) -> dict[str, _Column]:
    # Mapped, so that a header that promises more than the file holds costs no memory.
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(found, np.ndarray):
        if len(names) != 1:
            raise ValueError(f"it holds one array, and the model has the outputs {', '.join(names)}: save a .npz")
        return {names[0]: found}
    columns: dict[str, _Column] = {}
    with found:
        for name in names:
            if name not in found.files:
                raise ValueError(f"it has no array '{name}', only: {', '.join(found.files) or 'nothing'}")
            shapes = f"{name}{packing.SHAPES}"
            columns[name] = found[name]
            if shapes in found.files:
                columns[name] = [row[name] for row in packing.unpack({name: found[name], shapes: found[shapes]})]
    return columns


def _jsonl(path: Path, names: Sequence[str]) -> dict[str, _Column]:
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise ValueError(f"line {number} is not valid JSON") from problem
        for name in names:
            values = record.get(name) if isinstance(record, dict) else None
            if not isinstance(values, list) or not _all_numbers(values):
                raise ValueError(f'line {number} is not an object with a list of numbers as "{name}"')
            array = np.array(values)
            columns[name].append(np.array(values, np.float64) if array.dtype.kind == "O" else array)
    return dict(columns)


def _all_numbers(values: list[object]) -> bool:
    return all(_all_numbers(v) if isinstance(v, list) else type(v) in (int, float) for v in values)


def _numbers(array: np.ndarray) -> Numbers:
    return Numbers(str(array.dtype), tuple(array.shape), tuple(array.astype(np.float64).ravel().tolist()))
