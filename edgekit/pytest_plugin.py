"""Pytest fixtures that test bundles.

    def test_answers(edgekit_bundle):
        assert edgekit_bundle("turn the light off").label == "lights_off"

    def test_no_regression(assert_no_regression):
        assert_no_regression(baseline="baseline.json", samples="dev.jsonl")

pytest loads this module in every run of an environment that has EdgeKit. It imports pytest here and, with the package,
the device runtime; the rest is imported when a fixture is used.
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
    """A check that stayed inconclusive: it needs more samples, more time or another baseline."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--edgekit-bundle`` and the setting ``edgekit_bundle``."""
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
    """Yield the opened bundle, one for the whole session.

    It is that of ``--edgekit-bundle``, of the setting ``edgekit_bundle`` or of ``edgekit.toml``.
    """
    try:
        project = _project(_root(pytestconfig))
        bundle = _chosen(project, _named(pytestconfig))
    except UsageError as problem:
        pytest.fail(f"edgekit: {problem}", pytrace=False)
    with load(bundle, trust=Trust(project.check.keys) if project.check.keys else None) as session:
        yield session


@pytest.fixture(scope="session", name="assert_no_regression")
def _assert_no_regression(pytestconfig: pytest.Config) -> Callable[..., Report]:
    """Return the function of this name, bound to the run's ``edgekit.toml`` and the bundle that was named."""
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

    Arguments that are left out come from the nearest ``edgekit.toml``. It is looked for in the folder of pytest's
    settings and above it; without settings, from the folder that pytest was started in. The function without the
    fixture begins in the current folder. Without such a file, the defaults are those of ``edgekit check``.

    Args:
        bundle: Folder of the bundle; else that of ``--edgekit-bundle`` (the fixture alone knows it).
        baseline: Older bundle, or a file of ``edgekit baseline``.
        samples: Labelled samples, a path or rows in memory.
        trust: Keys of makers whose bundles may be opened.
        **options: Fields of :class:`edgekit.CheckOptions` that win over the file. An inconclusive gate is a warning,
            and fails with ``strict``. An incomparable one is a warning with ``allow_incomparable``. ``report`` is
            written whatever the verdict is.

    Returns:
        The report.

    Raises:
        AssertionError: If something regressed, exceeds a limit or is incomparable, with the sentence of each gate.
        EdgekitError: If bundle, baseline, samples or gates cannot be used.
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
    """Do what :func:`assert_no_regression` says.

    Args:
        start: Folder from which ``edgekit.toml`` is looked for.
        named: Bundle that the run named; None for none.
        bundle: See :func:`assert_no_regression`.
        baseline: See :func:`assert_no_regression`.
        samples: See :func:`assert_no_regression`.
        trust: See :func:`assert_no_regression`.
        **options: See :func:`assert_no_regression`.
    """
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


def _judge(report: Report, strict: bool, allow_incomparable: bool) -> None:
    """Raise an error for a report that fails, and warn of gates that are not decided."""
    __tracebackhide__ = True
    from edgekit.spec.report import PASS

    sentences = [f"  {gate.verdict}: {gate.name}: {gate.said}" for gate in report.gates if gate.verdict != PASS]
    names = " against ".join(reversed([subject.name for subject in report.subjects]))
    text = "\n".join([f"{report.verdict}: {names}, {report.rows} samples", *sentences])
    if report.exit_code(strict, allow_incomparable):
        raise AssertionError(text)
    if sentences:
        warnings.warn(EdgekitWarning(text), stacklevel=4)


def _root(config: pytest.Config) -> Path:
    """Return the folder from which ``edgekit.toml`` is looked for.

    It is not ``rootpath``: without settings that is the ancestor of all paths on the command line, also of a bundle's.
    """
    return config.inipath.parent if config.inipath else config.invocation_params.dir


def _project(start: Path) -> Project:
    """Return the settings of ``edgekit.toml``; empty ones where there is no such file."""
    from edgekit.spec.project import Project, find, read

    file = find(start)
    return Project() if file is None else read(file)


def _chosen(project: Project, named: str | os.PathLike[str] | None) -> str:
    """Return the bundle that was named, or that of the file's one target."""
    if named is not None:
        return os.fspath(named)
    from edgekit.spec.project import places

    if not project.out:
        raise UsageError(f"No bundle is named. {_NAME_IT}", code="bundle-not-named")
    if len(project.targets) > 1:
        raise UsageError(
            f"{project.path} has {len(project.targets)} targets ({', '.join(project.targets)}), "
            f"and it is not said whose bundle is meant. {_NAME_IT}",
            code="bundle-not-named",
        )
    return places(project)[0].bundle


def _named(config: pytest.Config) -> str | None:
    """Return the bundle of the command line, or of pytest's settings; None where neither names one."""
    if (folder := config.getoption("--edgekit-bundle")) is not None:
        return str(config.invocation_params.dir / folder)
    if setting := str(config.getini("edgekit_bundle")):
        return str(_root(config) / setting)
    return None
