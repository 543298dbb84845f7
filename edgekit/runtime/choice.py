"""Choice of the variant of a bundle that runs on this machine.

A bundle that could not be raced on the build machine is raced at its first load, and the result is remembered. A
variant is a candidate only if it passes the golden-output check. A variant that won on the build machine is checked at
its first load on another kind of machine (architecture, instruction sets) or with another version of its backend, since
it may compute something else there.

The race is timed on the golden inputs except the longest: the bundle contains them, and they come from generated text.
Results are stored in the cache folder under a digest of the manifest, the machine and the versions of the backends, so
a change of any of them causes a new race or check.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import backends
from edgekit.bundle.trust import MANIFEST, Bundle
from edgekit.cache.records import RACES, Records
from edgekit.engines.compile import Compilation
from edgekit.machine.busy import Watch
from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus, gpu_name, lacks_vnni
from edgekit.runtime import golden
from edgekit.runtime.golden import GoldenResult
from edgekit.runtime.session import Session
from edgekit.runtime.stand_in import STAND_IN, stand_in_variants
from edgekit.spec.digests import sha256
from edgekit.spec.errors import BackendError
from edgekit.spec.manifest import Manifest, Variant
from edgekit.spec.parsing import to_json
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays

__all__ = [
    "Choice",
    "Run",
    "cap_threads",
    "check_golden",
    "check_instructions",
    "is_as_built",
    "machine",
    "select_variant",
]

_LOG = logging.getLogger(__name__)

_ROUNDS = 7


@dataclass(frozen=True)
class Run:
    """Result of one variant on this machine.

    Attributes:
        variant: Variant of the bundle.
        refused: Reason why the variant is no candidate; empty for a candidate.
        compilation: Origin of the variant's engine; None if it has none.
        golden: Difference from the golden outputs; None if they were not compared.
        executed: Precision that the linear layers of the engine run in, as the engine reports it; empty without an
            engine.
        ms: Median time for all golden inputs except the longest, one after the other, in milliseconds; 0 if it was not
            measured.
    """

    variant: Variant
    refused: str = ""
    compilation: Compilation | None = None
    golden: GoldenResult | None = None
    executed: str = ""
    ms: float = 0.0


@dataclass(frozen=True)
class Choice:
    """The variant that runs on this machine.

    Attributes:
        variant: Variant as in the manifest.
        reason: Reason of the choice, as text.
        runs: Result of each variant; empty if the choice was remembered.
        session: Open session of the variant if it has just won a race, else None. The caller closes it.
    """

    variant: Variant
    reason: str
    runs: tuple[Run, ...] = ()
    session: Session | None = None


def select_variant(
    bundle: Bundle,
    progress: Progress = silent,
    *,
    variants: Sequence[Variant] = (),
    make: bool = False,
    force: bool = False,
) -> Choice:
    """Return the variant that runs the golden inputs fastest on this machine, and the reason as text.

    A variant is left out if its backend is not installed, if this machine cannot run it or compile its engine, or if it
    fails the golden-output check. The reason names the variants that were left out.

    Args:
        bundle: Verified bundle.
        progress: Progress callback of compilations and of the race.
        variants: Variants that compete; empty for all.
        make: Whether engines are compiled and cached here even if the bundle has some.
        force: Whether engines are compiled and the race is run again, even if results are cached.

    Raises:
        BackendError: If no variant can run here; with the reason of each.
        IntegrityError: If the golden inputs cannot be read, or an engine of the bundle is not signed by a trusted key.
    """
    candidates: list[Variant] = []
    excluded: list[Run] = []
    for variant in variants or bundle.manifest.variants:
        try:
            check_instructions(variant, bundle.path)
            backends.get(variant.backend).check_here()
            candidates.append(variant)
        except BackendError as problem:
            excluded.append(Run(variant, str(problem)))
    if not candidates:
        raise _no_variant_error(bundle, excluded)
    if len(candidates) == 1 and candidates[0].engine is None:
        reason = f"it is the only variant that can run here{_describe_excluded(excluded)}"
        return Choice(candidates[0], reason, tuple(excluded))
    record = _record_name(bundle, candidates, "race")
    if not (make or force):
        # A record of another form is ignored, and the race is run again.
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            known = Records(RACES).find(record) or {}
            winner = candidates[int(known["winner"])]
            reason = f"it won the race at the first load here: {known['times']}{_describe_excluded(excluded)}"
            return Choice(winner, reason)
    watch = Watch()
    runs, session = _race(bundle, candidates, progress, make, force)
    busy = watch.stop()
    if session is None:
        raise _no_variant_error(bundle, [*excluded, *(run for run in runs if run.refused)])
    raced = [run for run in runs if not run.refused]
    winner = min(raced, key=lambda run: run.ms).variant
    times = ", ".join(f"{_name(run.variant)} {run.ms:.2f} ms" for run in raced)
    times += "".join(f"; {_describe_refusal(run)}" for run in runs if run.refused)
    if busy.loud and len(raced) > 1:
        times += f"; {busy.text()} meanwhile"
    is_stored = Records(RACES).keep(record, {"winner": candidates.index(winner), "times": times})
    reason = f"it won the race at this load: {times}{_describe_excluded(excluded)}"
    if not is_stored:
        reason += "; the cache folder is not writable, or others may write it, so every load races"
    return Choice(winner, reason, (*runs, *excluded), session)


def cap_threads(variant: Variant, threads: int | None = None) -> Variant:
    """Return a variant with a number of threads, and at most as many streams.

    Args:
        variant: Variant of a bundle.
        threads: Number of threads; None for the variant's number, limited to the number of CPUs.
    """
    count = threads or min(variant.threads, cpus())
    return replace(variant, threads=count, streams=min(variant.streams, count))


def machine() -> dict[str, str]:
    """Return the properties of this machine that determine the kernels of a backend, for a manifest."""
    return {"architecture": platform.machine(), "instructions": " ".join(cpu_instructions())}


def check_instructions(variant: Variant, bundle: Path) -> None:
    """Raise an error for a variant that would compute wrong results on this CPU.

    Full-range INT8 weights saturate on x86 without VNNI wherever they were built. Bundles that were built for or on ARM
    have no requirement in their manifest, so the weights are checked too.

    Args:
        variant: Variant of the bundle.
        bundle: Folder of the bundle, for the message.

    Raises:
        BackendError: If the CPU lacks the instructions that the variant requires.
    """
    full_range = variant.engine is None and variant.recipe.get("weights") == "8 bit"
    if (full_range or variant.requires.get("instructions") == "vnni") and lacks_vnni(cpu_instructions()):
        raise BackendError(
            f"The bundle {bundle} has INT8 weights of 8 bits. This CPU is an x86 without INT8 dot products (VNNI), "
            "where sums of such products saturate: answers would be silently wrong. Build the bundle for this kind of "
            'CPU: in a target file, instructions = ["avx2"], or [quantize] weight_bits = 7, or methods = ["float32"].',
            code="cpu-saturates",
        )


def is_as_built(manifest: Manifest, variant: Variant) -> bool:
    """Return whether this machine and its backend run a variant with the kernels that its golden outputs come from."""
    installed = backends.installed_version(variant.backend)
    build_versions = [variant.versions.get(package) for package in backends.get(variant.backend).PACKAGES]
    return manifest.machine == machine() and installed in build_versions


def check_golden(session: Session, bundle: Bundle, variant: Variant) -> str:
    """Run the golden-output check if the machine or the backend differs from the build. A pass is remembered.

    Args:
        session: Session of the variant.
        bundle: Verified bundle.
        variant: Variant as in the manifest. A variant with an engine was checked when the engine was compiled.

    Returns:
        Result of the check as text, for the reason of the choice; empty if no check was necessary.

    Raises:
        BackendError: If the outputs differ too much.
        IntegrityError: If the golden inputs cannot be read.
    """
    if variant.engine is not None or is_as_built(bundle.manifest, variant):
        return ""
    record = _record_name(bundle, [variant], "golden")
    known = Records(RACES).find(record) or {}
    if "golden" in known:
        return f"compared at the first load here: {known['golden']}"
    start = time.perf_counter()
    result = golden.check(session)
    problem = result.problem()
    if problem:
        raise BackendError(
            f"{_name(variant)} differs on this machine: {problem}. "
            f"The bundle {bundle.path} was built {_describe_build(bundle.manifest, variant)}. "
            "Install the version of the backend that it was built with, load another of its backends, or build it "
            "again for this machine.",
            code="variant-self-test",
        )
    text = f"{result.text()} ({(time.perf_counter() - start) * 1e3:.0f} ms)"
    Records(RACES).keep(record, {"golden": text})
    return f"compared at this load, the first here: {text}"


def _describe_build(manifest: Manifest, variant: Variant) -> str:
    """Return the versions and the machine that a variant was built with, as text."""
    packages = [package for package in backends.get(variant.backend).PACKAGES if package in variant.versions]
    versions = " and ".join(f"{package} {variant.versions[package]}" for package in packages)
    architecture = manifest.machine.get("architecture", "an unknown machine")
    instructions = manifest.machine.get("instructions") or "unknown instructions"
    return f"with {versions or 'an unknown version'} on {architecture} ({instructions})"


@dataclass
class _Racer:
    """A candidate in a race.

    Attributes:
        index: Index of the variant's result.
        session: Open session of the variant.
        times: Time of each timed round in milliseconds.
    """

    index: int
    session: Session
    times: list[float] = field(default_factory=list)


def _race(
    bundle: Bundle, variants: Sequence[Variant], progress: Progress, make: bool, force: bool
) -> tuple[list[Run], Session | None]:
    """Time each variant that passes the golden-output check, interleaved.

    Returns:
        Result of each variant, and the open session of the fastest; None if no variant passes.
    """
    rows = sorted(golden.read(bundle).rows, key=lambda row: max(array.size for array in row.values()))
    # The longest row has the model's full length: it would dominate the time, and real texts are not like it.
    rows = rows[:-1] or rows
    runs: list[Run] = []
    racers: list[_Racer] = []
    with contextlib.ExitStack() as sessions:
        for index, variant in enumerate(variants):
            # A refused variant releases its memory before the next one is opened.
            with contextlib.ExitStack() as candidate:
                run, session = _open_candidate(bundle, variant, progress, make, force, candidate)
                runs.append(run)
                if session is not None and not run.refused:
                    sessions.enter_context(candidate.pop_all())
                    racers.append(_Racer(index, session))
        _time_rounds(racers, rows, progress)
        for racer in racers:
            runs[racer.index] = replace(runs[racer.index], ms=statistics.median(racer.times))
        for run in runs:
            result = _describe_refusal(run) if run.refused else f"{_name(run.variant)} {run.ms:.3f} ms"
            _LOG.info("race on the golden inputs: %s", result)
        sessions.pop_all()  # The race is complete, so the fastest session stays open.
    winner = min(racers, key=lambda racer: runs[racer.index].ms, default=None)
    for racer in racers:
        if racer is not winner:
            racer.session.close()
    return runs, None if winner is None else winner.session


def _open_candidate(
    bundle: Bundle,
    variant: Variant,
    progress: Progress,
    make: bool,
    force: bool,
    stack: contextlib.ExitStack,
) -> tuple[Run, Session | None]:
    """Open a variant and run the golden-output check.

    Returns:
        Result of the variant without a time, and its session, which ``stack`` closes; None if it cannot be opened.
    """
    try:
        session = stack.enter_context(Session(bundle, cap_threads(variant), progress=progress, make=make, force=force))
        result = golden.check(session)
        executed = session.executed_precision() if variant.engine is not None else ""
        run = Run(variant, result.problem(), session.compilation, result, executed)
    except BackendError as problem:
        return Run(variant, str(problem)), None
    if not run.refused and variant.engine is None and not is_as_built(bundle.manifest, variant):
        Records(RACES).keep(_record_name(bundle, [variant], "golden"), {"golden": result.text()})
    return run, session


def _time_rounds(racers: Sequence[_Racer], rows: Sequence[Arrays], progress: Progress) -> None:
    """Run the rows on the candidates, interleaved. The first round is the warm-up and not timed."""
    for turn in range(_ROUNDS + 1):
        for racer in racers:
            start = time.perf_counter()
            racer.session.run_rows(rows)
            if turn > 0:
                racer.times.append((time.perf_counter() - start) * 1e3)
        progress("race on the golden inputs", turn + 1, _ROUNDS + 1)


def _no_variant_error(bundle: Bundle, runs: Sequence[Run]) -> BackendError:
    """Return an error with one line per reason, which is often the same for all variants."""
    names: dict[str, list[str]] = {}
    for run in runs:
        names.setdefault(run.refused, []).append(_name(run.variant))
    lines = "\n".join(f"  {' and '.join(names[reason])} cannot run here: {reason}" for reason in names)
    hint = ""
    if stand_in_variants(bundle.manifest.variants, STAND_IN):
        hint = f"\nTo see its answers and accuracy here, run its graph on the CPU as a stand-in: --backend {STAND_IN}"
    return BackendError(
        f"No variant of the bundle {bundle.path} can run on this machine:\n{lines}{hint}", code="no-variant"
    )


def _name(variant: Variant) -> str:
    return f"{variant.method} on {variant.backend}"


def _describe_refusal(run: Run) -> str:
    return f"{_name(run.variant)} cannot run here: {run.refused}"


def _describe_excluded(runs: Sequence[Run]) -> str:
    return f" ({'; '.join(map(_describe_refusal, runs))})" if runs else ""


def _record_name(bundle: Bundle, variants: Sequence[Variant], kind: str) -> str:
    """Return the name of the record of a race or a golden-output check of these variants on this machine."""
    has_engines = any(v.engine is not None for v in variants)
    gpu = gpu_name() if has_engines else ""
    parts = [
        kind,
        bundle.digest or sha256(bundle.path / MANIFEST),
        cpu_name(),
        cpus(),
        machine(),
        gpu,
        [(v.backend, v.method, sorted(v.graphs.values()), backends.installed_version(v.backend)) for v in variants],
    ]
    return hashlib.sha256(to_json(parts).encode()).hexdigest()
