"""What ``report``, ``compare``, ``check`` and ``baseline`` print and write."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.cli._output import echo
from edgekit.spec.report import PASS, Accuracy, Change, Gate, Report
from edgekit.spec.subject import Subject


def text(report: Report, code: int) -> str:
    """For a terminal or a log: who was measured, the numbers, each gate with its reason, and last of all the verdict.

    Args:
        report: of any kind.
        code: the exit code, said with the verdict.
    """
    after = report.subjects[-1]
    against = f" against {report.subjects[0].name}" if len(report.subjects) > 1 else ""
    machine = report.fingerprint
    head = f"{report.kind}: {after.name}{against}, {report.rows} samples, on {machine.cpu or 'a CPU without a name'} ({machine.cpus} CPUs)"
    lines = [*(_alone(after) if len(report.subjects) == 1 else []), *_compared(report)]
    width = max((len(name) for name, _ in lines), default=0)
    gates = _gates(report.gates)
    facts = [f"  {name:<{width}}  {value}" for name, value in lines]
    never = report.accuracy.never if report.accuracy is not None else ""
    notes = [f"note: {note}" for note in report.notes if note != never]
    verdict = [f"verdict: {report.verdict}" + (f" (exit {code})" if code else "")] if report.gates else []
    return "\n".join([head, *([f"note: {never}"] if never else []), *facts, *gates, *notes, *verdict])


def _gates(gates: Sequence[Gate]) -> list[str]:
    """One line a gate, those that are not kept last: that is where a log is read first."""
    if not gates:
        return []
    verdicts, names = max(len(g.verdict) for g in gates), max(len(g.name) for g in gates)
    order = sorted(gates, key=lambda g: g.verdict != PASS)
    return ["gates:", *(f"  {g.verdict:<{verdicts}}  {g.name:<{names}}  {g.said}" for g in order)]


def _alone(subject: Subject) -> list[tuple[str, str]]:
    """Of one bundle."""
    lines = [] if subject.score is None else [(subject.score_name, f"{subject.score:.4f}")]
    lines += [(name, f"{value:.4f}") for name, value in subject.more_scores.items()]
    if subject.calibration_error is not None:
        lines.append(("calibration error", f"{subject.calibration_error:.4f}"))
    if subject.times is not None:
        measured = ((name, getattr(subject.times, f"{name}_ms")) for name in ("p50", "p90", "p99"))
        few = f"not estimable from {subject.times.count} samples"
        lines.append(
            ("latency", ", ".join(f"{n} {f'{few} (needs {subject.times.needed.get(n, 0)})' if v is None else f'{v:.2f} ms'}" for n, v in measured))
        )
    if subject.sessions:
        lines.append(("sessions", f"{len(subject.sessions) + 1}, the first on {subject.sessions[0].created}"))
    if subject.start is not None:
        start = subject.start
        parts = f"import {start.import_ms:.0f}, verify {start.verify_ms:.0f}, load {start.load_ms:.0f}, first answer {start.answer_ms:.0f}"
        lines.append(("start", f"{start.total_ms:.0f} ms ({parts})"))
    if subject.memory_mb:
        lines.append(("memory", f"{subject.memory_mb:.0f} MB at the peak"))
    lines.append(("size", f"{subject.size_mb:.1f} MB"))
    lines += [(s.name, s.detail if s.value is None else f"{s.value:.2f} {s.unit} ({s.metric})") for s in subject.scenarios]
    return lines


def _compared(report: Report) -> list[tuple[str, str]]:
    """Of two: what no gate says by itself."""
    lines = _accuracy(report.accuracy) if report.accuracy is not None else []
    gated = {gate.name.rpartition(".")[2] for gate in report.gates}
    if (speed := report.speed) is not None:
        if not speed.comparable:
            lines.append(("latency", f"not compared: {speed.why_not}"))
        shown = [c for c in speed.changes if c.metric not in gated and (speed.comparable or c.metric == "size")]
        lines += [(c.metric.replace("_", " "), _change(c)) for c in shown]
        if speed.noise_floor:
            lines.append(("noise floor", ", ".join(f"{m.replace('_', ' ')} +{share:.1%}" for m, share in speed.noise_floor.items())))
    if (f := report.faithfulness) is not None:
        lines.append(("attributions", f"rank correlation {f.rank_correlation:.2f} (before against itself {f.ceiling_rank:.2f}, random {f.floor_rank:.2f})"))
    return lines


def _accuracy(found: Accuracy) -> list[tuple[str, str]]:
    if not found.comparable or found.before is None or found.after is None:
        return [(found.score_name, f"not compared: {found.why_not}")]
    drop = "" if None in (found.drop, found.low, found.high) else f", drop {found.drop:.4f} ({found.low:.4f} to {found.high:.4f})"
    lines = [(found.score_name, f"{found.before:.4f} before, {found.after:.4f} after{drop}, {found.flips} answered differently")]
    if found.resolvable is not None:
        needed = "" if found.rows_needed is None or found.settled else f"; to settle {found.margin:g} would take about {found.rows_needed:,} rows"
        lines.append(("", f"this set can resolve a drop of {found.resolvable:.4f}{needed}"))
    return lines


def _change(change: Change) -> str:
    if change.ratio is None or change.before is None or change.after is None:
        return change.said or "not measured"
    if change.low is None or change.high is None or change.low == change.high:
        return f"{change.before:.2f} {change.unit} before, {change.after:.2f} after, x {change.ratio:.3f}"
    return f"x {change.ratio:.3f} ({change.low:.3f} to {change.high:.3f})"


def write(report: Report, folder: str | None) -> list[str]:
    """Writes all forms of a report; the line that says so, if there is a folder."""
    if folder is None:
        return []
    from edgekit.report.render import write_all

    return [f"Wrote {folder}: {', '.join(file.name for file in write_all(report, Path(folder)))}."]


def finish(report: Report, folder: str | None, strict: bool = False, allow_incomparable: bool = False) -> int:
    """Writes and prints a report, and says its exit code."""
    code = report.exit_code(strict, allow_incomparable)
    written = write(report, folder)
    say("\n".join([text(report, code), *written]))
    return code


def say(words: str) -> None:
    """Prints. A reader that has gone (``| grep -q``, ``| head``) does not change a verdict."""
    try:
        echo(words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain when it flushes at its end


def check_ready(*folders: str | None) -> None:
    """Refuses what would end a run after it was measured: packages that are not there, folders that cannot be written.

    Raises:
        BackendError: naming the package and the extra that brings it.
        UsageError: naming the folder.
    """
    from edgekit.report import check_packages, render

    check_packages("scipy")
    for folder in folders:
        if folder is not None:
            render.check_writable(Path(folder))
