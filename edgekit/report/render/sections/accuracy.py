"""Accuracy: the drop, the slices where it occurs, and the rows that are answered differently."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgekit.report.render.charts.answers import margins
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.svg import Head
from edgekit.report.render.document import Block, Cell, Figure, Limits, Row, Section, Table
from edgekit.report.render.sections.parts import filled, left_out, limits_of, rows_of, sides
from edgekit.report.render.words import INTERVAL, NOTHING, chance, cut, percent, score, sentence, spread
from edgekit.spec.report import Accuracy, Flip, Report, Slice
from edgekit.spec.subject import Subject

__all__ = ["accuracy", "confusion", "flips", "slices"]

_HEATS = 6  # steps of shade
_IN_PICTURE = 24  # slices of a forest plot
_NAMED = 10  # slices that are named in the text
_NAME = 48  # characters of a slice's column and of its value
_IN_MATRIX = 24  # characters of a label
_ID = 12  # characters of a row's id that tell it from the others
_SIGNIFICANT = 0.05
_EFFECTS = {
    "lost": ("✗ lost", "right before, wrong now"),
    "won": ("✓ won", "wrong before, right now"),
    "other": ("neither", "neither"),
}


def accuracy(report: Report, limits: Limits) -> Section:
    """Return the section of the scores and the drop with its interval."""
    found, one = report.accuracy, report.subjects[-1]
    cut_off = f"{one.truncated:,} samples are longer than the model takes, and were cut." if one.truncated else ""
    if found is None:
        return Section("accuracy", "Accuracy", filled(cut_off))
    if not found.comparable:
        what = cut(one.score_name, 30) or "accuracy"
        return Section(
            "accuracy", "Accuracy", (f"The {what} is not compared. {sentence(found.why_not, limits.sentence)}",)
        )
    text = " ".join(filter(None, (_seen(found), _resolves(found), cut_off)))
    return Section("accuracy", "Accuracy", filled(text, _drop(report, found)))


def slices(report: Report, limits: Limits) -> Section:
    """Return the section of the drop by slice, the largest first."""
    found = report.accuracy.slices if report.accuracy is not None and report.accuracy.comparable else ()
    if report.accuracy is None:
        return _slices_alone(report.subjects[-1], limits)
    if not found:
        return Section("slices", "Slices", ())
    order = sorted(found, key=lambda s: (s.drop is None, -(s.drop or 0.0)))
    names = {s: f"{cut(s.column, _NAME)} = {cut(s.value, min(_NAME, limits.name)) or '(empty)'}" for s in order}
    rows = tuple(
        (names[s], f"{s.rows:,}", score(s.before), score(s.after), score(s.drop, True), spread(score(s.low), score(s.high)), chance(s.p_holm)) if not s.said
        else (names[s], f"{s.rows:,}", *[NOTHING] * 3, f"not tested: {cut(s.said, limits.sentence)}", NOTHING)
        for s in order[: limits.rows]
    )  # fmt: skip
    header = ("slice", "rows", "before", "now", "drop", INTERVAL, "p (Holm)")
    table = Table(
        "t-slices", "The drop by slice, the largest first", header, rows, note=left_out(len(rows), len(found), "slices")
    )
    sure, tested = [f"{names[s]} (drop {score(s.drop)})" for s in order if _sure(s)], sum(not s.said for s in found)
    more = [f"and {len(sure) - _NAMED} more"] if len(sure) > _NAMED else []
    said = f"{len(sure) or 'None'} of {tested} slices differ for sure{': ' if sure else ''}{'; '.join([*sure[:_NAMED], *more])}."
    said += f" {len(found) - tested} could not be tested." if tested < len(found) else ""
    drawn = [s for s in order if s.drop is not None][: min(_IN_PICTURE, limits.rows)]
    if not drawn:
        return Section("slices", "Slices", (said, table))
    told = f"{len(drawn)} slices with the estimate of the drop and its 90 % interval; the largest drop is {score(drawn[0].drop)}."
    # The value alone where all slices are of one column: names must be short here, and the table has both.
    alone, allowed = len({s.column for s in drawn}) == 1, limits_of(report)
    lines = [
        Interval(
            (s.value or "(empty)") if alone else f"{s.column} {s.value}",
            s.drop,
            s.low,
            s.high,
            allowed.get(f"slice.{s.column}={s.value}"),
        )
        for s in drawn
    ]
    caption = "The drop of each slice with its 90 % interval."
    caption += f" The {len(drawn)} largest of {len(found)} are drawn." if len(drawn) < len(found) else ""
    if any(s.p_holm is not None for s in found):
        caption += " Of many slices some look worse by chance: p is adjusted for their number (Holm)."
    draw = partial(forest, Head("slices", "Drop by slice", told), lines, _axis(report.accuracy))
    return Section("slices", "Slices", (said, Figure(draw, caption, table)))


def _slices_alone(subject: Subject, limits: Limits) -> Section:
    """Return the section of the scores of one bundle by slice, in the order of the columns."""
    rows = []
    for part in subject.slices[: limits.rows]:
        name = f"{cut(part.column, _NAME)} = {cut(part.value, min(_NAME, limits.name)) or '(empty)'}"
        rows.append((name, f"{part.rows:,}", score(part.score)))
    if not rows:
        return Section("slices", "Slices", ())
    header = ("slice", "rows", cut(subject.score_name, _NAME))
    note = left_out(len(rows), len(subject.slices), "slices")
    return Section("slices", "Slices", (Table("t-slices", "The score by slice", header, tuple(rows), note=note),))


def confusion(report: Report, limits: Limits) -> Section:
    """Return the confusion matrix of each side as a heat map."""
    tables = tuple(_matrix(side, name, subject, limits) for side, name, subject in sides(report) if subject.confusion)
    return Section("confusion", "Confusion", tables, beside=True, page_only=True)


def flips(report: Report, limits: Limits) -> Section:
    """Return the section of the rows that are answered differently."""
    found = report.accuracy
    if found is None or not found.comparable:
        return Section("flips", "Flips", ())
    said = (
        f"{found.flips:,} of {found.rows:,} rows ({_share(found)}) are answered differently."
        if found.flips
        else "No row is answered differently."
    )
    if not found.flipped:
        return Section("flips", "Flips", (said,))
    sure, include = any(f.margin_before is not None for f in found.flipped), report.include_text
    shown = found.flipped[: limits.flips]
    header = (
        "row",
        "id",
        "right",
        "before",
        "now",
        "effect",
        *(("margin before", "margin now") if sure else ()),
        *(("text",) if include else ()),
    )
    rows = tuple(_flip(f, sure, include, limits) for f in shown)
    words = (1, 2, 3, 4, 5, *((len(header) - 1,) if include else ()))
    note = (
        f"{len(shown):,} of {found.flips:,} rows are listed, those that were surest before; report.json has the first {len(found.flipped):,}."
        if len(shown) < max(found.flips, len(found.flipped))
        else ""
    )
    table = Table(
        "t-flips",
        "Rows that are answered differently, those that were surest before first",
        header,
        rows,
        words,
        True,
        note,
        "list",
    )
    return Section("flips", "Flips", filled(said, _margins(found) if sure else None, table))


def _margins(found: Accuracy) -> Figure:
    effects = [_effect(f) for f in found.flipped]
    of = "all of them" if len(effects) >= found.flips else f"the {len(effects):,} surest of them"
    told = f"{len(effects)} rows, before to the right and now up; {effects.count('lost')} of them were lost."
    points = [(e, f.margin_before or 0.0, f.margin_after or 0.0) for e, f in zip(effects, found.flipped, strict=True)]
    caption = f"How sure both sides were, {of}: the margin is the answer's lead over the next best. Far from both axes, two sure answers contradict each other."
    counts = tuple((words, f"{effects.count(e):,}") for e, (_, words) in _EFFECTS.items())
    draw = partial(margins, Head("flips", "Margins of the answers that differ", told), points)
    return Figure(draw, caption, Table("t-effects", f"What became of {of}", ("effect", "rows"), counts))


def _sure(found: Slice) -> bool:
    """Return whether a slice differs by its adjusted test, or by its interval where there is no test."""
    if found.p_holm is not None:
        return found.p_holm <= _SIGNIFICANT
    return found.low is not None and found.high is not None and not found.low <= 0 <= found.high


def _seen(found: Accuracy) -> str:
    said = ""
    if found.before is not None and found.after is not None:
        said = f"{found.score_name} {score(found.before)} before, {score(found.after)} now, on {found.rows:,} rows"
    if found.drop is not None:
        said += f": a drop of {score(found.drop)} (90 % interval {spread(score(found.low), score(found.high))})"
    said = sentence(said, 400)
    if found.losses is not None and found.gains is not None:
        test = "" if found.p_value is None else f" (exact McNemar, p = {chance(found.p_value)})"
        said += (
            f" {found.losses:,} rows were right before and are wrong now, {found.gains:,} the other way round{test}."
        )
    elif found.p_value is not None:
        said += f" Approximate randomization says p = {chance(found.p_value)}."
    return said or "The samples have no labels to score by."


def _resolves(found: Accuracy) -> str:
    """Return the smallest drop that these rows can resolve, and the number of rows that the margin needs."""
    if found.resolvable is None:
        return ""
    able = f"This set can resolve a drop of {found.resolvable:.3g} with a probability of 80 %"
    if found.margin is None or found.resolvable <= found.margin:
        return able + "."
    rows = (
        ""
        if found.rows_needed is None or found.is_decided
        else f": it would take about {found.rows_needed:,} rows to settle that one"
    )
    return f"{able}, not one of {found.margin:g}{rows}."


def _axis(found: Accuracy) -> str:
    return f"drop of {cut(found.score_name, 30)}, right of 0 is worse"


def _share(found: Accuracy) -> str:
    return percent(found.flips / found.rows, signed=False) if found.rows else NOTHING


def _drop(report: Report, found: Accuracy) -> Block:
    """Return the changes of the answers in numbers, and the drop as a figure if there is one."""
    rows = rows_of(
        [
            (cut(found.score_name, 30) or "score", [score(found.before), score(found.after)]),
            ("drop", [NOTHING, score(found.drop)]),
            (INTERVAL, [NOTHING, spread(score(found.low), score(found.high))]),
            ("rows answered differently", [NOTHING, f"{found.flips:,} ({_share(found)})"]),
            ("rows lost, won", [NOTHING, NOTHING if found.losses is None else f"{found.losses:,}, {found.gains:,}"]),
            ("calibration error", [score(found.calibration_before), score(found.calibration_after)]),
            ("divergence of the answers, mean", [NOTHING, score(found.divergence_mean)]),
            ("divergence of the answers, 95th percentile", [NOTHING, score(found.divergence_p95)]),
        ]
    )
    table = Table("t-drop", "Answers in numbers", ("", "before", "now"), rows)
    if found.drop is None or found.low is None or found.high is None:
        return table
    limit = limits_of(report).get("accuracy.drop", found.margin)
    margin = "" if limit is None else f" The hatched side, from {limit:g} on, is not allowed."
    head = Head(
        "drop",
        f"Drop of {found.score_name}",
        f"A drop of {score(found.drop)}, between {score(found.low)} and {score(found.high)}.{margin}",
    )
    row = Interval("all rows", found.drop, found.low, found.high, limit)
    return Figure(
        partial(forest, head, [row], _axis(found)),
        f"The drop with its 90 % interval: each end is a one-sided 95 % bound.{margin}",
        table,
    )


def _flip(found: Flip, sure: bool, include_text: bool, limits: Limits) -> Row:
    names = [cut(v, limits.name) or "(none)" for v in (found.truth, found.before, found.after)]
    margin = (f"{found.margin_before or 0.0:.2f}", f"{found.margin_after or 0.0:.2f}") if sure else ()
    text = (Cell(cut(found.text, limits.text), "said"),) if include_text else ()
    return (f"{found.row:,}", Cell(found.id[:_ID], "mono"), *names, _EFFECTS[_effect(found)][0], *margin, *text)


def _effect(found: Flip) -> str:
    return "lost" if found.before == found.truth else "won" if found.after == found.truth else "other"


def _matrix(side: str, name: str, subject: Subject, limits: Limits) -> Table:
    cells, labels, left = _merged(subject.confusion, subject.labels, limits.labels)
    rows: list[Row] = []
    for i, (label, counts) in enumerate(zip(labels, cells, strict=True)):
        whole = sum(counts)
        shades = [0 if not count else min(_HEATS, 1 + int(count / whole * _HEATS)) for count in counts]
        shaded = [Cell(f"{count:,}", f"h{shade}" + (" right" if i == j and not (left and i == len(labels) - 1) else "")) for j, (count, shade) in
                  enumerate(zip(counts, shades, strict=True))]  # fmt: skip
        rows.append((cut(label, _IN_MATRIX), *shaded))
    note = "A cell's shade is its share of its row; right answers are framed." + (
        f" {left} labels with the fewest errors are put together." if left else ""
    )
    header = ("right \\ answered", *(cut(label, _IN_MATRIX) for label in labels))
    return Table(
        f"t-confusion-{side}",
        f"{name}: what is right (down), what was answered (across), rows",
        header,
        tuple(rows),
        note=note,
        kind="heat",
    )


def _merged(cells: Sequence[Sequence[int]], labels: Sequence[str], most: int) -> tuple[list[list[int]], list[str], int]:
    """Return a matrix of a limited number of labels, the others merged into one, and the number of these."""
    count = len(cells)
    if count <= most:
        return [list(row) for row in cells], list(labels), 0
    wrong = [sum(cells[i]) + sum(row[i] for row in cells) - 2 * cells[i][i] for i in range(count)]
    kept = sorted(sorted(range(count), key=lambda i: -wrong[i])[: most - 1])
    groups = [[i] for i in kept] + [[i for i in range(count) if i not in kept]]
    return (
        [[sum(cells[i][j] for i in own for j in its) for its in groups] for own in groups],
        [*(labels[i] for i in kept), f"{count - len(kept)} others"],
        count - len(kept),
    )
