"""Load the engine of a bundle's graph: from this device's cache, from a signed bundle, or compiled here.

An engine is native code. It is loaded only if this device compiled it, or if it came in a bundle signed by a trusted
key.
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
from edgekit.engines.engine_cache import SCHEMA, TIMINGS, EngineCache
from edgekit.spec.errors import BackendError, BuildError, IntegrityError
from edgekit.spec.manifest import Variant
from edgekit.spec.parsing import plain
from edgekit.spec.progress import Progress
from edgekit.spec.tensor import Signature

__all__ = ["Compilation", "SelfTest", "key_parts", "load_engine", "merge_compilations"]

_log = logging.getLogger(__name__)

# Methods whose answers on OpenVINO's dynamic shapes are those on its static ones within the limit of
# edgekit.search.agree: 1.3e-6 and 2.4e-6 of the outputs' range on the dev set of SST-2. Dynamic shapes may then serve
# calls until the static ones are compiled. Static INT8 is not among them: a last digit of a float kernel moves a value
# by a quantization step, and 2 of 872 rows differed by up to 0.028. An answer must not depend on the time of a call.
_SAME_ON_ALL_SHAPES = ("float32", "weight_only")

SelfTest = Callable[[backends.Engine], str]
"""Function that returns why a newly compiled engine is unusable; an empty text if it is usable."""


@dataclass(frozen=True)
class Compilation:
    """Origin of an engine.

    Attributes:
        source: ``made here``, ``cache`` (compiled here earlier) or ``bundle`` (signed by a trusted key).
        key: Key of the cache entry; empty for an engine of a bundle.
        seconds: Compile time, seconds; 0 for an engine of a bundle.
        size_mb: Size of the engine, MiB.
    """

    source: str
    key: str
    seconds: float
    size_mb: float

    def text(self) -> str:
        """Return a short description for a terminal."""
        if self.source == "bundle":
            return f"engine of the bundle, signed by a trusted key ({self.size_mb:.1f} MB)"
        origin = "compiled here" if self.source == "made here" else "from the cache, compiled here"
        return f"engine {origin} in {self.seconds:.1f} s ({self.size_mb:.1f} MB)"


def merge_compilations(compilations: Sequence[Compilation]) -> Compilation | None:
    """Merge the compilations of several graphs into one.

    Args:
        compilations: Compilation of each graph.

    Returns:
        ``made here`` if any graph was compiled now, with the total compile time of those graphs and the total size of
        all; None for an empty sequence.
    """
    if not compilations:
        return None
    newest = max(compilations, key=lambda compilation: compilation.source == "made here")
    seconds = sum(compilation.seconds for compilation in compilations if compilation.source == newest.source)
    size_mb = sum(compilation.size_mb for compilation in compilations)
    return replace(newest, seconds=seconds, size_mb=size_mb)


def key_parts(
    bundle: Bundle, variant: Variant, signature: Signature, identity: Mapping[str, object]
) -> dict[str, object]:
    """Return everything that an engine depends on: the graph with its weights, the recipe and the device.

    Args:
        bundle: Verified bundle.
        variant: Variant of the bundle.
        signature: Signature of the graph.
        identity: Identity of the device, from :meth:`edgekit.backends.CompilingDevice.identity`.
    """
    name = variant.graphs[signature.name]
    folder = PurePosixPath(name).parent
    tensors = onnx_reader.read(bundle.read(name)).external
    weight_files = sorted({(folder / tensor.location).as_posix() for tensor in tensors})
    return {
        "schema": SCHEMA,
        "graph": bundle.manifest.files[name].sha256,
        "weights": [[file, bundle.manifest.files[file].sha256] for file in weight_files],
        "signature": plain(signature),
        "recipe": plain(variant.engine),
        **identity,
    }


@dataclass(frozen=True)
class EngineOptions:
    """How :func:`load_engine` comes to an engine.

    Attributes:
        make: Whether engines are compiled here and stored even where the bundle has some; False to use any usable one.
        force: Whether an engine is compiled even where the cache has one.
        self_test: Function that takes a newly compiled engine and returns a description of its fault.
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
    """Load the engine or graph that a variant runs on a device.

    Args:
        bundle: Verified bundle.
        variant: Variant of the bundle.
        signature: Signature of the graph.
        device: Open device of the variant's backend.
        progress: Progress callback of a compilation.
        options: Options; None for any usable engine.

    Returns:
        The engine and its origin; the origin is None for a backend that runs the graph itself.

    Raises:
        IntegrityError: The bundle has an engine that no trusted key signed.
        EngineMismatchError: The device cannot load an engine that a trusted key signed.
        BackendError: The backend refused the graph or the recipe, or a newly compiled engine failed its self-test. The
            failed engine is removed from the cache.
        BuildError: ``make`` is set and the engine cannot be cached.
    """
    how = options or EngineOptions()
    make = how.make
    force = how.force
    self_test = how.self_test
    if not backends.get(variant.backend).ENGINES:
        return _load_graph(bundle, variant, signature, device), None
    cache = EngineCache()
    key = cache.key(key_parts(bundle, variant, signature, device.identity()))
    _log.debug("engine of '%s' has the cache key %s", signature.name, key)
    cached = None if force else _load_cached(cache, key, signature, device)
    if cached is not None:
        _log.info("engine of '%s': read from the cache", signature.name)
        return cached
    if variant.engines and not make:
        return _load_signed(bundle, variant, signature, device)
    with contextlib.ExitStack() as locks:
        try:
            locks.enter_context(
                cache.lock(key, lambda: progress("wait for another process that compiles this engine", 0, 0))
            )
        except BuildError:
            # A folder that is not writable has no lock, and the engine will not be cached.
            if make:
                raise
        # Another process may have compiled the engine while this one waited.
        cached = None if force else _load_cached(cache, key, signature, device)
        if cached is not None:
            return cached
        engine, compilation = _compile(cache, bundle, variant, signature, device, progress, must_cache=make)
        _log.info("engine of '%s': %s", signature.name, compilation.text())
    if self_test is not None:
        _run_self_test(engine, compilation, self_test, cache, bundle)
    return engine, compilation


def _load_graph(bundle: Bundle, variant: Variant, signature: Signature, device: Any) -> backends.Engine:
    """Load the graph of a variant, so that no answer depends on which static shapes are compiled by then."""
    source = bundle.graph(variant.graphs[signature.name])
    when: backends.When = "later" if variant.method in _SAME_ON_ALL_SHAPES else "use"
    engine = backends.load_graph(variant.backend, device, source, signature, variant.shapes, when=when)
    bundle.check_unchanged()
    return engine


def _load_signed(
    bundle: Bundle, variant: Variant, signature: Signature, device: Any
) -> tuple[backends.Engine, Compilation]:
    """Load an engine that the bundle brings.

    Raises:
        IntegrityError: No trusted key signed the bundle.
    """
    if not bundle.trusted:
        raise IntegrityError(
            f"{bundle.path} contains an engine, which is native code, and no key that you trust signed it. "
            "Pass the key, as in load(..., trust=Trust(keys=[...])), or compile the engine here: "
            "edgekit compile BUNDLE",
            code="engine-untrusted",
        )
    plan = bundle.read(variant.engines[signature.name])
    return device.load(plan, signature), Compilation("bundle", "", 0.0, len(plan) / 2**20)


def _run_self_test(
    engine: backends.Engine, compilation: Compilation, self_test: SelfTest, cache: EngineCache, bundle: Bundle
) -> None:
    """Close an engine that fails its self-test, remove it from the cache, and raise."""
    try:
        problem = self_test(engine)
    except BaseException:
        engine.close()
        raise
    if problem:
        engine.close()
        cache.drop(compilation.key, problem)
        raise BackendError(
            f"Engine self-test failed for {bundle.path}: {problem}. Rebuild the engine: edgekit compile BUNDLE",
            code="engine-self-test",
        )


def _load_cached(
    cache: EngineCache, key: str, signature: Signature, device: Any
) -> tuple[backends.Engine, Compilation] | None:
    """Load an engine from the cache; None if there is none or the device refuses it."""
    plan = cache.find(key)
    if plan is None:
        return None
    try:
        engine = device.load(plan, signature)
    except EngineMismatchError as problem:
        cache.drop(key, str(problem))
        return None
    about = cache.about(key)
    build_mode = about.get("power_mode")
    current_mode = _power_mode()
    if build_mode and current_mode and build_mode != current_mode:
        _log.warning(
            "The engine was compiled in power mode %s, the board is in %s: other kernels may be faster now. "
            "Compile it again: edgekit compile BUNDLE --force",
            build_mode,
            current_mode,
        )
    seconds = about.get("seconds")
    if not isinstance(seconds, (int, float)):
        seconds = 0.0
    return engine, Compilation("cache", key, float(seconds), len(plan) / 2**20)


def _compile(
    cache: EngineCache,
    bundle: Bundle,
    variant: Variant,
    signature: Signature,
    device: Any,
    progress: Progress,
    *,
    must_cache: bool,
) -> tuple[backends.Engine, Compilation]:
    """Compile an engine, cache it and load it.

    Raises:
        BuildError: ``must_cache`` is set and the engine cannot be cached.
    """
    parts = key_parts(bundle, variant, signature, device.identity())
    key = cache.key(parts)
    # Kernel timings depend on device and version, not on the graph: all engines compiled here share one timing cache.
    timing_parts = {TIMINGS: device.identity()}
    timing_key = cache.key(timing_parts)
    timing_cache = bytes(cache.find(timing_key) or b"")
    start = time.perf_counter()
    graph = bundle.path / variant.graphs[signature.name]
    built = device.compile(graph, signature, variant.engine, timing_cache, progress)
    bundle.check_unchanged()  # TensorRT reads a graph and its weights by path.
    seconds = time.perf_counter() - start
    about = {
        "seconds": seconds,
        "method": variant.method,
        "model": bundle.manifest.provenance.get("model", ""),
        # Kernels were timed in this mode. The engine stays correct in another mode, so the mode is not part of the key.
        "power_mode": _power_mode(),
    }
    is_cached = False
    try:
        cache.store(key, built.plan, parts, about)
        is_cached = True
        if built.timing_cache:
            cache.store(timing_key, built.timing_cache, timing_parts, {})
    except BuildError as problem:
        if must_cache and not is_cached:
            raise
        if is_cached:
            # Timings only save time; the engine is usable without them.
            _log.warning(
                "The engine is cached, but the kernel timings are not: the next compilation takes as long: %s", problem
            )
        else:
            _log.warning("The engine runs but could not be cached: the next start compiles it again: %s", problem)
    return device.load(built.plan, signature), Compilation("made here", key, seconds, len(built.plan) / 2**20)


def _power_mode() -> str:
    """Return the power mode of the Jetson; empty on other machines."""
    board = jetson.board()
    return "" if board is None else board.power_mode
