"""Situations that users of such tools reported, made by their generators and given to EdgeKit: what it answers, beside what is right.

    python benchmarks/robustness/cases.py --cases ../shared/cases --work .work/cases

The generators and the table of what is right (``README.md``) are beside the project and not in it; without them the script says so and ends with 0. Written:
``cases.md`` and ``cases.json`` in ``--work``. Each model is built with ``methods = ["float32"]`` on ONNX Runtime, so that the reading alone is what is seen.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from common import ROOT

_NAMES = (
    "adapter",
    "cased",
    "vocab",
    "regression",
    "onelogit",
    "multi",
    "order",
    "tables",
    "prefix",
    "nan",
    "cut",
    "half",
)
_LONGEST = 700
# Beside dev.jsonl: the name of the case, and what edgekit is called with; {m} is its model folder, {t} the target, {o} a new folder.
_MORE = {
    "regression": [
        (
            "next release",
            "build {n}/next --target {t} --samples {n}/cal.jsonl --eval {n}/dev.jsonl --accept-reference -o {o}",
        ),
        ("check", "check {o} --baseline {first} --samples {n}/dev.jsonl"),
    ],
    "multi": [
        (
            "one-hot columns",
            "build {m} --target {t} --samples {n}/cal.jsonl --eval {n}/onehot.csv --columns label=toxic|threat -o {o}",
        ),
        ("names, some empty", "build {m} --target {t} --samples {n}/cal.jsonl --eval {n}/names.csv -o {o}"),
        ("flags", "build {m} --target {t} --samples {n}/cal.jsonl --eval {n}/flags.csv -o {o}"),
        ("problem_type missing", "build {n}/untyped --target {t} --samples {n}/cal.jsonl --eval {n}/dev.jsonl -o {o}"),
    ],
    "order": [
        (f, f"build {{m}} --target {{t}} --samples {{n}}/cal.jsonl --eval {{n}}/{f}.jsonl -o {{o}}")
        for f in ("right", "float", "minus")
    ],
    "tables": [
        (f, f"build {{m}} --target {{t}} --samples {{n}}/cal.jsonl --eval {{n}}/{f} -o {{o}}")
        for f in ("dev.csv", "pandas.tsv", "semicolon.csv", "breaks.tsv", "twice-text.csv", "short.csv", "array.json")
    ],
    "nan": [
        ("NaN in a row of the table", "build {n}/rare --target {t} --samples {n}/cal.jsonl --eval {n}/dev.jsonl -o {o}")
    ],
    "half": [
        ("for a device in float16", "build {m} --target jetson --samples {n}/cal.jsonl --eval {n}/dev.jsonl -o {o}")
    ],
}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code, and what was printed, without paths of this machine."""
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=900, env=environment, check=False)
    said = (done.stdout + done.stderr).decode("utf-8", "replace").replace(f"{folder}/", "").replace(str(ROOT), "")
    # Of a table its scores alone are of interest here: the torch model's is in the line below it.
    lines = [
        line
        for line in said.splitlines()
        if not re.match(r"method |-{4}|\S+ +onnxruntime |\S+ +tensorrt |note: While the candidates raced", line)
    ]
    return done.returncode, re.sub(r"\s+", " ", " ".join(lines)).strip()


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "cases")
    options.add_argument("--work", type=Path, default=Path(".work/cases"))
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_NAMES)} [default: all]")
    said = options.parse_args()
    if not (said.cases / "gen.py").is_file():
        print(f"skipped: {said.cases} has no gen.py, which makes the cases")
        return
    work = said.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    readme = (said.cases / "README.md").read_text("utf-8")
    right = {
        cells[0].strip(): cells[3].strip()
        for line in readme.splitlines()
        if (cells := re.split(r"(?<!\\)\|", line.strip("| "))) and len(cells) == 4
    }
    target = work / "exact.toml"
    target.write_text(
        'name = "exact"\ndescription = "float32 alone"\nbackends = ["onnxruntime"]\nmethods = ["float32"]\n', "utf-8"
    )
    places = {"PYTHONPATH": f"{ROOT}{os.pathsep}{said.cases.resolve()}", "EDGEKIT_CACHE": str(work / "cache")}
    environment = {**os.environ, **places, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    rows = []
    for name in said.names or _NAMES:
        if not (work / name / "dev.jsonl").exists():
            code, made = run([sys.executable, str(said.cases.resolve() / "gen.py"), name], work, environment)
            if code:
                rows.append(
                    {
                        "case": name,
                        "what": "generator",
                        "exit": code,
                        "says": made[-_LONGEST:],
                        "right": right.get(name, ""),
                    }
                )
                continue
        first = (
            [("as it is", "build {m} --target {t} --samples {n}/cal.jsonl --eval {n}/dev.jsonl -o {o}")]
            if (work / name / "model").is_dir()
            else []
        )
        before = ""
        for index, (what, command) in enumerate([*first, *_MORE.get(name, [])]):
            out = f"{name}/out-{index}"
            if command.startswith("check"):
                out = f"{name}/out-{index - 1}"
            elif (work / out).exists():
                command += " --force"
            words = command.format(m=f"{name}/model", n=name, t=target, o=out, first=before).split()
            code, text = run([sys.executable, "-m", "edgekit", *words], work, environment)
            before = before or out
            shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
            rows.append({"case": name, "what": what, "exit": code, "says": shown, "right": right.get(name, "")})
            print(f"{name} ({what}): exit {code}: {rows[-1]['says'][:200]}", flush=True)
    (work / "cases.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
    table = ["| case | input | exit | EdgeKit says | right |", "|---|---|---:|---|---|"]
    table += [
        f"| {r['case']} | {r['what']} | {r['exit']} | {r['says'].replace('|', chr(92) + '|')} | {r['right']} |"
        for r in rows
    ]
    (work / "cases.md").write_text("\n".join(table) + "\n", "utf-8")
    print(f"wrote {work / 'cases.md'}")


if __name__ == "__main__":
    main()
