"""``edgekit.toml``: model, samples, targets, budget and gates of a repository, for the build, the check and the tests.

    model = "model"                  # a folder, or a hub id
    samples = "data/train.jsonl"     # calibration samples
    eval = "data/dev.jsonl"          # labelled samples of the build's choice and of the check
    targets = ["cpu"]
    out = "bundles"                  # the bundle of a target is at bundles/TARGET
    baseline = "baseline.json"

    [budget]                         # limits of the build and of every check
    p50_ms = 5

    [gates.accuracy]                 # margins over the baseline, as in a gates.toml
    drop = 0.01

Paths are relative to the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgekit.spec import gates as gate_files
from edgekit.spec.errors import UsageError, check_known, near
from edgekit.spec.gates import Gates
from edgekit.spec.options import BuildOptions, CheckOptions
from edgekit.spec.parsing import parse
from edgekit.spec.paths import check_path, takes_paths
from edgekit.spec.project_values import check_values, merge_budgets, resolve_paths
from edgekit.spec.sources import FilePath
from edgekit.spec.target import Budget, read_toml

__all__ = [
    "FILE",
    "Check",
    "Place",
    "Project",
    "build_options",
    "check_options",
    "checks",
    "find",
    "nearest",
    "places",
    "read",
]

FILE = "edgekit.toml"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Project:
    """Contents of the file. Paths are absolute, or relative to the working directory like the path of the file.

    Attributes:
        model: Hugging Face folder or hub id.
        revision: Branch, tag or commit of a hub id.
        samples: Calibration samples: a file, or the name of a set that EdgeKit ships.
        eval: Labelled samples for the build's choice and for the check.
        test: Labelled samples on which a build scores its choice.
        columns: Column name by role, for all samples.
        slices: Columns whose values a check compares separately.
        targets: Names of targets, or TOML files.
        out: Folder of the bundles; the bundle of a target is its sub-folder ``TARGET``.
        baseline: Bundle, or file of ``edgekit baseline``; with several targets, a folder with ``NAME`` or ``NAME.json``
            per target.
        seed: Random seed for sampling and bootstrap.
        budget: Limits of builds and checks. In a build they replace those of the targets.
        gates: Gates of the check, including ``budget``.
        build: Options of the build.
        check: Options of the check.
        path: Path of the file.
    """

    model: str = ""
    revision: str | None = None
    samples: str = ""
    eval: str = ""
    test: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("cpu",)
    out: str = ""
    baseline: str | None = None
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    gates: Gates = field(default_factory=Gates)
    build: BuildOptions = field(default_factory=BuildOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    path: Path = Path(FILE)

    def need(self, verb: str, *keys: str) -> None:
        """Check that the file has the keys that a command needs.

        Args:
            verb: Command, for the message, e.g. ``edgekit build``.
            *keys: Required keys.

        Raises:
            UsageError: If a key is missing or empty; with the first one.
        """
        for key in keys:
            if not getattr(self, key):
                raise UsageError(
                    f"{self.path} has no key '{key}', which {verb} needs. Add {key} = ... to it.",
                    code="project-key-missing",
                )


@dataclass(frozen=True)
class Place:
    """Paths of one target.

    Attributes:
        target: Target as the file names it.
        name: Short name for messages and sub-folders.
        bundle: Folder of the bundle.
        baseline: Baseline of the bundle; None if the file has none.
        report: Folder of the reports; None if the file has none.
    """

    target: str
    name: str
    bundle: str
    baseline: str | None
    report: str | None


@dataclass(frozen=True)
class Check:
    """One check of a project.

    Attributes:
        name: Name of the target; empty for a bundle that no target of the file has.
        bundle: Folder of the bundle.
        baseline: Baseline to compare with; None where nothing is named.
        samples: Labelled samples; empty where none are named.
        options: Options, of which ``report`` is the folder of this check.
    """

    name: str
    bundle: str
    baseline: str | None
    samples: Any
    options: CheckOptions


def find(start: Path) -> Path | None:
    """Return the nearest ``edgekit.toml``, or None.

    It is searched in ``start`` and its parents, up to the root of the repository (``.git``) or of the file system.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE
        if (folder / ".git").exists():
            return None
    return None


def nearest(start: Path, remedy: str) -> Project:
    """Find and read the file.

    Args:
        start: Folder to start from, see :func:`find`.
        remedy: Sentence for the error message about the alternative to a file.

    Raises:
        UsageError: If there is no file, or as in :func:`read`.
    """
    path = find(start)
    if path is None:
        raise UsageError(
            f"There is no {FILE} in {start.resolve()} or above it, up to the root of the repository. {remedy}",
            code="project-not-found",
        )
    return read(path)


@takes_paths("path")
def read(path: str | Path) -> Project:
    """Read the file.

    Raises:
        UsageError: If it is missing or not TOML, a key is unknown, or a value is invalid; with the key.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UsageError(
            f"{file} {what}, expected a TOML file with keys such as model, samples, eval, targets and out. "
            "Correct the path.",
            code="project-not-found",
        )
    data = read_toml(file)
    known = [f.name for f in fields(Project) if f.name != "path"]  # path is not a key of the file
    check_known(data, known, "key", f" in {file}")
    gate_tables = data.pop("gates", {})
    if not isinstance(gate_tables, Mapping):
        raise UsageError(
            f"{file}: gates is a {type(gate_tables).__name__}, expected tables such as [gates.latency]. "
            "Pass a file of gates with --gates FILE.",
            code="project-value",
        )
    _move_model_options(data.get("build"))
    project = parse(Project, data, str(file))
    check_values(project, file)
    gates = gate_files.parse_gates(gate_tables, f"{file}: gates")
    budget = merge_budgets(project.budget, gates.budget, file)
    return resolve_paths(replace(project, gates=replace(gates, budget=budget), path=file))


def _move_model_options(build: object) -> None:
    """Move the options of heads, which only heads know, to ``model_options``.

    A key that resembles an option of a build stays, and is refused as a typing mistake.
    """
    if not isinstance(build, dict):
        return
    known = [f.name for f in fields(BuildOptions) if f.metadata.get("key", True)]
    model_options = []
    for key, value in build.items():
        if key not in known and not near(key, known) and isinstance(value, str):
            model_options.append(key)
    if model_options and "model_options" not in build:
        build["model_options"] = {key: build.pop(key) for key in model_options}


def places(project: Project, *, only: str | None = None, report: str | None = None) -> tuple[Place, ...]:
    """Return the paths of each target, in the order of the targets.

    Args:
        project: Project with ``out``.
        only: Single target: a name, or a TOML file. It need not be in the file.
        report: Folder of reports; None for that of the file.

    Raises:
        UsageError: If two targets have the same name, or a target has two baselines.
    """
    named = {_short(target): target for target in project.targets}
    if len(named) < len(project.targets):
        short_names = [_short(target) for target in project.targets]
        repeated = next(name for name in short_names if short_names.count(name) > 1)
        raise UsageError(
            f"{project.path}: targets has '{repeated}' twice, so two bundles would have the same path. "
            "Name each target once.",
            code="project-value",
        )
    several = len(named) > 1
    if project.out and (Path(project.out) / _MANIFEST).is_file():
        raise UsageError(
            f"{project.path}: out is {project.out}, which is a bundle, expected a folder with a bundle per target. "
            f"Move the bundle to {Path(project.out) / next(iter(named))}, or give another out.",
            code="project-out-is-bundle",
        )
    if only is not None:
        # A TOML file is used as it is, even if the file has a target with the same short name.
        named = {_short(only): named.get(only, only)}
    report = report or _text(project.check.report)

    def below(folder: str, name: str) -> str:
        return str(Path(folder) / name) if several else folder

    result = []
    for name, target in named.items():
        baseline = _baseline(project, name, several)
        report_folder = None if report is None else below(report, name)
        result.append(Place(target, name, str(Path(project.out) / name), baseline, report_folder))
    return tuple(result)


def _short(target: str) -> str:
    """Return the name of a target, without the folder and suffix of a TOML file."""
    return Path(target).stem if target.endswith(".toml") else target


def build_options(project: Project) -> BuildOptions:
    """Return the options of the builds of a project: those of ``[build]``, and the keys that build and check share."""
    return replace(
        project.build,
        test=project.test,
        revision=project.revision,
        columns=project.columns,
        budget={key: value for key, value in vars(project.budget).items() if value is not None},
        seed=project.seed,
    )


def check_options(project: Project, chosen: Mapping[str, Any]) -> CheckOptions:
    """Return the options of the checks of a project: those of ``[check]``, and the keys that build and check share.

    Args:
        project: Project.
        chosen: Fields that win over the file. With ``gates``, the limits of the file's ``[budget]`` that they do not
            name still count.

    Raises:
        UsageError: If a field does not exist.
    """
    check_known(chosen, [f.name for f in fields(CheckOptions)], "option", " of a check")
    chosen = dict(chosen)
    shared = {name: getattr(project, name) for name in ("columns", "slices", "gates", "seed")}
    gates = chosen.get("gates")
    if gates is not None and not isinstance(gates, Gates):
        chosen["gates"] = gates = gate_files.read(os.fspath(gates))
    if gates is not None:
        limits = {
            key: value
            for key, value in vars(project.budget).items()
            if value is not None and getattr(gates.budget, key) is None
        }
        chosen["gates"] = replace(gates, budget=replace(gates.budget, **limits))
    return replace(project.check, **{**shared, **chosen})


def checks(project: Project, bundle: str | None, chosen: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return the checks of a project, one a target, or that of one bundle alone.

    Args:
        project: ``Project()`` where there is no file.
        bundle: Folder of a bundle that is checked alone; None for all targets. If it is a target's bundle, baseline and
            report are the target's.
        chosen: ``baseline``, ``samples`` and fields of :class:`CheckOptions` that win over the file; one that is None
            is left to it.
    """
    rest = {name: value for name, value in chosen.items() if value is not None}
    baseline, samples, report = (rest.pop(name, None) for name in ("baseline", "samples", "report"))
    report = None if report is None else os.fspath(report)
    options = check_options(project, rest)
    if bundle is None:
        of_targets = places(replace(project, baseline=baseline or project.baseline), report=report)
    else:
        of_targets = (_place_of(project, bundle, baseline, report),)
    rows = project.eval if samples is None else samples
    return tuple(Check(p.name, p.bundle, p.baseline, rows, replace(options, report=p.report)) for p in of_targets)


def _place_of(project: Project, bundle: str, baseline: str | None, report: str | None) -> Place:
    """Return where the files of one bundle are; a baseline and a report that were named are taken as they are."""
    check_path(bundle, "bundle")
    of_targets = places(project)
    folder = Path(bundle).resolve()
    alone = Place("", "", bundle, None, None)
    if len(of_targets) == 1:
        alone = Place("", "", bundle, project.baseline, _text(project.check.report))
    place = next((p for p in of_targets if project.out and Path(p.bundle).resolve() == folder), alone)
    return replace(place, baseline=baseline or place.baseline, report=report or place.report)


def _text(path: FilePath | None) -> str | None:
    return None if path is None else os.fspath(path)


def _baseline(project: Project, name: str, several: bool) -> str | None:
    if project.baseline is None or not several:
        return project.baseline
    folder = Path(project.baseline)
    bundle = folder / name
    file = folder / f"{name}.json"
    if bundle.exists() and file.exists():
        raise UsageError(
            f"{folder} has both {name} and {name}.json as the baseline of target '{name}', expected one of them. "
            "Remove the other.",
            code="project-two-baselines",
        )
    return str(bundle if bundle.exists() else file)
