"""Agreement of both sides' attributions, and robustness to perturbed inputs. Descriptive, not a certificate."""

from __future__ import annotations

from functools import partial

from edgekit.report.render.charts.answers import between
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.svg import Head, minus
from edgekit.report.render.document import Cell, Figure, Limits, Row, Section, Table
from edgekit.report.render.sections.parts import filled, left_out
from edgekit.report.render.words import INTERVAL, cut, score, spread
from edgekit.spec.report import Drift, Report
from edgekit.spec.subject import Subject

__all__ = ["drifts", "faithfulness", "robustness"]

_SHADES = 4
_OPEN = 3
"""Heat maps that are not collapsed at first."""

_RobustnessRow = tuple[Interval, str, float, float]
"""Drop with its interval, number of inputs as text, and both scores."""


def faithfulness(report: Report) -> Section:
    """Return the agreement of the attributions, beside that of chance and of the baseline with itself."""
    result = report.faithfulness
    if result is None:
        return Section("faithfulness", "Faithfulness", ())
    rows = [
        ("rank correlation", result.floor_rank, result.rank_correlation, result.ceiling_rank),
        (f"top {result.k} parts, overlap", result.floor_top_k, result.top_k, result.ceiling_top_k),
    ]
    text = (
        f"Attributions of {result.rows:,} inputs agree with a rank correlation of {result.rank_correlation:.3f} "
        f"(baseline with itself {result.ceiling_rank:.3f}, chance {result.floor_rank:.3f}) "
        f"and an overlap of {result.top_k:.3f} in the top {result.k} "
        f"(baseline with itself {result.ceiling_top_k:.3f}, chance {result.floor_top_k:.3f}). "
        "Descriptive, not a certificate: each part (a word, a patch) was masked in turn "
        f"({result.forward_calls:,} calls per side), and its effect on the probability of the answer is compared."
    )
    ranges = []
    cells: list[Row] = []
    for name, *values in rows:
        floor, value, ceiling = map(score, values)
        ranges.append(f"{name} {value}, between {floor} by chance and {ceiling}")
        cells.append((name, *(minus(f"{number:.3f}") for number in values)))
    title = "Agreement of the attributions"
    header = ("", "chance", "the two models", "baseline with itself")
    table = Table("t-agreement", title, header, tuple(cells))
    caption = (
        "The band ends at the agreement of the baseline with itself, with parts removed instead of masked. "
        "From there on, the two models agree as well as that."
    )
    draw = partial(between, Head("agreement", title, "; ".join(ranges) + "."), rows)
    return Section("faithfulness", "Faithfulness", (text, Figure(draw, caption, table)))


def drifts(report: Report, limits: Limits) -> Section:
    """Return the rows whose attributions agree least, part by part."""
    all_drifts = () if report.faithfulness is None else report.faithfulness.drifts
    differing = [drift for drift in all_drifts if drift.rank_correlation < 1 - 1e-9]
    heat_maps = [_heat_map(i, drift, report.include_text, limits) for i, drift in enumerate(differing)]
    text = ""
    if heat_maps:
        text = "The inputs with equal answers whose attributions differ most between the two models:"
    return Section("drifts", "Attributions that differ", filled(text, *heat_maps), page_only=True)


def robustness(report: Report, limits: Limits) -> Section:
    """Return the drops on perturbed inputs: between both sides, or of one side against its clean inputs."""
    rows: list[_RobustnessRow] = []
    if report.robustness:
        first = "before"
        second = "now"
        how = "both sides answered the same perturbed inputs"
        for result in report.robustness:
            line = Interval(cut(result.name, limits.name), result.drop, result.low, result.high)
            rows.append((line, f"{result.rows:,}", result.before, result.after))
    else:
        first = "clean"
        second = "perturbed"
        how = "the same inputs were answered clean and perturbed"
        rows = _perturbed_rows(report.subjects[-1], limits)
    if not rows:
        return Section("robustness", "Robustness", ())
    lines = []
    cells: list[Row] = []
    for line, count, one, other in rows[: limits.rows]:
        lines.append(line)
        interval = spread(score(line.low), score(line.high))
        cells.append((line.label, count, score(one), score(other), score(line.value, True), interval))
    title = f"Drop on perturbed inputs, {first} to {second}"
    header = ("perturbation", "changed" if first == "clean" else "inputs", first, second, "drop", INTERVAL)
    note = left_out(len(cells), len(rows), "perturbations")
    table = Table("t-robustness", title, header, tuple(cells), note=note)
    drops = "; ".join(f"{line.label} {score(line.value)}" for line in lines)
    axis = f"drop from {first} to {second}, right of 0 is worse"
    draw = partial(forest, Head("robustness", title, drops + "."), lines, axis)
    figure = Figure(draw, "The drop under each perturbation with its 90 % interval.", table)
    text = f"Drop from {first} to {second}: {drops}. Descriptive, not a certificate: {how}."
    return Section("robustness", "Robustness", (text, figure))


def _perturbed_rows(subject: Subject, limits: Limits) -> list[_RobustnessRow]:
    rows = []
    for result in subject.robustness:
        line = Interval(cut(result.name, limits.name), result.drop, result.low, result.high)
        rows.append((line, f"{result.changed:,} of {result.rows:,}", result.clean, result.disturbed))
    return rows


def _heat_map(place: int, drift: Drift, include_text: bool, limits: Limits) -> Table:
    count = len(drift.before)
    listed = min(count, limits.words)
    words = tuple(f"{i}" for i in range(1, count + 1))
    if include_text and len(drift.words) == count:
        words = drift.words
    top = max((abs(value) for value in (*drift.before, *drift.after)), default=0.0)
    scale = top or 1.0

    def cell(value: float) -> Cell:
        text = minus(f"{100 * value / scale:+.0f}")
        shade = min(_SHADES, round(abs(value) / scale * _SHADES))
        if not shade:
            return Cell(text, "h0")
        return Cell(text, f"p{shade}" if value > 0 else f"n{shade}")

    rows: tuple[Row, ...] = (
        ("before", *map(cell, drift.before[:listed])),
        ("now", *map(cell, drift.after[:listed])),
    )
    correlation = minus(f"{drift.rank_correlation:+.2f}")
    answer = cut(drift.answer, limits.name)
    caption = f"Row {drift.row:,}, answered ‘{answer}’ by both: rank correlation {correlation}"
    note = f"100 is {top:.2g}: the largest effect of a word on the probability of the answer, or on the number."
    if listed < count:
        note += f" {listed} of {count} words are shown; report.json has the others."
    first = "word" if include_text and drift.words else "word number"
    header = (first, *(cut(word, 24) for word in words[:listed]))
    return Table(f"t-drift-{place}", caption, header, rows, folded=place >= _OPEN, note=note, kind="heat words")
