"""What was measured, as numbers and as text."""

from __future__ import annotations

import importlib.util

from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import BackendError

__all__ = ["check_packages"]


def check_packages(*names: str) -> None:
    """Refuses what would end a run after it was measured: packages of the extra ``report`` that are not there.

    Raises:
        BackendError: naming the first of them.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise BackendError(
                f"Reports need the package '{name}', which is not installed here. Run: {install_hint('report')}",
                code="package-missing",
            )
