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

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgekit.spec import gates as gate_files
from edgekit.spec.errors import UsageError, check_known, near
from edgekit.spec.gates import Gates
from edgekit.spec.parsing import parse
from edgekit.spec.paths import check_path, takes_paths
from edgekit.spec.target import Budget, read_toml

__all__ = [
    "CHECK_SECONDS",
    "FILE",
    "BuildOptions",
    "Check",
    "CheckOptions",
    "Place",
    "Project",
    "checks",
    "find",
    "nearest",
    "places",
    "read",
]

FILE = "edgekit.toml"
CHECK_SECONDS = 30.0
"""How long a check may go on to settle what is open, unless something else is said."""


@dataclass(frozen=True)
class BuildOptions:
    """What a build is told beside the nouns: the options of ``edgekit build``, by the same names.

    Attributes:
        strict: the accuracy drop's upper bound must be inside the budget.
        keep_float: layers that stay in float.
        use: ``latency`` or ``throughput``; None as the target says.
        max_time: seconds after which no further variation is tried.
        calibration_rows: rows chosen from ``samples``; None for the default.
        distill: students that compete, each e.g. ``{layers = 3}``.
        distill_samples: files that they are trained on.
        vocabulary: ``samples``, or a file of the tokens that stay.
        name, version, expires: the bundle's.
        told: what is said of the model in place of its files, options of its head and its processor; the TOML file has them as keys beside the others.
        accept_reference: go on where the torch model is no better than chance on ``eval``.
        rerace: measure times anew, whatever is in the cache.
        no_cache: take nothing from the cache and leave nothing in it.
    """

    strict: bool = False
    keep_float: tuple[str, ...] = ()
    use: str | None = None
    max_time: float | None = None
    calibration_rows: int | None = None
    distill: tuple[Mapping[str, Any], ...] = ()
    distill_samples: tuple[str, ...] = ()
    vocabulary: str | None = None
    name: str | None = None
    version: str | None = None
    expires: str | None = None
    told: Mapping[str, str] = field(default_factory=dict)
    accept_reference: bool = False
    rerace: bool = False
    no_cache: bool = False


@dataclass(frozen=True)
class CheckOptions:
    """How a check is run: the options of ``edgekit check``, by the same names.

    Attributes:
        max_time: seconds that it may go on while something is inconclusive.
        strict: what stays inconclusive fails.
        allow_incomparable: what cannot be compared does not fail.
        self_check: measure the noise of the machine first, and refuse margins below it.
        report: folder that reports are written to; None for nowhere.
        keys: public keys; bundles must be signed by one of them.
    """

    max_time: float = CHECK_SECONDS
    strict: bool = False
    allow_incomparable: bool = False
    self_check: bool = False
    report: str | None = None
    keys: tuple[str, ...] = ()


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


@dataclass(frozen=True, kw_only=True)
class Check(CheckOptions):
    """One check with all that is said of it; ``report`` is the folder of this one.

    Attributes:
        name: of the target; empty for a bundle that no target of the file has.
        bundle: its folder.
        baseline: what it is compared with; None where nothing is named.
        samples: with labels; empty where none are named.
        columns: role to column name.
        slices: columns that are compared value by value.
        gates: with the budget.
        seed: of all that is drawn.
    """

    name: str
    bundle: str
    baseline: str | None
    samples: str
    columns: Mapping[str, str]
    slices: tuple[str, ...]
    gates: Gates
    seed: int


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
    gates = gate_files.parse_gates(said, f"{file}: gates")
    return _located(
        replace(project, gates=replace(gates, budget=_budget(project.budget, gates.budget, file)), path=file)
    )


def _set_told_apart(build: object) -> None:
    """Puts options of heads, which only heads know, under ``told``; a key that looks like a misspelt one of a build stays where it is, and is refused."""
    if not isinstance(build, dict):
        return
    known = [f.name for f in fields(BuildOptions)]
    told = [key for key, value in build.items() if key not in known and not near(key, known) and isinstance(value, str)]
    if told and "told" not in build:
        build["told"] = {key: build.pop(key) for key in told}


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
    report = report or project.check.report

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


def checks(project: Project, bundle: str | None, said: Mapping[str, Any]) -> tuple[Check, ...]:
    """The checks of a project, one a target, or that of one bundle alone.

    Args:
        project: ``Project()`` where there is no file.
        bundle: this one alone. Where it is that of a target, baseline and report are the target's. None for all targets.
        said: fields of :class:`Check` that win over the file; one that is None is left to it. With ``gates``, those limits of the file's
            ``[budget]`` that they do not name still count.
    """
    given, own = {name: value for name, value in said.items() if value is not None}, project.check
    baseline, report = given.pop("baseline", None), given.pop("report", None)
    if bundle is None:
        found = places(replace(project, baseline=baseline or project.baseline), report=report)
    else:
        check_path(bundle, "bundle")
        found = places(project)
        here, one = Path(bundle).resolve(), len(found) == 1
        alone = Place("", "", bundle, project.baseline if one else None, own.report if one else None)
        of_file = next((p for p in found if project.out and Path(p.bundle).resolve() == here), alone)
        found = (
            replace(of_file, baseline=baseline or of_file.baseline, report=report or of_file.report),
        )  # of one bundle, taken as it was said
    if (gates := given.get("gates")) is not None:
        limits = {
            key: value
            for key, value in vars(project.budget).items()
            if value is not None and getattr(gates.budget, key) is None
        }
        given["gates"] = replace(gates, budget=replace(gates.budget, **limits))
    settings = {
        **vars(own),
        **{name: getattr(project, name) for name in ("columns", "slices", "gates", "seed")},
        "samples": project.eval,
    }
    return tuple(
        Check(**{**settings, **given, "name": p.name, "bundle": p.bundle, "baseline": p.baseline, "report": p.report})
        for p in found
    )


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
    if project.build.calibration_rows is not None and project.build.calibration_rows < 1:
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

    def optional(text: str | None) -> str | None:
        return None if text is None else place(text)

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
            distill_samples=tuple(samples(s) for s in build.distill_samples),
            vocabulary=vocabulary,
        ),
        check=replace(check, report=optional(check.report), keys=tuple(place(k) for k in check.keys)),
    )
