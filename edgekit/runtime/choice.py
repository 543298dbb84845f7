"""Which variant of a bundle runs on this machine.

A bundle that could not be raced where it was built races where it is first loaded; what won is remembered there.

The golden inputs are what is timed: they are in the bundle and come from generated text. The result lies in the cache
folder under a digest of the manifest, the CPU and the backends' versions: an upgrade of any of them races again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from edgekit import backends
from edgekit.engines.cache import Cache
from edgekit.engines.measure import cpu_instructions, cpu_name, cpus, lacks_vnni
from edgekit.engines.trust import MANIFEST, Bundle, sha256
from edgekit.runtime import golden
from edgekit.runtime.session import Session
from edgekit.spec.errors import BackendError
from edgekit.spec.manifest import Variant

_ROUNDS = 7


def fastest_here(bundle: Bundle) -> tuple[Variant, str]:
    """The variant that answers the golden inputs in the least time on this machine, and why in words.

    A variant whose backend is not installed, or that this CPU cannot run, does not take part, and the words say so.

    Raises:
        BackendError: when no variant can run here, with the reason of each.
        IntegrityError: when the golden inputs cannot be read.
    """
    variants = bundle.manifest.variants
    able, unable = [], []
    for variant in variants:
        try:
            check_instructions(variant, bundle.path)
            if backends.installed_version(variant.backend) is None:
                raise backends.not_installed(variant.backend)
            able.append(variant)
        except BackendError as problem:
            unable.append(f"{variant.method} on {variant.backend} cannot run here: {problem}")
    if not able:
        raise BackendError(f"No variant of the bundle {bundle.path} can run on this machine:\n" + "\n".join(f"  {reason}" for reason in unable))
    left_out = f" ({'; '.join(unable)})" if unable else ""
    if len(able) == 1:
        return able[0], f"it is the only variant that can run here{left_out}"
    record = _record(bundle, able)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        known = json.loads(record.read_text("utf-8"))
        return able[int(known["winner"])], f"it won the race at the first load here: {known['times']}{left_out}"
    times = _race(bundle, able)
    winner = times.index(min(times))
    said = ", ".join(f"{v.method} on {v.backend} {t:.2f} ms" for v, t in zip(able, times, strict=True))
    kept = _keep(record, {"winner": winner, "times": said})
    return able[winner], f"it won the race at this load: {said}{left_out}" + ("" if kept else "; the cache folder cannot be written, so every load races")


def at_most(variant: Variant, threads: int | None = None) -> Variant:
    """A variant with a number of threads, or with its own, but no more than the CPUs there are."""
    count = threads or min(variant.threads, cpus())
    return replace(variant, threads=count, streams=min(variant.streams, count))


def check_instructions(variant: Variant, bundle: Path) -> None:
    """Refuses a variant that would answer wrongly on this CPU.

    Raises:
        BackendError: when the CPU lacks what the variant requires.
    """
    if variant.requires.get("instructions") == "vnni" and lacks_vnni(cpu_instructions()):
        raise BackendError(
            f"The bundle {bundle} was scored on a CPU with INT8 dot products (VNNI). This CPU has none, and INT8 sums of full range saturate on it: "
            "answers would be wrong without a sign. Build the bundle for a CPU of this kind: "
            'in a target file, instructions = ["avx2"], or [quantize] weight_bits = 7, or methods = ["float32"].'
        )


def _race(bundle: Bundle, variants: list[Variant]) -> list[float]:
    """Median milliseconds that each variant takes for all golden rows, in turns."""
    rows = golden.rows(bundle.path)
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Session(bundle, at_most(v))) for v in variants]
        times: list[list[float]] = [[] for _ in sessions]
        for turn in range(_ROUNDS + 1):
            for session, own in zip(sessions, times, strict=True):
                start = time.perf_counter()
                session.run_rows(rows)
                if turn:  # the first is the warm-up
                    own.append((time.perf_counter() - start) * 1e3)
        return [statistics.median(own) for own in times]


def _record(bundle: Bundle, variants: list[Variant]) -> Path:
    parts = [
        sha256(bundle.path / MANIFEST),
        cpu_name(),
        cpus(),
        cpu_instructions(),
        [(v.backend, backends.installed_version(v.backend)) for v in variants],
    ]
    return Cache().root / "races" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.json"


def _keep(record: Path, found: dict[str, object]) -> bool:
    """Writes a record whole, by rename; False where the folder cannot be written."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=record.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(found, stream)
        Path(name).replace(record)
    except OSError:
        return False
    return True
