"""Graphs run on this machine for a device that is not here: in the arithmetic of their own types, over rows as long as the device takes."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import backends, quantize
from edgekit.backends import Engine
from edgekit.modalities.text import Text
from edgekit.quantize._arithmetic import emulate
from edgekit.search.checks import AS_WRITTEN, LOW_FLOATS
from edgekit.source import fuzz_texts
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature
from edgekit.tasks.text_classification import TextClassification

_LONGEST = 1024  # tokens of a generated row where no profile ends before: the memory of attention grows with the square


@dataclass(frozen=True)
class Outputs:
    """What a graph answers where it is scored.

    Attributes:
        logits: to the evaluation rows, float32 ``[rows, labels]``.
        long: to the rows of :func:`long_rows`, float32 ``[rows, labels]``; none where a backend itself was asked.
    """

    logits: np.ndarray
    long: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether every answer is a number."""
        return bool(np.isfinite(self.logits).all() and np.isfinite(self.long).all())

    def trouble(self, method: str) -> str:
        """Why the graph cannot be used, for a table; empty where all is finite."""
        if self.finite:
            return ""
        rows, long = (f"{int((~np.isfinite(part).all(axis=1)).sum())} of {len(part)}" for part in (self.logits, self.long))
        types = " and ".join(p for p in LOW_FLOATS if p in quantize.get(method).PRECISIONS) or "its own"
        return f"refused: in {types} arithmetic {rows} evaluation rows and {long} generated rows of up to full length are NaN or infinite"


@contextlib.contextmanager
def opened(
    graph: Path, signature: Signature, backend: str, device: str, scratch: Path, *, threads: int, streams: int = 1, shapes: tuple[int, ...] = ()
) -> Iterator[Engine]:
    """An engine of a graph; on the stand-in it computes as :func:`edgekit.quantize._arithmetic.emulate` says.

    Args:
        graph: the file.
        signature: its entry point.
        backend: who runs it.
        device: of the backend.
        scratch: a folder that goes when the build ends.
        threads: of one call.
        streams: calls at the same time.
        shapes: bucket edges in tokens.

    Raises:
        BackendError: when the backend refuses it.
    """
    with contextlib.ExitStack() as stack:
        if device == AS_WRITTEN:
            graph = emulate(graph, Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))))
        opened_device = backends.get(backend).open_device(device, threads, streams)
        stack.callback(opened_device.close)
        engine = opened_device.load(graph, signature, shapes)
        stack.callback(engine.close)
        yield engine


def longest(aim: Target, most: int) -> int:
    """Tokens of the longest row that a device of the target takes, at most 1,024 where its profiles do not say.

    Args:
        aim: the target.
        most: what the model takes.
    """
    ends = [profile["sequence"][2] for profile in aim.engine.profiles if "sequence" in profile] if aim.engine is not None else []
    return min(most, max(ends, default=_LONGEST))


def long_rows(task: TextClassification, texts: Sequence[Text], length: int) -> list[Mapping[str, np.ndarray]]:
    """Generated rows that scores and ranges are to hold for beside samples: input name to ``int64 [sequence]``.

    Sixteen of many scripts, those that golden inputs are made of, and four of exactly ``length`` tokens: generated words alone and as a pair, and the words of
    samples alone and as a pair. A row that is cut keeps its last token, as a tokenizer cuts.

    Args:
        task: tokenizes.
        texts: samples; they stay in memory.
        length: in tokens, at most what the model takes.
    """
    generated = fuzz_texts(max_length=length, count=16)[:16]
    full: list[Text] = []
    for source in (fuzz_texts(max_length=length, count=200)[6:206], texts):
        words = [word for text in source for part in ([text] if isinstance(text, str) else text) for word in part.split()] or ["a"]
        joined = " ".join(itertools.islice(itertools.cycle(words), 2 * length))  # twice: control characters are no tokens
        full += [joined, (joined, joined)]
    taken = [text for text in (*generated, *full) if isinstance(text, str) or task.settings.takes_pairs]
    rows = [encoded.arrays for encoded in task.preprocess(taken)]
    return [{name: array if len(array) <= length else np.concatenate([array[: length - 1], array[-1:]]) for name, array in row.items()} for row in rows]
