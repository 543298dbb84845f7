"""From what was measured to verdicts: every gate with its limit, the value, its interval and a sentence.

An interval decides, not the estimate: *regression* where all of it is beyond the limit, *pass* where all of it is within, else *inconclusive*.
A budget is a promise of the bundle by itself, so there the estimate is held to it; and to the calibration error, of which there is no interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import NormalDist

from edgekit.report.companions import lost
from edgekit.report.differences import SAME
from edgekit.report.sessions import describe_form, more_sessions
from edgekit.report.speed import PERCENTILES, margins, verdict
from edgekit.spec.errors import UsageError
from edgekit.spec.gates import AccuracyGates, Gates
from edgekit.spec.manifest import Manifest
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, Accuracy, Change, Gate, Speed
from edgekit.spec.sealed import matches
from edgekit.spec.subject import Subject
from edgekit.spec.target import Budget
from edgekit.stats.interval import ALPHA

__all__ = ["budget", "check_floor", "compared", "own_drop"]

_WORDS = {
    "p50": "p50 latency",
    "p90": "p90 latency",
    "p99": "p99 latency",
    "first_answer": "time to the first answer",
    "memory": "peak memory",
}
_EXACT = ("size",)  # nothing of the machine is in it: it is judged whatever differs
_OF_FILES = tuple(f"footprint.{metric}" for metric in _EXACT)
_BY_CHANCE = (REGRESSION, INCONCLUSIVE)


def compared(
    gates: Gates, accuracy: Accuracy, speed: Speed | None, untimed: str = "", *, equal: bool = False, here: bool = True
) -> tuple[Gate, ...]:
    """The gates that are about two models.

    Args:
        gates: with margins.
        accuracy: of both.
        speed: of both; None where one cannot be timed.
        untimed: why there is no speed, where its gates are asked for all the same; empty where it is not.
        equal: whether both are one bundle, files and settings: nothing has changed, so whatever differs is the machine, and no gate can fail.
        here: whether both answered with the same backends on the same machine; else answers of one bundle may differ, and are judged.
    """
    found = list(_accuracy(gates.accuracy, accuracy))
    if speed is not None:
        changes = {change.metric: change for change in speed.changes}
        found += [_growth(changes[metric], margin, speed) for metric, margin in margins(gates).items()]
    elif untimed:
        found += [
            Gate(_name(metric), INCOMPARABLE, margin, None, None, None, untimed)
            for metric, margin in margins(gates).items()
        ]
    return tuple(
        _unchanged(gate) if equal and (here or gate.name in _OF_FILES) and gate.verdict in _BY_CHANCE else gate
        for gate in found
    )


def _unchanged(gate: Gate) -> Gate:
    """A gate between a bundle and itself: passed, with what was seen as the noise that it is."""
    seen = gate.said.partition(":")[0] if gate.value is not None else gate.said
    return replace(gate, verdict=PASS, said=f"{SAME}; seen was {seen}" if seen else SAME)


def budget(limits: Budget, measured: Subject, drop: tuple[float | None, str]) -> tuple[Gate, ...]:
    """The gates that are about one bundle.

    Args:
        limits: the budget; what is None is no gate.
        measured: the bundle.
        drop: accuracy lost against the model that it was made of, and where that is not known why.
    """
    times = measured.times
    values = {
        "accuracy_drop": drop[0],
        "p50_ms": times.p50_ms if times is not None else None,
        "memory_mb": measured.memory_mb or None,
        "first_answer_ms": measured.start.total_ms if measured.start is not None else None,
        "size_mb": measured.size_mb,
        "accuracy": measured.score,
    }
    found = []
    for name, limit in vars(limits).items():
        value = values[name]
        if limit is None:
            continue
        if value is None:
            why = (
                drop[1]
                if name == "accuracy_drop"
                else "the score is not defined on these samples"
                if name == "accuracy"
                else "it was not measured"
            )
            found.append(Gate(f"budget.{name}", INCOMPARABLE, limit, None, None, None, f"{name} is not known: {why}"))
        else:
            least = name == "accuracy" and measured.higher_is_better
            over = value < limit if least else value > limit
            said = f"{name} is {value:.4g}, the budget {'asks for at least' if least else 'allows'} {limit:.4g}"
            found.append(Gate(f"budget.{name}", OVER_BUDGET if over else PASS, limit, value, None, None, said))
    return tuple(found)


def own_drop(manifest: Manifest, measured: Subject, samples: str) -> tuple[float | None, str]:
    """Accuracy lost against the torch model: the build knows the model's score on its own evaluation samples alone."""
    built_on = manifest.provenance.get("evaluation_digest", "")
    if measured.score is None:
        return None, "the score is not defined on these samples"
    if manifest.score_name != measured.score_name:
        return (
            None,
            f"the bundle knows its model's {manifest.score_name} alone, and the metric here is {measured.score_name}; compare it with its teacher",
        )
    if not matches(built_on, samples):
        return (
            None,
            "the bundle knows its model's score on the evaluation samples of its build alone, and these are others; compare it with its teacher",
        )
    lost = manifest.reference_score - measured.score
    return lost if measured.higher_is_better else -lost, ""


def check_floor(gates: Gates, floor: Mapping[str, float]) -> None:
    """Refuses margins that are inside the machine's own noise.

    Args:
        gates: with margins.
        floor: from a self-check, by metric, as a share.

    Raises:
        UsageError: naming the margin, the floor and what to do.
    """
    below = [(m, margin, floor[m]) for m, margin in margins(gates).items() if m in floor and margin < floor[m]]
    if below:
        said = "; ".join(f"{_name(m)} is {margin:.1%}, the noise {noise:.1%}" for m, margin, noise in below)
        raise UsageError(
            f"Margins below what this machine's own noise looks like cannot be gated here: {said}. "
            "Raise them, give the self-check more --max-time, or use a quieter machine.",
            code="gates-below-noise",
        )


def _accuracy(gates: AccuracyGates, found: Accuracy) -> Iterator[Gate]:
    asked = {name: limit for name, limit in vars(gates).items() if limit is not None}
    if found.comparable and found.deviation is None:  # of answers that are labels
        asked.pop("error", None)
    if found.comparable and not found.recalls:  # of balanced labels, or of numbers
        asked.pop("recall_drop", None)
    for name, limit in asked.items():
        if not found.comparable:
            yield Gate(f"accuracy.{name}", INCOMPARABLE, limit, None, None, None, found.why_not)
        elif found.identical and not (name == "calibration_error" and found.calibration_before is None):
            yield Gate(f"accuracy.{name}", PASS, limit, 0.0, 0.0, 0.0, "both answer every row alike, to the last bit")
        elif name == "slice_drop":
            yield from _slices(limit, found)
        else:
            judge = {
                "drop": _drop,
                "flips": _flips,
                "calibration_error": _calibration,
                "error": _error,
                "recall_drop": _recall,
            }[name]
            yield judge(limit, found)


def _error(limit: float, found: Accuracy) -> Gate:
    name, before, after, unit = "accuracy.error", found.error_before, found.error_after, found.deviation
    if before is None or after is None or unit is None or found.error_low is None or found.error_high is None:
        return Gate(name, INCOMPARABLE, limit, None, None, None, f"the error is not defined on these {found.rows} rows")
    low, high = found.error_low, found.error_high
    outcome = REGRESSION if low > limit else PASS if high <= limit else INCONCLUSIVE
    grown = f"{(after - before) * unit:+.4g} ({low * unit:+.4g} to {high * unit:+.4g})"
    seen = f"mean absolute error {before * unit:.4g} to {after * unit:.4g} in the labels' unit, {grown}"
    return Gate(
        name,
        outcome,
        limit,
        after - before,
        low,
        high,
        f"{seen}: {limit * unit:.4g} is allowed, {limit:g} x the labels' standard deviation",
    )


def _recall(limit: float, found: Accuracy) -> Gate:
    """The test decides a regression, the estimate a pass: of a label that few rows have, no interval could ever lie within a small margin."""
    worst = lost(found.recalls) or max(found.recalls, key=lambda r: r.before - r.after)
    drop = worst.before - worst.after
    outcome = REGRESSION if lost(found.recalls) else PASS if drop <= limit else INCONCLUSIVE
    seen = f"of the label '{worst.label}' {worst.before:.4f} to {worst.after:.4f} on {worst.rows:,} rows, a drop of {drop:.4f} (p {worst.p_holm:.2g})"
    said = f"recall, worst of {len(found.recalls)} labels: {seen}, {limit:g} is allowed"
    return Gate("accuracy.recall_drop", outcome, limit, drop, None, None, said)


def _drop(limit: float, found: Accuracy) -> Gate:
    name, what = "accuracy.drop", found.score_name
    if found.drop is None or found.low is None or found.high is None:
        return Gate(name, INCOMPARABLE, limit, None, None, None, f"{what} is not defined on these {found.rows} rows")
    outcome = REGRESSION if found.low > limit else PASS if found.high <= limit else INCONCLUSIVE
    seen = f"{what} {found.before:.4f} to {found.after:.4f}, a drop of {found.drop:.4f} ({found.low:.4f} to {found.high:.4f})"
    needed = (
        ""
        if found.rows_needed is None or found.undecidable_reason
        else f"; about {found.rows_needed:,} rows would settle it"
    )
    more = {
        REGRESSION: f"more than the {limit:g} that is allowed",
        PASS: f"within the {limit:g} that is allowed",
        INCONCLUSIVE: f"{found.counted:,} different inputs do not settle it against {limit:g}{needed}",
    }
    return Gate(name, outcome, limit, found.drop, found.low, found.high, f"{seen}: {more[outcome]}")


def _flips(limit: float, found: Accuracy) -> Gate:
    from scipy.stats import binomtest  # not on a device, and slow to import

    share = found.flips / found.counted
    ends = binomtest(found.flips, found.counted).proportion_ci(1 - 2 * ALPHA, method="exact")  # Clopper-Pearson
    low, high = float(ends.low), float(ends.high)
    outcome = REGRESSION if low > limit else PASS if high <= limit else INCONCLUSIVE
    return Gate(
        "accuracy.flips",
        outcome,
        limit,
        share,
        low,
        high,
        f"{found.flips:,} of {found.counted:,} inputs are answered differently, {limit:.2%} may be",
    )


def _calibration(limit: float, found: Accuracy) -> Gate:
    name = "accuracy.calibration_error"
    if found.calibration_before is None or found.calibration_after is None:
        return Gate(name, INCOMPARABLE, limit, None, None, None, "the calibration error is of classifiers alone")
    growth = found.calibration_after - found.calibration_before
    said = f"{found.calibration_before:.4f} to {found.calibration_after:.4f}, {limit:g} more is allowed (the estimate decides, it has no interval)"
    return Gate(name, REGRESSION if growth > limit else PASS, limit, growth, None, None, said)


def _slices(limit: float, found: Accuracy) -> Iterator[Gate]:
    """One gate a slice that can be tested: of a single row nothing is proved today or tomorrow, it is in the table alone.

    Of many slices some look bad by chance. So a regression is held to the bound at ``ALPHA`` over their number (Bonferroni), to which the lower
    arm of the interval is stretched as that of a normal distribution.
    """
    drops = [(part, part.drop, part.low, part.high) for part in found.slices]
    tested = [
        (part, drop, low, high)
        for part, drop, low, high in drops
        if drop is not None and low is not None and high is not None
    ]
    stretch = NormalDist().inv_cdf(1 - ALPHA / max(1, len(tested))) / NormalDist().inv_cdf(1 - ALPHA)
    for part, drop, low, high in tested:
        outcome = REGRESSION if drop - stretch * (drop - low) > limit else PASS if high <= limit else INCONCLUSIVE
        said = f"a drop of {drop:.4f} ({low:.4f} to {high:.4f}) on {part.rows:,} rows, {limit:g} is allowed"
        yield Gate(f"slice.{part.column}={part.value}", outcome, limit, drop, low, high, said)


def _growth(change: Change, margin: float, speed: Speed) -> Gate:
    name = _name(change.metric)
    if not speed.comparable and change.metric not in _EXACT:
        return Gate(name, INCOMPARABLE, margin, None, None, None, speed.why_not)
    what = _WORDS.get(change.metric, change.metric)
    if change.ratio is None or change.low is None or change.high is None:
        # Too few calls or processes are a matter of time; what a machine does not tell is not.
        outcome = INCONCLUSIVE if change.metric in PERCENTILES or change.ratio is not None else INCOMPARABLE
        return Gate(name, outcome, margin, None, None, None, f"{what}: {change.said}")
    outcome = verdict(change, margin)
    if change.metric in _EXACT:
        seen = f"{change.before:.4g} to {change.after:.4g} {change.unit}, {change.ratio - 1:+.1%}"
    else:  # a ratio of both in turns; medians of each side are other numbers, and may say the contrary
        how = (
            "in turns"
            if speed.paired
            else f"against {change.sessions} session{'s' if change.sessions != 1 else ''} of a file"
        )
        how += f", {describe_form(change.probe)}" if change.probe else ""
        seen = f"x {change.ratio:.3f} ({change.low:.3f} to {change.high:.3f}, {how})"
    allowed = f"{100 * margin:+g}%"  # as it was written, not rounded
    words = {PASS: f"within the {allowed} that is allowed", REGRESSION: f"more than the {allowed} that is allowed"}
    rest = words.get(outcome, f"not settled against {allowed}")
    if outcome == INCONCLUSIVE and not speed.paired:
        rest += f": a change cannot be told from what the machine does between two sessions. {_remedy(change, margin)}"
    return Gate(name, outcome, margin, change.ratio - 1, change.low - 1, change.high - 1, f"{what} {seen}: {rest}")


def _remedy(change: Change, margin: float) -> str:
    """What would settle a latency against a file."""
    more = more_sessions(change, margin)
    if more is None:
        return "Give the older bundle itself (--baseline BUNDLE): both then run in turns. No number of sessions would settle it"
    many = f"{more} more session{'s' if more != 1 else ''}"
    return f"Give the older bundle itself (--baseline BUNDLE), or {many} of it at other times (edgekit baseline BUNDLE --append)"


def _name(metric: str) -> str:
    return f"{'latency' if metric in PERCENTILES else 'footprint'}.{metric}"
