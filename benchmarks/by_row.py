"""Quantized routes on a CPU whose rows do not depend on each other: their time, alone and in batches, and their answers.

A classifier is exported and quantized once by each method, and the graphs run on both CPU backends. OpenVINO runs the
graph of ``weight_only`` also with its dynamic quantization, which quantizes activations in groups of a row
(``DYNAMIC_QUANTIZATION_GROUP_SIZE``), and with static shapes for single rows. ONNX Runtime turns that graph into
``MatMulNBits`` with 8 bits and accuracy level 4. Rows of ``dynamic`` run one by one, as in a session, because one of
its activation scales serves a whole tensor.

    python benchmarks/by_row.py --model MODEL --data SST2 --work WORK [--part answers|times] [--passes 40]

``SST2`` is a folder with ``train.jsonl`` and ``dev.jsonl``. ``WORK`` keeps the graphs for the next run. Answers do not
depend on the load of the machine, times do. All routes are in one process and take turns; a turn is a burst of calls.
Writes ``results/by_row.json`` and ``results/by_row.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import backends, quantize
from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus
from edgekit.quantize.calibration import Calibration
from edgekit.runtime.loops import single
from edgekit.spec.progress import silent
from edgekit.spec.protocols import Arrays
from edgekit.spec.quantization import Quantization
from edgekit.spec.tensor import Signature, TensorSpec

RESULT = Path(__file__).resolve().parent / "results" / "by_row.json"
BASE = "dynamic, ONNX Runtime"
ROW = 1536
"""Group size of OpenVINO for one group a row: the width of the widest layer. The documented value, the largest unsigned
64-bit number, is accepted as text (``"18446744073709551615"``) and quantizes nothing: the logits equal those of 0 bit by
bit (OpenVINO 2026.4.1, CPU)."""
ROUTES: dict[str, tuple[str, str, int]] = {
    BASE: ("dynamic", "onnxruntime", 0),
    "weight_only, ONNX Runtime": ("weight_only", "onnxruntime", 0),
    "static, ONNX Runtime": ("static", "onnxruntime", 0),
    "static, OpenVINO": ("static", "openvino", 0),
    "weight_only, OpenVINO": ("weight_only", "openvino", 0),
    "weight_only, OpenVINO, groups of 32": ("weight_only", "openvino", 32),
    "weight_only, OpenVINO, groups of 64": ("weight_only", "openvino", 64),
    "weight_only, OpenVINO, groups of 128": ("weight_only", "openvino", 128),
    "weight_only, OpenVINO, a group a row": ("weight_only", "openvino", ROW),
}
METHODS = ("dynamic", "static", "weight_only")
LENGTHS = (16, 26, 64, 128)
BATCHES = (8, 32)
LIST_ROWS = 32
LONG_ROW = 120
BURST_MS = 40.0
CALIBRATION_ROWS = 192
WAYS = ("2", "8", "32", "32 reversed", f"beside {LONG_ROW} tokens")


def main() -> None:
    """Parse the arguments, run the parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a Hugging Face classifier")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder for the graphs")
    parser.add_argument("--part", choices=("answers", "times"), action="append", help="repeatable; both by default")
    parser.add_argument("--passes", type=int, default=40, help="turns of each route at each point")
    parser.add_argument("--seconds", type=float, default=420.0, help="time limit of the part 'times'")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: CPU time on one thread")
    options = parser.parse_args()
    record: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.is_file() else {}
    prepare(options.model, options.data, options.work)
    stored = np.load(options.work / "rows.npz")
    names = sorted({key.partition(".")[2] for key in stored.files if "." in key})
    rows = [{name: stored[f"{i}.{name}"] for name in names} for i in range(len(stored["reference"]))]
    signature = Signature(
        "forward",
        tuple(TensorSpec(name, "int64", ("batch", "sequence"), 0) for name in names),
        (TensorSpec("logits", "float32", ("batch", stored["reference"].shape[1])),),
    )
    for part in options.part or ("answers", "times"):
        # Answers do not depend on the number of threads, and one thread waits for no other on a busy machine.
        threads = cpus() if part == "times" and options.clock == "wall" else 1
        engines = {name: open_route(options.work, signature, threads, *route) for name, route in ROUTES.items()}
        if part == "answers":
            record[part] = answers(engines, signature, rows, stored["reference"], stored["truth"])
        else:
            clock = time.perf_counter if options.clock == "wall" else time.process_time
            record[part] = times(engines, signature, rows, clock, options.passes, options.seconds)
            record[part]["clock"] = options.clock
        record[part]["machine"] = machine()
        RESULT.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    if {"answers", "times"} <= set(record):
        RESULT.with_suffix(".md").write_text(table(record), "utf-8")
        print(table(record))


def machine() -> dict[str, Any]:
    """Return the machine and the versions of what ran."""
    packages = {name: version(name) for name in ("numpy", "onnxruntime", "openvino")}
    instructions = list(cpu_instructions())
    return {"cpu": cpu_name(), "cpus": cpus(), "instructions": instructions, "date": time.strftime("%F"), **packages}


def prepare(model: Path, data: Path, work: Path) -> None:
    """Write the graphs, the encoded rows and the outputs of torch, unless they are there."""
    if (work / "rows.npz").is_file():
        return
    from edgekit import source
    from edgekit.export.graphs import export

    texts = [json.loads(line)["text"] for line in (data / "train.jsonl").read_text("utf-8").splitlines()]
    texts = texts[:CALIBRATION_ROWS]
    dev = [json.loads(line) for line in (data / "dev.jsonl").read_text("utf-8").splitlines()]
    origin = source.read(model)
    for name in ("float32", *METHODS):
        (work / name).mkdir(parents=True)
    graphs = export(origin, work / "float32", texts)
    signature = graphs.graphs[0].signature
    encoded = sorted(origin.encode(texts), key=lambda row: row["input_ids"].size)
    parts = [encoded[i : i + 16] for i in range(0, len(encoded), 16)]
    calibration = Calibration([single.collate(signature, part) for part in parts])
    for name in METHODS:
        quantize.get(name).quantize(graphs, calibration, Quantization(weight_bits=8), work / name, silent)
    rows = origin.encode([sample["text"] for sample in dev])
    arrays = {f"{i}.{spec.name}": row[spec.name] for i, row in enumerate(rows) for spec in signature.inputs}
    labels = [origin.module.config.label2id[sample["label"]] for sample in dev]
    reference = np.stack([row["logits"] for row in origin.outputs(rows)])
    np.savez(work / "rows.npz", reference=reference, truth=np.array(labels), **arrays)


def open_route(
    work: Path, signature: Signature, threads: int, method: str, backend: str, group: int
) -> backends.Engine:
    """Open the graph of a method on a backend.

    Args:
        work: Folder of the graphs.
        signature: Inputs and outputs of the graphs.
        threads: Number of threads.
        method: Name of the quantization method.
        backend: Name of the backend.
        group: Group size of OpenVINO's dynamic quantization in values of a row; 0 for none.
    """
    device = backends.get(backend).open_device("cpu", threads)
    if group:
        device._settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = group
    shapes = LENGTHS if backends.get(backend).STATIC_SHAPES else ()
    engine: backends.Engine = device.load(work / method / "model.onnx", signature, shapes)
    backends.warm_up([engine])
    return engine


# ---- answers


def answers(
    engines: dict[str, backends.Engine],
    signature: Signature,
    rows: Sequence[Arrays],
    reference: np.ndarray,
    truth: np.ndarray,
) -> dict[str, Any]:
    """Compare each route with torch, and the answers of its rows in company with those alone."""
    longest = long_row(rows)
    result: dict[str, Any] = {"rows": len(rows), "torch accuracy": float((reference.argmax(1) == truth).mean())}
    for name, engine in engines.items():
        alone = np.concatenate([run(engine, signature, [row]) for row in rows])
        spread = float(np.ptp(alone))
        entry: dict[str, Any] = {
            "accuracy": float((alone.argmax(1) == truth).mean()),
            "flips": int((alone.argmax(1) != reference.argmax(1)).sum()),
            "rms": float(np.sqrt(np.mean((alone - reference) ** 2))),
        }
        for way in WAYS:
            indices, together = in_company(engine, signature, rows, longest, way)
            difference = np.abs(together - alone[indices])
            entry[way] = {
                "rows": len(indices),
                "labels": int((together.argmax(1) != alone[indices].argmax(1)).sum()),
                "bits": int((difference > 0).any(1).sum()),
                "largest": float(difference.max() / spread),
            }
        result[name] = entry
        print(name, json.dumps(entry), flush=True)
    return result


def in_company(
    engine: backends.Engine, signature: Signature, rows: Sequence[Arrays], longest: Arrays, way: str
) -> tuple[list[int], np.ndarray]:
    """Return the indices of the rows that ran in a way of ``WAYS``, and their outputs in the same order."""
    if way not in ("2", "8", "32", "32 reversed"):
        indices = list(range(0, len(rows), 4))
        outputs = [run(engine, signature, [rows[i], longest])[:1] for i in indices]
        return indices, np.concatenate(outputs)
    indices = list(range(len(rows)))
    if way.endswith("reversed"):
        indices.reverse()
    size = int(way.split()[0])
    parts = [indices[i : i + size] for i in range(0, len(indices), size)]
    return indices, np.concatenate([run(engine, signature, [rows[i] for i in part]) for part in parts])


def run(engine: backends.Engine, signature: Signature, rows: Sequence[Arrays]) -> np.ndarray:
    """Return the logits of rows that share a call: float32 ``[rows, labels]``."""
    output: np.ndarray = engine.run(single.collate(signature, rows))["logits"].copy()
    return output


def long_row(rows: Sequence[Arrays], length: int = LONG_ROW) -> Arrays:
    """Return a row of exactly a number of tokens, made of the tokens of several rows."""
    joined = {name: np.concatenate([row[name] for row in rows[:40]]) for name in rows[0]}
    return {name: array[:length] for name, array in joined.items()}


# ---- times


def times(
    engines: dict[str, backends.Engine],
    signature: Signature,
    rows: Sequence[Arrays],
    clock: Callable[[], float],
    passes: int,
    seconds: float,
) -> dict[str, Any]:
    """Time each route at each point, interleaved. The unit of a batch is a list of 32 rows."""
    end = time.monotonic() + seconds
    measured: dict[str, dict[str, list[float]]] = {}
    points = dict(make_points(signature, rows))
    order = random.Random(0)
    done = 0
    while done < passes and (done < 3 or time.monotonic() < end):
        for point, feeds_of in points.items():
            names = list(engines)
            order.shuffle(names)
            for name in names:
                calls = feeds_of(ROUTES[name][0] == "dynamic")
                ms = burst(engines[name], calls, clock)
                measured.setdefault(point, {}).setdefault(name, []).append(ms)
        done += 1
    result: dict[str, Any] = {"passes": done}
    for point, by_route in measured.items():
        base = by_route[BASE]
        result[point] = {
            name: {
                "best_ms": min(values),
                "ratio_of_bests": min(values) / min(base),
                "median_ratio": statistics.median(a / b for a, b in zip(values, base, strict=True)),
            }
            for name, values in by_route.items()
        }
    return result


def make_points(
    signature: Signature, rows: Sequence[Arrays]
) -> Iterator[tuple[str, Callable[[bool], list[dict[str, np.ndarray]]]]]:
    """Yield the name of each point, and a function that returns the feeds of its calls, one by one if asked for."""
    for length in LENGTHS:
        feeds = [single.collate(signature, [long_row(rows, length)])]
        yield f"1 row of {length} tokens", lambda alone, feeds=feeds: feeds
    step = len(rows) // LIST_ROWS
    chosen = sorted(rows[::step][:LIST_ROWS], key=lambda row: row["input_ids"].size)
    singles = [single.collate(signature, [row]) for row in chosen]
    for size in BATCHES:
        calls = [single.collate(signature, chosen[i : i + size]) for i in range(0, LIST_ROWS, size)]
        yield (
            f"{LIST_ROWS} rows in batches of {size}",
            lambda alone, calls=calls: singles if alone else calls,
        )


def burst(engine: backends.Engine, calls: Sequence[dict[str, np.ndarray]], clock: Callable[[], float]) -> float:
    """Return the median milliseconds of the calls of a point, over a burst of at least 3 repetitions."""
    for feeds in calls:
        engine.run(feeds)
    measured: list[float] = []
    begin = clock()
    while len(measured) < 3 or (clock() - begin) * 1e3 < BURST_MS:
        start = clock()
        for feeds in calls:
            engine.run(feeds)
        measured.append((clock() - start) * 1e3)
    return statistics.median(measured)


# ---- table


def table(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    found, measured = record["answers"], record["times"]
    host = measured["machine"]
    clock = f"{host['cpus']} threads" if measured["clock"] == "wall" else "CPU time on one thread"
    lines = [
        f"{host['cpu']}, {host['cpus']} CPUs ({', '.join(host['instructions'])}), {host['date']}; MiniLM-L6 on SST-2, "
        f"{clock}; onnxruntime {host['onnxruntime']}, openvino {host['openvino']}. OpenVINO with static shapes for single "
        "rows, dynamic shapes for batches. Rows of `dynamic` run one by one.",
        "",
        f"Time against {BASE}: ratio of the best of {measured['passes']} turns (median of the ratios of a turn).",
        "",
    ]
    points = [name for name in measured if name not in ("passes", "machine", "clock")]
    lines += ["| route | " + " | ".join(points) + " |", "|---|" + "---:|" * len(points)]
    for route in ROUTES:
        cells = []
        for point in points:
            cell = measured[point][route]
            text = f"{cell['ratio_of_bests']:.2f} ({cell['median_ratio']:.2f})"
            cells.append(f"{cell['best_ms']:.2f} ms" if route == BASE else text)
        lines.append(f"| {route} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Answers on the {found['rows']} dev rows, one by one, against torch (accuracy {found['torch accuracy']:.4f}); and "
        "labels that differ in company from those alone (largest change of a logit, as a share of the spread):",
        "",
        "| route | accuracy | flips | rms of logits | " + " | ".join(WAYS) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(WAYS),
    ]
    for route in ROUTES:
        entry = found[route]
        cells = [f"{entry['accuracy']:.4f}", str(entry["flips"]), f"{entry['rms']:.3f}"]
        cells += [f"{entry[way]['labels']} ({entry[way]['largest']:.1g})" for way in WAYS]
        lines.append(f"| {route} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
