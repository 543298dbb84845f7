"""Session: an open bundle that predicts. It needs NumPy, tokenizers and one backend, and no other package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, overload

import numpy as np

from edgekit import backends, tasks
from edgekit.bundle.trust import Bundle
from edgekit.engines.compile import Compilation, EngineOptions, SelfTest, load_engine, merge_compilations
from edgekit.runtime import golden, loops
from edgekit.runtime._calls import Calls, counted
from edgekit.runtime._examples import generate_rows
from edgekit.runtime._feeds import find_signature, run_parts, sizes_of, split_rows
from edgekit.runtime._inputs import Series, TextArray, form_warning, list_of
from edgekit.runtime.info import SessionInfo, describe_session
from edgekit.runtime.loops import single
from edgekit.runtime.runner import GraphRunner, check_finite
from edgekit.runtime.stand_in import is_stand_in
from edgekit.spec.errors import InputError, UsageError
from edgekit.spec.manifest import Variant
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, HasLimit, Input, Runs, Task
from edgekit.spec.tensor import Signature, merge_signatures

__all__ = ["Session", "SessionInfo"]


class Session:
    """A loaded bundle that predicts. It is thread-safe, and a context manager that closes it.

    A session belongs to its process. It cannot be copied or pickled. A forked child can use it only on ONNX Runtime; on
    OpenVINO, a call in the child is an error.

    Attributes:
        chosen: Reason why this variant runs, as text.
        compilation: Origin of the engine, or of the engines of several graphs; None for a backend that runs the graph
            itself.

    Example:
        >>> with edgekit.load("out") as session:
        ...     session("a fine film").label
        'positive'
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        chosen: str = "it was requested",
        progress: Progress = silent,
        *,
        make: bool = False,
        force: bool = False,
        self_test: bool = False,
    ) -> None:
        """Open the backend of a variant and load its graphs. Use :func:`edgekit.load` to create a session.

        Args:
            bundle: Verified bundle.
            variant: Variant of the bundle.
            chosen: Reason of the choice, as text.
            progress: Progress callback of an engine's compilation.
            make: Whether engines are compiled and cached here, see :func:`edgekit.engines.compile.load_engine`.
            force: Whether engines are compiled even if the cache has them.
            self_test: Whether an engine that is compiled here must pass the golden-output check.

        Raises:
            BackendError: If the backend is not installed or refuses the graph, or a new engine fails its self-test.
            IntegrityError: If the bundle lacks a graph, or contains an engine that no trusted key signed.
        """
        manifest = bundle.manifest
        self._bundle = bundle
        self._variant = variant
        self.chosen = chosen
        self._has_warned = False
        self._task: Task = tasks.get(manifest.task).load(bundle.assets)
        self._loop = loops.get(manifest.loop)
        signatures = loops.find_signatures(manifest, bundle.path)
        for signature in signatures.values():
            self._task.check_signature(signature, variant.shapes)
        self._whole = merge_signatures(list(signatures.values()))
        self._batch = (variant.batch or manifest.max_batch) if variant.rows == "together" else 1
        self._device = backends.get(variant.backend).open_device(variant.device, variant.threads, variant.streams)
        self._engines: dict[str, backends.Engine] = {}
        self._calls = Calls(self._free)
        self._runner = self._make_runner(self._engines, signatures)
        compilations: list[Compilation] = []
        try:
            for signature in signatures.values():
                test = self._self_test(signature) if self_test else None
                options = EngineOptions(make, force, test)
                engine, compilation = load_engine(bundle, variant, signature, self._device, progress, options)
                self._engines[signature.name] = engine
                if compilation is not None:
                    compilations.append(compilation)
        except BaseException:
            self._free()
            raise
        self.compilation = merge_compilations(compilations)
        bundle.release()

    def _make_runner(self, engines: Mapping[str, Runs], signatures: Mapping[str, Signature]) -> GraphRunner:
        variant = self._variant
        return GraphRunner(
            engines,
            signatures,
            self._bundle.manifest.loop,
            shapes=variant.shapes,
            batch=self._batch,
            max_tokens=variant.max_tokens,
            streams=variant.streams,
            name=f"{variant.method} on {variant.backend}",
        )

    def _self_test(self, signature: Signature) -> SelfTest | None:
        """Return the golden-output check of a signature's engine.

        A model of several graphs is checked as a whole when its last engine is loaded; None for the other engines.
        """
        if signature.name != self._loop.SIGNATURES[-1]:
            return None

        def test(engine: backends.Engine) -> str:
            runner = self._make_runner({**self._engines, signature.name: engine}, self._runner.signatures)
            return golden.check_engine(runner, self._bundle, self.variant_index, self._task)

        return test

    def runs(self, variant: Variant) -> bool:
        """Return whether this session runs the variant with the same number of threads."""
        return self._variant == variant

    def limit(self, max_characters: int | None = None, truncate: bool = False) -> None:
        """Set the limit of a text's length for all following calls.

        Args:
            max_characters: Largest number of characters, as for :func:`edgekit.load`; None for the default.
            truncate: Whether a longer text is cut instead of refused.

        Raises:
            InputError: If an argument has another type or is out of range, or if inputs of the task are not texts.
        """
        modality = self._task.modality
        if isinstance(modality, HasLimit):
            modality.set_limit(max_characters, truncate)
        elif max_characters is not None or truncate:
            raise InputError(
                f"max_characters and truncate are limits of texts, but inputs of {self._bundle.manifest.task} are not "
                "texts. Leave them out.",
                code="limit-not-text",
            )

    @property
    def variant_index(self) -> int:
        """Index of the variant in the manifest. It does not depend on the number of threads."""
        variants = self._bundle.manifest.variants
        if is_stand_in(self._variant):
            return [v.graphs for v in variants].index(self._variant.graphs)
        return [(v.backend, v.graphs) for v in variants].index((self._variant.backend, self._variant.graphs))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickling and copying.

        Raises:
            UsageError: Always; the message says what to do instead.
        """
        raise UsageError(
            "A session cannot be pickled or copied: its engine belongs to this process. "
            "Pass the bundle's path, and open it there with edgekit.load(path).",
            code="session-pickled",
        )

    def __repr__(self) -> str:
        """Return one line: task, backend, precision and bundle."""
        manifest = self._bundle.manifest
        variant = self._variant
        state = "" if self._engines else ", closed"
        return f"<Session {manifest.task}, {variant.backend} {variant.executed}, {self._bundle.path}{state}>"

    @overload
    def __call__(self, inputs: list[Input] | TextArray | Series) -> list[Any]: ...
    @overload
    def __call__(self, inputs: Input) -> Any: ...
    @counted
    def __call__(self, inputs: Input) -> Any:
        """Predict one input, or a list of inputs in order.

        A list is run in batches of rows of similar size if an answer does not depend on the other rows of its batch,
        else one by one. The label is the one that the input has alone. Outputs differ by at most 1e-5 of their range in
        float32, and 5e-3 in lower precisions. The build measures the difference; ``edgekit inspect`` prints it.

        Args:
            inputs: Input of the task, e.g. a str, or a tuple of two str (a pair of texts). Or several inputs: a list,
                an array of texts with one axis, or a column of a data frame (``pandas.Series``).

        Returns:
            The task's answer, or a list of answers for several inputs.

        Raises:
            InputError: If an input has another type or is invalid.
            OutputError: If the model's outputs are not finite.

        Warns:
            UserWarning: Once per session, for a pair of texts if the model was built on single texts, and vice versa.
        """
        rows = list_of(inputs)
        if not self._has_warned:
            self._warn_form([inputs] if rows is None else rows)
        if rows is not None:
            return self._predict_many(rows)
        encoded = self._task.preprocess([inputs])
        return self._task.postprocess(self._runner.run([encoded[0].arrays], alone=True), encoded)[0]

    @counted
    def warm_up(self) -> None:
        """Compile now what the load deferred, and wait for the end: static shapes on OpenVINO (``info.shapes``).

        Without this call they are compiled in the background after some calls, which are up to twice as slow meanwhile.

        Raises:
            BackendError: If OpenVINO cannot compile the shapes.
        """
        backends.warm_up(tuple(self._engines.values()))

    def _warn_form(self, inputs: Sequence[Input]) -> None:
        message = form_warning(self._task.modality, inputs, self._bundle.manifest.input_forms)
        if message:
            self._has_warned = True
            # Three frames are between the warning and the caller: this method, __call__ and its decorator.
            warnings.warn(message, UserWarning, stacklevel=4)

    def _predict_many(self, inputs: Sequence[Input]) -> list[Any]:
        if not inputs:
            return []
        encoded = self._task.preprocess(list(inputs))
        return self._task.postprocess(self._runner.run([row.arrays for row in encoded]), encoded)

    @counted
    def outputs(self, inputs: Sequence[Input], *, batched: bool = False) -> list[Arrays]:
        """Return the raw outputs of each input, for evaluation.

        Args:
            inputs: Inputs as for a call with a list.
            batched: Whether rows are batched as in a call with a list. Otherwise they run one at a time, without
                padding except to a bucket.

        Returns:
            Arrays by output name without a batch axis, for each input.

        Raises:
            InputError: If an input is refused, see :meth:`__call__`.
            OutputError: If an output is not finite.
        """
        rows = list_of(inputs)
        if rows is None:
            raise InputError(
                f"outputs() was called with a {type(inputs).__name__}, expected a list of inputs. "
                "Write e.g. session.outputs([text]).",
                code="input-type",
            )
        if not rows:
            return []
        return self._runner.run([row.arrays for row in self._task.preprocess(rows)], alone=not batched)

    @counted
    def run_rows(self, rows: Sequence[Arrays], *, alone: bool = True) -> list[Arrays]:
        """Return the raw outputs of encoded rows.

        Args:
            rows: Arrays by input name without a batch axis, for each row, as the task encodes inputs.
            alone: Whether rows run one at a time; otherwise they are batched as in a call with a list.

        Returns:
            Arrays by output name without a batch axis, for each row.

        Raises:
            OutputError: If an output is not finite.
        """
        return self._runner.run(rows, alone=alone)

    @counted
    def run(self, feeds: Mapping[str, np.ndarray], signature: str | None = None) -> dict[str, np.ndarray]:
        """Run a graph on raw arrays, in as many calls as a list of such rows would take.

        Args:
            feeds: Arrays by name for every input of the graph, e.g. ``input_ids: int64 [batch, sequence]``.
            signature: Name of the graph's signature; None for the first one of the loop. The state of a graph is an
                input and an output like all others.

        Returns:
            Arrays by name for every output, batch axis first.

        Raises:
            InputError: If a name is missing or unknown, a dtype, rank or fixed size differs, sizes disagree, or an id
                is outside its table.
            UsageError: If the signature is unknown.
            OutputError: If an output is not finite.
        """
        graph = self._find_signature(signature)
        sizes = sizes_of(feeds, graph, self._task.max_size)
        self._task.check_arrays(feeds)
        count = sizes.get("batch", 1)
        most = self._batch if self._variant.rows == "alone" else count
        row_size = sizes.get(next(iter(graph.varying), ""), 1)
        parts = single.cut([row_size] * count, most, self._variant.max_tokens)
        outputs = run_parts(self._runner.engines[graph.name], graph, feeds, parts)
        check_finite(split_rows(outputs, count), self._runner.name)
        return outputs

    @counted
    def fill(self, rows: int, length: int) -> None:
        """Run the largest calls on all streams at the same time, to measure the peak memory.

        Args:
            rows: Number of rows per stream, which share a call as far as rows of a list may.
            length: Size of each row along its first variable axis, e.g. in tokens.
        """
        self._runner.run(self.example_rows(rows * self._variant.streams, length))

    def example_rows(self, count: int, length: int) -> list[Arrays]:
        """Return equal rows of a generated input for timing. They have no padding.

        Args:
            count: Number of rows.
            length: Size along the first variable axis, e.g. in tokens; ignored if all rows have one shape.
        """
        return generate_rows(self._task, self._whole, count, length)

    @counted
    def example_feeds(self, batch: int, length: int, signature: str | None = None) -> dict[str, np.ndarray]:
        """Return valid feeds for :meth:`run`, as the loop creates them from :meth:`example_rows`.

        The feeds of a graph with a state are those of its first call.

        Args:
            batch: Number of rows.
            length: Size along the first variable axis, e.g. in tokens; ignored if all rows have one shape.
            signature: Name of the graph's signature; None for the first one of the loop.
        """
        return self._runner.record(self.example_rows(batch, length))[self._find_signature(signature).name][0]

    def _find_signature(self, name: str | None) -> Signature:
        return find_signature(self._runner.signatures, self._loop.SIGNATURES[0] if name is None else name)

    @counted
    def executed_precision(self) -> str:
        """Return the precision that the linear layers run in, as the backend reports it. It may run each graph once."""
        return backends.summary([kind for engine in self._engines.values() for kind in engine.precisions()])

    @property
    def info(self) -> SessionInfo:
        """Description of this session."""
        info = describe_session(
            self._bundle,
            self._variant,
            self._task,
            is_variable=bool(self._whole.varying),
            batch=self._batch,
            chosen=self.chosen,
            engine=self.compilation.text() if self.compilation is not None else "",
        )
        return replace(info, ready_shapes=backends.ready_shapes(tuple(self._engines.values())))

    def close(self) -> None:
        """Wait for running calls in other threads, then free the engine.

        A second call does nothing. A later prediction is an error.
        """
        self._calls.close()

    def _free(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._device.close()

    @property
    def _engine(self) -> backends.Engine | None:
        """Engine of the first signature; None if the session is closed."""
        return next(iter(self._engines.values()), None)

    def __enter__(self) -> Session:
        """Return the session."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()
