"""Baseline files: they stand in for a bundle that is no longer available, and collect timing sessions."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from edgekit.machine.cpu import cpus
from edgekit.machine.fingerprint import fingerprint
from edgekit.report import differences, files, sessions, speed
from edgekit.report.baseline import Baseline, BundleBefore, ReportBefore, TeacherBefore
from edgekit.report.side import BundleUnderTest, Rows
from edgekit.spec.errors import UsageError
from edgekit.spec.report import Report, Speed
from edgekit.spec.sealed import matches
from edgekit.spec.subject import Fingerprint, Subject, TimingSession

__all__ = ["advice", "append_session", "judge", "notes", "probes_of", "read_earlier", "record_path"]

_ENOUGH_SESSIONS = 4
_REMEDY = "Write a new baseline to another file, without --append."

_KERNEL = re.compile(r"(int8|float32|memory|cores) [1-9][0-9]{0,2}")
_PROBES_RAN = re.compile(r"([a-z_]+) ([1-9][0-9]{0,3})")


def probes_of(subject: Subject | None) -> tuple[str, int, tuple[str, ...]]:
    """Return the probe kernels that ran beside a bundle.

    The same kernels must run beside a bundle that is compared with it, even if that bundle uses another backend.
    Unknown kernels, e.g. those of a later version, are left out.

    Args:
        subject: Measurements of the baseline; None if it was not timed.

    Returns:
        Name of the backend (empty without probes), number of threads, and the name of each kernel with its number of
        repetitions.
    """
    if subject is None or not subject.processes:
        return "", 1, ()
    match = _PROBES_RAN.fullmatch(subject.probes_ran)
    if match is None:
        return "", 1, ()
    kernels = []
    for kernel in subject.processes[-1].probes_ms:
        is_runnable = cpus() > 1 or not kernel.startswith("cores")
        if _KERNEL.fullmatch(kernel) and is_runnable:
            kernels.append(kernel)
    return match[1], int(match[2]), tuple(kernels)


def judge(against: Baseline, after: Subject, seconds: float, seed: int) -> Speed | None:
    """Compare the latency of a bundle with that of the earlier sessions in a report.

    Args:
        against: Baseline of the comparison.
        after: Measurements of the bundle in this session.
        seconds: Duration of the timing of this session, in seconds.
        seed: Random seed for the bootstrap.

    Returns:
        The comparison; None if the baseline has no earlier sessions.
    """
    if not isinstance(against, ReportBefore) or not against.subject.processes:
        return None
    result = speed.compare_unpaired(against.subject, after, seconds, seed)
    why_not = ""
    differing = against.fingerprint.differences(fingerprint())
    if differing:
        why_not = f"the machine or its software differs from that of the baseline: {'; '.join(differing)}"
    if against.subject.threads != after.threads:
        why_not = f"the baseline ran on {against.subject.threads} thread(s), the bundle on {after.threads}"
    why_not = why_not or against.why_not or against.latency_why_not
    return replace(result, comparable=not why_not, why_not=why_not)


def notes(against: Baseline, after: Subject) -> tuple[str, ...]:
    """Return notes on the baseline's bundle, and on the change of the machine's speed since the baseline."""
    note = "" if isinstance(against, TeacherBefore) else against.note
    drift = "" if isinstance(against, BundleBefore) else sessions.describe_drift(against.subject, after)
    return tuple(filter(None, (note, drift)))


def advice(subject: Subject) -> tuple[str, ...]:
    """Return a note on the sensitivity of a baseline with few sessions; empty if it has enough."""
    count = len(sessions.list_sessions(subject))
    if count >= _ENOUGH_SESSIONS:
        return ()
    sessions_text = "1 session" if count == 1 else f"{count} sessions"
    return (
        f"With {sessions_text}, a later check detects only large changes of latency. "
        f"Add sessions at other times with --append, to at least {_ENOUGH_SESSIONS} in all.",
    )


def record_path(subject: Subject, side: BundleUnderTest, file: str | Path | None) -> Subject:
    """Return the subject of a baseline with the path of its bundle, relative to the folder of the baseline file."""
    if file is None:
        return subject
    try:
        path = os.path.relpath(side.bundle.path.resolve(), Path(file).resolve().parent)
    except ValueError:  # On Windows, there is no relative path between drives.
        return subject
    return replace(subject, path=Path(path).as_posix())


def read_earlier(file: Path, side: BundleUnderTest, rows: Rows, machine: Fingerprint) -> Report:
    """Read the baseline that a session will be added to.

    All sessions of a file must measure the same bundle on the same samples and machine.

    Args:
        file: Baseline file.
        side: Bundle of the new session.
        rows: Samples of the new session.
        machine: Fingerprint of this machine.

    Raises:
        UsageError: If it is no baseline, or one of another bundle, other samples or another machine.
        IntegrityError: If the file is damaged.
    """
    report = files.read(file)
    if report.kind != "baseline" or not report.subjects[0].processes:
        raise UsageError(
            f"{file} is a report of the kind '{report.kind}', expected 'baseline' (edgekit baseline). {_REMEDY}",
            code="baseline-kind",
        )
    if report.subjects[0].settings != side.settings:
        raise UsageError(
            f"{file} is the baseline of another bundle than {side.name}: files or settings differ. {_REMEDY}",
            code="baseline-other-bundle",
        )
    if not matches(report.samples, rows.digest):
        raise UsageError(f"{file} was measured on other samples. {_REMEDY}", code="baseline-other-samples")
    differing = report.fingerprint.differences(machine)
    if differing:
        raise UsageError(
            f"{file} was measured on another machine or with other software: {'; '.join(differing)}. {_REMEDY}",
            code="baseline-other-machine",
        )
    return report


def append_session(before: Report, now: Report) -> Report:
    """Return a baseline with the sessions of an earlier one, of which the last ``sessions.MOST`` are kept.

    Raises:
        UsageError: If the bundle ran in another way than in the earlier sessions.
    """
    earlier = before.subjects[0]
    subject = now.subjects[0]
    differing = differences.differences(earlier, subject)
    if differing:
        raise UsageError(
            "The bundle did not run in the same way as in the earlier sessions of the baseline: "
            f"{'; '.join(differing)}. {_REMEDY}",
            code="baseline-other-run",
        )
    earlier_sessions = (*earlier.sessions, TimingSession(before.created, earlier.processes))
    recent_sessions = earlier_sessions[-(sessions.MOST - 1) :]
    return replace(now, subjects=(replace(subject, sessions=recent_sessions),))
