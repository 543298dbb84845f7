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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgekit.bundle.signature import Trust
from edgekit.runtime.load import load
from edgekit.runtime.session import Session
from edgekit.spec.errors import UsageError
from edgekit.spec.sources import FilePath, SampleSource

if TYPE_CHECKING:
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
    return functools.partial(_assert, _root(pytestconfig), _named(pytestconfig))


def assert_no_regression(
    bundle: FilePath | None = None,
    *,
    baseline: FilePath | None = None,
    samples: SampleSource | None = None,
    trust: Trust | None = None,
    **options: Any,
) -> Report:
    """Hold a bundle against a baseline, as ``edgekit check`` does.

    What is left out is as the nearest ``edgekit.toml`` says: in the folder of pytest's settings or above it, where there are none from the one that
    pytest was started in (for the function: the current one). Without such a file, it is as ``edgekit check`` has it.

    Args:
        bundle: Folder of the bundle; else that of ``--edgekit-bundle`` (the fixture alone knows it).
        baseline: Older bundle, or a file of ``edgekit baseline``.
        samples: Labelled samples, a path or rows in memory.
        trust: Keys of makers whose bundles may be opened.
        **options: Fields of :class:`edgekit.CheckOptions` that win over the file. What stays inconclusive is a warning, and with ``strict`` fails; with
            ``allow_incomparable`` what cannot be compared is a warning; ``report`` is written whatever the verdict is.

    Returns:
        The report.

    Raises:
        AssertionError: for a regression, a limit that is exceeded or something incomparable, with the sentence of each gate.
        EdgekitError: when bundle, baseline, samples or gates cannot be used.
    """
    __tracebackhide__ = True
    return _assert(Path.cwd(), None, bundle, baseline=baseline, samples=samples, trust=trust, **options)


def _assert(
    start: Path,
    named: str | None,
    bundle: FilePath | None = None,
    *,
    baseline: FilePath | None = None,
    samples: SampleSource | None = None,
    trust: Trust | None = None,
    **options: Any,
) -> Report:
    """Do what :func:`assert_no_regression` says, with ``edgekit.toml`` looked for in a folder, and a bundle that the run named."""
    __tracebackhide__ = True
    from edgekit.spec.project import checks
    from edgekit.verbs import reports

    project = _project(start)
    nouns = {"baseline": None if baseline is None else os.fspath(baseline), "samples": samples}
    if options.get("slices") is not None:
        options["slices"] = tuple(options["slices"])
    check = checks(project, _chosen(project, bundle or named), {**nouns, **options})[0]
    for value, name, key in ((check.baseline, "baseline", "baseline"), (check.samples, "samples", "eval")):
        if value is None or (isinstance(value, str) and not value):
            raise UsageError(
                f"assert_no_regression has no {name}. Give {name}=..., or say {key} = ... in edgekit.toml.",
                code="option-missing",
            )
    result = reports.check(check.bundle, check.baseline, check.samples, options=check.options, trust=trust)
    _judge(result.report, check.options.strict, check.options.allow_incomparable)
    return result.report


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
        warnings.warn(EdgekitWarning(text), stacklevel=4)


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
