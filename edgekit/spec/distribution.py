"""Name of this project on package indexes, and the install commands that messages recommend.

The import package and the command are called ``edgekit``. The distribution is not: the name ``edgekit`` on PyPI belongs
to another project.
"""

from __future__ import annotations

__all__ = ["DISTRIBUTION", "REPOSITORY", "install_hint", "requirement"]

DISTRIBUTION = "edgekit-sdk"
"""Name of the distribution, as ``pyproject.toml`` states it."""


REPOSITORY = "https://github.com/edgekit/edgekit"
"""Address of the source repository."""


def requirement(*extras: str) -> str:
    """Return the requirement of this distribution, e.g. ``edgekit-sdk[report,onnxruntime]``.

    Args:
        *extras: Names of extras; underscores are written as hyphens, so the name of a backend is accepted.
    """
    if not extras:
        return DISTRIBUTION
    names = ",".join(extra.replace("_", "-") for extra in extras)
    return f"{DISTRIBUTION}[{names}]"


def install_hint(*extras: str, upgrade: bool = False) -> str:
    """Return the command that installs extras of this distribution, e.g. ``pip install 'edgekit-sdk[build]'``.

    Args:
        *extras: Names of extras, as in :func:`requirement`.
        upgrade: Whether an installed older version is replaced.
    """
    option = "-U " if upgrade else ""
    return f"pip install {option}'{requirement(*extras)}'"
