"""What EdgeKit adds to TensorRT: microseconds of a call, and milliseconds of loading an engine out of the cache.

    python benchmarks/tensorrt_overhead.py

Nothing here ran on a GPU. Driver and library are the stand-ins of the tests, made so that they take no time: the driver's calls in a
run are a C function that returns 0, an execution does nothing. So what is left is EdgeKit's own Python, on the CPU that it ran on; a
Jetson's cores are slower. ``make test-gpu`` measures the same on a GPU.

Call: an engine that was called before, over ``execute_async_v3`` and a synchronize on the same stream, in turns, call by call. Load:
``load_engine`` with the engine in the cache (key of bundle and device, file read and hashed, engine opened) over the library's own
``deserialize_cuda_engine`` of the same bytes in memory, in turns.

Writes ``results/tensorrt_overhead.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import fake_tensorrt
import onnx
from fake_cuda import FakeDriver
from onnx import TensorProto, helper, numpy_helper

from edgekit.backends._trt_device import TensorRtDevice
from edgekit.drivers import cuda, cuda_api
from edgekit.engines.compile import load_engine
from edgekit.engines.engine_cache import EngineCache
from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.progress import silent
from edgekit.spec.tensor import Signature, TensorSpec

HERE = Path(__file__).resolve().parent
NAMES = ("input_ids", "attention_mask", "token_type_ids")
SIGNATURE = Signature(
    "forward",
    tuple(TensorSpec(n, "int64", ("batch", "sequence"), 0) for n in NAMES),
    (TensorSpec("logits", "float32", ("batch", 2)),),
)
RECIPE = EngineRecipe(({"batch": (1, 1, 8), "sequence": (1, 32, 128)},))
HOT = ("cuCtxSetCurrent", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize", "cuGraphLaunch")
LIMIT_US, LIMIT_MS = 50, 50
PLAN_MB = 50


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5000, help="of each way to run, in turns")
    parser.add_argument("--loads", type=int, default=20, help="of each way to load, in turns")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGEKIT_CACHE"] = str(Path(folder) / "cache")
        found: dict[str, Any] = {
            "what": "EdgeKit's own part, on stand-ins for driver and library, on a CPU: nothing ran on a GPU",
            "machine": {
                "cpu": cpu_name(),
                "cpus": cpus(),
                "instructions": cpu_instructions(),
                "python": sys.version.split()[0],
                "numpy": np.__version__,
            },
            "date": time.strftime("%Y-%m-%d"),
            "calls": [calls(Path(folder), *case, options.calls) for case in cases()],
            "load": loads(Path(folder), options.loads),
        }
    (HERE / "results" / "tensorrt_overhead.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    text = table(found, options.calls, options.loads)
    (HERE / "results" / "tensorrt_overhead.md").write_text(text, "utf-8")
    print(text)


def cases() -> list[tuple[bool, str, str, int, int]]:
    """Kind of GPU, type of the engine's inputs, way to run, rows, tokens."""
    shapes = ((1, 32), (8, 128))
    ways = [(integrated, "int64", way) for integrated in (True, False) for way in ("graph", "enqueue")]
    return [(*way, *shape) for way in [*ways, (True, "int32", "graph")] for shape in shapes]


# ---- a call


def calls(folder: Path, integrated: bool, kind: str, way: str, batch: int, length: int, count: int) -> dict[str, Any]:
    """One way to run over the bare one."""
    driver = FakeDriver.jetson() if integrated else FakeDriver()
    trt = fake_tensorrt.make("10.16.1", driver, refuse_capture=way == "enqueue")
    device = TensorRtDevice(trt, 1, cuda.Cuda(library=driver))
    engine = device.load(device.compile(graph(folder, kind, 8), SIGNATURE, RECIPE, b"", silent).plan, SIGNATURE)
    choose = np.random.default_rng(0)
    feeds = {name: choose.integers(0, 1000, (batch, length)) for name in NAMES}
    for _ in range(3):
        engine.run(feeds)
    context = device._runtime.deserialize_cuda_engine(engine._engine._plan).create_execution_context()
    (stream,) = device._all_streams
    context_type, functions = trt.IExecutionContext, dict(device.cuda._functions)
    shape = trt.Dims((batch, 2))
    context_type.execute_async_v3 = lambda self, stream: True
    context_type.get_tensor_shape = lambda self, name: shape
    for name in HOT:
        device.cuda._functions[name] = nothing(name)

    def bare() -> None:
        context.execute_async_v3(stream)
        device.cuda.synchronize(stream)

    # The stand-in for an execution leaves the output as it was, so this asks for speed alone.
    times = race({"bare": bare, "EdgeKit": lambda: engine.run(feeds)}, count)
    device.cuda._functions.update(functions)
    device.close()
    bare_us, own_us = (1e6 * float(np.median(times[name])) for name in ("bare", "EdgeKit"))
    added = 1e6 * (np.array(times["EdgeKit"]) - np.array(times["bare"]))
    return {
        "gpu": "integrated" if integrated else "discrete",
        "engine_takes": kind,
        "way": "a captured graph is launched" if way == "graph" else "enqueued",
        "batch": batch,
        "tokens": length,
        "bare_us": round(bare_us, 2),
        "edgekit_us": round(own_us, 2),
        "added_us": round(float(np.median(added)), 2),
        "added_p95_us": round(float(np.percentile(added, 95)), 2),
        "ratio": round(own_us / bare_us, 1),
    }


def nothing(name: str) -> Any:
    """A driver's call that costs what the call costs: ctypes turns the arguments over to a C function that takes none and returns 0 (``fegetround``)."""
    math = ctypes.CDLL(ctypes.util.find_library("m"))
    address = ctypes.cast(math.fegetround, ctypes.c_void_p).value
    made: Any = ctypes.CFUNCTYPE(ctypes.c_int, *cuda_api.FUNCTIONS[name])(address)
    assert made(*[0 for _ in cuda_api.FUNCTIONS[name]]) == 0
    return made


def race(runs: dict[str, Any], count: int) -> dict[str, list[float]]:
    """Seconds of every call, in turns, after a tenth as warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(count + count // 10):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= count // 10:
                times[name].append(time.perf_counter() - start)
    return times


# ---- loading


def loads(folder: Path, count: int) -> dict[str, Any]:
    """An engine out of the cache, over the library's own part of it."""
    driver = FakeDriver.jetson()
    trt = fake_tensorrt.make("10.16.1", driver)
    device = TensorRtDevice(trt, 1, cuda.Cuda(library=driver))
    file = graph(folder, "int64", PLAN_MB * 2**20 // 8 // 256)
    files = {name: SimpleNamespace(sha256="0" * 64) for name in (file.name, f"{file.stem}.bin")}
    manifest = SimpleNamespace(files=files, provenance={"model": "benchmark"})
    bundle: Any = SimpleNamespace(path=folder, manifest=manifest, trusted=False)
    variant: Any = SimpleNamespace(
        backend="tensorrt", method="float32", graphs={"forward": file.name}, engines={}, engine=RECIPE, shapes=()
    )
    first, made = load_engine(bundle, variant, SIGNATURE, device, silent)
    assert made is not None and made.source == "made here"
    plan = bytes(first._engine._plan)  # type: ignore[attr-defined]
    first.close()

    def cached() -> None:
        engine, told = load_engine(bundle, variant, SIGNATURE, device, silent)
        assert told is not None and told.source == "cache"
        opened.append(engine)

    opened: list[Any] = []
    runs = {
        "bare": lambda: opened.append(device._runtime.deserialize_cuda_engine(plan)),
        "EdgeKit": cached,
        "read": lambda: opened.append(EngineCache().find(made.key)),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(count + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            engine = opened.pop()
            if name == "EdgeKit":
                engine.close()
            del engine
            if turn >= 2:
                times[name].append(seconds)
    device.close()
    added = 1e3 * (np.array(times["EdgeKit"]) - np.array(times["bare"]))
    bare_ms, own_ms = (1e3 * float(np.median(times[name])) for name in ("bare", "EdgeKit"))
    return {
        "plan_mb": round(len(plan) / 2**20, 1),
        "bare_ms": round(bare_ms, 1),
        "edgekit_ms": round(own_ms, 1),
        "added_ms": round(float(np.median(added)), 1),
        "added_most_ms": round(float(added.max()), 1),
        "read_and_hashed_ms": round(1e3 * float(np.median(times["read"])), 1),
        "ratio": round(own_ms / bare_ms, 2),
    }


def graph(folder: Path, kind: str, width: int) -> Path:
    """[batch, sequence] three times -> [batch, 2], by way of ``width`` numbers a row. Large weights lie beside the graph, as in a bundle."""
    node, float_ = helper.make_node, TensorProto.FLOAT
    weights = {
        "table": np.ones((256, width), np.float32),
        "table2": np.ones((width, 256), np.float32),
        "out": np.ones((256, 2), np.float32),
    }
    nodes = [
        node("Add", [NAMES[0], NAMES[1]], ["a"]),
        node("Add", ["a", NAMES[2]], ["b"]),
        node("Cast", ["b"], ["c"], to=float_),
    ]
    nodes += [node("ReduceMean", ["c", "one"], ["m"], keepdims=1), node("Expand", ["m", "wide"], ["e"])]
    nodes += [
        node("MatMul", ["e", "table"], ["t"]),
        node("MatMul", ["t", "table2"], ["u"]),
        node("MatMul", ["u", "out"], ["logits"]),
    ]
    tensors = [
        numpy_helper.from_array(array, name)
        for name, array in {**weights, "one": np.array([1]), "wide": np.array([1, 256])}.items()
    ]
    ins = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), ["batch", "sequence"])
        for n in NAMES
    ]
    body = helper.make_graph(nodes, "g", ins, [helper.make_tensor_value_info("logits", float_, ["batch", 2])], tensors)
    model, file = (
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=9),
        folder / f"{kind}-{width}.onnx",
    )
    onnx.save_model(model, file, save_as_external_data=width > 8, location=f"{file.stem}.bin", size_threshold=2**20)
    return file


def table(found: dict[str, Any], calls: int, loads: int) -> str:
    """Markdown."""
    machine, load = found["machine"], found["load"]
    worst = max(row["added_us"] for row in found["calls"])
    lines = [
        f"**On stand-ins for the driver and TensorRT, on a CPU; nothing here ran on a GPU.** {machine['cpu']}, {machine['cpus']} CPUs "
        f"({', '.join(machine['instructions'])}), Python {machine['python']}, numpy {machine['numpy']}; {found['date']}.",
        "",
        f"A call over `execute_async_v3` + synchronize that take no time, medians of {calls} in turns. Three inputs, one output, copies included:",
        "",
        "| GPU | engine takes | way | rows x tokens | bare, us | EdgeKit, us | added, us | p95 | ratio |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in found["calls"]:
        size = f"{row['batch']} x {row['tokens']}"
        shown = f"{row['bare_us']:.1f} | {row['edgekit_us']:.1f} | {row['added_us']:.1f} | {row['added_p95_us']:.1f} | {row['ratio']:.0f}"
        lines.append(f"| {row['gpu']} | {row['engine_takes']} | {row['way']} | {size} | {shown} |")
    lines += [
        "",
        f"At most {LIMIT_US} us are allowed: {'met' if worst <= LIMIT_US else 'missed'}, {worst:.1f} at most here. The ratio is over a call that does "
        "nothing, so the microseconds are what to look at.",
        "",
        f"An engine of {load['plan_mb']:.0f} MB out of the cache, over the stand-in's own `deserialize_cuda_engine` of the same bytes (medians of {loads} in "
        "turns, files in the page cache):",
        "",
        "| bare, ms | EdgeKit, ms | added, ms | largest | ratio |",
        "|---:|---:|---:|---:|---:|",
        f"| {load['bare_ms']:.1f} | {load['edgekit_ms']:.1f} | {load['added_ms']:.1f} | {load['added_most_ms']:.1f} | {load['ratio']:.2f} |",
        "",
        f"At most {LIMIT_MS} ms are allowed: {'met' if load['added_ms'] <= LIMIT_MS else 'missed'}. Of it, reading the plan and its sha256 take "
        f"{load['read_and_hashed_ms']:.1f} ms.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
