"""Results of a comparison of two bundles: frozen data, the parts of a report.

*Before* is the baseline (or the teacher), *after* is the candidate. A ratio is after over before, so a ratio above 1 is
slower or larger. Texts of samples are only included if ``Report.include_text`` is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Accuracy", "Change", "Drift", "Faithfulness", "Flip", "Recall", "Robustness", "Slice", "Speed"]


@dataclass(frozen=True)
class Change:
    """Ratio of one metric, after over before, with its uncertainty.

    Attributes:
        metric: ``p50``, ``p90``, ``p99``, ``first_answer``, ``memory``, ``size`` or ``energy``.
        before, after: Values in ``unit``; None if they cannot be estimated.
        unit: ``ms``, ``MB`` or ``mJ``.
        ratio: Ratio of after to before; None if there is none.
        low, high: Ends of the two-sided 90 % interval, widened for repeated looks at the data; equal to ``ratio`` if
            the value is not random.
        resolvable: Smallest growth, as a share (0.03 is 3 %), that this run detects against a margin of 0 with a power
            of 80 %.
        said: Reason why there is no ratio, e.g. ``not estimable from 300 samples (needs 662)``; else empty.
        sessions: Number of timing sessions of a baseline from a file; 0 if both sides ran interleaved.
        spread: Standard deviation between the sessions of such a baseline, of the logarithm, as used for the interval;
            None if both sides ran interleaved.
        probe: Probe kernel that normalizes the latencies of both sides: ``both`` for the geometric mean of the INT8 and
            float32 kernels, ``start`` for the start of the probe process; empty if the latencies are not normalized.
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
    """Latency and footprint of two bundles.

    Attributes:
        paired: True if both ran interleaved in this run; False if ``before`` comes from a file.
        changes: Change of each metric.
        pairs: Number of process pairs.
        blocks: Number of text blocks that both sides answered.
        calls: Number of calls per side.
        looks: Number of looks at the data for a decision.
        seconds: Duration of the timing, in seconds.
        comparable: True if the latencies are comparable.
        why_not: Difference that makes them incomparable, a sentence; else empty.
        noise_floor: Largest growth, as a share, that the noise of this machine alone can produce, by metric, from a
            self-check; empty without one.
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
    """A row with different answers.

    Attributes:
        id: Keyed hash of the row.
        row: Position of the row in the samples, from 1.
        truth: True label (several are joined by ``|``) or number.
        before, after: Answers of the two models.
        margin_before, margin_after: Lead of the answer over the runner-up, 0 to 1; None if answers have no probability.
        text: Text of the row, only with ``include_text``.
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
        column, value: Column name and its value.
        rows: Number of rows.
        before, after: Scores; None if they are not defined on these rows.
        drop, low, high: Loss of score, with the ends of its 90 % interval; None if ``before`` is None.
        p_value: Two-sided p-value of the exact McNemar test, or of approximate randomization if the score is not a mean
            of correct rows; None if it is not defined.
        p_holm: ``p_value`` adjusted by Holm over all slices of the report; None if ``p_value`` is None.
        said: Reason why the slice was not tested, e.g. ``1 row``; else empty.
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
    """Recall of one label: share of the items with the label that are answered with it.

    Attributes:
        label: Name of the label.
        rows: Number of items with the label.
        before, after: Recalls of the two models.
        losses, gains: Number of these items that only the model before, or only the model after, answers with it.
        p_holm: One-sided exact p-value against "the recall falls by no more than the margin", adjusted by Holm over all
            labels.
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
    """Scores of two models on the same rows.

    Attributes:
        rows: Number of rows.
        score_name: Name of the score.
        higher_is_better: Direction of the score; False for an error rate.
        before, after: Scores of the two models.
        drop, low, high: Loss of score, with the ends of its two-sided 90 % interval (each is a one-sided 95 % bound).
        losses, gains: Number of rows that only the model before, or only the model after, answers correctly; None if
            the score is not a mean of correct rows.
        p_value: Two-sided p-value of the exact McNemar test; of approximate randomization if ``losses`` is None.
        flips: Number of rows with different answers.
        flipped: First 200 of these rows, ordered by ``margin_before``, the largest first.
        divergence_mean, divergence_p95: Divergence of the answers after from those before, per row, in the task's unit
            (nats if answers have probabilities).
        calibration_before, calibration_after: Expected calibration error, 0 to 1; None if answers have no probability.
        resolvable: Smallest true drop that this set detects against a margin of 0 with a power of 80 %, at the observed
            discordance.
        margin: Margin of the gate that ``rows_needed`` refers to; None if there is no gate.
        rows_needed: Number of rows that would decide ``margin`` at the observed drop and discordance; None if no number
            would, or there is no gate.
        slices: Results by the values of columns.
        comparable: True if both models answered the same samples.
        why_not: Difference that makes them incomparable, a sentence; else empty.
        inputs: Number of different inputs among the rows. Rows with equal inputs count once in all statistics.
        identical: True if all outputs of both models are bit-identical.
        fewest: Least number of inputs that can decide the margin, if no answer differs; None if it is not known.
        error_before, error_after: Mean absolute error of numbers, in standard deviations of the labels; None for labels
            that are not numbers.
        error_low, error_high: Ends of the 90 % interval of its growth.
        deviation: Standard deviation of the labels.
        recalls: Recall of each label, if the labels are unbalanced.
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
        """Number of different inputs; the number of rows for reports of releases without ``inputs``."""
        return self.inputs or self.rows

    @property
    def undecidable_reason(self) -> str:
        """Reason why these rows cannot decide the margin, with the number that could; empty if they can."""
        if self.identical or self.fewest is None or self.inputs >= self.fewest or self.margin is None:
            return ""
        return (
            f"{self.inputs:,} different inputs cannot decide a drop of {self.margin:g}, even if no answer differs: "
            f"at least {self.fewest:,} are needed."
        )

    @property
    def is_decided(self) -> bool:
        """Whether the interval lies on one side of the margin, or the outputs are identical."""
        if self.identical:
            return True
        if self.margin is None or self.low is None or self.high is None:
            return False
        return self.high <= self.margin or self.low > self.margin


@dataclass(frozen=True)
class Drift:
    """Occlusion attributions of one answer on both sides.

    The attribution of a word is what it adds to the support (usually the probability) of the answer before.

    Attributes:
        id: Keyed hash of the row.
        row: Position of the row in the samples, from 1.
        answer: Answer that is explained.
        words: Words of the text, only with ``include_text``; else empty.
        before, after: Support with all words minus support without the word, per word.
        rank_correlation: Spearman correlation of the two.
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
    """Agreement of the occlusion attributions of both sides. Descriptive, not a certificate.

    Attributes:
        rows: Number of explained texts: those with 3 to 60 words, not truncated, and with attributions before that
            differ between words.
        forward_calls: Number of forward calls per side, without those for the ceiling.
        k: Size of the top that ``top_k`` compares.
        rank_correlation, top_k: Mean Spearman correlation, and mean share of common words among the k most important
            ones, between the two models.
        ceiling_rank, ceiling_top_k: Same values for the model before against itself, with words removed instead of
            masked.
        floor_rank, floor_top_k: Same values against random attributions.
        drifts: Rows with the lowest rank correlation, at most 10, among those with equal answers and a word whose
            attribution is at least 0.01.
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
    """Scores of two models on the same perturbed texts. Descriptive, not a certificate.

    Attributes:
        name: Name of the perturbation, as in ``Subject.robustness``.
        rows: Number of perturbed rows.
        before, after: Scores on the perturbed rows.
        drop, low, high: Loss of score after, with the ends of its paired 90 % interval.
    """

    name: str
    rows: int
    before: float
    after: float
    drop: float
    low: float
    high: float
