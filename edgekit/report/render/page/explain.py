"""Whether both sides answer for like reasons, and how they bear disturbed inputs. Descriptive, not a certificate."""

from __future__ import annotations

from edgekit.report.render.charts.answers import between
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.svg import Head
from edgekit.report.render.page.blocks import Block, Cell, Figure, Limits, Row, Section, Table, Text, cut, filled, left_out, score, spread
from edgekit.spec.report import Drift, Faithfulness, Report

__all__ = ["faithfulness", "robustness"]

_SHADES = 4
_OPEN = 3  # heat-maps that are open at first


def faithfulness(report: Report, limits: Limits) -> Section:
    """Agreement of the explanations, between what chance and the model itself give, and the rows where it is least."""
    found = report.faithfulness
    if found is None:
        return Section("faithfulness", "Faithfulness", ())
    text = (
        f"Descriptive, not a certificate. In {found.rows:,} inputs each part (a word, a patch) was masked in turn "
        f"({found.forward_calls:,} answers of each side): what a part adds to the probability of the answer is compared between the two models."
    )
    heats: list[Block] = [_heat(i, drift, report.include_text, limits) for i, drift in enumerate(d for d in found.drifts if d.rank_correlation < 1 - 1e-9)]
    more = "The inputs whose parts the two models weigh most differently, though they answer them alike:" if heats else ""
    return Section("faithfulness", "Faithfulness", filled(Text(text), _agreement(found), Text(more), *heats))


def robustness(report: Report, limits: Limits) -> Section:
    """Drops on disturbed inputs: between the two sides, or of the one against its own clean inputs."""
    header: tuple[str, ...] = ("disturbance", "inputs", "before", "now", "drop", "90\N{NO-BREAK SPACE}% interval")
    if report.robustness:
        said = "Descriptive, not a certificate. Both sides answered the same disturbed inputs: the drop is that from before to now."
        axis, title = "drop from before to now, right of 0 is worse", "Drop on disturbed inputs, before to now"
        lines = [(r.name, r.drop, r.low, r.high) for r in report.robustness]
        rows: list[Row] = [(cut(r.name, limits.name), f"{r.rows:,}", score(r.before), score(r.after)) for r in report.robustness]
    else:
        own = report.subjects[-1].robustness
        said = "Descriptive, not a certificate. The same inputs, clean and disturbed: the drop is that from clean to disturbed."
        axis, title = "drop from clean to disturbed, right of 0 is worse", "Drop on disturbed inputs, clean to disturbed"
        header = ("disturbance", "changed", "clean", "disturbed", "drop", "90\N{NO-BREAK SPACE}% interval")
        lines = [(p.name, p.drop, p.low, p.high) for p in own]
        rows = [(cut(p.name, limits.name), f"{p.changed:,} of {p.rows:,}", score(p.clean), score(p.disturbed)) for p in own]
    if not rows:
        return Section("robustness", "Robustness", ())
    whole: list[Row] = [(*row, score(drop, True), spread(score(low), score(high))) for row, (_, drop, low, high) in zip(rows, lines, strict=True)]
    shown = tuple(whole[: limits.rows])
    table = Table("t-robustness", title, header, shown, note=left_out(len(shown), len(whole), "disturbances"))
    told = "; ".join(f"{name} {score(drop)}" for name, drop, _, _ in lines[: limits.rows])
    picture = forest(Head("robustness", title, told + "."), [Interval(*line) for line in lines[: limits.rows]], axis)
    return Section("robustness", "Robustness", filled(Text(said), Figure(picture, "The drop under each disturbance with its 90 % interval.", table)))


def _agreement(found: Faithfulness) -> Figure:
    top = f"top {found.k} parts, overlap"
    rows = [
        ("rank correlation", found.floor_rank, found.rank_correlation, found.ceiling_rank),
        (top, found.floor_top_k, found.top_k, found.ceiling_top_k),
    ]
    told = "; ".join(f"{name} {score(value)}, between {score(floor)} by chance and {score(ceiling)}" for name, floor, value, ceiling in rows)
    picture = between(Head("agreement", "Agreement of the explanations", told + "."), rows)
    table = Table(
        "t-agreement", "Agreement of the explanations", ("", "chance", "the two models", "before with itself"),
        tuple((name, *(f"{v:.3f}".replace("-", "\N{MINUS SIGN}") for v in values)) for name, *values in rows),
    )  # fmt: skip
    caption = "The band ends where the model before agrees with itself, its parts left out instead of masked: from there on, the two agree as well as that."
    return Figure(picture, caption, table)


def _heat(place: int, drift: Drift, include_text: bool, limits: Limits) -> Table:
    count = len(drift.before)
    shown = min(count, limits.words)
    words = drift.words if include_text and len(drift.words) == count else tuple(f"{i}" for i in range(1, count + 1))
    top = max((abs(v) for v in (*drift.before, *drift.after)), default=0.0)

    def cell(value: float) -> Cell:
        shade = min(_SHADES, round(abs(value) / top * _SHADES)) if top else 0
        return Cell(_hundredth(value / top if top else 0.0), "h0" if not shade else f"{'p' if value > 0 else 'n'}{shade}")

    rows: tuple[Row, ...] = (("before", *map(cell, drift.before[:shown])), ("now", *map(cell, drift.after[:shown])))
    caption = f"Row {drift.row:,}, answered ‘{cut(drift.answer, limits.name)}’ by both: rank correlation {_two(drift.rank_correlation)}"
    note = f"100 is {top:.2g}: what the weightiest word adds to the probability of the answer, or to the number."
    note += f" {shown} of {count} words are shown; report.json has the others." if shown < count else ""
    header = ("word" if include_text and drift.words else "word number", *(cut(w, 24) for w in words[:shown]))
    return Table(f"t-drift-{place}", caption, header, rows, folded=place >= _OPEN, note=note, kind="heat words")


def _hundredth(share: float) -> str:
    """Of the largest in the table, in hundredths with a sign."""
    return f"{round(100 * share) + 0:+d}".replace("-", "\N{MINUS SIGN}").replace("+0", "0")


def _two(value: float) -> str:
    """Two decimals with a sign."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "\N{MINUS SIGN}").replace("+0.00", "0.00")
