"""Students before their training: some of the teacher's layers, or a model of the user."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgekit.compress._layers import check_described, keep_layers, spread_evenly
from edgekit.source import Source, processors_of
from edgekit.source.stack import depth, has_stack
from edgekit.spec.errors import UsageError
from edgekit.spec.protocols import Task

_LISTED = 20  # Values of a list that a message shows.


@dataclass(frozen=True)
class Learner:
    """A student before its training.

    Attributes:
        module: Torch module, trained in place.
        source: Model whose processor and settings the student uses: the teacher, or the student itself.
        identity: Plain data that identifies the untrained student, for the cache key.
        inherits: Whether its embedding tables are the teacher's.
        notes: Notes on the student, one sentence each.
    """

    module: Any
    source: Source
    identity: object
    inherits: bool
    notes: tuple[str, ...]


def check_choice(layers: int | None, keep: Sequence[int] | None, student: object) -> None:
    """Refuse a student that is specified in no way, or in several.

    Args:
        layers: Number of layers, or None.
        keep: Indices of layers, or None.
        student: Model of the user, or None.

    Raises:
        UsageError: If not exactly one of the three is given.
    """
    if sum(value is not None for value in (layers, keep, student)) != 1:
        raise UsageError(
            "Specify the student by exactly one of layers (how many), keep (which ones), or student (a model of your "
            "own).",
            code="student-choice",
        )


def make_student(
    teacher: Source, layers: int | None, keep: Sequence[int] | None, user_student: Source | None
) -> Learner:
    """Make an untrained student.

    Args:
        teacher: Model whose answers are learned.
        layers: Number of the teacher's layers that the student has, or None.
        keep: Indices of these layers, or None.
        user_student: Model of the user, or None.

    Raises:
        UsageError: If not exactly one of the three is given, the teacher does not have these layers, or the user's
            student has another task or other labels.
        ModelError: If the teacher has no stack of layers, or its config cannot describe fewer of them.
    """
    check_choice(layers, keep, user_student)
    if user_student is not None:
        return _check_user_student(teacher, user_student)
    indices = tuple(keep) if keep is not None else spread_evenly(layers or 0, depth(teacher.module))
    module = keep_layers(teacher.module, indices)
    if type(module).__module__.startswith("transformers."):
        check_described(module, teacher.model_id)
    return Learner(module, teacher, indices, True, ())


def task_of(source: Source) -> Task:
    """Return the task of a model as a bundle of it would load it."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        return source.save_assets(Path(scratch))


def _check_user_student(teacher: Source, student: Source) -> Learner:
    """Compare a student of the user with the teacher.

    Raises:
        UsageError: If its task or labels differ, or its processor does in a task whose outputs belong to parts of an
            input.
    """
    if student.task != teacher.task:
        raise UsageError(
            f"The student {student.model_id} has the task {student.task}, the teacher {teacher.task}. Give a student "
            "for the same task.",
            code="student-task",
        )
    student_identity = task_of(student).identity
    for name, expected in task_of(teacher).identity.items():
        actual = student_identity.get(name)
        if actual != expected:
            _raise_different(student.model_id, name.replace("_", " "), actual, expected)
    processors = processors_of(student.task)
    has_same_processor = processors.same(student.processor, teacher.processor)
    if student.head.ALIGNED and not has_same_processor:
        raise UsageError(
            f"The student {student.model_id} has another {processors.NOUN} than the teacher {teacher.model_id}. In "
            f"{student.task} each answer belongs to a unit that the {processors.NOUN} makes of an input, so the "
            f"answers of the two do not match. Give a student with the teacher's {processors.NOUN}.",
            code="student-tokenizer",
        )
    difference = ""
    if not has_same_processor:
        difference = f"The student has another {processors.NOUN}"
    elif not (has_stack(student.module) and has_stack(teacher.module)):
        difference = "Teacher or student has no stack of equal layers"
    notes: tuple[str, ...] = ()
    if difference:
        notes = (f"{difference}, so the student learns from the teacher's answers, not from relations between tokens.",)
    return Learner(student.module, student, student.digest, False, notes)


def _raise_different(model_id: str, words: str, actual: object, expected: object) -> NoReturn:
    """Refuse a student that differs from the teacher in e.g. its labels.

    Args:
        model_id: Id of the student.
        words: Words for what differs.
        actual: Value of the student.
        expected: Value of the teacher.

    Raises:
        UsageError: Always.
    """
    is_list = isinstance(actual, (list, tuple))
    verb = "are" if is_list else "is"
    order = " in the same order" if is_list else ""
    raise UsageError(
        f"The student {model_id} has the {words} {_format(actual)}; the teacher's {verb} {_format(expected)}. Give a "
        f"student with the same {words}{order}.",
        code="student-differs",
    )


def _format(value: object) -> str:
    """Return a value, or the first values of a list, for a message."""
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    return ", ".join(map(str, parts[:_LISTED])) + (" ..." if len(parts) > _LISTED else "")
