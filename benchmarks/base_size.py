"""Models of the size of BERT-base and ViT-base, an image classifier and a tagger: latency beside the peers, and what
their builds take.

The two of base size have random weights, which time and memory do not depend on; their answers mean nothing. The
other two, and all tables of images and words, are those of ``train_small.py``.

    python benchmarks/base_size.py WORK --model MINILM --texts SST2 --peers ENVIRONMENTS [--case CASE] [--part PART]

Parts: ``make`` writes the random models, ``build`` builds for ``--target cpu`` from an empty cache, with seconds
and peak memory of each step, ``latency`` runs bursts of inputs (texts, or paths of JPEGs) on all sides in random
order, ``start`` runs fresh processes to their first answer. Writes ``results/base_size.json`` and the tables
``results/base_size.md``. A peer that cannot run a model is recorded with the last line of its error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _base_tables import document
from _build import measured_build
from _numbers import median, states_of
from _rounds import Burst, Side, SideError, probe_us, take_turns
from _sides import BUNDLE, Place, first_answer, machine, opened, report

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "base_size.json"
OURS = "EdgeKit"
PEERS = {
    "transformers float32": ("p-torch", "torch"),
    "optimum-onnx float32": ("p-ort", "ort-fp32"),
    "optimum-onnx dynamic INT8": ("p-ort", "ort-int8"),
    "optimum-intel float32": ("p-ov", "ov-fp32"),
    "optimum-intel static INT8": ("p-ov", "ov-int8"),
}
BURST = 10
WARM = 2
WARM_UP = 20


@dataclass(frozen=True)
class Case:
    """A model with its rows.

    Attributes:
        task: ``texts``, ``images`` or ``words``.
        folder: Name of the model's folder in WORK.
        is_random: Whether the model has random weights.
        test: Name of the table that is timed.
    """

    task: str
    folder: str
    is_random: bool
    test: str


CASES = {
    "BERT-base": Case("texts", "bert-base", True, "dev"),
    "ViT-base": Case("images", "vit-base", True, "test"),
    "images": Case("images", "vit", False, "test"),
    "words": Case("words", "tagger", False, "test"),
}


def main() -> None:
    """Parses, measures, writes."""
    parts = {"make": make, "build": build, "latency": latency, "start": start}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "work", type=Path, help="folder of train_small.py; models, bundles and artifacts are written to it"
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="text classifier whose tokenizer and labels are taken"
    )
    parser.add_argument("--texts", type=Path, required=True, help="folder with train.jsonl and dev.jsonl of texts")
    parser.add_argument(
        "--peers", type=Path, help="folder with p-torch, p-ort and p-ov, each with Pillow; none without it"
    )
    parser.add_argument("--case", choices=tuple(CASES), action="append", help="repeatable; all by default")
    parser.add_argument("--part", choices=tuple(parts), action="append", help="repeatable; all by default")
    parser.add_argument("--limit", type=int, default=300, help="inputs that are timed, each once")
    parser.add_argument("--rows", type=int, default=200, help="labelled rows that builds of images are scored on")
    parser.add_argument("--rounds", type=int, default=5, help="of start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file; the tables are written beside it")
    options = parser.parse_args()
    for name in ("work", "model", "texts", "peers", "out"):
        if getattr(options, name) is not None:
            setattr(options, name, getattr(options, name).absolute())
    found: dict[str, Any] = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else {}
    for name in options.part or parts:
        for case in options.case or CASES:
            one = {"machine": machine(), **parts[name](options, case)}
            found.setdefault(name, {})[case] = one
            options.out.write_text(json.dumps(found) + "\n", "utf-8")
            options.out.with_suffix(".md").write_text(document(found), "utf-8")
    print(document(found))


def make(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Writes a model with random weights."""
    case = CASES[name]
    folder = options.work / case.folder
    if not case.is_random or (folder / "config.json").is_file():
        return {}
    import torch
    import transformers

    torch.manual_seed(options.seed)
    if case.task == "texts":
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
        names = transformers.AutoConfig.from_pretrained(options.model)
        config = transformers.BertConfig(
            vocab_size=len(tokenizer), id2label=names.id2label, label2id=names.label2id, architectures=None
        )
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {}
    labels = sorted({row["label"] for row in read(table_of(options, case, "train"))})
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    transformers.ViTForImageClassification(transformers.ViTConfig(**names)).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
    return {}


def build(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Builds for a CPU, from an empty cache."""
    case = CASES[name]
    more: dict[str, Any] = {"accept_reference": True, "budget": {"accuracy_drop": 1.0}} if case.is_random else {}
    labelled = table_of(options, case, "dev")
    if case.task == "images":
        labelled = first_rows(labelled, options.rows)
    spec = {"model": options.work / case.folder, "samples": table_of(options, case, "train"), "eval": labelled}
    spec |= {"target": "cpu", "out": bundle_of(options, case), "options": more}
    found = measured_build(spec, options.work / "builds" / case.folder)
    print(f"build: {name}: {found.get('seconds')} s, {found.get('peaks_mb')}, {found.get('error', '')}", flush=True)
    return found


def latency(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Times all sides in bursts."""
    case = CASES[name]
    inputs = inputs_of(table_of(options, case, case.test), case.task, options.limit + WARM_UP)
    warm, timed = inputs[:WARM_UP], inputs[WARM_UP:]
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side] = {}
        for side_name, place in places(options, case).items():
            try:
                side = stack.enter_context(opened(f"{name} {side_name}", place, options.work / "logs"))
                side.ask(do="each", warm=warm, inputs=[])
            except (SideError, SystemExit) as problem:
                failed[side_name] = str(problem).strip().splitlines()[-1][:300]
                print(f"{name}: {side_name}: {failed[side_name]}", flush=True)
            else:
                sides[side_name] = side
        bursts = []
        for begin in range(0, len(timed), BURST):
            before = tuple(warm[(begin + i) % len(warm)] for i in range(WARM))
            bursts.append(Burst(name, tuple(timed[begin : begin + BURST]), before))
        rounds = take_turns(bursts, lambda _: sides, options.seed, report(name))
    return {"failed": failed, **summarize(rounds), "inputs": len(timed)}


def start(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Times fresh processes to their first answer."""
    case = CASES[name]
    value = inputs_of(table_of(options, case, case.test), case.task, 1)[0]
    choose = random.Random(options.seed)
    present = places(options, case)
    rounds: list[dict[str, Any]] = []
    for turn in range(options.rounds + 1):
        one: dict[str, Any] = {"probe_us": probe_us(), "ms": {}, "mb": {}}
        for side in choose.sample(sorted(present), len(present)):
            try:
                one["ms"][side], one["mb"][side] = first_answer(present[side], value)
            except SystemExit as problem:
                print(f"{name}: {side}: {problem}", flush=True)
                del present[side]
        if turn:  # the first round fills the file cache
            rounds.append(one)
    middle = {key: {s: statistics.median(one[key][s] for one in rounds) for s in present} for key in ("ms", "mb")}
    return {"rounds": rounds, **middle}


def summarize(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns times and ratios by state: over each peer, and over the best peer of each round."""
    states: dict[str, Any] = {}
    for state, indices in states_of(rounds).items():
        part = [rounds[i] for i in indices]
        names = list(part[0]["ms"])
        peers = [name for name in names if name != OURS]
        sides: dict[str, Any] = {}
        for name in names:
            flat = sorted(ms for one in part for ms in one["ms"][name])
            sides[name] = {"mean_ms": statistics.fmean(flat), "p50_ms": statistics.median(flat)}
            sides[name] |= {"p90_ms": flat[int(0.9 * (len(flat) - 1))]}
            sides[name]["ours_over"] = _over(part, [name]) if name in peers else None
        states[state] = {"sides": sides, "rounds": len(part), "best": _over(part, peers) if peers else None}
        states[state]["probe_us"] = statistics.median(one["probe_us"] for one in part)
    return {"states": states, "same": same_answers(rounds)}


def _over(part: Sequence[Mapping[str, Any]], peers: Sequence[str]) -> dict[str, Any] | None:
    if any(OURS not in one["ms"] for one in part):
        return None
    estimate = median([sum(one["ms"][OURS]) / min(sum(one["ms"][peer]) for peer in peers) for one in part])
    return None if estimate is None else vars(estimate)


def same_answers(rounds: Sequence[Mapping[str, Any]], reference: str = "transformers float32") -> dict[str, float]:
    """Returns the share of inputs to which each side answers as the float32 pipeline does."""
    found: dict[str, float] = {}
    for name in rounds[0]["answers"] if reference in rounds[0]["answers"] else ():
        pairs = [p for one in rounds for p in zip(one["answers"][name], one["answers"][reference], strict=True)]
        found[name] = statistics.fmean(a == b for a, b in pairs)
    return found


def places(options: argparse.Namespace, case: Case) -> dict[str, Place]:
    """Returns all sides of a case."""
    found = {OURS: Place(Path(sys.executable), BUNDLE, case.task, bundle_of(options, case), HERE.parent)}
    if options.peers is not None:
        calibration = table_of(options, case, "train")
        for name, (folder, side) in PEERS.items():
            # An artifact is named after the task, so each model needs a folder of its own.
            work = options.work / "peers" / case.folder
            python = options.peers / folder / "bin" / "python"
            found[name] = Place(python, side, case.task, options.work / case.folder, None, work, calibration)
    return found


def bundle_of(options: argparse.Namespace, case: Case) -> Path:
    """Returns the folder of a case's bundle."""
    return Path(options.work / f"{case.folder}-cpu")


def table_of(options: argparse.Namespace, case: Case, part: str) -> Path:
    """Returns the file of a part of the rows."""
    folder = options.texts if case.task == "texts" else options.work / case.task
    return Path(folder / f"{part}.jsonl")


def first_rows(file: Path, count: int) -> Path:
    """Writes the first rows of a table, mixed by a fixed seed since some are sorted by label, to a table beside it."""
    rows = read(file)
    random.Random(0).shuffle(rows)
    shorter = file.with_name(f"{file.stem}-{count}.jsonl")
    shorter.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]), "utf-8")
    return shorter


def read(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSONL file."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def inputs_of(file: Path, task: str, count: int) -> list[str]:
    """Returns inputs as a user has them."""
    rows = read(file)
    random.Random(0).shuffle(rows)
    if task == "images":
        return [str(file.parent / row["image"]) for row in rows[:count]]
    return [row["text"] if task == "texts" else " ".join(row["words"]) for row in rows[:count]]


if __name__ == "__main__":
    main()
