"""From a graph of a bundle to an engine that runs: out of the cache of this device, out of a bundle that is signed, or made here.

An engine is native code. So it is loaded only when this device made it, or when it came in a bundle that a trusted key signed.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from edgekit import backends
from edgekit.backends import EngineMismatchError
from edgekit.bundle import onnx_reader
from edgekit.bundle.trust import Bundle
from edgekit.drivers import jetson
from edgekit.engines.plans import SCHEMA, TIMINGS, Plans
from edgekit.spec.errors import BackendError, BuildError, IntegrityError
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import plain
from edgekit.spec.progress import Progress
from edgekit.spec.tensor import Signature

__all__ = ["Compilation", "SelfTest", "key_parts", "load_engine", "of_all"]

_log = logging.getLogger("edgekit")

SelfTest = Callable[[backends.Engine], str]
"""Why an engine that was just made does not serve; empty where it does."""


@dataclass(frozen=True)
class Compilation:
    """Where an engine came from.

    Attributes:
        source: ``made here``, ``cache`` (made here before) or ``bundle`` (signed by a key that is trusted).
        key: of its entry in the cache; empty for one of the bundle.
        seconds: that making it took, when it was made.
        size_mb: of the engine, MiB.
    """

    source: str
    key: str
    seconds: float
    size_mb: float

    def text(self) -> str:
        """A few words."""
        if self.source == "bundle":
            return f"engine of the bundle, signed by a trusted key ({self.size_mb:.1f} MB)"
        return f"engine {'made here' if self.source == 'made here' else 'from the cache, made here'} in {self.seconds:.1f} s ({self.size_mb:.1f} MB)"


def of_all(compilations: Sequence[Compilation]) -> Compilation | None:
    """The engines of several graphs as one: made here where one of them was, with the seconds of those that were. None where there is none."""
    if not compilations:
        return None
    newest = max(compilations, key=lambda one: one.source == "made here")
    alike = [one.seconds for one in compilations if one.source == newest.source]
    return replace(newest, seconds=sum(alike), size_mb=sum(one.size_mb for one in compilations))


def key_parts(
    bundle: Bundle, variant: Variant, signature: Signature, identity: Mapping[str, object]
) -> dict[str, object]:
    """All that an engine depends on: graph with its weights, recipe, and the device as it tells of itself."""
    name = variant.graphs[signature.name]
    external = onnx_reader.read(bundle.read(name)).external
    beside = sorted({(PurePosixPath(name).parent / tensor.location).as_posix() for tensor in external})
    return {
        "schema": SCHEMA,
        "graph": bundle.manifest.files[name].sha256,
        "weights": [[n, bundle.manifest.files[n].sha256] for n in beside],
        "signature": plain(signature),
        "recipe": plain(variant.engine),
        **identity,
    }


@dataclass(frozen=True)
class EngineOptions:
    """How :func:`load_engine` comes to an engine.

    Attributes:
        make: Whether engines are made here and stored, also where the bundle brings some; else what can be used is used.
        force: Whether an engine is made anew also where the cache has one.
        self_test: Function that is called with an engine that was made here, and returns what is wrong with it.
    """

    make: bool = False
    force: bool = False
    self_test: SelfTest | None = None


def load_engine(
    bundle: Bundle,
    variant: Variant,
    signature: Signature,
    device: Any,
    progress: Progress,
    options: EngineOptions | None = None,
) -> tuple[backends.Engine, Compilation | None]:
    """Loads what a variant runs on a device.

    Args:
        bundle: that was checked.
        variant: one of its variants.
        signature: the entry point.
        device: of the variant's backend, opened.
        progress: told how far a compilation is.
        options: Options; None for an engine that can be used as it is, where there is one.

    Returns:
        The engine, and where it came from; None for a backend that runs the graph itself.

    Raises:
        IntegrityError: for an engine of the bundle that no trusted key signed.
        EngineMismatchError: for one that a trusted key signed and this device cannot load.
        BackendError: when the backend refuses the graph or the recipe, or an engine that was made here fails its self-test: the cache has it no more.
        BuildError: with ``make``, when the engine cannot be kept.
    """
    how = options or EngineOptions()
    make, force, self_test = how.make, how.force, how.self_test
    if not backends.get(variant.backend).ENGINES:
        graph: backends.Engine = device.load(bundle.graph(variant.graphs[signature.name]), signature, variant.shapes)
        bundle.check_unchanged()
        return graph, None
    plans = Plans()
    parts = key_parts(bundle, variant, signature, device.identity())
    key = plans.key(parts)
    if not force and (found := _cached(plans, key, signature, device)) is not None:
        return found
    if variant.engines and not make:
        if bundle.trusted:
            plan = bundle.read(variant.engines[signature.name])
            return device.load(plan, signature), Compilation("bundle", "", 0.0, len(plan) / 2**20)
        raise IntegrityError(
            f"{bundle.path} brings an engine that was made elsewhere, and an engine is native code: it is loaded only when a key that you trust signed it. "
            "Name the key, as in load(..., trust=Trust(keys=[...])), or make the engine here: edgekit compile BUNDLE",
            code="engine-untrusted",
        )
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(
                plans.lock(key, lambda: progress("wait for another process that makes this engine", 0, 0))
            )
        except BuildError:  # a folder that cannot be written has no lock, and nothing will be kept in it
            if make:
                raise
        # While this one waited, another process may have made it.
        if not force and (found := _cached(plans, key, signature, device)) is not None:
            return found
        engine, made = _made(plans, bundle, variant, signature, device, progress, must_keep=make)
    if self_test is not None:
        _check(engine, made, self_test, plans, bundle)
    return engine, made


def _check(engine: backends.Engine, made: Compilation, self_test: SelfTest, plans: Plans, bundle: Bundle) -> None:
    """Refuses an engine that answers wrongly."""
    try:
        problem = self_test(engine)
    except BaseException:
        engine.close()
        raise
    if problem:
        engine.close()
        plans.drop(made.key, problem)
        raise BackendError(
            f"The engine that was made here for {bundle.path} does not serve: {problem}. Make it anew, and race again: edgekit compile BUNDLE",
            code="engine-self-test",
        )


def _cached(plans: Plans, key: str, signature: Signature, device: Any) -> tuple[backends.Engine, Compilation] | None:
    plan = plans.find(key)
    if plan is None:
        return None
    try:
        engine = device.load(plan, signature)
    except EngineMismatchError as problem:
        plans.drop(key, str(problem))
        return None
    about = plans.about(key)
    made_in, now = about.get("power_mode"), _power_mode()
    if made_in and now and made_in != now:
        again = "Make it anew with: edgekit compile BUNDLE --force"
        _log.warning(
            "The engine was made in power mode %s, the board is in %s: other kernels may be faster now. %s",
            made_in,
            now,
            again,
        )
    seconds = about.get("seconds")
    return engine, Compilation(
        "cache", key, float(seconds) if isinstance(seconds, (int, float)) else 0.0, len(plan) / 2**20
    )


def _made(
    plans: Plans,
    bundle: Bundle,
    variant: Variant,
    signature: Signature,
    device: Any,
    progress: Progress,
    *,
    must_keep: bool,
) -> tuple[backends.Engine, Compilation]:
    parts = key_parts(bundle, variant, signature, device.identity())
    key = plans.key(parts)
    # Kernels are timed for a device and a version, whatever the graph: one timing cache serves all engines made here.
    timed = {TIMINGS: device.identity()}
    timings = bytes(plans.find(plans.key(timed)) or b"")
    start = time.perf_counter()
    built = device.compile(bundle.path / variant.graphs[signature.name], signature, variant.engine, timings, progress)
    bundle.check_unchanged()  # TensorRT reads a graph and its weights by path
    seconds = time.perf_counter() - start
    about = {
        "seconds": seconds,
        "method": variant.method,
        "model": bundle.manifest.provenance.get("model", ""),
        # Kernels were timed in this mode. Another one does not make the engine wrong, so it is no part of the key.
        "power_mode": _power_mode(),
    }
    kept = False
    try:
        plans.store(key, built.plan, parts, about)
        kept = True
        if built.timing_cache:
            plans.store(plans.key(timed), built.timing_cache, timed, {})
    except BuildError as problem:
        if must_keep and not kept:
            raise
        lost = "The engine runs, and could not be kept, so the next start makes it again"
        if kept:  # timings save time alone: an engine serves without them
            lost = "The engine is kept, and what TensorRT measured of kernels is not, so the next engine takes as long to make"
        _log.warning("%s: %s", lost, problem)
    return device.load(built.plan, signature), Compilation("made here", key, seconds, len(built.plan) / 2**20)


def _power_mode() -> str:
    board = jetson.board()
    return board.power_mode if board is not None else ""
