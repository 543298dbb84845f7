"""The one object with a lifetime: a bundle, opened. Numpy, tokenizers and one backend, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, overload

import numpy as np

from edgekit import backends, tasks
from edgekit.bundle.trust import Bundle
from edgekit.engines.compile import load_engine
from edgekit.modalities.text import Text, check_ids
from edgekit.runtime import loops
from edgekit.runtime._calls import Calls, counted
from edgekit.spec.errors import EdgekitError, InputError, IntegrityError, OutputError, UsageError, near
from edgekit.spec.manifest import Variant
from edgekit.spec.progress import Progress, silent
from edgekit.tasks.text_classification import Classification

_ROWS_NAMED = 8  # in a message
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
        streams: calls that a list is answered by at the same time.
        batch: rows of one such call at most.
        shapes: bucket edges in tokens that rows are padded to; none where nothing is padded.
        chosen: why this variant runs.
        engine: where its engine came from; empty for a backend that runs the graph itself.
        labels: in the order of ``scores``.
        max_length: tokens of the longest text that is read whole.
        max_characters: characters of the longest text that is taken, each run of white space counted as one.
        truncate: whether a longer one is cut there in place of being refused.
        target: what the bundle was built for.
        provenance: model, revision, digests, tool versions.
        rows: ``together``: rows of a list share calls; ``alone``: they are run one by one, see :class:`edgekit.spec.manifest.Variant`.
        max_tokens: rows times padded length of one such call at most, a single row excepted; 0: ``batch`` alone limits it.
    """

    bundle: str
    task: str
    backend: str
    backend_version: str
    built_with: str
    method: str
    executed: str
    threads: int
    streams: int
    batch: int
    shapes: tuple[int, ...]
    chosen: str
    engine: str
    labels: tuple[str, ...]
    max_length: int
    max_characters: int
    truncate: bool
    target: str
    provenance: Mapping[str, str]
    rows: str
    max_tokens: int


class Session:
    """A loaded bundle. Safe to call from several threads; a context manager.

    It belongs to its process: it cannot be copied or pickled, and a forked child may use it on ONNX Runtime only (on OpenVINO a call there is an error).

    Example:
        >>> with edgekit.load("out") as session:
        ...     session("a fine film").label
        'positive'
    """

    def __init__(
        self, bundle: Bundle, variant: Variant, chosen: str = "it was asked for", progress: Progress = silent, *, make: bool = False, force: bool = False
    ) -> None:
        """Opens the variant's backend and loads its graph; :func:`edgekit.runtime.load.load` is the way to get here.

        Args:
            bundle: a bundle that was checked.
            variant: one of its variants.
            chosen: why this one.
            progress: told how far the making of an engine is.
            make: make engines here and keep them, see :func:`edgekit.engines.compile.load_engine`.
            force: make them anew.

        Raises:
            BackendError: when the backend is not installed or refuses the graph.
            IntegrityError: when the bundle lacks what its loop drives, or brings an engine that no trusted key signed.
        """
        manifest = bundle.manifest
        self._bundle = bundle
        self._variant = variant
        self._chosen = chosen
        self._task = tasks.get(manifest.task).load(bundle.assets)
        self._loop = loops.get(manifest.loop)
        signatures = {s.name: s for s in manifest.signatures}
        if self._loop.SIGNATURE not in signatures:
            what = f"{bundle.path} has no signature '{self._loop.SIGNATURE}', which its loop '{manifest.loop}' drives"
            raise IntegrityError(f"{what}. Build or copy the bundle again.")
        self._signature = signatures[self._loop.SIGNATURE]
        self._task.check_signature(self._signature, variant.shapes)
        self._device = backends.get(variant.backend).open_device(variant.device, variant.threads, variant.streams)
        self._engine: backends.Engine | None = None
        self._calls = Calls(self._free)
        try:
            self._engine, self.compilation = load_engine(bundle, variant, self._signature, self._device, progress, make=make, force=force)
        except BaseException:
            self._device.close()
            raise
        bundle.release()
        self._batch = (variant.batch or manifest.max_batch) if variant.rows == "together" else 1

    def limit(self, max_characters: int | None = None, truncate: bool = False) -> None:
        """Sets how long a text may be from now on, see :func:`edgekit.load`.

        Raises:
            InputError: when one of them is of another type or out of range.
        """
        self._task.modality.set_limit(max_characters, truncate)

    @property
    def variant_index(self) -> int:
        """Which of the bundle's variants this is; with other threads it is still the same."""
        return [(v.backend, v.graphs) for v in self._bundle.manifest.variants].index((self._variant.backend, self._variant.graphs))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuses to be pickled or copied.

        Raises:
            UsageError: with what to do instead.
        """
        raise UsageError(
            "A session cannot be pickled or copied: its engine belongs to this process. Hand over the bundle's path, and open it there with edgekit.load(path)."
        )

    @overload
    def __call__(self, inputs: Text) -> Classification: ...
    @overload
    def __call__(self, inputs: list[Text] | list[str] | list[tuple[str, str]]) -> list[Classification]: ...
    @counted
    def __call__(self, inputs: Any) -> Any:
        """Answers one example, or a list of them in order.

        Args:
            inputs: a str; a tuple of two str (a pair of texts); or a list of those. A list is run in batches of texts of similar length where
                an answer does not depend on what else is in its batch, else one by one: the label is the one that the text has alone, and logits
                differ by at most 1e-5 of their spread in float32, 5e-3 in lower precisions (measured in the build, see ``edgekit inspect``).

        Raises:
            InputError: for anything else.
            OutputError: when the model's answer is not finite.
        """
        if isinstance(inputs, list):
            return self._many(inputs)
        tokens = self._task.preprocess([inputs])
        return self._task.postprocess(self._finite(self._run_rows([tokens[0].arrays])), tokens)[0]

    def _many(self, inputs: Sequence[Text]) -> list[Classification]:
        if not inputs:
            return []
        tokens = self._task.preprocess(list(inputs))
        answers: list[Classification] = self._task.postprocess(self._batched([t.arrays for t in tokens]), tokens)
        return answers

    def _batched(self, rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Outputs of rows in their order, run in batches of similar length or one by one, as many at a time as there are streams."""
        name = self._signature.inputs[0].name
        parts = self._loop.cut([len(row[name]) for row in rows], self._batch, self._variant.max_tokens)

        def run(part: Sequence[int]) -> np.ndarray:
            return self._run_rows([rows[i] for i in part])

        if self._variant.streams > 1 and len(parts) > 1:
            # The longest first, so that the streams end together.
            with ThreadPoolExecutor(self._variant.streams) as pool:
                results = list(pool.map(run, reversed(parts)))[::-1]
        else:
            results = [run(part) for part in parts]
        answers = np.concatenate(results)
        return self._finite(answers[np.argsort([i for part in parts for i in part])])

    def _run_rows(self, rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        return np.asarray(self._loop.run(self._open_engine(), self._signature, rows, self._variant.shapes))

    def _finite(self, answers: np.ndarray) -> np.ndarray:
        """The same answers ``[rows, ...]``, or an error that names the rows; their content is nobody's business."""
        if np.isfinite(answers).all():
            return answers
        broken = np.flatnonzero(~np.isfinite(answers.reshape(len(answers), -1)).all(axis=1)).tolist()
        which = ", ".join(map(str, broken[:_ROWS_NAMED])) + (f" and {len(broken) - _ROWS_NAMED} more" if len(broken) > _ROWS_NAMED else "")
        how = f"{self._variant.method} on {self._variant.backend}"
        raise OutputError(
            f"{how} computed NaN or infinity for {len(broken)} of {len(answers)} row(s), at index {which} of the input; expected finite logits. "
            "The model's weights are not finite, or its activations exceed the range of this precision on such texts: "
            "compare with a bundle that is built with the method float32."
        )

    @counted
    def logits(self, inputs: Sequence[Text], *, batched: bool = False) -> np.ndarray:
        """Raw outputs: float32 ``[rows, labels]``. For evaluation.

        Args:
            inputs: texts or pairs.
            batched: run them as a call with a list does; else one at a time, with nothing padded but to a bucket.

        Raises:
            InputError: as for a call.
            OutputError: when an output is not finite.
        """
        if not isinstance(inputs, list):
            raise InputError(f"logits() was called with a {type(inputs).__name__}, expected a list of texts or pairs. Write e.g. session.logits([text]).")
        if not inputs:
            return np.zeros((0, len(self._task.settings.labels)), np.float32)
        rows = [t.arrays for t in self._task.preprocess(inputs)]
        return self._batched(rows) if batched else self.run_rows(rows)

    @counted
    def run_rows(self, rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Raw outputs of encoded rows, one at a time: input name to ``int64 [sequence]`` in, ``float32 [rows, labels]`` out.

        Raises:
            OutputError: when one is not finite.
        """
        return self._finite(np.concatenate([self._run_rows([row]) for row in rows]))

    @counted
    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph on raw arrays, in as many calls as a list of such rows would take.

        Args:
            feeds: every input of the graph by name, e.g. ``input_ids: int64 [batch, sequence]``.

        Returns:
            Every output by name, e.g. ``logits: float32 [batch, labels]``.

        Raises:
            InputError: for a missing or unknown name, another dtype, rank or fixed size, sizes that disagree, or an id beyond its table.
            OutputError: when an output is not finite.
        """
        specs = {s.name: s for s in self._signature.inputs}
        if not isinstance(feeds, Mapping):
            raise InputError(f"run() was called with a {type(feeds).__name__}, expected a dict of arrays by input name. Inputs: {', '.join(specs)}.")
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
        check_ids(feeds, self._task.settings.tables, None)
        names, count = [o.name for o in self._signature.outputs], sizes.get("batch", 1)
        by_row = [name for name, spec in specs.items() if spec.shape[:1] == ("batch",)]
        parts = self._loop.cut([sizes.get("sequence", 1)] * count, self._batch if self._variant.rows == "alone" else count, self._variant.max_tokens)
        results = [self._open_engine().run({**feeds, **{name: feeds[name][part[0] : part[-1] + 1] for name in by_row}}) for part in parts]
        outputs = {name: results[0][name] if len(results) == 1 else np.concatenate([r[name] for r in results]) for name in names}
        self._finite(outputs[names[0]])
        return outputs

    @counted
    def fill(self, rows: int, length: int) -> None:
        """Has every stream answer ``rows`` rows of ``length`` tokens at the same time, as far as a list may share a call: what takes most memory."""
        row = {name: array[0] for name, array in self.example_feeds(1, length).items()}
        self._batched([row] * (rows * self._variant.streams))

    def example_feeds(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Valid inputs for :meth:`run` of any size, for timing: tokens of a made-up text, nothing padded."""
        row = self._task.preprocess(["a b c d e f g h " * length])[0].arrays
        return {name: np.ascontiguousarray(np.tile(array[:length], (batch, 1))) for name, array in row.items()}

    @counted
    def executed_precision(self) -> str:
        """What the linear layers run in on this machine, from the backend's own record; may run the graph once."""
        return self._open_engine().executed_precision()

    @property
    def info(self) -> SessionInfo:
        """What was asked for and what runs."""
        manifest, variant = self._bundle.manifest, self._variant
        settings = self._task.settings
        built_with = [variant.versions[p] for p in backends.get(variant.backend).PACKAGES if p in variant.versions]
        return SessionInfo(
            bundle=str(self._bundle.path),
            task=manifest.task,
            backend=variant.backend,
            backend_version=backends.installed_version(variant.backend) or "unknown",
            built_with=built_with[0] if built_with else "unknown",
            method=variant.method,
            executed=variant.executed,
            threads=variant.threads,
            streams=variant.streams,
            batch=self._batch,
            shapes=variant.shapes,
            chosen=self._chosen,
            engine=self.compilation.text() if self.compilation is not None else "",
            labels=settings.labels,
            max_length=settings.max_length,
            max_characters=self._task.modality.limit.characters,
            truncate=self._task.modality.limit.truncate,
            target=manifest.target,
            provenance=manifest.provenance,
            rows=variant.rows,
            max_tokens=variant.max_tokens,
        )

    def close(self) -> None:
        """Waits for calls at work in other threads and frees the engine. A second call does nothing; a later prediction is an error."""
        self._calls.close()

    def _free(self) -> None:
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
