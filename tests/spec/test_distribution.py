"""The name of the distribution: one constant, which the package's metadata and every text of the project agree with."""

from __future__ import annotations

import re

import pytest
import small

from edgekit.spec.distribution import DISTRIBUTION, REPOSITORY, install_hint, requirement
from edgekit.spec.errors import EdgekitError

pytestmark = pytest.mark.device

TEXTS = ("*.md", "*.py", "*.toml", "*.yml", "*.yaml", "*.txt", "*.sh", "*.j2", "*.json", "Makefile", "run")
SKIPPED = {
    ".git",
    ".venv",
    ".work",
    "dist",
    "build",
    "site",
    "node_modules",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
}
# ``pip install`` of the bare name, and the bare name with extras. The name in a path, a module or a URL is no requirement.
INSTALLS = re.compile(r"pip3?\s+install\b[^\n`]*?(?<![\w./\\-])edgekit(?![\w/.\-])")
EXTRAS = re.compile(r"(?<![\w./\\-])edgekit\\?\[")


def text_files():
    for kind in TEXTS:
        for path in small.ROOT.rglob(kind):
            if path.is_file() and not SKIPPED & set(path.relative_to(small.ROOT).parts):
                yield path


def project():
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((small.ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_metadata_has_the_name_of_the_constant():
    assert project()["name"] == DISTRIBUTION
    assert set(project()["urls"]) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}


def test_an_extra_that_brings_another_one_names_this_distribution():
    extras = project()["optional-dependencies"]
    lines = [line for requirements in extras.values() for line in requirements if line.startswith("edgekit")]
    assert lines
    for line in lines:
        name, brought = re.match(r"([\w-]+)\[([\w,-]+)\]", line).groups()
        assert name == DISTRIBUTION
        assert set(brought.split(",")) <= set(extras)


def test_hints():
    assert install_hint("build") == f"pip install '{DISTRIBUTION}[build]'"
    assert install_hint("report", "onnxruntime") == f"pip install '{DISTRIBUTION}[report,onnxruntime]'"
    assert install_hint("tensorrt_rtx", upgrade=True) == f"pip install -U '{DISTRIBUTION}[tensorrt-rtx]'"
    assert (requirement(), requirement("cli")) == (DISTRIBUTION, f"{DISTRIBUTION}[cli]")
    assert project()["urls"]["Source"] == REPOSITORY


def test_a_hint_names_an_extra_that_there_is():
    """A hint in the code is a call of ``install_hint`` with a literal name, or with the name of a backend."""
    extras = set(project()["optional-dependencies"])
    calls = []
    for path in (small.ROOT / "edgekit").rglob("*.py"):
        calls += re.findall(r"(?:install_hint|requirement)\(['\"]([\w-]+)['\"]", path.read_text("utf-8"))
    assert len(calls) > 8
    assert set(calls) <= extras
    from edgekit import backends

    assert {name.replace("_", "-") for name in backends.names()} <= extras


@pytest.mark.slow
def test_no_text_installs_the_other_project():
    files = sorted(text_files())
    assert {"README.md", "CHANGELOG.md", "pyproject.toml", "Makefile"} <= {path.name for path in files}
    bad = [
        f"{path.relative_to(small.ROOT)}:{number}: {line.strip()[:120]}"
        for path in files
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1)
        if INSTALLS.search(line) or EXTRAS.search(line)
    ]
    assert bad == []


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("pip install {}", True),
        ("run: pip install -U '{}[build]'", True),
        ("python3 -m pip install {} numpy", True),
        ('needs "{}[cli]"', True),
        ("pip install '{}-sdk[build]'", False),
        ("pip install './{}_sdk-0.1.0-py3-none-any.whl[cli]'", False),
        ("pip install '{}-sdk @ git+https://github.com/{}/{}'", False),
        ("import {}", False),
    ],
)
def test_what_counts_as_installing_it(line, refused):
    text = line.replace("{}", "edge" + "kit")
    assert bool(INSTALLS.search(text) or EXTRAS.search(text)) is refused


def test_an_error_carries_the_hint(monkeypatch):
    from edgekit import backends

    error = backends.not_installed_error("tensorrt_rtx")
    assert isinstance(error, EdgekitError)
    assert install_hint("tensorrt-rtx") in str(error)
