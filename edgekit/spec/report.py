"""What a report says: frozen data, schema-versioned. ``edgekit.report.files`` reads and writes it, ``edgekit.report.render`` shows it.

Throughout, *before* is the baseline (or the teacher) and *after* the candidate; a ratio is after over before, so above 1 is slower or larger.
No text of a sample is in here unless ``Report.include_text`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.spec.short import ShortRepr
from edgekit.spec.subject import Fingerprint, Subject

__all__ = [
    "INCOMPARABLE",
    "INCONCLUSIVE",
    "KINDS",
    "MACHINES",
    "OVER_BUDGET",
    "PASS",
    "REGRESSION",
    "SCHEMA",
    "VERDICTS",
    "Accuracy",
    "Change",
    "Drift",
    "Faithfulness",
    "Flip",
    "Gate",
    "Recall",
    "Report",
    "Robustness",
    "Slice",
    "Speed",
]

SCHEMA = 2
"""Version of the report's schema that this code writes, and the only one that it reads."""

KINDS = ("report", "baseline", "compare", "check", "self-check")

PASS, REGRESSION, OVER_BUDGET, INCONCLUSIVE, INCOMPARABLE = (
    "pass",
    "regression",
    "over budget",
    "inconclusive",
    "incomparable",
)
MACHINES = ("latency.", "footprint.")
"""How the names of gates begin that another machine makes incomparable."""
VERDICTS = (PASS, REGRESSION, OVER_BUDGET, INCONCLUSIVE, INCOMPARABLE)


@dataclass(frozen=True)
class Change:
    """A ratio, after over before, and what the run can say of it.

    Attributes:
        metric: ``p50``, ``p90``, ``p99``, ``first_answer``, ``memory``, ``size`` or ``energy``.
        before, after: the values, in ``unit``; None where they cannot be estimated.
        unit: ``ms``, ``MB`` or ``mJ``.
        ratio: after over before; None where there is none.
        low, high: its two-sided 90 % interval, widened for the looks that were taken at the data; equal to ``ratio`` where nothing is random.
        resolvable: the smallest growth that this run would have found with a probability of 80 %, as a share (0.03: +3 %), against a margin of 0.
        said: why there is no ratio, e.g. ``not estimable from 300 samples (needs 662)``; else empty.
        sessions: of a baseline that was read from a file, how many there are; 0 where both ran in turns.
        spread: of such a baseline, the standard deviation of the logarithm between two sessions that the interval is made with; None in turns.
        probe: kernel whose time both sides' times were divided by, ``both`` for the geometric mean of INT8 and float32, ``start`` for the start of a
            process with them; empty where they were taken as they are.
    """

    metric: str
    before: float | None
    after: float | None
    unit: str
    ratio: float | None
    low: float | None
    high: float | None
    resolvable: float | None = None
    said: str = ""
    sessions: int = 0
    spread: float | None = None
    probe: str = ""


@dataclass(frozen=True)
class Speed:
    """Two bundles by the clock.

    Attributes:
        paired: whether both ran in turns in this run; else ``before`` is read from a file.
        changes: of each metric.
        pairs: pairs of processes.
        blocks: blocks of texts that both answered.
        calls: of each side.
        looks: how many times the data were looked at for a decision.
        seconds: what it took.
        comparable: whether latencies may be compared at all.
        why_not: what differs, a sentence; empty where they may.
        noise_floor: from a self-check, by metric: the largest growth that this machine's noise alone can look like, as a share; empty without one.
    """

    paired: bool
    changes: tuple[Change, ...]
    pairs: int
    blocks: int
    calls: int
    looks: int
    seconds: float
    comparable: bool = True
    why_not: str = ""
    noise_floor: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Flip:
    """A row that both answer differently.

    Attributes:
        id: keyed hash of the row.
        row: its place in the samples, from 1.
        truth: label that is right (several joined by ``|``), or the number.
        before, after: what they answer.
        margin_before, margin_after: lead of the answer over the next best one, 0 to 1; None where answers have no probability.
        text: only with ``include_text``.
    """

    id: str
    row: int
    truth: str
    before: str
    after: str
    margin_before: float | None = None
    margin_after: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Slice:
    """Rows that share a value of a column.

    Attributes:
        column, value: which.
        rows: how many.
        before, after: scores; None where they are not defined on so few rows.
        drop, low, high: how much worse the score is after, with its 90 % interval; None where ``before`` is.
        p_value: exact McNemar or, of scores that are no mean of rows, approximate randomization; two-sided, None where it is not defined.
        p_holm: the same, adjusted by Holm for all slices of the report; None where ``p_value`` is.
        said: why it was not tested, e.g. ``1 row``; else empty.
    """

    column: str
    value: str
    rows: int
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    said: str = ""


@dataclass(frozen=True)
class Recall:
    """A label on both sides: of the rows that have it, the share that is answered with it.

    Attributes:
        label: its name.
        rows: that have it.
        before, after: the recalls.
        losses, gains: rows that only the one, or only the other, answers with it.
        p_holm: exact, one-sided, of a drop that is no larger than the margin, adjusted by Holm for all labels.
    """

    label: str
    rows: int
    before: float
    after: float
    losses: int
    gains: int
    p_holm: float


@dataclass(frozen=True)
class Accuracy:
    """Two models on the same rows.

    Attributes:
        rows: of both.
        score_name: what is compared.
        higher_is_better: False where it is an error rate.
        before, after: the scores.
        drop, low, high: how much worse the score is after, with its two-sided 90 % interval (each end a one-sided 95 % bound).
        losses, gains: rows that only the one, or only the other, has right; None for scores that are no mean of rows.
        p_value: exact McNemar, two-sided; of approximate randomization where ``losses`` is None.
        flips: rows that are answered differently.
        flipped: the first 200 of them, those with the largest ``margin_before`` first.
        divergence_mean, divergence_p95: of the answers after from those before, row by row, in the task's unit (nats where answers have probabilities).
        calibration_before, calibration_after: expected calibration error, 0 to 1; None where answers have no probability.
        resolvable: the smallest true drop that this set finds with a probability of 80 %, at the discordance seen, against a margin of 0.
        margin: of the gate that ``rows_needed`` is about; None where nothing is gated.
        rows_needed: rows that would settle ``margin`` at the drop and discordance seen; None where none would or nothing is gated.
        slices: by columns.
        comparable: whether the two answered the same samples.
        why_not: what differs, a sentence; empty where they did.
        inputs: different ones among the rows: rows with equal inputs count once in all of this.
        identical: both answer every row alike, to the last bit.
        fewest: rows that the margin takes at least, even where no row is answered differently; None where that is not known.
        error_before, error_after: mean absolute error of numbers, in standard deviations of the labels; None for labels.
        error_low, error_high: 90 % interval of its growth.
        deviation: the labels' standard deviation.
        recalls: of each label, where labels are unbalanced.
    """

    rows: int
    score_name: str
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    losses: int | None = None
    gains: int | None = None
    p_value: float | None = None
    flips: int = 0
    flipped: tuple[Flip, ...] = ()
    divergence_mean: float | None = None
    divergence_p95: float | None = None
    calibration_before: float | None = None
    calibration_after: float | None = None
    resolvable: float | None = None
    margin: float | None = None
    rows_needed: int | None = None
    slices: tuple[Slice, ...] = ()
    comparable: bool = True
    why_not: str = ""
    inputs: int = 0
    identical: bool = False
    fewest: int | None = None
    error_before: float | None = None
    error_after: float | None = None
    error_low: float | None = None
    error_high: float | None = None
    deviation: float | None = None
    recalls: tuple[Recall, ...] = ()
    higher_is_better: bool = True

    @property
    def counted(self) -> int:
        """Different inputs; of a report that was made before these were told, rows."""
        return self.inputs or self.rows

    @property
    def never(self) -> str:
        """Why these rows can never settle the margin, with the number that could; empty where they can."""
        if self.identical or self.fewest is None or self.inputs >= self.fewest or self.margin is None:
            return ""
        return (
            f"{self.inputs:,} different inputs can never settle a drop of {self.margin:g}, even where none is answered differently: "
            f"it takes at least {self.fewest:,}."
        )

    @property
    def settled(self) -> bool:
        """Whether the interval lies wholly on one side of the margin, or nothing differs at all."""
        if self.identical:
            return True
        if self.margin is None or self.low is None or self.high is None:
            return False
        return self.high <= self.margin or self.low > self.margin


@dataclass(frozen=True)
class Drift:
    """How one answer is explained on both sides: what each word adds to the support of the answer before, most often its probability.

    Attributes:
        id: keyed hash of the row.
        row: its place in the samples, from 1.
        answer: whose support it is.
        words: of the text, only with ``include_text``; else empty.
        before, after: support with all words minus support without this one, word by word.
        rank_correlation: Spearman, of the two.
    """

    id: str
    row: int
    answer: str
    words: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    rank_correlation: float


@dataclass(frozen=True)
class Faithfulness:
    """Occlusion attributions on both sides. Descriptive, not a certificate.

    Attributes:
        rows: texts that were explained: of 3 to 60 words, read whole, and with words that are not all alike to the model before.
        forward_calls: of each side, without those of the ceiling.
        k: size of the top that ``top_k`` compares.
        rank_correlation, top_k: mean Spearman, and mean share of the k most important words that both have, between the two models.
        ceiling_rank, ceiling_top_k: the same of the model before against itself, its words left out instead of masked.
        floor_rank, floor_top_k: the same against random attributions.
        drifts: the rows with the lowest rank correlation among those that are answered alike and that some word moves by 0.01, at most 10.
    """

    rows: int
    forward_calls: int
    k: int
    rank_correlation: float
    top_k: float
    ceiling_rank: float
    ceiling_top_k: float
    floor_rank: float
    floor_top_k: float
    drifts: tuple[Drift, ...] = ()


@dataclass(frozen=True)
class Robustness:
    """Two models on the same disturbed texts. Descriptive, not a certificate.

    Attributes:
        name: of the disturbance, as in ``Subject.robustness``.
        rows: that were disturbed.
        before, after: scores on the disturbed rows.
        drop, low, high: how much worse the score is after, with its paired 90 % interval.
    """

    name: str
    rows: int
    before: float
    after: float
    drop: float
    low: float
    high: float


@dataclass(frozen=True)
class Gate:
    """One limit and whether it is kept.

    Attributes:
        name: e.g. ``latency.p50``, ``accuracy.drop``, ``budget.memory_mb``, ``slice.length=33-64``.
        verdict: one of ``VERDICTS``.
        limit: what is allowed: growth as a share, drop in the score's unit, or the budget's unit.
        value: the point estimate in the same unit; None where there is none.
        low, high: its interval; None where there is none.
        said: one sentence for people.
    """

    name: str
    verdict: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    said: str


@dataclass(frozen=True, repr=False)
class Report(ShortRepr):
    """Everything that a run found.

    Attributes:
        schema: version of this form.
        kind: one of ``KINDS``.
        created: UTC, ISO 8601.
        seed: of all that is drawn.
        samples: digest of the samples, as ``spec/sealed.py`` makes it; ``sha256:HEX`` in reports of earlier releases.
        rows: of them.
        fingerprint: of the machine, at the end of the run.
        subjects: the candidate alone, or the baseline and then the candidate.
        accuracy: of a comparison.
        speed: of a comparison.
        faithfulness: of a comparison in which both sides can be called.
        robustness: of such a comparison.
        gates: of a check; of a report of one bundle, those of the budget.
        notes: what whoever reads it should know, a sentence each.
        include_text: whether texts of samples are in it.
        digest: sha256 of all the rest, hex; how a damaged file is told. Empty before it is written.
    """

    schema: int
    kind: str
    created: str
    seed: int
    samples: str
    rows: int
    fingerprint: Fingerprint
    subjects: tuple[Subject, ...]
    accuracy: Accuracy | None = None
    speed: Speed | None = None
    faithfulness: Faithfulness | None = None
    robustness: tuple[Robustness, ...] = ()
    gates: tuple[Gate, ...] = ()
    notes: tuple[str, ...] = ()
    include_text: bool = False
    digest: str = ""

    @property
    def verdict(self) -> str:
        """The gravest of the gates': regression, over budget, incomparable, inconclusive, pass."""
        found = {gate.verdict for gate in self.gates}
        return next((v for v in (REGRESSION, OVER_BUDGET, INCOMPARABLE, INCONCLUSIVE) if v in found), PASS)

    def exit_code(self, strict: bool = False, allow_incomparable: bool = False) -> int:
        """0 pass, 3 regression or over budget, 4 something gated is incomparable or, with ``strict``, inconclusive.

        Args:
            strict: an inconclusive gate is no pass.
            allow_incomparable: latency and footprint of another machine may stay incomparable. Accuracy may not: its samples are at hand.
        """
        found = {gate.verdict for gate in self.gates}
        if found & {REGRESSION, OVER_BUDGET}:
            return 3
        open_ = [
            g
            for g in self.gates
            if g.verdict == INCOMPARABLE and not (allow_incomparable and g.name.startswith(MACHINES))
        ]
        return 4 if open_ or (INCONCLUSIVE in found and strict) else 0
