"""Summary and tables of ``short_texts.py``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from _numbers import Estimate, median, mixed_over_single, ratio, states_of, table, verdict

PEER = "optimum-onnx dynamic INT8"
BASELINE = "b27babd"
FIXED = ("16", "32", "64", "128")
LEVEL = 1.05
"""Largest ratio that counts as level."""


def summarize(rounds: Sequence[Mapping[str, Any]], baseline: str, backends: Mapping[str, str]) -> dict[str, Any]:
    """Return what the rounds of the latencies say: times and ratios by stream, state and side.

    Args:
        rounds: Rounds of ``take_turns``.
        baseline: Name of the side that the others are divided by.
        backends: Backend of each bundle.
    """
    states = states_of(rounds)
    streams: dict[str, Any] = {}
    for stream in dict.fromkeys(one["stream"] for one in rounds):
        streams[stream] = {}
        for state, indices in states.items():
            part = [rounds[i] for i in indices if rounds[i]["stream"] == stream]
            if part:
                streams[stream][state] = _sides(part, baseline)
    lines = [
        {
            "stream": one["stream"],
            "probe_us": one["probe_us"],
            "ms": {n: round(sum(t), 3) for n, t in one["ms"].items()},
        }
        for one in rounds
    ]
    probes = {state: statistics.median(rounds[i]["probe_us"] for i in indices) for state, indices in states.items()}
    found = {"streams": streams, "mixing": _mixing(rounds, states), "probe_us": probes}
    return {**found, "states": {s: len(i) for s, i in states.items()}, "backends": dict(backends), "rounds": lines}


def _sides(part: Sequence[Mapping[str, Any]], baseline: str) -> dict[str, Any]:
    """Return times and ratios of the sides in rounds of one stream and state."""
    sides: dict[str, Any] = {}
    for name in part[0]["ms"]:
        times = [one["ms"][name] for one in part]
        flat = sorted(ms for one in times for ms in one)
        sides[name] = {"rounds": len(part), "mean_ms": statistics.fmean(flat), "p50_ms": statistics.median(flat)}
        sides[name] |= {"p90_ms": flat[int(0.9 * (len(flat) - 1))], "best_ms": min(map(statistics.fmean, times))}
        for other in (baseline, PEER):
            if other in part[0]["ms"] and other != name:
                sides[name][f"over {other}"] = _plain(ratio(times, [one["ms"][other] for one in part]))
    return sides


def _mixing(rounds: Sequence[Mapping[str, Any]], states: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the time of the mixed stream over the mean of the single lengths, by state and side."""
    found: dict[str, Any] = {}
    for state, indices in states.items():
        parts = [rounds[i] for i in indices]
        single = [one for one in parts if one["stream"] == "single"]
        mixed = [one for one in parts if one["stream"] == "mixed"]
        found[state] = {}
        for name in single[0]["ms"] if single and mixed else ():
            pairs = [
                [list(zip(one["sizes"], one["ms"][name], strict=True)) for one in part] for part in (mixed, single)
            ]
            found[state][name] = _plain(mixed_over_single(*pairs))
    return found


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)


def _text(plain: Mapping[str, Any] | None, digits: int = 3) -> str:
    return "" if plain is None else Estimate(**plain).text(digits)


def _value(plain: Mapping[str, Any] | None) -> float | None:
    return None if plain is None else float(plain["value"])


def document(found: Mapping[str, Any]) -> str:
    """Return all tables in Markdown."""
    lines: list[str] = []
    makers = {"latency": _latency, "throughput": _throughput, "start": _start, "exact": _exact, "build": _build}
    for part, maker in makers.items():
        if part in found:
            where = found[part]["machine"]
            lines += [f"## {part}", "", f"{where['cpu']}, {where['cpus']} CPUs ({', '.join(where['instructions'])}), "]
            lines[-1] += f"{where['date']}, load {where['load'][0]} after the run."
            if found[part]["texts"]:
                lines[-1] += f" The first {found[part]['texts']} texts alone: to try the script."
            lines += ["", *maker(found[part]), ""]
    rows = [(c["clause"], c["limit"], c["measured"], c["verdict"]) for c in clauses(found)]
    return "\n".join([*lines, "## clauses", "", *table(("clause", "limit", "measured", "verdict"), rows, 4), ""])


def _latency(part: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{s}: {n} rounds, round trip {part['probe_us'][s]:.2f} us" for s, n in part["states"].items())
    lines = [f"Text to label, batch 1. States of the machine: {counts}.", ""]
    header = ("stream", "state", "side", "rounds", "mean ms", "p50", "p90", f"over {BASELINE}", f"over {PEER}")
    rows = []
    for stream, states in part["streams"].items():
        for state, sides in states.items():
            for name, side in sides.items():
                cells = [f"{side[k]:.3f}" for k in ("mean_ms", "p50_ms", "p90_ms")]
                over = [_text(side.get(f"over {other}")) for other in (BASELINE, PEER)]
                rows.append((stream, state, name, side["rounds"], *cells, *over))
    lines += [*table(header, rows, 3), "", "Mixed stream over the length-weighted mean of single lengths:", ""]
    rows = [(state, name, _text(plain)) for state, sides in part["mixing"].items() for name, plain in sides.items()]
    return lines + table(("state", "side", "ratio"), rows, 2)


def _by_round(rounds: Sequence[Mapping[str, Any]], value: Any) -> dict[str, dict[str, list[float]]]:
    """Return the values of each side by state."""
    found: dict[str, dict[str, list[float]]] = {}
    for state, indices in states_of(rounds).items():
        found[state] = {name: [value(rounds[i], name) for i in indices] for name in (value(rounds[0], None))}
    return found


def _rate(one: Mapping[str, Any], name: str | None) -> Any:
    return list(one["runs"]) if name is None else one["runs"][name]["rows_per_s"]


def _ms(one: Mapping[str, Any], name: str | None) -> Any:
    return list(one["ms"]) if name is None else one["ms"][name]


def _quotient(sides: Mapping[str, Sequence[float]], name: str, other: str) -> Estimate | None:
    if other not in sides or name == other:
        return None
    return median([a / b for a, b in zip(sides[name], sides[other], strict=True)])


def _throughput(part: Mapping[str, Any]) -> list[str]:
    header = ("state", "side", "texts/s", "batch", "sorted", "accuracy", f"over {BASELINE}", f"over {PEER}")
    rows = []
    for state, sides in _by_round(part["rounds"], _rate).items():
        for name, rates in sides.items():
            last = part["rounds"][-1]["runs"][name]
            own = name not in (PEER, "optimum-intel static INT8")
            how = ("its own", "its own") if own else (last["batch"], last["sorted"])
            over = [q.text(2) if (q := _quotient(sides, name, other)) else "" for other in (BASELINE, PEER)]
            rows.append((state, name, f"{statistics.median(rates):.0f}", *how, f"{last['accuracy']:.4f}", *over))
    return ["All texts as one list, a fresh process for each call, tokenizing included.", "", *table(header, rows, 2)]


def _start(part: Mapping[str, Any]) -> list[str]:
    rows = []
    for state, sides in _by_round(part["rounds"], _ms).items():
        for name, times in sides.items():
            memory = statistics.median(one["mb"][name] for one in part["rounds"])
            over = q.text(2) if (q := _quotient(sides, name, BASELINE)) else ""
            rows.append((state, name, f"{statistics.median(times):.0f}", f"{memory:.0f}", over))
    header = ("state", "side", "start to first answer, ms", "peak memory, MB", f"over {BASELINE}")
    return ["A fresh process to its first answer, files in the cache.", "", *table(header, rows, 2)]


def _exact(part: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, one in part["bundles"].items():
        cells = [f"{one['accuracy']:.4f}", one["flips"], f"{one['rms']:.4f}", f"{one['largest_error']:.3f}"]
        rows.append((name, one.get("variant", "dynamic on onnxruntime"), *cells))
    lines = table(("bundle", "variant", "accuracy", "labels unlike torch's", "rms of logits", "largest"), rows, 2)
    rows = []
    for name, one in part["bundles"].items():
        for way, lists in one.get("lists", {}).items():
            largest = f"{lists['difference']:.1g} of {lists['allowed']:.0g}"
            rows.append((name, way, lists["labels"], largest, lists["exact"]))
    header = ("bundle", "rows in", "labels changed", "largest difference, share of the range", "rows bit-equal")
    return [*lines, "", *table(header, rows, 2)]


def _build(part: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, one in part["bundles"].items():
        seconds = one.get("seconds", "")
        rows.append((name, one.get("variant") or one["refused"], one.get("threads", ""), one.get("rows", ""), seconds))
    return table(("bundle", "variant", "threads", "rows of a list", "seconds"), rows, 2)


def clauses(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the targets, what was measured and whether they are held. Latencies are those of each state by itself."""
    lines: list[dict[str, str]] = []

    def add(clause: str, limit: float, best: tuple[str, float] | None, *, at_least: bool = False) -> None:
        value = None if best is None else best[1]
        measured = "" if best is None else f"{best[1]:.3g} ({best[0]})"
        sign = "at least" if at_least else "at most"
        held = verdict(value, limit, at_least=at_least)
        lines.append({"clause": clause, "limit": f"{sign} {limit:g}", "measured": measured, "verdict": held})

    part = found.get("latency")
    for state in part["states"] if part else ():
        backends = part["backends"]
        of_ort = {name for name, backend in backends.items() if backend == "onnxruntime"}
        mixed = part["streams"].get("mixed", {}).get(state, {})
        add(f"mixed texts over {BASELINE}, {state}", 0.75, _lowest(mixed, backends, f"over {BASELINE}"))
        add(f"mixed texts over {PEER}, {state}", 0.45, _lowest(mixed, backends, f"over {PEER}"))
        add(f"mixed texts on ONNX Runtime over {BASELINE}, {state}", 0.87, _lowest(mixed, of_ort, f"over {BASELINE}"))
        for tokens in FIXED:
            sides = part["streams"].get(tokens, {}).get(state, {})
            add(f"{tokens} tokens over {BASELINE}, {state}", 0.67, _lowest(sides, backends, f"over {BASELINE}"))
        best = _lowest(mixed, backends, f"over {BASELINE}")
        mixing = None if best is None else _value(part["mixing"].get(state, {}).get(best[0]))
        add(f"mixed over single lengths, {state}", 1.08, None if best is None or mixing is None else (best[0], mixing))
    _add_throughput(found.get("throughput"), add)
    _add_start(found.get("start"), add)
    exact = {n: o for n, o in found.get("exact", {}).get("bundles", {}).items() if n != BASELINE}
    for clause, key, limit in (("labels unlike torch's on dev", "flips", 4), ("rms of logits on dev", "rms", 0.07)):
        values = [(float(o[key]), n) for n, o in exact.items() if not o["variant"].startswith("float32")]
        add(f"{clause}, best INT8", limit, min(values)[::-1] if values else None)  # type: ignore[arg-type]
    changed = [(sum(way["labels"] for way in o["lists"].values()), n) for n, o in exact.items()]
    add("labels changed in lists, worst bundle", 0, max(changed)[::-1] if changed else None)  # type: ignore[arg-type]
    return lines


def _add_throughput(part: Mapping[str, Any] | None, add: Any) -> None:
    sides = _by_round(part["rounds"], _rate)["all" if _is_split(part["rounds"]) else "one"] if part else {}
    for other, limit in ((BASELINE, 1.5), (PEER, 2.0)):
        quotients = [(q.value, n) for n in (part or {"backends": ()})["backends"] if (q := _quotient(sides, n, other))]
        add(f"texts a second over {other}", limit, max(quotients)[::-1] if quotients else None, at_least=True)


def _add_start(part: Mapping[str, Any] | None, add: Any) -> None:
    sides = _by_round(part["rounds"], _ms)["all" if _is_split(part["rounds"]) else "one"] if part else {}
    for backend, limit in (("litert", 0.5), ("onnxruntime", LEVEL)):
        names = [n for n, b in (part or {"backends": {}})["backends"].items() if b == backend]
        quotients = [(q.value, n) for n in names if (q := _quotient(sides, n, BASELINE))]
        add(f"start on {backend} over {BASELINE}", limit, min(quotients)[::-1] if quotients else None)
        if backend == "litert":
            memory = [(statistics.median(one["mb"][n] for one in part["rounds"]), n) for n in names] if part else []
            add("peak memory to the first answer on litert, MB", 80, min(memory)[::-1] if memory else None)


def _is_split(rounds: Sequence[Mapping[str, Any]]) -> bool:
    return "all" in states_of(rounds)


def _lowest(sides: Mapping[str, Any], names: Any, key: str) -> tuple[str, float] | None:
    """Return the bundle with the lowest ratio, and the ratio."""
    values = [(_value(sides[name].get(key)), name) for name in names if name in sides]
    known = [(value, name) for value, name in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    value, name = min(known)
    return name, value
