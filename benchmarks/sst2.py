"""Side by side with the peers on one fine-tuned classifier: latency, start, memory, size, accuracy, roofline, build.

Every peer has an environment of its own (their pins conflict) and runs in a process of its own, one after the other in
turns, so that a change of the machine's speed meets all of them; what is quoted are ratios within a round, and their
median over the rounds. The protocol script is the same for all: batch 1, input to answer, 2 threads, sentences in the
order of the file.

    python benchmarks/sst2.py --peers ENVIRONMENTS --protocol peer.py --model MODEL --data FOLDER --bundles WORK

Writes ``results/sst2.json`` and the table ``results/sst2.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEERS = {
    "transformers pipeline float32": ("p-torch", "torch"),
    "optimum-onnx float32": ("p-ort", "ort-fp32"),
    "optimum-onnx dynamic INT8": ("p-ort", "ort-int8"),
    "optimum-intel float32": ("p-ov", "ov-fp32"),
    "optimum-intel static INT8": ("p-ov", "ov-int8"),
}
OURS = ("onnxruntime", "openvino")


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder with the environments p-torch, p-ort, p-ov")
    parser.add_argument("--protocol", type=Path, required=True, help="the script that runs one peer in one process")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl, dev.jsonl and test.jsonl")
    parser.add_argument(
        "--bundles", type=Path, required=True, help="work folder for bundles, caches and the peers' artifacts"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=872)
    options = parser.parse_args()
    options.bundles.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(), "rounds": options.rounds, "rows": options.limit, "threads": 2}
    found["build"] = builds(options)
    # In a process of its own: what this one has in memory counts in the peak that a child's ru_maxrss starts from.
    found["overhead_ms"] = run(
        [sys.executable, __file__, "--overhead", str(options.bundles / "onnxruntime"), str(options.data / "dev.jsonl")]
    )
    found["roofline"] = {b: roofline(options, b) for b in OURS}
    commands = {name: peer_command(options, *where) for name, where in PEERS.items()}
    commands |= {f"EdgeKit on {backend}": own_command(options, backend) for backend in OURS}
    for command in commands.values():  # makes what a peer makes once, and warms the file cache
        run([*command, "--limit", "20", "--passes", "1"])
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for turn in range(options.rounds):
        for name, command in commands.items():
            hot = run([*command, "--limit", str(options.limit), "--passes", "1"])
            cold = run([*command, "--cold"])
            rounds[name].append({**hot, "cold_s": cold["cold_s"], "cold_rss_mb": cold["rss_mb"]})
            print(
                f"round {turn + 1}: {name}: p50 {hot['p50_ms']} ms, accuracy {hot['acc']}, start {cold['cold_s']} s, {cold['rss_mb']} MB",
                flush=True,
            )
    found["runs"] = rounds
    found["ratios"] = {
        ours: {peer: ratio(rounds[ours], rounds[peer]) for peer in PEERS} for ours in (f"EdgeKit on {b}" for b in OURS)
    }
    (HERE / "results" / "sst2.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (HERE / "results" / "sst2.md").write_text(table(found), "utf-8")
    print(table(found))


def peer_command(options: argparse.Namespace, environment: str, peer: str) -> list[str]:
    """The protocol with a peer's own Python."""
    python = options.peers / environment / "bin" / "python"
    work = ["--work", str(options.bundles / "peers"), "--calib", str(options.data / "train.jsonl"), "--threads", "2"]
    return [str(python), str(options.protocol), peer, str(options.model), str(options.data / "dev.jsonl"), *work]


def own_command(options: argparse.Namespace, backend: str) -> list[str]:
    """The protocol with this Python and a bundle of ours."""
    return [
        sys.executable,
        str(options.protocol),
        "edgekit",
        str(options.bundles / backend),
        str(options.data / "dev.jsonl"),
        "--threads",
        "2",
    ]


def run(command: list[str]) -> dict[str, Any]:
    """Runs a command and reads the JSON of its last line."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def builds(options: argparse.Namespace) -> dict[str, Any]:
    """Builds the bundles from an empty cache with the command line: seconds, peak memory, and seconds of a second run."""
    cache = options.bundles / f"cache-{time.time():.0f}"
    found: dict[str, Any] = {}
    for target, name in (("cpu", "first"), ("cpu", "again, nothing changed"), *((b, b) for b in OURS)):
        command = [
            sys.executable,
            "-m",
            "edgekit",
            "build",
            str(options.model),
            "--target",
            target,
            "--samples",
            str(options.data / "train.jsonl"),
        ]
        command += [
            "--eval",
            str(options.data / "dev.jsonl"),
            "--test",
            str(options.data / "test.jsonl"),
            "-o",
            str(options.bundles / target),
            "--force",
        ]
        start = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "EDGEKIT_CACHE": str(cache)}
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        seconds = round(time.perf_counter() - start, 1)
        test = json.loads((options.bundles / target / "manifest.json").read_text("utf-8"))["held_out"]
        found[name] = {
            "target": target,
            "seconds": seconds,
            "largest_process_so_far_mb": round(peak),
            "test": test,
            "table": done.stdout.splitlines(),
        }
        print(f"build for {target}: {found[name]['seconds']} s\n{done.stdout}", flush=True)
    return found


def roofline(options: argparse.Namespace, backend: str) -> list[dict[str, Any]]:
    """``edgekit bench`` at 32 tokens, batch 1, five times: the rate that this backend's GEMM reaches, the limit, and the share of it."""
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "bench",
        str(options.bundles / backend),
        "--batches",
        "1",
        "--lengths",
        "32",
        "--seconds",
        "2",
        "--json",
    ]
    reports = [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    return [{"rate": r["rate"], **r["points"][0]} for r in reports]


def overhead(bundle: Path, data: Path) -> dict[str, float]:
    """What ``session(text)`` costs beyond tokenizing and calling the backend by hand, taken in turns text by text."""
    import numpy as np
    from tokenizers import Tokenizer

    import edgekit

    tokenizer = Tokenizer.from_file(str(bundle / "assets" / "tokenizer.json"))
    texts = [json.loads(line)["text"] for line in data.read_text("utf-8").splitlines()][:400]
    differences, hand, ours = [], [], []
    with edgekit.load(bundle) as session:
        # The same ONNX Runtime session on both sides: two of them would fight over the cores with their spinning threads.
        by_hand = session._engine._session
        for turn in range(3):
            for text in texts:
                start = time.perf_counter()
                e = tokenizer.encode(text)
                feeds = {
                    "input_ids": np.array([e.ids]),
                    "attention_mask": np.array([e.attention_mask]),
                    "token_type_ids": np.array([e.type_ids]),
                }
                by_hand.run(None, feeds)[0].argmax()
                middle = time.perf_counter()
                session(text)
                end = time.perf_counter()
                if turn:
                    hand.append((middle - start) * 1e3)
                    ours.append((end - middle) * 1e3)
                    differences.append(ours[-1] - hand[-1])
    return {
        "by_hand_p50": statistics.median(hand),
        "session_p50": statistics.median(ours),
        "median_difference": statistics.median(differences),
    }


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """p50, start and memory of ours over theirs, round by round, and the median."""
    result: dict[str, Any] = {}
    for key in ("p50_ms", "cold_s", "cold_rss_mb"):
        values = [a[key] / b[key] for a, b in zip(ours, theirs, strict=True)]
        result[key] = {"median": round(statistics.median(values), 3), "rounds": [round(v, 3) for v in values]}
    return result


def machine() -> dict[str, Any]:
    """Where it ran."""
    from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus

    return {"cpu": cpu_name(), "cpus": cpus(), "instructions": cpu_instructions(), "date": time.strftime("%Y-%m-%d")}


def table(found: dict[str, Any]) -> str:
    """The table in Markdown."""

    def middle(name: str, key: str) -> float:
        return statistics.median(run[key] for run in found["runs"][name])

    lines = [
        f"{found['machine']['cpu']}, {found['machine']['cpus']} CPUs ({', '.join(found['machine']['instructions'])}), {found['machine']['date']}; "
        f"MiniLM-L6 on SST-2, dev set of {found['rows']}, batch 1, 2 threads; medians of {found['rounds']} rounds.",
        "",
        "| input to answer, one stream | p50 ms | p90 ms | accuracy | process start to first answer, s | peak memory to first answer, MB | after all, MB "
        "| artifact, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in found["runs"]:
        digits = {"p50_ms": 2, "p90_ms": 2, "acc": 4, "cold_s": 2, "cold_rss_mb": 0, "rss_mb": 0, "art_mb": 1}
        cells = [f"{middle(name, k):.{d}f}" for k, d in digits.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "Ratios EdgeKit / peer, median of the rounds (each round's):",
        "",
        "| | peer | p50 | start | memory |",
        "|---|---|---|---|---|",
    ]
    for ours, peers in found["ratios"].items():
        for peer, values in peers.items():
            cells = [
                f"{values[k]['median']:.2f} ({', '.join(f'{v:.2f}' for v in values[k]['rounds'])})"
                for k in ("p50_ms", "cold_s", "cold_rss_mb")
            ]
            lines.append(f"| {ours} | {peer} | {' | '.join(cells)} |")
    lines += [
        "",
        "| EdgeKit on | runs | test set of | accuracy | torch | drop (90 % interval) |",
        "|---|---|---:|---:|---:|---|",
    ]
    for name in OURS:
        t, interval = (
            found["build"][name]["test"],
            "{drop:.4f} ({drop_low:.4f} to {drop_high:.4f})".format(**found["build"][name]["test"]),
        )
        runs = found["build"][name]["table"][2].rpartition("  ")[0]
        lines.append(
            f"| {name} | {' '.join(runs.split()[:4])} | {t['rows']} | {t['score']:.4f} | {t['reference_score']:.4f} | {interval} |"
        )
    lines += [
        "",
        "| EdgeKit on, 32 tokens, batch 1 | GEMM, GOP/s | limit ms | p50 ms | share of the limit |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, runs in found["roofline"].items():
        best = sorted(runs, key=lambda r: r["share"])[len(runs) // 2]
        rate = f"{best['rate']['gops']:.0f} ({best['rate']['precision']})"
        lines.append(
            f"| {name} | {rate} | {best['limit_ms']:.2f} | {best['latency']['p50_ms']:.2f} | {best['share']:.0%} |"
        )
    extra = found["overhead_ms"]
    lines += [
        "",
        f"`session(text)` beyond tokenizing and calling ONNX Runtime by hand: {extra['median_difference']:.3f} ms "
        f"(median of paired differences; by hand {extra['by_hand_p50']:.2f} ms, session {extra['session_p50']:.2f} ms).",
        "",
        "| `edgekit build` | seconds | largest process so far, MB |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {name} (target {b['target']}) | {b['seconds']:.0f} | {b['largest_process_so_far_mb']} |"
        for name, b in found["build"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--overhead"]:
        print(json.dumps(overhead(Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
