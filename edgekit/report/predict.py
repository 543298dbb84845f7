"""Batch prediction: a bundle's predictions for each row of a file, in the order of the file."""

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
        errors: Number of rows without a prediction. Each has its error in the column ``error``.
        truncated: Number of inputs that were longer than the model's limit and were cut there.
        backend: Backend of the session.
        method: Quantization method of the session's variant.
    """

    out: str
    rows: int
    errors: int
    truncated: int
    backend: str
    method: str

    def text(self) -> str:
        """Return a sentence for a terminal."""
        parts = [f"Wrote {self.out}: {self.rows:,} rows, {self.method} on {self.backend}"]
        if self.errors:
            parts.append(f"{self.errors:,} without a prediction (see the column 'error')")
        if self.truncated:
            parts.append(f"{self.truncated:,} truncated to the model's limit")
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
        samples: File of inputs (JSON Lines, JSON, CSV, TSV; Parquet with pyarrow), or a folder of files. Labels are
            not needed.
        out: File to write, which ends in ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.parquet``. It is written
            atomically.
        options: Options. None for the defaults.
        trust: Trusted keys. None to accept any bundle, signed or not.
        progress: Callback for the number of finished rows.

    Returns:
        Number of rows and errors, and the backend that ran.

    Raises:
        UsageError: If ``out`` exists or has another suffix, or an option does not fit the task.
        SamplesError: If the samples cannot be read, or a row cannot be predicted. Its number is in ``fields["row"]``.
        EdgekitError: Errors of :func:`edgekit.load`.
    """
    chosen = options or PredictOptions()
    out_file = Path(out)
    prediction_files.check(out_file, chosen.force)
    if chosen.batch < 1:
        raise UsageError(f"batch is {chosen.batch}, expected at least 1. Correct the call.", code="batch-out-of-range")
    side = open_for_test(bundle, trust, chosen.backend, chosen.threads)
    layout = Layout.of(
        side.task,
        chosen.keep,
        scores=chosen.scores,
        top_k=chosen.top_k,
        threshold=chosen.threshold,
        with_errors=chosen.skip_errors,
    )
    rows = read_rows(samples, chosen.columns, side.task.modality)
    first = next(rows)
    layout.check_columns(first.record, Path(samples))
    total = _count_lines(Path(samples))
    counts = {"rows": 0, "errors": 0, "truncated": 0}
    with load_checked(side.bundle, backend=chosen.backend, threads=chosen.threads, progress=progress) as session:
        session.limit(chosen.max_characters, chosen.truncate)
        session.warm_up()  # A second run on the same file then uses the same kernels, and writes the same numbers.
        with disk_errors(out_file), new_file(out_file) as (file, stream):
            writer = prediction_files.open_writer(out_file, stream, layout)
            for part in _batches(itertools.chain([first], rows), chosen.batch):
                answers = _answer_rows(session, part, chosen.skip_errors)
                fields = [layout.fields(row, answer) for row, answer in zip(part, answers, strict=True)]
                writer.write(fields)
                counts["rows"] += len(fields)
                counts["errors"] += sum(isinstance(answer, EdgekitError) for answer in answers)
                counts["truncated"] += sum(row.get("truncated") is True for row in fields)
                progress("predict", counts["rows"], total)
            writer.close()
            file.chmod(0o644)  # The temporary file is readable by its owner only.
            prediction_files.check(out_file, chosen.force)  # Another process may have created the file meanwhile.
            put_file(file, stream, out_file)
        info = session.info
    return Predicted(str(out), **counts, backend=info.backend, method=info.method)


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while part := list(itertools.islice(rows, size)):
        yield part


def _answer_rows(session: Session, rows: Sequence[Row], skip_errors: bool) -> list[Any]:
    """Return the answer or the error of each row.

    Raises:
        SamplesError: If a row has an error and errors are not skipped; the error of the first such row.
    """
    answers: list[Any] = [row.problem for row in rows]
    valid = [index for index, row in enumerate(rows) if row.problem is None]
    try:
        results: Sequence[Any] = session([rows[index].input for index in valid])
    except (InputError, OutputError):
        results = [_answer_one_row(session, rows[index]) for index in valid]  # This finds the invalid row.
    for index, result in zip(valid, results, strict=True):
        answers[index] = result
    for answer in answers:
        if isinstance(answer, EdgekitError) and not skip_errors:
            raise answer
    return answers


def _answer_one_row(session: Session, row: Row) -> Any:
    """Return the answer of one row, or an error with the row's number."""
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
    """Return the approximate number of rows of a file, for progress; 0 if its format has no lines."""
    if file.suffix.lower() not in (".jsonl", ".ndjson", ".csv", ".tsv") or not file.is_file():
        return 0
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
