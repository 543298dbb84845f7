"""Static shapes on OpenVINO: how soon a process answers, what the shapes cost after that, and what they gain.

    python benchmarks/openvino_start.py --bundle BUNDLE [BUNDLE ...] [--before CHECKOUT] [--processes 5]

Each ``BUNDLE`` has one variant, on OpenVINO with static shapes; their methods differ. Two tables for each, both of
fresh processes that take turns:

1. Sessions of this tree, and of another checkout of EdgeKit: process start to first answer, the slowest call from then
   until the static shapes serve, and the time of a call afterwards.
2. Ways to have static shapes, in OpenVINO itself on the graph of the bundle, with what each costs at the first call of
   a length. Blobs are written by ``CompiledModel.export_model`` beforehand. A shape that is compiled apart is the body
   of an ``If``, as in the backend, so all ways with static shapes give the same bits.

CPU seconds stand beside the clock, because they hardly depend on what else runs. Writes ``results/openvino_start.json``
and ``results/openvino_start.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "openvino_start.json"
TEXT = "a fine film with a strong cast and a weak ending"
WAYS = {
    "later": "dynamic shapes at the start, all static ones in one model later (the backend, float methods)",
    "one": "one static shape at the start, each other one at its first use (the backend, static INT8, until all are)",
    "first use": "dynamic shapes at the start, each static one at its first use",
    "all": "all in one model at the start",
    "blob": "one static shape imported from a blob at the start, each other one at its first use",
}
SESSION = """
import json, sys, time
began_s, text, ready = float(sys.argv[1]), sys.argv[3], sys.argv[4] == "warm"
import edgekit
session = edgekit.load(sys.argv[2])
if ready and hasattr(session, "warm_up"):
    session.warm_up()
session(text)
first_s, cpu_s = time.time() - began_s, time.process_time()
from edgekit.machine.cpu import memory_mb
first_mb = memory_mb()
times = []
def ready_shapes():
    return getattr(session.info, "ready_shapes", session.info.shapes)
begin = time.perf_counter()
while len(times) < 100 or (ready_shapes() != session.info.shapes and time.perf_counter() - begin < 120):
    start = time.perf_counter()
    session(text)
    times.append((time.perf_counter() - start) * 1e3)
settled_s = time.perf_counter() - begin
after = []
for _ in range(200):
    start = time.perf_counter()
    session(text)
    after.append((time.perf_counter() - start) * 1e3)
after.sort()
print(json.dumps({
    "first_answer_s": first_s, "first_answer_cpu_s": cpu_s, "first_answer_mb": first_mb, "slowest_before_ms": max(times),
    "calls_before": len(times), "settled_s": settled_s, "p50_after_ms": after[100], "best_after_ms": after[0],
    "peak_mb": memory_mb(),
}))
"""


def main() -> None:
    """Parse the arguments, run the processes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, nargs="+")
    parser.add_argument("--before", type=Path, help="another checkout of EdgeKit")
    parser.add_argument("--processes", type=int, default=5, help="of each kind, after one that is not counted")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--blobs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    bundles = [bundle.resolve() for bundle in options.bundle]
    if options.way:
        print(json.dumps(run_way(bundles[0], options.way, options.blobs)))
        return
    record: dict[str, Any] = {"machine": machine(), "processes": options.processes, "methods": {}}
    for bundle in bundles:
        method = json.loads((bundle / "manifest.json").read_text("utf-8"))["variants"][0]["method"]
        record["methods"][method] = measure(bundle, options.before, options.processes)
    RESULT.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    RESULT.with_suffix(".md").write_text(table(record), "utf-8")
    print(table(record))


def measure(bundle: Path, before: Path | None, processes: int) -> dict[str, Any]:
    """Return the medians of all sessions and ways of a bundle, in the order of the tables."""
    here = HERE.parent
    sessions = {"this tree": (here, "cold"), "this tree, warm_up()": (here, "warm")}
    if before is not None:
        sessions["before"] = (before.resolve(), "cold")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*sessions, *WAYS)}
    with tempfile.TemporaryDirectory() as folder:
        call(here, [__file__, "--bundle", str(bundle), "--way", "write", "--blobs", folder])
        blobs_mb = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
        for turn in range(processes + 1):
            for name, (tree, mode) in sessions.items():
                result = call(tree, ["-c", SESSION, str(time.time()), str(bundle), TEXT, mode])
                if turn:
                    runs[name].append(result)
            for way in WAYS:
                result = call(here, [__file__, "--bundle", str(bundle), "--way", way, "--blobs", folder])
                if turn:
                    runs[way].append(result)
    record: dict[str, Any] = {"blobs_mb": blobs_mb}
    for name, results in runs.items():
        medians = {key: statistics.median(result[key] for result in results) for key in results[0]}
        best_s = min(result["first_answer_s"] for result in results)
        record[name] = {**medians, "best_first_answer_s": best_s}
    return record


def call(tree: Path, arguments: list[str]) -> dict[str, float]:
    """Run Python with a checkout of EdgeKit in a process of its own, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "BEGAN": str(time.time())}
    # The current folder comes before PYTHONPATH for a program on the command line.
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def machine() -> dict[str, Any]:
    """Return the machine and the version of OpenVINO."""
    from importlib.metadata import version

    from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus

    instructions = list(cpu_instructions())
    host = {"cpu": cpu_name(), "cpus": cpus(), "instructions": instructions, "date": time.strftime("%F")}
    return {**host, "openvino": version("openvino")}


# ---- ways, each in a process of its own


def run_way(bundle: Path, way: str, blobs: Path) -> dict[str, float]:
    """Answer one row as soon as possible, then one of every length twice, and return times and memory."""
    from edgekit.backends import openvino
    from edgekit.bundle.trust import open_bundle

    opened = open_bundle(bundle)
    variant = opened.manifest.variants[0]
    signature = opened.manifest.signatures[0]
    graph = bundle / variant.graphs[signature.name]
    device = openvino.open_device("cpu", variant.threads)
    bodies = Bodies(device, graph, signature, variant.shapes, way, blobs)
    if way == "write":
        for length in variant.shapes:
            compiled = bodies.compile_one(length)
            content = compiled.export_model()
            (blobs / str(length)).write_bytes(content.read() if hasattr(content, "read") else content)
        return {}
    length = variant.shapes[len(variant.shapes) // 2]
    bodies.start(length)
    bodies.run(length)
    first_s = time.time() - float(os.environ["BEGAN"])
    result = {"first_answer_s": first_s, "first_answer_cpu_s": time.process_time(), "first_answer_mb": memory_mb()}
    begin = time.perf_counter()
    bodies.finish()
    result["later_s"] = time.perf_counter() - begin
    spikes = []
    for size in variant.shapes:
        start = time.perf_counter()
        bodies.run(size)
        spikes.append((time.perf_counter() - start) * 1e3)
    steady = []
    for _ in range(100):
        start = time.perf_counter()
        bodies.run(length)
        steady.append((time.perf_counter() - start) * 1e3)
    return {
        **result,
        "slowest_first_call_ms": max(spikes),
        "first_calls_ms": sum(spikes),
        "best_ms": min(steady),
        "p50_ms": statistics.median(steady),
        "peak_mb": memory_mb(),
        "cpu_s": time.process_time(),
    }


class Bodies:
    """Compiled models by length; 0 is the one of any length."""

    def __init__(
        self, device: Any, graph: Path, signature: Any, shapes: tuple[int, ...], way: str, blobs: Path
    ) -> None:
        """Read the graph, and compile nothing yet. Blobs need no graph."""
        self._device, self._graph, self._signature, self._shapes = device, graph, signature, shapes
        self._way, self._blobs = way, blobs
        self._model = None if way == "blob" else device.read(graph)
        self._requests: dict[int, Any] = {}

    def start(self, length: int) -> None:
        """Compile or import what the way has at the start."""
        if self._way in ("later", "first use"):
            self._requests[0] = self._compile(self._model).create_infer_request()
            self._infer(self._requests[0], 2)  # Its first call must have several tokens.
        elif self._way == "all":
            self.finish()
        else:
            self._requests[length] = self._open(length)

    def finish(self) -> None:
        """Compile all shapes in one model, if the way does that."""
        if self._way in ("later", "all") and self._shapes[0] not in self._requests:
            whole = self._device.add_bodies(self._model, self._signature, self._shapes)
            request = self._compile(whole).create_infer_request()
            self._infer(request, 2)
            self._requests = dict.fromkeys((0, *self._shapes), request)

    def run(self, length: int) -> None:
        """Answer a row with the static shape of its length, which is opened first where it is missing."""
        if self._way == "later" and length not in self._requests:
            self._infer(self._requests[0], length)
            return
        if length not in self._requests:
            self._requests[length] = self._open(length)
        self._infer(self._requests[length], length)

    def compile_one(self, length: int) -> Any:
        """Return a model of one length."""
        return self._compile(self._device.alone_body(self._graph, self._model, self._signature, length))

    def _open(self, length: int) -> Any:
        if self._way == "blob":
            blob = (self._blobs / str(length)).read_bytes()
            return self._device._core.import_model(blob, "CPU", self._device._settings).create_infer_request()
        return self.compile_one(length).create_infer_request()

    def _compile(self, model: Any) -> Any:
        return self._device._core.compile_model(model, "CPU", self._device._settings)

    def _infer(self, request: Any, length: int) -> None:
        import numpy as np

        feeds = {spec.name: np.ones((1, length), spec.dtype) for spec in self._signature.inputs}
        request.infer(feeds, share_inputs=True)


def memory_mb() -> float:
    """Return the peak resident memory of this process in MiB."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match.group(1)) / 1024


# ---- table


def table(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    host = record["machine"]
    lines = [
        f"{host['cpu']}, {host['cpus']} CPUs ({', '.join(host['instructions'])}), {host['date']}; OpenVINO "
        f"{host['openvino']}; medians of {record['processes']} fresh processes of each kind, which took turns.",
    ]
    for method, rows in record["methods"].items():
        lines += ["", f"## {method}", "", *method_tables(rows)]
    return "\n".join(lines) + "\n"


def method_tables(record: dict[str, Any]) -> list[str]:
    """Return the two tables of a bundle."""
    lines = [
        "| session | process start to first answer, s (best) | CPU s | MB there | slowest call of the next, ms | "
        "until all shapes serve, s | p50 after, ms | peak MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in record:
        if name in WAYS or name == "blobs_mb":
            continue
        row = record[name]
        lines.append(
            f"| {name} | {row['first_answer_s']:.2f} ({row['best_first_answer_s']:.2f}) | "
            f"{row['first_answer_cpu_s']:.2f} | {row['first_answer_mb']:.0f} | {row['slowest_before_ms']:.1f} | "
            f"{row['settled_s']:.1f} | {row['p50_after_ms']:.2f} | {row['peak_mb']:.0f} |"
        )
    lines += [
        "",
        f"OpenVINO alone, by way (blobs: {record['blobs_mb']:.0f} MB on disk):",
        "",
        "| way | start to first answer, s (best) | CPU s | MB there | later, s | slowest first call of a length, ms | "
        "first calls of all, ms | p50 after, ms | peak MB | CPU s in all |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for way, title in WAYS.items():
        row = record[way]
        lines.append(
            f"| {title} | {row['first_answer_s']:.2f} ({row['best_first_answer_s']:.2f}) | "
            f"{row['first_answer_cpu_s']:.2f} | {row['first_answer_mb']:.0f} | {row['later_s']:.2f} | "
            f"{row['slowest_first_call_ms']:.0f} | {row['first_calls_ms']:.0f} | {row['p50_ms']:.2f} | "
            f"{row['peak_mb']:.0f} | {row['cpu_s']:.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
