"""Bundles of this checkout beside the baseline of commit b27babd and the peers, on short texts: all in turns in one
run.

    benchmarks/baseline_b27babd.sh BASELINE MODEL DATA
    python benchmarks/short_texts.py WORK --model MODEL --data DATA --baseline BASELINE --peers ENVIRONMENTS

Parts, in this order by default:

- ``build``: what ``--target cpu`` chooses for latency and for throughput, and one bundle for each method and backend
  of that target.
- ``latency``: text to label, batch 1. Each of the 1,821 texts once, lengths mixed, in bursts that all sides answer in
  random order; the same texts in bursts of one length; texts of 16, 32, 64 and 128 tokens. Each pass has fresh
  processes, which were warmed up on other texts.
- ``throughput``: the whole list in one call, a fresh process for each call, each peer at its best batch size.
- ``start``: a fresh process to its first answer, with its peak memory.
- ``exact``: labels and logits against torch, and against the same rows in lists.

Ratios are medians over rounds, by the state of the machine (see ``_rounds.py``). ``results/short_texts.json`` has
every part's last run, ``results/short_texts.md`` the tables. BASELINE and ENVIRONMENTS (p-ort, p-ov) have
environments of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import _short_tables
import _texts
from _rounds import Side, probe_us, take_turns
from _sides import BUNDLE, Place, first_answer, machine, opened, report

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "short_texts.json"
BASELINE = "b27babd"
PEERS = {
    "optimum-onnx dynamic INT8": ("p-ort", "ort-int8"),
    "optimum-intel static INT8": ("p-ov", "ov-int8"),
}
LENGTHS = (16, 32, 64, 128)
BATCHES = (1, 8, 32)
LONG = 120
"""Tokens of the row that others share a call with."""
WARM_UP = 100
TARGET = """name = "{name}"
description = "One method on one backend"
backends = ["{backend}"]
methods = ["{method}"]
threads = 2

[budget]
accuracy_drop = 1.0
"""


def main() -> None:
    """Parses, measures, writes."""
    parts = {"build": build, "latency": latency, "throughput": throughput, "start": start, "exact": exact}
    options = parse(tuple(parts))
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else {}
    for name in options.part or parts:
        began = time.monotonic()
        found[name] = {"machine": machine(), **parts[name](options)}
        found[name] |= {"seconds": round(time.monotonic() - began), "digests": digests(options), "texts": options.limit}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
        options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
        options.out.with_suffix(".md").write_text(_short_tables.document(found), "utf-8")
    print(options.out.with_suffix(".md").read_text("utf-8"))


def parse(parts: tuple[str, ...]) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for bundles and the peers' artifacts")
    parser.add_argument("--model", type=Path, required=True, help="folder of a text classifier")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl, dev.jsonl and test.jsonl")
    parser.add_argument("--baseline", type=Path, required=True, help="folder that baseline_b27babd.sh filled")
    parser.add_argument("--peers", type=Path, help="folder with the environments p-ort and p-ov; none without it")
    parser.add_argument(
        "--python",
        type=Path,
        default=Path(sys.executable),
        help="interpreter that runs the bundles [default: this one]",
    )
    parser.add_argument("--part", choices=parts, action="append", help="repeatable; all by default")
    parser.add_argument(
        "--bundle", action="append", help="name of a bundle in WORK/bundles; repeatable; all by default"
    )
    parser.add_argument("--passes", type=int, default=1, help="of the latencies, each with fresh processes")
    parser.add_argument("--rounds", type=int, default=7, help="of throughput and start")
    parser.add_argument("--burst", type=int, default=20, help="texts of a burst")
    parser.add_argument("--fixed", type=int, default=300, help="texts of each fixed length")
    parser.add_argument("--limit", type=int, help="first rows of the test and dev set alone, to try the script")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file; the tables are written beside it")
    options = parser.parse_args()
    for name in ("work", "model", "data", "baseline", "peers", "out"):
        if getattr(options, name) is not None:
            setattr(options, name, getattr(options, name).absolute())
    return options


def build(options: argparse.Namespace) -> dict[str, Any]:
    """Builds the bundles. A pair of method and backend that makes no candidate is recorded with the reason."""
    import edgekit
    from edgekit import quantize
    from edgekit.spec import target as targets

    cpu = targets.load("cpu")
    wanted: dict[str, tuple[Any, dict[str, Any]]] = {"best": ("cpu", {}), "throughput": ("cpu", {"use": "throughput"})}
    for backend in cpu.backends:
        for method in cpu.methods:
            if backend not in quantize.get(method).BACKENDS:
                continue
            name = f"{method}-{backend}"
            file = options.work / f"{name}.toml"
            file.write_text(TARGET.format(name=name, backend=backend, method=method), "utf-8")
            wanted[name] = (file, {})
    results: dict[str, Any] = {}
    rows = {"samples": "train", "eval": "dev", "test": "test"}
    data = {part: options.data / f"{file}.jsonl" for part, file in rows.items()}
    test = data.pop("test")
    for name, (target, more) in wanted.items():
        if options.bundle and name not in options.bundle:
            continue
        out = options.work / "bundles" / name
        chosen = edgekit.BuildOptions(test=test, force=True, **more)
        try:
            made = edgekit.build(options.model, **data, target=target, out=out, options=chosen)
        except edgekit.EdgekitError as problem:
            results[name] = {"refused": f"{problem.code}: {problem}"}
        else:
            first = made.bundle.manifest.variants[0]
            results[name] = {"seconds": round(made.seconds), "variant": f"{first.method} on {first.backend}"}
            results[name] |= {"threads": first.threads, "rows": first.rows, "table": made.table().splitlines()}
        print(f"build: {name}: {results[name]}", flush=True)
    return {"bundles": results}


def latency(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all streams, and returns the rounds and what they say."""
    length = _texts.token_counter(options.model)
    texts, _ = _texts.read_rows(options.data / "test.jsonl", options.limit)
    others, _ = _texts.read_rows(options.data / "dev.jsonl")
    bursts = _texts.mixed_bursts(texts, others, options.burst, length)
    bursts += _texts.single_bursts(texts, others, options.burst, length)
    for tokens in LENGTHS:
        bursts += _texts.fixed_bursts(texts, others, tokens, options.fixed, options.burst, length)
    rounds: list[dict[str, Any]] = []
    for turn in range(options.passes):
        with contextlib.ExitStack() as stack:
            groups: dict[str, dict[str, Side]] = {}
            for group in ("mixed", "single", "fixed"):
                groups[group] = {}
                for name, place in places(options, "throughput").items():
                    if group != "single" or place.is_bundle:
                        side = opened(f"{name}-{group}", place, options.work / "logs")
                        groups[group][name] = stack.enter_context(side)
                for side in groups[group].values():
                    side.ask(do="each", warm=others[:WARM_UP], inputs=[])
            rounds += take_turns(
                bursts, lambda stream, g=groups: g.get(stream, g["fixed"]), options.seed + turn, report("latency")
            )
    return _short_tables.summarize(rounds, BASELINE, backends(options))


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Measures the whole list in one call. The first round finds each peer's best batch size and order."""
    texts, labels = _texts.read_rows(options.data / "test.jsonl", options.limit)
    others, _ = _texts.read_rows(options.data / "dev.jsonl", options.limit)
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    choose = random.Random(options.seed)
    best: dict[str, tuple[int, bool]] = {}
    tried: dict[str, list[dict[str, Any]]] = {}
    rounds: list[dict[str, Any]] = []
    present = places(options)

    def run(name: str, batch: int, ordered: bool) -> dict[str, Any]:
        order = by_length if ordered else list(range(len(texts)))
        hint = "THROUGHPUT" if batch > 1 else "LATENCY"
        with opened(name, present[name], options.work / "logs", "--hint", hint) as side:
            side.ask(do="list", inputs=others, batch=batch)
            reply = side.ask(do="list", inputs=[texts[i] for i in order], batch=batch)
        right = sum(answer == labels[i] for answer, i in zip(reply["answers"], order, strict=True))
        rate = len(texts) / reply["ms"] * 1e3
        return {"rows_per_s": rate, "batch": batch, "sorted": ordered, "accuracy": right / len(texts)}

    for turn in range(options.rounds):
        one: dict[str, Any] = {"probe_us": probe_us(), "runs": {}}
        for name in choose.sample(sorted(present), len(present)):
            if name not in best:
                ways = [(1, False)]
                if not present[name].is_bundle:
                    ways += [(batch, ordered) for batch in BATCHES[1:] for ordered in (False, True)]
                tried[name] = [run(name, *way) for way in ways]
                fastest = max(tried[name], key=lambda found: found["rows_per_s"])
                best[name] = (fastest["batch"], fastest["sorted"])
            one["runs"][name] = run(name, *best[name])
        rounds.append(one)
        report("throughput")(turn + 1, options.rounds)
    return {"rounds": rounds, "tried": tried, "backends": backends(options)}


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Measures fresh processes to their first answer, by what a user would write."""
    text = _texts.read_rows(options.data / "dev.jsonl", 1)[0][0]
    choose = random.Random(options.seed)
    rounds: list[dict[str, Any]] = []
    present = places(options, "throughput")
    for turn in range(options.rounds + 1):
        one: dict[str, Any] = {"probe_us": probe_us(), "ms": {}, "mb": {}}
        for name in choose.sample(sorted(present), len(present)):
            one["ms"][name], one["mb"][name] = first_answer(present[name], text)
        if turn:  # the first round fills the file cache
            rounds.append(one)
            report("start")(turn, options.rounds)
    return {"rounds": rounds, "backends": backends(options)}


def exact(options: argparse.Namespace) -> dict[str, Any]:
    """Compares with torch on dev, and rows in lists with the same rows alone on test."""
    import _exactness

    length = _texts.token_counter(options.model)
    dev, labels = _texts.read_rows(options.data / "dev.jsonl", options.limit)
    test, _ = _texts.read_rows(options.data / "test.jsonl", options.limit)
    long = _texts.texts_of_length(dev, LONG, 1, length)[0]
    reference = {
        "dev": _exactness.torch_logits(options.model, dev),
        "test": _exactness.torch_logits(options.model, test),
    }
    results: dict[str, Any] = {}
    for name, place in places(options).items():
        if not place.is_bundle:
            continue
        with opened(name, place, options.work / "logs") as side:
            alone = side.ask(do="outputs", lists=[dev], batched=False)["outputs"][0]
            found = _exactness.against_torch(reference["dev"], alone, labels, place.model)
            if name != BASELINE:
                found |= _exactness.in_lists(side, place.model, test, long, reference["test"])
        results[name] = found
        print(f"exact: {name}: {found}", flush=True)
    return {"bundles": results}


def places(options: argparse.Namespace, *without: str) -> dict[str, Place]:
    """Returns the sides: the baseline, the bundles, the peers."""
    python = options.baseline / "venv" / "bin" / "python"
    found = {BASELINE: Place(python, BUNDLE, "texts", options.baseline / "bundle")}
    for file in sorted((options.work / "bundles").glob("*/manifest.json")):
        name = file.parent.name
        if name not in without and (not options.bundle or name in options.bundle):
            found[name] = Place(options.python, BUNDLE, "texts", file.parent, HERE.parent)
    if options.peers is not None:
        work, calibration = options.work / "peers", options.data / "train.jsonl"
        for name, (folder, side) in PEERS.items():
            python = options.peers / folder / "bin" / "python"
            found[name] = Place(python, side, "texts", options.model, None, work, calibration)
    return found


def backends(options: argparse.Namespace) -> dict[str, str]:
    """Returns the backend of each bundle of this checkout."""
    found = {}
    for name, place in places(options).items():
        if place.is_bundle and name != BASELINE:
            manifest = json.loads((place.model / "manifest.json").read_text("utf-8"))
            found[name] = manifest["variants"][0]["backend"]
    return found


def digests(options: argparse.Namespace) -> dict[str, str]:
    """Returns the sha256 of each bundle's manifest, which has those of all its files."""
    bundles = {name: place.model for name, place in places(options).items() if place.is_bundle}
    return {n: hashlib.sha256((b / "manifest.json").read_bytes()).hexdigest() for n, b in bundles.items()}


if __name__ == "__main__":
    main()
