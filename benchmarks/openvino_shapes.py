"""Static shapes in OpenVINO on a CPU: what several of them cost in memory and start, and what they gain in time.

    python benchmarks/openvino_shapes.py --graph float32=model.onnx --graph static=model_int8.onnx

Each way to have several static shapes beside any shape loads in a fresh process, which tells its own memory and seconds.
Latencies are of one process in which the engines take turns call by call; ratios are medians of the paired calls. CPU time
on one thread is given beside the wall clock, because it hardly depends on what else a shared machine does.

Writes ``results/openvino_shapes.json`` and prints it. ``results/openvino_shapes.md`` is written by hand from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import backends
from edgekit.backends.openvino import _library
from edgekit.search.vary import choose_buckets
from edgekit.spec.tensor import Signature, TensorSpec

HERE = Path(__file__).resolve().parent
EIGHT = (8, 16, 24, 32, 48, 64, 96, 128)
EDGES = {0: (), 1: (32,), 4: (16, 32, 64, 128), 8: EIGHT}
WAYS = {
    "any": "shapes of any size only",
    "read": "each shape read from the file and compiled",
    "clone": "read once, then cloned, reshaped and compiled",
    "one": "one model with a body for each shape (the backend)",
    "one, cached": "the same, loaded from OpenVINO's model cache",
}
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32"}


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--graph",
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="an exported encoder; may be given several times",
    )
    parser.add_argument("--rounds", type=int, default=40, help="turns of each engine at each length")
    parser.add_argument("--processes", type=int, default=3, help="fresh processes for each way")
    parser.add_argument("--only", nargs=3, metavar=("FILE", "WAY", "BUCKETS"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        file, way, count = options.only
        print(json.dumps(loaded(Path(file), way, EDGES[int(count)], options.cache)))
        return
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    flags = [
        f
        for f in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
        if f" {f} " in Path("/proc/cpuinfo").read_text().replace("\n", " ")
    ]
    found: dict[str, Any] = {
        "machine": {"cpu": cpu.group(1) if cpu else platform.processor(), "cpus": os.cpu_count(), "instructions": flags}
    }
    found["versions"] = {n: version(n) for n in ("openvino", "numpy")}
    for given in options.graph:
        name, _, file = given.partition("=")
        found[name] = {"load": loads(file, options.processes), **latencies(Path(file), options.rounds)}
    text = json.dumps(found, indent=1) + "\n"
    (HERE / "results" / "openvino_shapes.json").write_text(text, "utf-8")
    print(text)


# ---- memory and start, in a process of its own


def loads(file: str, processes: int) -> list[dict[str, Any]]:
    """Every way with every number of buckets, in turns; medians over the processes."""
    runs = [("any", 0), *((way, n) for n in (1, 4, 8) for way in ("read", "clone", "one")), ("one, cached", 4)]
    results: dict[tuple[str, int], list[dict[str, float]]] = {run: [] for run in runs}
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--graph", "-", "--cache", cache, "--only", file]
        for turn in range(processes + 1):  # the first one warms the file cache, and fills OpenVINO's
            for way, count in runs:
                done = subprocess.run([*command, way, str(count)], capture_output=True, check=True, text=True)
                if turn:
                    results[way, count].append(json.loads(done.stdout))
        cached_mb = sum(f.stat().st_size for f in Path(cache).iterdir()) / 2**20
    table = []
    for (way, count), measured in results.items():
        row: dict[str, Any] = {"way": WAYS[way], "buckets": count}
        row |= {key: round(float(np.median([m[key] for m in measured])), 2) for key in measured[0]}
        table.append(row | ({"cache_mb": round(cached_mb, 1)} if way == "one, cached" else {}))
    return table


def loaded(file: Path, way: str, edges: tuple[int, ...], cache: Path) -> dict[str, float]:
    """Loads in this process, answers one row of each length and one batch."""
    signature = signature_of(file)  # reads the file and lets go of it, so that no way has to
    before, clock, cpu = memory_mb(), time.perf_counter(), time.process_time()
    engines: dict[int, Any] = {}
    if way == "any" or way.startswith("one"):
        device = backends.get("openvino").open_device("cpu", 2)
        if way == "one, cached":
            device._core.set_property({"CACHE_DIR": str(cache)})
        engine = device.load(file, signature, edges)
        engine.warm_up()  # The shapes are compiled after the load otherwise.
        engines = dict.fromkeys((*edges, 0), engine.run)
    else:
        core = _library().Core()
        model = core.read_model(str(file))
        engines[0] = core.compile_model(model, "CPU", SETTINGS)
        for n in edges:
            own = core.read_model(str(file)) if way == "read" else model.clone()
            own.reshape({port.get_any_name(): [1, n] for port in own.inputs})
            engines[n] = core.compile_model(own, "CPU", SETTINGS)
            del own
        del model
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
    for n in edges:
        engines[n](feeds_of(file, 1, n))
    engines[0](feeds_of(file, 3, 32))
    after = memory_mb()
    return {
        "load_s": seconds,
        "load_cpu_s": cpu_seconds,
        "peak_mb": after["VmHWM"],
        "resident_mb": after["VmRSS"],
        "own_pages_mb": after["RssAnon"],
        "peak_beyond_imports_mb": after["VmHWM"] - before["VmRSS"],
    }


def memory_mb() -> dict[str, float]:
    """Of this process: peak, now, and now without pages of files."""
    status = Path("/proc/self/status").read_text()
    return {key: int(re.search(rf"{key}:\s+(\d+)", status).group(1)) / 1024 for key in ("VmHWM", "VmRSS", "RssAnon")}


# ---- time


def latencies(file: Path, rounds: int) -> dict[str, Any]:
    """Times of one row, the engines taking turns."""
    signature, lengths = signature_of(file), sst2_like(200)
    found: dict[str, Any] = {}
    for threads, clock, name in ((2, time.perf_counter, "wall_2_threads"), (1, time.process_time, "cpu_1_thread")):
        device = backends.get("openvino").open_device("cpu", threads)
        plain, four, eight = (compiled(device, file, EDGES[n]) for n in (0, 4, 8))
        alone = {n: static(device, file, n) for n in (16, 32, 64)}
        rows, middle = {}, {}
        for n, engine in alone.items():
            feeds = feeds_of(file, 1, n)
            runs = {"any": plain.run, "alone": engine, "one model, 4": four.run, "one model, 8": eight.run}
            times = race({k: (run, [feeds]) for k, run in runs.items()}, rounds, clock)
            middle[n] = {k: float(np.median(t)) for k, t in times.items()}
            rows[n] = {"alone_ms": round(middle[n]["alone"], 2)} | {
                k: ratio(t, times["alone"]) for k, t in times.items() if k != "alone"
            }
        slopes = {k: np.polyfit(list(middle), [middle[n][k] for n in middle], 1) for k in ("one model, 8", "any")}
        own = choose_buckets(
            lengths,
            lambda n, s=slopes["one model, 8"]: float(np.polyval(s, n)),
            8,
            lambda n, s=slopes["any"]: float(np.polyval(s, n)),
        )
        engines = {
            "chosen": (compiled(device, file, own).run if own else plain.run, own),
            "eight": (eight.run, EIGHT),
            "four": (four.run, EDGES[4]),
        }
        bare = [feeds_of(file, 1, n) for n in lengths]
        streams = {
            "any": (plain.run, bare),
            **{k: (run, [padded(f, edges) for f in bare]) for k, (run, edges) in engines.items()},
        }
        times = race(streams, max(rounds // 10, 2), clock)
        mix = {"mean_any_ms": round(float(np.mean(times["any"])), 2)}
        mix |= {
            f"mean of {k} over any": round(float(np.mean(t) / np.mean(times["any"])), 3)
            for k, t in times.items()
            if k != "any"
        }
        found[name] = {"one_length": rows, "lengths_like_sst2": {**mix, "chosen_edges": own}}
    found["new_length"] = first_time(file, signature)
    found["neighbours"] = neighbours(file, rounds)
    return found


def race(runs: dict[str, tuple[Any, list[Any]]], rounds: int, clock: Any) -> dict[str, list[float]]:
    """Milliseconds of every call; the engines change after each call, and their order after each round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds + 2):
        for index in range(len(runs[names[0]][1])):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                run, feeds = runs[name]
                start = clock()
                run(feeds[index])
                if turn >= 2:
                    times[name].append(1e3 * (clock() - start))
    return times


def ratio(times: list[float], against: list[float]) -> float:
    """Median of the paired ratios."""
    return round(float(np.median(np.array(times) / np.array(against))), 3)


def first_time(file: Path, signature: Signature) -> dict[str, float]:
    """What a length costs in shapes of any size when it comes for the first time: CPU time over that of the second time."""
    engine = backends.get("openvino").open_device("cpu", 1).load(file, signature)
    engine.run(feeds_of(file, 1, 4))
    shares = []
    for n in range(5, 60):
        feeds, taken = feeds_of(file, 1, n), []
        for _ in range(2):
            start = time.process_time()
            engine.run(feeds)
            taken.append(time.process_time() - start)
        shares.append(taken[0] / taken[1])
    return {"first over second call, median": round(float(np.median(shares)), 2), "largest": round(max(shares), 2)}


def neighbours(file: Path, rounds: int) -> dict[int, float]:
    """CPU milliseconds of static shapes around multiples of 8, in turns."""
    device = backends.get("openvino").open_device("cpu", 1)
    runs = {str(n): (static(device, file, n), [feeds_of(file, 1, n)]) for n in range(20, 34)}
    return {int(n): round(float(np.median(t)), 2) for n, t in race(runs, rounds, time.process_time).items()}


def compiled(device: Any, file: Path, edges: tuple[int, ...]) -> Any:
    """An engine whose static shapes are compiled."""
    engine = device.load(file, signature_of(file), edges)
    engine.warm_up()
    return engine


def static(device: Any, file: Path, length: int) -> Any:
    """One shape compiled alone, with the settings of the device."""
    model = device._core.read_model(str(file))
    model.reshape({port.get_any_name(): [1, length] for port in model.inputs})
    request = device._core.compile_model(model, "CPU", device._settings).create_infer_request()
    return lambda feeds: request.infer(feeds, share_inputs=True)


def padded(feeds: dict[str, np.ndarray], edges: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Feeds of one row, filled up to its bucket with zeros (which is BERT's pad value of every input)."""
    length = next(iter(feeds.values())).shape[1]
    edge = next((e for e in edges if e >= length), length)
    return {name: np.pad(array, ((0, 0), (0, edge - length))) for name, array in feeds.items()}


def sst2_like(count: int) -> list[int]:
    """Lengths with the quartiles of SST-2's sentences in tokens (about 17, 22, 29)."""
    return np.clip(np.random.default_rng(1).lognormal(3.1, 0.45, count).round(), 4, 128).astype(int).tolist()


_SIGNATURES: dict[Path, Signature] = {}


def signature_of(file: Path) -> Signature:
    """All inputs along batch and sequence."""
    if file not in _SIGNATURES:
        model = _library().Core().read_model(str(file))
        names = [[port.get_any_name() for port in ports] for ports in (model.inputs, model.outputs)]
        inputs, outputs = (
            tuple(TensorSpec(n, kind, ("batch", "sequence"), 0) for n in part)
            for part, kind in zip(names, ("int64", "float32"), strict=True)
        )
        _SIGNATURES[file] = Signature("forward", inputs, outputs)
    return _SIGNATURES[file]


def feeds_of(file: Path, batch: int, length: int) -> dict[str, np.ndarray]:
    """Token ids drawn at random, nothing masked."""
    choose = np.random.default_rng(length)
    names = [spec.name for spec in signature_of(file).inputs]
    made = {
        n: np.zeros((batch, length), np.int64) if "type" in n else np.ones((batch, length), np.int64) for n in names
    }
    return made | {
        n: choose.integers(1000, 20000, (batch, length)) for n in names if n.endswith("ids") and "type" not in n
    }


if __name__ == "__main__":
    main()
