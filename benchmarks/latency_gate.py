"""How often the latency gate is right: live comparisons of a bundle with itself, with itself 5 % slower (the margin itself) and 10 % slower.

The slower side really works longer: after each call its process adds numbers for a share of that call's own time. Beside a backend's own threads
that costs the next call something too, so the share that comes to 5 % (10 %) in all is found first: ``--effect`` is what a share of 1 % comes to, as the
median ratio of earlier runs on this machine. The table gives the median ratio that was reached.
Every comparison is ``edgekit check``'s own: fresh processes, A B B A, looks at the data, at most ``--max-time``. Their pairs of processes are then
drawn again, ``--resamplings`` times for each kind, and judged by the same code.

    python benchmarks/latency_gate.py --bundle BUNDLE --samples dev.jsonl

Kinds take turns, so that a change of the machine meets all. What was measured is kept after each round (``--work``): an interrupted run goes on.
Writes ``results/latency_gate.json`` and the table ``results/latency_gate.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from edgekit.machine.fingerprint import fingerprint
from edgekit.report import speed
from edgekit.report.side import open_for_test
from edgekit.samples import read
from edgekit.spec.gates import Gates
from edgekit.spec.parsing import plain
from edgekit.spec.report import INCONCLUSIVE, REGRESSION
from edgekit.stats import interval
from edgekit.stats.interval import Estimate, Look
from edgekit.timing.interleaved import FIRST_LOOK, time_interleaved
from edgekit.timing.worker import Worker

HERE = Path(__file__).resolve().parent
SLOWER = {"A against A": 0.0, "+5 %, the margin itself": 0.05, "+10 %": 0.10}
METRICS = ("p50", "p90", "p99")

SLOW = """
import sys, time
sys.path[:] = [p for p in sys.path if p]
from edgekit.runtime import session
from edgekit.timing import child
share, answer, numbers = {share}, session.Session.__call__, range(10)
def slower(self, inputs):
    begin = time.perf_counter()
    found = answer(self, inputs)
    end = time.perf_counter() + share * (time.perf_counter() - begin)
    while time.perf_counter() < end:
        sum(numbers)
    return found
session.Session.__call__ = slower
child.main(*sys.argv[1:])
"""


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="labels are not needed")
    parser.add_argument("--work", type=Path, default=Path(".work/latency_gate"), help="where rounds are kept")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--max-time",
        type=float,
        default=30.0,
        help="of a comparison; files of a work folder that are there keep theirs",
    )
    parser.add_argument("--effect", type=float, default=1.0)
    parser.add_argument("--resamplings", type=int, default=10_000)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for turn in range(options.rounds):
        for kind, share in SLOWER.items():
            file = options.work / f"{turn:03d} {int(share * 100):02d}.json"
            if not file.exists():
                file.write_text(json.dumps(compare(options, share, turn)), "utf-8")
            found = json.loads(file.read_text("utf-8"))
            print(
                f"{turn + 1}/{options.rounds} {kind}: {found['verdicts']} {found['pairs']} pairs {found['seconds']:.1f} s",
                flush=True,
            )
    live = {
        kind: [json.loads(f.read_text("utf-8")) for f in sorted(options.work.glob(f"* {int(share * 100):02d}.json"))]
        for kind, share in SLOWER.items()
    }
    with ProcessPoolExecutor(2) as pool:
        parts = {
            kind: [
                pool.submit(resampled, [r["ratios"] for r in runs], options.resamplings // 2, half) for half in (0, 1)
            ]
            for kind, runs in live.items()
        }
        again = {kind: sum((part.result() for part in halves), Counter()) for kind, halves in parts.items()}
    record = {
        "machine": plain(fingerprint()),
        "bundle": open_for_test(options.bundle).bundle.manifest.variants[0].method,
        "effect": options.effect,
        "margins": speed.margins(Gates()),
        "kinds": {kind: summary(runs, again[kind]) for kind, runs in live.items()},
        "between_processes": spread(live),
    }
    (HERE / "results" / "latency_gate.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    (HERE / "results" / "latency_gate.md").write_text(table(record), "utf-8")
    print(table(record))


def compare(options: argparse.Namespace, share: float, seed: int) -> dict[str, Any]:
    """One live comparison."""
    side, texts = open_for_test(options.bundle), read(options.samples).inputs

    class Slower(Worker):
        CHILD = SLOW.format(share=share / options.effect)

    gated = {m: v for m, v in speed.margins(Gates()).items() if m in METRICS}
    sizes = (side.size_mb, side.size_mb)
    began = time.monotonic()
    # Both sides run the same program, whatever is added in it: A against A adds a share of 0.
    made = time_interleaved(
        (side.worker, lambda: Slower(side.bundle.path)),
        texts,
        speed.make_stop_rule(gated, sizes, seed),
        max_time=options.max_time,
        seed=seed,
    )
    seconds = time.monotonic() - began
    changes = {c.metric: c for c in speed.compare_paired(made, sizes, gated, seed).changes}
    return {
        "seconds": seconds,
        "max_time_s": options.max_time,
        "pairs": len(made.pairs),
        "looks": [plain(look) for look in made.looks],
        "verdicts": {m: speed.verdict(changes[m], gated[m]) for m in METRICS},
        "changes": {m: [changes[m].ratio, changes[m].low, changes[m].high] for m in METRICS},
        "ratios": [[round(v, 5) for v in speed.log_ratios(a, b)] for a, b in made.pairs],
    }


def resampled(runs: list[list[list[float]]], times: int, seed: int) -> Counter[str]:
    """Verdicts on p50 of comparisons whose pairs of processes are drawn from all that were recorded of a kind, with the usual looks."""
    draw, pairs = np.random.default_rng(seed), [pair for run in runs for pair in run]
    most, margin = max(len(run) for run in runs), math.log1p(Gates().latency.p50 or 0.0)
    found: Counter[str] = Counter()
    for number in range(times):
        taken = [pairs[i] for i in draw.integers(0, len(pairs), most)]
        looks: list[Look] = []
        for count in sorted({n for n in (FIRST_LOOK, (FIRST_LOOK + most) // 2) if n <= most - 2} | {most}):
            looks.append(Look(count, count / most))
            low, high = bounds(interval.median(taken[:count], number), looks)
            if low > margin or high <= margin:
                break
        found[REGRESSION if low > margin else "pass" if high <= margin else INCONCLUSIVE] += 1
    return found


def bounds(estimate: Estimate, looks: list[Look]) -> tuple[float, float]:
    """At the last look's level."""
    return estimate.bounds(interval.levels(looks)[-1])


def summary(runs: list[dict[str, Any]], again: Counter[str]) -> dict[str, Any]:
    """Shares with their 95 % intervals (Clopper-Pearson)."""
    count = len(runs)
    seconds = [r["seconds"] for r in runs]
    found: dict[str, Any] = {"runs": count, "max_time_s": max(r["max_time_s"] for r in runs)}
    found |= {"seconds_median": float(np.median(seconds)), "seconds_most": max(seconds)}
    for metric in METRICS:
        words = Counter(r["verdicts"][metric] for r in runs)
        ratio = float(np.median([r["changes"][metric][0] for r in runs if r["changes"][metric][0] is not None]))
        found[metric] = {"verdicts": dict(words), "regression": share(words[REGRESSION], count), "ratio_median": ratio}
    found["any"] = share(sum(REGRESSION in r["verdicts"].values() for r in runs), count)
    total = sum(again.values())
    found["resampled_p50"] = {"verdicts": dict(again), "regression": share(again[REGRESSION], total)}
    return found


def share(count: int, of: int) -> list[float]:
    """A share and its 95 % interval."""
    ends = binomtest(count, of).proportion_ci(0.95, method="exact")
    return [count / of, float(ends.low), float(ends.high)]


def spread(live: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Standard deviation of the log ratio between pairs of processes, and of blocks within a pair, of A against A."""
    pairs = [np.asarray(pair) for run in live["A against A"] for pair in run["ratios"]]
    return {"pairs": float(np.std([np.median(p) for p in pairs])), "blocks": float(np.median([p.std() for p in pairs]))}


def table(record: dict[str, Any]) -> str:
    """For the README of the results."""

    def percent(values: list[float]) -> str:
        return f"{values[0]:.1%} ({values[1]:.1%} to {values[2]:.1%})"

    runs, machine = next(iter(record["kinds"].values()))["runs"], record["machine"]
    lines = [
        f"{runs} live comparisons of each kind, on {machine['cpu']}, {machine['cpus']} CPUs. "
        "Shares of comparisons that end in *regression*, with 95 % intervals; margins +5 % (p50), +10 % (p90, p99).",
        "",
        "| kind | p50 | p90 | p99 | any of the three | p50, 10,000 resamplings | median ratio p50 | seconds, median (most) | at most |",
        "|---|---|---|---|---|---|---:|---:|---:|",
    ]
    for kind, found in record["kinds"].items():
        cells = [percent(found[m]["regression"]) for m in METRICS] + [
            percent(found["any"]),
            percent(found["resampled_p50"]["regression"]),
        ]
        took = f"{found['seconds_median']:.0f} ({found['seconds_most']:.0f})"
        lines.append(
            f"| {kind} | {' | '.join(cells)} | {found['p50']['ratio_median']:.3f} | {took} | {found['max_time_s']:g} s |"
        )
    between = record["between_processes"]
    varies = f"{between['pairs']:.4f} from pair to pair of processes, and by {between['blocks']:.4f} from block to block within a pair"
    lines += ["", f"The log ratio of A against A varies by {varies}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
