"""The one object with a lifetime: a bundle, opened. Numpy, tokenizers and one backend, nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np

from edgekit import backends, tasks
from edgekit.engines.measure import cpus, lacks_vnni
from edgekit.engines.trust import Bundle, open_bundle
from edgekit.runtime import loops
from edgekit.spec.errors import BackendError, EdgekitError, InputError, IntegrityError, near
from edgekit.spec.manifest import Variant
from edgekit.tasks._text import Text
from edgekit.tasks.text_classification import Classification

_MOST_THREADS = 256  # a backend makes as many as it is told: a hundred thousand take all memory before they fail


@dataclass(frozen=True)
class SessionInfo:
    """What was asked for and what runs.

    Attributes:
        bundle: its path.
        task: its task.
        backend: the backend that runs; the one asked for, or an error was raised.
        backend_version: of the installed package.
        built_with: version of that package when the bundle was built; another one may round differently.
        method: quantization method.
        executed: precision that the linear layers ran in when the bundle was built.
        threads: threads of one call.
        labels: in the order of ``scores``.
        max_length: tokens of the longest text that is read whole.
        target: what the bundle was built for.
        provenance: model, revision, digests, tool versions.
    """

    bundle: str
    task: str
    backend: str
    backend_version: str
    built_with: str
    method: str
    executed: str
    threads: int
    labels: tuple[str, ...]
    max_length: int
    target: str
    provenance: Mapping[str, str]


class Session:
    """A loaded bundle. Safe to call from several threads; a context manager.

    Example:
        >>> with edgekit.load("out") as session:
        ...     session("a fine film").label
        'positive'
    """

    def __init__(self, bundle: Bundle, variant: Variant) -> None:
        """Opens the variant's backend and loads its graph; :func:`load` is the way to get here.

        Raises:
            BackendError: when the backend is not installed or refuses the graph.
            IntegrityError: when the bundle lacks what its loop drives.
        """
        manifest = bundle.manifest
        self._bundle = bundle
        self._variant = variant
        self._task = tasks.get(manifest.task).load(bundle.path / "assets")
        self._loop = loops.get(manifest.loop)
        signatures = {s.name: s for s in manifest.signatures}
        if self._loop.SIGNATURE not in signatures:
            what = f"{bundle.path} has no signature '{self._loop.SIGNATURE}', which its loop '{manifest.loop}' drives"
            raise IntegrityError(f"{what}. Build or copy the bundle again.")
        self._signature = signatures[self._loop.SIGNATURE]
        self._device = backends.get(variant.backend).open_device(variant.device, variant.threads)
        self._engine: backends.Engine | None = self._device.load(bundle.path / variant.graphs[self._signature.name], self._signature)

    @overload
    def __call__(self, inputs: Text) -> Classification: ...
    @overload
    def __call__(self, inputs: list[Text] | list[str] | list[tuple[str, str]]) -> list[Classification]: ...
    def __call__(self, inputs: Any) -> Any:
        """Answers one example, or a list of them in order.

        Args:
            inputs: a str; a tuple of two str (a pair of texts); or a list of those. A list is run in batches of
                texts of similar length; with INT8 the last digits of a score may depend on what else is in its batch.

        Raises:
            InputError: for anything else.
        """
        if isinstance(inputs, list):
            return self._many(inputs)
        tokens = self._task.preprocess([inputs])
        return self._task.postprocess(self._run_rows([tokens[0].arrays]), tokens)[0]

    def _many(self, inputs: Sequence[Text]) -> list[Classification]:
        if not inputs:
            return []
        tokens = self._task.preprocess(list(inputs))
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        answers: list[Any] = [None] * len(tokens)
        size = self._bundle.manifest.max_batch
        for start in range(0, len(order), size):
            part = order[start : start + size]
            logits = self._run_rows([tokens[i].arrays for i in part])
            for index, answer in zip(part, self._task.postprocess(logits, [tokens[i] for i in part]), strict=True):
                answers[index] = answer
        return answers

    def _run_rows(self, rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        return np.asarray(self._loop.run(self._open_engine(), self._signature, rows))

    def logits(self, inputs: Sequence[Text]) -> np.ndarray:
        """Raw outputs, one example at a time without padding: float32 ``[rows, labels]``. For evaluation.

        Raises:
            InputError: as for a call.
        """
        return np.concatenate([self._run_rows([t.arrays]) for t in self._task.preprocess(list(inputs))])

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph on raw arrays.

        Args:
            feeds: every input of the graph by name, e.g. ``input_ids: int64 [batch, sequence]``.

        Returns:
            Every output by name, e.g. ``logits: float32 [batch, labels]``.

        Raises:
            InputError: for a missing or unknown name, another dtype, rank or fixed size, or sizes that disagree.
        """
        specs = {s.name: s for s in self._signature.inputs}
        for name in feeds:
            if name not in specs:
                raise InputError(f"Unknown input '{name}'.{near(name, specs)} Inputs of this bundle: {', '.join(specs)}.")
        sizes: dict[str, int] = {}
        for name, spec in specs.items():
            expected = f"expected {spec.dtype} [{', '.join(map(str, spec.shape))}]"
            if name not in feeds:
                raise InputError(f"Input '{name}' is missing, {expected}. Give all of: {', '.join(specs)}.")
            array = feeds[name]
            if not isinstance(array, np.ndarray):
                raise InputError(f"Input '{name}' is a {type(array).__name__}, {expected}. Wrap it in numpy.asarray(..., numpy.{spec.dtype}).")
            if array.dtype != spec.dtype or array.ndim != len(spec.shape) or 0 in array.shape:
                raise InputError(f"Input '{name}' is {array.dtype} {list(array.shape)}, {expected} with no empty axis. Convert or reshape it.")
            for axis, size in zip(spec.shape, array.shape, strict=True):
                fixed = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
                if fixed != size:
                    raise InputError(f"Input '{name}' has {size} along '{axis}', another input has {fixed}. Give all inputs one size there.")
        limit = self._task.settings.max_length
        if sizes.get("sequence", 0) > limit:
            raise InputError(f"The inputs have {sizes['sequence']} tokens a row, this model takes {limit}. Shorten them.")
        return self._open_engine().run(feeds)

    def example_feeds(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Valid inputs for :meth:`run` of any size, for timing: tokens of a made-up text, nothing padded."""
        row = self._task.preprocess(["a b c d e f g h " * length])[0].arrays
        return {name: np.ascontiguousarray(np.tile(array[:length], (batch, 1))) for name, array in row.items()}

    def executed_precision(self) -> str:
        """What the linear layers run in on this machine, from the backend's own record; may run the graph once."""
        return self._open_engine().executed_precision()

    @property
    def info(self) -> SessionInfo:
        """What was asked for and what runs."""
        manifest, variant = self._bundle.manifest, self._variant
        settings = self._task.settings
        package = backends.get(variant.backend).PACKAGE
        return SessionInfo(
            bundle=str(self._bundle.path),
            task=manifest.task,
            backend=variant.backend,
            backend_version=backends.installed_version(variant.backend) or "unknown",
            built_with=variant.versions.get(package, "unknown"),
            method=variant.method,
            executed=variant.executed,
            threads=variant.threads,
            labels=settings.labels,
            max_length=settings.max_length,
            target=manifest.target,
            provenance=manifest.provenance,
        )

    def close(self) -> None:
        """Frees the engine. A second call does nothing; a later prediction is an error."""
        if self._engine is not None:
            self._engine.close()
            self._device.close()
            self._engine = None

    def _open_engine(self) -> backends.Engine:
        if self._engine is None:
            raise EdgekitError("This session is closed, so it cannot predict. Open the bundle again with edgekit.load(...).")
        return self._engine

    def __enter__(self) -> Session:
        """The session itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes it."""
        self.close()


def load(bundle: str | os.PathLike[str], *, backend: str | None = None, threads: int | None = None) -> Session:
    """Opens a bundle for prediction, after checking all of it.

    Args:
        bundle: the folder that ``edgekit build`` wrote.
        backend: which of the bundle's backends; by default its best one.
        threads: threads of one call; by default as the bundle was tuned, but no more than the CPUs there are.

    Raises:
        IntegrityError: when the bundle is altered, incomplete or of a newer format.
        BackendError: when the backend is not in the bundle, is not installed, or refuses the graph; or the CPU lacks what
            the bundle requires. Nothing else is tried instead.
        InputError: for a number of threads below 1 or beyond reason.
    """
    opened = open_bundle(Path(bundle))
    variants = opened.manifest.variants
    offered = list(dict.fromkeys(v.backend for v in variants))
    if backend is not None and backend not in offered:
        known = ", ".join(offered)
        raise BackendError(f"The bundle {bundle} runs on {known}, not on '{backend}'.{near(backend, offered)} Build it for a target with that backend.")
    most = max(_MOST_THREADS, cpus())
    if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= most):
        raise InputError(f"threads is {threads!r}, expected a whole number from 1 to {most}; more than {cpus()}, the CPUs there are, gains nothing.")
    variant = next(v for v in variants if backend in (None, v.backend))
    if variant.requires.get("instructions") == "vnni" and lacks_vnni():
        raise BackendError(
            f"The bundle {bundle} was scored on a CPU with INT8 dot products (VNNI). This CPU has none, and INT8 sums saturate on it: "
            "answers would be wrong without a sign. Build the bundle on a CPU of this kind, or a float32 one (methods = [\"float32\"] in a target)."
        )
    return Session(opened, replace(variant, threads=threads or min(variant.threads, cpus())))
