"""A report as a comment on a pull request: the verdict first, narrow enough for a phone, short enough for GitHub.

What a report holds was written by others (names of models, labels, values of columns), and a comment is read by GitHub or GitLab. Nothing of it
becomes markup, pings anybody or links anywhere: special characters are entities, and a zero-width space takes ``@name``, ``#123`` and the like
apart, since these are looked for in the text as it is shown, behind any escape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import NamedTuple

from edgekit.report.render._words import GRAVEST_FIRST, LATENCY, change, gate_numbers, interval, number, percentiles, share, start
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Accuracy, Faithfulness, Flip, Report, Robustness, Slice, Speed
from edgekit.spec.subject import Perturbed, Subject

__all__ = ["MARKS", "MOST_BYTES", "escape", "markdown"]

MOST_BYTES = 64_000
"""Of a comment, as UTF-8. GitHub takes 65,536 characters."""

MARKS = {REGRESSION: "✗", OVER_BUDGET: "✗", INCOMPARABLE: "≠", INCONCLUSIVE: "?", PASS: "✓"}
_GATES, _REASONS, _SLICES, _FLIPS, _NOTES = 40, 20, 10, 10, 30
_LONGEST, _NAME = 300, 80  # characters of a sentence and of a name
_SIGNIFICANT = 0.05

_GAP = "&#8203;"
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
_TAKEN_APART = re.compile(
    r"(?P<entity>[\\`*_{}\[\]<>|^])"
    r"|(?P<both>[&~$])"  # of the markup, and in GitLab of references
    r"|(?P<reference>[@#!%](?=[\w\"'({]))"
    r"|(?P<linked>GH(?=-\d)|www(?=\.)|:(?=//)|mailto(?=:)|xmpp(?=:)|:(?=[\w+\-]+:))",
    re.IGNORECASE,
)
_OPENS_BLOCK = re.compile(r"[-+=#]|\d{1,9}(?=[.)](?:\s|$))")


class _Part(NamedTuple):
    """A piece of the comment: its name, for when it is left out, and its text, which stays whole."""

    name: str
    text: str


def markdown(report: Report) -> str:
    """The comment.

    Args:
        report: of any kind. Texts of samples are shown only where its ``include_text`` is set.

    Returns:
        GitHub-flavoured Markdown of at most ``MOST_BYTES``, always the same for the same report. What does not fit is left out from the bottom, and a
        last line says what that was.
    """
    parts = list(_parts(report))
    room = MOST_BYTES - 1_000  # for the last line
    kept: list[str] = []
    for index, part in enumerate(parts):
        room -= len(part.text.encode()) + 2
        if room < 0:
            left_out = list(dict.fromkeys(p.name for p in parts[index:]))
            kept.append(f"Left out here, as a comment holds no more: {', '.join(left_out)}. All of it is in report.html and report.json.")
            break
        kept.append(part.text)
    return "\n\n".join(kept) + "\n"


def escape(text: str, longest: int = _LONGEST) -> str:
    """Text that stays text in one line of Markdown, in a cell of a table too.

    Args:
        text: any; line ends become spaces, characters that are not seen (or turn the direction of what follows) a replacement character.
        longest: characters that are shown.
    """
    flat = _HIDDEN.sub("\ufffd", " ".join(text.split()))
    flat = flat if len(flat) <= longest else flat[: longest - 1] + "…"
    escaped = _TAKEN_APART.sub(_apart, flat)
    if opens := _OPENS_BLOCK.match(escaped):
        place = opens.end() - 1 if not opens[0].isdigit() else opens.end()
        return f"{escaped[:place]}&#{ord(escaped[place])};{escaped[place + 1 :]}"
    return escaped


def _apart(found: re.Match[str]) -> str:
    if found.lastgroup == "entity":
        return f"&#{ord(found[0])};"
    return (f"&#{ord(found[0])};" if found.lastgroup == "both" else found[0]) + _GAP


def _parts(report: Report) -> Iterator[_Part]:
    """All parts, in the order in which they are read."""
    last = report.subjects[-1]
    yield _Part("verdict", _head(report))
    yield from _gates(report)
    if report.accuracy is not None:
        yield _Part("accuracy", _accuracy(report.accuracy, last))
    elif last.score is not None:
        yield _Part("accuracy", _score(last, report.rows))
    yield from _latency(report.speed, last)
    yield from _footprint(report.speed, last)
    if report.accuracy is not None:
        yield from _slices(report.accuracy.slices)
        yield from _flips(report.accuracy, report.include_text)
    if report.faithfulness is not None:
        yield _Part("faithfulness", _faithfulness(report.faithfulness))
    if report.robustness or last.robustness:
        yield _Part("robustness", _robustness(report.robustness or last.robustness))
    yield _Part("machine", _machine(report))
    yield from _list("notes", "**Notes**", [escape(note) for note in report.notes], _NOTES)


def _list(name: str, title: str, items: Iterable[str], most: int) -> Iterator[_Part]:
    """A titled list, cut behind ``most``; nothing without items."""
    lines = [f"- {item}" for item in items]
    if len(lines) > most:
        lines[most:] = [f"- and {len(lines) - most} more"]
    if lines:
        yield _Part(name, "\n".join([title, "", *lines]))


def _head(report: Report) -> str:
    names = [escape(s.name, _NAME) or "no name" for s in report.subjects]
    who = f"**{names[-1]}**" + (f" against **{names[0]}**" if len(names) > 1 else "")
    if not report.gates:
        return f"## EdgeKit {report.kind}: nothing was gated\n\n{who}, {report.rows} samples."
    failing = sum(g.verdict != PASS for g in report.gates)
    gates = f"{failing} of {len(report.gates)} gates not passed" if failing else f"all {len(report.gates)} gates passed"
    return f"## {MARKS[report.verdict]} {report.verdict}: EdgeKit {report.kind}\n\n{who}, {report.rows} samples, {gates}."


def _gates(report: Report) -> Iterator[_Part]:
    gates = sorted(report.gates, key=lambda g: GRAVEST_FIRST.index(g.verdict))
    if not gates:
        return
    lines = ["| gate | verdict | seen | allowed |", "|---|---|---|---|"]
    for gate in gates[:_GATES]:
        seen, allowed = gate_numbers(gate)
        lines.append(f"| {escape(gate.name, _NAME)} | {MARKS[gate.verdict]} {gate.verdict} | {seen} | {allowed} |")
    if len(gates) > _GATES:
        lines += ["", f"{len(gates) - _GATES} more gates, none of them graver than these, are in report.html."]
    yield _Part("gates", "\n".join(lines))
    yield from _list("reasons", "**Why**", [f"{escape(g.name, _NAME)}: {escape(g.said)}" for g in gates if g.verdict != PASS and g.said], _REASONS)


def _accuracy(found: Accuracy, last: Subject) -> str:
    name = escape(found.score_name, _NAME)
    if not found.comparable:
        return f"**Accuracy**: not comparable. {escape(found.why_not)}"
    said = []
    if found.before is not None and found.after is not None:
        said.append(f"{name} {found.before:.4f} → {found.after:.4f}")
    if found.drop is not None:
        said.append(f"drop {found.drop:.4f}{interval(found.low, found.high)}")
    if found.losses is not None and found.gains is not None:
        p = "" if found.p_value is None else f" (exact McNemar p = {found.p_value:.3g})"
        said.append(f"{found.losses} rows lost, {found.gains} won{p}")
    elif found.p_value is not None:
        said.append(f"approximate randomization p = {found.p_value:.3g}")
    sentences = [", ".join(said) + "." if said else "The samples have no labels to score by.", _resolves(found)]
    if found.divergence_mean or found.divergence_p95:
        sentences.append(f"Divergence of the answers {found.divergence_mean or 0.0:.4f} on average, {found.divergence_p95 or 0.0:.4f} at the 95th percentile.")
    if found.calibration_before is not None and found.calibration_after is not None:
        sentences.append(f"Calibration error {found.calibration_before:.4f} → {found.calibration_after:.4f}.")
    if last.truncated:
        sentences.append(f"{last.truncated} samples are longer than the model takes.")
    return f"**Accuracy**: {' '.join(filter(None, sentences))}"


def _resolves(found: Accuracy) -> str:
    """What the set can find, and what it would take for the margin: ``... a drop of 0.012, not 0.005: it would take 5100 rows``."""
    if found.resolvable is None:
        return ""
    able = f"This set can resolve a drop of {found.resolvable:.4f}"
    if found.margin is None or found.resolvable <= found.margin:
        return able + "."
    rows = "" if found.rows_needed is None or found.settled else f": it would take {found.rows_needed} rows"
    return f"{able}, not {found.margin:g}{rows}."


def _score(last: Subject, rows: int) -> str:
    error = "" if last.calibration_error is None else f", calibration error {last.calibration_error:.4f}"
    cut = f" {last.truncated} samples are longer than the model takes." if last.truncated else ""
    more = "".join(f", {escape(name, _NAME)} {value:.4f}" for name, value in last.more_scores.items())
    return f"**Accuracy**: {escape(last.score_name, _NAME)} {last.score:.4f}{more} on {rows} samples{error}.{cut}"


def _latency(speed: Speed | None, last: Subject) -> Iterator[_Part]:
    title, items = "**Latency**, one input at a time", []
    if speed is not None:
        title += ", in turns with the baseline" if speed.paired else ", the baseline's read from a file"
        title += f" ({speed.calls} calls a side)" if speed.calls else ""
        title += "" if speed.comparable else f". Not comparable: {escape(speed.why_not)}"
        changes = [replace(c, said="") if c.said == speed.why_not else c for c in speed.changes]
        items += [f"{c.metric}: {escape(change(c))}" for c in changes if c.metric in LATENCY]
        if speed.noise_floor:
            floor = ", ".join(f"{escape(name, _NAME)} {share(value)}" for name, value in sorted(speed.noise_floor.items()))
            items.append(f"this machine's noise alone can look like {floor}")
    elif last.times is not None:
        title += f" ({last.times.count} calls)"
        items += [f"{name}: {said}" for name, (_, said) in percentiles(last.times).items()]
    for found in last.scenarios:
        value = f"{number(found.value)} {escape(found.unit, _NAME)}, {escape(found.metric)}" if found.value is not None else escape(found.detail)
        items.append(f"{escape(found.name, _NAME)} (MLPerf-style): {value}")
    yield from _list("latency", title, items, len(items))


def _footprint(speed: Speed | None, last: Subject) -> Iterator[_Part]:
    items = [] if last.start is None else [f"cold start: {start(last.start)}"]
    if speed is not None:
        items += [f"{escape(c.metric.replace('_', ' '), _NAME)}: {escape(change(c))}" for c in speed.changes if c.metric not in LATENCY]
    else:
        items += [f"memory: {number(last.memory_mb)} MB"] if last.memory_mb else []
        items += [f"size: {number(last.size_mb)} MB"] if last.size_mb else []
        if last.energy_mj is not None or last.energy_from:
            energy = "" if last.energy_mj is None else f"{number(last.energy_mj)} mJ an answer, "
            items.append(f"energy: {energy}{escape(last.energy_from)}")
    yield from _list("footprint", "**Footprint**", items, len(items))


def _slices(slices: tuple[Slice, ...]) -> Iterator[_Part]:
    """Those that differ for sure: by their test, adjusted for all of them; by the interval where there is no such test."""

    def sure(s: Slice) -> bool:
        if s.p_holm is not None:
            return s.p_holm <= _SIGNIFICANT
        return s.low is not None and s.high is not None and not s.low <= 0 <= s.high

    if not slices:
        return
    tested, out = [s for s in slices if not s.said], sorted((s for s in slices if sure(s)), key=lambda s: -(s.drop or 0.0))
    title = f"**Slices**: {len(out) or 'none'} of {len(tested)} differ for sure"
    title += f"; {len(slices) - len(tested)} could not be tested." if len(tested) < len(slices) else "."
    items = []
    for s in out:
        p = "" if s.p_holm is None else f", p = {s.p_holm:.3g} after Holm"
        drop = "" if s.drop is None else f"drop {s.drop:.4f}{interval(s.low, s.high)} on "
        items.append(f"{escape(s.column, _NAME)} = {escape(s.value, _NAME) or 'nothing'}: {drop}{s.rows} rows{p}")
    yield from _list("slices", title, items, _SLICES) if items else [_Part("slices", title)]


def _flips(found: Accuracy, include_text: bool) -> Iterator[_Part]:
    if not found.comparable or not found.rows:
        return
    title = f"**Flips**: {found.flips} of {found.rows} rows ({share(found.flips / found.rows, signed=False)}) are answered differently"
    shown = found.flipped[:_FLIPS]
    if not shown:
        yield _Part("flips", title + ".")
        return
    more = "; those that were surest before:" if shown[0].margin_before is not None and found.flips > len(shown) else ":"
    items = [_flip(flip) + (f": {escape(flip.text)}" if include_text and flip.text else "") for flip in shown]
    yield from _list("flips", title + more, items, _FLIPS)


def _flip(flip: Flip) -> str:
    before, after = escape(flip.before, _NAME) or "nothing", escape(flip.after, _NAME) or "nothing"
    if flip.margin_before is not None and flip.margin_after is not None:
        before, after = f"{before} (margin {flip.margin_before:.2f})", f"{after} ({flip.margin_after:.2f})"
    return f"row {flip.row} <code>{escape(flip.id[:12])}</code>: {before} → {after}, right is {escape(flip.truth, _NAME) or 'nothing'}"


def _faithfulness(f: Faithfulness) -> str:
    return (
        f"**Faithfulness** (descriptive): attributions of {f.rows} rows agree by {f.rank_correlation:.3f} in rank (before with itself {f.ceiling_rank:.3f}, "
        f"random {f.floor_rank:.3f}) and by {f.top_k:.3f} in the top {f.k} (before with itself {f.ceiling_top_k:.3f}, random {f.floor_top_k:.3f})."
    )


def _robustness(found: tuple[Robustness, ...] | tuple[Perturbed, ...]) -> str:
    drops = "; ".join(f"{escape(f.name, _NAME)} {f.drop:.4f}{interval(f.low, f.high)}" for f in found[:_SLICES])
    against = "of the candidate against the baseline" if isinstance(found[0], Robustness) else "against the same inputs undisturbed"
    return f"**Robustness** (descriptive): drop {against} under {drops}."


def _machine(report: Report) -> str:
    lines = [f"- samples: {escape(report.samples, _NAME)}, seed {report.seed}, {escape(report.created, _NAME)}"]
    for subject in report.subjects:
        how = ", ".join(filter(None, (subject.target, subject.backend, subject.method, subject.executed)))
        lines.append(f"- {escape(subject.name, _NAME) or 'no name'}: {escape(', '.join(filter(None, (how, subject.digest))))}")
    for field in fields(report.fingerprint):
        value = getattr(report.fingerprint, field.name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
        elif isinstance(value, tuple):
            value = " ".join(value)
        if value:
            lines.append(f"- {field.name.replace('_mb', ' (MB)').replace('_', ' ')}: {escape(str(value))}")
    return "\n".join(["<details><summary>Machine and versions</summary>", "", *lines, "", "</details>"])
