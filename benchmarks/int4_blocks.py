"""INT4 weights in blocks on LiteRT beside INT8 weights: answers, size and time of a classifier, and time of single layers.

    python benchmarks/int4_blocks.py --model MODEL --data SST2 [--passes 25]

``SST2`` is a folder with ``train.jsonl`` and ``dev.jsonl``. Both methods run in one process on one thread and take
turns; times are CPU time, so that other load of the machine counts little, and ratios are those of the best turns.
Writes ``results/int4_blocks.json`` and ``results/int4_blocks.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekit import backends, quantize, source
from edgekit.export.graphs import export
from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus
from edgekit.quantize import litert
from edgekit.quantize.calibration import Calibration
from edgekit.runtime.loops import single
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.progress import silent
from edgekit.spec.quantization import Quantization
from edgekit.spec.tensor import Signature, TensorSpec

RESULT = Path(__file__).resolve().parent / "results" / "int4_blocks.json"
METHODS = ("dynamic_rows", "dynamic_rows_int4")
LAYERS = ((384, 1536), (1536, 384), (768, 3072), (3072, 768))
ROWS = (1, 26, 128)
LENGTHS = (16, 26, 64, 128)
CALIBRATION_ROWS = 256
TURN_S = 0.01


def main() -> None:
    """Parse the arguments, measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a Hugging Face classifier")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--passes", type=int, default=25, help="turns of each method at each point")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record: dict[str, Any] = {
            "machine": {
                "cpu": cpu_name(),
                "cpus": cpus(),
                "instructions": list(cpu_instructions()),
                "date": time.strftime("%F"),
                "ai-edge-litert": version("ai-edge-litert"),
            },
            "model": measure_model(options.model, options.data, Path(folder), options.passes),
            "layers": {f"{i} x {o}": measure_layer(Path(folder), i, o, options.passes) for i, o in LAYERS},
        }
    RESULT.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    RESULT.with_suffix(".md").write_text(table(record), "utf-8")
    print(table(record))


def write(graphs: GraphSet, calibration: Calibration, folder: Path) -> dict[str, Graph]:
    """Return the graph of each method for LiteRT, for one row a call."""
    written = {}
    for method in METHODS:
        out = folder / method
        out.mkdir(parents=True)
        quantized = quantize.get(method).quantize(graphs, calibration, Quantization(), out, silent)
        written[method] = litert.convert(quantized, out, 1).graphs[0]
    return written


def load(written: dict[str, Graph]) -> dict[str, backends.Engine]:
    """Return an engine of each method with one thread."""
    device = backends.get("litert").open_device("cpu", 1)
    return {method: device.load(graph.path, graph.signature) for method, graph in written.items()}


def measure_model(model: Path, data: Path, folder: Path, passes: int) -> dict[str, Any]:
    """Measure a classifier: its answers against torch, the size of its graphs, and the time of rows by length."""
    texts = [json.loads(line)["text"] for line in (data / "train.jsonl").read_text("utf-8").splitlines()]
    samples = [json.loads(line) for line in (data / "dev.jsonl").read_text("utf-8").splitlines()]
    origin = source.read(model)
    (folder / "float32").mkdir()
    graphs = export(origin, folder / "float32", texts[:32])
    signature = graphs.graphs[0].signature
    encoded = origin.encode(texts[:CALIBRATION_ROWS])
    parts = [encoded[i : i + 4] for i in range(0, len(encoded), 4)]
    written = write(graphs, Calibration([single.collate(signature, part) for part in parts]), folder)
    engines = load(written)
    rows = origin.encode([sample["text"] for sample in samples])
    reference = np.stack([row["logits"] for row in origin.outputs(rows)])
    truth = np.array([origin.module.config.label2id[sample["label"]] for sample in samples])
    result: dict[str, Any] = {"rows": len(rows), "torch accuracy": float((reference.argmax(1) == truth).mean())}
    for method, engine in engines.items():
        logits = np.concatenate([engine.run(single.collate(signature, [row]))["logits"] for row in rows])
        result[method] = {
            "executed": backends.summary(engine.precisions()),
            "accuracy": float((logits.argmax(1) == truth).mean()),
            "flips": int((logits.argmax(1) != reference.argmax(1)).sum()),
            "rms": float(np.sqrt(np.mean((logits - reference) ** 2))),
            "bytes": written[method].path.stat().st_size,
        }
    joined = {name: np.concatenate([row[name] for row in rows[:40]]) for name in rows[0]}
    result["times"] = {}
    for length in LENGTHS:
        feeds = single.collate(signature, [{name: array[:length] for name, array in joined.items()}])
        result["times"][str(length)] = race(engines, feeds, passes)
    return result


def measure_layer(folder: Path, inputs: int, outputs: int, passes: int) -> dict[str, dict[str, float]]:
    """Time one layer with random weights, by number of rows."""
    random = np.random.default_rng(0)
    text = (
        '<ir_version: 9, opset_import: ["" : 20]>\n'
        f"layer (float[batch, rows, {inputs}] x) => (float[batch, rows, {outputs}] y) {{ y = MatMul(x, w) }}"
    )
    model = onnx.parser.parse_model(text)
    weight = (random.standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    place = folder / f"layer{inputs}"
    place.mkdir()
    onnx.save(model, place / "model.onnx")
    signature = Signature(
        "forward",
        (TensorSpec("x", "float32", ("batch", "rows", inputs)),),
        (TensorSpec("y", "float32", ("batch", "rows", outputs)),),
    )
    graphs = GraphSet("", "single", (Graph(signature, place / "model.onnx", "float32"),), place)
    rows = random.standard_normal((1, max(ROWS), inputs)).astype(np.float32)
    engines = load(write(graphs, Calibration([{"x": rows}]), place))
    return {str(count): race(engines, {"x": rows[:, :count]}, passes) for count in ROWS}


def race(engines: dict[str, backends.Engine], feeds: dict[str, np.ndarray], passes: int) -> dict[str, float]:
    """Return the CPU time of a call of each method in microseconds, that of its best turn."""
    best = dict.fromkeys(engines, float("inf"))
    for _ in range(passes):
        for method, engine in engines.items():
            engine.run(feeds)
            begin = time.process_time()
            calls = 0
            while time.process_time() - begin < TURN_S:
                engine.run(feeds)
                calls += 1
            best[method] = min(best[method], (time.process_time() - begin) / calls * 1e6)
    return best


def table(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    host, model = record["machine"], record["model"]
    lines = [
        f"{host['cpu']}, {host['cpus']} CPUs ({', '.join(host['instructions'])}), {host['date']}; MiniLM-L6 on SST-2, "
        f"one thread, CPU time; ai-edge-litert {host['ai-edge-litert']}.",
        "",
        f"Answers on the {model['rows']} dev rows against torch (accuracy {model['torch accuracy']:.4f}), and CPU time "
        "of one row by tokens:",
        "",
        "| method | executed | accuracy | flips | rms of logits | graph | "
        + " | ".join(f"{length} tokens" for length in LENGTHS)
        + " |",
        "|---|---|---:|---:|---:|---:|" + "---:|" * len(LENGTHS),
    ]
    for method in METHODS:
        entry = model[method]
        cells = [method, entry["executed"], f"{entry['accuracy']:.4f}", str(entry["flips"]), f"{entry['rms']:.3f}"]
        cells.append(f"{entry['bytes'] / 2**20:.1f} MB")
        for times in model["times"].values():
            ratio = times[method] / times[METHODS[0]]
            cells.append(f"{times[method] / 1e3:.2f} ms" if method == METHODS[0] else f"{ratio:.2f} x")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Time of a layer with INT4 weights relative to one with INT8 weights:", ""]
    lines += ["| inputs x outputs | " + " | ".join(f"{count} rows" for count in ROWS) + " |"]
    lines += ["|---|" + "---:|" * len(ROWS)]
    for name, points in record["layers"].items():
        ratios = [f"{times[METHODS[1]] / times[METHODS[0]]:.2f}" for times in points.values()]
        lines.append(f"| {name} | " + " | ".join(ratios) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
