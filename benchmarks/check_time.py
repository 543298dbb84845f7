"""What ``edgekit check`` takes, as a CI job calls it: whole command, default gates, default ``--max-time``, files written.

    python benchmarks/check_time.py --bundle BUNDLE --baseline BUNDLE --samples dev.jsonl

Each round checks against the baseline bundle and against a file of it. Writes ``results/check_time.json`` and the table ``results/check_time.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgekit.machine.fingerprint import fingerprint
from edgekit.report import files

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--baseline", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept, out = Path(folder, "baseline.json"), Path(folder, "report")
        made = timed("baseline", options.baseline, "--samples", options.samples, "-o", kept)
        rounds = [
            {
                kind: timed("check", options.bundle, "--baseline", against, "--samples", options.samples, "-o", out)
                for kind, against in kinds(options, kept)
            }
            for _ in range(options.rounds)
        ]
        rows = files.read(out / "report.json").rows
    machine = fingerprint()
    seconds = {kind: [found[kind]["seconds"] for found in rounds] for kind in rounds[0]}
    record = {
        "cpu": machine.cpu,
        "cpus": machine.cpus,
        "rows": rows,
        "baseline_seconds": made["seconds"],
        "seconds": seconds,
        "rounds": rounds,
    }
    (HERE / "results" / "check_time.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    lines = [
        f"{rows} rows, {machine.cpu}, {machine.cpus} CPUs; whole command, {options.rounds} rounds.",
        "",
        "| | seconds, median | most |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| `edgekit check` against {kind} | {statistics.median(taken):.0f} | {max(taken):.0f} |"
        for kind, taken in seconds.items()
    ]
    lines += [f"| `edgekit baseline` | {made['seconds']:.0f} | |"]
    (HERE / "results" / "check_time.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


def kinds(options: argparse.Namespace, kept: Path) -> list[tuple[str, Path]]:
    """What is checked against."""
    return [("a bundle, in turns", options.baseline), ("a file", kept)]


def timed(*arguments: str | Path) -> dict[str, float | int | str]:
    """One command; its exit code says the verdict."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 3, 4):
        sys.exit(done.stderr)
    return {"seconds": time.monotonic() - began, "exit": done.returncode}


if __name__ == "__main__":
    main()
