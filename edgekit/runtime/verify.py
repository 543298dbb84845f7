"""Does a bundle compute on this machine what it computed where it was built? Every variant that can run here is asked."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit import backends
from edgekit.backends import WrongResultsError
from edgekit.bundle.trust import Bundle
from edgekit.runtime import golden
from edgekit.runtime.choice import cap_threads, check_instructions
from edgekit.runtime.golden import GoldenResult
from edgekit.runtime.session import Session
from edgekit.spec.errors import BackendError
from edgekit.spec.progress import Progress, silent

__all__ = ["Compared", "Verified", "verify"]


@dataclass(frozen=True)
class Compared:
    """One variant, asked here.

    Attributes:
        name: method and backend.
        on: the backend here, and the version that the bundle was built with.
        golden: how far it is from what it answered at the build; None where it could not be asked.
        reason: why it could not be asked, or does not serve; empty where it serves.
        wrong: it computes something else here, by its golden inputs or by the backend's self-test.
    """

    name: str
    on: str
    golden: GoldenResult | None
    reason: str
    wrong: bool

    def text(self) -> str:
        """One line."""
        if self.golden is None:
            return f"golden: not compared, {self.name}: {self.reason}"
        if self.reason:
            return f"golden: {self.golden.rows} inputs, {self.name} {self.on} does not serve: {self.reason}"
        return f"golden: {self.golden.rows} inputs, {self.name} {self.on}, {self.golden.text()}"


@dataclass(frozen=True)
class Verified:
    """All variants of a bundle.

    Attributes:
        variants: in the order of the manifest.
        raced: the variants race on the device, so that one which does not serve is left out.
    """

    variants: tuple[Compared, ...]
    raced: bool

    @property
    def compared(self) -> bool:
        """A variant was asked, and serves."""
        return any(one.golden is not None and not one.wrong for one in self.variants)

    def problem(self) -> str:
        """Why the bundle does not serve here; empty where it does, or where nothing could be asked."""
        wrong = [one for one in self.variants if one.wrong]
        if not wrong or (self.raced and self.compared):
            return ""
        return "; ".join(f"{one.name}: {one.reason}" for one in wrong)


def verify(bundle: Bundle, progress: Progress = silent) -> Verified:
    """Runs the golden inputs of a bundle by each of its variants.

    Args:
        bundle: that was checked.
        progress: told how far the making of an engine is.

    Raises:
        IntegrityError: when the golden inputs cannot be read, or an engine of the bundle is not signed by a trusted key.
    """
    golden.read(bundle)  # also where nothing runs
    found = []
    for variant in bundle.manifest.variants:
        name = f"{variant.method} on {variant.backend}"
        backend = backends.get(variant.backend)
        built_with = next((variant.versions[p] for p in backend.PACKAGES if p in variant.versions), "unknown")
        on = f"{backends.installed_version(variant.backend)} (built with {built_with})"
        try:
            check_instructions(variant, bundle.path)
            backend.check_here()
            with Session(bundle, cap_threads(variant), progress=progress) as session:
                result = golden.check(session)
            found.append(Compared(name, on, result, result.problem(), not result.passed))
        except BackendError as problem:
            found.append(Compared(name, on, None, str(problem), isinstance(problem, WrongResultsError)))
    return Verified(tuple(found), bundle.manifest.choose_on == "device")
