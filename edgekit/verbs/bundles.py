"""``verify``, ``pack``, ``unpack``, ``inspect`` and ``targets``: a bundle or a target as such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import pack as packed
from edgekit.bundle.signature import Trust, stated_key
from edgekit.bundle.trust import Bundle, open_bundle
from edgekit.runtime.verify import Verified
from edgekit.runtime.verify import verify as verify_golden
from edgekit.spec import target as target_files
from edgekit.spec.errors import IntegrityError, UsageError
from edgekit.spec.parsing import Recorded, plain
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent
from edgekit.spec.sources import FilePath
from edgekit.spec.target import Target

__all__ = [
    "BundleInfo",
    "PackedBundle",
    "TargetList",
    "UnpackedBundle",
    "VerifyResult",
    "inspect",
    "look_at",
    "pack",
    "targets",
    "unpack",
    "verify",
]


@dataclass(frozen=True)
class VerifyResult:
    """A bundle whose files are as its manifest lists them, and what its variants compute here.

    Attributes:
        bundle: Path of the bundle.
        files: Number of files that the manifest lists.
        signed: Whether a trusted key signed the bundle; False also where no key was given.
        key_id: Fingerprint of the key that the signature names; empty where there is no signature. It is not checked
            without a trusted key.
        golden: Comparison of each variant with the golden inputs; None where only the files were checked.
    """

    bundle: str
    files: int
    signed: bool
    key_id: str
    golden: Verified | None

    def text(self) -> str:
        """Return a line on the files, and one on each variant."""
        if self.signed:
            signature = ", signed by a key that is trusted"
        elif self.key_id:
            signature = (
                f"; signed, and the signature was not checked: verify it with --key KEY.pub (its key id: {self.key_id})"
            )
        else:
            signature = "; not signed"
        lines = [f"files: {self.files}, all as the manifest lists them{signature}"]
        if self.golden is not None:
            lines += [variant.text() for variant in self.golden.variants]
        return "\n".join(lines)

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        golden_variants = () if self.golden is None else self.golden.variants
        variants = [plain(variant) for variant in golden_variants]
        compared = None if self.golden is None else self.golden.compared
        return {
            "bundle": self.bundle,
            "files": self.files,
            "signed": self.signed,
            "key_id": self.key_id,
            "compared": compared,
            "variants": variants,
        }

    def check(self, require_golden: bool = False) -> None:
        """Refuse a bundle that computes something else here than where it was built.

        Args:
            require_golden: Whether at least one variant must have been compared.

        Raises:
            IntegrityError: If a variant differs, or when nothing could be compared.
        """
        if self.golden is not None and (problem := self.golden.problem()):
            raise IntegrityError(
                f"The bundle does not compute here what it computed where it was built: {problem}. "
                "Another backend version or a CPU with other instructions can be the reason: "
                "build it again on such a machine.",
                code="golden-differs",
            )
        if require_golden and (self.golden is None or not self.golden.compared):
            raise IntegrityError(
                "The files are right, but no variant could be compared with its golden inputs here, "
                "which --require-golden asks for. "
                "Install the backend that is named above, or verify on the device that the bundle is for.",
                code="golden-not-run",
            )


def look_at(
    bundle: FilePath, *, files_only: bool = False, trust: Trust | None = None, progress: Progress = silent
) -> VerifyResult:
    """Check the files of a bundle and run its golden inputs; a difference is reported in the result, not raised.

    Args:
        bundle: Folder of the bundle.
        files_only: Whether the golden inputs are left out.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of an engine that is made.

    Raises:
        IntegrityError: If a file is altered, missing or not listed, or the bundle is not signed by a trusted key.
    """
    opened = open_bundle(Path(bundle), trust)
    golden = None if files_only else verify_golden(opened, progress)
    key_id = stated_key(opened.path) or ""
    return VerifyResult(str(bundle), len(opened.manifest.files), opened.trusted, key_id, golden)


@takes_paths("bundle")
def verify(
    bundle: FilePath,
    *,
    files_only: bool = False,
    require_golden: bool = False,
    trust: Trust | None = None,
    progress: Progress = silent,
) -> VerifyResult:
    """Check every file of a bundle against its digest, and its outputs on this machine against those of the build.

    A variant that cannot run on this machine is named in the result and not compared: a bundle for another machine
    passes by its files.

    Args:
        bundle: Folder of the bundle.
        files_only: Whether only the files are checked.
        require_golden: Whether at least one variant must be compared: for the device that the bundle is for.
        trust: Keys of makers whose bundles may be opened; None for anybody's.
        progress: Function that is called with the progress of an engine that is made.

    Returns:
        The number of files, and how each variant compares.

    Raises:
        IntegrityError: If a file is altered, missing or not listed, or when the bundle is not signed by a trusted
            key or computes something else here.
        UsageError: If options contradict each other.
    """
    if files_only and require_golden:
        raise UsageError("files_only and require_golden contradict each other. Leave one out.", code="option-conflict")
    result = look_at(bundle, files_only=files_only, trust=trust, progress=progress)
    result.check(require_golden)
    return result


@dataclass(frozen=True)
class PackedBundle:
    """A bundle in one file.

    Attributes:
        file: File that was written.
        size_mb: Size of the file, MiB.
    """

    file: Path
    size_mb: float

    def text(self) -> str:
        """Return a sentence."""
        return f"Wrote {self.file}, {self.size_mb:.1f} MB."

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {"file": str(self.file), "size_mb": self.size_mb}


@takes_paths("bundle", "out")
def pack(
    bundle: FilePath, out: FilePath | None = None, *, force: bool = False, trust: Trust | None = None
) -> PackedBundle:
    """Check a bundle and write it into one file, a ZIP without compression; the same bundle gives the same bytes.

    Args:
        bundle: Folder of the bundle.
        out: File; None for the bundle's name with ``.edge``, in the current folder.
        force: Whether a packed bundle that is there is replaced.
        trust: Keys of makers whose bundles may be packed; None for anybody's.

    Returns:
        The file.

    Raises:
        IntegrityError: If the bundle is altered or incomplete, or not signed by a trusted key.
        UsageError: If the file exists and ``force`` is not given, or is something else.
        BuildError: If it cannot be written.
    """
    name = Path(bundle).resolve().name
    file = packed.pack(Path(bundle), Path(f"{name}{packed.SUFFIX}" if out is None else out), force=force, trust=trust)
    return PackedBundle(file, file.stat().st_size / 2**20)


@dataclass(frozen=True)
class UnpackedBundle:
    """A bundle that was unpacked.

    Attributes:
        bundle: Bundle.
        notes: Notes on it, a sentence each.
    """

    bundle: Bundle
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Return a sentence on the bundle."""
        return f"Wrote {self.bundle.path}, {len(self.bundle.manifest.files)} files, {self.bundle.size / 2**20:.1f} MB."

    def record(self) -> dict[str, object]:
        """Return plain data for JSON."""
        size_mb = self.bundle.size / 2**20
        files = len(self.bundle.manifest.files)
        return {"bundle": str(self.bundle.path), "files": files, "size_mb": size_mb, "notes": list(self.notes)}


@takes_paths("file", "out")
def unpack(
    file: FilePath,
    out: FilePath | None = None,
    *,
    force: bool = False,
    allow_downgrade: bool = False,
    trust: Trust | None = None,
) -> UnpackedBundle:
    """Write the bundle of a file into a folder; it is checked before it appears, and appears whole or not at all.

    Args:
        file: File that :func:`pack` wrote.
        out: Folder of the bundle; None for the file's name without ``.edge``, in the current folder.
        force: Whether a bundle that is there is replaced.
        allow_downgrade: Whether a bundle of another name, or a newer one, may be replaced.
        trust: Keys of makers whose bundles may be unpacked; None for anybody's.

    Returns:
        The bundle, and notes on it.

    Raises:
        IntegrityError: If the file is no packed bundle, is damaged or has expired, or is not signed by a trusted key.
        UsageError: If the folder exists and ``force`` is not given, or must not be replaced.
        BuildError: If it cannot be written.
    """
    notes: list[str] = []
    folder = Path(file).resolve().name.removesuffix(packed.SUFFIX) if out is None else out
    bundle = packed.unpack(
        Path(file), Path(folder), force=force, trust=trust, allow_downgrade=allow_downgrade, notes=notes
    )
    return UnpackedBundle(bundle, tuple(notes))


@dataclass(frozen=True)
class BundleInfo:
    """A bundle in words.

    Attributes:
        bundle: Bundle, of which ``manifest`` says everything.
    """

    bundle: Bundle

    def text(self, *, wide: bool = False) -> str:
        """Return task, inputs, variants, the candidates of the build and the origin.

        Args:
            wide: Whether all columns of the candidates, and digests in full, are shown.
        """
        from edgekit.report.inspect import inspect as describe

        return describe(self.bundle, wide=wide)

    def record(self) -> dict[str, Any]:
        """Return the manifest as plain data."""
        return dict(plain(self.bundle.manifest))


@takes_paths("bundle")
def inspect(bundle: FilePath, *, trust: Trust | None = None) -> BundleInfo:
    """Check a bundle and read its manifest.

    Args:
        bundle: Folder of the bundle.
        trust: Keys of makers whose bundles may be opened; None for anybody's.

    Raises:
        IntegrityError: If the bundle is altered or incomplete.
    """
    return BundleInfo(open_bundle(Path(bundle), trust))


@dataclass(frozen=True)
class TargetList(Recorded):
    """Targets that a bundle can be built for.

    Attributes:
        targets: Name to target.
    """

    targets: Mapping[str, Target]

    def text(self) -> str:
        """Return a table of the targets; of one alone all that it says."""
        from edgekit.report.inspect import target_text
        from edgekit.report.table import table

        if len(self.targets) == 1:
            return target_text(next(iter(self.targets.values())))
        rows = [(t.name, ", ".join(t.backends), t.description) for t in self.targets.values()]
        return table(("target", "backends", "description"), rows, left=(0, 1, 2))


def targets(name: FilePath | None = None) -> TargetList:
    """List the targets that a bundle can be built for.

    Args:
        name: Name of a target, or a TOML file, to read that one alone; None for all that EdgeKit ships.

    Raises:
        UsageError: If the target is not known, or the file is no target.
    """
    names = target_files.names() if name is None else [str(name)]
    loaded = [target_files.load(one) for one in names]
    return TargetList({target.name: target for target in loaded})
