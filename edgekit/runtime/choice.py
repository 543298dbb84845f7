"""Which variant of a bundle runs on this machine.

A bundle that could not be raced where it was built races where it is first loaded; what won is remembered there. A variant takes part when it
answers the golden inputs as it is to. One that won where the bundle was built is compared with them at its first load on another kind of machine
(architecture, instruction sets) or by another version of its backend: it computes something else there, and may be wrong.

The golden inputs are what is timed, all but the longest: they are in the bundle and come from generated text. What was found lies in the cache
folder under a digest of the manifest, the machine and the backends' versions: an upgrade of any of them races, or compares, again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """What became of one variant here.

    Attributes:
        variant: it.
        refused: why it does not take part; empty where it does.
        compilation: where its engine came from; None where it has none.
        golden: how far it is from what it answered where the bundle was built.
        executed: precision that the linear layers of its engine run in, as the engine tells it.
        ms: median time for all golden rows but the longest, one after the other; 0 where it was not timed.
    """

    variant: Variant
    refused: str = ""
    compilation: Compilation | None = None
    golden: GoldenResult | None = None
    executed: str = ""
    ms: float = 0.0


@dataclass(frozen=True)
class Choice:
    """The variant that runs here.

    Attributes:
        variant: variant as the manifest has it.
        reason: why, in words.
        runs: what became of each; nothing of that where the result was remembered.
        session: open session of the variant where it has just won a race; the caller closes it. Else None.
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
    """The variant that answers the golden inputs in the least time on this machine, and why in words.

    A variant whose backend is not installed, that this machine cannot run or make an engine of, or that answers the golden inputs otherwise
    than it is to, does not take part, and the words say so.

    Args:
        bundle: that was checked.
        progress: told how far compilations are.
        variants: those that compete; by default all.
        make: engines are made and kept here, also where the bundle brings some.
        force: make engines and race anew, whatever is remembered.

    Raises:
        BackendError: when no variant can run here, with the reason of each.
        IntegrityError: when the golden inputs cannot be read, or an engine of the bundle is not signed by a trusted key.
    """
    competing = list(variants or bundle.manifest.variants)
    able, out = [], []
    for variant in competing:
        try:
            check_instructions(variant, bundle.path)
            backends.get(variant.backend).check_here()
            able.append(variant)
        except BackendError as problem:
            out.append(Run(variant, str(problem)))
    if not able:
        raise _nobody(bundle, out)
    if len(able) == 1 and able[0].engine is None:
        return Choice(able[0], f"it is the only variant that can run here{_left_out(out)}", tuple(out))
    record = _record(bundle, able, "race")
    if not (make or force):
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            known = Records(RACES).find(record) or {}
            return Choice(
                able[int(known["winner"])], f"it won the race at the first load here: {known['times']}{_left_out(out)}"
            )
    watch = Watch()
    runs, session = _race(bundle, able, progress, make, force)
    busy = watch.stop()
    raced = [run for run in runs if not run.refused]
    out += [run for run in runs if run.refused]
    if session is None:
        raise _nobody(bundle, out)
    winner = min(raced, key=lambda run: run.ms)
    said = ", ".join(f"{_name(run.variant)} {run.ms:.2f} ms" for run in raced)
    said += "".join(f"; {_refusal(run)}" for run in runs if run.refused)
    said += f"; {busy.text()} meanwhile" if busy.loud and len(raced) > 1 else ""
    kept = Records(RACES).keep(record, {"winner": able.index(winner.variant), "times": said})
    unkept = "" if kept else "; the cache folder cannot be written, or may be by others, so every load races"
    early = [run for run in out if run not in runs]
    return Choice(
        winner.variant, f"it won the race at this load: {said}{_left_out(early)}{unkept}", (*runs, *early), session
    )


def cap_threads(variant: Variant, threads: int | None = None) -> Variant:
    """A variant with a number of threads, or with its own, but no more than the CPUs there are."""
    count = threads or min(variant.threads, cpus())
    return replace(variant, threads=count, streams=min(variant.streams, count))


def machine() -> dict[str, str]:
    """What decides, beside a backend's version, over the kernels that compute a graph on this machine; for a manifest."""
    return {"architecture": platform.machine(), "instructions": " ".join(cpu_instructions())}


def check_instructions(variant: Variant, bundle: Path) -> None:
    """Refuses a variant that would answer wrongly on this CPU.

    INT8 weights of full range saturate on x86 without VNNI wherever they were made: bundles that were built for or on ARM do not require it by name.

    Raises:
        BackendError: when the CPU lacks what the variant requires.
    """
    full_range = variant.engine is None and variant.recipe.get("weights") == "8 bit"
    if (full_range or variant.requires.get("instructions") == "vnni") and lacks_vnni(cpu_instructions()):
        raise BackendError(
            f"The bundle {bundle} has INT8 weights of 8 bits. This CPU is an x86 without INT8 dot products (VNNI), and sums of such products saturate on it: "
            "answers would be wrong without a sign. Build the bundle for a CPU of this kind: "
            'in a target file, instructions = ["avx2"], or [quantize] weight_bits = 7, or methods = ["float32"].',
            code="cpu-saturates",
        )


def is_as_built(manifest: Manifest, variant: Variant) -> bool:
    """Whether this machine and its backend compute a variant by the kernels that its golden outputs come from."""
    here = backends.installed_version(variant.backend)
    return manifest.machine == machine() and here in [
        variant.versions.get(package) for package in backends.get(variant.backend).PACKAGES
    ]


def check_golden(session: Session, bundle: Bundle, variant: Variant) -> str:
    """Compares the golden inputs where the machine or the backend is another than at the build, once: what was found is remembered.

    Args:
        session: that runs the variant.
        bundle: that was checked.
        variant: as the manifest has it; one with an engine was compared when that was made.

    Returns:
        What was compared, for those who ask why this variant runs; empty where nothing had to be.

    Raises:
        BackendError: when the answers are too far off.
        IntegrityError: when the golden inputs cannot be read.
    """
    if variant.engine is not None or is_as_built(bundle.manifest, variant):
        return ""
    record = _record(bundle, [variant], "golden")
    known = Records(RACES).find(record) or {}
    if "golden" in known:
        return f"compared at the first load here: {known['golden']}"
    start = time.perf_counter()
    found = golden.check(session)
    if problem := found.problem():
        raise BackendError(
            f"{_name(variant)} does not serve on this machine: {problem}. The bundle {bundle.path} was built {_built(bundle.manifest, variant)}. Install the "
            "version of the backend that it was built with, load another of its backends, or build it again for this machine.",
            code="variant-self-test",
        )
    said = f"{found.text()} ({(time.perf_counter() - start) * 1e3:.0f} ms)"
    Records(RACES).keep(record, {"golden": said})
    return f"compared at this load, the first here: {said}"


def _built(manifest: Manifest, variant: Variant) -> str:
    versions = (
        " and ".join(
            f"{p} {variant.versions[p]}" for p in backends.get(variant.backend).PACKAGES if p in variant.versions
        )
        or "an unknown version"
    )
    return f"with {versions} on {manifest.machine.get('architecture', 'an unknown machine')} ({manifest.machine.get('instructions') or 'unknown instructions'})"


def _race(
    bundle: Bundle, variants: Sequence[Variant], progress: Progress, make: bool, force: bool
) -> tuple[list[Run], Session | None]:
    """Median milliseconds that each variant takes for all golden rows but the longest, in turns; and the open session of the fastest."""
    rows = sorted(golden.read(bundle).rows, key=lambda row: max(array.size for array in row.values()))
    rows = rows[:-1] or rows  # the one of full length would outweigh all others, and texts are not like it
    with contextlib.ExitStack() as stack:
        runs: list[Run] = []
        able: list[tuple[int, Session, list[float]]] = []
        for index, variant in enumerate(variants):
            with contextlib.ExitStack() as held:  # what is refused gives its memory back before the next is made
                try:
                    session = held.enter_context(
                        Session(bundle, cap_threads(variant), progress=progress, make=make, force=force)
                    )
                    found = golden.check(session)
                    executed = session.executed_precision() if variant.engine is not None else ""
                    runs.append(Run(variant, found.problem(), session.compilation, found, executed))
                except BackendError as problem:
                    runs.append(Run(variant, str(problem)))
                    continue
                if not runs[index].refused:
                    if variant.engine is None and not is_as_built(bundle.manifest, variant):
                        Records(RACES).keep(_record(bundle, [variant], "golden"), {"golden": found.text()})
                    stack.enter_context(held.pop_all())
                    able.append((index, session, []))
        for turn in range(_ROUNDS + 1):
            for _, session, times in able:
                start = time.perf_counter()
                session.run_rows(rows)
                if turn:  # the first is the warm-up
                    times.append((time.perf_counter() - start) * 1e3)
            progress("race on the golden inputs", turn + 1, _ROUNDS + 1)
        for index, _, times in able:
            runs[index] = replace(runs[index], ms=statistics.median(times))
        for run in runs:
            _LOG.info(
                "race on the golden inputs: %s",
                _refusal(run) if run.refused else f"{_name(run.variant)} {run.ms:.3f} ms",
            )
        stack.pop_all()  # all were timed: the fastest stays open
    winner = min(able, key=lambda one: runs[one[0]].ms, default=None)
    for one in able:
        if one is not winner:
            one[1].close()
    return runs, None if winner is None else winner[1]


def _nobody(bundle: Bundle, runs: Sequence[Run]) -> BackendError:
    """One line for each reason: often it is the same for all."""
    reasons = {run.refused: [_name(other.variant) for other in runs if other.refused == run.refused] for run in runs}
    lines = "\n".join(f"  {' and '.join(names)} cannot run here: {reason}" for reason, names in reasons.items())
    hint = ""
    if stand_in_variants(bundle.manifest.variants, STAND_IN):
        hint = f"\nTo see its answers and accuracy here, run its graph on the CPU as a stand-in: --backend {STAND_IN}"
    return BackendError(
        f"No variant of the bundle {bundle.path} can run on this machine:\n{lines}{hint}", code="no-variant"
    )


def _name(variant: Variant) -> str:
    return f"{variant.method} on {variant.backend}"


def _refusal(run: Run) -> str:
    return f"{_name(run.variant)} cannot run here: {run.refused}"


def _left_out(runs: Sequence[Run]) -> str:
    return f" ({'; '.join(map(_refusal, runs))})" if runs else ""


def _record(bundle: Bundle, variants: Sequence[Variant], kind: str) -> str:
    """Name of the record of a race, or of a comparison with the golden inputs, of these variants on this machine."""
    parts = [
        kind,
        bundle.digest or sha256(bundle.path / MANIFEST),
        cpu_name(),
        cpus(),
        machine(),
        gpu_name() if any(v.engine is not None for v in variants) else "",
        [(v.backend, v.method, sorted(v.graphs.values()), backends.installed_version(v.backend)) for v in variants],
    ]
    return hashlib.sha256(to_json(parts).encode()).hexdigest()
