"""Inputs that nobody means, by the hundred thousand: is each answered, or refused with an error of EdgeKit's, in bounded time and memory?

    python benchmarks/robustness/fuzz.py --cases 100000 --work .work/robustness

Each case is one of the kinds of ``SURFACES``, made by a random generator of its own (``--seed`` and its number), so that a fault can be run again alone:
``--only KIND:NUMBER``. Cases run in child processes of 500, with a limit of 4 GB of address space beyond the libraries'. Counted: exceptions that are no
EdgekitError (or, of a verb, an exit code that is none of the documented ones), children that died, cases of more than 5 s, and of more than 1 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import bundle, write

_AT_ONCE = 500
_SLOW_S, _LARGE_KIB, _HANGS_S = 5.0, 1 << 20, 60
_SPACE = 4 << 30
_CODES = {None, 0, 1, 2, 3, 4, 5}
_ODD = [
    "",
    "\0",
    "\ud800",
    "a" * 10_000,
    "é",
    "\u202e",
    "-1",
    "1e999",
    "NaN",
    "null",
    "true",
    "{}",
    "[]",
    "..",
    "/",
    "%s",
]
_ODD += ["\n", "\t", '"', "'", "|", ",", ";", "😀"]
_NUMBERS = [0, 1, -1, 2**31, 2**63, -(2**63), 2**70, 0.5, float("nan"), float("inf"), 1e308]


def thing(rng: random.Random, depth: int = 0):
    """Any plain object."""
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice(_NUMBERS)
    if kind in (2, 3):
        return text(rng)
    if kind == 4:
        return text(rng).encode("utf-8", "surrogatepass")
    if kind == 5:
        return rng.choice(_ODD)
    parts = [thing(rng, depth + 1) for _ in range(rng.randrange(4))]
    return parts if kind == 6 else tuple(parts) if kind == 7 else {str(i): p for i, p in enumerate(parts)}


def text(rng: random.Random) -> str:
    """Characters of all planes, runs of one, and pieces that parsers stumble over."""
    kind = rng.randrange(4)
    if kind == 0:
        return "".join(
            chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x110000)])) for _ in range(rng.randrange(60))
        )
    if kind == 1:
        return rng.choice([" ", "a", "film ", "\n", "\u0301", "的", "\U0001f468\u200d", "x1"]) * rng.choice(
            [1, 10, 1000, 100_000]
        )
    if kind == 2:
        return "".join(rng.choice(_ODD) for _ in range(rng.randrange(8)))
    return "the film is " + rng.choice(["strong", "dull", "[SEP]", "[MASK] [PAD]"])


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes, lines or pieces of it otherwise."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, length = rng.randrange(len(made) + 1), rng.choice([1, 1, 2, 8, 100])
        kind = rng.randrange(6)
        if kind == 0 and made:
            made[at % len(made)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            made[at : at + length] = b""
        elif kind == 2:
            made[at:at] = rng.randbytes(length)
        elif kind == 3:
            made[at:at] = rng.choice(_ODD).encode("utf-8", "surrogatepass")
        elif kind == 4:
            made[at:at] = made[rng.randrange(len(made) + 1) :][: length * 10]
        else:
            made = made[: rng.randrange(len(made) + 1)]
    return bytes(made)


def altered(rng: random.Random, data):
    """One place of a plain object otherwise: a value of another type, a key that is gone, new or there twice."""
    if isinstance(data, dict) and data and rng.random() < 0.9:
        key = rng.choice(list(data))
        kind = rng.randrange(8)
        if kind == 0:
            return {k: v for k, v in data.items() if k != key}
        if kind == 1:
            return {**data, rng.choice(_ODD): json_able(thing(rng))}
        return {**data, key: altered(rng, data[key])}
    if isinstance(data, list) and data and rng.random() < 0.8:
        at = rng.randrange(len(data))
        return (
            [*data[:at], altered(rng, data[at]), *data[at + 1 :]]
            if rng.random() < 0.7
            else [*data[:at], *data[at + 1 :] * rng.choice([0, 1, 3])]
        )
    return json_able(thing(rng))


def json_able(value):
    """The same without what JSON has not."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {k: json_able(v) for k, v in value.items()}
    return [json_able(v) for v in value] if isinstance(value, (list, tuple)) else value


def json_bytes(rng: random.Random, data: bytes) -> bytes:
    """A JSON file that was changed as an object or as bytes."""
    if rng.random() < 0.6:
        with contextlib.suppress(ValueError):
            return json.dumps(altered(rng, json.loads(data))).encode("utf-8", "surrogatepass")
    return mutated(rng, data)


class Surfaces:
    """What is tried; each method is a kind, and takes a generator."""

    def __init__(self, path: Path, scratch: Path) -> None:
        import edgekit
        from edgekit.bundle.pack import pack

        self.path, self.scratch = path, scratch
        self.session = edgekit.load(path, threads=1)
        self.files = {
            name: (path / name).read_bytes()
            for name in ("manifest.json", "assets/task.json", "assets/tokenizer.json", "golden.npz")
        }
        self.graph = next(path.glob("graphs/*.onnx")).read_bytes()
        self.task = self.session._task
        self.edge = pack(path, scratch / "whole.edge").read_bytes()
        self.copy = Path(shutil.copytree(path, scratch / "copy"))

    def inputs(self, rng: random.Random) -> None:
        value = thing(rng) if rng.random() < 0.5 else text(rng)
        getattr(self.session, "outputs" if rng.random() < 0.2 else "__call__")(
            value if rng.random() < 0.6 else [value, text(rng)]
        )

    def feeds(self, rng: random.Random) -> None:
        import numpy as np

        names = ["input_ids", "attention_mask", "token_type_ids", rng.choice(_ODD)]
        shape = [rng.choice([0, 1, 2, 5, 63, 65]) for _ in range(rng.choice([0, 1, 2, 2, 2, 3]))]
        dtypes = ["int64", "int64", "int32", "float32", "object", "U3"]

        def array():
            made = np.zeros(shape, rng.choice(dtypes))
            if made.dtype == np.int64 and rng.random() < 0.3:
                made += rng.choice([1, -1, 7, 2**40])
            return made

        self.session.run(
            {n: array() if rng.random() < 0.9 else thing(rng) for n in names[: rng.choice([3, 3, 3, 4, 2])]}
            if rng.random() < 0.9
            else thing(rng)
        )

    def tables(self, rng: random.Random) -> None:
        from edgekit import samples

        rows = [(text(rng), rng.choice(["negative", "1", "", 2, None, "positive"])) for _ in range(rng.randrange(1, 6))]
        suffix = rng.choice([".csv", ".tsv", ".jsonl", ".json", ".toml", ".gz", ".csv.gz"])
        if "json" in suffix:
            content = "\n".join(json.dumps(json_able({"text": t, "label": v})) for t, v in rows)
        else:
            between = "\t" if suffix == ".tsv" else rng.choice(",,;")
            content = "\n".join(between.join(map(str, row)) for row in [("text", "label"), *rows])
        file = self.scratch / f"table{suffix}"
        file.write_bytes(mutated(rng, content.encode("utf-8", "surrogatepass")))
        rows = samples.read(file, rng.choice([None, {"text": "text"}, {"label": "label"}, {"text": text(rng)}]))
        self.task.parse_truth(rows.rows, rows.where)

    def labels(self, rng: random.Random) -> None:
        from edgekit import samples

        file = self.scratch / "labels.jsonl"
        file.write_text(
            "\n".join(json.dumps({"text": "a", "label": json_able(thing(rng))}) for _ in range(rng.randrange(1, 5))),
            "utf-8",
        )
        rows = samples.read(file)
        self.task.parse_truth(rows.rows, rows.where)

    def manifests(self, rng: random.Random) -> None:
        from edgekit.bundle.trust import open_bundle

        (self.copy / "manifest.json").write_bytes(json_bytes(rng, self.files["manifest.json"]))
        open_bundle(self.copy)

    def bundles(self, rng: random.Random) -> None:
        """A file of a bundle is another, and the manifest says so: what is left are the parsers."""
        import edgekit
        from edgekit.runtime import golden

        name = rng.choice(["assets/task.json", "assets/task.json", "assets/tokenizer.json", "golden.npz"])
        content = json_bytes(rng, self.files[name]) if name.endswith("json") else mutated(rng, self.files[name])
        manifest = json.loads(self.files["manifest.json"])
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        (self.copy / name).write_bytes(content)
        (self.copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        try:
            with edgekit.load(self.copy, threads=1) as session:
                session(["the film", "dull"])
                golden.check(session)
        finally:
            (self.copy / name).write_bytes(self.files[name])

    def digests(self, rng: random.Random) -> None:
        from edgekit.bundle.trust import open_bundle

        file = rng.choice([f for f in self.copy.rglob("*") if f.is_file()])
        kept = file.read_bytes()
        (self.copy / "manifest.json").write_bytes(self.files["manifest.json"])
        file.write_bytes(mutated(rng, kept))
        try:
            open_bundle(self.copy)
        finally:
            file.write_bytes(kept)

    def graphs(self, rng: random.Random) -> None:
        from edgekit.bundle import onnx_reader

        onnx_reader.read(mutated(rng, self.graph if rng.random() < 0.8 else self.graph[: rng.randrange(3000)]))

    def packed(self, rng: random.Random) -> None:
        from edgekit.bundle.pack import unpack

        file = self.scratch / "some.edge"
        file.write_bytes(mutated(rng, self.edge))
        unpack(file, self.scratch / "unpacked", force=True)

    def toml(self, rng: random.Random) -> None:
        from edgekit.spec import gates, project, target

        target_text = (Path(__file__).resolve().parents[2] / "targets" / "cpu.toml").read_bytes()
        examples = (
            target_text,
            b'[gates]\n"accuracy.drop" = 0.01\n',
            b'[project]\nmodel = "m"\n[check]\nsamples = "dev.jsonl"\n[check.gates]\n',
        )
        file = self.scratch / "edgekit.toml"
        file.write_bytes(mutated(rng, rng.choice(examples)))
        rng.choice([target.load, gates.read, project.read])(file)

    def verbs(self, rng: random.Random) -> None:
        from edgekit.cli import main

        verb = rng.choice(
            [
                "inspect",
                "verify",
                "run",
                "pack",
                "targets",
                "sign",
                "keygen",
                "eval",
                "check",
                "deploy",
                "compare",
                rng.choice(_ODD),
            ]
        )
        known = [
            str(self.path),
            str(self.copy),
            "--samples",
            "--key",
            "--out",
            "--json",
            "--threads",
            "--force",
            "-",
            "--",
            "-o",
            *_ODD,
        ]
        words = [rng.choice(known) for _ in range(rng.randrange(5))]
        sys.argv = [
            "edgekit",
            verb,
            *[w for w in words if w != str(self.path) or verb in ("inspect", "verify", "run", "check")],
        ]
        here, stdin = os.getcwd(), sys.stdin
        os.chdir(self.scratch)
        sys.stdin = io.TextIOWrapper(io.BytesIO(text(rng).encode("utf-8", "surrogatepass")))
        try:
            unread = io.TextIOWrapper(io.BytesIO(), errors="backslashreplace")
            with contextlib.redirect_stdout(unread), contextlib.redirect_stderr(unread):
                main()
        except SystemExit as end:
            if end.code not in _CODES:
                raise RuntimeError(f"exit code {end.code}") from end
        finally:
            os.chdir(here)
            sys.stdin = stdin


# How often each is tried: what costs least, most often.
SURFACES = {
    **{"inputs": 20, "feeds": 15, "tables": 18, "labels": 12, "manifests": 10, "bundles": 4, "digests": 5},
    **{"graphs": 8, "packed": 2, "toml": 5, "verbs": 1},
}


def kind_of(number: int) -> str:
    """The kind of a case, by its number."""
    at = number % sum(SURFACES.values())
    for kind, share in SURFACES.items():
        if at < share:
            return kind
        at -= share
    raise AssertionError


def child(path: Path, seed: int, start: int, stop: int, progress: Path) -> None:
    """Runs cases and prints a JSON object for each as it ends: if a case ends the process, what came before is told."""
    from edgekit.spec.errors import EdgekitError

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)  # panics of the tokenizers library are told there
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        surfaces = Surfaces(path, Path(scratch))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _SPACE, used + _SPACE))
        for number in range(start, stop):
            kind = kind_of(number)
            progress.write_text(f"{kind}:{number}")
            signal.alarm(_HANGS_S)
            before, began, fault = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), ""
            became = "answered"
            try:
                getattr(surfaces, kind)(random.Random(f"{seed} {number}"))
            except EdgekitError:
                became = "refused"
            except BaseException as problem:
                fault = f"{type(problem).__name__}: {str(problem)[:200]}"
                became = "untyped"
            seconds, kib = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            answers.write(
                json.dumps(
                    {
                        "case": f"{kind}:{number}",
                        "became": became,
                        "fault": fault,
                        "seconds": round(seconds, 2),
                        "mb": kib >> 10,
                    }
                )
                + "\n"
            )
        signal.alarm(0)
    os._exit(0)


def run(path: Path, seed: int, start: int, stop: int, work: Path) -> tuple[Counter[str], list[dict]]:
    """One child; where it dies, the case that it was at is a fault, and the next child goes on behind it."""
    counts: Counter[str] = Counter()
    faults: list[dict] = []
    progress = work / "progress"
    while start < stop:
        command = [sys.executable, __file__, "--child", str(path), str(seed), str(start), str(stop), str(progress)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, env={**os.environ, "EDGEKIT_CACHE": str(work / "cache")}, check=False
        )
        for line in map(json.loads, done.stdout.decode().splitlines()):
            slow, large = line["seconds"] > _SLOW_S, line["mb"] << 10 > _LARGE_KIB
            counts.update({line["became"]: 1, "slow": slow, "large": large, f"of {line['case'].partition(':')[0]}": 1})
            if line["fault"] or slow or large:
                faults.append(line)
        if done.returncode == 0:
            break
        at = progress.read_text()
        faults.append({"case": at, "fault": f"the process ended with {done.returncode}"})
        counts["died"] += 1
        start = int(at.rpartition(":")[2]) + 1
    return counts, faults


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["--child"]:
        path, seed, start, stop, progress = sys.argv[2:]
        child(Path(path), int(seed), int(start), int(stop), Path(progress))
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--work", type=Path, default=Path(".work/robustness"))
    options.add_argument("--only", metavar="KIND:NUMBER", help="one case, in this process, with its traceback")
    options.add_argument("-o", dest="out", type=Path, help="JSON [default: benchmarks/results/robustness_fuzz.json]")
    said = options.parse_args()
    path = bundle(said.work.resolve()).resolve()
    if said.only:
        kind, _, number = said.only.partition(":")
        with tempfile.TemporaryDirectory() as scratch:
            getattr(Surfaces(path, Path(scratch)), kind)(random.Random(f"{said.seed} {number}"))
        return
    began, counts, faults = time.perf_counter(), Counter[str](), []
    for start in range(0, said.cases, _AT_ONCE):
        found, wrong = run(path, said.seed, start, min(start + _AT_ONCE, said.cases), said.work.resolve())
        counts += found
        faults += wrong
        for fault in wrong:
            print(json.dumps(fault), file=sys.stderr)
        print(
            f"{min(start + _AT_ONCE, said.cases)} cases, {len(faults)} faults, {time.perf_counter() - began:.0f} s",
            file=sys.stderr,
        )
    zero = dict.fromkeys(("answered", "refused", "untyped", "died", "slow", "large"), 0)
    found = {**zero, **dict(sorted(counts.items())), "seconds": round(time.perf_counter() - began)}
    record = {"cases": said.cases, "seed": said.seed, **found, "faults": faults[:100]}
    write("robustness_fuzz", record, said.out)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
