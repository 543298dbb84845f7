"""The calibration rows, and what the float graph does on them: measured once, used by every method and search.

Nothing here grows with the number of rows: histograms have a fixed size, and outputs are kept for a sample of the rows.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.quantize import Batches
from edgekit.quantize._ranges import Histogram
from edgekit.quantize.graphs import linears, save
from edgekit.spec.errors import QuantizeError
from edgekit.spec.progress import Progress, silent
from edgekit.spec.protocols import Arrays

__all__ = ["Calibration", "Divergence", "Runner", "Split", "kl_divergence", "runner", "squared_error"]

Divergence = Callable[[Sequence[Arrays], Sequence[Arrays]], float]
"""How far outputs are from reference outputs, both one entry a row: 0 where they are equal."""

Split = Callable[[int, Mapping[str, np.ndarray]], list[Arrays]]
"""Takes outputs apart by row: the index of a batch, and its outputs by name, batch first."""

_COMPARED = 16  # batches; of four rows each they are 64 rows, and take half a second of MiniLM


def kl_divergence(outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> float:
    """Mean Kullback-Leibler divergence of softmax(outputs) from softmax(reference) over the last axis of every output, in nats."""
    means = []
    for row, expected in zip(outputs, reference, strict=True):
        for name in expected:
            p, q = _log_softmax(expected[name]), _log_softmax(row[name])
            means.append(float(np.mean((np.exp(p) * (p - q)).sum(axis=-1))))
    return float(np.mean(means))


def squared_error(outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> float:
    """Mean squared difference of all values, as a share of the reference's mean square: of a graph whose outputs no task reads."""
    difference, size = 0.0, 0.0
    for row, expected in zip(outputs, reference, strict=True):
        for name, array in expected.items():
            difference += float(((row[name].astype(np.float64) - array) ** 2).sum())
            size += float((array.astype(np.float64) ** 2).sum())
    return difference / size if size else difference


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


class Calibration:
    """Feeds of a graph, as its task prepares them."""

    def __init__(
        self,
        batches: Batches,
        divergence: Divergence = kl_divergence,
        guard: Callable[[], Iterable[Mapping[str, np.ndarray]]] = tuple,
        split: Split | None = None,
        graphs: Mapping[str, Calibration] | None = None,
    ) -> None:
        """Keeps the feeds.

        Args:
            batches: feeds by input name, the batch on the first axis, padded as in use.
            divergence: what :meth:`damage` measures.
            guard: gives further feeds, of evaluation and of full-length rows, that no 16-bit type may overflow on; no INT8 range is taken from them. They
                are made anew each time: all of them may be larger than the memory.
            split: takes the outputs of a batch apart by row and cuts the padding off; by default rows keep it.
            graphs: signature name to the calibration of its graph, where a model has several; by default this one is that of all.
        """
        self.batches, self.guard = batches, guard
        self.divergence = divergence
        self._graphs = graphs or {}
        self._split = split or (lambda _, outputs: _rows_of(outputs))
        self._measured: dict[str, dict[str, Histogram]] = {}
        self._expected: dict[Path, list[list[Arrays]]] = {}

    def of(self, signature: str) -> Calibration:
        """The calibration of one graph."""
        return self._graphs.get(signature, self)

    @functools.cached_property
    def guard_digest(self) -> str:
        """sha256 of the guard's feeds of all graphs, in hex."""
        digest = hashlib.sha256()
        for feeds in (feeds for one in self._graphs.values() or [self] for feeds in one.guard()):
            for name, array in sorted(feeds.items()):
                digest.update(f"{name} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def unguarded(self) -> Calibration:
        """The same without the guard's feeds, with all that was measured: for what is made often and judged by the calibration rows alone."""
        graphs = {name: one.unguarded() for name, one in self._graphs.items()}
        other = Calibration(self.batches, self.divergence, split=self._split, graphs=graphs)
        other._measured, other._expected = self._measured, self._expected
        return other

    def sample(self) -> Batches:
        """Up to 16 batches, spread over the set: what a search looks at."""
        return [self.batches[i] for i in self._sampled()]

    def _sampled(self) -> list[int]:
        last, count = len(self.batches) - 1, min(_COMPARED, len(self.batches))
        return sorted({round(x) for x in np.linspace(0, last, count)})

    def measure(
        self, model: ir.Model, progress: Progress = silent, *, key: str = "", searching: bool = False
    ) -> dict[str, Histogram]:
        """Histograms of every linear's input.

        Args:
            model: a float graph.
            progress: told after each batch.
            key: says which graph this is; asked again with the same key, nothing is run again.
            searching: only :meth:`sample` is run.

        Returns:
            A histogram for each activation, by its name in the graph.

        Raises:
            QuantizeError: for NaN or infinity, with the node that made it.
        """
        if key not in self._measured or not key:
            histograms: dict[str, Histogram] = {}
            self.visit(
                model,
                lambda name, values: histograms.setdefault(name, Histogram()).add(values),
                progress,
                searching=searching,
            )
            self._measured[key] = histograms
        return self._measured[key]

    def visit(
        self,
        model: ir.Model,
        see: Callable[[str, np.ndarray], None],
        progress: Progress = silent,
        *,
        searching: bool = False,
    ) -> None:
        """Runs the batches one by one and shows every linear's input, ``[batch, ..., channels]``, by its name.

        Raises:
            QuantizeError: for NaN or infinity, with the node that made it.
        """
        graph = model.graph
        wanted = {layer.x.name: layer.x for layer in linears(graph) if layer.x.name is not None}
        own, already = len(graph.outputs), {v.name for v in graph.outputs}
        graph.outputs.extend(v for name, v in wanted.items() if name not in already)
        batches = self.sample() if searching else self.batches
        try:
            with tempfile.TemporaryDirectory() as folder:
                save(model, Path(folder) / "calibrate.onnx")
                run = runner(Path(folder) / "calibrate.onnx", list(wanted))
                for index, batch in enumerate(batches):
                    for (name, value), array in zip(wanted.items(), run(batch), strict=True):
                        if not np.isfinite(array).all():
                            node = value.producer()
                            raise QuantizeError(
                                f"The output of node '{node.name if node else name}' is NaN or infinite on calibration batch {index + 1}, "
                                "so it has no range. Check the model and the samples: the float32 model has the same problem.",
                                code="activations-not-finite",
                            )
                        see(name, array)
                    progress("calibrate", index + 1, len(batches))
        finally:
            graph.outputs[own:] = []  # not del: values taken out by it go on saying that they are outputs

    def damage(self, float_path: Path, path: Path) -> float:
        """How far a graph's outputs are from the float graph's on :meth:`sample`; needs no labels.

        Args:
            float_path: the float graph; its outputs are kept.
            path: the graph that is judged.
        """
        if float_path not in self._expected:
            self._expected[float_path] = self._outputs(float_path)
        batches = zip(self._outputs(path), self._expected[float_path], strict=True)
        return float(np.mean([self.divergence(outputs, expected) for outputs, expected in batches]))

    def _outputs(self, path: Path) -> list[list[Arrays]]:
        """Outputs of each row of each batch of the sample."""
        run = runner(path)
        return [self._split(index, run.named(self.batches[index])) for index in self._sampled()]


def _rows_of(outputs: Mapping[str, np.ndarray]) -> list[Arrays]:
    count = len(next(iter(outputs.values())))
    return [{name: array[row] for name, array in outputs.items()} for row in range(count)]


class Runner:
    """A graph that is open in ONNX Runtime. Inputs that it does not read are left out."""

    def __init__(self, path: Path, outputs: Sequence[str] | None, as_written: bool) -> None:
        """Opens the graph, see :func:`runner`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_quant_qdq", "1" if as_written else "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._fed = {i.name for i in self._session.get_inputs()}
        self._outputs = outputs

    def __call__(self, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """Outputs of a batch, in the order that was asked for, else of the graph."""
        fed = {name: array for name, array in feeds.items() if name in self._fed}
        return [np.asarray(array) for array in self._session.run(self._outputs, fed)]

    def named(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs of a batch by name."""
        names = self._outputs or [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self(feeds), strict=True))


def runner(path: Path, outputs: Sequence[str] | None = None, *, as_written: bool = False) -> Runner:
    """Opens a graph in ONNX Runtime.

    It is not the runner of the runtime: values in between are read here, which no backend gives, and of feeds, not of rows.

    Args:
        path: file of the graph.
        outputs: names of the values that are asked for; by default all outputs of the graph.
        as_written: compute Q/DQ as ONNX defines it, weights restored once; else what fits is multiplied in integers.
    """
    return Runner(path, outputs, as_written)
