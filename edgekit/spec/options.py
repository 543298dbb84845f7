"""Options of the public functions.

The command line, ``edgekit.toml``, the pytest plugin and the Python API read the same classes. A field has one name and
one default everywhere. Required values (model, samples, output) are parameters of the functions. A field whose metadata
``key`` is False is not a key of the table in ``edgekit.toml``: it is set elsewhere in the file, or not in it at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.spec.gates import Gates
from edgekit.spec.sources import FilePath, SampleSource
from edgekit.spec.training import RECOVERY, Training
from edgekit.spec.user_metric import MetricSource

__all__ = [
    "CALIBRATION_ROWS", "CHECK_SECONDS", "BaselineOptions", "BenchOptions", "BuildOptions", "CheckOptions",
    "CompareOptions", "DeployOptions", "DistillOptions", "EvaluateOptions", "MeasureOptions", "ModuleDistillOptions",
    "OnnxModel", "PredictOptions", "PruneOptions", "TorchModule", "TrimVocabOptions",
]  # fmt: skip

CALIBRATION_ROWS = 300
"""Default number of rows for calibration."""

CHECK_SECONDS = 30.0
"""Default limit of the timing while a gate is undecided, seconds."""

_NOT_A_KEY: Mapping[str, Any] = {"key": False}


@dataclass(frozen=True, kw_only=True)
class TorchModule:
    """A torch module with its own head, in place of a folder or a hub id.

    Attributes:
        module: Torch module, called with the processor's arrays by keyword (``input_ids``, ``attention_mask`` ...). Its
            ``config`` describes the outputs (for labels ``id2label``).
        processor: Fast tokenizer or image processor of Transformers that the module was trained with.
        task: Name of the task; None for the one that the module's class is named after.
        outputs: Form of the outputs, e.g. ``probabilities`` of a module that ends in a softmax; None for the usual form
            of the task.
    """

    module: Any
    processor: Any
    task: str | None = None
    outputs: str | None = None


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """A model as an ONNX file in place of a folder or a hub id.

    Attributes:
        file: ONNX file (``model.onnx``), whose output holds the raw score of each label, float32. The file itself,
            run by ONNX Runtime in float32, is the reference of the build.
        processor: Hugging Face folder with the config, which names the labels, and the tokenizer or image processor.
        task: Name of the task; None for the one that ``architectures`` of the config names.
        outputs: Form of the outputs; None for raw scores, checked not to look like probabilities.
    """

    file: FilePath
    processor: FilePath | None
    task: str | None = None
    outputs: str | None = None


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of :func:`edgekit.build`.

    Attributes:
        test: Labelled rows that the chosen candidate is scored on once, after the choice; None for no test set.
        revision: Branch, tag or commit of a hub id.
        columns: Role (``text``, ``text_pair``, ``label``) to column name, for all samples.
        budget: Limits that replace those of the target, e.g. ``{"accuracy_drop": 0.005}``.
        strict: Whether the one-sided 95 % upper bound of the accuracy drop must be within the budget, not only the
            observed drop.
        keep_float: Layers that stay in float, beside those of the target; ``*`` stands for any characters.
        use: ``latency`` or ``throughput``; None for the target's.
        max_time: Seconds from the start after which no further variation is tried and the race ends; None for no limit.
        race: ``race.json`` of an earlier bundle of the same build, whose times replace new measurements.
        rerace: Whether cached times are measured again. Times older than 7 days, or of a busy machine, always are.
        no_cache: Whether the build neither reads nor writes the build cache.
        distill: Students that compete with the model, each with the keys of ``edgekit.compress.recipe``, e.g.
            ``{"layers": 3}``.
        distill_samples: Training samples of students, with or without labels; empty for all calibration samples.
        vocabulary: ``samples`` to keep only the tokens of the samples (and those that any other text needs), or a file
            of tokens.
        model_options: Options of the model's head and processor that replace statements of its files, e.g.
            ``{"tokenizer": "file"}``. In ``edgekit.toml`` they are keys of ``[build]``.
        accept_reference: Whether the build goes on where the torch model is no better than chance, or another numbering
            of its labels fits better.
        calibration_rows: Rows drawn from the samples for calibration.
        seed: Random seed for that draw.
        metric: Metric that replaces the task's first one in the budget and in the choice; the task's metrics are scored
            too. A function of (predictions, truths), a :class:`edgekit.FunctionMetric`, a ``Metric``, or
            ``package.module:name``; None for the task's own.
        force: Whether a bundle at ``out`` is replaced.
        name: Name of the bundle; later, only a bundle of this name that is no older replaces it.
        version: Version of the bundle, whole numbers between dots.
        expires: Last day (``2027-06-30``, UTC) on which the bundle may be installed.
        allow_downgrade: Whether a bundle of another name, or a newer one, may be replaced.
    """

    test: SampleSource | None = field(default=None, metadata=_NOT_A_KEY)
    revision: str | None = field(default=None, metadata=_NOT_A_KEY)
    columns: Mapping[str, str] = field(default_factory=dict, metadata=_NOT_A_KEY)
    budget: Mapping[str, float] = field(default_factory=dict, metadata=_NOT_A_KEY)
    strict: bool = False
    keep_float: tuple[str, ...] = ()
    use: str | None = None
    max_time: float | None = None
    race: FilePath | None = field(default=None, metadata=_NOT_A_KEY)
    rerace: bool = False
    no_cache: bool = False
    distill: tuple[Mapping[str, Any], ...] = ()
    distill_samples: Sequence[SampleSource] = field(default=(), metadata={"hint": tuple[str, ...]})
    vocabulary: FilePath | None = field(default=None, metadata={"hint": str | None})
    model_options: Mapping[str, str] = field(default_factory=dict)
    accept_reference: bool = False
    calibration_rows: int = CALIBRATION_ROWS
    seed: int = field(default=0, metadata=_NOT_A_KEY)
    metric: MetricSource = field(default=None, metadata={"hint": str | None})
    force: bool = field(default=False, metadata=_NOT_A_KEY)
    name: str | None = None
    version: str | None = None
    expires: str | None = None
    allow_downgrade: bool = field(default=False, metadata=_NOT_A_KEY)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of :func:`edgekit.compare`.

    Attributes:
        columns: Role to column name.
        slices: Columns whose values are scored apart, beside input size (if it varies) and label (if each row has one).
        gates: Gates, or a TOML file of them; None for the default margins.
        include_text: Whether the report shows texts of the samples.
        backend: Name of one of the bundle's backends; None for its best one.
        max_time: Limit of the timing while a gate is undecided, seconds.
        seed: Random seed for sampling and bootstrap.
        metric: Metric that replaces the task's first one, see :class:`BuildOptions`; None for the task's own. Gates use
            it too.
    """

    columns: Mapping[str, str] = field(default_factory=dict, metadata=_NOT_A_KEY)
    slices: tuple[str, ...] = field(default=(), metadata=_NOT_A_KEY)
    gates: Gates | FilePath | None = field(default=None, metadata=_NOT_A_KEY)
    include_text: bool = field(default=False, metadata=_NOT_A_KEY)
    backend: str | None = field(default=None, metadata=_NOT_A_KEY)
    max_time: float = CHECK_SECONDS
    seed: int = field(default=0, metadata=_NOT_A_KEY)
    metric: MetricSource = field(default=None, metadata={"hint": str | None})


@dataclass(frozen=True, kw_only=True)
class CheckOptions(CompareOptions):
    """Options of :func:`edgekit.check`; those of :class:`CompareOptions`, and those that decide pass and fail.

    Attributes:
        strict: Whether a gate that stays inconclusive fails.
        allow_incomparable: Whether latency, start, memory and energy may stay incomparable (baseline of another
            machine).
        self_check: Whether the noise of the machine is measured first, and margins below it are refused.
        report: Folder that all forms of the report are written to; None for none.
        keys: Public keys, one of which must have signed the bundles; empty to ask for no signature.
    """

    strict: bool = False
    allow_incomparable: bool = False
    self_check: bool = False
    report: FilePath | None = field(default=None, metadata={"hint": str | None})
    keys: tuple[FilePath, ...] = field(default=(), metadata={"hint": tuple[str, ...]})


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of :func:`edgekit.evaluate`.

    Attributes:
        columns: Role to column name.
        slices: Columns whose values are scored apart.
        backend: Name of one of the bundle's backends; None for its best one.
        threads: Threads of one call, on a GPU calls at the same time; None for the tuned number.
        metric: Metric that replaces the task's first one, see :class:`BuildOptions`; None for the task's own.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[str, ...] = ()
    backend: str | None = None
    threads: int | None = None
    metric: MetricSource = None


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(CompareOptions):
    """Options of :func:`edgekit.measure`; those of :class:`CompareOptions`, of which ``gates`` None gates nothing.

    Attributes:
        reference: Model that answers are compared with, as in :func:`edgekit.compare`; None to describe the bundle
            alone.
        scenarios: Scenarios of MLPerf by name; None for all.
        server_bound_ms: Bound of the Server scenario's 99th percentile, ms; None for 10 times the SingleStream median.
        threads: Threads of one call, on a GPU calls at the same time; None for the tuned number.
    """

    reference: Any = None
    scenarios: Sequence[str] | None = None
    server_bound_ms: float | None = None
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """Options of :func:`edgekit.baseline`.

    Attributes:
        columns: Role to column name.
        backend: Name of one of the bundle's backends; None for its best one.
        threads: Threads of one call, on a GPU calls at the same time; None for the tuned number.
        metric: Metric that replaces the task's first one, see :class:`BuildOptions`; None for the task's own.
        append: Whether the sessions of the baseline that is in the file are kept, and this one is added.
        seed: Random seed for the order of inputs.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    backend: str | None = None
    threads: int | None = None
    metric: MetricSource = None
    append: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Options of :func:`edgekit.distill`. Exactly one of ``layers``, ``keep`` and ``student`` says what the student is.

    Attributes:
        layers: Number of the teacher's layers that the student has, evenly spread, the first and the last among them.
        keep: Indices of those layers, from 0.
        student: Folder or hub id of a student of another architecture, with the teacher's labels.
        revision: Branch, tag or commit of the teacher's hub id.
        columns: Role (``label``, and those of the model's inputs, e.g. ``text``) to column name, for all samples.
        training: Settings of the training.
        force: Whether a student at ``out`` is replaced.
    """

    layers: int | None = None
    keep: Sequence[int] | None = None
    student: FilePath | None = None
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class ModuleDistillOptions:
    """Options of :func:`edgekit.compress.distill.distill_module`.

    Exactly one of ``layers``, ``keep`` and ``student`` says what the student is.

    Attributes:
        layers: Number of the teacher's layers that the student has.
        keep: Indices of those layers, from 0.
        student: Torch module that is trained in place.
        pads: Input name to the value that fills rows which are shorter than others along their first axis.
        task: Name of the task whose outputs and losses the module has, or an objective of the caller; None for the task
            that the module's class is named after.
        score: Function of outputs and labels to a score, higher is better; None for minus the task's mean loss.
        training: Settings of the training; ``copies`` plays no part, since altered versions are of texts.
        work: Folder for the state after each epoch, from which a killed call goes on; None to keep none.
        model_options: Meaning of the module's outputs in place of its config: options of the task's head.
    """

    layers: int | None = None
    keep: Sequence[int] | None = None
    student: Any = None
    pads: Mapping[str, float] = field(default_factory=dict)
    task: Any = None
    score: Any = None
    training: Training = field(default_factory=Training)
    work: FilePath | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Options of :func:`edgekit.prune`.

    Attributes:
        target: Name of the target whose backend is timed, or a TOML file.
        revision: Branch, tag or commit of a hub id.
        columns: Role (``text``, ``text_pair``, ``label``) to column name, for all samples.
        training: Settings of the recovery.
        recover: Whether accuracy is regained by distillation; False to leave the remaining weights as they are.
        force: Whether a model of EdgeKit at ``out`` is replaced.
    """

    target: FilePath = "cpu"
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    training: Training = RECOVERY
    recover: bool = True
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class TrimVocabOptions:
    """Options of :func:`edgekit.trim_vocab`.

    Attributes:
        revision: Branch, tag or commit of a hub id.
        columns: Role (``text``, ``text_pair``) to column name, for all samples.
        force: Whether such a folder at ``out`` is replaced.
    """

    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of :func:`edgekit.predict`.

    Attributes:
        columns: Role to column name.
        keep: Columns of the input that are copied to the output, before the predictions.
        scores: Whether each label's score is written.
        top_k: Number of labels with the highest scores that are written, with their scores; None for none.
        threshold: Lowest score of a label, 0 to 1; None for the model's decision (0.5 where a row may have several
            labels).
        skip_errors: Whether a row that cannot be predicted gets its error in the column ``error``; else the run ends.
        force: Whether a file at the output is replaced.
        backend: Name of one of the bundle's backends; None for its best one.
        threads: Threads of one call, on a GPU calls at the same time; None for the tuned number.
        max_characters: Limit of a text in characters, see :func:`edgekit.load`.
        truncate: Whether a longer text is cut.
        batch: Rows that are read, predicted and written at a time.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    scores: bool = False
    top_k: int | None = None
    threshold: float | None = None
    skip_errors: bool = False
    force: bool = False
    backend: str | None = None
    threads: int | None = None
    max_characters: int | None = None
    truncate: bool = False
    batch: int = 256


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of :func:`edgekit.bench`.

    Attributes:
        batches: Rows of a call.
        lengths: Tokens of a row, special tokens included; unused for rows of one shape.
        seconds: Seconds for each pair of batch and length.
        backend: Name of one of the bundle's backends; None for its best one.
        threads: Threads of one call, on a GPU calls at the same time; None for the tuned number.
    """

    batches: Sequence[int] = (1, 8, 32)
    lengths: Sequence[int] = (16, 32, 64, 128)
    seconds: float = 1.0
    backend: str | None = None
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """Options of :func:`edgekit.deploy.deploy`, and of everything else that logs in to a device.

    Attributes:
        python: Python on the device: a name on the PATH, or a path, relative to the login's home.
        keys: Public keys, one of which must have signed the bundle; empty to ask for no signature. The device checks
            the signature too, with copies of them.
        revoked: File with the fingerprints of keys that are no longer trusted; it needs ``keys``.
        allow_downgrade: Whether a bundle of another name, or a newer one, may be replaced.
        identity: Private key for the login; None for those that ssh finds.
        ssh_options: Further arguments of ssh and scp.
    """

    python: str = "python3"
    keys: Sequence[FilePath] = ()
    revoked: FilePath | None = None
    allow_downgrade: bool = False
    identity: FilePath | None = None
    ssh_options: Sequence[str] = ()
