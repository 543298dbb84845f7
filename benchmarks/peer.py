"""One side of a comparison in a process of its own: loads a bundle or a peer's model, and answers requests on its
standard input.

    ENVIRONMENT/bin/python benchmarks/peer.py SIDE {texts|images|words} MODEL [--work WORK] [--calib TRAIN.jsonl]

A text goes in as it is, an image as the path of its JPEG, a sentence of words as a text; answers are those of the
Transformers pipeline, or of a session. SIDE is ``edgekit`` (MODEL is a bundle) or a peer, whose artifact must have
been made by ``--make``. With ``--first TEXT`` the process ends after its first answer. It runs in the environment
of each side, so it imports nothing of EdgeKit but the session, and holds to what Transformers 4.57 and 5 share.
Requests and replies are JSON, one a line, see ``_rounds.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

TASKS = {"texts": "text-classification", "images": "image-classification", "words": "token-classification"}
CLASSES = {
    "texts": "ForSequenceClassification",
    "images": "ForImageClassification",
    "words": "ForTokenClassification",
}
PEERS = ("torch", "ort-fp32", "ort-int8", "ov-fp32", "ov-int8")
CALIBRATION = 300
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Loads the side, then answers until standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("edgekit", *PEERS))
    parser.add_argument("task", choices=tuple(TASKS))
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, help="folder for the artifacts of the peers")
    parser.add_argument("--calib", type=Path, help="rows that ranges are taken from")
    parser.add_argument("--threads", type=int, default=2, help="of a peer; a bundle has its own")
    parser.add_argument("--hint", default="LATENCY", help="for OpenVINO in a peer: LATENCY or THROUGHPUT")
    parser.add_argument("--make", action="store_true", help="make the peer's artifact where it is not there, and end")
    parser.add_argument("--first", metavar="INPUT", help="answer this alone, and end")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    folder = Path() if options.work is None else options.work / f"{options.side}-{options.task}"
    if options.make:
        if options.side.startswith("o") and not (folder / "done").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (make_ort if options.side.startswith("ort") else make_ov)(options, folder)
            (folder / "done").touch()
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a suspended process cannot see a closed pipe
    side = {"e": open_bundle, "t": open_torch, "o": open_optimum}[options.side[0]](options, folder)
    if options.first is not None:
        send(replies, {"answer": side["answer"](options.first)})
        send(replies, {"peak_mb": peak_mb()})
        return
    send(replies, {})
    for line in sys.stdin:
        send(replies, reply(side, json.loads(line)))


def send(replies: Any, message: dict[str, Any]) -> None:
    """Writes one reply."""
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def reply(side: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """What a request gets.

    ``each``: the milliseconds of each input and its answer, after the inputs of ``warm``. ``list``: those of all
    in one call, in batches of ``batch`` (a session chooses its own). ``outputs``: the raw output of each input of each list. ``memory``: the peak so far.
    """
    kind = request["do"]
    if kind == "each":
        for value in request["warm"]:
            side["answer"](value)
        times, answers = [], []
        for value in request["inputs"]:
            start = time.perf_counter()
            answer = side["answer"](value)
            times.append((time.perf_counter() - start) * 1e3)
            answers.append(answer)
        return {"ms": times, "answers": answers}
    if kind == "list":
        start = time.perf_counter()
        answers = side["list"](request["inputs"], request["batch"])
        return {"ms": (time.perf_counter() - start) * 1e3, "answers": answers}
    if kind == "outputs":
        return {"outputs": [side["outputs"](inputs, request["batched"]) for inputs in request["lists"]]}
    return {"peak_mb": peak_mb()}


def peak_mb() -> float:
    """Peak resident memory of this process alone: ``ru_maxrss`` would begin with that of the parent."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def open_bundle(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A session of a bundle."""
    import edgekit

    session = edgekit.load(options.model)

    def label(answer: Any) -> Any:
        return [(e.label, e.start, e.end) for e in answer.entities] if options.task == "words" else answer.label

    def outputs(inputs: list[Any], batched: bool) -> Any:
        if not hasattr(session, "outputs"):  # at commit b27babd
            return session.logits(inputs, batched=batched).tolist()
        rows = session.outputs(inputs, batched=batched)
        return [{name: array.tolist() for name, array in row.items()} for row in rows]

    return {
        "answer": lambda value: label(session(value)),
        "list": lambda inputs, batch: [label(answer) for answer in session(inputs)],
        "outputs": outputs,
    }


def of_pipeline(made: Any, task: str) -> dict[str, Any]:
    """What a pipeline answers, as labels alone."""

    def label(answer: Any) -> Any:
        if task == "words":
            return [(e["entity_group"], e["start"], e["end"]) for e in answer]
        return answer["label"] if isinstance(answer, dict) else answer[0]["label"]

    return {
        "answer": lambda value: label(made(value)),
        "list": lambda inputs, batch: [label(answer) for answer in made(inputs, batch_size=batch)],
    }


def parts(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a pipeline: Pillow's image processor, or the tokenizer; entities as EdgeKit makes them."""
    if options.task == "images":
        return {"image_processor": image_processor(options.model)}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    return {"tokenizer": tokenizer, **({"aggregation_strategy": "simple"} if options.task == "words" else {})}


def image_processor(model: Path) -> Any:
    """The processor that Pillow computes: by its own class where there is one, since AutoImageProcessor of some
    releases asks for torchvision even then.
    """
    import transformers

    if hasattr(transformers, "ViTImageProcessorPil"):
        return transformers.ViTImageProcessorPil.from_pretrained(model)
    return transformers.ViTImageProcessor.from_pretrained(model)


def open_torch(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The pipeline of Transformers, float32."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(options.threads)
    made = pipeline(TASKS[options.task], model=str(options.model), device="cpu", dtype=torch.float32, **parts(options))
    return of_pipeline(made, options.task)


def open_optimum(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The pipeline with a model of optimum-onnx or optimum-intel."""
    if options.side.startswith("ort"):
        import onnxruntime
        import optimum.onnxruntime
        from optimum.pipelines import pipeline

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        file = "model_quantized.onnx" if options.side == "ort-int8" else "model.onnx"
        model = getattr(optimum.onnxruntime, "ORTModel" + CLASSES[options.task]).from_pretrained(
            folder, session_options=settings, file_name=file
        )
        made = pipeline(TASKS[options.task], model=model, accelerator="ort", **parts(options))
        return of_pipeline(made, options.task)
    import optimum.intel
    from transformers import pipeline

    config = {"PERFORMANCE_HINT": options.hint, "INFERENCE_NUM_THREADS": str(options.threads)}
    if options.side == "ov-fp32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    model = getattr(optimum.intel, "OVModel" + CLASSES[options.task]).from_pretrained(folder, ov_config=config)
    return of_pipeline(pipeline(TASKS[options.task], model=model, **parts(options)), options.task)


def make_ort(options: argparse.Namespace, folder: Path) -> None:
    """Exports with optimum-onnx; quantizes as its own settings for AVX-512 with VNNI say, activations as they come."""
    import optimum.onnxruntime
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    with contextlib.redirect_stdout(io.StringIO()):
        getattr(optimum.onnxruntime, "ORTModel" + CLASSES[options.task]).from_pretrained(
            options.model, export=True
        ).save_pretrained(folder)
        if options.side == "ort-int8":
            settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
            ORTQuantizer.from_pretrained(folder).quantize(save_dir=folder, quantization_config=settings)


def make_ov(options: argparse.Namespace, folder: Path) -> None:
    """Converts with optimum-intel; quantizes with ranges of the first calibration rows."""
    import optimum.intel

    with contextlib.redirect_stdout(io.StringIO()):
        model = getattr(optimum.intel, "OVModel" + CLASSES[options.task]).from_pretrained(
            options.model, export=True, compile=False
        )
        if options.side == "ov-fp32":
            model.save_pretrained(folder)
            return
        from datasets import Dataset

        rows = calibration_rows(options)
        settings = optimum.intel.OVConfig(quantization_config=optimum.intel.OVQuantizationConfig(num_samples=len(rows)))
        quantizer = optimum.intel.OVQuantizer.from_pretrained(model)
        quantizer.quantize(
            calibration_dataset=Dataset.from_list(rows), save_directory=folder, ov_config=settings, batch_size=1
        )


def calibration_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The model's inputs for the first rows of the calibration file."""
    with open(options.calib, encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(CALIBRATION), strict=False)]
    if options.task == "images":
        from PIL import Image

        process = image_processor(options.model)
        images = [Image.open(options.calib.parent / row["image"]).convert("RGB") for row in rows]
        return [{"pixel_values": process(images=i, return_tensors="np")["pixel_values"][0]} for i in images]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    texts = [row["text"] if options.task == "texts" else " ".join(row["words"]) for row in rows]
    return [dict(tokenizer(text)) for text in texts]


if __name__ == "__main__":
    main()
