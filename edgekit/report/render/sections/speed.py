"""Costs: latency, cold start, memory, size and energy."""

from __future__ import annotations

from functools import partial

from edgekit.report.render.charts.bars import side_by_side, stacked
from edgekit.report.render.charts.forest import Interval, forest
from edgekit.report.render.charts.latency import distributions, lengths
from edgekit.report.render.charts.svg import Head
from edgekit.report.render.document import Block, Cell, Figure, Limits, Row, Section, Table
from edgekit.report.render.sections.parts import Side, changes_of, filled, rows_of, sides
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
    percent,
    percentiles,
    sentence,
)
from edgekit.spec.report import Change, Gate, Report, Speed
from edgekit.spec.subject import ByLength, Start, Times

__all__ = ["footprint", "latency", "noise"]

_START_PARTS = ("import", "verify", "load", "first answer", "the rest")

_Timed = tuple[str, str, Times]
"""CSS class, name and latency of one side."""


def latency(report: Report, limits: Limits) -> Section:
    """Return the section of latency: distributions, ratios, latency by length, scenarios."""
    both = sides(report)
    text = ""
    if report.speed is not None:
        text = _method(report.speed)
        floor = noise(report.speed)
        if floor and report.kind != "self-check":  # The verdict of a self-check has this sentence.
            text += f" {floor}"
    blocks = (text, _distribution(both), _ratios(report, limits), _lengths(both), _scenarios(both, limits))
    return Section("latency", "Latency", filled(*blocks))


def footprint(report: Report, limits: Limits) -> Section:
    """Return the section of cold start, memory, size and energy."""
    both = sides(report)
    return Section("footprint", "Footprint", filled(_start(both), _sizes(both, limits)))


def noise(speed: Speed | None) -> str:
    """Return the noise floor of a self-check as a sentence; empty without one."""
    if speed is None or not speed.noise_floor:
        return ""
    floors = []
    for metric, value in speed.noise_floor.items():
        floors.append(f"{percent(value)} in {cut(NAMES.get(metric, metric), 30)}")
    return f"This machine's noise alone can look like {', '.join(floors)}."


def _method(speed: Speed) -> str:
    """Return a sentence on how the latencies were measured."""
    if not speed.comparable:
        return f"Latencies are not compared: {sentence(speed.why_not, 400)}"
    if not speed.paired:
        sessions = max((change.sessions for change in speed.changes), default=0)
        source = "a file"
        if sessions:
            source += f" with {_count(sessions, 'session')}"
        return (
            f"The baseline was read from {source}. "
            f"The candidate was measured in this run with {speed.calls:,} calls in {speed.seconds:.0f} s."
        )
    looks = "The data were tested once."
    if speed.looks > 1:
        looks = f"The data were tested {speed.looks} times, and the intervals are widened for that."
    return (
        f"Both sides ran interleaved on the same inputs, in {_count(speed.pairs, 'pair')} of processes: "
        f"{speed.blocks:,} blocks, {speed.calls:,} calls per side, {speed.seconds:.0f} s. {looks}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _distribution(both: list[Side]) -> Block | None:
    timed: list[_Timed] = [(side, name, subject.times) for side, name, subject in both if subject.times is not None]
    if not timed:
        return None
    estimates = [percentiles(times) for _, _, times in timed]
    rows: list[tuple[str, list[str]]] = [("fastest", [_quantile(times, 0) for _, _, times in timed])]
    for percentile in LATENCY:
        rows.append((percentile, [estimate[percentile][1] for estimate in estimates]))
    rows.append(("slowest", [_quantile(times, -1) for _, _, times in timed]))
    rows.append(("mean", [amount(times.mean_ms, "ms") for _, _, times in timed]))
    rows.append(("calls", [f"{times.count:,}" for _, _, times in timed]))
    header = ("", *(name for _, name, _ in timed))
    table = Table("t-times", "Latency from input to answer, one at a time", header, rows_of(rows))
    curves = []
    texts = []
    for (side, name, times), estimate in zip(timed, estimates, strict=True):
        quantiles = times.quantiles_ms
        if len(quantiles) == 101:
            marked = [int(percentile[1:]) for percentile, (value, _) in estimate.items() if value is not None]
            curves.append((side, name, quantiles, marked))
            half = amount(quantiles[50], "ms")
            texts.append(f"{name}: half of the calls take at most {half}, nine of ten {amount(quantiles[90], 'ms')}")
    if not curves:
        return table
    caption = (
        "Share of calls that took at most this time; the slowest 1 % are beyond the right edge. "
        "Marks: the percentiles that can be estimated."
    )
    draw = partial(distributions, Head("times", "Latency distribution", "; ".join(texts) + "."), curves)
    return Figure(draw, caption, table)


def _quantile(times: Times, index: int) -> str:
    return amount(times.quantiles_ms[index], "ms") if times.quantiles_ms else NOTHING


def _ratios(report: Report, limits: Limits) -> Figure | None:
    changes = changes_of(report)
    if not any(change.ratio is not None for change in changes):
        return None
    gates = {gate.name: gate for gate in report.gates}
    rows: list[Row] = []
    lines = []
    texts = []
    for change in changes:
        name = NAMES.get(change.metric, change.metric)
        table_name = "latency" if change.metric in LATENCY else "footprint"
        gate = gates.get(f"{table_name}.{change.metric}")
        rows.append((name, *_ratio_cells(change, gate, limits)))
        limit = None if gate is None else gate.limit
        lines.append(
            Interval(name, _growth(change.ratio), _growth(change.low), _growth(change.high), limit, change.said)
        )
        if change.ratio is not None:
            texts.append(f"{name} {growth(change.ratio)}")
    title = "The second over the first" if report.kind == "self-check" else "Now over before"
    header = ("", "ratio", "growth", INTERVAL, "allowed", "can detect")
    table = Table("t-ratios", title, header, tuple(rows))
    head = Head("ratios", "Growth with its interval", "; ".join(texts) + ".")
    has_limits = any(line.limit is not None for line in lines)
    hatched = " The hatched side is not allowed." if has_limits else ""
    caption = (
        f"Growth with its 90 % interval.{hatched} "
        "This run detects a growth of the size in the last column with a power of 80 %."
    )
    axis = "growth in %, right of 0 is slower or larger"
    return Figure(partial(forest, head, lines, axis, _to_percent), caption, table)


def _ratio_cells(change: Change, gate: Gate | None, limits: Limits) -> tuple[str, ...]:
    ratio = NOTHING if change.ratio is None else f"{change.ratio:.3f}"
    allowed = NOTHING
    if gate is not None:
        allowed = gate_numbers(gate)[0]
    return (ratio, *change_cells(change, limits.sentence), allowed, percent(change.resolvable or None))


def _growth(ratio: float | None) -> float | None:
    return None if ratio is None else ratio - 1


def _to_percent(share: float) -> float:
    return 100 * share


def _lengths(both: list[Side]) -> Figure | None:
    timed = []
    for side, name, subject in both:
        if subject.times is not None and subject.times.by_length:
            timed.append((side, name, subject.times.by_length))
    if not timed:
        return None
    ranges = sorted({(group.low, group.high) for _, _, groups in timed for group in groups})
    rows: list[Row] = []
    for low, high in ranges:
        medians = []
        counts = []
        for _, _, groups in timed:
            group = _find_group(groups, low, high)
            medians.append(NOTHING if group is None else amount(group.p50_ms, "ms"))
            counts.append(NOTHING if group is None else f"{group.count:,}")
        rows.append((f"{low} to {high}" if low != high else f"{low}", *medians, *counts))
    names = [name for _, name, _ in timed]
    call_headers = ["calls"]
    if len(names) > 1:
        call_headers = [f"calls, {name}" for name in names]
    texts = []
    for _, name, groups in timed:
        shortest = amount(groups[0].p50_ms, "ms")
        longest = amount(groups[-1].p50_ms, "ms")
        texts.append(f"{name}: {shortest} for the shortest, {longest} for the longest")
    table = Table("t-lengths", "Median by length of the input", ("tokens", *names, *call_headers), tuple(rows))
    caption = "Median of the inputs in a range of lengths. A bar spans the range."
    draw = partial(lengths, Head("lengths", "Latency by length", "; ".join(texts) + "."), timed)
    return Figure(draw, caption, table)


def _find_group(groups: tuple[ByLength, ...], low: int, high: int) -> ByLength | None:
    for group in groups:
        if (group.low, group.high) == (low, high):
            return group
    return None


def _scenarios(both: list[Side], limits: Limits) -> Table:
    header = ["scenario", "value", "metric", "queries", "how"]
    word_columns: tuple[int, ...] = (2, 4)
    if len(both) > 1:
        header.insert(1, "bundle")
        word_columns = (1, 3, 5)
    rows = []
    for _, name, subject in both:
        for scenario in subject.scenarios:
            row = [
                cut(scenario.name, limits.name),
                amount(scenario.value, cut(scenario.unit, 20)),
                cut(scenario.metric, limits.name),
                f"{scenario.queries:,}",
                sentence(scenario.detail, limits.sentence),
            ]
            if len(both) > 1:
                row.insert(1, name)
            rows.append(tuple(row))
    note = (
        "MLPerf-style, not MLPerf-compliant: names and estimates are those of MLPerf, "
        "but the runs are shorter than MLPerf requires."
    )
    return Table("t-scenarios", "Scenarios, MLPerf-style", tuple(header), tuple(rows), word_columns, note=note)


def _start(both: list[Side]) -> Figure | None:
    bars = []
    for _, name, subject in both:
        if subject.start is not None and subject.start.total_ms > 0:
            bars.append((name, _start_parts(subject.start), amount(subject.start.total_ms, "ms")))
    if not bars:
        return None
    parts: tuple[str, ...] = _START_PARTS
    if all(values[-1] < 0.5 for _, values, _ in bars):  # The rest is negligible.
        parts = _START_PARTS[:-1]
        bars = [(name, values[:-1], total) for name, values, total in bars]
    rows: list[Row] = []
    for i, part in enumerate(parts):
        rows.append((part, *(amount(values[i], "ms") for _, values, _ in bars)))
    rows.append(("total", *(Cell(total, "sum") for _, _, total in bars)))
    text = "; ".join(f"{name}: {total} from process start to the first answer" for name, _, total in bars)
    caption = (
        "From process start to the first answer, from left to right in the order of the key; "
        "medians over the processes."
    )
    table = Table("t-start", "Cold start", ("", *(name for name, _, _ in bars)), tuple(rows))
    return Figure(partial(stacked, Head("start", "Cold start", text + "."), parts, bars), caption, table)


def _start_parts(start: Start) -> list[float]:
    parts = [start.import_ms, start.verify_ms, start.load_ms, start.answer_ms]
    return [*parts, max(0.0, start.total_ms - sum(parts))]


def _sizes(both: list[Side], limits: Limits) -> Figure | None:
    subjects = [subject for _, _, subject in both]
    memory = [subject.memory_mb or None for subject in subjects]
    size = [subject.size_mb or None for subject in subjects]
    energies = [subject.energy_mj for subject in subjects]
    measures = [
        ("peak memory", "MB", memory),
        ("size on disk", "MB", size),
        ("energy of an answer", "mJ", energies),
    ]
    groups = []
    texts = []
    for title, unit, values in measures:
        bars = []
        for (side, name, _), value in zip(both, values, strict=True):
            if value is not None:
                bars.append((side, name, value, amount(value, unit)))
        if bars:
            groups.append((title, bars))
            texts.append(f"{title}: " + ", ".join(f"{name} {text}" for _, name, _, text in bars))
    if not groups:
        return None
    sources = []
    for subject in subjects:
        sources.append(NOTHING if subject.energy_mj is None else cut(subject.energy_from, limits.sentence))
    rows: list[tuple[str, list[str]]] = []
    for title, unit, values in measures[:2]:
        rows.append((title, [amount(value, unit) for value in values]))
    rows.append(("energy of an answer", [energy(subject, limits.sentence) for subject in subjects]))
    rows.append(("source of the energy", sources))
    table = Table("t-sizes", "Memory, size and energy", ("", *(name for _, name, _ in both)), rows_of(rows))
    draw = partial(side_by_side, Head("sizes", "Memory, size and energy", "; ".join(texts) + "."), groups)
    return Figure(draw, "Each measure has its own scale, from 0.", table)
