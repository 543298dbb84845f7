"""Smaller models of one fine-tuned classifier: students, pruned models, trimmed vocabularies, and all of them together, each as an INT8 bundle.

Every choice below was made on the dev set; the test set is scored here, once for each model, as float32 in torch and as the
bundle's INT8, with the paired interval of the difference to the teacher in float32. Times are of processes that take turns, by the
protocol of ``sst2.py``: batch 1, input to answer, 2 threads, dev sentences in the order of the file; the transformers pipeline takes part.

    python benchmarks/students.py --peers ENVIRONMENTS --protocol peer.py --model MODEL --data FOLDER --bundles WORK

Writes ``results/students.json``, the table ``results/students.md`` and the picture ``results/students.svg``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sst2 import HERE, machine, own_command, peer_command, run

from edgekit.spec.options import DistillOptions, PruneOptions, TrimVocabOptions

PIPELINE = "transformers pipeline float32"
TARGET = """name = "int8"
description = "Dynamic INT8 on ONNX Runtime, which every build of this model for a CPU has chosen"
backends = ["onnxruntime"]
methods = ["dynamic"]
[quantize]
embeddings = "{tables}"
"""
PRUNED, PRUNED_STUDENT = 1.5, 1.25


def main() -> None:
    """Parses, makes the models, scores and times them, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder with the environment p-torch")
    parser.add_argument("--protocol", type=Path, required=True, help="the script that runs one peer in one process")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl, dev.jsonl and test.jsonl")
    parser.add_argument("--bundles", type=Path, required=True, help="work folder for models and bundles")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=int, default=872)
    parser.add_argument(
        "--make", action="store_true", help="only make and score the models, into made.json in the work folder"
    )
    options = parser.parse_args()
    options.bundles.mkdir(parents=True, exist_ok=True)
    kept = options.bundles / "made.json"
    if options.make:
        make(options, kept)
        return
    if not kept.is_file():
        # In a process of its own: what this one has in memory counts in the peak that a child's ru_maxrss starts from.
        subprocess.run([sys.executable, *sys.argv, "--make"], check=True)
    found: dict[str, Any] = {
        "machine": machine(),
        "rounds": options.rounds,
        "rows": options.limit,
        "threads": 2,
        **json.loads(kept.read_text("utf-8")),
    }
    commands = {
        PIPELINE: peer_command(options, "p-torch", "torch"),
        **{name: own_command(options, name) for name in found["test"]},
    }
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for turn in range(options.rounds + 1):
        for name, command in commands.items():
            one = run([*command, "--limit", str(options.limit if turn else 20), "--passes", "1"])
            if turn:  # the first warms the file cache
                rounds[name].append(one)
        print(
            f"round {turn}: " + ", ".join(f"{name} {r[-1]['p50_ms']} ms" for name, r in rounds.items() if r), flush=True
        )
    found["runs"] = rounds
    folder = HERE / "results"
    (folder / "students.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (folder / "students.md").write_text(table(found), "utf-8")
    (folder / "students.svg").write_text(picture(found), "utf-8")
    print(table(found))


def make(options: argparse.Namespace, kept: Path) -> None:
    """Makes the models and their bundles, scores them, and keeps what came of it."""
    models, made = smaller(options)
    for name, (folder, tables) in models.items():
        build(options, name, folder, tables)
    kept.write_text(json.dumps({"made": made, "test": scores(options, models)}, indent=1) + "\n", "utf-8")


def smaller(options: argparse.Namespace) -> tuple[dict[str, tuple[Path, str]], dict[str, Any]]:
    """The models: name to folder and kind of embedding tables; and what making them took and said."""
    from edgekit.compress.distill import distill
    from edgekit.compress.vocabulary import trim_vocab
    from edgekit.search.pruning import prune

    train, dev, place = options.data / "train.jsonl", options.data / "dev.jsonl", options.bundles / "models"
    made: dict[str, Any] = {}

    def told(name: str, text: str, seconds: float, base: str = "") -> Path:
        # Seconds of the whole chain that led to it.
        made[name] = {"seconds": round(seconds) + made.get(base, {}).get("seconds", 0), "said": text.splitlines()}
        print(f"{name}, {seconds:.0f} s\n{text}\n", flush=True)
        return Path(place / name)

    def student(layers: int) -> Path:
        name = f"{layers} layers"
        result = distill(
            options.model, samples=train, eval=dev, out=place / name, options=DistillOptions(layers=layers, force=True)
        )
        return told(name, result.text(), result.seconds)

    def pruned(name: str, base: Path, speedup: float) -> Path:
        start = time.perf_counter()
        result = prune(
            base, speedup=speedup, samples=train, eval=dev, out=place / name, options=PruneOptions(force=True)
        )
        return told(name, result.text(), max(time.perf_counter() - start, result.distilled.seconds), base.name)

    def trimmed(name: str, base: Path) -> Path:
        start = time.perf_counter()
        result = trim_vocab(base, samples=train, eval=dev, out=place / name, options=TrimVocabOptions(force=True))
        return told(name, result.text(), time.perf_counter() - start, base.name)

    three, two = student(3), student(2)
    models = {
        "teacher": (options.model, "int8"),
        "trimmed": (trimmed("trimmed", options.model), "int8"),
        "pruned": (pruned("pruned", options.model, PRUNED), "int8"),
        "3 layers": (three, "int8"),
        "2 layers": (two, "int8"),
        "3 layers, trimmed": (trimmed("3 layers, trimmed", three), "int8"),
    }
    everything = trimmed("3 layers, pruned, trimmed", pruned("3 layers, pruned", three, PRUNED_STUDENT))
    return models | {
        "3 layers, pruned, trimmed": (everything, "int8"),
        "3 layers, pruned, trimmed, INT4 tables": (everything, "int4"),
    }, made


def build(options: argparse.Namespace, name: str, folder: Path, tables: str) -> None:
    """The INT8 bundle of a model."""
    import edgekit

    target = options.bundles / f"{tables}.toml"
    target.write_text(TARGET.format(tables=tables), "utf-8")
    data = {"samples": options.data / "train.jsonl", "eval": options.data / "dev.jsonl"}
    chosen = edgekit.BuildOptions(budget={"accuracy_drop": 1.0}, force=True)
    edgekit.build(folder, **data, out=options.bundles / name, target=target, options=chosen)


def scores(options: argparse.Namespace, models: dict[str, tuple[Path, str]]) -> dict[str, Any]:
    """Each model on the test set, in float32 and as its bundle, against the teacher in float32."""
    import edgekit
    from edgekit import samples, source, tasks

    rows = samples.read(options.data / "test.jsonl")
    found, reference = {}, None
    for name, (folder, _) in models.items():
        origin = source.read(folder)
        task = tasks.get("text-classification").load(options.bundles / name / "assets")
        with edgekit.load(options.bundles / name) as session:
            scored = rows.evaluation(task)
            answers = {
                "float32": origin.outputs(origin.encode(scored.inputs)),
                "INT8": session.outputs(list(scored.inputs)),
            }
        reference = reference or answers["float32"]
        size = sum(f.stat().st_size for f in (options.bundles / name).rglob("*") if f.is_file()) / 2**20
        found[name] = {"mb": size}
        for kind, outputs in answers.items():
            p = scored.compare(outputs, reference)
            found[name][kind] = {
                "score": scored.score(outputs), "drop": p.drop, "low": p.low, "high": p.high, "losses": p.losses, "gains": p.gains, "rows": p.rows,
            }  # fmt: skip
    return found


def times(found: dict[str, Any], name: str, other: str) -> float:
    """How many times as fast as another one a model is: the median of the rounds' own ratios, which the machine's mood does not reach."""
    return statistics.median(
        b["p50_ms"] / a["p50_ms"] for a, b in zip(found["runs"][name], found["runs"][other], strict=True)
    )


def table(found: dict[str, Any]) -> str:
    """The table in Markdown."""

    def middle(name: str, key: str) -> float:
        return statistics.median(r[key] for r in found["runs"][name])

    rows = found["test"]["teacher"]["INT8"]["rows"]
    lines = [
        f"{found['machine']['cpu']}, {found['machine']['cpus']} CPUs ({', '.join(found['machine']['instructions'])}), {found['machine']['date']}; "
        f"MiniLM-L6 on SST-2; accuracy on the test set of {rows}, scored once; p50 from input to answer on {found['rows']} dev texts, batch 1, 2 threads, "
        f"medians of {found['rounds']} rounds; drops from the teacher in float32, with paired 90 % intervals.",
        "",
        "| model | accuracy, float32 | drop | accuracy of the INT8 bundle | drop | p50 ms | x as fast as the teacher's INT8 | x as fast as the pipeline "
        "| bundle, MB | memory, MB | to make, s |",
        "|---|---:|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    pipeline = f"{middle(PIPELINE, 'p50_ms'):.2f} | {times(found, PIPELINE, 'teacher'):.2f} | 1.00 | - | {middle(PIPELINE, 'rss_mb'):.0f} | |"
    lines.append(f"| {PIPELINE} | {found['test']['teacher']['float32']['score']:.4f} | | | | {pipeline}")
    for name, t in found["test"].items():
        cells = [name]
        for kind in ("float32", "INT8"):
            cells += [f"{t[kind]['score']:.4f}", "{drop:+.4f} ({low:+.4f} to {high:+.4f})".format(**t[kind])]
        cells += [
            f"{middle(name, 'p50_ms'):.2f}",
            f"{times(found, name, 'teacher'):.2f}",
            f"{times(found, name, PIPELINE):.1f}",
            f"{t['mb']:.1f}",
        ]
        cells += [
            f"{middle(name, 'rss_mb'):.0f}",
            str(found["made"].get(name.removesuffix(", INT4 tables"), {}).get("seconds", "")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(found: dict[str, Any]) -> str:
    """The Pareto front: time and accuracy of the INT8 bundles, and of the pipeline."""
    from edgekit.report.render.charts.pareto import Point, poster

    cost = "p50, as a multiple of the teacher's INT8 bundle (logarithmic)"
    teacher, points = found["test"]["teacher"]["float32"], []
    for name in found["runs"]:
        t = found["test"][name]["INT8"] if name in found["test"] else teacher
        # The interval of the drop, hung on the score: what is uncertain is the difference to the teacher.
        points.append(
            Point(
                name,
                1 / times(found, name, "teacher"),
                t["score"],
                t["score"] + t["drop"] - t["high"],
                t["score"] + t["drop"] - t["low"],
            )
        )
    return poster(
        points, "Text to label on 2 CPUs: INT8 bundles and the transformers pipeline", cost, "accuracy on the test set"
    )


if __name__ == "__main__":
    main()
