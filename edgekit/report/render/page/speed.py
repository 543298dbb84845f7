"""What it costs: latency, cold start, memory, size, energy, and the candidates that a build chose from."""

from __future__ import annotations

from edgekit.report.render._words import LATENCY, number, percentiles
from edgekit.report.render.charts.bars import side_by_side, stacked
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.latency import distributions, lengths
from edgekit.report.render.charts.pareto import Point, front, pareto
from edgekit.report.render.charts.svg import Head, clean
from edgekit.report.render.page.blocks import (
    GAP,
    NOTHING,
    Block,
    Cell,
    Figure,
    Limits,
    Row,
    Section,
    Table,
    Text,
    amount,
    cut,
    filled,
    growth,
    left_out,
    limits_of,
    percent,
    rows_of,
    score,
    sentence,
    sides,
)
from edgekit.report.render.page.summary import NAMES, change_cells, energy
from edgekit.spec.manifest import Trial
from edgekit.spec.report import Change, Report, Speed
from edgekit.spec.subject import ByLength, Start, Subject, Times

__all__ = ["Side", "candidates", "footprint", "latency"]

Side = tuple[str, str, Subject]
_PARTS = ("import", "verify", "load", "first answer", "the rest")


def latency(report: Report, limits: Limits) -> Section:
    """Distributions, ratios, latency by length, scenarios."""
    found = sides(report)
    blocks = filled(
        Text(_how(report.speed)) if report.speed is not None else None,
        _distribution(found),
        _ratios(report, limits),
        _noise(report.speed),
        _lengths(found),
        *_scenarios(found, limits),
    )
    return Section("latency", "Latency", blocks)


def footprint(report: Report) -> Section:
    """Cold start, memory, size and energy."""
    found = sides(report)
    return Section("footprint", "Footprint", filled(_start(found), _sizes(found, report.speed)))


def candidates(report: Report, limits: Limits) -> Section:
    """What the build chose from, and the Pareto front of it."""
    trials: tuple[Trial, ...] = next((s.candidates for s in reversed(report.subjects) if s.candidates), ())
    if not trials:
        return Section("candidates", "Candidates of the build", ())
    one = report.subjects[-1]
    by_rows = not any(t.p50_ms for t in trials) and any(t.rows_per_s for t in trials)
    cost = {i: c for i, t in enumerate(trials) if (c := (1e3 / t.rows_per_s if t.rows_per_s else 0.0) if by_rows else t.p50_ms) > 0}
    unit, score_name = ("ms a row, in batches" if by_rows else "p50, ms"), cut(one.score_name, 30) or "score"
    higher = one.higher_is_better
    points = {i: _point(trials[i], c, higher) for i, c in cost.items()}
    best = front(list(points.values()), higher)
    order = sorted(range(len(trials)), key=lambda i: (trials[i].verdict != "chosen", cost.get(i, float("inf"))))
    rows = tuple(
        (
            points[i].name if i in points else _name(trials[i]),
            number(cost[i]) if i in cost else NOTHING,
            score(trials[i].score),
            "✓" if points.get(i) in best else "",
            cut(trials[i].verdict, limits.name) or NOTHING,
        )
        for i in order[: limits.rows]
    )
    table = Table("t-candidates", "Candidates, the chosen one first", ("candidate", unit, score_name, "front", "what became of it"), rows, (4,),
                  note=left_out(len(rows), len(trials), "candidates"))  # fmt: skip
    if not points:
        return Section("candidates", "Candidates of the build", (table,))
    said = f"{len(points)} candidates; {len(best)} of them are on the front, from {best[0].name} to {best[-1].name}."
    head = Head("front", "Pareto front of the build's candidates", said)
    picture = pareto(head, list(points.values()), f"{unit} (logarithmic)", score_name, higher_is_better=higher)
    caption = (
        "To the left is faster, up is right more often; nothing beats what is on the line in both. Whiskers: the drop's 90 % interval. "
        "Measured when the bundle was built, on the machine that built it: to be compared with each other, not with the numbers above."
    )
    return Section("candidates", "Candidates of the build", (Figure(picture, caption, table),))


def _how(speed: Speed) -> str:
    if not speed.comparable:
        return f"Latencies are not compared: {sentence(speed.why_not, 400)}"
    if not speed.paired:
        count = max((c.sessions for c in speed.changes), default=0)
        many = f", {count} {'session' if count == 1 else 'sessions'} of it" if count else ""
        return f"The baseline was read from a file{many}; the candidate was measured now, by {speed.calls:,} calls in {speed.seconds:.0f} s."
    looks = f"the data were looked at {speed.looks} times, which the intervals allow for" if speed.looks > 1 else "the data were looked at once"
    return (
        f"Both ran in turns, input by input, in {speed.pairs:,} {'pair' if speed.pairs == 1 else 'pairs'} of processes: {speed.blocks:,} blocks, "
        f"{speed.calls:,} calls of each side, {speed.seconds:.0f} s; {looks}."
    )


def _distribution(found: list[Side]) -> Figure | Table | None:
    timed = [(side, name, s.times) for side, name, s in found if s.times is not None]
    if not timed:
        return None
    said = {name: percentiles(times) for _, name, times in timed}

    def seen(times: Times, place: int) -> str:
        return amount(times.quantiles_ms[place], "ms") if times.quantiles_ms else NOTHING

    rows = rows_of(
        [
            ("fastest", [seen(t, 0) for *_, t in timed]),
            *((p, [said[name][p][1].replace(" ms", f"{GAP}ms") for _, name, _ in timed]) for p in LATENCY),
            ("slowest", [seen(t, -1) for *_, t in timed]),
            ("mean", [amount(t.mean_ms, "ms") for *_, t in timed]),
            ("calls", [f"{t.count:,}" for *_, t in timed]),
        ]
    )
    table = Table("t-times", "Latency from input to answer, one at a time", ("", *(name for _, name, _ in timed)), rows)
    drawn = [(side, name, t.quantiles_ms, _marked(t)) for side, name, t in timed if len(t.quantiles_ms) == 101]
    if not drawn:
        return table
    told = "; ".join(f"{name}: half of the calls take at most {amount(q[50], 'ms')}, nine of ten {amount(q[90], 'ms')}" for _, name, q, _ in drawn)
    picture = distributions(Head("times", "Latency distribution", told + "."), drawn)
    caption = "The share of calls that took no longer; the slowest 1 % lie beyond the right edge. Marks: the percentiles that the calls can carry."
    return Figure(picture, caption, table)


def _marked(times: Times) -> tuple[int, ...]:
    known = {50: times.p50_ms, 90: times.p90_ms, 99: times.p99_ms}
    return tuple(place for place, value in known.items() if value is not None)


def _ratios(report: Report, limits: Limits) -> Figure | Table | None:
    changes = report.speed.changes if report.speed is not None else ()
    if not changes:
        return None
    allowed = limits_of(report)

    def limit(change: Change) -> float | None:
        return allowed.get(f"{'latency' if change.metric in LATENCY else 'footprint'}.{change.metric}")

    rows = tuple(
        (
            NAMES.get(c.metric, c.metric),
            *(f"{c.ratio:.3f}" if c.ratio is not None else NOTHING, *change_cells(c)),
            percent(limit(c)),
            percent(c.resolvable or None),
        )
        for c in changes
    )
    header = ("", "ratio", "growth", "90\N{NO-BREAK SPACE}% interval", "allowed", "can resolve")
    table = Table("t-ratios", "The second over the first" if report.kind == "self-check" else "Now over before", header, rows)
    if not any(c.ratio is not None for c in changes):
        return table

    def share(ratio: float | None) -> float | None:
        return None if ratio is None else ratio - 1

    lines = [Interval(NAMES.get(c.metric, c.metric), share(c.ratio), share(c.low), share(c.high), limit(c), c.said) for c in changes]
    told = "; ".join(f"{NAMES.get(c.metric, c.metric)} {growth(c.ratio)}" for c in changes if c.ratio is not None)
    picture = forest(Head("ratios", "Growth with its interval", told + "."), lines, "growth in %, right of 0 is slower or larger", lambda v: 100 * v)
    allowed_too = " The hatched side is not allowed." if any(limit(c) is not None for c in changes) else ""
    return Figure(picture, f"Growth with its 90 % interval.{allowed_too} A growth that this run could resolve is found four times of five.", table)


def _noise(speed: Speed | None) -> Table | None:
    floor = dict(speed.noise_floor) if speed is not None else {}
    rows = tuple((NAMES.get(metric, metric), percent(value)) for metric, value in floor.items())
    caption = "The noise floor: the largest growth that this machine's noise alone can look like"
    return Table("t-noise", caption, ("", "growth"), rows, kind="narrow")


def _lengths(found: list[Side]) -> Figure | None:
    every = [(side, name, s.times.by_length if s.times is not None else ()) for side, name, s in found]
    timed: list[tuple[str, str, tuple[ByLength, ...]]] = [one for one in every if one[2]]
    if not timed:
        return None
    groups = sorted({(g.low, g.high) for _, _, groups in timed for g in groups})
    known = [{(g.low, g.high): g for g in groups} for _, _, groups in timed]
    rows = tuple(
        (
            f"{low} to {high}" if low != high else f"{low}",
            *(amount(its[low, high].p50_ms, "ms") if (low, high) in its else NOTHING for its in known),
            *(f"{its[low, high].count:,}" if (low, high) in its else NOTHING for its in known),
        )
        for low, high in groups
    )
    header = ("tokens", *(name for _, name, _ in timed), *(f"calls, {name}" if len(timed) > 1 else "calls" for _, name, _ in timed))
    told = "; ".join(f"{name}: {amount(g[0].p50_ms, 'ms')} for the shortest, {amount(g[-1].p50_ms, 'ms')} for the longest" for _, name, g in timed)
    picture = lengths(Head("lengths", "Latency by length", told + "."), timed)
    table = Table("t-lengths", "Median by length of the input", header, rows)
    return Figure(picture, "The median of inputs of a length; a bar spans the lengths that it is of.", table)


def _scenarios(found: list[Side], limits: Limits) -> tuple[Block, ...]:
    rows: list[Row] = []
    for _, name, subject in found:
        for s in subject.scenarios:
            value = amount(s.value, cut(s.unit, 20))
            more = sentence(s.detail, limits.sentence)
            rows.append((cut(s.name, limits.name), *((name,) if len(found) > 1 else ()), value, cut(s.metric, limits.name), f"{s.queries:,}", more))
    header = ("scenario", *(("bundle",) if len(found) > 1 else ()), "value", "metric", "queries", "how")
    words = (1, 3, 5) if len(found) > 1 else (2, 4)
    note = "MLPerf-style, not MLPerf-compliant: the names and the estimates are MLPerf's, the runs are shorter than MLPerf asks."
    return filled(Table("t-scenarios", "Scenarios, MLPerf-style", header, tuple(rows), words, note=note))


def _start(found: list[Side]) -> Figure | None:
    started: list[tuple[str, Start]] = [(name, s.start) for _, name, s in found if s.start is not None and s.start.total_ms > 0]
    if not started:
        return None
    parts = [[s.import_ms, s.verify_ms, s.load_ms, s.answer_ms] for _, s in started]
    for own, (_, s) in zip(parts, started, strict=True):
        own.append(max(0.0, s.total_ms - sum(own)))
    rest = any(own[-1] >= 0.5 for own in parts)
    names = _PARTS if rest else _PARTS[:-1]
    rows = [(name, own[: len(names)], amount(s.total_ms, "ms")) for (name, s), own in zip(started, parts, strict=True)]
    table: list[Row] = [(part, *(amount(own[i], "ms") for own in parts)) for i, part in enumerate(names)]
    whole: Row = ("in all", *(Cell(amount(s.total_ms, "ms"), "sum") for _, s in started))
    told = "; ".join(f"{name}: {amount(s.total_ms, 'ms')} from process start to the first answer" for name, s in started)
    picture = stacked(Head("start", "Cold start", told + "."), names, rows)
    caption = "From process start to the first answer, from left to right in the order of the key; medians over the processes."
    return Figure(picture, caption, Table("t-start", "Cold start", ("", *(name for name, _ in started)), tuple([*table, whole])))


def _sizes(found: list[Side], speed: Speed | None) -> Figure | None:
    measures = [
        ("peak memory", "MB", [s.memory_mb or None for *_, s in found]),
        ("size on disk", "MB", [s.size_mb or None for *_, s in found]),
        ("energy of an answer", "mJ", [s.energy_mj for *_, s in found]),
    ]
    groups = []
    for what, unit, values in measures:
        bars = [(side, name, v, amount(v, unit)) for (side, name, _), v in zip(found, values, strict=True) if v is not None]
        groups += [(what, bars)] if bars else []
    if not groups:
        return None
    rows = rows_of(
        [
            *((what, [amount(v, unit) for v in values]) for what, unit, values in measures[:2]),
            ("energy of an answer", [energy(s) for *_, s in found]),
            ("told by", [cut(s.energy_from, 80) if s.energy_mj is not None else NOTHING for *_, s in found]),
        ]
    )
    told = "; ".join(f"{what}: " + ", ".join(f"{name} {text}" for _, name, _, text in bars) for what, bars in groups)
    picture = side_by_side(Head("sizes", "Memory, size and energy", told + "."), groups)
    caption = "Each measure has a scale of its own, from 0."
    return Figure(picture, caption, Table("t-sizes", "Memory, size and energy", ("", *(name for _, name, _ in found)), rows))


def _point(trial: Trial, cost: float, higher_is_better: bool) -> Point:
    sign = 1 if higher_is_better else -1
    reference = trial.score + sign * trial.drop
    known = (trial.drop_low, trial.drop_high) != (0.0, 0.0)
    ends = (reference - sign * trial.drop_high, reference - sign * trial.drop_low) if known else (trial.score, trial.score)
    return Point(_name(trial), cost, trial.score, min(ends), max(ends), trial.verdict == "chosen")


def _name(trial: Trial) -> str:
    shapes = f" {'/'.join(map(str, trial.shapes))}" if trial.shapes else ""
    return clean(f"{trial.model + ', ' if trial.model else ''}{trial.method}, {trial.backend}{shapes}")
