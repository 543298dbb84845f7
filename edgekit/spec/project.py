"""``edgekit.toml``: model, samples, targets, budget and gates of a repository, named once for the build, the check and the tests.

    model = "model"                  # a folder, or a hub id
    samples = "data/train.jsonl"     # what quantization is calibrated on
    eval = "data/dev.jsonl"          # what the build chooses by, and what a check compares on
    targets = ["cpu"]
    out = "bundle"
    baseline = "baseline.json"

    [budget]                         # of the build, and of every check
    p50_ms = 5

    [gates.accuracy]                 # over the baseline, as in a gates.toml
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


@dataclass(frozen=True)
class Project:
    """What the file says. Paths are absolute, or relative to the current folder as the file's own path is.

    Attributes:
        model: Hugging Face folder or hub id.
        revision: branch, tag or commit of a hub id.
        samples: calibration samples: a file, or the name of a set that EdgeKit ships.
        eval: samples with labels, of the build's choice and of the check.
        test: samples with labels that a build scores its choice on.
        columns: role to column name, for all of them.
        slices: columns whose values a check compares one by one.
        targets: names, or TOML files.
        out: the bundle; with several targets a folder with one sub-folder for each.
        baseline: a bundle or a file of ``edgekit baseline``; with several targets a folder with ``NAME`` or ``NAME.json`` for each.
        seed: of all that is drawn.
        budget: limits that replace the targets', and that a check holds bundles to.
        gates: of the check, ``budget`` among them.
        build: options of the build.
        check: options of the check.
        path: the file itself.
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
        """Refuses a file that lacks what a verb takes.

        Raises:
            UsageError: naming the first key that is not there.
        """
        for key in keys:
            if not getattr(self, key):
                raise UsageError(
                    f"{self.path} has no key '{key}', which {verb} needs. Add {key} = ... to it.",
                    code="project-key-missing",
                )


@dataclass(frozen=True)
class Place:
    """Where one target's files are.

    Attributes:
        target: as the file names it.
        name: short, for messages and sub-folders.
        bundle: its folder.
        baseline: what the bundle is compared with; None where the file names none.
        report: folder of its reports; None where the file names none.
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
    """The nearest ``edgekit.toml``: in ``start``, or above it up to the root of the repository (``.git``) or of the file system."""
    for folder in (here := start.resolve(), *here.parents):
        if (folder / FILE).is_file():
            return folder / FILE
        if (folder / ".git").exists():
            return None
    return None


def nearest(start: Path, remedy: str) -> Project:
    """Finds and reads the file.

    Raises:
        UsageError: where there is none; ``remedy`` says what else can be done. Otherwise as :func:`read`.
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
    """Reads the file.

    Raises:
        UsageError: when it is missing, not TOML, has an unknown key, a value of another type or out of its range; naming the key.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UsageError(
            f"{file} {what}, expected a TOML file with keys such as model, samples, eval, targets and out. Correct the path.",
            code="project-not-found",
        )
    data = read_toml(file)
    known = [f.name for f in fields(Project) if f.name != "path"]  # which is of the dataclass, not of the file
    check_known(data, known, "key", f" in {file}")
    said = data.pop("gates", {})
    if not isinstance(said, Mapping):
        raise UsageError(
            f"{file}: gates is a {type(said).__name__}, expected tables such as [gates.latency]. A file of gates goes with --gates FILE.",
            code="project-value",
        )
    _set_told_apart(data.get("build"))
    project = parse(Project, data, str(file))
    _check(project, file)
    gates = gate_files.of(said, f"{file}: gates")
    return _located(
        replace(project, gates=replace(gates, budget=_budget(project.budget, gates.budget, file)), path=file)
    )


def _set_told_apart(build: object) -> None:
    """Puts options of heads, which only heads know, under ``model_options``; a key that looks like a misspelt one of a build stays where it is, and is refused."""
    if not isinstance(build, dict):
        return
    known = [f.name for f in fields(BuildOptions) if f.metadata.get("key", True)]
    told = [key for key, value in build.items() if key not in known and not near(key, known) and isinstance(value, str)]
    if told and "model_options" not in build:
        build["model_options"] = {key: build.pop(key) for key in told}


def places(project: Project, *, only: str | None = None, report: str | None = None) -> tuple[Place, ...]:
    """Where the files of each target are, in the order of the targets.

    Args:
        project: with ``out``.
        only: a target alone, as the file names it or one of its own: a name, or a TOML file.
        report: folder of reports, in place of the file's.

    Raises:
        UsageError: when two targets would have the same place, or a baseline could be either of two.
    """
    named = {_short(target): target for target in project.targets}
    if len(named) < len(project.targets):
        twice = next(
            name for name in map(_short, project.targets) if list(map(_short, project.targets)).count(name) > 1
        )
        raise UsageError(
            f"{project.path}: targets has '{twice}' twice, and their bundles would be at one place. Name each once.",
            code="project-value",
        )
    several = len(named) > 1
    if only is not None:
        named = {
            _short(only): named.get(only, only)
        }  # a TOML file that is given is that file, whatever the file calls by its name
    report = report or _text(project.check.report)

    def below(folder: str, name: str) -> str:
        return str(Path(folder) / name) if several else folder

    return tuple(
        Place(
            target,
            name,
            below(project.out, name),
            _baseline(project, name, several),
            None if report is None else below(report, name),
        )
        for name, target in named.items()
    )


def _short(target: str) -> str:
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
        chosen: Fields that win over the file. With ``gates``, the limits of the file's ``[budget]`` that they do not name still count.

    Raises:
        UsageError: for a field that does not exist.
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
        bundle: Folder of a bundle that is checked alone. Where it is that of a target, baseline and report are the target's. None for all targets.
        chosen: ``baseline``, ``samples`` and fields of :class:`CheckOptions` that win over the file; one that is None is left to it.
    """
    rest = {name: value for name, value in chosen.items() if value is not None}
    baseline, samples, report = (rest.pop(name, None) for name in ("baseline", "samples", "report"))
    report = None if report is None else os.fspath(report)
    options = check_options(project, rest)
    if bundle is None:
        of_targets = places(replace(project, baseline=baseline or project.baseline), report=report)
    else:
        of_targets = (_place_of(project, bundle, baseline, report),)
    return tuple(
        Check(
            p.name,
            p.bundle,
            p.baseline,
            project.eval if samples is None else samples,
            replace(options, report=p.report),
        )
        for p in of_targets
    )


def _place_of(project: Project, bundle: str, baseline: str | None, report: str | None) -> Place:
    """Return where the files of one bundle are; a baseline and a report that were named are taken as they are."""
    check_path(bundle, "bundle")
    of_targets = places(project)
    here, one = Path(bundle).resolve(), len(of_targets) == 1
    alone = (
        Place("", "", bundle, project.baseline, _text(project.check.report))
        if one
        else Place("", "", bundle, None, None)
    )
    place = next((p for p in of_targets if project.out and Path(p.bundle).resolve() == here), alone)
    return replace(place, baseline=baseline or place.baseline, report=report or place.report)


def _text(path: FilePath | None) -> str | None:
    return None if path is None else os.fspath(path)


def _baseline(project: Project, name: str, several: bool) -> str | None:
    if project.baseline is None or not several:
        return project.baseline
    folder = Path(project.baseline)
    bundle, file = folder / name, folder / f"{name}.json"
    if bundle.exists() and file.exists():
        raise UsageError(
            f"{folder} has both {name} and {name}.json as the baseline of target '{name}', expected one of them. Remove the other.",
            code="project-two-baselines",
        )
    return str(bundle if bundle.exists() else file)


def _check(project: Project, file: Path) -> None:
    """Refuses values of the right type that can mean nothing."""
    if not project.targets:
        raise UsageError(
            f"{file}: targets is empty, expected at least one name of a target (see: edgekit targets), or a TOML file. Correct it.",
            code="project-value",
        )
    for key in ("revision", "test", "baseline"):
        if getattr(project, key) == "":
            raise UsageError(f"{file}: {key} is empty. Give it a value, or leave it out.", code="project-value")
    if project.build.max_time is not None and project.build.max_time < 0:
        raise UsageError(
            f"{file}: build: max_time is {project.build.max_time:g}, expected seconds of at least 0. Correct it.",
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


def _budget(shared: Budget, of_gates: Budget, file: Path) -> Budget:
    """The check's budget: what counts for build and check, and what counts for the check alone."""
    values = {k: v for k, v in vars(shared).items() if v is not None}
    own = {k: v for k, v in vars(of_gates).items() if v is not None}
    if both := sorted(values.keys() & own.keys()):
        raise UsageError(
            f"{file} has {both[0]} in [budget] and in [gates.budget], expected it in one of them: [budget] counts for builds and checks, "
            "[gates.budget] for checks alone. Remove the other.",
            code="project-budget-twice",
        )
    return Budget(**values, **own)


def _located(project: Project) -> Project:
    """The same with every path relative to the file made one that can be opened from here."""
    folder = project.path.parent

    def place(text: str) -> str:
        return str(folder / Path(text).expanduser()) if text else text

    def samples(text: str) -> str:
        """The name of a shipped set has no suffix, and is no file here."""
        return place(text) if Path(text).suffix or (folder / text).exists() else text

    def model(text: str) -> str:
        """``owner/name`` is a hub id unless such a folder is here."""
        path_like = text.startswith((".", "/", "~")) or text.count("/") > 1
        return place(text) if path_like or (folder / text).exists() else text

    def optional(path: FilePath | None) -> str | None:
        return None if path is None else place(os.fspath(path))

    build, check = project.build, project.check
    vocabulary = build.vocabulary if build.vocabulary in (None, "samples") else place(str(build.vocabulary))
    students = tuple(
        {k: model(v) if k == "student" and isinstance(v, str) else v for k, v in one.items()} for one in build.distill
    )
    return replace(
        project,
        model=model(project.model),
        samples=samples(project.samples),
        eval=samples(project.eval),
        test=None if project.test is None else samples(project.test),
        targets=tuple(place(t) if t.endswith(".toml") else t for t in project.targets),
        out=place(project.out),
        baseline=optional(project.baseline),
        build=replace(
            build,
            distill=students,
            distill_samples=tuple(samples(str(s)) for s in build.distill_samples),
            vocabulary=vocabulary,
        ),
        check=replace(check, report=optional(check.report), keys=tuple(place(os.fspath(k)) for k in check.keys)),
    )
