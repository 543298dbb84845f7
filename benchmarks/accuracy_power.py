"""Whether a report finds an injected accuracy loss as often as it says: 1,821 rows, the size of the SST-2 test set.

    python benchmarks/accuracy_power.py

Two models that differ in a share of the rows (the discordance) are drawn thousands of times with a known true drop, and each draw is
decided as a gate does: a regression where the lower end of the paired 90 % interval lies above the margin. The share of draws that is found
stands beside the power that the comparison of two models with that many differing rows states (``Paired.power``). Injected are the drop
that it calls resolvable, half as far above the margin and one and a half times as far, and a drop of just the margin, where whatever is
found is a false alarm.

The base accuracy should not matter, since rows on which both are right or both are wrong enter neither count: two are drawn to show it. Of
each case ten draws are made into outputs and go through ``accuracy.compare``, which must decide as the counts do. Last, since a comparison
knows the discordance from its own rows alone: what reports of two models without a drop call resolvable, and how often that is found.

Writes ``results/accuracy_power.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.stats import binomtest

from edgekit.report.accuracy import compare
from edgekit.samples.evaluation import Evaluation
from edgekit.spec.gates import AccuracyGates
from edgekit.stats.paired import Paired, tango_interval
from edgekit.tasks.text_classification import Settings, bind

RESULTS = Path(__file__).resolve().parent / "results"
ROWS = 1821
DISCORDANCES = (0.01, 0.02, 0.05, 0.10)
MARGINS = (0.0, 0.01)
ACCURACIES = (0.92, 0.75)
SHARES = (0.0, 0.5, 1.0, 1.5)  # of the way from the margin to the drop that is resolvable
THROUGH_OUTPUTS = 10
OFF = 0.03  # that a stated power may be off, beyond the error of the simulation
REPORTS = 1000
Z_BOUND, Z_POWER = NormalDist().inv_cdf(0.95), NormalDist().inv_cdf(0.80)
ALPHA = 0.05

interval = functools.cache(lambda losses, gains: tango_interval(losses, gains, ROWS))


def case(discordance: float, margin: float, share: float, draws: int, draw: np.random.Generator) -> dict[str, Any]:
    """One discordance, margin and drop: what is stated, and what is found at each base accuracy."""
    seen = round(discordance * ROWS / 2)
    report = Paired(ROWS, seen, seen, 0.0, *interval(seen, seen), 1.0)
    resolvable = report.resolvable(margin)
    assert resolvable is not None
    drop = margin + share * (resolvable - margin)
    lost = (max(discordance, drop) + drop) / 2
    gained = lost - drop
    found = []
    for accuracy in ACCURACIES:
        cells = [lost, gained, accuracy - lost, 1 - accuracy - gained]
        outcomes = draw.multinomial(ROWS, cells, size=draws).tolist()
        decided = [interval(b, c)[0] > margin for b, c, _, _ in outcomes]
        for outcome, said in list(zip(outcomes, decided, strict=True))[:THROUGH_OUTPUTS]:
            assert through_outputs(*outcome, margin, draw) == said, "a comparison decides otherwise than its counts"
        hits = sum(decided)
        ends = binomtest(hits, draws).proportion_ci(0.95, "exact")
        found.append({"accuracy": accuracy, "found": hits / draws, "low": float(ends.low), "high": float(ends.high)})
    return {
        "discordance": discordance,
        "margin": margin,
        "resolvable": resolvable,
        "share": share,
        "drop": drop,
        "stated": report.power(drop, margin),
        "found": found,
    }


def through_outputs(losses: int, gains: int, right: int, wrong: int, margin: float, draw: np.random.Generator) -> bool:
    """Whether two models with these counts are a regression, from their outputs."""
    task = bind(Settings("single_label_classification", ("negative", "positive"), 128, ("input_ids",)), None)
    rights = np.repeat(
        [[True, False], [False, True], [True, True], [False, False]], (losses, gains, right, wrong), axis=0
    )
    rights = rights[draw.permutation(ROWS)]
    truth = draw.integers(0, 2, ROWS)
    strength = draw.gamma(2.0, 1.0, (ROWS, 2)) + 0.01
    before, after = (
        np.eye(2)[np.where(rights[:, i], truth, 1 - truth)].astype(np.float32)
        * strength[:, i : i + 1].astype(np.float32)
        for i in (0, 1)
    )
    ids = [f"{i:016x}" for i in range(ROWS)]
    outputs = [[{"logits": row} for row in logits] for logits in (before, after)]
    compared = compare(
        Evaluation(task, ids, truth.tolist(), ids), *outputs, ids, margins=AccuracyGates(margin, recall_drop=None)
    )
    assert (compared.losses, compared.gains) == (losses, gains)
    assert compared.low is not None
    return compared.low > margin


def statements(discordance: float, draw: np.random.Generator) -> dict[str, Any]:
    """What comparisons of two models without a drop call resolvable, and the power of that drop at the true discordance."""
    seen = round(discordance * ROWS / 2)
    true = Paired(ROWS, seen, seen, 0.0, *interval(seen, seen), 1.0)
    said: dict[int, tuple[float, float]] = {}
    flips = draw.binomial(ROWS, discordance, REPORTS).tolist()
    for count in set(flips):
        drop = Paired(ROWS, count, 0, 0.0, -1.0, 1.0, 1.0).resolvable()  # it depends on losses and gains together
        assert drop is not None
        said[count] = drop, true.power(drop)
    drops, powers = zip(*(said[count] for count in flips), strict=True)
    return {
        "discordance": discordance,
        "resolvable": np.quantile(drops, (0.05, 0.5, 0.95)).tolist(),
        "power": np.quantile(powers, (0.05, 0.5, 0.95)).tolist(),
        "mean_power": float(np.mean(powers)),
    }


def off(entry: dict[str, Any], at: dict[str, Any]) -> float:
    """By how much the stated power lies outside the interval of what was found; 0 inside."""
    return max(entry["stated"] - at["high"], at["low"] - entry["stated"], 0.0)


def table(cases: list[dict[str, Any]], reports: list[dict[str, Any]], draws: int, seconds: float) -> str:
    """Markdown."""
    lines = [
        f"An injected accuracy loss on {ROWS:,} rows: how often the comparison finds it, and how often it says it would. {draws:,} draws of each case",
        "and base accuracy; in brackets the 95% Clopper-Pearson interval. Found: the lower end of the paired 90% interval lies above the margin. Margins",
        "and drops are points of accuracy.",
        "",
        "| rows that differ | margin | resolvable | true drop | stated | "
        + " | ".join(f"found, base {a:.0%}" for a in ACCURACIES)
        + " |",
        "|---:|---:|---:|---:|---:|" + "---:|" * len(ACCURACIES),
    ]
    for c in cases:
        found = " | ".join(f"{f['found']:.1%} ({f['low']:.1%} to {f['high']:.1%})" for f in c["found"])
        what = "the margin" if c["share"] == 0 else f"{100 * c['drop']:.2f}"
        lines.append(
            f"| {c['discordance']:.0%} | {100 * c['margin']:.0f} | {100 * c['resolvable']:.2f} | {what} | {c['stated']:.1%} | {found} |"
        )
    apart = 100 * max(abs(c["stated"] - f["found"]) for c in cases if c["share"] > 0 for f in c["found"])
    beyond = 100 * max(off(c, f) for c in cases if c["share"] > 0 for f in c["found"])
    alarms = [(f["found"], f["low"], c["stated"]) for c in cases if c["share"] == 0 for f in c["found"]]
    shares, low, exact = zip(*alarms, strict=True)
    above = sum(end > ALPHA for end in low)
    lines += [
        "",
        f"The stated power lies at most {apart:.1f} points from what was found, {beyond:.1f} beyond the error of the simulation ({100 * OFF:.0f} are allowed): "
        f"{'met' if beyond <= 100 * OFF else 'missed'}.",
        "",
        f"False alarms at a drop of just the margin: {min(shares):.1%} to {max(shares):.1%}, {above} of {len(alarms)} cases above {ALPHA:.0%} by more",
        f"than the error of the simulation. Exactly they are {min(exact):.1%} to {max(exact):.1%}: a score interval is approximate, and {ALPHA:.0%} is what",
        "it is made for. A drop below the margin alarms less.",
        "",
        f"A comparison knows the discordance from its own rows alone. What {REPORTS:,} reports of two models without a drop call resolvable, against a margin",
        "of 0, and how often a loss of just that size is found in truth (it should be 80%); in brackets 5th and 95th percentile of the reports:",
        "",
        "| rows that differ | called resolvable | found in truth | mean |",
        "|---:|---:|---:|---:|",
    ]
    for r in reports:
        low, middle, high = (100 * v for v in r["resolvable"])
        least, usual, most = r["power"]
        lines.append(
            f"| {r['discordance']:.0%} | {middle:.2f} ({low:.2f} to {high:.2f}) | {usual:.0%} ({least:.0%} to {most:.0%}) | {r['mean_power']:.0%} |"
        )
    few = Paired(ROWS, 1, 1, 0.0, *interval(1, 1), 1.0)
    formula = 0.01 + (Z_BOUND + Z_POWER) * (4 / (ROWS + 4) / ROWS) ** 0.5
    lines += [
        "",
        f"The formula of the sample size in place of the exact sum would promise 80% where {few.power(formula, 0.01):.0%} are found: a true drop of",
        f"{100 * formula:.2f} against a margin of 1 when two rows differ. {seconds:.0f} s in one process.",
    ]
    return "\n".join(lines).replace("%", " %") + "\n"


def main() -> None:
    """Draws and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000, help="of each case and base accuracy")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, start = np.random.default_rng(asked.seed), time.perf_counter()
    cases = [case(f, m, s, asked.draws, draw) for f in DISCORDANCES for m in MARGINS for s in SHARES]
    reports = [statements(f, draw) for f in DISCORDANCES]
    found = {"rows": ROWS, "draws": asked.draws, "seed": asked.seed, "cases": cases, "statements": reports}
    (RESULTS / "accuracy_power.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    text = table(cases, reports, asked.draws, time.perf_counter() - start)
    (RESULTS / "accuracy_power.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
