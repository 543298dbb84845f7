"""One peer, one task, one process: input to answer at batch 1, decoding of images and tokenizing included. Prints one JSON line.

    ENVIRONMENT/bin/python benchmarks/real_peer.py PEER {images|words} MODEL DATA.jsonl --work WORK --calib TRAIN.jsonl

An image goes in as the path of its JPEG, a sentence as a text (its words with a space between them); answers are those of the Transformers pipeline, or
of a session. Rows in the order of the file, 20 of them to warm up, then one pass. A peer's artifact is made at its first run. It runs in
each peer's own environment, so it imports nothing of EdgeKit and holds to what Transformers 4.57 and 5 share.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = time.perf_counter()
TASKS = {"images": "image-classification", "words": "token-classification"}
CLASSES = {"images": "ForImageClassification", "words": "ForTokenClassification"}
CALIBRATION = 300
WARM_UP = 20


def main() -> None:
    """Parses, makes the artifact where it is not there, measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("torch", "ort-fp32", "ort-int8", "ov-fp32", "ov-int8", "edgekit"))
    parser.add_argument("task", choices=tuple(TASKS))
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the artifacts of the peers")
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=10**9)
    parser.add_argument("--cold", action="store_true", help="stop at the first answer")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    inputs, truth = read(options.data, options.task, options.limit)
    folder = options.work / f"{options.peer}-{options.task}"
    if options.peer.startswith("o") and not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (make_ort if options.peer.startswith("ort") else make_ov)(options, folder)
        (folder / "done").touch()
        os.execv(sys.executable, [sys.executable, *sys.argv])  # in a process that has not made it
    answer, artifact = {"t": torch_peer, "o": optimum_peer, "e": edgekit_peer}[options.peer[0]](options, folder)
    answer(inputs[0])
    found: dict[str, Any] = {
        "peer": options.peer,
        "task": options.task,
        "cold_s": round(time.perf_counter() - START, 3),
    }
    if not options.cold:
        found |= measure(answer, inputs, truth)
    found |= {
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "art_mb": round(size(artifact) / 2**20, 2),
    }
    print(json.dumps(found))


def read(file: Path, task: str, limit: int) -> tuple[list[Any], list[Any]]:
    """Inputs, and right labels: of an image, or of each word."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()][:limit]
    if task == "images":
        return [str(file.parent / row["image"]) for row in rows], [row["label"] for row in rows]
    return [" ".join(row["words"]) for row in rows], [(row["words"], row["label"]) for row in rows]


def measure(answer: Callable[[Any], Any], inputs: list[Any], truth: list[Any]) -> dict[str, Any]:
    """Times of all rows, and how many of them (of words, where rows have words) are right."""
    for value in inputs[:WARM_UP]:
        answer(value)
    times, right, total = [], 0, 0
    for value, wanted in zip(inputs, truth, strict=True):
        start = time.perf_counter()
        found = answer(value)
        times.append(time.perf_counter() - start)
        hits = [found == wanted] if isinstance(wanted, str) else of_words(found, *wanted)
        right, total = right + sum(hits), total + len(hits)
    times.sort()
    quantiles = {f"p{q}_ms": round(times[int(q / 100 * (len(times) - 1))] * 1e3, 3) for q in (50, 90, 99)}
    return {**quantiles, "mean_ms": round(sum(times) / len(times) * 1e3, 3), "acc": round(right / total, 4)}


def of_words(found: list[tuple[str, int, int]], words: list[str], labels: list[str]) -> list[bool]:
    """Whether the entity that covers the beginning of each word has the word's label."""
    hits, place = [], 0
    for word, label in zip(words, labels, strict=True):
        hits.append(any(start <= place < end and kind == label for kind, start, end in found))
        place += len(word) + 1
    return hits


def of_pipeline(made: Any, task: str) -> Callable[[Any], Any]:
    """What a pipeline answers, as labels alone."""
    if task == "images":
        return lambda path: made(path)[0]["label"]
    return lambda text: [(e["entity_group"], e["start"], e["end"]) for e in made(text)]


def parts(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a pipeline: Pillow's image processor, or the tokenizer; entities as EdgeKit makes them by default."""
    if options.task == "images":
        return {"image_processor": image_processor(options.model)}
    from transformers import AutoTokenizer

    return {"tokenizer": AutoTokenizer.from_pretrained(options.model), "aggregation_strategy": "simple"}


def image_processor(model: Path) -> Any:
    """The processor that Pillow computes: by its own class where there is one, since AutoImageProcessor of some releases asks for torchvision even then."""
    import transformers

    if hasattr(transformers, "ViTImageProcessorPil"):
        return transformers.ViTImageProcessorPil.from_pretrained(model)
    return transformers.ViTImageProcessor.from_pretrained(model)


def torch_peer(options: argparse.Namespace, folder: Path) -> tuple[Callable[[Any], Any], Path]:
    """The pipeline of Transformers, float32."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(options.threads)
    made = pipeline(TASKS[options.task], model=str(options.model), device="cpu", dtype=torch.float32, **parts(options))
    return of_pipeline(made, options.task), options.model


def optimum_peer(options: argparse.Namespace, folder: Path) -> tuple[Callable[[Any], Any], Path]:
    """The pipeline with a model of optimum-onnx or optimum-intel."""
    if options.peer.startswith("ort"):
        import onnxruntime
        import optimum.onnxruntime
        from optimum.pipelines import pipeline

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        file = "model_quantized.onnx" if options.peer == "ort-int8" else "model.onnx"
        model = getattr(optimum.onnxruntime, "ORTModel" + CLASSES[options.task]).from_pretrained(
            folder, session_options=settings, file_name=file
        )
        return of_pipeline(
            pipeline(TASKS[options.task], model=model, accelerator="ort", **parts(options)), options.task
        ), folder / file
    import optimum.intel
    from transformers import pipeline

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(options.threads)}
    if options.peer == "ov-fp32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    model = getattr(optimum.intel, "OVModel" + CLASSES[options.task]).from_pretrained(folder, ov_config=config)
    return of_pipeline(
        pipeline(TASKS[options.task], model=model, **parts(options)), options.task
    ), folder / "openvino_model.bin"


def edgekit_peer(options: argparse.Namespace, folder: Path) -> tuple[Callable[[Any], Any], Path]:
    """A session of a bundle."""
    import edgekit

    session = edgekit.load(options.model)
    if options.task == "images":
        return lambda path: session(path).label, options.model
    return lambda text: [(e.label, e.start, e.end) for e in session(text).entities], options.model


def make_ort(options: argparse.Namespace, folder: Path) -> None:
    """Exports with optimum-onnx; quantizes as its own settings for AVX-512 with VNNI say, activations as they come."""
    import optimum.onnxruntime
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    with contextlib.redirect_stdout(io.StringIO()):
        getattr(optimum.onnxruntime, "ORTModel" + CLASSES[options.task]).from_pretrained(
            options.model, export=True
        ).save_pretrained(folder)
        if options.peer == "ort-int8":
            settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
            ORTQuantizer.from_pretrained(folder).quantize(save_dir=folder, quantization_config=settings)


def make_ov(options: argparse.Namespace, folder: Path) -> None:
    """Converts with optimum-intel; quantizes with ranges of the first calibration rows."""
    import optimum.intel

    with contextlib.redirect_stdout(io.StringIO()):
        model = getattr(optimum.intel, "OVModel" + CLASSES[options.task]).from_pretrained(
            options.model, export=True, compile=False
        )
        if options.peer == "ov-fp32":
            model.save_pretrained(folder)
            return
        from datasets import Dataset

        inputs, _ = read(options.calib, options.task, CALIBRATION)
        if options.task == "images":
            from PIL import Image

            process = image_processor(options.model)
            rows = [
                {
                    "pixel_values": process(images=Image.open(path).convert("RGB"), return_tensors="np")[
                        "pixel_values"
                    ][0]
                }
                for path in inputs
            ]
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(options.model)
            rows = [dict(tokenizer(text)) for text in inputs]
        settings = optimum.intel.OVConfig(quantization_config=optimum.intel.OVQuantizationConfig(num_samples=len(rows)))
        quantizer = optimum.intel.OVQuantizer.from_pretrained(model)
        quantizer.quantize(
            calibration_dataset=Dataset.from_list(rows), save_directory=folder, ov_config=settings, batch_size=1
        )


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    )


if __name__ == "__main__":
    main()
