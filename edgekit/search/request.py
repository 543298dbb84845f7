"""What a build is asked for, read and checked: first the arguments alone, then the samples that the model says how to read."""

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
from edgekit.spec.protocols import Metric, Modality, Task
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
"""Model of a build: a folder or hub id, a module from Python, or an ONNX file."""

FROM_SAMPLES = "samples"
"""Value of ``vocabulary`` that keeps the tokens of the samples, in place of a file of tokens."""


@dataclass(frozen=True)
class ModelRequest:
    """Which model is built: a folder, a hub id, an ONNX file, or a module from Python.

    Attributes:
        model: Folder, hub id, ONNX file or module.
        revision: Branch, tag or commit of a hub id.
        options: Statements about the model that replace its files, or that a module's config lacks.
    """

    model: ModelSource
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> Source:
        """Reads the model's config; its weights are read when they are needed.

        Raises:
            UsageError: for arguments that do not go together.
            ModelError: see :func:`edgekit.source.read`.
        """
        model, told = self.model, {name: value for name, value in self.options.items() if value is not None}
        if not isinstance(model, (TorchModule, OnnxModel)):
            if is_onnx(model):
                return onnx_file.read(os.fspath(model), None, **told)
            return source.read(os.fspath(model), self.revision, **told)
        if self.revision is not None:
            what = "a module" if isinstance(model, TorchModule) else "an ONNX file"
            raise UsageError(f"revision= is of a hub id, and {what} was given. Leave it out.", code="module-options")
        if isinstance(model, OnnxModel):
            return onnx_file.read(os.fspath(model.file), model.processor, model.task, model.outputs, **told)
        if strange := [name for name in told if name not in source.module_options(model.task)]:
            options = " and ".join(f"'{name}'" for name in strange)
            raise UsageError(
                f"The option {options} is of a model folder, and a module was given, whose processor and config count. Leave it out.",
                code="module-options",
            )
        return source.from_module(model.module, model.processor, model.task, model.outputs, **told)


@dataclass(frozen=True)
class BuildRequest:
    """The arguments of a build, see :func:`edgekit.builder.build`; checked as far as they can be without model and samples.

    Attributes:
        model: Model.
        samples: Calibration samples, a path or a table of rows.
        eval: Labelled samples.
        out: Folder of the bundle, absolute.
        options: Options, whose samples are paths or tables of rows.
        target: Device class, with the budget and the other options that replace its own.
        left_out: Backends of the target that are left out, a sentence each.
        deadline: ``time.monotonic()`` after which no further variation is tried, or None.
        replayed: Record that costs and times are taken from, or None.
        students: Students that compete.
        tokens: Tokens that stay in the vocabulary, or None.
        metric: Metric that replaces the task's first one, or None.
        identity: Name, version and last day of the bundle; empty where not stated.
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
    """The sample files of a build.

    Attributes:
        whole: all rows of the file that calibration rows are chosen from.
        calibration: rows that ranges are taken from.
        evaluation: labelled rows that candidates are scored on.
        test: labelled rows that the winner is scored on once, or None.
        training: rows that students are trained on.
        vocabulary: rows whose tokens stay in the vocabulary.
    """

    whole: Samples
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
    """Reads the arguments of a build and refuses those that cannot be, before anything is loaded. Rows in memory are copied here, once.

    Raises:
        EdgekitError: a subclass says which of target, place, record or options is at fault.
    """
    deadline = None if options.max_time is None else time.monotonic() + options.max_time
    calibration, labelled = collect(samples, "samples"), collect(eval, "eval")
    options = _checked(options)
    place = Path(os.path.abspath(out))
    chosen = targets.with_budget(targets.load(os.fspath(target)), options.budget)
    chosen = checks.settled(chosen, options.keep_float, options.use)
    checks.check_target(chosen)
    if options.rerace and options.race is not None:
        raise UsageError(
            "race= takes times from a record, and rerace=True measures them anew. Give one of them.",
            code="race-or-rerace",
        )
    chosen, left_out = checks.without_wrong(chosen)
    replayed = None if options.race is None else record.read(Path(options.race))
    assemble.check_output(place, options.force)
    check_place(place)
    identity = check_name(options.name or ""), check_version(options.version or ""), check_date(options.expires or "")
    check_replaced(place, identity[0], identity[1], options.allow_downgrade)
    students = _students(model, chosen, options)
    vocabulary = options.vocabulary
    return BuildRequest(
        model=ModelRequest(model, options.revision, options.model_options),
        samples=calibration,
        eval=labelled,
        out=place,
        options=options,
        target=chosen,
        left_out=left_out,
        deadline=deadline,
        replayed=replayed,
        students=students,
        tokens=None if vocabulary in (None, FROM_SAMPLES) else read_tokens(Path(os.fspath(vocabulary))),
        metric=resolve_metric(options.metric),
        identity=identity,
    )


def _checked(options: BuildOptions) -> BuildOptions:
    """Return options whose paths can be paths, and whose rows in memory are copied."""
    for name in ("race", "vocabulary"):
        if getattr(options, name) is not None:
            check_path(getattr(options, name), name)
    test = None if options.test is None else collect(options.test, "test")
    return replace(options, test=test, distill_samples=collect_all(options.distill_samples, "distill_samples"))


def _students(model: ModelSource, target: Target, options: BuildOptions) -> list[Recipe]:
    """Return the students that compete.

    Raises:
        UsageError: for two of one name, for a module from Python, and for a student that is pruned by a clock which this machine does not have.
    """
    students = [parse_recipe(settings) for settings in options.distill]
    names = [student.name for student in students]
    if len(set(names)) < len(names):
        raise UsageError(
            f"Two students would be called '{max(names, key=names.count)}'. Make one with edgekit distill, and give it as student=FOLDER.",
            code="students-same-name",
        )
    if isinstance(model, TorchModule) and (students or options.vocabulary is not None):
        raise UsageError(
            "distill= and vocabulary= take a model folder or a hub id, and a module was given. Save it with save_pretrained() first.",
            code="module-options",
        )
    is_file = isinstance(model, OnnxModel) or (not isinstance(model, TorchModule) and is_onnx(model))
    if is_file and (students or options.vocabulary is not None):
        raise UsageError(
            "distill= and vocabulary= train or change weights, which an ONNX file does not offer. Give the Hugging Face folder as the model.",
            code="onnx-needs-folder",
        )
    if any(student.speedup is not None for student in students):
        checks.check_here(target)
    return students


def read_samples(request: BuildRequest, task: str) -> BuildSamples:
    """Reads the sample files, whose columns are those of the task's modality.

    Raises:
        SamplesError: when one cannot be read.
    """
    modality = modalities.get(tasks.get(task).MODALITY).UNBOUND
    # Labels are not needed for calibration, so a column that is named for them need not be there.
    columns, options = request.options.columns, request.options
    without_labels = {role: column for role, column in columns.items() if role != "label"}
    training = [*options.distill_samples] or [request.samples]
    words = [request.samples, *options.distill_samples] if options.vocabulary == FROM_SAMPLES else []
    whole = _read(request.samples, without_labels, modality)
    return BuildSamples(
        whole=whole,
        calibration=whole.take(options.calibration_rows, options.seed),
        evaluation=_read(request.eval, columns, modality),
        test=None if options.test is None else _read(options.test, columns, modality),
        training=read_training_samples(training, columns, modality) if request.students else [],
        vocabulary=[_read(file, without_labels, modality) for file in words],
    )


def check_samples(request: BuildRequest, files: BuildSamples, task: Task) -> None:
    """Refuses rows that a session would refuse, and rows that say too little.

    Raises:
        SamplesError: with the file and what it lacks.
    """
    checks.check_calibration(task, files.calibration, request.target)
    if request.options.strict:
        checks.check_strict(task, request.target, files.evaluation)
    checks.check_rows(task, (files.whole, files.evaluation, files.test, *files.training))


def _read(file: SampleSource, columns: Mapping[str, str], modality: Modality) -> Samples:
    return samples.read(file, columns, modality=modality)
