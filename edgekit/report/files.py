"""Report and baseline files: JSON that is read back exactly as it was written, or refused.

Keys are sorted, and each top-level key has its own line, so that a diff shows what changed in a baseline. The file
contains a digest of all other data. The digest does not depend on the layout of the JSON. It detects damage and manual
changes, but it is not a signature: anyone can compute a new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.bundle.place import disk_errors, new_file
from edgekit.report.predictions import unpack
from edgekit.spec.errors import BuildError, EdgekitError, FormatError, IntegrityError, UsageError
from edgekit.spec.parsing import parse, plain, strict_json, to_json
from edgekit.spec.report import KINDS, SCHEMA, VERDICTS, Report
from edgekit.spec.subject import Process, Subject

__all__ = ["MAX_BYTES", "dumps", "loads", "put", "read", "write", "write_text"]

MAX_BYTES = 256 * 2**20
"""Largest file that is read, in bytes. A report of a million rows with two labels has a third of this size."""

_REPORT_KEYS = {"kind", "subjects", "fingerprint"}  # JSON with fewer than two of these keys is not a report
_SURROGATE = re.compile("[\ud800-\udfff]")
_REMEDY = "Measure again, or restore the file from its source."


def dumps(report: Report) -> str:
    """Return a report as JSON text, with its digest.

    Raises:
        BuildError: If the report has content that a report cannot have (NaN, outputs of other rows, a text without
            ``include_text``).
    """
    problem = _find_contradiction(report)
    text = ""
    try:
        data = plain(report)
        parse(Report, data, "the report", BuildError)  # A report that could not be read again is not written.
        text = _text(data)
    except (BuildError, TypeError, ValueError) as error:
        problem = str(error)
    if problem:
        raise BuildError(
            f"The report cannot be written: {problem.rstrip('.')}. This is a bug in EdgeKit: please report it.",
            code="report-invalid",
        )
    return text


def write(report: Report, file: str | Path) -> None:
    """Write a report with its digest, completely or not at all.

    Raises:
        BuildError: If the report is invalid (:func:`dumps`), the disk is full or the file cannot be written. An
            existing file is then left unchanged.
    """
    put({Path(file): dumps(report)})


def read(file: str | Path) -> Report:
    """Read a report or a baseline.

    Raises:
        UsageError: If the file does not exist or cannot be opened.
        FormatError: If the report has another schema than this version reads.
        IntegrityError: If the file is damaged, was changed after it was written, contradicts itself, is too large, or
            is not a report.
    """
    path = Path(file)
    if not path.is_file():
        problem = "is not a regular file"
        if path.is_dir():
            problem = "is a folder"
        elif not path.exists():
            problem = "does not exist"
        raise UsageError(
            f"Report {path} {problem}, expected a JSON file that EdgeKit wrote. "
            "Correct the path, or write a report: edgekit baseline BUNDLE -o FILE.",
            code="report-not-found",
        )
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"Report {path} cannot be read: {error.strerror or error}. Check the file and its permissions.",
            code="report-unreadable",
        ) from error
    if len(content) > MAX_BYTES:
        raise IntegrityError(
            f"{path} is larger than {MAX_BYTES // 2**20} MiB, the maximum size of a report. Correct the path.",
            code="report-too-large",
        )
    return loads(content, str(path))


def loads(content: bytes, where: str) -> Report:
    """Read a report from the content of a file.

    Args:
        content: Content of the file.
        where: Name of the file, for error messages.

    Raises:
        FormatError: If the report has another schema than this version reads.
        IntegrityError: If the content is damaged, was changed after it was written, contradicts itself, or is not a
            report.
    """
    try:
        data = strict_json(content.decode())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{where} is damaged or not a report: it is not valid JSON ({error}). Give a JSON file that EdgeKit wrote.",
            code="report-damaged",
        ) from error
    if not isinstance(data, dict) or len(data.keys() & _REPORT_KEYS) < 2:
        raise IntegrityError(
            f"{where} is not a report: it is JSON with other content. Give a JSON file that EdgeKit wrote.",
            code="report-damaged",
        )
    version = data.get("schema")
    if isinstance(version, int) and not isinstance(version, bool) and version != SCHEMA:
        remedy = "Write it again: edgekit baseline BUNDLE -o FILE."
        if version > SCHEMA:
            remedy = "Install a newer EdgeKit, or measure again with this version."
        raise FormatError(
            f"{where} has report schema {version}, but this version of EdgeKit reads {SCHEMA}. {remedy}",
            code="report-schema",
        )
    try:
        is_intact = data.get("digest") == _digest(data)
    except (ValueError, RecursionError, EdgekitError) as error:  # JSON allows 1e999, which is not a finite float.
        raise IntegrityError(f"{where} is damaged ({error}). {_REMEDY}", code="report-damaged") from error
    if not is_intact:
        raise IntegrityError(
            f"{where} is damaged or was changed: its digest does not match its content. {_REMEDY}",
            code="report-damaged",
        )
    report = parse(Report, data, where, IntegrityError)
    problem = _find_contradiction(report)
    if problem:
        raise IntegrityError(f"{where} contradicts itself: {problem}. {_REMEDY}", code="report-damaged")
    return report


def put(texts: Mapping[Path, str]) -> None:
    """Write files that belong together.

    All of them are first written to temporary files, which are then renamed in order.

    Args:
        texts: Text of each file, by its path.

    Raises:
        BuildError: If the disk is full, or a file cannot be written. No file is then incomplete, and existing files are
            left unchanged.
    """
    with contextlib.ExitStack() as stack:
        written = [(file, stack.enter_context(_write_temporary(file, text))) for file, text in texts.items()]
        for file, temporary in written:
            with disk_errors(file):
                temporary.replace(file)


def write_text(file: str | Path, text: str) -> None:
    """Write a text to a path of the user, which may also be a link, a device or a pipe.

    Raises:
        BuildError: If it cannot be written.
    """
    try:
        Path(file).write_text(text, "utf-8")
    except OSError as error:
        raise BuildError(
            f"{file} cannot be written: {error.strerror or error}. Check the path and its permissions.",
            code="output-not-writable",
        ) from error


@contextlib.contextmanager
def _write_temporary(file: Path, text: str) -> Iterator[Path]:
    """Yield a temporary file with the text, synced to disk, in the folder of ``file``.

    It is removed on exit if it was not renamed.
    """
    if file.exists() and not file.is_file():
        kind = "folder" if file.is_dir() else "device"
        raise BuildError(
            f"{file} is a {kind}, expected a file or a new path. Give another path.", code="output-not-a-file"
        )
    with disk_errors(file), new_file(file) as (temporary, stream):
        # File names may contain lone surrogates, which UTF-8 cannot encode.
        stream.write(text.encode(errors="backslashreplace"))
        stream.flush()
        os.fsync(stream.fileno())
        temporary.chmod(0o644)  # It was created with mode 0600.
        yield temporary


def _text(data: Mapping[str, Any]) -> str:
    """Return the JSON text of a report's plain data, with its digest."""
    return _format({**data, "digest": _digest(data)})


def _digest(data: Mapping[str, Any]) -> str:
    """Return the digest of the data as they are in the file.

    It does not cover fields that the file lacks, so that old reports stay valid if a later version adds a field with a
    default.
    """
    return hashlib.sha256(_format({**data, "digest": ""}).encode()).hexdigest()


def _format(data: Mapping[str, Any]) -> str:
    """Return JSON with one compact line per top-level key. Lone surrogates (in file names) are escaped."""

    def compact(value: object) -> str:
        dumped = to_json(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", dumped)

    lines = [f"{compact(name)}:{compact(value)}" for name, value in sorted(data.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _find_contradiction(report: Report) -> str:
    """Return an error that neither the types nor a recomputed digest reveal; empty for a valid report.

    The text does not quote samples.
    """
    if report.kind not in KINDS:
        return f"its kind is not one of {', '.join(KINDS)}"
    if not 1 <= len(report.subjects) <= 2:
        return f"it has {len(report.subjects)} subjects, expected 1 or 2"
    for gate in report.gates:
        if gate.verdict not in VERDICTS:
            return f"the gate {gate.name} has a verdict that is not one of {', '.join(VERDICTS)}"
    for subject in report.subjects:
        problem = _find_subject_contradiction(subject)
        if problem:
            return f"{subject.name} has {problem}"
    texts: list[str] = []
    if report.accuracy is not None:
        texts += [flip.text for flip in report.accuracy.flipped]
    if report.faithfulness is not None:
        texts += [word for drift in report.faithfulness.drifts for word in drift.words]
    if any(texts) and not report.include_text:
        return "it contains texts of samples, but include_text is false"
    return ""


def _find_subject_contradiction(subject: Subject) -> str:
    """Return an error in the measurements of one bundle, as the object of "has"; empty for valid ones."""
    for process in subject.processes:
        problem = _find_process_contradiction(process)
        if problem:
            return problem
    if subject.confusion:
        sizes = {len(subject.confusion), *map(len, subject.confusion)}
        if sizes != {len(subject.labels)}:
            return f"a confusion matrix that is not as wide as its {len(subject.labels)} labels"
    if subject.predictions is not None:
        try:
            unpack(subject.predictions)
        except ValueError as error:
            return str(error) or "invalid predictions"
    return ""


def _find_process_contradiction(process: Process) -> str:
    """Return an error in the times of one process, as the object of "has"; empty for valid ones."""
    blocks = process.blocks_ms
    positive = [process.start.total_ms, process.memory_mb + 1]
    for block in blocks:
        positive += block
    if not blocks or min(positive) <= 0 or any(len(block) % 2 or not block for block in blocks):
        return "a process with missing or impossible times"
    probe_times: list[float] = []
    for kernel_calls in process.probes_ms.values():
        for calls in kernel_calls:
            probe_times += calls or (0.0,)  # Missing calls are as invalid as a time of 0.
    if min(probe_times, default=1.0) <= 0 or (process.probe_start_ms or 1.0) <= 0:
        return "probe kernels with missing or impossible times"
    if process.rows and [2 * len(rows) for rows in process.rows] != [len(block) for block in blocks]:
        return "times whose number does not match its rows"
    return ""
