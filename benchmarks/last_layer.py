"""The last layer for the positions that the head reads, beside the last layer for all positions.

    python benchmarks/last_layer.py --model minilm-sst2

The model is exported twice, once without the step ``restrict_positions``, and both graphs are quantized alike. In each
round every engine makes a burst of calls, in another order each time; the first call of a burst is not counted. A time
is the best of all rounds. A ratio is that of the best times; beside it is the median of the ratios of the rounds, which
a drifting machine moves less.

Writes ``results/last_layer.json`` and prints it. ``results/last_layer.md`` is written by hand from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import backends, quantize, source
from edgekit.export import _clean
from edgekit.export.graphs import export
from edgekit.quantize.calibration import Calibration
from edgekit.spec.graph import GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization

HERE = Path(__file__).resolve().parent
VARIANTS = (("onnxruntime", "float32"), ("onnxruntime", "dynamic"), ("openvino", "float32"), ("openvino", "static"))
TEXTS = ("a fine film with a strong cast and a weak ending", "no", "the plot was dull and the acting was worse")
SETTINGS = Quantization(ranges="min_max", smooth="off")


def main() -> None:
    """Parse the options, export, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder of a classifier")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 26, 64, 128], help="tokens of a row")
    parser.add_argument("--threads", type=int, default=2, help="threads of a call")
    parser.add_argument("--rounds", type=int, default=15, help="bursts of each engine at each length")
    parser.add_argument("--calls", type=int, default=20, help="calls of a burst")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cpus": os.cpu_count()},
        "versions": {name: version(name) for name in ("onnxruntime", "openvino", "numpy")},
        "threads": options.threads,
        "results": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        whole = export_variants(options.model, Path(folder) / "whole", restricted=False)
        selected = export_variants(options.model, Path(folder) / "selected", restricted=True)
        for backend, method in VARIANTS:
            engines = {}
            for name, graphs in (("whole", whole[method]), ("selected", selected[method])):
                device = backends.get(backend).open_device("cpu", options.threads)
                graph = graphs.graphs[0]
                engines[name] = device.load(graph.path, graph.signature)
            for length in options.lengths:
                feeds = make_feeds(whole[method], 1, length)
                row = {"backend": backend, "method": method, "tokens": length}
                row |= compare(engines, feeds, options.rounds, options.calls)
                record["results"].append(row)
                print(json.dumps(row), flush=True)
    text = json.dumps(record, indent=1) + "\n"
    (HERE / "results" / "last_layer.json").write_text(text, "utf-8")
    print(text)


def export_variants(folder: Path, out: Path, restricted: bool) -> dict[str, GraphSet]:
    """Export a model and quantize it with every method of ``VARIANTS``.

    Args:
        folder: Hugging Face folder.
        out: Folder to create.
        restricted: False to leave out the step that is measured.
    """
    step = _clean.restrict_positions
    try:
        if not restricted:
            _clean.restrict_positions = lambda model: 0  # type: ignore[assignment]
        graphs = export(source.read(folder), out, TEXTS)
    finally:
        _clean.restrict_positions = step
    calibration = Calibration([make_feeds(graphs, 4, length) for length in (8, 16, 32, 64)])
    variants = {"float32": graphs}
    for method in sorted({method for _, method in VARIANTS} - {"float32"}):
        place = out / method
        place.mkdir()
        variants[method] = quantize.get(method).quantize(graphs, calibration, SETTINGS, place, silent)
    return variants


def make_feeds(graphs: GraphSet, batch: int, length: int) -> dict[str, np.ndarray]:
    """Return random token ids of one length, with nothing masked and one segment."""
    generator = np.random.default_rng(length)
    feeds = {}
    for spec in graphs.graphs[0].signature.inputs:
        if spec.name == "input_ids":
            feeds[spec.name] = generator.integers(1000, 20000, (batch, length))
        else:
            feeds[spec.name] = np.full((batch, length), int("mask" in spec.name), np.int64)
    return feeds


def compare(engines: dict[str, Any], feeds: dict[str, np.ndarray], rounds: int, calls: int) -> dict[str, float]:
    """Return the best time of each engine in milliseconds, the ratio of these, and the median ratio of a round."""
    best: dict[str, list[float]] = {name: [] for name in engines}
    names = list(engines)
    for number in range(rounds + 1):
        for name in names if number % 2 else names[::-1]:
            times = []
            for _ in range(calls + 1):
                start = time.perf_counter()
                engines[name].run(feeds)
                times.append(1e3 * (time.perf_counter() - start))
            if number:  # The first round warms up.
                best[name].append(min(times[1:]))
    ratios = np.array(best["selected"]) / np.array(best["whole"])
    outputs = {name: next(iter(engine.run(feeds).values())) for name, engine in engines.items()}
    return {
        "whole_ms": round(min(best["whole"]), 3),
        "selected_ms": round(min(best["selected"]), 3),
        "ratio": round(min(best["selected"]) / min(best["whole"]), 3),
        "median_ratio": round(float(np.median(ratios)), 3),
        "largest_difference": float(np.abs(outputs["whole"] - outputs["selected"]).max()),
    }


if __name__ == "__main__":
    main()
