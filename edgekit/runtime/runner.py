"""The one place where a graph is run on rows: calls of rows of similar size, streams, and the check that every output is a number."""

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
from edgekit.spec import rows as of_rows
from edgekit.spec.errors import OutputError
from edgekit.spec.protocols import Arrays, Runs
from edgekit.spec.tensor import Signature, merge_signatures

__all__ = ["GraphRunner", "check_finite", "open_runner"]

_ROWS_NAMED = 8  # in a message


@dataclass(eq=False)
class GraphRunner:
    """The graphs of a model, run on rows by a loop. The engines stay open: the caller that opened them closes them.

    Attributes:
        engines: Signature name to its engine, for each signature of the loop.
        signatures: Signature name to what the graph takes and gives.
        loop: Name of a file in ``runtime/loops/``.
        shapes: Bucket edges along the first axis that varies, ascending.
        batch: Largest number of rows of one call.
        max_tokens: Largest product of rows and padded size of one call, a single row excepted; 0: ``batch`` alone limits it.
        streams: Number of calls at the same time.
        name: Subject of error messages, e.g. ``static on onnxruntime``.
        options: Options of the loop.

    Raises:
        FormatError: for a loop that this version does not have.
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
        """Looks up the loop."""
        self._loop = loops.get(self.loop)
        self._whole = merge_signatures([self.signatures[name] for name in self._loop.SIGNATURES])
        self.shapes = tuple(self.shapes)

    @classmethod
    def of(cls, engine: Runs, signature: Signature, **settings: Any) -> GraphRunner:
        """A runner of one open engine.

        Args:
            engine: an open engine.
            signature: what it takes and gives.
            settings: as for the class.
        """
        return cls({signature.name: engine}, {signature.name: signature}, **settings)

    def run(self, rows: Sequence[Arrays], *, alone: bool = False, finite: bool = True) -> list[Arrays]:
        """Runs rows, in calls of rows of similar size and as many at a time as there are streams.

        Args:
            rows: input name to an array without a batch axis; the axes that vary may have any size.
            alone: run each row in a call of its own, one after the other.
            finite: refuse outputs that are not finite.

        Returns:
            Output name to an array without a batch axis, for each row, in the order of ``rows``.

        Raises:
            OutputError: when an output is NaN or infinite, with the places of the rows.
            InputError: for a row whose fixed axes are not those of the graph.
        """
        answers = [self._call([row])[0] for row in rows] if alone else self._in_calls(rows)
        if finite:
            check_finite(answers, self.name)
        return answers

    def record(self, rows: Sequence[Arrays]) -> Mapping[str, list[dict[str, np.ndarray]]]:
        """Feeds of every graph for one call with these rows, batch first: what a graph is calibrated with."""
        return self._loop.record(self.engines, self.signatures, rows)

    def _in_calls(self, rows: Sequence[Arrays]) -> list[Arrays]:
        parts = single.cut([single.size(self._whole, row) for row in rows], self.batch, self.max_tokens)

        def call(part: Sequence[int]) -> list[Arrays]:
            return self._call([rows[i] for i in part])

        if self.streams > 1 and len(parts) > 1:
            # The longest first, so that the streams end together.
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
    """Refuses outputs that are no numbers. The message names the rows; their content is nobody's business.

    Args:
        answers: outputs of each row.
        name: what computed them, for the message.

    Raises:
        OutputError: when one is NaN or infinite.
    """
    if all(array.dtype.kind != "f" or np.isfinite(array).all() for answer in answers for array in answer.values()):
        return
    broken = np.flatnonzero(~of_rows.finite(answers)).tolist()
    which = ", ".join(map(str, broken[:_ROWS_NAMED])) + (
        f" and {len(broken) - _ROWS_NAMED} more" if len(broken) > _ROWS_NAMED else ""
    )
    raise OutputError(
        f"{name} computed NaN or infinity for {len(broken)} of {len(answers)} row(s), at index {which} of the input; expected finite outputs. "
        "The model's weights are not finite, or its activations exceed the range of this precision on such inputs: "
        "compare with a bundle that is built with the method float32.",
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
    """Opens graph files on a backend, and closes them at the end.

    Args:
        graphs: signature name to the file of its graph.
        signatures: signature name to what the graph takes and gives.
        backend: name of the backend that runs them.
        device: device of the backend.
        threads: threads of all calls that run at the same time.
        streams: calls at the same time.
        **settings: Further arguments of :class:`GraphRunner`, e.g. ``loop`` and ``shapes``.

    Raises:
        BackendError: when the backend is not installed or refuses a graph.
    """
    with contextlib.ExitStack() as stack:
        place = backends.get(backend).open_device(device, threads, streams)
        stack.callback(place.close)
        engines: dict[str, Runs] = {}
        for name, graph in graphs.items():
            engine = place.load(graph, signatures[name], tuple(settings.get("shapes", ())))
            stack.callback(engine.close)
            engines[name] = engine
        yield GraphRunner(engines, signatures, streams=streams, **settings)
