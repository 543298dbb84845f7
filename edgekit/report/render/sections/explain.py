"""Agreement of both sides' attributions, and robustness to disturbed inputs. Descriptive, not a certificate."""

from __future__ import annotations

from functools import partial

from edgekit.report.render.charts.answers import between
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.svg import Head, minus
from edgekit.report.render.document import Cell, Figure, Limits, Row, Section, Table
from edgekit.report.render.sections.parts import filled, left_out
from edgekit.report.render.words import INTERVAL, cut, score, spread
from edgekit.spec.report import Drift, Report

__all__ = ["drifts", "faithfulness", "robustness"]

_SHADES = 4
_OPEN = 3  # heat-maps that are open at first


def faithfulness(report: Report) -> Section:
    """Return the agreement of the attributions, beside that of chance and of the model with itself."""
    found = report.faithfulness
    if found is None:
        return Section("faithfulness", "Faithfulness", ())
    rows = [
        ("rank correlation", found.floor_rank, found.rank_correlation, found.ceiling_rank),
        (f"top {found.k} parts, overlap", found.floor_top_k, found.top_k, found.ceiling_top_k),
    ]
    text = (
        f"Attributions of {found.rows:,} inputs agree by {found.rank_correlation:.3f} in rank (before with itself {found.ceiling_rank:.3f}, "
        f"chance {found.floor_rank:.3f}) and by {found.top_k:.3f} in the top {found.k} (before with itself {found.ceiling_top_k:.3f}, "
        f"chance {found.floor_top_k:.3f}). Descriptive, not a certificate: each part (a word, a patch) was masked in turn "
        f"({found.forward_calls:,} answers of each side), and what it adds to the probability of the answer is compared."
    )
    told = "; ".join(
        f"{name} {score(value)}, between {score(floor)} by chance and {score(ceiling)}"
        for name, floor, value, ceiling in rows
    )
    table = Table(
        "t-agreement", "Agreement of the explanations", ("", "chance", "the two models", "before with itself"),
        tuple((name, *(minus(f"{v:.3f}") for v in values)) for name, *values in rows),
    )  # fmt: skip
    caption = "The band ends where the model before agrees with itself, its parts left out instead of masked: from there on, the two agree as well as that."
    draw = partial(between, Head("agreement", "Agreement of the explanations", told + "."), rows)
    return Section("faithfulness", "Faithfulness", (text, Figure(draw, caption, table)))


def drifts(report: Report, limits: Limits) -> Section:
    """Return the rows whose attributions agree least, unit by unit."""
    found = () if report.faithfulness is None else report.faithfulness.drifts
    heats = [
        _heat(i, drift, report.include_text, limits)
        for i, drift in enumerate(d for d in found if d.rank_correlation < 1 - 1e-9)
    ]
    text = (
        "The inputs whose parts the two models weigh most differently, though they answer them alike:" if heats else ""
    )
    return Section("drifts", "Explanations that differ", filled(text, *heats), page_only=True)


def robustness(report: Report, limits: Limits) -> Section:
    """Return the drops on disturbed inputs: between both sides, or of one side against its clean inputs."""
    own = report.subjects[-1].robustness
    if report.robustness:
        how, first, second = "both sides answered the same disturbed inputs", "before", "now"
        found: list[tuple[Interval, str, float, float]] = [
            (Interval(cut(r.name, limits.name), r.drop, r.low, r.high), f"{r.rows:,}", r.before, r.after)
            for r in report.robustness
        ]
    elif own:
        how, first, second = "the same inputs were answered clean and disturbed", "clean", "disturbed"
        found = [
            (
                Interval(cut(p.name, limits.name), p.drop, p.low, p.high),
                f"{p.changed:,} of {p.rows:,}",
                p.clean,
                p.disturbed,
            )
            for p in own
        ]
    else:
        return Section("robustness", "Robustness", ())
    lines = [line for line, *_ in found[: limits.rows]]
    rows = tuple(
        (
            line.label,
            count,
            score(one),
            score(other),
            score(line.value, True),
            spread(score(line.low), score(line.high)),
        )
        for line, count, one, other in found[: limits.rows]
    )
    title = f"Drop on disturbed inputs, {first} to {second}"
    header = ("disturbance", "changed" if first == "clean" else "inputs", first, second, "drop", INTERVAL)
    table = Table("t-robustness", title, header, rows, note=left_out(len(rows), len(found), "disturbances"))
    told = "; ".join(f"{line.label} {score(line.value)}" for line in lines)
    draw = partial(
        forest, Head("robustness", title, told + "."), lines, f"drop from {first} to {second}, right of 0 is worse"
    )
    text = f"Drop from {first} to {second}: {told}. Descriptive, not a certificate: {how}."
    return Section(
        "robustness",
        "Robustness",
        (text, Figure(draw, "The drop under each disturbance with its 90 % interval.", table)),
    )


def _heat(place: int, drift: Drift, include_text: bool, limits: Limits) -> Table:
    count = len(drift.before)
    shown = min(count, limits.words)
    words = drift.words if include_text and len(drift.words) == count else tuple(f"{i}" for i in range(1, count + 1))
    top = max((abs(v) for v in (*drift.before, *drift.after)), default=0.0)
    scale = top or 1.0

    def cell(value: float) -> Cell:
        shade = min(_SHADES, round(abs(value) / scale * _SHADES))
        return Cell(minus(f"{100 * value / scale:+.0f}"), "h0" if not shade else f"{'p' if value > 0 else 'n'}{shade}")

    rows: tuple[Row, ...] = (("before", *map(cell, drift.before[:shown])), ("now", *map(cell, drift.after[:shown])))
    caption = f"Row {drift.row:,}, answered ‘{cut(drift.answer, limits.name)}’ by both: rank correlation {minus(f'{drift.rank_correlation:+.2f}')}"
    note = f"100 is {top:.2g}: what the weightiest word adds to the probability of the answer, or to the number."
    note += f" {shown} of {count} words are shown; report.json has the others." if shown < count else ""
    header = ("word" if include_text and drift.words else "word number", *(cut(w, 24) for w in words[:shown]))
    return Table(f"t-drift-{place}", caption, header, rows, folded=place >= _OPEN, note=note, kind="heat words")
