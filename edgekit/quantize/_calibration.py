"""The calibration rows, and what the float graph does on them: measured once, used by every method and search.

Nothing here grows with the number of rows: histograms have a fixed size, and outputs are kept for a sample of the rows.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.quantize import Batches
from edgekit.quantize._graphs import linears, save
from edgekit.quantize._ranges import Histogram
from edgekit.spec.errors import QuantizeError
from edgekit.spec.progress import Progress, silent

Divergence = Callable[[np.ndarray, np.ndarray], float]
"""How far outputs are from reference outputs, both float32 ``[rows, ...]``: 0 where they are equal."""

_COMPARED = 16  # batches; of four rows each they are 64 rows, and take half a second of MiniLM


def kl_divergence(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of softmax(outputs) from softmax(reference) over the last axis, in nats."""
    p, q = _log_softmax(reference), _log_softmax(outputs)
    return float(np.mean((np.exp(p) * (p - q)).sum(axis=-1)))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


class Calibration:
    """Feeds of a graph, as its task prepares them."""

    def __init__(self, batches: Batches, divergence: Divergence = kl_divergence, guard: Batches = ()) -> None:
        """Keeps the feeds.

        Args:
            batches: feeds by input name, the batch on the first axis, padded as in use.
            divergence: what :meth:`damage` measures.
            guard: further feeds, of evaluation and of full-length rows, that no 16-bit type may overflow on; no INT8 range is taken from them.
        """
        self.batches, self.guard = batches, guard
        self.divergence = divergence
        self._measured: dict[str, dict[str, Histogram]] = {}
        self._expected: dict[Path, list[np.ndarray]] = {}

    def guard_digest(self) -> str:
        """sha256 of the guard's feeds, in hex."""
        digest = hashlib.sha256()
        for feeds in self.guard:
            for name, array in sorted(feeds.items()):
                digest.update(f"{name} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def sample(self) -> Batches:
        """Up to 16 batches, spread over the set: what a search looks at."""
        last, count = len(self.batches) - 1, min(_COMPARED, len(self.batches))
        return [self.batches[i] for i in sorted({round(x) for x in np.linspace(0, last, count)})]

    def measure(self, model: ir.Model, progress: Progress = silent, *, key: str = "", searching: bool = False) -> dict[str, Histogram]:
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
            self.visit(model, lambda name, values: histograms.setdefault(name, Histogram()).add(values), progress, searching=searching)
            self._measured[key] = histograms
        return self._measured[key]

    def visit(self, model: ir.Model, see: Callable[[str, np.ndarray], None], progress: Progress = silent, *, searching: bool = False) -> None:
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
                                "so it has no range. Check the model and the samples: the float32 model has the same problem."
                            )
                        see(name, array)
                    progress("calibrate", index + 1, len(batches))
        finally:
            graph.outputs[own:] = []  # not del: values taken out by it go on saying that they are outputs

    def damage(self, float_path: Path, path: Path) -> float:
        """How far a graph's first output is from the float graph's on :meth:`sample`; needs no labels.

        Args:
            float_path: the float graph; its outputs are kept.
            path: the graph that is judged.
        """
        chosen = self.sample()
        if float_path not in self._expected:
            run = runner(float_path)
            self._expected[float_path] = [run(batch)[0] for batch in chosen]
        run = runner(path)
        return float(np.mean([self.divergence(run(batch)[0], expected) for batch, expected in zip(chosen, self._expected[float_path], strict=True)]))


def runner(path: Path, outputs: Sequence[str] | None = None, *, as_written: bool = False) -> Callable[[Any], list[np.ndarray]]:
    """Opens a graph in ONNX Runtime and returns a function that runs feeds; inputs that the graph does not read are left out.

    ``as_written``: Q/DQ is computed as ONNX defines it, weights restored once; else what fits is multiplied in integers.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1" if as_written else "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fed = {i.name for i in session.get_inputs()}

    def run(feeds: Any) -> list[np.ndarray]:
        return [np.asarray(a) for a in session.run(outputs, {n: a for n, a in feeds.items() if n in fed})]

    return run
