"""Measure how many faults the tests notice: mutants of ``edgekit/`` by the operators of cosmic-ray.

    pip install cosmic-ray                       # only for the first step
    python release/mutants.py draw               # draws 200 mutants with a fixed seed, as changes of lines
    python release/mutants.py cover              # runs all tests once and records which test runs which line
    python release/mutants.py run                # tries the mutants
    python release/mutants.py compare OLD NEW    # compares two results of the same mutants

A mutant is caught when a test that runs its line fails. The tests of a line run fastest first, as many as take LIMIT
seconds by the recorded durations, so that the choice does not depend on the load of the machine. A mutant that none of
them notices has survived; a mutant of a line that no test runs counts as not caught as well.

The draw takes a family of operators first and then one of its positions: most of cosmic-ray's operators replace one
arithmetic or comparison operator by another, and a draw over all positions would hold little else.

Results that ``compare`` reads belong to one draw. The share of caught mutants has a standard error of 2 to 3 percentage
points at 200 mutants, but two results of the same mutants differ only where the tests do.
"""

from __future__ import annotations

import argparse
import ast
import collections
import concurrent.futures
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".work" / "mutants"
DRAWN = WORK / "drawn.json"
COVERAGE = WORK / "coverage"
PARTS = WORK / "parts"
RESULT = WORK / "result.json"
NOT_COPIED = {".git", ".venv", ".work", "build", "dist"}
TIMEOUT_FACTOR = 6  # a mutant may loop for ever; a busy machine may be some times slower than when durations were taken


def draw(count: int, seed: int, out: Path) -> None:
    """Write mutants drawn without repetition, each as the lines that it changes."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.mutating import mutate_code

    operators = {name: plugins.get_operator(name) for name in sorted(plugins.operator_names())}
    plain = {name: operator() for name, operator in operators.items() if not operator.arguments()}
    positions = collections.defaultdict(list)
    for path in sorted((ROOT / "edgekit").rglob("*.py")):
        counts = collections.Counter()
        for node in ast_nodes(get_ast_from_path(path)):
            for name, operator in plain.items():
                for _ in operator.mutation_positions(node):
                    family = name.removeprefix("core/").split("_")[0]
                    positions[family].append((path, name, counts[name]))
                    counts[name] += 1
    generator = random.Random(seed)
    chosen = set()
    mutants = []
    while len(mutants) < count:
        place = generator.choice(positions[generator.choice(sorted(positions))])
        if place in chosen:
            continue
        chosen.add(place)
        path, name, occurrence = place
        source = path.read_text("utf-8")
        try:
            changed = mutate_code(source.encode(), plain[name], occurrence)
            different = changed is not None and meaning(changed) != meaning(source)
        except (AttributeError, SyntaxError):
            # cosmic-ray 8.7 fails at an exception with a dotted name, and its change of a pattern may be no Python.
            continue
        if different:
            change = changed_lines(source, changed)
            mutants.append({"path": path.relative_to(ROOT).as_posix(), "operator": name, **change})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"seed": seed, "mutants": mutants}, indent=1) + "\n", "utf-8")
    print(f"{len(mutants)} mutants of {len({mutant['path'] for mutant in mutants})} files: {out}")


def meaning(source: str) -> str:
    """Return the syntax tree without annotations, which are not evaluated: ``int | None`` may become anything."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(None))
    return ast.dump(tree)


def changed_lines(before: str, after: str) -> dict[str, object]:
    """Return the first changed line, from 1 on, and the texts of the changed lines before and after."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    first = next(i for i, (a, b) in enumerate(zip([*old, ""], [*new, ""], strict=False)) if a != b)
    while old and new and old[-1] == new[-1] and min(len(old), len(new)) > first + 1:
        old.pop()
        new.pop()
    return {"line": first + 1, "before": "".join(old[first:]), "after": "".join(new[first:])}


def cover() -> None:
    """Run all tests once, with coverage by test and the duration of each; a second call goes on after an interruption.

    Every folder of tests is one run with two files, ``FOLDER.coverage`` and ``FOLDER.xml``. Test files that lie beside
    the folders are one run together.
    """
    PARTS.mkdir(parents=True, exist_ok=True)
    tests = ROOT / "tests"
    groups = {"tests": sorted(tests.glob("test_*.py"))}
    for folder in sorted(path for path in tests.iterdir() if any(path.rglob("test_*.py"))):
        groups[folder.name] = [folder]
    for name, paths in groups.items():
        durations = PARTS / f"{name}.xml"
        if not durations.exists():
            unfinished = durations.with_suffix(".running")
            options = ["--cov=edgekit", "--cov-context=test", "--cov-report="]
            # The limit of a test's time is for an unburdened machine and without coverage.
            options += [f"--junitxml={unfinished}", "-o", "junit_family=xunit1", "-o", "faulthandler_timeout=3600"]
            environment = {**os.environ, "COVERAGE_FILE": str(PARTS / f"{name}.coverage")}
            command = [sys.executable, "-m", "pytest", "-q", *options, *map(str, paths)]
            subprocess.run(command, cwd=ROOT, env=environment, check=False)
            unfinished.rename(durations)
    environment = {**os.environ, "COVERAGE_FILE": str(COVERAGE)}
    coverage = [sys.executable, "-m", "coverage"]
    parts = map(str, sorted(PARTS.glob("*.coverage")))
    subprocess.run([*coverage, "combine", "--keep", *parts], cwd=ROOT, env=environment, check=True)
    subprocess.run([*coverage, "json", "-q", "-o", WORK / "coverage.json"], cwd=ROOT, env=environment, check=True)
    totals = json.loads((WORK / "coverage.json").read_text("utf-8"))["totals"]
    print(f"{totals['covered_lines']} of {totals['num_statements']} statements: {totals['percent_covered']:.2f} %")


def durations() -> dict[str, float]:
    """Return the seconds of each test by its node id, without the tests that failed: they would catch every mutant."""
    seconds = {}
    for part in sorted(PARTS.glob("*.xml")):
        for case in ElementTree.parse(part).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                continue
            seconds[f"{case.get('file')}::{case.get('name')}"] = float(case.get("time", 0))
    return seconds


def tests_of(mutants: list[dict], limit_s: float) -> list[list[str]]:
    """Return for each mutant the tests that run its line, fastest first, as many as the limit allows."""
    from coverage import CoverageData

    data = CoverageData(str(COVERAGE))
    data.read()
    seconds = durations()
    paths = {Path(name).as_posix().rpartition("/edgekit/")[2]: name for name in data.measured_files()}
    chosen = []
    for mutant in mutants:
        path = paths.get(mutant["path"].removeprefix("edgekit/"))
        contexts = data.contexts_by_lineno(path).get(mutant["line"], []) if path else []
        names = sorted({context.rpartition("|")[0] for context in contexts} & seconds.keys(), key=seconds.__getitem__)
        total = 0.0
        tests = []
        for name in names:
            total += seconds[name]
            if tests and total > limit_s:
                break
            tests.append(name)
        chosen.append(tests)
    return chosen


def check(mutant: dict, tests: list[str], limit_s: float) -> str:
    """Return ``caught``, ``survived`` or ``not run`` for one mutant, tried in a copy of the project."""
    if not tests:
        return "not run"
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=lambda _, names: NOT_COPIED.union({"__pycache__"}).intersection(names))
        if (ROOT.parent / "shared").exists():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        path = copy / mutant["path"]
        lines = path.read_text("utf-8").splitlines(keepends=True)
        first, before = mutant["line"] - 1, mutant["before"].splitlines(keepends=True)
        if lines[first : first + len(before)] != before:
            raise SystemExit(f"{mutant['path']} line {mutant['line']} is not what the draw saw. Draw again.")
        lines[first : first + len(before)] = [mutant["after"]]
        path.write_text("".join(lines), "utf-8")
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        command += [f"--basetemp={folder}/tests"]
        limit = 120 + TIMEOUT_FACTOR * limit_s
        try:
            done = subprocess.run(command, cwd=copy, env=environment, timeout=limit, capture_output=True, check=False)
        except subprocess.TimeoutExpired:
            return "caught"  # unchanged, the tests end in a fraction of this time
        return "survived" if done.returncode == 0 else "caught"


def run(drawn: Path, limit_s: float, jobs: int, out: Path) -> None:
    """Try the mutants and write what became of each; a second call goes on after an interruption."""
    content = json.loads(drawn.read_text("utf-8"))
    mutants = content["mutants"]
    tests = tests_of(mutants, limit_s)
    journal = out.with_suffix(".jsonl")
    known: dict[str, str] = {}
    if journal.exists():
        known = dict(json.loads(line) for line in journal.read_text("utf-8").splitlines())

    def outcome_of(mutant: dict, names: list[str]) -> str:
        key = json.dumps([mutant, names, limit_s], sort_keys=True)
        if key not in known:
            known[key] = check(mutant, names, limit_s)
            with journal.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([key, known[key]]) + "\n")
        return known[key]

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(outcome_of, mutants, tests))
    totals = collections.Counter(outcomes)
    rows = []
    for mutant, names, outcome in zip(mutants, tests, outcomes, strict=True):
        rows.append({**mutant, "tests": len(names), "outcome": outcome})
    record = {"seed": content["seed"], "limit_s": limit_s, "totals": totals, "mutants": rows}
    out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(
        f"{totals['caught']} caught, {totals['survived']} survived, {totals['not run']} in lines that no test runs: {out}"
    )


def compare(old: Path, new: Path) -> None:
    """Print the shares of two results of the same mutants and where they differ."""
    first, second = (json.loads(path.read_text("utf-8"))["mutants"] for path in (old, new))
    # Only the changes have to be the same: their files and lines may have moved between the two states of the source.
    if [(m["before"], m["after"]) for m in first] != [(m["before"], m["after"]) for m in second]:
        raise SystemExit("The two results are of different mutants.")
    shares = [sum(mutant["outcome"] == "caught" for mutant in part) / len(part) for part in (first, second)]
    print(f"caught: {shares[0]:.1%} before, {shares[1]:.1%} after")
    for before, after in zip(first, second, strict=True):
        if before["outcome"] != after["outcome"]:
            change = f"{before['before'].strip()} -> {before['after'].strip()}"
            print(f"{before['path']}:{before['line']}: {before['outcome']} -> {after['outcome']}: {change}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("draw")
    step.add_argument("--count", type=int, default=200, help="Number of mutants.")
    step.add_argument("--seed", type=int, default=20261130, help="Random seed of the draw.")
    step.add_argument("-o", "--out", type=Path, default=DRAWN, help="File of the mutants.")
    steps.add_parser("cover")
    step = steps.add_parser("run")
    step.add_argument("--drawn", type=Path, default=DRAWN, help="File of the mutants.")
    step.add_argument("--limit", type=float, default=60.0, help="Seconds of tests for each mutant.")
    step.add_argument("--jobs", type=int, default=2, help="Mutants tried at the same time.")
    step.add_argument("-o", "--out", type=Path, default=RESULT, help="File of the outcomes.")
    step = steps.add_parser("compare")
    step.add_argument("old", type=Path, help="Result before.")
    step.add_argument("new", type=Path, help="Result after.")
    options = parser.parse_args()
    if options.step == "draw":
        draw(options.count, options.seed, options.out)
    elif options.step == "cover":
        cover()
    elif options.step == "run":
        run(options.drawn, options.limit, options.jobs, options.out)
    else:
        compare(options.old, options.new)


if __name__ == "__main__":
    main()
