"""Calibration feeds, and activation statistics of the float graph, which all methods and searches share.

Memory does not grow with the number of rows: histograms have a constant size, and outputs are stored for a sample of
the rows only.
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
from edgekit.stats.divergence import kl_softmax

__all__ = [
    "Calibration",
    "Divergence",
    "Runner",
    "Split",
    "kl_divergence",
    "not_finite_error",
    "runner",
    "squared_error",
]

Divergence = Callable[[Sequence[Arrays], Sequence[Arrays]], float]
"""Function that measures how far outputs are from reference outputs, both with one entry per row; 0 if equal."""

Split = Callable[[int, Mapping[str, np.ndarray]], list[Arrays]]
"""Function that splits the outputs of a batch into rows: batch index and outputs by name, with the batch axis first."""

_STORED = 8  # A search of one graph needs seven. A ranking of layers measures once for each layer.
_SAMPLED_BATCHES = 16  # At four rows per batch these are 64 rows, which take MiniLM half a second.


def kl_divergence(outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> float:
    """Return the mean Kullback-Leibler divergence of softmax(outputs) from softmax(reference), in nats.

    Args:
        outputs: Outputs of each row; the softmax is over the last axis.
        reference: Reference outputs of each row.
    """
    means = []
    for row, expected in zip(outputs, reference, strict=True):
        for name in expected:
            means.append(float(np.mean(kl_softmax(row[name], expected[name]))))
    return float(np.mean(means))


def squared_error(outputs: Sequence[Arrays], reference: Sequence[Arrays]) -> float:
    """Return the squared error of all values relative to the squared reference, for outputs that no task reads.

    Args:
        outputs: Outputs of each row.
        reference: Reference outputs of each row.
    """
    difference = 0.0
    size = 0.0
    for row, expected in zip(outputs, reference, strict=True):
        for name, array in expected.items():
            difference += float(((row[name].astype(np.float64) - array) ** 2).sum())
            size += float((array.astype(np.float64) ** 2).sum())
    return difference / size if size else difference


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
        """Create a calibration set.

        Args:
            batches: Feeds by input name, with the batch axis first, padded as in production.
            divergence: Measure of :meth:`damage`.
            guard: Function that returns additional feeds, of evaluation rows and of full-length rows, on which no
                16-bit type may overflow. INT8 ranges ignore them. They are generated on each call, because all of them
                may exceed the memory.
            split: Function that splits the outputs of a batch into rows and removes the padding. Default: rows keep
                the padding.
            graphs: Calibration of each graph by signature name, for a model with several graphs. Default: this
                calibration serves all graphs.
        """
        self.batches = batches
        self.guard = guard
        self.divergence = divergence
        self._graphs = graphs or {}
        self._split = split or (lambda _, outputs: _split_rows(outputs))
        self._measured: dict[str, dict[str, Histogram]] = {}
        self._expected: dict[Path, list[list[Arrays]]] = {}

    def of(self, signature: str) -> Calibration:
        """Return the calibration of one graph."""
        return self._graphs.get(signature, self)

    @functools.cached_property
    def guard_digest(self) -> str:
        """sha256 of the guard feeds of all graphs, in hex."""
        digest = hashlib.sha256()
        for calibration in self._graphs.values() or [self]:
            for feeds in calibration.guard():
                for name, array in sorted(feeds.items()):
                    digest.update(f"{name} {array.dtype} {array.shape} ".encode())
                    digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def unguarded(self) -> Calibration:
        """Return this calibration without the guard feeds, for trial graphs that only the calibration rows judge.

        Both calibrations share all measurements.
        """
        graphs = {name: calibration.unguarded() for name, calibration in self._graphs.items()}
        other = Calibration(self.batches, self.divergence, split=self._split, graphs=graphs)
        other._measured = self._measured
        other._expected = self._expected
        return other

    def sample(self) -> Batches:
        """Return up to 16 batches, spread evenly over the set, on which a search runs."""
        return [self.batches[index] for index in self._sample_indices()]

    def _sample_indices(self) -> list[int]:
        count = min(_SAMPLED_BATCHES, len(self.batches))
        return sorted({round(x) for x in np.linspace(0, len(self.batches) - 1, count)})

    def measure(
        self, model: ir.Model, progress: Progress = silent, *, key: str = "", searching: bool = False
    ) -> dict[str, Histogram]:
        """Return histograms of the input of every linear layer.

        Args:
            model: Float model.
            progress: Progress callback, called after each batch.
            key: Identifier of the model. A second call with the same key returns the stored histograms, unless eight
                other models were measured since. Default: do not store them.
            searching: True to run the batches of :meth:`sample` only.

        Returns:
            A histogram for each activation, by its name in the graph.

        Raises:
            QuantizeError: An activation is NaN or infinite; the message names its node.
        """
        stored = self._measured.pop(key, None) if key else None
        if stored is not None:
            self._measured[key] = stored  # The last one is forgotten last.
            return stored
        histograms: dict[str, Histogram] = {}

        def add(name: str, values: np.ndarray) -> None:
            histograms.setdefault(name, Histogram()).add(values)

        self.visit(model, add, progress, searching=searching)
        if key:
            self._measured[key] = histograms
        while len(self._measured) > _STORED:
            del self._measured[next(iter(self._measured))]
        return histograms

    def visit(
        self,
        model: ir.Model,
        callback: Callable[[str, np.ndarray], None],
        progress: Progress = silent,
        *,
        searching: bool = False,
    ) -> None:
        """Run the batches one by one and pass the input of every linear layer to a callback.

        Args:
            model: Float model.
            callback: Function that takes the name of an activation and its values ``[batch, ..., channels]``.
            progress: Progress callback, called after each batch.
            searching: True to run the batches of :meth:`sample` only.

        Raises:
            QuantizeError: An activation is NaN or infinite; the message names its node.
        """
        graph = model.graph
        activations = {layer.x.name: layer.x for layer in linears(graph) if layer.x.name is not None}
        output_count = len(graph.outputs)
        output_names = {value.name for value in graph.outputs}
        graph.outputs.extend(value for name, value in activations.items() if name not in output_names)
        batches = self.sample() if searching else self.batches
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "calibrate.onnx"
                save(model, path)
                run = runner(path, list(activations))
                for index, batch in enumerate(batches):
                    for (name, value), array in zip(activations.items(), run(batch), strict=True):
                        if not np.isfinite(array).all():
                            raise not_finite_error(value, f"calibration batch {index + 1}", "range")
                        callback(name, array)
                    progress("calibrate", index + 1, len(batches))
        finally:
            # Not ``del``: values that are removed by it still claim to be graph outputs.
            graph.outputs[output_count:] = []

    def damage(self, float_path: Path, path: Path) -> float:
        """Return how far the outputs of a graph are from those of the float graph on :meth:`sample`. No labels needed.

        Args:
            float_path: Path of the float graph; its outputs are stored.
            path: Path of the graph to judge.
        """
        if float_path not in self._expected:
            self._expected[float_path] = self._run_sample(float_path)
        batches = zip(self._run_sample(path), self._expected[float_path], strict=True)
        return float(np.mean([self.divergence(outputs, expected) for outputs, expected in batches]))

    def _run_sample(self, path: Path) -> list[list[Arrays]]:
        """Return the outputs of each row of each sampled batch."""
        run = runner(path)
        return [self._split(index, run.named(self.batches[index])) for index in self._sample_indices()]


def not_finite_error(value: ir.Value, rows: str, missing: str) -> QuantizeError:
    """Return the error for an activation that is NaN or infinite.

    Args:
        value: Activation.
        rows: Rows on which it is not finite, e.g. ``calibration batch 3``.
        missing: Property that cannot be determined: ``range`` or ``type``.
    """
    node = value.producer()
    name = value.name if node is None else node.name
    return QuantizeError(
        f"The output of node '{name}' is NaN or infinite on {rows}, so its {missing} cannot be chosen. "
        "Check the model and the samples: the float32 model has the same problem.",
        code="activations-not-finite",
    )


def _split_rows(outputs: Mapping[str, np.ndarray]) -> list[Arrays]:
    rows: list[Arrays] = []
    for index in range(len(next(iter(outputs.values())))):
        rows.append({name: array[index] for name, array in outputs.items()})
    return rows


class Runner:
    """A graph that is open in ONNX Runtime. Feeds that the graph does not read are ignored."""

    def __init__(self, path: Path, outputs: Sequence[str] | None, as_written: bool) -> None:
        """Open a graph; see :func:`runner` for the arguments."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_quant_qdq", "1" if as_written else "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input_names = {value.name for value in self._session.get_inputs()}
        self._outputs = outputs

    def __call__(self, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """Return the outputs of a batch, in the requested order or that of the graph."""
        inputs = {name: array for name, array in feeds.items() if name in self._input_names}
        return [np.asarray(array) for array in self._session.run(self._outputs, inputs)]

    def named(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the outputs of a batch by name."""
        names = self._outputs or [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self(feeds), strict=True))


def runner(path: Path, outputs: Sequence[str] | None = None, *, as_written: bool = False) -> Runner:
    """Open a graph in ONNX Runtime.

    The runner of the runtime is not used here: it takes rows, and no backend returns intermediate values.

    Args:
        path: Path of the graph.
        outputs: Names of the values to return, also intermediate ones. Default: all graph outputs.
        as_written: True to compute Q/DQ exactly as ONNX defines it. Default: ONNX Runtime fuses Q/DQ into integer
            kernels.
    """
    return Runner(path, outputs, as_written)
