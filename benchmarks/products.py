"""Rates of the products of a MiniLM layer in each library: INT8 and float, by rows, threads, and two instances at
once.

    python benchmarks/products.py [--rows 1,26,32,128,832] [--rounds 5]

Each library and kind of product is a process of its own (``_product_sides.py``), suspended while another one is
measured; for one shape and number of rows all take turns in random order. "2 x 1" are two single-threaded processes
at once. Rates count the multiplications and additions of the products alone; quantizing the activations and adding
up the layers is in the time. Writes ``results/products.json`` and ``results/products.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _numbers import states_of, table
from _product_sides import KINDS, LAYERS
from _rounds import PAUSE_S, Side, SideError, environment, probe_us
from _sides import machine

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "products.json"
SHAPES = ((384, 384), (384, 1152), (384, 1536), (1536, 384))
MACS = {shape: shape[0] * shape[1] for shape in SHAPES}
LAYER_SHAPES = ((384, 1152), (384, 384), (384, 1536), (1536, 384))
"""Products of one layer with fused projections."""
WAYS = {"1": (1, 1), "2": (2, 1), "2 x 1": (1, 2)}
"""Threads of an instance, and instances, by the name of the way."""


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,26,32,128,832", help="numbers of rows, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one measurement")
    parser.add_argument("--kind", action="append", choices=tuple(KINDS), help="repeatable; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file; the tables are written beside it")
    options = parser.parse_args()
    began = time.monotonic()
    rows = [int(part) for part in options.rows.split(",")]
    failed: dict[str, str] = {}
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides, versions = start(stack, options.kind or list(KINDS), Path(folder), failed)
        points = [(shape, count) for count in sorted(rows) for shape in SHAPES]
        for index, (shape, count) in enumerate(points):
            choose = random.Random(options.seed + index)
            for _ in range(options.rounds):
                rounds.append(measure(sides, shape, count, options.seconds, choose, failed))
            print(f"{index + 1} of {len(points)}: {shape[0]} x {shape[1]} at {count} rows", flush=True)
    found = {"machine": machine(), "layers": LAYERS, "versions": versions, "failed": failed, "rounds": rounds}
    found |= {"seconds": round(time.monotonic() - began)}
    options.out.write_text(json.dumps(found) + "\n", "utf-8")
    options.out.with_suffix(".md").write_text(document(found), "utf-8")
    print(document(found))


def start(
    stack: contextlib.ExitStack, kinds: list[str], folder: Path, failed: dict[str, str]
) -> tuple[dict[tuple[str, str], list[Side]], dict[str, str]]:
    """Starts the processes of every kind and way, by kind and way; a library that is not installed is recorded."""
    sides: dict[tuple[str, str], list[Side]] = {}
    versions: dict[str, str] = {}
    for kind in kinds:
        for way, (threads, instances) in WAYS.items():
            for index in range(instances):
                command = [sys.executable, str(HERE / "_product_sides.py"), kind, str(threads)]
                log = folder / f"{len(sides)}-{index}.log"
                try:
                    side = Side(f"{kind}, {way}", command, environment(threads), log)
                except SideError as problem:
                    failed[kind] = str(problem).strip().splitlines()[-1][:300]
                    break
                stack.callback(side.close)
                versions[kind] = side.greeting["version"]
                sides.setdefault((kind, way), []).append(side)
    return sides, versions


def measure(
    sides: dict[tuple[str, str], list[Side]],
    shape: tuple[int, int],
    rows: int,
    seconds: float,
    choose: random.Random,
    failed: dict[str, str],
) -> dict[str, Any]:
    """Measures one round of all sides, and returns their rates in GOP/s. A side that fails is recorded and left out."""
    one: dict[str, Any] = {"shape": list(shape), "rows": rows, "probe_us": round(probe_us(), 4), "gops": {}}
    request = {"inputs": shape[0], "outputs": shape[1], "rows": rows}
    operations = 2 * MACS[shape] * rows * LAYERS
    for key in choose.sample(sorted(sides), len(sides)):
        time.sleep(PAUSE_S)
        try:
            for side in sides[key]:  # makes the graph where it is not made, while the other instance rests
                side.ask(**request, seconds=0)
            for side in sides[key]:
                side.send(**request, seconds=seconds)
            replies = [side.receive() for side in sides[key]]
        except SideError as problem:
            failed[", ".join(key)] = str(problem).strip().splitlines()[-1][:300]
            del sides[key]
            continue
        rate = sum(reply["calls"] / reply["seconds"] for reply in replies)
        one["gops"][f"{key[0]}, {key[1]}"] = round(rate * operations / 1e9, 2)
    return one


def document(found: Mapping[str, Any]) -> str:
    """Returns the tables in Markdown: rates by shape, and the time of a layer's products."""
    where = found["machine"]
    lines = [
        f"{where['cpu']}, {where['cpus']} CPUs ({', '.join(where['instructions'])}), {where['date']}; "
        f"{', '.join(dict.fromkeys(found['versions'].values()))}. GOP/s, medians of the rounds."
    ]
    states = states_of(found["rounds"])
    rows_of = sorted({one["rows"] for one in found["rounds"]})
    for state, indices in states.items():
        part = [found["rounds"][i] for i in indices]
        probe = statistics.median(one["probe_us"] for one in part)
        for rows in rows_of:
            if not any(one["rows"] == rows for one in part):
                continue
            lines += ["", f"### {rows} rows, {state} (round trip {probe:.2f} us)", ""]
            header = ("product", "threads", *(f"{a} x {b}" for a, b in SHAPES), "a layer's, us")
            lines += table(header, _rates([one for one in part if one["rows"] == rows], rows), 2)
    lines += ["", *(f"{kind}: {reason}" for kind, reason in found["failed"].items())]
    return "\n".join(lines).rstrip() + "\n"


def _rates(part: list[Mapping[str, Any]], rows: int) -> list[tuple[object, ...]]:
    """Returns a line for each kind and way."""
    names = dict.fromkeys(name for kind in KINDS for way in WAYS for name in [f"{kind}, {way}"])
    lines: list[tuple[object, ...]] = []
    for name in names:
        rates: dict[tuple[int, ...], float] = {}
        for shape in SHAPES:
            values = [one["gops"][name] for one in part if tuple(one["shape"]) == shape and name in one["gops"]]
            if values:
                rates[shape] = statistics.median(values)
        if rates:
            kind, _, way = name.rpartition(", ")
            cells = [f"{rates[shape]:.0f}" if shape in rates else "" for shape in SHAPES]
            whole = all(shape in rates for shape in LAYER_SHAPES)
            # Of two instances each does its own rows: the time is that of as many rows in both together.
            us = sum(2 * MACS[s] * rows / rates[s] / 1e3 for s in LAYER_SHAPES) if whole else None
            lines.append((kind, way, *cells, "" if us is None else f"{us:.0f}"))
    return lines


if __name__ == "__main__":
    main()
