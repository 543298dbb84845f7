"""What the robustness scripts share: a small bundle to work on, and where results go."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "tests"))


def bundle(work: Path) -> Path:
    """A float32 bundle of the tests' small model in ``work``, built once."""
    import small

    import edgekit

    out = work / "bundle"
    if not (out / "manifest.json").exists():
        work.mkdir(parents=True, exist_ok=True)
        model = small.save(work / "model")
        rows = small.labelled(small.module(), small.texts(300, seed=2), count=120, wrong=6)
        train = small.write_jsonl(work / "train.jsonl", [{"text": t} for t in small.texts(40, seed=1)])
        edgekit.build(
            model,
            samples=train,
            eval=small.write_jsonl(work / "dev.jsonl", rows),
            out=out,
            target=small.target(work / "exact.toml"),
        )
    return out


def write(name: str, record: dict, file: Path | None) -> None:
    """Prints a result and writes it as JSON."""
    text = json.dumps(record, indent=2)
    print(text)
    target = file or RESULTS / f"{name}.json"
    target.write_text(text + "\n", "utf-8")
