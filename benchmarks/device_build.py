"""How long a build for a device takes on a machine without a GPU, and in which steps.

    python benchmarks/device_build.py --model MODEL --data DIR [--target jetson] [--rounds 3]

Each round begins with an empty cache. "Beyond the export" is everything but the export itself: the torch model's own answers, the search of
ranges and smoothing, both graphs scored on all evaluation rows, the rules of every TensorRT, and an engine of each graph by TensorRT-RTX.

Writes ``results/device_build.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import edgekit
from edgekit.backends import installed_version
from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus

RESULTS = Path(__file__).resolve().parent / "results"
TARGET_S = 60


def one(model: str, data: Path, target: str) -> dict[str, float]:
    """Seconds of each step, in the order in which they began, of a build with an empty cache."""
    steps: list[tuple[str, float]] = []

    def progress(step: str, done: int, total: int) -> None:
        if step and (not steps or steps[-1][0] != step):
            steps.append((step, time.perf_counter()))

    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGEKIT_CACHE"] = f"{folder}/cache"
        start = time.perf_counter()
        edgekit.build(
            model,
            samples=data / "train.jsonl",
            eval=data / "dev.jsonl",
            target=target,
            out=Path(folder) / "out",
            progress=progress,
        )
        end = time.perf_counter()
    taken: dict[str, float] = {"total": end - start}
    for (step, began), after in zip(steps, [*(t for _, t in steps[1:]), end], strict=True):
        taken[step] = taken.get(step, 0.0) + after - began
    return taken


def main() -> None:
    """Runs the rounds and writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", default="jetson")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    rounds = [one(asked.model, asked.data, asked.target) for _ in range(asked.rounds)]
    beyond = [taken["total"] - taken["export"] for taken in rounds]
    machine = f"{cpu_name()}, {cpus()} CPUs ({', '.join(cpu_instructions())}), Python {platform.python_version()}"
    rtx = installed_version("tensorrt_rtx")
    found = {
        "target": asked.target,
        "machine": machine,
        "tensorrt_rtx": rtx,
        "rounds": rounds,
        "beyond_export_s": beyond,
    }
    (RESULTS / "device_build.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    lines = [
        f"`--target {asked.target}` on {machine}; TensorRT-RTX {rtx}; {asked.rounds} rounds, each with an empty cache.",
        "",
    ]
    lines += ["| step | seconds (median) |", "|---|---:|"]
    lines += [
        f"| {step} | {statistics.median(t.get(step, 0.0) for t in rounds):.1f} |"
        for step in rounds[0]
        if step != "total"
    ]
    lines += [f"| **all** | {statistics.median(t['total'] for t in rounds):.1f} |", ""]
    median = statistics.median(beyond)
    verdict = "met" if median <= TARGET_S else "missed"
    lines.append(
        f"Beyond the export: {median:.1f} s ({', '.join(f'{b:.1f}' for b in sorted(beyond))}); at most {TARGET_S} s are allowed: {verdict}."
    )
    (RESULTS / "device_build.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
