"""How often a check against a baseline's file is right, on a machine that drifts: false alarms, and the power at +10, +20, +40 and +60 %.

Three bundles: A; B, which is A with a metadata string changed in its graph, so another bundle of the same speed; C, which is A with more to compute,
some 10 % slower. In each round A is timed as ``edgekit baseline`` times it, B as ``edgekit check`` does against a file, and A and C run in turns. Each
of these is a session; in half of them, drawn by ``--seed``, a process burns each CPU from the first to the last call.

    python benchmarks/baseline_drift.py --bundle BUNDLE --samples dev.jsonl      # 12 rounds, some 25 minutes; goes on where it was stopped
    python benchmarks/baseline_drift.py --analyse                                # the table again, from the records alone

Writes ``results/baseline_drift.json`` (all times of all sessions) after each session, and the table ``results/baseline_drift.md``. For the table
sessions are drawn 10,000 times: some of A as the baseline, one of B as the check, judged by the check's own code. Detection from the file: the times
of B's sessions are multiplied. Detection in turns: the live verdicts, and those of pairs of processes drawn from a drawn session.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from scipy.stats import binomtest

from edgekit.machine.cpu import cpus
from edgekit.machine.fingerprint import fingerprint
from edgekit.report import check, sessions, speed
from edgekit.report.side import open_for_test
from edgekit.samples import read
from edgekit.spec import manifest as manifests
from edgekit.spec.gates import Gates
from edgekit.spec.manifest import FileEntry
from edgekit.spec.parsing import parse, plain
from edgekit.spec.report import INCONCLUSIVE, PASS, REGRESSION, Change
from edgekit.spec.subject import Process
from edgekit.stats import interval
from edgekit.stats.interval import ALPHA, Estimate, Look
from edgekit.timing.interleaved import FIRST_LOOK, Single, time_interleaved, time_single
from edgekit.timing.probe import make_prober

HERE = Path(__file__).resolve().parent
KINDS = ("A", "B", "A and C in turns")
GATED = {
    metric: margin for metric, margin in speed.margins(Gates()).items() if metric in ("p50", "p90", "first_answer")
}
COUNTS = (1, 3, 6)
"""Sessions of a baseline."""

SLOWER = (0.10, 0.20, 0.40, 0.60)
BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100000))"


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--samples", type=Path, help="labels are not needed")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--max-time", type=float, default=30.0, help="seconds of a comparison in turns")
    parser.add_argument("--processes", type=int, default=check._PROCESSES, help="of a session by itself")
    parser.add_argument(
        "--wider", type=int, help="neurons that C has more; fitted to some 10 %% first where it is not given"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamplings", type=int, default=10_000)
    parser.add_argument("--records", type=Path, default=HERE / "results" / "baseline_drift.json")
    parser.add_argument("--analyse", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.analyse:
        if options.bundle is None or options.samples is None:
            parser.error("give --bundle and --samples, or --analyse")
        measure(options)
    text = table(json.loads(options.records.read_text("utf-8")), options.resamplings, options.seed)
    options.records.with_suffix(".md").write_text(text, "utf-8")
    print(text)


# ---- what is measured


def measure(options: argparse.Namespace) -> None:
    """Adds the sessions that are not yet there to the records, one after the other."""
    texts = read(options.samples).inputs
    with tempfile.TemporaryDirectory() as folder:
        bundles = {"A": options.bundle, "B": renamed(options.bundle, Path(folder, "B"))}
        record = begin(options, bundles, texts, Path(folder))
        bundles["C"] = slower(options.bundle, Path(folder, "C"), record["wider"])
        done = len(record["sessions"])
        for number in range(done, options.rounds * len(KINDS)):
            kind, loaded = KINDS[number % len(KINDS)], load_of(number, options.seed)
            began = time.monotonic()
            with load(loaded):
                found = session(kind, bundles, texts, options, number, record)
            found |= {"kind": kind, "load": loaded, "created": now(), "seconds": round(time.monotonic() - began, 1)}
            record["sessions"].append(found)
            save(options.records, record)
            print(
                f"{number + 1}/{options.rounds * len(KINDS)} {kind}, load {'on' if loaded else 'off'}: {found['seconds']} s",
                flush=True,
            )


def begin(
    options: argparse.Namespace, bundles: Mapping[str, Path], texts: Sequence[Any], folder: Path
) -> dict[str, Any]:
    """The records so far, or new ones with what all sessions share."""
    here = plain(fingerprint())
    digests = {name: manifests.content_digest(open_for_test(path).bundle.manifest) for name, path in bundles.items()}
    if options.records.exists():
        record: dict[str, Any] = json.loads(options.records.read_text("utf-8"))
        changed = [n for n in here if n != "throttled" and here[n] != record["machine"][n]] + (
            [] if record["digests"] == digests else ["bundles"]
        )
        if changed:
            sys.exit(
                f"{options.records} was begun with other {', '.join(changed)}: remove it, or give another --records."
            )
        return record
    variant = open_for_test(bundles["A"]).bundle.manifest.variants[0]
    record = {
        "machine": here,
        "digests": digests,
        "method": f"{variant.method} on {variant.backend}, {variant.threads} threads",
        "rows": len(texts),
    }
    return record | {
        "seed": options.seed,
        "wider": options.wider or fitted(bundles["A"], texts, folder),
        "kernels": [],
        "sessions": [],
    }


def session(
    kind: str,
    bundles: Mapping[str, Path],
    texts: Sequence[Any],
    options: argparse.Namespace,
    seed: int,
    record: dict[str, Any],
) -> dict[str, Any]:
    """One session. The first fits the probe kernels, as a baseline does for the checks against it."""
    if kind not in bundles:
        a, c = (open_for_test(bundles[name]) for name in "AC")
        sizes = (a.size_mb, c.size_mb)
        gated = {"p50": GATED["p50"]}
        made = time_interleaved(
            (a.worker, c.worker), texts, speed.make_stop_rule(gated, sizes, seed), max_time=options.max_time, seed=seed
        )
        p50 = next(
            change for change in speed.compare_paired(made, sizes, gated, seed).changes if change.metric == "p50"
        )
        ratios = [[round(v, 5) for v in speed.log_ratios(*pair)] for pair in made.pairs]
        return {
            "verdict": speed.verdict(p50, gated["p50"]),
            "ratio": p50.ratio,
            "looks": plain(made.looks),
            "log_ratios": ratios,
        }
    side = open_for_test(bundles[kind])
    variant = side.bundle.manifest.variants[0]
    with make_prober(variant.backend, max(1, min(variant.threads, cpus()) // variant.streams)) as probes:
        made = time_single(
            side.worker, texts, Single(options.processes, probes=probes, kernels=record["kernels"], seed=0)
        )
    record["kernels"] = record["kernels"] or list(made[0].probes_ms)
    return {"processes": [slim(process) for process in made]}


def slim(process: Process) -> Any:
    """A process without the rows that it answered, times in microseconds' precision."""
    blocks = tuple(tuple(round(t, 3) for t in block) for block in process.blocks_ms)
    probes = {
        name: tuple(tuple(round(t, 3) for t in times) for times in every) for name, every in process.probes_ms.items()
    }
    return plain(replace(process, blocks_ms=blocks, probes_ms=probes, rows=()))


def load_of(number: int, seed: int) -> bool:
    """Whether a session has company: of four sessions of a kind, two, in a drawn order."""
    turn, kind = divmod(number, len(KINDS))
    return bool(np.random.default_rng([seed, kind, turn // 4]).permutation([0, 0, 1, 1])[turn % 4])


@contextlib.contextmanager
def load(on: bool) -> Iterator[None]:
    """A process for each CPU that does nothing but take it."""
    burning = [subprocess.Popen([sys.executable, "-I", "-S", "-c", BURN]) for _ in range(cpus() if on else 0)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for one in burning:
            one.kill()
            one.wait()


def save(file: Path, record: Mapping[str, Any]) -> None:
    """Whole or not at all; a session a line."""
    head = {name: value for name, value in record.items() if name != "sessions"}
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in record["sessions"])
    new = file.with_suffix(".new")
    new.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "sessions": [\n{lines}\n]\n}}\n', "utf-8")
    new.replace(file)


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---- the bundles


def renamed(bundle: Path, place: Path) -> Path:
    """The same bundle with a string changed that nothing reads."""
    shutil.copytree(bundle, place)
    for file in graphs(place):
        model = onnx.load(file, load_external_data=False)
        helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, "edition": "another"})
        file.write_bytes(model.SerializeToString())
    return listed(place)


def slower(bundle: Path, place: Path, wider: int) -> Path:
    """The bundle with a feed-forward block of so many neurons beside its last layer, whose result is multiplied by 0 and added to the logits."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(bundle, place)
    for file in graphs(place):
        model = onnx.load(file, load_external_data=False)
        graph = model.graph
        last = next(node for node in reversed(graph.node) if node.op_type == "LayerNormalization")
        (wide,) = next(t.dims for t in graph.initializer if t.name == last.input[1])
        draw = np.random.default_rng(0)
        shapes = {"more_in": (wide, wider), "more_out": (wider, wide)}
        graph.initializer.extend(
            numpy_helper.from_array(draw.normal(0, 0.02, shape).astype(np.float32), name)
            for name, shape in shapes.items()
        )
        graph.initializer.append(numpy_helper.from_array(np.array(0.0, np.float32), "more_nothing"))
        logits = graph.output[0].name
        for node in graph.node:
            node.output[:] = ["more_logits" if name == logits else name for name in node.output]
        for axis, (source, result, keep) in enumerate((("more_c", "more_d", 0), ("more_d", "more_e", 1))):
            graph.initializer.append(numpy_helper.from_array(np.array([1]), f"more_axis{axis}"))
            opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
            inputs, axes = ([source, f"more_axis{axis}"], {}) if opset >= 18 else ([source], {"axes": [1]})
            graph.node.append(helper.make_node("ReduceMean", inputs, [result], keepdims=keep, **axes))
        at = len(graph.node) - 2
        before = [
            ("MatMul", [last.output[0], "more_in"], "more_a"),
            ("Relu", ["more_a"], "more_b"),
            ("MatMul", ["more_b", "more_out"], "more_c"),
        ]
        for offset, (kind, inputs, result) in enumerate(before):
            graph.node.insert(at + offset, helper.make_node(kind, inputs, [result]))
        graph.node.append(helper.make_node("Mul", ["more_e", "more_nothing"], ["more_zero"]))
        graph.node.append(helper.make_node("Add", ["more_logits", "more_zero"], [logits]))
        file.write_bytes(model.SerializeToString())
    return listed(place)


def graphs(bundle: Path) -> list[Path]:
    """The graph files of the first variant."""
    return [bundle / name for name in sorted(set(open_for_test(bundle).bundle.manifest.variants[0].graphs.values()))]


def listed(bundle: Path) -> Path:
    """Writes the manifest anew with the digests of the files that lie there, the first variant alone."""
    file = bundle / "manifest.json"
    found = manifests.loads(file.read_text("utf-8"), str(file))

    def entry(path: str) -> FileEntry:
        content = (bundle / path).read_bytes()
        return FileEntry(hashlib.sha256(content).hexdigest(), len(content))

    file.write_text(manifests.dumps(replace(found, files={path: entry(path) for path in found.files})), "utf-8")
    (bundle / "model.sig").unlink(missing_ok=True)
    return bundle


def fitted(bundle: Path, texts: Sequence[Any], folder: Path) -> int:
    """Neurons of the block that make a bundle some 10 % slower here."""
    wider, side = 128, open_for_test(bundle)
    for _ in range(3):
        other = open_for_test(slower(bundle, folder / "C", wider))
        made = time_interleaved((side.worker, other.worker), texts, lambda *_: False, max_time=10.0)
        ratio = next(c.ratio for c in speed.compare_paired(made, (1.0, 1.0), {}, 0).changes if c.metric == "p50") or 1.0
        print(f"{wider} neurons more: x {ratio:.3f}", flush=True)
        wider = round(min(max(wider * 0.10 / max(ratio - 1, 0.02), wider / 4), wider * 4))
    return wider


# ---- what is made of it


def table(record: Mapping[str, Any], times: int, seed: int) -> str:
    """All of the analysis, from the records alone."""
    every = record["sessions"]
    own = {
        kind: [[parse(Process, p, "a process", ValueError) for p in s["processes"]] for s in every if s["kind"] == kind]
        for kind in KINDS[:2]
    }
    live = [s for s in every if s["kind"] == KINDS[2]]
    longest, loaded = max(s["seconds"] for s in every), sum(s["load"] for s in every)
    lines = [
        f"{record['method']}, {record['rows']} texts, {record['machine']['cpu']}, {record['machine']['cpus']} CPUs; {len(every)} sessions of at most "
        f"{longest:.0f} s, {loaded} of them with a process that burns each CPU. {times:,} draws of sessions a line.",
        "",
        *spreads(own, every),
        "",
        *from_the_file(own, times, seed),
        "",
        *in_turns(live, times, seed),
    ]
    return "\n".join(lines) + "\n"


def spreads(own: Mapping[str, Sequence[Sequence[Process]]], every: Sequence[Mapping[str, Any]]) -> list[str]:
    """How sessions vary, as they are and over the probe kernels."""
    lines = ["Standard deviation of the logarithm from session to session (A and B together):", ""]
    lines += ["| metric | form | all | load off | load on |", "|---|---|---:|---:|---:|"]
    both = [session for kind in KINDS[:2] for session in own[kind]]
    loads = np.array([s["load"] for kind in KINDS[:2] for s in every if s["kind"] == kind])
    for metric in GATED:
        found = speed.session_estimates(metric, both, 0)
        for form in found[0]:
            values = np.array([one[form].value for one in found])
            cells = [
                f"{np.std(values[chosen], ddof=1):.3f}" if chosen.sum() > 1 else "-"
                for chosen in (loads >= 0, ~loads, loads)
            ]
            lines.append(f"| {metric} | {sessions.describe_form(form) or 'as it is'} | {' | '.join(cells)} |")
    return lines


def from_the_file(own: Mapping[str, Sequence[Sequence[Process]]], times: int, seed: int) -> list[str]:
    """Verdicts on B against sessions of A, B's times as they are and multiplied."""
    lines = ["Against a file, by sessions of the baseline:", ""]
    lines += [
        "| gate | sessions | B is slower by | regression | inconclusive | pass |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    found = {metric: speed.session_estimates(metric, [*own["A"], *own["B"]], 0) for metric in GATED}
    for count in (c for c in COUNTS if c <= len(own["A"])):
        alarms = np.zeros(times, bool)
        for metric in GATED:
            for more in (0.0, *(SLOWER if metric == "p50" else ())):
                verdicts = drawn(metric, found[metric], len(own["A"]), count, math.log1p(more), times, seed)
                alarms |= (more == 0.0) & (verdicts == REGRESSION)
                shares = [f"{np.mean(verdicts == v):.1%}" for v in (REGRESSION, INCONCLUSIVE, PASS)]
                lines.append(
                    f"| {metric} | {count} | {f'+{more:.0%}' if more else 'nothing (false alarms)'} | {' | '.join(shares)} |"
                )
        lines.append(f"| any of them | {count} | nothing (false alarms) | {np.mean(alarms):.1%} | | |")
    return lines


def drawn(
    metric: str, found: Sequence[Mapping[str, Estimate]], of_a: int, count: int, by: float, times: int, seed: int
) -> np.ndarray:
    """Verdicts of so many draws of sessions; the same draws for all metrics: ``[times]`` of text."""
    draw = np.random.default_rng([seed, count])
    verdicts = []
    for _ in range(times):
        before, after = draw.choice(of_a, count, replace=False), int(draw.integers(of_a, len(found)))
        verdicts.append(judged(metric, GATED[metric], [found[i] for i in before], shifted(found[after], by)))
    return np.array(verdicts)


def shifted(found: Mapping[str, Estimate], by: float) -> dict[str, Estimate]:
    """A session whose times are multiplied."""
    return {probe: replace(one, value=one.value + by) for probe, one in found.items()}


def judged(metric: str, margin: float, before: Sequence[Mapping[str, Estimate]], after: Mapping[str, Estimate]) -> str:
    """The check's verdict."""
    estimate = sessions.compare(metric, before, after).estimate
    low, high = (math.exp(v) for v in estimate.bounds(ALPHA))
    return speed.verdict(Change(metric, None, None, "ms", math.exp(estimate.value), low, high), margin)


def in_turns(live: Sequence[Mapping[str, Any]], times: int, seed: int) -> list[str]:
    """Verdicts on C, some 10 % slower, where A is at hand."""
    if not live:
        return []
    lines = ["In turns with the baseline's bundle, p50, a bundle that computes more:", ""]
    lines += [
        "| load | sessions | median ratio | regression, live | drawn again | drawn again at +10% |",
        "|---|---:|---:|---|---:|---:|",
    ]
    at_ten = [s | {"log_ratios": shifted_pairs(s, live)} for s in live]
    for name, chosen in (
        ("off", [s for s in live if not s["load"]]),
        ("on", [s for s in live if s["load"]]),
        ("all", list(live)),
    ):
        if chosen:
            red = sum(s["verdict"] == REGRESSION for s in chosen)
            ends = binomtest(red, len(chosen)).proportion_ci(0.95, method="exact")
            ratio, again = float(np.median([s["ratio"] for s in chosen])), redrawn(chosen, times, seed)
            ten = redrawn([s for s in at_ten if s["load"] in {c["load"] for c in chosen}], times, seed)
            lines.append(
                f"| {name} | {len(chosen)} | {ratio:.3f} | {red} ({ends.low:.1%} to {ends.high:.1%}) | {again:.1%} | {ten:.1%} |"
            )
    lines += [
        "",
        "More to compute takes less than 10% more time beside a load, which takes its own share of both bundles' time. The last column moves the",
    ]
    return [
        *lines,
        "ratios of all sessions of a kind of load by one factor, so that their median is 1.10, and leaves their variation as it was.",
    ]


def shifted_pairs(session: Mapping[str, Any], live: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Log ratios of a session's pairs, moved by what its kind of load lacks to +10 %."""
    lacking = math.log(1.10) - float(np.median([math.log(s["ratio"]) for s in live if s["load"] == session["load"]]))
    return [[ratio + lacking for ratio in pair] for pair in session["log_ratios"]]


def redrawn(live: Sequence[Mapping[str, Any]], times: int, seed: int) -> float:
    """Share of regressions where a session is drawn, and then as many of its pairs as it has, with the usual looks."""
    draw, margin, red = np.random.default_rng(seed), math.log1p(GATED["p50"]), 0
    for number in range(times):
        pairs = live[draw.integers(len(live))]["log_ratios"]
        taken, looks = [pairs[i] for i in draw.integers(0, len(pairs), len(pairs))], list[Look]()
        for count in sorted({FIRST_LOOK} & set(range(len(pairs) - 1)) | {len(pairs)}):
            looks.append(Look(count, count / len(pairs)))
            low, high = interval.median(taken[:count], number).bounds(interval.levels(looks)[-1])
            if low > margin or high <= margin:
                break
        red += low > margin
    return red / times


if __name__ == "__main__":
    main()
