"""The request of a build: its arguments are checked first, and its samples are read once the model is known."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import modalities, samples, source, tasks
from edgekit.bundle import assemble
from edgekit.bundle.install import check_replaced
from edgekit.bundle.place import check_place
from edgekit.compress.distill import read_training_samples
from edgekit.compress.recipe import Recipe, parse_recipe
from edgekit.compress.vocabulary import read_tokens
from edgekit.export import onnx_file
from edgekit.export.onnx_file import is_onnx
from edgekit.samples import Samples, collect, collect_all
from edgekit.search import checks, record
from edgekit.source import Source
from edgekit.spec import target as targets
from edgekit.spec.errors import UsageError
from edgekit.spec.identity import check_date, check_name, check_version
from edgekit.spec.options import BuildOptions, OnnxModel, TorchModule
from edgekit.spec.paths import check_path
from edgekit.spec.protocols import Metric, Task
from edgekit.spec.sources import FilePath, SampleSource
from edgekit.spec.target import Target
from edgekit.spec.user_metric import FunctionMetric, resolve_metric

__all__ = [
    "FROM_SAMPLES",
    "BuildRequest",
    "BuildSamples",
    "ModelRequest",
    "ModelSource",
    "check_samples",
    "read_request",
    "read_samples",
]

ModelSource = FilePath | TorchModule | OnnxModel
"""Model of a build: a folder or hub id, a torch module, or an ONNX file."""

FROM_SAMPLES = "samples"
"""Value of the option ``vocabulary`` that keeps the tokens of the samples, in place of a file of tokens."""


@dataclass(frozen=True)
class ModelRequest:
    """The model of a build, before it is read.

    Attributes:
        model: Folder, hub id, ONNX file or torch module.
        revision: Branch, tag or commit of a hub id.
        options: Options of the model's head and processor that override its files, or that the config of a module
            lacks. Options that are None are ignored.
    """

    model: ModelSource
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> Source:
        """Read the model's config. Its weights are read when they are first needed.

        Raises:
            UsageError: The arguments do not go together.
            ModelError: The model cannot be read, see :func:`edgekit.source.read`.
        """
        model = self.model
        options = {name: value for name, value in self.options.items() if value is not None}
        if not isinstance(model, (TorchModule, OnnxModel)):
            if is_onnx(model):
                return onnx_file.read(os.fspath(model), None, **options)
            return source.read(os.fspath(model), self.revision, **options)
        if self.revision is not None:
            kind = "a torch module" if isinstance(model, TorchModule) else "an ONNX file"
            raise UsageError(
                f"revision= applies to hub ids only, but the model is {kind}. Omit it.", code="module-options"
            )
        if isinstance(model, OnnxModel):
            return onnx_file.read(os.fspath(model.file), model.processor, model.task, model.outputs, **options)
        unknown = [name for name in options if name not in source.module_options(model.task)]
        if unknown:
            names = " and ".join(f"'{name}'" for name in unknown)
            raise UsageError(
                f"The option {names} applies to model folders only, but the model is a torch module. "
                "Omit it; the processor and config of the module are used as they are.",
                code="module-options",
            )
        return source.from_module(model.module, model.processor, model.task, model.outputs, **options)


@dataclass(frozen=True)
class BuildRequest:
    """The arguments of a build, checked as far as possible without model and samples.

    See :func:`edgekit.builder.build`.

    Attributes:
        model: Model of the build.
        samples: Calibration samples, a path or a table of rows.
        eval: Labelled samples.
        out: Absolute path of the bundle folder.
        options: Options of the build. Their samples are paths or tables of rows.
        target: Device class, with the budget and the other options that replace its settings.
        left_out: Notes on backends of the target that the build leaves out, one sentence each.
        deadline: Time, as in ``time.monotonic()``, after which no further variation is tried. None for no limit.
        replayed: Record that supplies costs and times in place of a measurement, or None.
        students: Students that compete with the model.
        tokens: Tokens that stay in the vocabulary, or None.
        metric: Metric that replaces the task's first one, or None.
        identity: Name, version and expiry date of the bundle. Each is empty if not stated.
    """

    model: ModelRequest
    samples: SampleSource
    eval: SampleSource
    out: Path
    options: BuildOptions
    target: Target
    left_out: Sequence[str]
    deadline: float | None
    replayed: record.Record | None
    students: Sequence[Recipe]
    tokens: Sequence[str] | None
    metric: FunctionMetric | Metric | None
    identity: tuple[str, str, str]


@dataclass(frozen=True)
class BuildSamples:
    """The samples of a build.

    Attributes:
        pool: All rows of the source from which the calibration rows are chosen.
        calibration: Rows for quantization ranges.
        evaluation: Labelled rows on which candidates are scored.
        test: Labelled rows on which the winner is scored once, or None.
        training: Rows on which students are trained.
        vocabulary: Rows whose tokens stay in the vocabulary.
    """

    pool: Samples
    calibration: Samples
    evaluation: Samples
    test: Samples | None
    training: Sequence[Samples]
    vocabulary: Sequence[Samples]


def read_request(
    model: ModelSource,
    *,
    samples: SampleSource,
    eval: SampleSource,
    out: FilePath,
    target: FilePath,
    options: BuildOptions,
) -> BuildRequest:
    """Check the arguments of a build before anything is loaded, and copy rows in memory.

    Args:
        model: Folder, hub id, ONNX file or torch module.
        samples: Calibration samples.
        eval: Labelled samples.
        out: Folder of the bundle.
        target: Name of a target, or a TOML file.
        options: Options of the build.

    Raises:
        EdgekitError: Target, output folder, race record or options are at fault; the subclass says which.
    """
    deadline = None if options.max_time is None else time.monotonic() + options.max_time
    calibration_source = collect(samples, "samples")
    evaluation_source = collect(eval, "eval")
    options = _collect_options(options)
    destination = Path(os.path.abspath(out))
    device_class = targets.with_budget(targets.load(os.fspath(target)), options.budget)
    device_class = checks.resolve_target(device_class, options.keep_float, options.use)
    checks.check_target(device_class)
    if options.rerace and options.race is not None:
        raise UsageError(
            "race= takes times from a record, and rerace=True measures them again. Pass only one of them.",
            code="race-or-rerace",
        )
    device_class, left_out = checks.without_wrong(device_class)
    replayed = None if options.race is None else record.read(Path(options.race))
    assemble.check_output(destination, options.force)
    check_place(destination)
    name = check_name(options.name or "")
    version = check_version(options.version or "")
    expires = check_date(options.expires or "")
    check_replaced(destination, name, version, options.allow_downgrade)
    students = _read_students(model, device_class, options)
    tokens = None
    if options.vocabulary is not None and options.vocabulary != FROM_SAMPLES:
        tokens = read_tokens(Path(os.fspath(options.vocabulary)))
    return BuildRequest(
        model=ModelRequest(model, options.revision, options.model_options),
        samples=calibration_source,
        eval=evaluation_source,
        out=destination,
        options=options,
        target=device_class,
        left_out=left_out,
        deadline=deadline,
        replayed=replayed,
        students=students,
        tokens=tokens,
        metric=resolve_metric(options.metric),
        identity=(name, version, expires),
    )


def _collect_options(options: BuildOptions) -> BuildOptions:
    """Check the paths of the options, and return the options with copies of rows in memory."""
    for name in ("race", "vocabulary"):
        if getattr(options, name) is not None:
            check_path(getattr(options, name), name)
    test = None if options.test is None else collect(options.test, "test")
    return replace(options, test=test, distill_samples=collect_all(options.distill_samples, "distill_samples"))


def _read_students(model: ModelSource, target: Target, options: BuildOptions) -> list[Recipe]:
    """Return the students that compete with the model.

    Raises:
        UsageError: Two students have the same name; the model is a torch module or an ONNX file, which has no students
            and no vocabulary option; or a student is pruned for a target whose backends cannot be timed here.
    """
    students = [parse_recipe(settings) for settings in options.distill]
    names = [student.name for student in students]
    if len(set(names)) < len(names):
        raise UsageError(
            f"Two students have the name '{max(names, key=names.count)}'. "
            "Create one of them with edgekit distill, and pass it as student=FOLDER.",
            code="students-same-name",
        )
    changes_model = bool(students) or options.vocabulary is not None
    if isinstance(model, TorchModule) and changes_model:
        raise UsageError(
            "distill= and vocabulary= need a model folder or a hub id, but the model is a torch module. "
            "Save it with save_pretrained() first.",
            code="module-options",
        )
    is_file = isinstance(model, OnnxModel) or (not isinstance(model, TorchModule) and is_onnx(model))
    if is_file and changes_model:
        raise UsageError(
            "distill= and vocabulary= train or change weights, which is not possible with an ONNX file. "
            "Pass the Hugging Face folder as the model.",
            code="onnx-needs-folder",
        )
    if any(student.speedup is not None for student in students):
        checks.check_here(target)
    return students


def read_samples(request: BuildRequest, task: str) -> BuildSamples:
    """Read the samples of a build. Their columns depend on the modality of the task.

    Args:
        request: Build request.
        task: Name of the model's task.

    Raises:
        SamplesError: A file cannot be read.
    """
    modality = modalities.get(tasks.get(task).MODALITY).UNBOUND
    options = request.options
    columns = options.columns
    # Calibration needs no labels, so the column that is named for labels may be absent.
    columns_without_label = {role: column for role, column in columns.items() if role != "label"}

    def read_unlabelled(file: SampleSource) -> Samples:
        return samples.read(file, columns_without_label, modality=modality)

    def read_labelled(file: SampleSource) -> Samples:
        return samples.read(file, columns, modality=modality)

    pool = read_unlabelled(request.samples)
    calibration = pool.take(options.calibration_rows, options.seed)
    evaluation = read_labelled(request.eval)
    test = None if options.test is None else read_labelled(options.test)
    training: Sequence[Samples] = []
    if request.students:
        training = read_training_samples([*options.distill_samples] or [request.samples], columns, modality)
    vocabulary: list[Samples] = []
    if options.vocabulary == FROM_SAMPLES:
        vocabulary = [read_unlabelled(file) for file in (request.samples, *options.distill_samples)]
    return BuildSamples(pool, calibration, evaluation, test, training, vocabulary)


def check_samples(request: BuildRequest, files: BuildSamples, task: Task) -> None:
    """Check that a session would accept all rows, and that there are enough of them.

    Args:
        request: Build request.
        files: Samples of the build.
        task: Task of the model.

    Raises:
        SamplesError: A source has invalid rows or too few rows. The message names the source and what is missing.
    """
    checks.check_calibration(task, files.calibration, request.target)
    if request.options.strict:
        checks.check_strict(task, request.target, files.evaluation)
    checks.check_rows(task, (files.pool, files.evaluation, files.test, *files.training))
