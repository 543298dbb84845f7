"""Predictions of a bundle for a whole file: an output row for each input row, in the order of the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle.place import disk_errors, new_file, put_file
from edgekit.bundle.signature import Trust
from edgekit.report import prediction_files
from edgekit.report.prediction_rows import Layout
from edgekit.report.side import open_for_test
from edgekit.runtime.load import load_checked
from edgekit.runtime.session import Session
from edgekit.samples.stream import Row, read_rows
from edgekit.spec.errors import EdgekitError, InputError, OutputError, SamplesError, UsageError
from edgekit.spec.options import PredictOptions
from edgekit.spec.parsing import Recorded
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent

__all__ = ["Predicted", "predict"]


@dataclass(frozen=True)
class Predicted(Recorded):
    """Result of :func:`predict`.

    Attributes:
        out: File that was written.
        rows: Number of rows.
        errors: Number of rows without a prediction, each with its error in the column ``error``.
        truncated: Number of inputs that were longer than the model takes, whose end was not read.
        backend: Backend that ran.
        method: Quantization method that ran.
    """

    out: str
    rows: int
    errors: int
    truncated: int
    backend: str
    method: str

    def text(self) -> str:
        """Return the result as a sentence."""
        parts = [f"Wrote {self.out}: {self.rows:,} rows, {self.method} on {self.backend}"]
        if self.errors:
            parts.append(f"{self.errors:,} without a prediction (see the column 'error')")
        if self.truncated:
            parts.append(f"{self.truncated:,} longer than the model takes and truncated")
        return ", ".join(parts) + "."


@takes_paths("bundle", "samples", "out")
def predict(
    bundle: str | Path,
    samples: str | Path,
    out: str | Path,
    *,
    options: PredictOptions | None = None,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> Predicted:
    """Write the predictions of a bundle for every row of a file.

    Args:
        bundle: Folder of the bundle.
        samples: File of inputs (JSON Lines, JSON, CSV, TSV; Parquet with pyarrow), or a folder of files; labels are not needed.
        out: File to write; its name ends in ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``. It appears whole or not at all.
        options: Options; None for the defaults.
        trust: Trusted keys; None for a bundle of anybody.
        progress: Function that is told how many rows are done.

    Returns:
        Number of rows and errors, and what ran.

    Raises:
        UsageError: When ``out`` exists, has another suffix, or an option does not fit the task.
        SamplesError: When the samples cannot be read; for a row that cannot be predicted, with its number in ``fields["row"]``.
        EdgekitError: As :func:`edgekit.load`.
    """
    chosen = options or PredictOptions()
    place, batch, skip_errors, force = Path(out), chosen.batch, chosen.skip_errors, chosen.force
    prediction_files.check(place, force)
    if batch < 1:
        raise UsageError(f"batch is {batch}, expected at least 1. Correct the call.", code="batch-out-of-range")
    side = open_for_test(bundle, trust, chosen.backend, chosen.threads)
    layout = Layout.of(
        side.task,
        chosen.keep,
        scores=chosen.scores,
        top_k=chosen.top_k,
        threshold=chosen.threshold,
        with_errors=skip_errors,
    )
    rows = read_rows(samples, chosen.columns, side.task.modality)
    first = next(rows)
    layout.check_columns(first.record, Path(samples))
    total = _count_lines(Path(samples))
    counts = {"rows": 0, "errors": 0, "truncated": 0}
    with load_checked(side.bundle, backend=chosen.backend, threads=chosen.threads, progress=progress) as session:
        session.limit(chosen.max_characters, chosen.truncate)
        with disk_errors(place), new_file(place) as (file, stream):
            writer = prediction_files.open_writer(place, stream, layout)
            for part in _batches(itertools.chain([first], rows), batch):
                answers = _answer_rows(session, part, skip_errors)
                fields = [layout.fields(row, answer) for row, answer in zip(part, answers, strict=True)]
                writer.write(fields)
                counts["rows"] += len(fields)
                counts["errors"] += sum(isinstance(answer, EdgekitError) for answer in answers)
                counts["truncated"] += sum(row.get("truncated") is True for row in fields)
                progress("predict", counts["rows"], total)
            writer.close()
            file.chmod(0o644)  # it was made private
            prediction_files.check(place, force)  # another process may have written it meanwhile
            put_file(file, stream, place)
        info = session.info
    return Predicted(str(out), **counts, backend=info.backend, method=info.method)


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while part := list(itertools.islice(rows, size)):
        yield part


def _answer_rows(session: Session, rows: Sequence[Row], skip_errors: bool) -> list[Any]:
    """Return the answer to each row, or its error.

    Raises:
        SamplesError: For the first row with an error, where errors are not skipped.
    """
    answers: list[Any] = [row.problem for row in rows]
    able = [index for index, row in enumerate(rows) if row.problem is None]
    try:
        results: Sequence[Any] = session([rows[index].input for index in able])
    except (InputError, OutputError):
        results = [_answer_alone(session, rows[index]) for index in able]  # to find the row that is at fault
    for index, result in zip(able, results, strict=True):
        answers[index] = result
    for answer in answers:
        if isinstance(answer, EdgekitError) and not skip_errors:
            raise answer
    return answers


def _answer_alone(session: Session, row: Row) -> Any:
    """Return the answer to one row, or its error with the number of the row."""
    try:
        return session(row.input)
    except (InputError, OutputError) as problem:
        return SamplesError(
            f"Row {row.number} ({row.place}) cannot be predicted: {problem}",
            code="predict-row",
            row=row.number,
            cause=problem.code,
        )


def _count_lines(file: Path) -> int:
    """Return about how many rows a file of lines has, for progress; 0 where that is not known."""
    if file.suffix.lower() not in (".jsonl", ".ndjson", ".csv", ".tsv") or not file.is_file():
        return 0
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
