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

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgekit.spec import gates as gate_files
from edgekit.spec.errors import UsageError, check_known, near
from edgekit.spec.gates import Gates
from edgekit.spec.parsing import parse
from edgekit.spec.paths import check_path, takes_paths
from edgekit.spec.project_values import check_values, merge_budgets, resolve_paths
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
_MANIFEST = "manifest.json"
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
    """Move the options of heads, which only heads know, to ``told``.

    A key that resembles an option of a build stays, and is refused as a typing mistake.
    """
    if not isinstance(build, dict):
        return
    known = [f.name for f in fields(BuildOptions)]
    model_options = []
    for key, value in build.items():
        if key not in known and not near(key, known) and isinstance(value, str):
            model_options.append(key)
    if model_options and "told" not in build:
        build["told"] = {key: build.pop(key) for key in model_options}


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
    report = report or project.check.report

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
    bundle = folder / name
    file = folder / f"{name}.json"
    if bundle.exists() and file.exists():
        raise UsageError(
            f"{folder} has both {name} and {name}.json as the baseline of target '{name}', expected one of them. "
            "Remove the other.",
            code="project-two-baselines",
        )
    return str(bundle if bundle.exists() else file)
