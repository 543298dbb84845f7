"""How builds, memory and latency grow with rows of samples, labels, length, layers and width: curves, exponents, and
whether limits are held.

    python benchmarks/scaling.py WORK [--axis AXIS] [--upto SIZE]

Models are BERTs with random weights, samples are drawn from made-up words; both are written into WORK. Each point
is a process of its own: a build for a CPU (``_build.py``), then the latency of the bundle; points of the axes
``eval`` run ``edgekit eval`` instead. A point is one line of ``WORK/points.jsonl``, and points that are there are
not measured again. Cheap points come first. Exponents are slopes of the logarithms with a 95 % interval; a limit is
held where the slope over all points and that of the last step are within it. Writes ``results/scaling.json`` and
``.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import _scaling_tables
from _build import measured_build
from _rounds import environment, probe_us
from _sides import machine

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "scaling.json"
WORDS = 2000
HEAD = 32
"""Width of an attention head."""
CALLS = 200
MOST_SECONDS = 3.0
"""Time of the latency of one point."""


@dataclass(frozen=True)
class Point:
    """Sizes of a model and its samples.

    Attributes:
        axis: Axis that it belongs to.
        samples: Rows of the sample file.
        calibration: Rows that calibration takes of them.
        evaluation: Labelled rows.
        labels: Labels of the model.
        length: Tokens of a text.
        layers: Layers.
        width: Width of a layer; the inner one is four times as wide.
    """

    axis: str
    samples: int = 300
    calibration: int = 100
    evaluation: int = 100
    labels: int = 2
    length: int = 16
    layers: int = 2
    width: int = 128

    @property
    def size(self) -> int:
        """Size along the axis."""
        return int(getattr(self, FIELDS[self.axis]))

    @property
    def key(self) -> str:
        """Name of the point."""
        return f"{self.axis} {self.size}"


FIELDS = {
    "samples": "samples",
    "calibration": "calibration",
    "evaluation": "evaluation",
    "labels": "labels",
    "length": "length",
    "layers": "layers",
    "width": "width",
    "eval": "evaluation",
}
"""Field of a point that varies on an axis."""
SIZES: dict[str, tuple[int, ...]] = {
    "samples": (100, 1000, 10_000, 100_000),
    "calibration": (100, 300, 1000, 3000),
    "evaluation": (100, 1000, 10_000, 100_000),
    "labels": (2, 10, 30, 100, 300, 1000),
    "length": (8, 16, 32, 64, 128, 256, 512),
    "layers": (1, 2, 4, 8, 16),
    "width": (64, 128, 256, 512, 1024),
    "eval": (100, 1000, 10_000, 100_000),
}


def main() -> None:
    """Parses, measures the points that are not there, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--axis", choices=tuple(SIZES), action="append", help="repeatable; all by default")
    parser.add_argument("--upto", type=int, help="largest size along any axis")
    parser.add_argument("--target", default="cpu", help="target of the builds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file; the tables are written beside it")
    options = parser.parse_args()
    options.work = options.work.absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "points.jsonl"
    done = read_points(file)
    todo = [p for p in points(options.axis or list(SIZES), options.upto) if p.key not in done]
    for index, point in enumerate(todo):
        began = time.monotonic()
        found = measure(point, options)
        line = {"key": point.key, "point": asdict(point), "machine": machine(), "target": options.target, **found}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        done[point.key] = line
        result = {"points": list(done.values()), "clauses": _scaling_tables.clauses(list(done.values()))}
        options.out.write_text(json.dumps(result) + "\n", "utf-8")
        options.out.with_suffix(".md").write_text(_scaling_tables.document(list(done.values())), "utf-8")
        seconds = time.monotonic() - began
        print(f"{index + 1} of {len(todo)}: {point.key}: {seconds:.0f} s {found.get('error', '')}", flush=True)
    print(_scaling_tables.document(list(done.values())))


def read_points(file: Path) -> dict[str, dict[str, Any]]:
    """Returns the points of a file that have no error, by key. A line that was cut off does not count."""
    found: dict[str, dict[str, Any]] = {}
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        try:
            point = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "error" not in point:
            found[point["key"]] = point
    return found


def points(axes: Sequence[str], upto: int | None) -> list[Point]:
    """Returns the points, in the order of the costs that are to be expected."""
    found = []
    for axis in axes:
        for size in SIZES[axis]:
            if upto is None or size <= upto:
                point = replace(Point(axis), **{FIELDS[axis]: size})
                found.append(replace(point, samples=max(point.samples, point.calibration)))
    return sorted(found, key=cost)


def cost(point: Point) -> float:
    """Returns a number that grows with the time of a point: rows times multiply-accumulates, and a start."""
    tokens = point.length * point.layers * (12 * point.width**2 + 2 * point.length * point.width)
    rows = 300 + point.samples / 20 + point.calibration * 4 + point.evaluation * 8 + point.labels
    return 1e11 + rows * tokens


def measure(point: Point, options: argparse.Namespace) -> dict[str, Any]:
    """Returns what a point takes. Its files are removed afterwards, except the bundle that ``eval`` runs on."""
    folder = options.work / "point"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        if point.axis == "eval":
            return measure_eval(point, folder, options)
        write_model(point, folder / "model", options.seed)
        write_rows(folder / "samples.jsonl", point, point.samples, options.seed + 1, has_labels=False)
        write_rows(folder / "eval.jsonl", point, point.evaluation, options.seed + 2)
        chosen = {"accept_reference": True, "budget": {"accuracy_drop": 1.0}, "calibration_rows": point.calibration}
        spec = {"model": folder / "model", "samples": folder / "samples.jsonl", "eval": folder / "eval.jsonl"}
        spec |= {"out": folder / "bundle", "target": options.target, "options": chosen}
        found = measured_build(spec, folder / "build")
        if "error" in found:
            return found
        return {**found, **in_child("latency", point, folder), **in_child("macs", point, folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_child(what: str, point: Point, folder: Path) -> dict[str, Any]:
    """Runs a function of this file in a process of its own."""
    command = [sys.executable, __file__, "--child", what, json.dumps(asdict(point)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(2, HERE.parent))
    if done.returncode:
        return {"error": done.stderr.strip()[-1500:]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def latency(point: Point, folder: Path) -> dict[str, Any]:
    """Returns the latency of the bundle on new texts of the length: median and lower decile in ms."""
    import edgekit

    texts = [text_of(point.length, random.Random(seed)) for seed in range(CALLS)]
    times = []
    with edgekit.load(folder / "bundle") as session:
        for text in texts[:20]:
            session(text)
        began = time.perf_counter()
        for text in texts:
            start = time.perf_counter()
            session(text)
            times.append((time.perf_counter() - start) * 1e3)
            if time.perf_counter() - began > MOST_SECONDS and len(times) >= 20:
                break
    return {"p50_ms": statistics.median(times), "p10_ms": sorted(times)[len(times) // 10], "probe_us": probe_us()}


def macs(point: Point, folder: Path) -> dict[str, Any]:
    """Returns the multiply-accumulates of one text, counted from the exported graph: linear layers, and attention."""
    import onnx_ir as ir

    from edgekit import quantize, source
    from edgekit.export.graphs import export

    graphs = export(source.read(folder / "model"), folder / "graphs", [text_of(point.length, random.Random(0))])
    linear = quantize.linear_macs(graphs) * point.length
    graph = ir.load(graphs.graphs[0].path).graph
    products = 0
    for node in graph.all_nodes():
        if node.op_type == "MatMul" and all(i is not None and i.const_value is None for i in node.inputs):
            products += 1  # queries with keys, weights with values
        products += 2 * (node.op_type == "Attention")
    return {"macs": linear + products * point.length**2 * point.width, "attention_products": products}


def measure_eval(point: Point, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs ``edgekit eval`` on so many rows: seconds, largest process, and the lines of progress."""
    bundle = options.work / "eval-bundle"
    if not (bundle / "manifest.json").is_file():
        write_model(point, folder / "model", options.seed)
        small = replace(point, evaluation=100)
        write_rows(folder / "samples.jsonl", small, 300, options.seed + 1, has_labels=False)
        write_rows(folder / "eval.jsonl", small, 100, options.seed + 2)
        chosen = {"accept_reference": True, "budget": {"accuracy_drop": 1.0}, "calibration_rows": 100}
        spec = {"model": folder / "model", "samples": folder / "samples.jsonl", "eval": folder / "eval.jsonl"}
        built = measured_build({**spec, "out": bundle, "target": options.target, "options": chosen}, folder / "build")
        if "error" in built:
            return built
    write_rows(folder / "eval.jsonl", point, point.evaluation, options.seed + 3)
    began = time.perf_counter()
    found = in_child("evaluate", point, folder / ".." / "eval-bundle")
    return {"seconds": round(time.perf_counter() - began, 2), **found}


def evaluate(point: Point, bundle: Path) -> dict[str, Any]:
    """Scores a bundle on the rows of the point, and returns the peak memory of both processes."""
    import edgekit

    calls: list[tuple[str, int, int]] = []
    file = bundle.parent / "point" / "eval.jsonl"
    scores = edgekit.evaluate(bundle, file, progress=lambda step, done, total: calls.append((step, done, total)))
    from _build import memory_mb

    steps = {step for step, _, _ in calls}
    largest = max(
        (calls[i + 1][1] - calls[i][1] for i in range(len(calls) - 1) if calls[i][0] == calls[i + 1][0]), default=0
    )
    peaks = {"eval": round(memory_mb()["VmHWM"]), "timing worker": round(scores.memory_mb)}
    progress = {"calls": len(calls), "steps": sorted(steps), "rows_between": largest}
    return {"peaks_mb": peaks, "largest_mb": max(peaks.values()), "progress": progress}


def text_of(tokens: int, choose: random.Random) -> str:
    """Returns a text of so many tokens, two of them special."""
    return " ".join(f"w{choose.randrange(WORDS)}" for _ in range(tokens - 2))


def write_rows(file: Path, point: Point, count: int, seed: int, *, has_labels: bool = True) -> None:
    """Writes rows of texts of one length with labels at random."""
    choose = random.Random(seed)
    with file.open("w", encoding="utf-8") as lines:
        for index in range(count):
            row = {"text": text_of(point.length, choose)}
            if has_labels:
                # The first rows have each label once, so that none is missing where there are enough rows.
                row["label"] = f"label{index if index < point.labels else choose.randrange(point.labels)}"
            lines.write(json.dumps(row) + "\n")


def write_model(point: Point, folder: Path, seed: int) -> None:
    """Writes a BERT with random weights, and a tokenizer that makes one token of each word."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ids = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, model_input_names=inputs, **names)
    labels = {i: f"label{i}" for i in range(point.labels)}
    config = BertConfig(
        vocab_size=len(ids),
        hidden_size=point.width,
        num_hidden_layers=point.layers,
        num_attention_heads=point.width // HEAD,
        intermediate_size=4 * point.width,
        max_position_embeddings=512,
        initializer_range=2.5 * point.width**-0.5 / 4,
        id2label=labels,
        label2id={name: i for i, name in labels.items()},
    )
    torch.manual_seed(seed)
    BertForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def run_child(what: str, point: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Runs one of the functions that take a point and a folder."""
    functions = {"latency": latency, "macs": macs, "evaluate": evaluate}
    return functions[what](Point(**point), folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(run_child(sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4]).resolve())))
    else:
        main()
