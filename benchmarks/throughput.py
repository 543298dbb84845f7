"""Texts a second, a whole set at once: EdgeKit built for throughput against the peers at the batch size that suits each best.

Every side runs in a process of its own, in turns. A peer gets the set as its pipeline takes it, in natural order and sorted
by length, with each batch size; its best of all these counts. EdgeKit gets the list in natural order and does its own
sorting. Tokenizing is in it on all sides.

    python benchmarks/throughput.py --peers ENVIRONMENTS --artifacts WORK/peers --data test.jsonl --bundle BUNDLE

The artifacts are those that ``sst2.py`` leaves in its work folder. Writes ``results/throughput.json`` and ``.md``.
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

HERE = Path(__file__).resolve().parent
BATCHES = (1, 8, 32)
PEERS = {"optimum-onnx dynamic INT8": ("p-ort", "ort-int8"), "optimum-intel static INT8": ("p-ov", "ov-int8")}


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder with the environments p-ort and p-ov")
    parser.add_argument(
        "--artifacts", type=Path, required=True, help="folder with the peers' models: ort-int8 and ov-int8"
    )
    parser.add_argument("--data", type=Path, required=True, help="JSONL with text and label")
    parser.add_argument("--bundle", type=Path, required=True, help="built with --use throughput")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus

    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("EdgeKit", *PEERS)}
    best: dict[str, tuple[int, bool]] = {}
    for turn in range(options.rounds):
        for name in runs:
            environment, peer = PEERS.get(name, ("", ""))
            python = options.peers / environment / "bin" / "python" if peer else sys.executable
            where = options.artifacts / peer if peer else options.bundle
            tried = (
                [best[name]]
                if name in best
                else [(b, s) for b in BATCHES for s in ((False, True) if b > 1 else (False,))]
                if peer
                else [(0, False)]
            )
            found = [child(python, peer or "edgekit", where, options.data, *what) for what in tried]
            fastest = max(found, key=lambda f: f["rows_per_s"])
            best[name] = (fastest["batch"], fastest["sorted"])
            runs[name].append({**fastest, "tried": found if len(found) > 1 else []})
            print(
                f"round {turn + 1}: {name}: {fastest['rows_per_s']:.0f} rows/s, batch {fastest['batch']}, sorted {fastest['sorted']}",
                flush=True,
            )
    ratios = {
        p: [round(a["rows_per_s"] / b["rows_per_s"], 3) for a, b in zip(runs["EdgeKit"], runs[p], strict=True)]
        for p in PEERS
    }
    machine = {"cpu": cpu_name(), "cpus": cpus(), "instructions": cpu_instructions(), "date": time.strftime("%Y-%m-%d")}
    (HERE / "results" / "throughput.json").write_text(
        json.dumps({"machine": machine, "runs": runs, "ratios": ratios}, indent=1) + "\n", "utf-8"
    )
    lines = [
        f"{machine['cpu']}, {machine['cpus']} CPUs ({', '.join(machine['instructions'])}), {machine['date']}; "
        f"MiniLM-L6 on {runs['EdgeKit'][0]['rows']} texts of natural lengths, 2 threads, tokenizing included; "
        f"medians of {options.rounds} rounds in turns, each peer at its best batch size.",
        "",
        "| | rows/s | batch | sorted by length | accuracy | EdgeKit / it (rounds) |",
        "|---|---:|---:|---|---:|---|",
    ]
    for name, own in runs.items():
        against = (
            ""
            if name == "EdgeKit"
            else f"{statistics.median(ratios[name]):.2f} ({', '.join(f'{r:.2f}' for r in ratios[name])})"
        )
        how = f"{own[-1]['batch'] or 'tuned'} | {'by itself' if name == 'EdgeKit' else 'yes' if own[-1]['sorted'] else 'no'}"
        lines.append(
            f"| {name} | {statistics.median(r['rows_per_s'] for r in own):.0f} | {how} | {own[-1]['accuracy']:.4f} | {against} |"
        )
    (HERE / "results" / "throughput.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


def child(python: Path | str, peer: str, where: Path, data: Path, batch: int, by_length: bool) -> dict[str, Any]:
    """Runs one side once in its own Python."""
    command = [str(python), __file__, "--child", peer, str(where), str(data), str(batch), str(int(by_length))]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def one(peer: str, where: str, data: str, batch: int, by_length: bool) -> None:
    """The child: answers the whole set twice behind a warm-up, the faster counts."""
    rows = [json.loads(line) for line in Path(data).read_text("utf-8").splitlines()]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["text"])) if by_length else list(range(len(rows)))
    texts = [rows[i]["text"] for i in order]
    if peer == "edgekit":
        import edgekit

        session = edgekit.load(where)

        def run(texts: list[str]) -> list[str]:
            return [answer.label for answer in session(texts)]
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(where)
        if peer == "ort-int8":
            import onnxruntime
            from optimum.onnxruntime import ORTModelForSequenceClassification
            from optimum.pipelines import pipeline

            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = 2
            model = ORTModelForSequenceClassification.from_pretrained(
                where, session_options=settings, file_name="model_quantized.onnx"
            )
            made = pipeline("text-classification", model=model, tokenizer=tokenizer, accelerator="ort")
        else:
            from optimum.intel import OVModelForSequenceClassification
            from transformers import pipeline

            hint = {"PERFORMANCE_HINT": "THROUGHPUT" if batch > 1 else "LATENCY", "INFERENCE_NUM_THREADS": "2"}
            made = pipeline(
                "text-classification",
                model=OVModelForSequenceClassification.from_pretrained(where, ov_config=hint),
                tokenizer=tokenizer,
            )

        def run(texts: list[str]) -> list[str]:
            return [answer["label"] for answer in made(texts, batch_size=batch)]

    run(texts[:100])
    seconds, labels = [], []
    for _ in range(2):
        start = time.perf_counter()
        labels = run(texts)
        seconds.append(time.perf_counter() - start)
    right = sum(label == rows[i]["label"] for label, i in zip(labels, order, strict=True))
    found = {
        "rows": len(rows),
        "rows_per_s": len(rows) / min(seconds),
        "batch": batch,
        "sorted": by_length,
        "accuracy": right / len(rows),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        one(*sys.argv[2:5], int(sys.argv[5]), bool(int(sys.argv[6])))
    else:
        main()
