"""Reports: comparison of accuracy and latency, gates, and report files."""

from __future__ import annotations

import importlib.util

from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import BackendError

__all__ = ["check_packages"]


def check_packages(*names: str) -> None:
    """Check that packages of the extra ``report`` are installed, before anything is measured.

    Args:
        names: Names of the packages.

    Raises:
        BackendError: If a package is not installed. The message names the first one.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise BackendError(
                f"Reports need the package '{name}', which is not installed. Run: {install_hint('report')}",
                code="package-missing",
            )
