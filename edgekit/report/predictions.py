"""Outputs of models, row by row: in reports (without the inputs), and in the output files of a teacher.

A row is identified by a keyed hash of its input. A plain hash would reveal short texts: anyone who has the report could
hash a dictionary of likely sentences and compare. The key stays with the user, so an id only tells whether two rows are
the same.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    "name_outputs",
    "pack",
    "read_outputs",
    "row_ids",
    "unpack",
]

Answer = Callable[[Sequence[Input]], Sequence[Arrays]]
"""Function from inputs to the outputs of a model, one row each: a bundle's process, or a teacher."""

_Column = np.ndarray | Sequence[np.ndarray]  # Values of one output, one per row.

FILE_TYPES = (".npy", ".npz", ".jsonl")
"""Suffixes of the files that can hold a teacher's outputs."""

_REQUEST_INPUTS = 50  # Most inputs per request.
_REQUEST_BYTES = 2**26  # Size of the input arrays that ends a request.
_DTYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)


def pack(outputs: Sequence[Arrays], ids: Sequence[str]) -> Predictions:
    """Return outputs in the form of a report. :func:`unpack` is the inverse.

    Each float32 is stored as its exact value, so that it survives the way through JSON.

    Args:
        outputs: Outputs of a model, one row each.
        ids: Ids of the rows, at least one.

    Raises:
        UsageError: If the number of rows differs, or an output is not a finite number.
    """
    if not ids or len(outputs) != len(ids):
        raise UsageError(
            f"There are outputs of {len(outputs)} rows, but {len(ids)} ids. Expected the same number, at least 1. "
            "Give the outputs and ids of the same rows.",
            code="rows-differ",
        )
    check_finite(outputs, "the outputs")
    return Predictions(tuple(ids), {name: _to_numbers(array) for name, array in packing.pack(outputs).items()})


def unpack(predictions: Predictions) -> list[dict[str, np.ndarray]]:
    """Return the outputs of packed predictions, one row each.

    Args:
        predictions: Predictions from :func:`pack`, or from a report that may be damaged.

    Raises:
        ValueError: If the predictions are inconsistent. The message is the object of a sentence with "has".
    """
    packed = {name: _to_array(name, numbers) for name, numbers in predictions.outputs.items()}
    try:
        rows = packing.unpack(packed)
    except (ValueError, TypeError) as problem:
        raise ValueError(f"predictions whose parts do not fit together ({problem})") from problem
    if not rows or len(rows) != len(predictions.ids):
        raise ValueError(f"predictions of {len(rows)} rows for {len(predictions.ids)} ids")
    return rows


def _to_numbers(array: np.ndarray) -> Numbers:
    return Numbers(str(array.dtype), tuple(array.shape), tuple(array.astype(np.float64).ravel().tolist()))


def _to_array(name: str, numbers: Numbers) -> np.ndarray:
    """Return the array of an output.

    Raises:
        ValueError: If the dtype is not supported, the shape does not fit, or a value is not of the dtype.
    """
    values = np.array(numbers.values, np.float64)
    is_valid_shape = all(size >= 0 for size in numbers.shape) and math.prod(numbers.shape) == len(values)
    if numbers.dtype not in _DTYPES or not is_valid_shape:
        raise ValueError(
            f"predictions of the type {numbers.dtype[:20]} and the shape {list(numbers.shape)} "
            f"with {len(values)} values as '{name}'"
        )
    dtype = np.dtype(numbers.dtype)
    lowest, highest = _value_range(dtype)
    is_integral = dtype.kind == "f" or bool((values == np.floor(values)).all())
    # NaN fails both comparisons.
    if not is_integral or not ((lowest <= values) & (values <= highest)).all():
        raise ValueError(f"predictions that are not {numbers.dtype}, as '{name}'")
    return values.astype(dtype).reshape(numbers.shape)


def _value_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the lowest and the highest value of a dtype."""
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def ask(answer: Answer, inputs: Iterable[Input], whose: str = "The model") -> Iterator[list[Arrays]]:
    """Yield the outputs of a model to inputs, in requests of at most 50 inputs, and fewer large arrays.

    Args:
        answer: Function that runs the model.
        inputs: Inputs, read one request at a time, so that they can be generated lazily.
        whose: Name of the model at the start of a sentence, for the message.

    Yields:
        Outputs of the next request, one row each.

    Raises:
        UsageError: If the model does not return one row of outputs for each input.
    """
    remaining = iter(inputs)
    while request := list(_next_request(remaining)):
        outputs = list(answer(request))
        if len(outputs) != len(request):
            raise UsageError(
                f"{whose} returned {len(outputs)} rows of outputs for {len(request)} inputs, expected one for each.",
                code="rows-differ",
            )
        yield outputs


def _next_request(inputs: Iterator[Input]) -> Iterator[Input]:
    """Yield the inputs of the next request."""
    size = 0
    for value in itertools.islice(inputs, _REQUEST_INPUTS):
        yield value
        size += int(getattr(value, "nbytes", 0))
        if size >= _REQUEST_BYTES:
            return


def check_finite(outputs: Sequence[Arrays], whose: str) -> None:
    """Check that outputs can be scored.

    Args:
        outputs: Outputs, one row each.
        whose: Name of the outputs, for the message.

    Raises:
        UsageError: If some rows hold NaN or infinity. The message has their number.
    """
    if broken := int((~packing.finite(outputs)).sum()):
        raise UsageError(
            f"{broken} of {len(outputs)} rows of {whose} hold NaN or infinity, expected finite numbers. "
            "Such a model cannot be scored: reject it.",
            code="outputs-not-finite",
        )


def name_outputs(answers: object, rows: int, outputs: Sequence[TensorSpec], where: str) -> list[dict[str, np.ndarray]]:
    """Return the outputs of a teacher function as rows of named arrays.

    Args:
        answers: Mapping from output to values for each input; or one array ``[rows, ...]`` if the model has one output.
        rows: Expected number of rows.
        outputs: Outputs of the compared graph, which define the names, dtypes and shapes.
        where: Name of the outputs at the start of a sentence, for messages.

    Raises:
        SamplesError: If an output is missing, has another number of rows or another shape, or is not a finite number.
    """
    names = ", ".join(spec.name for spec in outputs)
    if isinstance(answers, Sequence) and answers and isinstance(answers[0], Mapping):
        columns: dict[str, _Column] = {}
        for spec in outputs:
            if any(spec.name not in row for row in answers):
                raise SamplesError(
                    f"{where} lack '{spec.name}' in some rows. Expected in each row: {names}. "
                    f"The first row has: {', '.join(map(str, answers[0]))}.",
                    code="predictions-output",
                )
            columns[spec.name] = [np.asarray(row[spec.name]) for row in answers]
    elif len(outputs) == 1:
        columns = {outputs[0].name: np.asarray(answers)}
    else:
        raise SamplesError(
            f"{where} are one array, expected an array for each of the outputs {names}. Return a mapping for each row.",
            code="predictions-output",
        )
    return _to_rows(columns, rows, outputs, where)


def read_outputs(file: str | Path, rows: int, outputs: Sequence[TensorSpec]) -> list[dict[str, np.ndarray]]:
    """Read the outputs of a teacher from a file. No code in it is run: a pickled array is an error.

    Args:
        file: ``.npz`` with an array ``[rows, ...]`` for each output, in the order of the samples; if the rows differ in
            shape, with the arrays of :func:`edgekit.spec.rows.pack`. Or ``.jsonl`` with one object per line, from
            output to list. Or ``.npy`` if the model has one output.
        rows: Number of samples.
        outputs: Outputs of the compared graph, which define the names, dtypes and shapes.

    Returns:
        Row of named arrays for each sample.

    Raises:
        UsageError: If the file does not exist, cannot be read, or is of another type.
        SamplesError: If the file is malformed, or an output has another shape or is not a finite number.
    """
    path = Path(file)
    readers: dict[str, Callable[[Path, Sequence[str]], dict[str, _Column]]] = {
        ".npy": _read_numpy,
        ".npz": _read_numpy,
        ".jsonl": _read_jsonl,
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise UsageError(
            f"Predictions {path} end in '{path.suffix}', expected one of: {', '.join(FILE_TYPES)}. "
            "Convert or rename the file.",
            code="predictions-suffix",
        )
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(
            f"Predictions {path} {state}, expected a file of a model's outputs ({', '.join(FILE_TYPES)}). "
            "Correct the path.",
            code="predictions-not-found",
        )
    try:
        columns = read(path, [spec.name for spec in outputs])
    except PermissionError as problem:
        raise UsageError(
            f"Predictions {path} cannot be read: {problem.strerror}. Check its permissions.",
            code="predictions-unreadable",
        ) from problem
    except Exception as problem:
        # A damaged file raises errors of numpy, zipfile, zlib or tokenize, which have no common base class.
        reason = str(problem) or "it is truncated"
        if any(word in reason for word in ("pickle", "Python object")):
            reason = "it holds pickled objects, which are code"
        raise SamplesError(
            f"Predictions {path} cannot be read as an array of numbers: {reason}. Save the outputs again.",
            code="predictions-unreadable",
        ) from problem
    return _to_rows(columns, rows, outputs, f"Predictions {path}")


def _to_rows(
    columns: Mapping[str, _Column], rows: int, outputs: Sequence[TensorSpec], where: str
) -> list[dict[str, np.ndarray]]:
    """Return checked columns as rows of named arrays."""
    checked = {spec.name: _check_column(columns[spec.name], rows, spec, where) for spec in outputs}
    return [dict(zip(checked, row, strict=True)) for row in zip(*checked.values(), strict=True)]


def _check_column(column: _Column, rows: int, spec: TensorSpec, where: str) -> list[np.ndarray]:
    """Return the rows of one output in the graph's dtype, each without a batch axis.

    Raises:
        SamplesError: If the number of rows, a shape or a dtype is another one, or a value is not a finite number.
    """
    expected = list(spec.shape[1:])
    remedy = "Give one row of outputs for each of these samples, in their order."
    if not isinstance(column, np.ndarray) and len({row.shape for row in column}) == 1:
        column = np.stack(column)
    if isinstance(column, np.ndarray) and (
        column.ndim != len(spec.shape) or len(column) != rows or not _fits(column.shape[1:], expected)
    ):
        raise SamplesError(
            f"{where} have the shape {list(column.shape)}, expected {[rows, *expected]}: rows, then the other axes of "
            f"the output. {remedy}",
            code="predictions-shape",
        )
    if len(column) != rows:
        raise SamplesError(
            f"{where} have the shape [{len(column)}, ...], expected {[rows, *expected]}: rows, then the other axes of "
            f"the output. {remedy}",
            code="predictions-shape",
        )
    accepted_kinds = "fiu" if spec.dtype.startswith("float") else spec.dtype[0]
    arrays = []
    broken = []
    for index, row in enumerate(column):
        if not _fits(row.shape, expected):
            raise SamplesError(
                f"{where} have the shape {list(row.shape)} in row {index + 1}, expected {expected}. {remedy}",
                code="predictions-shape",
            )
        if row.dtype.kind not in accepted_kinds:
            raise SamplesError(
                f"{where} are of the type {row.dtype}, expected numbers of the type {spec.dtype}. "
                f"Save the outputs as {spec.dtype}.",
                code="predictions-dtype",
            )
        with np.errstate(over="ignore"):  # A number beyond float32 becomes infinite, which is an error below.
            array = np.array(row, spec.dtype, order="C")
        arrays.append(array)
        if not np.isfinite(array).all():
            broken.append(index)
    if broken:
        raise SamplesError(
            f"{where} hold NaN, infinity or a number beyond {spec.dtype} in {len(broken)} of {rows} rows, first in row "
            f"{broken[0] + 1}. Expected finite numbers. Run the teacher on these rows again.",
            code="outputs-not-finite-file",
        )
    return arrays


def _fits(shape: Sequence[int], expected: Sequence[str | int]) -> bool:
    """Return whether a shape has the expected sizes. A text is the name of a variable axis."""
    if len(shape) != len(expected):
        return False
    return all(isinstance(axis, str) or size == axis for size, axis in zip(shape, expected, strict=True))


def _read_numpy(path: Path, names: Sequence[str]) -> dict[str, _Column]:
    # The file is memory-mapped, so that no memory is allocated for a header that states more than the file holds.
    content = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(content, np.ndarray):
        if len(names) != 1:
            raise ValueError(f"it holds one array, but the model has the outputs {', '.join(names)}: save a .npz")
        return {names[0]: content}
    columns: dict[str, _Column] = {}
    with content:
        for name in names:
            if name not in content.files:
                raise ValueError(f"it has no array '{name}', only: {', '.join(content.files) or 'nothing'}")
            shapes = f"{name}{packing.SHAPES}"
            columns[name] = content[name]
            if shapes in content.files:
                columns[name] = [row[name] for row in packing.unpack({name: content[name], shapes: content[shapes]})]
    return columns


def _read_jsonl(path: Path, names: Sequence[str]) -> dict[str, _Column]:
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
            if array.dtype.kind == "O":  # Integers beyond 64 bits.
                array = np.array(values, np.float64)
            columns[name].append(array)
    return dict(columns)


def _all_numbers(values: list[object]) -> bool:
    """Return whether nested lists hold numbers only. A bool is not a number."""
    for value in values:
        is_valid = _all_numbers(value) if isinstance(value, list) else type(value) in (int, float)
        if not is_valid:
            return False
    return True
