"""Accuracy: the drop, the slices where it occurs, and the rows with different answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgekit.report.render.charts.answers import margins
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.svg import Head
from edgekit.report.render.document import Block, Cell, Figure, Limits, Row, Section, Table
from edgekit.report.render.sections.parts import filled, left_out, limits_of, rows_of
from edgekit.report.render.words import INTERVAL, NOTHING, chance, cut, percent, score, sentence, spread
from edgekit.spec.report import Accuracy, Flip, Report, Slice
from edgekit.spec.subject import Subject

__all__ = ["accuracy", "flips", "slices"]

_MAX_BARS = 24
"""Largest number of slices in the forest plot."""
_MAX_NAMES = 10
"""Largest number of slices that are named in the text."""
_NAME = 48
"""Largest number of characters of a slice's column and of its value."""
_ID = 12
"""Characters of a row's id that are shown."""
_SIGNIFICANT = 0.05
_EFFECTS = {
    "lost": ("✗ lost", "right before, wrong now"),
    "won": ("✓ won", "wrong before, right now"),
    "other": ("neither", "neither"),
}


def accuracy(report: Report, limits: Limits) -> Section:
    """Return the section of the scores and the drop with its interval."""
    truncated = report.subjects[-1].truncated
    note = f"{truncated:,} samples are longer than the model accepts, and were truncated." if truncated else ""
    result = report.accuracy
    if result is None:
        return Section("accuracy", "Accuracy", filled(note))
    if not result.comparable:
        metric = cut(report.subjects[-1].score_name, 30) or "accuracy"
        text = f"The {metric} is not compared. {sentence(result.why_not, limits.sentence)}"
        return Section("accuracy", "Accuracy", (text,))
    text = " ".join(filter(None, (_scores(result), _power(result), note)))
    return Section("accuracy", "Accuracy", filled(text, _drop(report, result)))


def slices(report: Report, limits: Limits) -> Section:
    """Return the section of the drop by slice, the largest first."""
    result = report.accuracy
    if result is None:
        return _slice_scores(report.subjects[-1], limits)
    if not result.comparable or not result.slices:
        return Section("slices", "Slices", ())
    order = sorted(result.slices, key=lambda part: (part.drop is None, -(part.drop or 0.0)))
    rows = tuple(_slice_row(part, limits) for part in order[: limits.rows])
    header = ("slice", "rows", "before", "now", "drop", INTERVAL, "p (Holm)")
    note = left_out(len(rows), len(order), "slices")
    table = Table("t-slices", "The drop by slice, the largest first", header, rows, note=note)
    text = _significant_slices(order, limits)
    drawn = [part for part in order if part.drop is not None][: min(_MAX_BARS, limits.rows)]
    if not drawn:
        return Section("slices", "Slices", (text, table))
    return Section("slices", "Slices", (text, _slice_figure(report, result, drawn, table)))


def _slice_name(column: str, value: str, limits: Limits) -> str:
    return f"{cut(column, _NAME)} = {cut(value, min(_NAME, limits.name)) or '(empty)'}"


def _slice_row(part: Slice, limits: Limits) -> Row:
    name = _slice_name(part.column, part.value, limits)
    count = f"{part.rows:,}"
    if part.said:
        reason = f"not tested: {cut(part.said, limits.sentence)}"
        return (name, count, NOTHING, NOTHING, NOTHING, reason, NOTHING)
    interval = spread(score(part.low), score(part.high))
    return (name, count, score(part.before), score(part.after), score(part.drop, True), interval, chance(part.p_holm))


def _significant_slices(order: Sequence[Slice], limits: Limits) -> str:
    """Return a sentence with the slices that differ significantly."""
    names = []
    for part in order:
        if _is_significant(part):
            names.append(f"{_slice_name(part.column, part.value, limits)} (drop {score(part.drop)})")
    count = len(names)
    if count > _MAX_NAMES:
        names = [*names[:_MAX_NAMES], f"and {count - _MAX_NAMES} more"]
    tested = sum(not part.said for part in order)
    text = f"{count or 'None'} of {tested} slices {'differ' if count > 1 else 'differs'} significantly"
    if names:
        text += f": {'; '.join(names)}"
    text += "."
    if tested < len(order):
        text += f" {len(order) - tested} could not be tested."
    return text


def _is_significant(part: Slice) -> bool:
    """Return whether a slice differs by its adjusted test, or by its interval if there is no test."""
    if part.p_holm is not None:
        return part.p_holm <= _SIGNIFICANT
    return part.low is not None and part.high is not None and not part.low <= 0 <= part.high


def _slice_figure(report: Report, result: Accuracy, drawn: Sequence[Slice], table: Table) -> Figure:
    # Names must be short in the figure. If all slices have one column, the value is enough; the table has both.
    is_one_column = len({part.column for part in drawn}) == 1
    allowed = limits_of(report)
    rows = []
    for part in drawn:
        name = f"{part.column} {part.value}"
        if is_one_column:
            name = part.value or "(empty)"
        rows.append(Interval(name, part.drop, part.low, part.high, allowed.get(f"slice.{part.column}={part.value}")))
    description = (
        f"{len(drawn)} slices with the estimate of the drop and its 90 % interval; "
        f"the largest drop is {score(drawn[0].drop)}."
    )
    caption = "The drop of each slice with its 90 % interval."
    if len(drawn) < len(result.slices):
        caption += f" The {len(drawn)} largest of {len(result.slices)} are drawn."
    if any(part.p_holm is not None for part in result.slices):
        caption += " Of many slices some look worse by chance, so p is adjusted for their number (Holm)."
    draw = partial(forest, Head("slices", "Drop by slice", description), rows, _axis(result))
    return Figure(draw, caption, table)


def _slice_scores(subject: Subject, limits: Limits) -> Section:
    """Return the section of the scores of one bundle by slice, in the order of the columns."""
    rows = []
    for part in subject.slices[: limits.rows]:
        rows.append((_slice_name(part.column, part.value, limits), f"{part.rows:,}", score(part.score)))
    if not rows:
        return Section("slices", "Slices", ())
    header = ("slice", "rows", cut(subject.score_name, _NAME))
    note = left_out(len(rows), len(subject.slices), "slices")
    return Section("slices", "Slices", (Table("t-slices", "The score by slice", header, tuple(rows), note=note),))


def flips(report: Report, limits: Limits) -> Section:
    """Return the section of the rows with different answers."""
    result = report.accuracy
    if result is None or not result.comparable:
        return Section("flips", "Flips", ())
    text = "No row is answered differently."
    if result.flips:
        text = f"{result.flips:,} of {result.rows:,} rows ({_flip_share(result)}) are answered differently."
    if not result.flipped:
        return Section("flips", "Flips", (text,))
    has_margins = any(flip.margin_before is not None for flip in result.flipped)
    header = ["row", "id", "right", "before", "now", "effect"]
    word_columns = [1, 2, 3, 4, 5]
    if has_margins:
        header += ["margin before", "margin now"]
    if report.include_text:
        word_columns.append(len(header))
        header.append("text")
    rows = [_flip_row(flip, has_margins, report.include_text, limits) for flip in result.flipped[: limits.flips]]
    caption = "Rows that are answered differently"
    order = ""
    if has_margins:
        caption += ", the largest margin before first"
        order = ", those with the largest margin before"
    note = ""
    if len(rows) < max(result.flips, len(result.flipped)):
        note = (
            f"{len(rows):,} of {result.flips:,} rows are listed{order}; "
            f"report.json has the first {len(result.flipped):,}."
        )
    table = Table(
        "t-flips",
        caption,
        tuple(header),
        tuple(rows),
        tuple(word_columns),
        folded=True,
        note=note,
        kind="list",
    )
    figure = _margin_figure(result) if has_margins else None
    return Section("flips", "Flips", filled(text, figure, table))


def _margin_figure(result: Accuracy) -> Figure:
    effects = [_effect(flip) for flip in result.flipped]
    which = "all of them"
    if len(effects) < result.flips:
        which = f"the {len(effects):,} with the largest margin before"
    points = []
    for effect, flip in zip(effects, result.flipped, strict=True):
        points.append((effect, flip.margin_before or 0.0, flip.margin_after or 0.0))
    description = f"{len(effects)} rows, before to the right and now up; {effects.count('lost')} of them were lost."
    caption = (
        f"Margins on both sides, {which}: the margin is the lead of the answer over the runner-up. "
        "Far from both axes, two confident answers contradict each other."
    )
    counts = tuple((words, f"{effects.count(effect):,}") for effect, (_, words) in _EFFECTS.items())
    draw = partial(margins, Head("flips", "Margins of the answers that differ", description), points)
    return Figure(draw, caption, Table("t-effects", f"Effect of the changes, {which}", ("effect", "rows"), counts))


def _scores(result: Accuracy) -> str:
    """Return the scores, the drop and its test in sentences."""
    text = ""
    if result.before is not None and result.after is not None:
        text = f"{result.score_name} {score(result.before)} before, {score(result.after)} now, on {result.rows:,} rows"
    if result.drop is not None:
        interval = spread(score(result.low), score(result.high))
        text += f": a drop of {score(result.drop)} (90 % interval {interval})"
    text = sentence(text, 400)
    if result.losses is not None and result.gains is not None:
        test = "" if result.p_value is None else f" (exact McNemar, p = {chance(result.p_value)})"
        text += (
            f" {result.losses:,} rows were right before and are wrong now, {result.gains:,} the other way round{test}."
        )
    elif result.p_value is not None:
        text += f" Approximate randomization gives p = {chance(result.p_value)}."
    return text or "The samples have no labels for a score."


def _power(result: Accuracy) -> str:
    """Return the smallest drop that these rows can detect, and the number of rows that the margin needs."""
    if result.resolvable is None:
        return ""
    text = f"These samples can detect a drop of {result.resolvable:.3g} with a power of 80 %"
    if result.margin is None or result.resolvable <= result.margin:
        return f"{text}."
    text += f", but not one of {result.margin:g}"
    if result.rows_needed is not None and not result.is_decided:
        text += f": about {result.rows_needed:,} rows would decide that"
    return f"{text}."


def _axis(result: Accuracy) -> str:
    return f"drop of {cut(result.score_name, 30)}, right of 0 is worse"


def _flip_share(result: Accuracy) -> str:
    return percent(result.flips / result.rows, signed=False) if result.rows else NOTHING


def _drop(report: Report, result: Accuracy) -> Block:
    """Return the comparison of the answers in numbers, and the drop as a figure if there is one."""
    lost_and_won = NOTHING if result.losses is None else f"{result.losses:,}, {result.gains:,}"
    rows = rows_of(
        [
            (cut(result.score_name, 30) or "score", [score(result.before), score(result.after)]),
            ("drop", [NOTHING, score(result.drop)]),
            (INTERVAL, [NOTHING, spread(score(result.low), score(result.high))]),
            ("rows answered differently", [NOTHING, f"{result.flips:,} ({_flip_share(result)})"]),
            ("rows lost, won", [NOTHING, lost_and_won]),
            ("calibration error", [score(result.calibration_before), score(result.calibration_after)]),
            ("divergence of the answers, mean", [NOTHING, score(result.divergence_mean)]),
            ("divergence of the answers, 95th percentile", [NOTHING, score(result.divergence_p95)]),
        ]
    )
    table = Table("t-drop", "Answers in numbers", ("", "before", "now"), rows)
    if result.drop is None or result.low is None or result.high is None:
        return table
    limit = limits_of(report).get("accuracy.drop", result.margin)
    margin = "" if limit is None else f" The hatched side, from {limit:g} on, is not allowed."
    description = f"A drop of {score(result.drop)}, between {score(result.low)} and {score(result.high)}.{margin}"
    head = Head("drop", f"Drop of {result.score_name}", description)
    row = Interval("all rows", result.drop, result.low, result.high, limit)
    caption = f"The drop with its 90 % interval: each end is a one-sided 95 % bound.{margin}"
    return Figure(partial(forest, head, [row], _axis(result)), caption, table)


def _flip_row(flip: Flip, has_margins: bool, include_text: bool, limits: Limits) -> Row:
    answers = [cut(value, limits.name) or "(none)" for value in (flip.truth, flip.before, flip.after)]
    row = [f"{flip.row:,}", Cell(flip.id[:_ID], "mono"), *answers, _EFFECTS[_effect(flip)][0]]
    if has_margins:
        row += [f"{flip.margin_before or 0.0:.2f}", f"{flip.margin_after or 0.0:.2f}"]
    if include_text:
        row.append(Cell(cut(flip.text, limits.text), "said"))
    return tuple(row)


def _effect(flip: Flip) -> str:
    if flip.before == flip.truth:
        return "lost"
    return "won" if flip.after == flip.truth else "other"
