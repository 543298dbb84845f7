"""Gates: the verdict on each limit, with the measured value, its interval and one sentence.

The interval decides, not the estimate: *regression* if the whole interval exceeds the limit, *pass* if none of it does,
else *inconclusive*. There are two exceptions, where the estimate decides: a budget, because it is a promise of the
bundle alone, and the calibration error, because it has no interval.
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

__all__ = ["check_floor", "compute_drop", "judge_budget", "judge_comparison"]

_METRIC_NAMES = {
    "p50": "p50 latency",
    "p90": "p90 latency",
    "p99": "p99 latency",
    "first_answer": "time to the first answer",
    "memory": "peak memory",
}
# The size does not depend on the machine, so it is judged even if the machines differ.
_EXACT = ("size",)
_FILE_GATES = tuple(f"footprint.{metric}" for metric in _EXACT)
_NOISE_VERDICTS = (REGRESSION, INCONCLUSIVE)


def judge_comparison(
    gates: Gates, accuracy: Accuracy, speed: Speed | None, untimed: str = "", *, equal: bool = False, here: bool = True
) -> tuple[Gate, ...]:
    """Return the gates that compare two models.

    Args:
        gates: Limits.
        accuracy: Accuracy of both models.
        speed: Latency and footprint of both models. None if one of them cannot be timed.
        untimed: Reason why there is no ``speed``, to report its gates as incomparable. Empty to leave them out.
        equal: True if both models are the same bundle, files and settings. Any difference is then due to the machine,
            and no gate can fail.
        here: True if both models ran with the same backends on the same machine. Otherwise even the same bundle can
            give different answers, so its accuracy is judged.
    """
    results = list(_accuracy_gates(gates.accuracy, accuracy))
    if speed is not None:
        changes = {change.metric: change for change in speed.changes}
        results += [_speed_gate(changes[metric], margin, speed) for metric, margin in margins(gates).items()]
    elif untimed:
        results += [_incomparable(_gate_name(metric), margin, untimed) for metric, margin in margins(gates).items()]
    if not equal:
        return tuple(results)
    for index, gate in enumerate(results):
        if here or gate.name in _FILE_GATES:
            results[index] = _pass_equal_bundle(gate)
    return tuple(results)


def _pass_equal_bundle(gate: Gate) -> Gate:
    """Return a gate between a bundle and itself as passed, with the observed difference as noise."""
    if gate.verdict not in _NOISE_VERDICTS:
        return gate
    # The part behind the colon is the limit, which does not apply.
    observed = gate.said
    if gate.value is not None:
        observed = observed.partition(":")[0]
    return replace(gate, verdict=PASS, said=f"{SAME}; observed: {observed}" if observed else SAME)


def judge_budget(limits: Budget, measured: Subject, drop: tuple[float | None, str]) -> tuple[Gate, ...]:
    """Return the gates of a budget, which judge one bundle.

    Args:
        limits: Budget. A limit of None makes no gate.
        measured: Results of the bundle.
        drop: Loss of accuracy against the original model, and the reason if it is None.
    """
    values = {
        "accuracy_drop": drop[0],
        "p50_ms": None,
        "memory_mb": measured.memory_mb or None,
        "first_answer_ms": None,
        "size_mb": measured.size_mb,
        "accuracy": measured.score,
    }
    if measured.times is not None:
        values["p50_ms"] = measured.times.p50_ms
    if measured.start is not None:
        values["first_answer_ms"] = measured.start.total_ms
    reasons = {"accuracy_drop": drop[1], "accuracy": "the score is not defined on these samples"}
    gates = []
    for name, limit in vars(limits).items():
        if limit is None:
            continue
        value = values[name]
        if value is None:
            reason = reasons.get(name, "it was not measured")
            gates.append(_incomparable(f"budget.{name}", limit, f"{name} is not known: {reason}"))
            continue
        is_minimum = name == "accuracy" and measured.higher_is_better
        exceeded = value < limit if is_minimum else value > limit
        bound = "requires at least" if is_minimum else "allows"
        message = f"{name} is {value:.4g}, the budget {bound} {limit:.4g}"
        gates.append(Gate(f"budget.{name}", OVER_BUDGET if exceeded else PASS, limit, value, None, None, message))
    return tuple(gates)


def compute_drop(manifest: Manifest, measured: Subject, samples: str) -> tuple[float | None, str]:
    """Return the loss of accuracy against the torch model, and the reason if it is not known.

    The manifest has the torch model's score on the evaluation samples of the build only.

    Args:
        manifest: Manifest of the bundle.
        measured: Results of the bundle.
        samples: Digest of the samples that it was measured on.
    """
    if measured.score is None:
        return None, "the score is not defined on these samples"
    if manifest.score_name != measured.score_name:
        return None, (
            f"the manifest has the torch model's {manifest.score_name}, but the metric is {measured.score_name}; "
            "compare the bundle with its teacher"
        )
    if not matches(manifest.provenance.get("evaluation_digest", ""), samples):
        return None, (
            "the manifest has the torch model's score on the evaluation samples of the build, but these are other "
            "samples; compare the bundle with its teacher"
        )
    loss = manifest.reference_score - measured.score
    return loss if measured.higher_is_better else -loss, ""


def check_floor(gates: Gates, floor: Mapping[str, float]) -> None:
    """Check that no margin is smaller than the machine's noise.

    Args:
        gates: Limits.
        floor: Noise of each metric from a self-check, as a share (0.03 is 3 %).

    Raises:
        UsageError: If a margin is smaller. The message names each margin, its noise and the remedy.
    """
    too_small = []
    for metric, margin in margins(gates).items():
        if metric in floor and margin < floor[metric]:
            too_small.append(f"{_gate_name(metric)} is {margin:.1%}, the noise {floor[metric]:.1%}")
    if too_small:
        raise UsageError(
            f"Some margins are smaller than the noise of this machine: {'; '.join(too_small)}. "
            "Raise them, give the self-check more --max-time, or use a quieter machine.",
            code="gates-below-noise",
        )


def _incomparable(name: str, limit: float, reason: str) -> Gate:
    return Gate(name, INCOMPARABLE, limit, None, None, None, reason)


def _judge_interval(low: float, high: float, limit: float) -> str:
    """Return the verdict on an interval."""
    if low > limit:
        return REGRESSION
    return PASS if high <= limit else INCONCLUSIVE


def _accuracy_gates(gates: AccuracyGates, accuracy: Accuracy) -> Iterator[Gate]:
    limits = {name: limit for name, limit in vars(gates).items() if limit is not None}
    if accuracy.comparable and accuracy.deviation is None:  # The answers are labels, which have no mean error.
        limits.pop("error", None)
    if accuracy.comparable and not accuracy.recalls:  # The labels are balanced, or the answers are numbers.
        limits.pop("recall_drop", None)
    judges = {
        "drop": _drop_gate,
        "flips": _flips_gate,
        "calibration_error": _calibration_gate,
        "error": _error_gate,
        "recall_drop": _recall_gate,
    }
    for name, limit in limits.items():
        has_value = name != "calibration_error" or accuracy.calibration_before is not None
        if not accuracy.comparable:
            yield _incomparable(f"accuracy.{name}", limit, accuracy.why_not)
        elif accuracy.identical and has_value:
            message = "the outputs of both models are bit-identical"
            yield Gate(f"accuracy.{name}", PASS, limit, 0.0, 0.0, 0.0, message)
        elif name == "slice_drop":
            yield from _slice_gates(limit, accuracy)
        else:
            yield judges[name](limit, accuracy)


def _error_gate(limit: float, accuracy: Accuracy) -> Gate:
    name = "accuracy.error"
    before = accuracy.error_before
    after = accuracy.error_after
    low = accuracy.error_low
    high = accuracy.error_high
    unit = accuracy.deviation
    if before is None or after is None or unit is None or low is None or high is None:
        return _incomparable(name, limit, f"the error is not defined on these {accuracy.rows} rows")
    message = (
        f"mean absolute error {before * unit:.4g} to {after * unit:.4g} in the labels' unit, "
        f"{(after - before) * unit:+.4g} ({low * unit:+.4g} to {high * unit:+.4g}): "
        f"{limit * unit:.4g} is allowed, {limit:g} x the labels' standard deviation"
    )
    return Gate(name, _judge_interval(low, high, limit), limit, after - before, low, high, message)


def _recall_gate(limit: float, accuracy: Accuracy) -> Gate:
    """Return the gate of the label whose recall fell most.

    The test decides a regression and the estimate a pass: the interval of a label with few rows is too wide to lie
    within a small margin.
    """
    lost_label = lost(accuracy.recalls)
    worst = lost_label or max(accuracy.recalls, key=lambda recall: recall.before - recall.after)
    drop = worst.before - worst.after
    outcome = PASS if drop <= limit else INCONCLUSIVE
    if lost_label:
        outcome = REGRESSION
    message = (
        f"recall of the label '{worst.label}' {worst.before:.4f} to {worst.after:.4f} on {worst.rows:,} rows, "
        f"a drop of {drop:.4f} (p {worst.p_holm:.2g}), the worst of {len(accuracy.recalls)} labels: "
        f"{limit:g} is allowed"
    )
    return Gate("accuracy.recall_drop", outcome, limit, drop, None, None, message)


def _drop_gate(limit: float, accuracy: Accuracy) -> Gate:
    name = "accuracy.drop"
    metric = accuracy.score_name
    low = accuracy.low
    high = accuracy.high
    if accuracy.drop is None or low is None or high is None:
        return _incomparable(name, limit, f"{metric} is not defined on these {accuracy.rows} rows")
    outcome = _judge_interval(low, high, limit)
    needed = ""
    if accuracy.rows_needed is not None and not accuracy.undecidable_reason:
        needed = f"; about {accuracy.rows_needed:,} rows would decide"
    conclusions = {
        REGRESSION: f"more than the allowed {limit:g}",
        PASS: f"within the allowed {limit:g}",
        INCONCLUSIVE: f"{accuracy.counted:,} different inputs do not decide whether it exceeds {limit:g}{needed}",
    }
    message = (
        f"{metric} {accuracy.before:.4f} to {accuracy.after:.4f}, a drop of {accuracy.drop:.4f} "
        f"({low:.4f} to {high:.4f}): {conclusions[outcome]}"
    )
    return Gate(name, outcome, limit, accuracy.drop, low, high, message)


def _flips_gate(limit: float, accuracy: Accuracy) -> Gate:
    from scipy.stats import binomtest  # Devices lack scipy, and it is slow to import.

    flips = accuracy.flips
    inputs = accuracy.counted
    clopper_pearson = binomtest(flips, inputs).proportion_ci(1 - 2 * ALPHA, method="exact")
    low = float(clopper_pearson.low)
    high = float(clopper_pearson.high)
    message = f"{flips:,} of {inputs:,} inputs are answered differently: {limit:.2%} is allowed"
    return Gate("accuracy.flips", _judge_interval(low, high, limit), limit, flips / inputs, low, high, message)


def _calibration_gate(limit: float, accuracy: Accuracy) -> Gate:
    name = "accuracy.calibration_error"
    before = accuracy.calibration_before
    after = accuracy.calibration_after
    if before is None or after is None:
        return _incomparable(name, limit, "only a classifier has a calibration error")
    growth = after - before
    message = (
        f"calibration error {before:.4f} to {after:.4f}: a growth of {limit:g} is allowed "
        "(the estimate decides, because there is no interval)"
    )
    return Gate(name, REGRESSION if growth > limit else PASS, limit, growth, None, None, message)


def _slice_gates(limit: float, accuracy: Accuracy) -> Iterator[Gate]:
    """Yield a gate for each slice that has an interval. A slice without one, e.g. of a single row, proves nothing.

    With many slices, some look worse by chance. A regression is therefore judged by the lower bound at ``ALPHA``
    divided by the number of slices (Bonferroni). The lower arm of the interval is stretched to it as for a normal
    distribution.
    """
    tested = []
    for part in accuracy.slices:
        if part.drop is not None and part.low is not None and part.high is not None:
            tested.append((part, part.drop, part.low, part.high))
    normal = NormalDist()
    stretch = normal.inv_cdf(1 - ALPHA / max(1, len(tested))) / normal.inv_cdf(1 - ALPHA)
    for part, drop, low, high in tested:
        outcome = _judge_interval(drop - stretch * (drop - low), high, limit)
        message = f"a drop of {drop:.4f} ({low:.4f} to {high:.4f}) on {part.rows:,} rows: {limit:g} is allowed"
        yield Gate(f"slice.{part.column}={part.value}", outcome, limit, drop, low, high, message)


def _speed_gate(change: Change, margin: float, speed: Speed) -> Gate:
    name = _gate_name(change.metric)
    if not speed.comparable and change.metric not in _EXACT:
        return _incomparable(name, margin, speed.why_not)
    metric = _METRIC_NAMES.get(change.metric, change.metric)
    if change.ratio is None or change.low is None or change.high is None:
        # More time gives more calls and processes. It does not give what the machine cannot measure.
        more_time_helps = change.metric in PERCENTILES or change.ratio is not None
        outcome = INCONCLUSIVE if more_time_helps else INCOMPARABLE
        return Gate(name, outcome, margin, None, None, None, f"{metric}: {change.said}")
    if change.metric in _EXACT:
        observed = f"{change.before:.4g} to {change.after:.4g} {change.unit}, {change.ratio - 1:+.1%}"
    else:
        # The medians of both sides are left out: they are not the paired ratio, and can contradict it.
        observed = f"x {change.ratio:.3f} ({change.low:.3f} to {change.high:.3f}, {_describe_pairing(change, speed)})"
    outcome = verdict(change, margin)
    allowed = f"{100 * margin:+g}%"  # Not rounded, so that it reads as the user wrote it.
    conclusions = {
        PASS: f"within the allowed {allowed}",
        REGRESSION: f"more than the allowed {allowed}",
        INCONCLUSIVE: f"not known whether it exceeds {allowed}",
    }
    message = f"{metric} {observed}: {conclusions[outcome]}"
    if outcome == INCONCLUSIVE and not speed.paired:
        message += f": the machine itself may vary as much between two sessions. {_remedy(change, margin)}"
    return Gate(name, outcome, margin, change.ratio - 1, change.low - 1, change.high - 1, message)


def _describe_pairing(change: Change, speed: Speed) -> str:
    """Return how both sides of a latency were timed, e.g. ``against 2 sessions of a file, over the probe int8``."""
    pairing = "interleaved"
    if not speed.paired:
        pairing = f"against {change.sessions} session{'s' if change.sessions != 1 else ''} of a file"
    return f"{pairing}, {describe_form(change.probe)}" if change.probe else pairing


def _remedy(change: Change, margin: float) -> str:
    """Return what would decide a latency that was compared with a baseline file."""
    sessions = more_sessions(change, margin)
    if sessions is None:
        return (
            "Give the older bundle itself (--baseline BUNDLE), so that both run interleaved. "
            "No number of sessions would decide"
        )
    noun = "session" if sessions == 1 else "sessions"
    return (
        f"Give the older bundle itself (--baseline BUNDLE), or {sessions} more {noun} of it at other times "
        "(edgekit baseline BUNDLE --append)"
    )


def _gate_name(metric: str) -> str:
    return f"{'latency' if metric in PERCENTILES else 'footprint'}.{metric}"
