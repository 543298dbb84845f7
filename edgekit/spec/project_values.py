"""Values of an ``edgekit.toml``: range checks, the budget of a check, and the resolution of relative paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.spec.errors import UsageError
from edgekit.spec.sources import FilePath
from edgekit.spec.target import Budget

if TYPE_CHECKING:
    from edgekit.spec.project import Project

__all__ = ["check_values", "merge_budgets", "resolve_paths"]


def check_values(project: Project, file: Path) -> None:
    """Check values whose type is correct but which are out of range.

    Raises:
        UsageError: If there is one; with its key.
    """
    if not project.targets:
        raise UsageError(
            f"{file}: targets is empty, expected at least one name of a target (see: edgekit targets), or a TOML file. "
            "Correct it.",
            code="project-value",
        )
    for key in ("revision", "test", "baseline"):
        if getattr(project, key) == "":
            raise UsageError(f"{file}: {key} is empty. Give it a value, or remove it.", code="project-value")
    if project.build.max_time is not None and project.build.max_time < 0:
        raise UsageError(
            f"{file}: build: max_time is {project.build.max_time:g}, expected at least 0 seconds. Correct it.",
            code="project-value",
        )
    if project.build.calibration_rows < 1:
        raise UsageError(
            f"{file}: build: calibration_rows is {project.build.calibration_rows}, expected at least 1. Correct it.",
            code="project-value",
        )
    if project.check.max_time <= 0:
        raise UsageError(
            f"{file}: check: max_time is {project.check.max_time:g}, expected more than 0 seconds. Correct it.",
            code="project-value",
        )


def merge_budgets(shared: Budget, check_only: Budget, file: Path) -> Budget:
    """Return the budget of a check.

    Args:
        shared: Limits of builds and checks, from ``[budget]``.
        check_only: Limits of checks alone, from ``[gates.budget]``.
        file: Path of the file, for messages.

    Raises:
        UsageError: If both have the same limit.
    """
    shared_limits = {key: value for key, value in vars(shared).items() if value is not None}
    check_limits = {key: value for key, value in vars(check_only).items() if value is not None}
    both = sorted(shared_limits.keys() & check_limits.keys())
    if both:
        raise UsageError(
            f"{file} has {both[0]} in [budget] and in [gates.budget], expected it in one of them: [budget] applies to "
            "builds and checks, [gates.budget] to checks alone. Remove the other.",
            code="project-budget-twice",
        )
    return Budget(**shared_limits, **check_limits)


def resolve_paths(project: Project) -> Project:
    """Return the project with paths relative to its file replaced by paths relative to the working directory."""
    folder = project.path.parent

    def place(text: str) -> str:
        return str(folder / Path(text).expanduser()) if text else text

    def samples(text: str) -> str:
        """Resolve the path of samples. The name of a shipped set has no suffix, and no file of that name exists."""
        return place(text) if Path(text).suffix or (folder / text).exists() else text

    def model(text: str) -> str:
        """Resolve a model folder. ``owner/name`` is a hub id unless such a folder exists."""
        path_like = text.startswith((".", "/", "~")) or text.count("/") > 1
        return place(text) if path_like or (folder / text).exists() else text

    def optional(path: FilePath | None) -> str | None:
        return None if path is None else place(os.fspath(path))

    def target(text: str) -> str:
        return place(text) if text.endswith(".toml") else text

    def student(options: Mapping[str, Any]) -> Mapping[str, Any]:
        path = options.get("student")
        return {**options, "student": model(path)} if isinstance(path, str) else options

    students = tuple(student(options) for options in project.build.distill)
    distill_samples = tuple(samples(str(path)) for path in project.build.distill_samples)
    build = replace(project.build, distill=students, distill_samples=distill_samples)
    if build.vocabulary not in (None, "samples"):
        build = replace(build, vocabulary=place(str(build.vocabulary)))
    test = None if project.test is None else samples(project.test)
    targets = tuple(target(text) for text in project.targets)
    keys = tuple(place(os.fspath(key)) for key in project.check.keys)
    return replace(
        project,
        model=model(project.model),
        samples=samples(project.samples),
        eval=samples(project.eval),
        test=test,
        targets=targets,
        out=place(project.out),
        baseline=optional(project.baseline),
        build=build,
        check=replace(project.check, report=optional(project.check.report), keys=keys),
    )
