"""Input to answer at batch 1 on real images and sentences: the bundle that a build for a CPU chose, and the peers, in turns in one run.

Models and tables are those of ``train_small.py``, bundles those of ``real_data.py``. Each side has an environment of its own and runs in a process of
its own (``real_peer.py``), one after the other; what is quoted are ratios within a round, and their median over the rounds.

    python benchmarks/real_latency.py WORK --peers ENVIRONMENTS

Writes ``results/real_latency.json`` and the table ``results/real_latency.md``. ``--prepare`` only makes the artifacts of the peers; a peer that fails
is recorded with the last line of its error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from real_data import TASKS, machine

HERE = Path(__file__).resolve().parent
PEERS = {
    "transformers float32": ("p-torch", "torch"),
    "optimum-onnx float32": ("p-ort", "ort-fp32"),
    "optimum-onnx dynamic INT8": ("p-ort", "ort-int8"),
    "optimum-intel float32": ("p-ov", "ov-fp32"),
    "optimum-intel static INT8": ("p-ov", "ov-int8"),
}
OURS = "EdgeKit"
TARGET = 0.75


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "work", type=Path, help="of train_small.py and real_data.py; artifacts of the peers are written there too"
    )
    parser.add_argument(
        "--peers", type=Path, required=True, help="folder with the environments p-torch, p-ort, p-ov, each with Pillow"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    sides = {
        task: {**{name: command(options, task, *where) for name, where in PEERS.items()}, OURS: command(options, task)}
        for task in TASKS
    }
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {task: {name: [] for name in sides[task]} for task in TASKS}
    failed: dict[str, dict[str, str]] = {task: {} for task in TASKS}
    for turn in range(options.rounds + 1):  # the first makes what a peer makes once, and warms the file cache
        for task, commands in sides.items():
            for name, line in commands.items():
                if name in failed[task]:
                    continue
                found = run([*line, "--limit", str(options.limit if turn else 20)])
                if isinstance(found, str):
                    failed[task][name] = found
                    print(f"{task}: {name}: {found}", flush=True)
                elif turn:
                    runs[task][name].append(found)
                    print(
                        f"round {turn}: {task}: {name}: p50 {found['p50_ms']} ms, accuracy {found['acc']}, start {found['cold_s']} s",
                        flush=True,
                    )
        if options.prepare:
            return
    done = {
        "machine": machine(),
        "rounds": options.rounds,
        "rows": options.limit,
        "threads": 2,
        "runs": runs,
        "failed": failed,
    }
    done |= {"ratios": {task: ratios(runs[task]) for task in TASKS}, "seconds": round(time.monotonic() - began)}
    (HERE / "results" / "real_latency.json").write_text(json.dumps(done, indent=1) + "\n", "utf-8")
    (HERE / "results" / "real_latency.md").write_text(table(done), "utf-8")
    print(table(done))


def command(options: argparse.Namespace, task: str, environment: str = "", peer: str = "edgekit") -> list[str]:
    """The protocol with a peer's own Python and the model, or with this one and a bundle."""
    python = options.peers / environment / "bin" / "python" if environment else sys.executable
    model = options.work / (TASKS[task][0] if environment else f"{TASKS[task][0]}-cpu")
    tables = options.work / task
    work = ["--work", str(options.work / "peers"), "--calib", str(tables / "train.jsonl"), "--threads", "2"]
    return [str(python), str(HERE / "real_peer.py"), peer, task, str(model), str(tables / "test.jsonl"), *work]


def run(line: list[str]) -> dict[str, Any] | str:
    """Runs a command and reads the JSON of its last line; the last line of its error where it fails."""
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Our p50 over that of each peer, and over that of the best peer of the round: the median of the rounds, and each round's."""
    peers = {name: [found["p50_ms"] for found in rounds] for name, rounds in runs.items() if name != OURS and rounds}
    ours = [found["p50_ms"] for found in runs[OURS]]
    against = {**peers, "the best of them": [min(times) for times in zip(*peers.values(), strict=True)]}
    found = {name: [round(a / b, 3) for a, b in zip(ours, times, strict=True)] for name, times in against.items()}
    return {name: {"median": round(statistics.median(values), 3), "rounds": values} for name, values in found.items()}


def table(found: dict[str, Any]) -> str:
    """The tables in Markdown."""
    where = found["machine"]
    lines = [
        f"{where['cpu']}, {where['cpus']} CPUs ({', '.join(where['instructions'])}), {where['date']}; {found['rows']} rows of the test sets, batch 1, "
        f"2 threads, path of a JPEG or text to answer; medians of {found['rounds']} rounds. Target: at most {TARGET} x the best peer's p50.",
    ]
    digits = {"p50_ms": 2, "p90_ms": 2, "acc": 4, "cold_s": 2, "rss_mb": 0, "art_mb": 1}
    for task, runs in found["runs"].items():
        lines += [
            "",
            f"| {task} | p50 ms | p90 ms | accuracy | process start to first answer, s | memory, MB | artifact, MB | EdgeKit's p50 over it (each round's) |",
            "|---|---:|---:|---:|---:|---:|---:|---|",
        ]
        for name, rounds in runs.items():
            if rounds:
                cells = [f"{statistics.median(r[key] for r in rounds):.{places}f}" for key, places in digits.items()]
                lines.append(f"| {name} | {' | '.join(cells)} | {against(found['ratios'][task].get(name))} |")
            else:
                lines.append(f"| {name} | does not run: {found['failed'][task][name]} | | | | | | |")
        lines.append(
            f"| the best peer of each round | | | | | | | {against(found['ratios'][task]['the best of them'])} |"
        )
    return "\n".join(lines) + "\n"


def against(ratio: dict[str, Any] | None) -> str:
    """A ratio as a cell."""
    return "" if ratio is None else f"{ratio['median']:.2f} ({', '.join(f'{v:.2f}' for v in ratio['rounds'])})"


if __name__ == "__main__":
    main()
