"""Make what lies beside this file: samples, torch's answers and bundles of one small model.

    python tests/data/make.py [FOLDER]

Tests read the committed files, so that a test of the runtime, of a backend or of a verb needs neither torch nor a build.
``tests/data/test_made.py`` makes them anew and compares. Run the script after a change of what a build writes, and
commit what it wrote; measured times and memory differ from run to run.

- ``samples/train.jsonl``, ``samples/dev.jsonl``: rows of ``small.py``. Labels are the model's own answers, six of them
  changed.
- ``answers.json``: logits of torch for texts, each alone and nothing padded.
- ``bundles/onnxruntime``, ``bundles/openvino``: float32, whose answers are those of torch. Their graph is the exported
  one, with its tokenizer: what quantization methods and backends are tested with.
- ``bundles/int8``: the target ``cpu`` without LiteRT, so that its graph is an ONNX file whichever candidate wins.
- ``bundles/litert``: the target ``android``, a graph of LiteRT.
- ``exports``: the float32 graphs of ``tiny.py`` and ``raw.py``, each with the digest of its model.
- ``bundles/jetson``: the target ``jetson``, whose engines are compiled on the device.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import raw
import small
import tiny

HERE = Path(__file__).resolve().parent
TEXTS = 60
SEED = 77
CPU = "threads = 0\nmax_batch = 32\n[budget]\naccuracy_drop = 0.01"
PARTS = ("samples", "bundles", "answers.json", "exports")


def main(out: Path) -> None:
    """Write all parts into a folder; parts that are there are replaced."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGEKIT_CACHE"] = f"{folder}/cache"
        work = Path(folder) / "work"
        make(work, Path(folder) / "tiny-bert")
        exports(work / "exports")
        out.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            target = out / name
            if target.is_dir():
                shutil.rmtree(target)
            shutil.move(work / name, target)


def make(out: Path, model: Path) -> None:
    """Write all parts into a new folder."""
    out.mkdir()
    small.save(model)
    module = small.module()
    samples(out / "samples", module)
    texts = small.texts(TEXTS, SEED)
    answers = {"texts": texts, "logits": small.torch_logits(module, texts).tolist()}
    (out / "answers.json").write_text(json.dumps(answers, indent=0) + "\n", "utf-8")
    common = {"samples": out / "samples" / "train.jsonl", "eval": out / "samples" / "dev.jsonl"}
    for backend in ("onnxruntime", "openvino"):
        target = small.target(model.parent / "exact.toml", backends=(backend,))
        small.build(model, out=out / "bundles" / backend, target=target, **common)
    backends = ("onnxruntime", "openvino")
    cpu = small.target(model.parent / "cpu.toml", ("dynamic", "static", "float32"), backends, CPU)
    small.build(model, out=out / "bundles" / "int8", target=cpu, **common)
    small.build(model, out=out / "bundles" / "jetson", target="jetson", **common)
    small.build(model, out=out / "bundles" / "litert", target="android", **common)


def exports(out: Path) -> None:
    """Write the graphs of all small architectures; ``test_architectures.py`` and ``test_raw_modules.py`` compare them."""
    for name in tiny.ARCHITECTURES:
        tiny.commit_export(name, out / name)
    for name in raw.MODELS:
        raw.commit_export(name, out / name)


def samples(out: Path, module) -> None:
    """Write ``train`` and ``dev``. Every text of ``train`` and some of ``dev`` hold the canary."""
    out.mkdir()
    train = [{"text": f"{text} {small.CANARY}{i}"} for i, text in enumerate(small.texts(40, seed=1))]
    texts = [f"{text} {small.CANARY}" if i % 3 == 0 else text for i, text in enumerate(small.texts(300, seed=2))]
    small.write_jsonl(out / "train.jsonl", train)
    small.write_jsonl(out / "dev.jsonl", small.labelled(module, texts, count=120, wrong=6))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
