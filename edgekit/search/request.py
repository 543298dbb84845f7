"""What a build is asked for, read and checked: first the arguments alone, then the samples that the model says how to read."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import modalities, samples, source, tasks
from edgekit.bundle import assemble
from edgekit.bundle.install import check_replaced
from edgekit.bundle.place import check_place
from edgekit.compress.distill import lesson
from edgekit.compress.recipe import Recipe, recipe
from edgekit.compress.vocabulary import read_tokens
from edgekit.export import onnx_file
from edgekit.export.onnx_file import is_onnx
from edgekit.samples import Samples
from edgekit.search import checks, record
from edgekit.search.checks import CALIBRATION_ROWS
from edgekit.source import Source
from edgekit.spec import target as targets
from edgekit.spec.errors import UsageError
from edgekit.spec.identity import check_date, check_name, check_version
from edgekit.spec.protocols import Modality, Task
from edgekit.spec.target import Target

__all__ = [
    "FROM_SAMPLES",
    "BuildRequest",
    "BuildSamples",
    "FilePath",
    "ModelRequest",
    "check_samples",
    "read_request",
    "read_samples",
]

FilePath = str | os.PathLike[str]
FROM_SAMPLES = "samples"
"""The vocabulary of the samples, in place of a file of tokens."""


@dataclass(frozen=True)
class ModelRequest:
    """Which model: a folder or a hub id, an ONNX file, or a module from Python.

    Attributes:
        model: folder, hub id, or ONNX file; None with ``module``.
        revision: branch, tag or commit of a hub id.
        module: torch module with a head of one's own.
        processor: its tokenizer or image processor; of an ONNX file the folder of its config and processor.
        task: name of its task; by default the one that the module's class is named after.
        outputs: what it returns, see :func:`edgekit.source.from_module`.
        told: what the user says of a folder in place of its files, or of a module.
    """

    model: FilePath | None
    revision: str | None = None
    module: Any = None
    processor: Any = None
    task: str | None = None
    outputs: str | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> Source:
        """Reads the model's config; its weights are read when they are needed.

        Raises:
            UsageError: for arguments that do not go together.
            ModelError: see :func:`edgekit.source.read`.
        """
        if (self.model is None) == (self.module is None):
            raise UsageError(
                "Give either a model (folder or hub id) or module= and processor=, not both and not neither.",
                code="model-or-module",
            )
        told = {name: value for name, value in self.told.items() if value is not None}
        if is_onnx(self.model):
            if self.revision is not None:
                raise UsageError(
                    "revision= is of a hub id, and an ONNX file was given. Leave it out.", code="module-options"
                )
            return onnx_file.read(os.fspath(self.model or ""), self.processor, self.task, self.outputs, **told)
        if self.model is None:
            if self.revision is not None:
                raise UsageError(
                    "revision= is of a hub id, and a module was given. Leave it out.", code="module-options"
                )
            if strange := [name for name in told if name not in source.module_options(self.task)]:
                options = " and ".join(f"{name}=" for name in strange)
                raise UsageError(
                    f"{options} goes with a model folder, and a module was given, whose processor and config count. Leave it out.",
                    code="module-options",
                )
            return source.from_module(self.module, self.processor, self.task, self.outputs, **told)
        if self.processor is not None or self.task is not None or self.outputs is not None:
            raise UsageError(
                "processor=, task= and outputs= go with module= or an ONNX file, and a folder or hub id was given, which brings its own. Leave them out.",
                code="module-options",
            )
        return source.read(os.fspath(self.model), self.revision, **told)


@dataclass(frozen=True)
class BuildRequest:
    """The arguments of a build, see :func:`edgekit.builder.build`; checked as far as they can be without model and samples.

    Attributes:
        target: device class, with the budget and the other options that replace its own.
        left_out: backends of the target that are left out, a sentence each.
        deadline: ``time.monotonic()`` after which no further variation is tried, or None.
        replayed: record that costs and times are taken from, or None.
        students: students that compete.
        tokens: tokens that stay in the vocabulary, or None.
    """

    model: ModelRequest
    samples: FilePath
    eval: FilePath
    out: Path
    test: FilePath | None
    target: Target
    left_out: Sequence[str]
    deadline: float | None
    replayed: record.Record | None
    columns: Mapping[str, str]
    students: Sequence[Recipe]
    distill_samples: Sequence[FilePath]
    vocabulary: FilePath | None
    tokens: Sequence[str] | None
    strict: bool
    calibration_rows: int
    seed: int
    name: str
    version: str
    expires: str


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
    model: ModelRequest,
    *,
    samples: FilePath,
    eval: FilePath,
    out: FilePath,
    test: FilePath | None = None,
    target: FilePath = "cpu",
    columns: Mapping[str, str] | None = None,
    budget: Mapping[str, float] | None = None,
    strict: bool = False,
    keep_float: Sequence[str] = (),
    use: str | None = None,
    max_time: float | None = None,
    race: FilePath | None = None,
    rerace: bool = False,
    distill: Sequence[Mapping[str, Any]] = (),
    distill_samples: Sequence[FilePath] = (),
    vocabulary: FilePath | None = None,
    calibration_rows: int = CALIBRATION_ROWS,
    seed: int = 0,
    force: bool = False,
    name: str | None = None,
    version: str | None = None,
    expires: str | None = None,
    allow_downgrade: bool = False,
) -> BuildRequest:
    """Reads the arguments of a build and refuses those that cannot be, before anything is loaded.

    Raises:
        EdgekitError: a subclass says which of target, place, record or options is at fault.
    """
    deadline = None if max_time is None else time.monotonic() + max_time
    place = Path(os.path.abspath(out))
    chosen = targets.with_budget(targets.load(os.fspath(target)), budget or {})
    chosen = checks.settled(chosen, keep_float, use)
    checks.check_target(chosen)
    if rerace and race is not None:
        raise UsageError(
            "race= takes times from a record, and rerace=True measures them anew. Give one of them.",
            code="race-or-rerace",
        )
    chosen, left_out = checks.without_wrong(chosen)
    replayed = None if race is None else record.read(Path(race))
    assemble.check_output(place, force)
    check_place(place)
    name, version, expires = check_name(name or ""), check_version(version or ""), check_date(expires or "")
    check_replaced(place, name, version, allow_downgrade)
    students = [recipe(said) for said in distill]
    names = [student.name for student in students]
    if len(set(names)) < len(names):
        raise UsageError(
            f"Two students would be called '{max(names, key=names.count)}'. Make one with edgekit distill, and give it as student=FOLDER.",
            code="students-same-name",
        )
    if model.module is not None and (students or vocabulary is not None):
        raise UsageError(
            "distill= and vocabulary= take a model folder or a hub id, and a module was given. Save it with save_pretrained() first.",
            code="module-options",
        )
    if is_onnx(model.model) and (students or vocabulary is not None):
        raise UsageError(
            "distill= and vocabulary= train or change weights, which an ONNX file does not offer. Give the Hugging Face folder as the model.",
            code="onnx-needs-folder",
        )
    if any(student.speedup is not None for student in students):
        checks.check_here(chosen)
    return BuildRequest(
        model=model, samples=samples, eval=eval, out=place, test=test, target=chosen, left_out=left_out, deadline=deadline, replayed=replayed,
        columns=columns or {}, students=students, distill_samples=distill_samples, vocabulary=vocabulary,
        tokens=None if vocabulary in (None, FROM_SAMPLES) else read_tokens(Path(os.fspath(vocabulary))),
        strict=strict, calibration_rows=calibration_rows, seed=seed, name=name, version=version, expires=expires,
    )  # fmt: skip


def read_samples(request: BuildRequest, task: str) -> BuildSamples:
    """Reads the sample files, whose columns are those of the task's modality.

    Raises:
        SamplesError: when one cannot be read.
    """
    modality = modalities.get(tasks.get(task).MODALITY).UNBOUND
    # Labels are not needed for calibration, so a column that is named for them need not be there.
    without_labels = {role: column for role, column in request.columns.items() if role != "label"}
    training = [*request.distill_samples] or [request.samples]
    words = [request.samples, *request.distill_samples] if request.vocabulary == FROM_SAMPLES else []
    whole = _read(request.samples, without_labels, modality)
    return BuildSamples(
        whole=whole,
        calibration=whole.take(request.calibration_rows, request.seed),
        evaluation=_read(request.eval, request.columns, modality),
        test=None if request.test is None else _read(request.test, request.columns, modality),
        training=lesson(training, request.columns, modality) if request.students else [],
        vocabulary=[_read(file, without_labels, modality) for file in words],
    )


def check_samples(request: BuildRequest, files: BuildSamples, task: Task) -> None:
    """Refuses rows that a session would refuse, and rows that say too little.

    Raises:
        SamplesError: with the file and what it lacks.
    """
    checks.check_calibration(task, files.calibration, request.target)
    if request.strict:
        checks.check_strict(task, request.target, files.evaluation)
    checks.check_rows(task, (files.whole, files.evaluation, files.test, *files.training))


def _read(file: FilePath, columns: Mapping[str, str], modality: Modality) -> Samples:
    return samples.read(Path(file), columns, modality=modality)
