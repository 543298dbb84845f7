"""Runner of a model's graphs on rows: it batches rows of similar size, runs streams, and checks outputs for NaN.

All code that runs graphs on rows uses it: sessions, exports, calibration and the search.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import backends
from edgekit.runtime import loops
from edgekit.runtime.loops import single
from edgekit.spec import rows as row_format
from edgekit.spec.errors import OutputError
from edgekit.spec.protocols import Arrays, Runs
from edgekit.spec.tensor import Signature, merge_signatures

__all__ = ["GraphRunner", "check_finite", "open_runner"]

_MAX_ROWS_NAMED = 8


@dataclass(eq=False)
class GraphRunner:
    """Runner of the graphs of a model. It does not close the engines: the caller that opened them does.

    Attributes:
        engines: Engine of each signature of the loop, by signature name.
        signatures: Inputs and outputs of each graph, by signature name.
        loop: Name of a module in ``runtime/loops/``, or of an installed loop.
        shapes: Bucket edges along the first variable axis, ascending.
        batch: Largest number of rows of one call.
        max_tokens: Token limit of a call: rows times padded length. A single row may exceed it; 0 for no limit beside
            ``batch``.
        streams: Number of concurrent calls.
        name: Subject of error messages, e.g. ``static on onnxruntime``.
        options: Options of the loop.

    Raises:
        FormatError: If the loop is not installed.
    """

    engines: Mapping[str, Runs]
    signatures: Mapping[str, Signature]
    loop: str = "single"
    _: KW_ONLY
    shapes: Sequence[int] = ()
    batch: int = 1
    max_tokens: int = 0
    streams: int = 1
    name: str = "The graph"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look up the loop."""
        self._loop = loops.get(self.loop)
        self._whole = merge_signatures([self.signatures[name] for name in self._loop.SIGNATURES])
        self.shapes = tuple(self.shapes)

    @classmethod
    def of(cls, engine: Runs, signature: Signature, **settings: Any) -> GraphRunner:
        """Return a runner of one engine.

        Args:
            engine: Open engine.
            signature: Inputs and outputs of its graph.
            **settings: Further arguments of the class.
        """
        return cls({signature.name: engine}, {signature.name: signature}, **settings)

    def run(self, rows: Sequence[Arrays], *, alone: bool = False, finite: bool = True) -> list[Arrays]:
        """Run rows, in calls of rows of similar size, with as many concurrent calls as there are streams.

        Args:
            rows: Arrays by input name without a batch axis, for each row. Variable axes may have any size.
            alone: Whether each row runs in its own call, one after the other.
            finite: Whether NaN and infinite outputs are errors.

        Returns:
            Arrays by output name without a batch axis, for each row, in the order of ``rows``.

        Raises:
            OutputError: If an output is NaN or infinite; with the indices of the rows.
            InputError: If the fixed axes of a row differ from those of the graph.
        """
        answers = self._run_each(rows) if alone else self._run_batched(rows)
        if finite:
            check_finite(answers, self.name)
        return answers

    def record(self, rows: Sequence[Arrays]) -> Mapping[str, list[dict[str, np.ndarray]]]:
        """Return the feeds of every graph for one call with these rows, batch axis first, for calibration."""
        return self._loop.record(self.engines, self.signatures, rows)

    def _run_each(self, rows: Sequence[Arrays]) -> list[Arrays]:
        return [self._call([row])[0] for row in rows]

    def _run_batched(self, rows: Sequence[Arrays]) -> list[Arrays]:
        parts = single.cut([single.size(self._whole, row) for row in rows], self.batch, self.max_tokens)

        def call(part: Sequence[int]) -> list[Arrays]:
            return self._call([rows[i] for i in part])

        if self.streams > 1 and len(parts) > 1:
            # The longest calls run first, so that the streams end at about the same time.
            with ThreadPoolExecutor(self.streams) as pool:
                results = list(pool.map(call, reversed(parts)))[::-1]
        else:
            results = [call(part) for part in parts]
        answers: list[Arrays] = [{}] * len(rows)
        for part, result in zip(parts, results, strict=True):
            for index, answer in zip(part, result, strict=True):
                answers[index] = answer
        return answers

    def _call(self, rows: Sequence[Arrays]) -> list[Arrays]:
        return self._loop.run(self.engines, self.signatures, rows, self.shapes, self.options)


def check_finite(answers: Sequence[Arrays], name: str) -> None:
    """Raise an error for NaN and infinite outputs. The message has the indices of the rows, never their content.

    Args:
        answers: Outputs of each row.
        name: Subject of the message, e.g. ``static on onnxruntime``.

    Raises:
        OutputError: If an output is NaN or infinite.
    """
    for answer in answers:
        if not row_format.is_finite(answer):
            break
    else:
        return
    broken = np.flatnonzero(~row_format.finite(answers)).tolist()
    indices = ", ".join(map(str, broken[:_MAX_ROWS_NAMED]))
    if len(broken) > _MAX_ROWS_NAMED:
        indices += f" and {len(broken) - _MAX_ROWS_NAMED} more"
    raise OutputError(
        f"{name} computed NaN or infinity for {len(broken)} of {len(answers)} row(s), at index {indices} of the input; "
        "expected finite outputs. The model's weights are not finite, or its activations exceed the range of this "
        "precision. Compare with a bundle that is built with the method float32.",
        code="output-not-finite",
    )


@contextlib.contextmanager
def open_runner(
    graphs: Mapping[str, Path],
    signatures: Mapping[str, Signature],
    backend: str,
    device: str = "cpu",
    *,
    threads: int = 1,
    streams: int = 1,
    **settings: Any,
) -> Iterator[GraphRunner]:
    """Open graph files on a backend, and close them at the end of the context.

    Args:
        graphs: File of each graph, by signature name.
        signatures: Inputs and outputs of each graph, by signature name.
        backend: Name of the backend.
        device: Device of the backend.
        threads: Number of threads of all concurrent calls together.
        streams: Number of concurrent calls.
        **settings: Further arguments of :class:`GraphRunner`, e.g. ``loop`` and ``shapes``.

    Yields:
        Runner of the graphs.

    Raises:
        BackendError: If the backend is not installed or refuses a graph.
    """
    with contextlib.ExitStack() as stack:
        opened_device = backends.get(backend).open_device(device, threads, streams)
        stack.callback(opened_device.close)
        engines: dict[str, Runs] = {}
        for name, graph in graphs.items():
            # All answers of a build come from the kernels that serve most calls, so nothing is deferred.
            shapes = tuple(settings.get("shapes", ()))
            engine = backends.load_graph(backend, opened_device, graph, signatures[name], shapes, when="load")
            stack.callback(engine.close)
            engines[name] = engine
        yield GraphRunner(engines, signatures, streams=streams, **settings)
