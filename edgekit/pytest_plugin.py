"""Bundles in the tests of whoever ships them.

    def test_answers(edgekit_bundle):
        assert edgekit_bundle("turn the light off").label == "lights_off"

    def test_no_regression(assert_no_regression):
        assert_no_regression(baseline="baseline.json", samples="dev.jsonl")

pytest loads this module in every run of an environment that has EdgeKit. It imports pytest here and, with the package, the device
runtime; the rest comes when a fixture is asked for.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgekit.bundle.signature import Trust
from edgekit.runtime.load import load
from edgekit.runtime.session import Session
from edgekit.spec.errors import UsageError

if TYPE_CHECKING:
    from edgekit.spec.gates import Gates
    from edgekit.spec.project import Project
    from edgekit.spec.report import Report

__all__ = ["EdgekitWarning", "assert_no_regression", "edgekit_bundle", "pytest_addoption"]

_NAME_IT = (
    "Name one: --edgekit-bundle FOLDER, edgekit_bundle = FOLDER in pytest's settings, or out = ... in edgekit.toml."
)


class EdgekitWarning(pytest.PytestWarning):
    """A check that decided nothing: more samples, more time or another baseline would."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--edgekit-bundle`` and the setting ``edgekit_bundle``."""
    group = parser.getgroup("edgekit", "EdgeKit bundles")
    group.addoption(
        "--edgekit-bundle",
        default=None,
        metavar="FOLDER",
        help="the bundle of the fixture edgekit_bundle, and of assert_no_regression",
    )
    parser.addini(
        "edgekit_bundle", "folder of the bundle, relative to this file, in place of edgekit.toml's", default=""
    )


@pytest.fixture(scope="session")
def edgekit_bundle(pytestconfig: pytest.Config) -> Iterator[Session]:
    """The bundle of ``--edgekit-bundle``, of the setting ``edgekit_bundle`` or of ``edgekit.toml``, opened for the whole session."""
    try:
        project = _project(_root(pytestconfig))
        bundle = _chosen(project, _named(pytestconfig))
    except UsageError as problem:
        pytest.fail(f"edgekit: {problem}", pytrace=False)
    with load(bundle, trust=Trust(project.check.keys) if project.check.keys else None) as session:
        yield session


@pytest.fixture(scope="session", name="assert_no_regression")
def _assert_no_regression(pytestconfig: pytest.Config) -> Callable[..., Report]:
    """The function of this name, told where the run's ``edgekit.toml`` is and which bundle was named."""
    return functools.partial(assert_no_regression, _start=_root(pytestconfig), _bundle=_named(pytestconfig))


def assert_no_regression(
    bundle: str | os.PathLike[str] | None = None,
    *,
    baseline: str | os.PathLike[str] | None = None,
    samples: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    slices: Sequence[str] | None = None,
    gates: Gates | str | os.PathLike[str] | None = None,
    strict: bool | None = None,
    allow_incomparable: bool | None = None,
    self_check: bool | None = None,
    include_text: bool = False,
    trust: Trust | None = None,
    max_time: float | None = None,
    seed: int | None = None,
    report: str | os.PathLike[str] | None = None,
    _start: Path | None = None,
    _bundle: str | None = None,
) -> Report:
    """Holds a bundle against a baseline, as ``edgekit check`` does.

    What is left out is as the nearest ``edgekit.toml`` says: in the folder of pytest's settings or above it, where there are none from the one that
    pytest was started in (for the function: the current one). Without such a file, it is as ``edgekit check`` has it.

    Args:
        bundle: folder of the bundle; else that of ``--edgekit-bundle`` (the fixture alone knows it).
        baseline: an older bundle, or a file of ``edgekit baseline``.
        samples: samples with labels.
        columns: role to column name.
        slices: columns whose values are compared one by one.
        gates: limits, or a file of them.
        strict: what stays inconclusive fails too, in place of a warning.
        allow_incomparable: what cannot be compared is a warning.
        self_check: measure the machine's noise first, and refuse margins below it.
        include_text: texts of samples in the report.
        trust: whose bundles may be opened.
        max_time: seconds that it may go on while something is inconclusive.
        seed: of all that is drawn.
        report: folder that the report is written to, whatever it says.

    Returns:
        The report.

    Raises:
        AssertionError: for a regression, a limit that is exceeded or something incomparable, with the sentence of each gate.
        EdgekitError: when bundle, baseline, samples or gates cannot be used.
    """
    __tracebackhide__ = True
    from edgekit.report import check as checking
    from edgekit.report.render import check_writable, write_all
    from edgekit.spec import gates as gate_files
    from edgekit.spec.gates import Gates
    from edgekit.spec.project import checks

    project = _project(_start or Path.cwd())
    said = {
        **{
            name: None if path is None else os.fspath(path)
            for name, path in (("baseline", baseline), ("samples", samples), ("report", report))
        },
        "columns": columns,
        "slices": None if slices is None else tuple(slices),
        "gates": gates if gates is None or isinstance(gates, Gates) else gate_files.read(os.fspath(gates)),
        "max_time": max_time,
        "seed": seed,
        "strict": strict,
        "allow_incomparable": allow_incomparable,
        "self_check": self_check,
    }
    check = checks(project, _chosen(project, bundle or _bundle), said)[0]
    for value, name, key in ((check.baseline, "baseline", "baseline"), (check.samples, "samples", "eval")):
        if not value:
            raise UsageError(
                f"assert_no_regression has no {name}. Give {name}=..., or say {key} = ... in edgekit.toml.",
                code="option-missing",
            )
    if check.report is not None:
        check_writable(Path(check.report))
    found = checking.check(
        check.bundle,
        str(check.baseline),
        check.samples,
        columns=check.columns or None,
        slices=check.slices,
        gates=check.gates,
        self_check=check.self_check,
        include_text=include_text,
        trust=trust or (Trust(check.keys) if check.keys else None),
        max_time=check.max_time,
        seed=check.seed,
    )
    if check.report is not None:
        write_all(found, Path(check.report))
    _judge(found, check.strict, check.allow_incomparable)
    return found


def _judge(found: Report, strict: bool, allow_incomparable: bool) -> None:
    """Raises what fails, warns of what is left open."""
    __tracebackhide__ = True
    from edgekit.spec.report import PASS

    said = [f"  {gate.verdict}: {gate.name}: {gate.said}" for gate in found.gates if gate.verdict != PASS]
    names = " against ".join(reversed([subject.name for subject in found.subjects]))
    text = "\n".join([f"{found.verdict}: {names}, {found.rows} samples", *said])
    if found.exit_code(strict, allow_incomparable):
        raise AssertionError(text)
    if said:
        warnings.warn(EdgekitWarning(text), stacklevel=3)


def _root(config: pytest.Config) -> Path:
    """Where ``edgekit.toml`` is looked for. Not ``rootpath``: without settings that is the ancestor of all paths on the command line, a bundle's too."""
    return config.inipath.parent if config.inipath else config.invocation_params.dir


def _project(start: Path) -> Project:
    """What ``edgekit.toml`` says; nothing where there is none."""
    from edgekit.spec.project import Project, find, read

    file = find(start)
    return Project() if file is None else read(file)


def _chosen(project: Project, named: str | os.PathLike[str] | None) -> str:
    """The bundle that was named, or that of the file's one target."""
    if named is not None:
        return os.fspath(named)
    from edgekit.spec.project import places

    if not project.out:
        raise UsageError(f"No bundle is named. {_NAME_IT}", code="bundle-not-named")
    if len(project.targets) > 1:
        many = f"{project.path} has {len(project.targets)} targets ({', '.join(project.targets)}), and it is not said whose bundle is meant"
        raise UsageError(f"{many}. {_NAME_IT}", code="bundle-not-named")
    return places(project)[0].bundle


def _named(config: pytest.Config) -> str | None:
    """The bundle of the command line, or of pytest's settings."""
    if (given := config.getoption("--edgekit-bundle")) is not None:
        return str(config.invocation_params.dir / given)
    if setting := str(config.getini("edgekit_bundle")):
        return str(_root(config) / setting)
    return None
