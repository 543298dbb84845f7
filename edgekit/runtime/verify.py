"""Verification of a bundle on this machine: every variant that can run here is compared with its golden outputs."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit import backends
from edgekit.backends import WrongResultsError
from edgekit.bundle.trust import Bundle
from edgekit.runtime import golden
from edgekit.runtime.choice import cap_threads, check_instructions
from edgekit.runtime.golden import GoldenResult
from edgekit.runtime.info import build_version
from edgekit.runtime.session import Session
from edgekit.spec.errors import BackendError
from edgekit.spec.manifest import Variant
from edgekit.spec.progress import Progress, silent

__all__ = ["Compared", "Verified", "verify"]


@dataclass(frozen=True)
class Compared:
    """Comparison of one variant with its golden outputs.

    Attributes:
        name: Method and backend of the variant.
        on: Version of the backend here, and the version that the bundle was built with.
        golden: Result of the comparison; None if the variant cannot run here.
        reason: Reason why the variant cannot run or fails the comparison; empty if it passes.
        wrong: Whether the variant computes something else here, by its golden inputs or by the backend's self-test.
    """

    name: str
    on: str
    golden: GoldenResult | None
    reason: str
    wrong: bool

    def text(self) -> str:
        """Return one line for a terminal."""
        if self.golden is None:
            return f"golden: not compared, {self.name}: {self.reason}"
        if self.reason:
            return f"golden: {self.golden.rows} inputs, {self.name} {self.on} differs: {self.reason}"
        return f"golden: {self.golden.rows} inputs, {self.name} {self.on}, {self.golden.text()}"


@dataclass(frozen=True)
class Verified:
    """Comparison of all variants of a bundle.

    Attributes:
        variants: Comparison of each variant, in the order of the manifest.
        raced: Whether the variants race on the device, so that a load leaves out a variant that fails.
    """

    variants: tuple[Compared, ...]
    raced: bool

    @property
    def compared(self) -> bool:
        """Whether at least one variant was compared and passes."""
        return any(variant.golden is not None and not variant.wrong for variant in self.variants)

    def problem(self) -> str:
        """Return why the bundle is unusable here; empty if it is usable, or if no variant could be compared."""
        wrong = [variant for variant in self.variants if variant.wrong]
        if not wrong or (self.raced and self.compared):
            return ""
        return "; ".join(f"{variant.name}: {variant.reason}" for variant in wrong)


def verify(bundle: Bundle, progress: Progress = silent) -> Verified:
    """Run the golden inputs of a bundle through each of its variants.

    Args:
        bundle: Verified bundle.
        progress: Progress callback of an engine's compilation.

    Raises:
        IntegrityError: If the golden inputs cannot be read, or an engine of the bundle is not signed by a trusted key.
    """
    golden.read(bundle)  # A damaged file is an error even if no variant can run here.
    compared = [_compare(bundle, variant, progress) for variant in bundle.manifest.variants]
    return Verified(tuple(compared), bundle.manifest.choose_on == "device")


def _compare(bundle: Bundle, variant: Variant, progress: Progress) -> Compared:
    """Compare one variant with its golden outputs."""
    name = f"{variant.method} on {variant.backend}"
    backend = backends.get(variant.backend)
    versions = f"{backends.installed_version(variant.backend)} (built with {build_version(variant)})"
    try:
        check_instructions(variant, bundle.path)
        backend.check_here()
        with Session(bundle, cap_threads(variant), progress=progress) as session:
            result = golden.check(session)
        return Compared(name, versions, result, result.problem(), not result.passed)
    except BackendError as problem:
        return Compared(name, versions, None, str(problem), isinstance(problem, WrongResultsError))
