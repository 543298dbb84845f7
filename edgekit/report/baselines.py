"""Baselines in files: what stands in for a bundle that is not at hand, in one session or several."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from edgekit.machine.cpu import cpus
from edgekit.machine.fingerprint import fingerprint
from edgekit.report import differences, files, sessions, speed
from edgekit.report.before import BundleBefore, Known, ReportBefore, TeacherBefore
from edgekit.report.side import BundleUnderTest, Rows
from edgekit.spec.errors import UsageError
from edgekit.spec.report import Report, Speed
from edgekit.spec.sealed import matches
from edgekit.spec.subject import Fingerprint, Subject, TimingSession

__all__ = ["advice", "continued", "earlier", "judge", "notes", "placed", "probes_of"]

_ENOUGH = 4  # sessions
_ANEW = "Make a new baseline, without --append, in another file."


_KERNEL = re.compile(r"(int8|float32|memory|cores) [1-9][0-9]{0,2}")
_RAN = re.compile(r"([a-z_]+) ([1-9][0-9]{0,3})")


def probes_of(subject: Subject | None) -> tuple[str, int, tuple[str, ...]]:
    """Probe kernels that ran beside a bundle: their backend, its threads, and each with its repeats. Others, of a later version, are left out.

    The very same have to run beside what is compared with it, whatever backend that has.
    """
    ran = _RAN.fullmatch(subject.probes_ran) if subject is not None and subject.processes else None
    if subject is None or ran is None:
        return "", 1, ()
    return (
        ran[1],
        int(ran[2]),
        tuple(
            k
            for k in subject.processes[-1].probes_ms
            if _KERNEL.fullmatch(k) and (cpus() > 1 or not k.startswith("cores"))
        ),
    )


def judge(against: Known, after: Subject, seconds: float, seed: int) -> Speed | None:
    """Latency against that of earlier sessions; None where there are none.

    Args:
        against: what was read from a file.
        after: measured now.
        seconds: what that took.
        seed: of the resampling.
    """
    if not isinstance(against, ReportBefore) or not against.subject.processes:
        return None
    judged = speed.compare_unpaired(against.subject, after, seconds, seed)
    differing = against.fingerprint.differences(fingerprint())
    why = (
        f"the machine, or what is installed on it, is not that of the baseline: {'; '.join(differing)}"
        if differing
        else ""
    )
    if against.subject.threads != after.threads:
        why = f"the baseline ran on {against.subject.threads} thread(s), the bundle on {after.threads}"
    why = why or against.why_not or against.untimely
    return replace(judged, comparable=not why, why_not=why)


def notes(against: Known, after: Subject) -> tuple[str, ...]:
    """What became of the baseline's bundle, and of the machine since."""
    drift = "" if isinstance(against, BundleBefore) else sessions.describe_drift(against.subject, after)
    note = "" if isinstance(against, TeacherBefore) else against.note
    return tuple(filter(None, (note, drift)))


def advice(subject: Subject) -> tuple[str, ...]:
    """What a baseline of few sessions cannot do, as a note."""
    count = len(sessions.list_sessions(subject))
    if count >= _ENOUGH:
        return ()
    few = "one session" if count == 1 else f"{count} sessions"
    return (
        f"Of {few} a later check finds large changes of latency alone. Add sessions at other times with --append, {_ENOUGH} or more in all.",
    )


def placed(subject: Subject, side: BundleUnderTest, file: str | Path | None) -> Subject:
    """A baseline's bundle with its place, relative to the file that the baseline is kept in."""
    if file is None:
        return subject
    try:
        place = os.path.relpath(side.bundle.path.resolve(), Path(file).resolve().parent)
    except ValueError:  # on another drive of Windows there is none
        return subject
    return replace(subject, path=Path(place).as_posix())


def earlier(file: Path, side: BundleUnderTest, given: Rows, here: Fingerprint) -> Report:
    """The baseline that a session is to be added to.

    Raises:
        UsageError: where it is of another bundle, other samples or another machine: sessions of a file are draws of one thing.
        IntegrityError: where it is damaged.
    """
    found = files.read(file)
    if found.kind != "baseline" or not found.subjects[0].processes:
        raise UsageError(
            f"{file} is a report of the kind '{found.kind}', expected one of 'edgekit baseline'. {_ANEW}",
            code="baseline-kind",
        )
    if found.subjects[0].settings != side.settings:
        raise UsageError(
            f"{file} is the baseline of another bundle than {side.name}, files or settings. {_ANEW}",
            code="baseline-other-bundle",
        )
    if not matches(found.samples, given.digest):
        raise UsageError(f"{file} was measured on other samples. {_ANEW}", code="baseline-other-samples")
    if differing := found.fingerprint.differences(here):
        raise UsageError(
            f"{file} was measured on another machine, or with other software: {'; '.join(differing)}. {_ANEW}",
            code="baseline-other-machine",
        )
    return found


def continued(before: Report, now: Report) -> Report:
    """A baseline with the sessions of an earlier one, of which the last ``sessions.MOST`` are kept.

    Raises:
        UsageError: where the bundle ran in another way than then.
    """
    was, own = before.subjects[0], now.subjects[0]
    if differing := differences.differences(was, own):
        raise UsageError(
            f"The bundle did not run as in the baseline's earlier sessions: {'; '.join(differing)}. {_ANEW}",
            code="baseline-other-run",
        )
    kept = (*was.sessions, TimingSession(before.created, was.processes))[-(sessions.MOST - 1) :]
    return replace(now, subjects=(replace(own, sessions=kept),))
