"""Reports and baselines on disk: JSON whose data are read back exactly as they were written, or refused.

A file is written with its keys sorted, a top-level key a line (what changed of a baseline is readable in a diff), and a digest over all the rest in that
form, so that another layout of the same data is as good. The digest is no signature: it tells damage and hand-made changes, not whoever makes a new one
for them.
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

__all__ = ["MAX_BYTES", "dumps", "loads", "put", "read", "write", "write_text"]

MAX_BYTES = 256 * 2**20
"""Largest file that is read: a report of a million rows with two labels is a third of it."""

_MARKS = {"kind", "subjects", "fingerprint"}  # keys of a report: without two of them it is something else
_SURROGATE = re.compile("[\ud800-\udfff]")
_REMEDY = "Measure again, or restore the file from where it came."


def dumps(report: Report) -> str:
    """The text of a report, its digest filled in.

    Raises:
        BuildError: when it holds what a report cannot (NaN, outputs of other rows, a text without ``include_text``).
    """
    found = _contradiction(report)
    try:
        data = plain(report)
        parse(Report, data, "the report", BuildError)  # what cannot be read again is not written
        text = _text(data)
    except (BuildError, TypeError, ValueError) as problem:
        found, text = str(problem), ""
    if found:
        raise BuildError(
            f"The report cannot be written: {found.rstrip('.')}. That is a fault in EdgeKit: please report it.",
            code="report-invalid",
        )
    return text


def write(report: Report, file: str | Path) -> None:
    """Writes a report with its digest, whole or not at all.

    Raises:
        BuildError: when the report holds what it cannot, the disk is full or the file cannot be written; what was there is then as it was.
    """
    put({Path(file): dumps(report)})


def read(file: str | Path) -> Report:
    """Reads a report or a baseline.

    Raises:
        UsageError: when there is no such file, or it cannot be opened.
        FormatError: when its schema is another one than this code reads.
        IntegrityError: when it is damaged or was changed since it was written, contradicts itself, is too large, or is no report.
    """
    path = Path(file)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a plain file" if path.exists() else "does not exist"
        raise UsageError(
            f"Report {path} {what}, expected a JSON file that EdgeKit wrote. Correct the path, or write one: edgekit baseline BUNDLE -o FILE.",
            code="report-not-found",
        )
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as problem:
        raise UsageError(
            f"Report {path} cannot be read: {problem.strerror or problem}. Check the file and its permissions.",
            code="report-unreadable",
        ) from problem
    if len(content) > MAX_BYTES:
        raise IntegrityError(
            f"{path} is larger than {MAX_BYTES // 2**20} MiB, which no report is. Correct the path.",
            code="report-too-large",
        )
    return loads(content, str(path))


def loads(content: bytes, where: str) -> Report:
    """Reads the content of a report strictly; ``where`` is for messages.

    Raises:
        FormatError, IntegrityError: as :func:`read`.
    """
    try:
        data = strict_json(content.decode())
    except (ValueError, RecursionError) as problem:
        raise IntegrityError(
            f"{where} is damaged, or no report: it is not valid JSON ({problem}). Give a JSON file that EdgeKit wrote.",
            code="report-damaged",
        ) from problem
    if not isinstance(data, dict) or len(data.keys() & _MARKS) < 2:
        raise IntegrityError(
            f"{where} is no report: it is JSON of something else. Give a JSON file that EdgeKit wrote.",
            code="report-damaged",
        )
    version = data.get("schema")
    if isinstance(version, int) and not isinstance(version, bool) and version != SCHEMA:
        remedy = (
            "Install a newer EdgeKit, or measure again with this one."
            if version > SCHEMA
            else "Write it again: edgekit baseline BUNDLE -o FILE."
        )
        raise FormatError(
            f"{where} has report schema {version}, this EdgeKit reads {SCHEMA}. {remedy}", code="report-schema"
        )
    try:
        whole = data.get("digest") == _digest(data)
    except (ValueError, RecursionError, EdgekitError) as problem:  # 1e999 is a number in JSON, and none here
        raise IntegrityError(f"{where} is damaged ({problem}). {_REMEDY}", code="report-damaged") from problem
    if not whole:
        raise IntegrityError(
            f"{where} is damaged or was changed: its digest is not that of its content. {_REMEDY}",
            code="report-damaged",
        )
    report = parse(Report, data, where, IntegrityError)
    if found := _contradiction(report):
        raise IntegrityError(f"{where} contradicts itself: {found}. {_REMEDY}", code="report-damaged")
    return report


def put(texts: Mapping[Path, str]) -> None:
    """Writes files that belong together: all of them beside their places first, and only then, in their order, each to its place.

    Raises:
        BuildError: when the disk is full, or a place cannot be written: no file is then half written, and what was there before is still there.
    """
    with contextlib.ExitStack() as stack:
        news = [(file, stack.enter_context(_beside(file, text))) for file, text in texts.items()]
        for file, new in news:
            with disk_errors(file):
                new.replace(file)


def write_text(file: str | Path, text: str) -> None:
    """Writes a text where the user says, through a link, and to a device or a pipe as well.

    Raises:
        BuildError: when it cannot be written.
    """
    try:
        Path(file).write_text(text, "utf-8")
    except OSError as problem:
        raise BuildError(
            f"{file} cannot be written: {problem.strerror or problem}. Check the path and its permissions.",
            code="output-not-writable",
        ) from problem


@contextlib.contextmanager
def _beside(file: Path, text: str) -> Iterator[Path]:
    """A file with the text on the disk, in the folder of ``file``; gone at the end where it was not renamed."""
    if file.exists() and not file.is_file():
        raise BuildError(
            f"{file} is a {'folder' if file.is_dir() else 'device'}, expected a file or nothing. Give another place.",
            code="output-not-a-file",
        )
    with disk_errors(file), new_file(file) as (new, stream):
        stream.write(
            text.encode(errors="backslashreplace")
        )  # a lone surrogate, which the name of a file may hold, is no UTF-8
        stream.flush()
        os.fsync(stream.fileno())
        new.chmod(0o644)  # it was made private
        yield new


def _text(data: Mapping[str, Any]) -> str:
    """The one text of plain data, with its digest."""
    return _lines({**data, "digest": _digest(data)})


def _digest(data: Mapping[str, Any]) -> str:
    """Over the data as they are in the file: a field that a later version adds with a default makes no old report a damaged one."""
    return hashlib.sha256(_lines({**data, "digest": ""}).encode()).hexdigest()


def _lines(data: Mapping[str, Any]) -> str:
    """Each value of the top level compact, in a line of its own. A lone surrogate, which the name of a file may hold, is escaped."""

    def compact(value: object) -> str:
        dumped = to_json(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", dumped)

    return "{\n" + ",\n".join(f"{compact(name)}:{compact(value)}" for name, value in sorted(data.items())) + "\n}\n"


def _contradiction(report: Report) -> str:
    """What types cannot see and a digest made anew would hide; empty for a sound report. Texts are not in what it says."""
    if report.kind not in KINDS:
        return f"its kind is not one of {', '.join(KINDS)}"
    if not 1 <= len(report.subjects) <= 2:
        return f"it has {len(report.subjects)} subjects, expected 1 or 2"
    for gate in report.gates:
        if gate.verdict not in VERDICTS:
            return f"the gate {gate.name} has a verdict that is not one of {', '.join(VERDICTS)}"
    for subject in report.subjects:
        for process in subject.processes:
            start, blocks = process.start, process.blocks_ms
            positive = (start.total_ms, process.memory_mb + 1, *(t for block in blocks for t in block))
            if not blocks or min(positive) <= 0 or any(len(block) % 2 or not block for block in blocks):
                return f"{subject.name} has a process without times, or with times that cannot be"
            beside = [
                t
                for asked in process.probes_ms.values()
                for calls in asked
                for t in (*calls, *(() if calls else (0.0,)))
            ]
            if min(beside, default=1.0) <= 0 or (process.probe_start_ms or 1.0) <= 0:
                return f"{subject.name} has probe kernels without times, or with times that cannot be"
            if process.rows and [2 * len(rows) for rows in process.rows] != [len(block) for block in blocks]:
                return f"{subject.name} has times of other rows than it names"
        if subject.confusion and {len(subject.confusion), *map(len, subject.confusion)} != {len(subject.labels)}:
            return f"{subject.name} has a confusion matrix that is not as wide as its {len(subject.labels)} labels"
        if subject.predictions is not None:
            try:
                unpack(subject.predictions)
            except ValueError as wrong:
                return f"{subject.name} has {wrong}"
    shown = [f.text for f in report.accuracy.flipped] if report.accuracy else []
    shown += [word for d in report.faithfulness.drifts for word in d.words] if report.faithfulness else []
    if any(shown) and not report.include_text:
        return "it holds texts of samples, and says that it does not (include_text)"
    return ""
