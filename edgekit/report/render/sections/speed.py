"""Costs: latency, cold start, memory, size, energy, and the candidates of the build."""

from __future__ import annotations

from functools import partial

from edgekit.report.render.charts.bars import side_by_side, stacked
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.latency import distributions, lengths
from edgekit.report.render.charts.pareto import Point, front, pareto
from edgekit.report.render.charts.svg import Head
from edgekit.report.render.document import Block, Cell, Figure, Limits, Section, Table
from edgekit.report.render.sections.parts import changes_of, filled, left_out, rows_of, sides
from edgekit.report.render.words import (
    INTERVAL,
    LATENCY,
    NAMES,
    NOTHING,
    amount,
    change_cells,
    cut,
    energy,
    gate_numbers,
    growth,
    number,
    percent,
    percentiles,
    score,
    sentence,
)
from edgekit.spec.manifest import Trial
from edgekit.spec.report import Change, Gate, Report, Speed
from edgekit.spec.subject import Subject, Times

__all__ = ["Side", "candidates", "footprint", "latency", "noise"]

Side = tuple[str, str, Subject]
_PARTS = ("import", "verify", "load", "first answer", "the rest")


def latency(report: Report, limits: Limits) -> Section:
    """Return the section of latency: distributions, ratios, latency by length, scenarios."""
    found, speed = sides(report), report.speed
    # The verdict of a self-check says its noise.
    how = (
        ""
        if speed is None
        else " ".join(filter(None, (_how(speed), noise(speed) if report.kind != "self-check" else "")))
    )
    return Section(
        "latency",
        "Latency",
        filled(how, _distribution(found), _ratios(report, limits), _lengths(found), _scenarios(found, limits)),
    )


def footprint(report: Report, limits: Limits) -> Section:
    """Return the section of cold start, memory, size and energy."""
    found = sides(report)
    return Section("footprint", "Footprint", filled(_start(found), _sizes(found, limits)))


def noise(speed: Speed | None) -> str:
    """Return the noise floor of a self-check as a sentence."""
    said = (
        ", ".join(
            f"{percent(value)} in {cut(NAMES.get(metric, metric), 30)}" for metric, value in speed.noise_floor.items()
        )
        if speed is not None
        else ""
    )
    return f"This machine's noise alone can look like {said}." if said else ""


def candidates(report: Report, limits: Limits) -> Section:
    """Return the candidates of the build and their Pareto front."""
    trials: tuple[Trial, ...] = next((s.candidates for s in reversed(report.subjects) if s.candidates), ())
    one = report.subjects[-1]
    by_rows = not any(t.p50_ms for t in trials) and any(t.rows_per_s for t in trials)
    cost = {
        i: c
        for i, t in enumerate(trials)
        if (c := (1e3 / t.rows_per_s if t.rows_per_s else 0.0) if by_rows else t.p50_ms) > 0
    }
    unit, score_name = ("ms a row, in batches" if by_rows else "p50, ms"), cut(one.score_name, 30) or "score"
    points = {i: _point(trials[i], c, one.higher_is_better) for i, c in cost.items()}
    best = front(list(points.values()), one.higher_is_better)
    order = sorted(range(len(trials)), key=lambda i: (trials[i].verdict != "chosen", cost.get(i, float("inf"))))
    rows = tuple(
        (
            _name(trials[i]),
            number(cost[i]) if i in cost else NOTHING,
            score(trials[i].score),
            "✓" if points.get(i) in best else "",
            cut(trials[i].verdict, limits.name) or NOTHING,
        )
        for i in order[: limits.rows]
    )
    table = Table("t-candidates", "Candidates, the chosen one first", ("candidate", unit, score_name, "front", "what became of it"), rows, (4,),
                  note=left_out(len(rows), len(trials), "candidates"))  # fmt: skip
    block: Block = table
    if points:
        said = (
            f"{len(points)} candidates; {len(best)} of them are on the front, from {best[0].name} to {best[-1].name}."
        )
        head = Head("front", "Pareto front of the build's candidates", said)
        draw = partial(
            pareto,
            head,
            list(points.values()),
            f"{unit} (logarithmic)",
            score_name,
            higher_is_better=one.higher_is_better,
        )
        caption = (
            "To the left is faster, up is right more often; nothing beats what is on the line in both. Whiskers: the drop's 90 % interval. "
            "Measured when the bundle was built, on the machine that built it: to be compared with each other, not with the numbers above."
        )
        block = Figure(draw, caption, table)
    return Section("candidates", "Candidates of the build", (block,) if trials else (), page_only=True)


def _how(speed: Speed) -> str:
    if not speed.comparable:
        return f"Latencies are not compared: {sentence(speed.why_not, 400)}"
    if not speed.paired:
        count = max((c.sessions for c in speed.changes), default=0)
        many = f", {count} {'session' if count == 1 else 'sessions'} of it" if count else ""
        return f"The baseline was read from a file{many}; the candidate was measured now, by {speed.calls:,} calls in {speed.seconds:.0f} s."
    looks = (
        f"the data were looked at {speed.looks} times, which the intervals allow for"
        if speed.looks > 1
        else "the data were looked at once"
    )
    return (
        f"Both ran in turns, input by input, in {speed.pairs:,} {'pair' if speed.pairs == 1 else 'pairs'} of processes: {speed.blocks:,} blocks, "
        f"{speed.calls:,} calls of each side, {speed.seconds:.0f} s; {looks}."
    )


def _distribution(found: list[Side]) -> Block | None:
    timed = [(side, name, s.times, percentiles(s.times)) for side, name, s in found if s.times is not None]
    if not timed:
        return None

    def seen(times: Times, place: int) -> str:
        return amount(times.quantiles_ms[place], "ms") if times.quantiles_ms else NOTHING

    rows = rows_of(
        [
            ("fastest", [seen(t, 0) for _, _, t, _ in timed]),
            *((p, [said[p][1] for *_, said in timed]) for p in LATENCY),
            ("slowest", [seen(t, -1) for _, _, t, _ in timed]),
            ("mean", [amount(t.mean_ms, "ms") for _, _, t, _ in timed]),
            ("calls", [f"{t.count:,}" for _, _, t, _ in timed]),
        ]
    )
    table = Table(
        "t-times", "Latency from input to answer, one at a time", ("", *(name for _, name, *_ in timed)), rows
    )
    drawn = [
        (side, name, t.quantiles_ms, [int(p[1:]) for p, (value, _) in said.items() if value is not None])
        for side, name, t, said in timed
        if len(t.quantiles_ms) == 101
    ]
    if not drawn:
        return table
    told = "; ".join(
        f"{name}: half of the calls take at most {amount(q[50], 'ms')}, nine of ten {amount(q[90], 'ms')}"
        for _, name, q, _ in drawn
    )
    caption = "The share of calls that took no longer; the slowest 1 % lie beyond the right edge. Marks: the percentiles that the calls can carry."
    return Figure(partial(distributions, Head("times", "Latency distribution", told + "."), drawn), caption, table)


def _ratios(report: Report, limits: Limits) -> Figure | None:
    changes, gates = changes_of(report), {gate.name: gate for gate in report.gates}
    if not any(c.ratio is not None for c in changes):
        return None

    def gate(change: Change) -> Gate | None:
        return gates.get(f"{'latency' if change.metric in LATENCY else 'footprint'}.{change.metric}")

    def limit(change: Change) -> float | None:
        held = gate(change)
        return None if held is None else held.limit

    def share(ratio: float | None) -> float | None:
        return None if ratio is None else ratio - 1

    rows = tuple(
        (
            NAMES.get(c.metric, c.metric),
            *(NOTHING if c.ratio is None else f"{c.ratio:.3f}", *change_cells(c, limits.sentence)),
            NOTHING if (held := gate(c)) is None else gate_numbers(held)[0],
            percent(c.resolvable or None),
        )
        for c in changes
    )
    header = ("", "ratio", "growth", INTERVAL, "allowed", "can resolve")
    table = Table(
        "t-ratios", "The second over the first" if report.kind == "self-check" else "Now over before", header, rows
    )
    lines = [
        Interval(NAMES.get(c.metric, c.metric), share(c.ratio), share(c.low), share(c.high), limit(c), c.said)
        for c in changes
    ]
    told = "; ".join(f"{NAMES.get(c.metric, c.metric)} {growth(c.ratio)}" for c in changes if c.ratio is not None)
    head = Head("ratios", "Growth with its interval", told + ".")
    hatched = " The hatched side is not allowed." if any(limit(c) is not None for c in changes) else ""
    caption = (
        f"Growth with its 90 % interval.{hatched} A growth that this run could resolve is found four times of five."
    )
    return Figure(
        partial(forest, head, lines, "growth in %, right of 0 is slower or larger", lambda v: 100 * v), caption, table
    )


def _lengths(found: list[Side]) -> Figure | None:
    timed = [(side, name, s.times.by_length) for side, name, s in found if s.times is not None and s.times.by_length]
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
    header = (
        "tokens",
        *(name for _, name, _ in timed),
        *(f"calls, {name}" if len(timed) > 1 else "calls" for _, name, _ in timed),
    )
    told = "; ".join(
        f"{name}: {amount(g[0].p50_ms, 'ms')} for the shortest, {amount(g[-1].p50_ms, 'ms')} for the longest"
        for _, name, g in timed
    )
    table = Table("t-lengths", "Median by length of the input", header, rows)
    caption = "The median of inputs of a length; a bar spans the lengths that it is of."
    return Figure(partial(lengths, Head("lengths", "Latency by length", told + "."), timed), caption, table)


def _scenarios(found: list[Side], limits: Limits) -> Table:
    two = len(found) > 1
    rows = tuple(
        (cut(s.name, limits.name), *((name,) if two else ()), amount(s.value, cut(s.unit, 20)), cut(s.metric, limits.name), f"{s.queries:,}",
         sentence(s.detail, limits.sentence))
        for _, name, subject in found for s in subject.scenarios
    )  # fmt: skip
    header = ("scenario", *(("bundle",) if two else ()), "value", "metric", "queries", "how")
    note = "MLPerf-style, not MLPerf-compliant: the names and the estimates are MLPerf's, the runs are shorter than MLPerf asks."
    return Table("t-scenarios", "Scenarios, MLPerf-style", header, rows, (1, 3, 5) if two else (2, 4), note=note)


def _start(found: list[Side]) -> Figure | None:
    started = [(name, s.start) for _, name, s in found if s.start is not None and s.start.total_ms > 0]
    if not started:
        return None
    parts = [[s.import_ms, s.verify_ms, s.load_ms, s.answer_ms] for _, s in started]
    for own, (_, s) in zip(parts, started, strict=True):
        own.append(max(0.0, s.total_ms - sum(own)))
    names = _PARTS if any(own[-1] >= 0.5 for own in parts) else _PARTS[:-1]
    bars = [(name, own[: len(names)], amount(s.total_ms, "ms")) for (name, s), own in zip(started, parts, strict=True)]
    rows = tuple((part, *(amount(own[i], "ms") for own in parts)) for i, part in enumerate(names))
    whole = ("in all", *(Cell(text, "sum") for *_, text in bars))
    told = "; ".join(f"{name}: {text} from process start to the first answer" for name, _, text in bars)
    caption = "From process start to the first answer, from left to right in the order of the key; medians over the processes."
    table = Table("t-start", "Cold start", ("", *(name for name, _ in started)), (*rows, whole))
    return Figure(partial(stacked, Head("start", "Cold start", told + "."), names, bars), caption, table)


def _sizes(found: list[Side], limits: Limits) -> Figure | None:
    measures = [
        ("peak memory", "MB", [s.memory_mb or None for *_, s in found]),
        ("size on disk", "MB", [s.size_mb or None for *_, s in found]),
        ("energy of an answer", "mJ", [s.energy_mj for *_, s in found]),
    ]
    groups = []
    for what, unit, values in measures:
        bars = [
            (side, name, v, amount(v, unit)) for (side, name, _), v in zip(found, values, strict=True) if v is not None
        ]
        groups += [(what, bars)] if bars else []
    if not groups:
        return None
    rows = rows_of(
        [
            *((what, [amount(v, unit) for v in values]) for what, unit, values in measures[:2]),
            ("energy of an answer", [energy(s, limits.sentence) for *_, s in found]),
            (
                "told by",
                [cut(s.energy_from, limits.sentence) if s.energy_mj is not None else NOTHING for *_, s in found],
            ),
        ]
    )
    told = "; ".join(f"{what}: " + ", ".join(f"{name} {text}" for _, name, _, text in bars) for what, bars in groups)
    table = Table("t-sizes", "Memory, size and energy", ("", *(name for _, name, _ in found)), rows)
    draw = partial(side_by_side, Head("sizes", "Memory, size and energy", told + "."), groups)
    return Figure(draw, "Each measure has a scale of its own, from 0.", table)


def _point(trial: Trial, cost: float, higher_is_better: bool) -> Point:
    sign = 1 if higher_is_better else -1
    reference = trial.score + sign * trial.drop
    known = (trial.drop_low, trial.drop_high) != (0.0, 0.0)
    ends = (
        (reference - sign * trial.drop_high, reference - sign * trial.drop_low) if known else (trial.score, trial.score)
    )
    return Point(_name(trial), cost, trial.score, min(ends), max(ends), trial.verdict == "chosen")


def _name(trial: Trial) -> str:
    shapes = f" {'/'.join(map(str, trial.shapes))}" if trial.shapes else ""
    return cut(f"{trial.model + ', ' if trial.model else ''}{trial.method}, {trial.backend}{shapes}", 80)
