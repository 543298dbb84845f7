"""The one object with a lifetime: a bundle, opened. Numpy, tokenizers and one backend, nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, cast, overload

import numpy as np

from edgekit import backends, tasks
from edgekit.bundle.trust import Bundle
from edgekit.engines.compile import Compilation, EngineOptions, SelfTest, load_engine, merge_compilations
from edgekit.runtime import golden, loops
from edgekit.runtime._calls import Calls, counted
from edgekit.runtime._feeds import sizes_of
from edgekit.runtime._inputs import Series, TextArray, form_warning, list_of
from edgekit.runtime.info import SessionInfo
from edgekit.runtime.loops import single
from edgekit.runtime.runner import GraphRunner, check_finite
from edgekit.runtime.stand_in import is_stand_in
from edgekit.spec.errors import InputError, IntegrityError, UsageError, near
from edgekit.spec.manifest import Variant
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays, HasLimit, Input, Runs, Task
from edgekit.spec.tensor import Signature, merge_signatures

__all__ = ["Session", "SessionInfo"]


class Session:
    """A loaded bundle. Safe to call from several threads; a context manager.

    Attributes:
        chosen: why this variant runs, in words.
        compilation: where the engine came from, or the engines of several graphs; None for a backend that runs the graph itself.

    It belongs to its process: it cannot be copied or pickled, and a forked child may use it on ONNX Runtime only (on OpenVINO a call there is an error).

    Example:
        >>> with edgekit.load("out") as session:
        ...     session("a fine film").label
        'positive'
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        chosen: str = "it was asked for",
        progress: Progress = silent,
        *,
        make: bool = False,
        force: bool = False,
        self_test: bool = False,
    ) -> None:
        """Opens the variant's backend and loads its graph; :func:`edgekit.runtime.load.load` is the way to get here.

        Args:
            bundle: a bundle that was checked.
            variant: one of its variants.
            chosen: why this one.
            progress: told how far the making of an engine is.
            make: make engines here and keep them, see :func:`edgekit.engines.compile.load_engine`.
            force: make them anew.
            self_test: compare an engine that is made here with the golden inputs, and refuse one that answers otherwise.

        Raises:
            BackendError: when the backend is not installed or refuses the graph, or an engine that was made here answers wrongly.
            IntegrityError: when the bundle lacks what its loop drives, or brings an engine that no trusted key signed.
        """
        manifest = bundle.manifest
        self._bundle = bundle
        self._variant = variant
        self.chosen = chosen
        self._has_warned = False
        self._task: Task = tasks.get(manifest.task).load(bundle.assets)
        self._loop = loops.get(manifest.loop)
        stated = {s.name: s for s in manifest.signatures}
        if lacking := [name for name in self._loop.SIGNATURES if name not in stated]:
            what = f"{bundle.path} has no signature '{lacking[0]}', which its loop '{manifest.loop}' drives"
            raise IntegrityError(f"{what}. Build or copy the bundle again.", code="bundle-assets")
        signatures = {name: stated[name] for name in self._loop.SIGNATURES}
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
                how = EngineOptions(make, force, test)
                engine, made = load_engine(bundle, variant, signature, self._device, progress, how)
                self._engines[signature.name] = engine
                compilations += [] if made is None else [made]
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
        """What compares the engine of a signature with the golden inputs: a model of several graphs is compared once the last of them is made."""
        if signature.name != self._loop.SIGNATURES[-1]:
            return None

        def test(engine: backends.Engine) -> str:
            engines = {**self._engines, signature.name: engine}
            return golden.check_engine(
                self._make_runner(engines, self._runner.signatures), self._bundle, self.variant_index, self._task
            )

        return test

    def runs(self, variant: Variant) -> bool:
        """Whether this is a session of the variant, with its threads."""
        return self._variant == variant

    def limit(self, max_characters: int | None = None, truncate: bool = False) -> None:
        """Sets how long a text may be from now on, see :func:`edgekit.load`.

        Raises:
            InputError: when one of them is of another type or out of range, or is given where inputs are no texts.
        """
        modality = self._task.modality
        if isinstance(modality, HasLimit):
            modality.set_limit(max_characters, truncate)
        elif max_characters is not None or truncate:
            raise InputError(
                f"max_characters and truncate are limits of texts, and inputs of {self._bundle.manifest.task} are none. Leave them out.",
                code="limit-not-text",
            )

    @property
    def variant_index(self) -> int:
        """Which of the bundle's variants this is; with other threads it is still the same."""
        variants = self._bundle.manifest.variants
        if is_stand_in(self._variant):
            return [v.graphs for v in variants].index(self._variant.graphs)
        return [(v.backend, v.graphs) for v in variants].index((self._variant.backend, self._variant.graphs))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuses to be pickled or copied.

        Raises:
            UsageError: with what to do instead.
        """
        raise UsageError(
            "A session cannot be pickled or copied: its engine belongs to this process. "
            "Pass the bundle's path, and open it there with edgekit.load(path).",
            code="session-pickled",
        )

    def __repr__(self) -> str:
        """Return one line: task, backend, precision and bundle."""
        variant, closed = self._variant, "" if self._engines else ", closed"
        return (
            f"<Session {self._bundle.manifest.task}, {variant.backend} {variant.executed}, {self._bundle.path}{closed}>"
        )

    @overload
    def __call__(self, inputs: list[Input] | TextArray | Series) -> list[Any]: ...
    @overload
    def __call__(self, inputs: Input) -> Any: ...
    @counted
    def __call__(self, inputs: Input) -> Any:
        """Answers one input, or a list of them in order.

        Args:
            inputs: an input of the task, e.g. a str, or a tuple of two str (a pair of texts); or a list of those, an array of texts (one axis), or a
                column of a data frame (``pandas.Series``). A list is run in batches of rows of similar
                size where an answer does not depend on what else is in its batch, else one by one: the label is the one that the input has alone, and outputs
                differ by at most 1e-5 of their spread in float32, 5e-3 in lower precisions (measured in the build, see ``edgekit inspect``).

        Raises:
            InputError: for anything else.
            OutputError: when the model's answer is not finite.

        Warns:
            UserWarning: Once per session, for a pair of texts where the model was built on single texts, or the other way round.
        """
        rows = list_of(inputs)
        self._warn_form([inputs] if rows is None else rows)
        if rows is not None:
            return self._many(rows)
        encoded = self._task.preprocess([inputs])
        return self._task.postprocess(self._runner.run([encoded[0].arrays], alone=True), encoded)[0]

    def _warn_form(self, inputs: Sequence[Input]) -> None:
        if self._has_warned:
            return
        message = form_warning(self._task.modality, inputs, self._bundle.manifest.input_forms)
        if message:
            self._has_warned = True
            warnings.warn(message, UserWarning, stacklevel=4)  # the caller of the session, behind the counted call

    def _many(self, inputs: Sequence[Input]) -> list[Any]:
        if not inputs:
            return []
        encoded = self._task.preprocess(list(inputs))
        return self._task.postprocess(self._runner.run([row.arrays for row in encoded]), encoded)

    @counted
    def outputs(self, inputs: Sequence[Input], *, batched: bool = False) -> list[Arrays]:
        """Raw outputs of each input by name, without a batch axis. For evaluation.

        Args:
            inputs: inputs as a call takes them.
            batched: run them as a call with a list does; else one at a time, with nothing padded but to a bucket.

        Raises:
            InputError: as for a call.
            OutputError: when an output is not finite.
        """
        rows = list_of(inputs)
        if rows is None:
            raise InputError(
                f"outputs() was called with a {type(inputs).__name__}, expected a list of inputs. Write e.g. session.outputs([text]).",
                code="input-type",
            )
        if not rows:
            return []
        return self._runner.run([row.arrays for row in self._task.preprocess(rows)], alone=not batched)

    @counted
    def run_rows(self, rows: Sequence[Arrays], *, alone: bool = True) -> list[Arrays]:
        """Raw outputs of encoded rows: arrays by name without a batch axis in and out.

        Args:
            rows: as the task encodes inputs.
            alone: one at a time; else as a call with a list runs them.

        Raises:
            OutputError: when one is not finite.
        """
        return self._runner.run(rows, alone=alone)

    @counted
    def run(self, feeds: Mapping[str, np.ndarray], signature: str | None = None) -> dict[str, np.ndarray]:
        """Runs a graph on raw arrays, in as many calls as a list of such rows would take.

        Args:
            feeds: every input of the graph by name, e.g. ``input_ids: int64 [batch, sequence]``.
            signature: which graph, of a model with several; by default the first that its loop drives. State is an input and an output like all others.

        Returns:
            Every output by name, batch axis first.

        Raises:
            InputError: for a missing or unknown name, another dtype, rank or fixed size, sizes that disagree, or an id beyond its table.
            UsageError: for an unknown signature.
            OutputError: when an output is not finite.
        """
        asked = self._asked(signature)
        sizes = sizes_of(feeds, asked, self._task.max_size)
        self._task.check_arrays(feeds)
        names, count = [o.name for o in asked.outputs], sizes.get("batch", 1)
        by_row = [spec.name for spec in asked.inputs if spec.shape[:1] == ("batch",)]
        most = self._batch if self._variant.rows == "alone" else count
        parts = single.cut([sizes.get(next(iter(asked.varying), ""), 1)] * count, most, self._variant.max_tokens)
        run = self._runner.engines[asked.name].run
        results = [run({**feeds, **{name: feeds[name][part[0] : part[-1] + 1] for name in by_row}}) for part in parts]
        outputs = {
            name: results[0][name] if len(results) == 1 else np.concatenate([r[name] for r in results])
            for name in names
        }
        check_finite(
            [{name: outputs[name][i] for name in names} for i in range(count)],
            f"{self._variant.method} on {self._variant.backend}",
        )
        return outputs

    @counted
    def fill(self, rows: int, length: int) -> None:
        """Has every stream answer ``rows`` rows of ``length`` tokens at the same time, as far as a list may share a call: what takes most memory."""
        self._runner.run(self.example_rows(rows * self._variant.streams, length))

    def example_rows(self, count: int, length: int) -> list[Arrays]:
        """Equal rows for timing: a generated input, nothing padded.

        Args:
            count: rows.
            length: size along the axis that varies, e.g. tokens; without a meaning where all rows have one shape.
        """
        (encoded,) = self._task.preprocess(self._task.modality.generate(1, length, 0)[-1:])
        row = {spec.name: encoded.arrays[spec.name] for spec in self._whole.inputs if spec.name in encoded.arrays}
        places = [(name, place, axis) for name, place, axis in self._whole.places if name in row]
        for name, place, axis in places:
            if axis == places[0][2]:
                row[name] = np.ascontiguousarray(
                    np.take(row[name], np.arange(length) % row[name].shape[place], axis=place)
                )
        return [row] * count

    @counted
    def example_feeds(self, batch: int, length: int, signature: str | None = None) -> dict[str, np.ndarray]:
        """Valid inputs for :meth:`run`, as the loop brings them about for :meth:`example_rows`: of a graph with a state, for its first call."""
        return self._runner.record(self.example_rows(batch, length))[self._asked(signature).name][0]

    def _asked(self, name: str | None) -> Signature:
        known = self._runner.signatures
        if name is not None and name not in known:
            raise UsageError(
                f"Unknown signature '{name}'.{near(name, known)} Signatures of this bundle: {', '.join(known)}.",
                code="signature-unknown",
            )
        return known[name or self._loop.SIGNATURES[0]]

    @counted
    def executed_precision(self) -> str:
        """What the linear layers of all graphs run in on this machine, from the backend's own record; may run each graph once."""
        return backends.summary([kind for engine in self._engines.values() for kind in engine.precisions()])

    @property
    def info(self) -> SessionInfo:
        """What was asked for and what runs."""
        manifest, variant = self._bundle.manifest, self._variant
        limit = self._task.modality.limit if isinstance(self._task.modality, HasLimit) else None
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
            chosen=self.chosen,
            engine=self.compilation.text() if self.compilation is not None else "",
            labels=tuple(cast("Sequence[str]", self._task.identity.get("labels", ()))),
            max_length=self._task.max_size if self._whole.varying else None,
            max_characters=None if limit is None else limit.characters,
            truncate=limit is not None and limit.truncate,
            target=manifest.target,
            provenance=manifest.provenance,
            rows=variant.rows,
            max_tokens=variant.max_tokens,
        )

    def close(self) -> None:
        """Waits for calls at work in other threads and frees the engine. A second call does nothing; a later prediction is an error."""
        self._calls.close()

    def _free(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._device.close()

    @property
    def _engine(self) -> backends.Engine | None:
        """The engine of the first signature; None once the session is closed."""
        return next(iter(self._engines.values()), None)

    def __enter__(self) -> Session:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()
