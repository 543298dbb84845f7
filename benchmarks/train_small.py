"""Two small models on real data: a ViT from scratch on a part of CIFAR-10, and a MiniLM fine-tuned to tag parts of speech (UD English EWT).

    python benchmarks/train_small.py images cifar10.zip WORK
    python benchmarks/train_small.py words ud-english-ewt WORK --model MINILM

Writes the tables ``WORK/images/{train,dev,test}.jsonl`` beside the images and the model ``WORK/vit``; ``WORK/words/{train,dev,test}.jsonl`` and
``WORK/tagger``; and beside each model ``training.json``: settings, seconds, and the score on dev. Dev is a part of train that the model has not
seen. The treebank at hand has two parts alone: that of development is split into train and dev, that of test is for tests. A seed fixes it all.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

TAGS = (
    "ADJ",
    "ADP",
    "ADV",
    "AUX",
    "CCONJ",
    "DET",
    "INTJ",
    "NOUN",
    "NUM",
    "PART",
    "PRON",
    "PROPN",
    "PUNCT",
    "SCONJ",
    "SYM",
    "VERB",
    "X",
)
VIT = {
    "image_size": 32,
    "patch_size": 4,
    "hidden_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # on a CPU its random numbers take longer than the layers do
HELD_OUT = 150  # images of a class, the last of train
EVERY = 7  # sentence of the development part is held out
SHIFT = 4  # pixels that a crop may move
WARM_UP = 0.1
DEFAULTS = {
    "images": {"epochs": 16, "batch": 64, "rate": 1e-3, "decay": 0.05},
    "words": {"epochs": 4, "batch": 16, "rate": 2e-4, "decay": 0.01},
}


def main() -> None:
    """Parses, makes the tables, trains, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=tuple(DEFAULTS))
    parser.add_argument("data", type=Path, help="cifar10.zip, or the folder of the treebank's .conllu.gz files")
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path, help="folder of the pretrained MiniLM, for words")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = {**DEFAULTS[options.task], "seed": options.seed} | ({"epochs": options.epochs} if options.epochs else {})
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    if options.task == "images":
        folder, found = options.work / "vit", train_images(options.data, options.work, settings)
    else:
        folder, found = options.work / "tagger", train_words(options.data, options.work, options.model, settings)
    found |= {"settings": settings, "seconds": round(time.perf_counter() - start), "threads": torch.get_num_threads()}
    (folder / "training.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found))


def train_images(archive: Path, work: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A classifier from scratch, taught with flips and shifted crops."""
    import transformers

    parts = write_images(archive, work / "images")
    labels = sorted({row["label"] for row in parts["train"]})
    processor = transformers.ViTImageProcessorPil(size={"height": VIT["image_size"], "width": VIT["image_size"]})
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    config = transformers.ViTConfig(**VIT, **names, **NO_DROPOUT)
    model = transformers.ViTForImageClassification(config)
    arrays = {
        name: (pixels(rows, work / "images", processor), torch.tensor([labels.index(r["label"]) for r in rows]))
        for name, rows in parts.items()
    }
    values, targets = arrays["train"]

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for rows in torch.randperm(len(values)).split(settings["batch"]):
            yield {"pixel_values": augment(values[rows]), "labels": targets[rows]}

    def score() -> float:
        seen, right = arrays["dev"]
        answers = torch.cat([model(pixel_values=v).logits.argmax(-1) for v in seen.split(250)])
        return float((answers == right).float().mean())

    found = fit(model, batches, -(-len(values) // settings["batch"]), score, settings)
    model.save_pretrained(work / "vit")
    processor.save_pretrained(work / "vit")
    return {**found, "rows": {name: len(rows) for name, rows in parts.items()}}


def write_images(archive: Path, folder: Path) -> dict[str, list[dict[str, str]]]:
    """The images as files, and a table for each part; labels are the names of their folders."""
    parts: dict[str, list[dict[str, str]]] = {"train": [], "dev": [], "test": []}
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".jpg"))
        packed.extractall(folder, names)
    for name in names:
        part, label, file = name.split("/")
        parts[part].append({"image": name, "label": label, "file": file})
    last = sorted({row["file"] for row in parts["train"]})[-HELD_OUT:]
    parts["dev"] = [row for row in parts["train"] if row["file"] in last]
    parts["train"] = [row for row in parts["train"] if row["file"] not in last]
    for name, rows in parts.items():
        random.Random(0).shuffle(rows)  # so that the first rows of a table have all labels
        write_table(folder / f"{name}.jsonl", [{"image": row["image"], "label": row["label"]} for row in rows])
    return parts


def pixels(rows: list[dict[str, str]], folder: Path, processor: Any) -> torch.Tensor:
    """What the image processor makes of all images: float32 ``[rows, 3, height, width]``."""
    from PIL import Image

    return torch.cat(
        [
            processor(images=Image.open(folder / row["image"]).convert("RGB"), return_tensors="pt")["pixel_values"]
            for row in rows
        ]
    )


def augment(values: torch.Tensor) -> torch.Tensor:
    """Half of the images mirrored, each moved by some pixels with black around it."""
    values = torch.where(torch.rand(len(values), 1, 1, 1) < 0.5, values.flip(-1), values)
    size = values.shape[-1]
    wide = torch.nn.functional.pad(values, (SHIFT,) * 4, value=-1.0)
    moves = torch.randint(0, 2 * SHIFT + 1, (len(values), 2)).tolist()
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(wide, moves, strict=True)])


def train_words(folder: Path, work: Path, model_folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A tagger: the first token of each word has its tag, all others none."""
    import transformers

    parts = write_words(folder, work / "words")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    names = {"id2label": dict(enumerate(TAGS)), "label2id": {label: i for i, label in enumerate(TAGS)}}
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        model_folder, **names, **NO_DROPOUT, dtype=torch.float32
    )
    rows = {name: [encode(tokenizer, row) for row in parts[name]] for name in ("train", "dev")}

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        # Rows of like length together, so that little of a batch is padding; equally long ones and the batches themselves are mixed.
        order = sorted(range(len(rows["train"])), key=lambda i: (len(rows["train"][i][0]), random.random()))
        groups = [order[start : start + settings["batch"]] for start in range(0, len(order), settings["batch"])]
        random.shuffle(groups)
        for group in groups:
            yield pad([rows["train"][i] for i in group], tokenizer.pad_token_id)

    def score() -> float:
        right = total = 0
        for ids, labels in rows["dev"]:
            answers = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
            right += sum(a == b for a, b in zip(answers, labels, strict=True))
            total += sum(b >= 0 for b in labels)
        return right / total

    found = fit(model, batches, -(-len(rows["train"]) // settings["batch"]), score, settings)
    model.save_pretrained(work / "tagger")
    tokenizer.save_pretrained(work / "tagger")
    return {**found, "rows": {name: len(part) for name, part in parts.items()}}


def write_words(folder: Path, out: Path) -> dict[str, list[dict[str, Any]]]:
    """A table for each part: words and their universal tags."""
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "dev": []}
    for place, sentence in enumerate(sentences(folder / "en_ewt-ud-dev.conllu.gz")):
        parts["dev" if place % EVERY == 0 else "train"].append(sentence)
    parts["test"] = list(sentences(folder / "en_ewt-ud-test.conllu.gz"))
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        write_table(out / f"{name}.jsonl", rows)
    return parts


def sentences(file: Path) -> Iterator[dict[str, Any]]:
    """The sentences of a CoNLL-U file: words, tags, and the text as it was written.

    Ranges (``3-4``, the written form of several words) and empty nodes (``8.1``) are no words.
    """
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        words: list[str] = []
        tags: list[str] = []
        text = ""
        for line in lines:
            columns = line.rstrip("\n").split("\t")
            if line.startswith("# text = "):
                text = line[len("# text = ") :].rstrip("\n")
            elif columns[0].isdigit():
                words.append(columns[1])
                tags.append(columns[3])
            elif columns == [""] and words:
                yield {"words": words, "label": tags, "text": text}
                words, tags = [], []


def encode(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Token ids, and the index of a word's tag at its first token; -100 elsewhere."""
    encoded = tokenizer(row["words"], is_split_into_words=True, truncation=True)
    labels, before = [], None
    for word in encoded.word_ids():
        labels.append(-100 if word is None or word == before else TAGS.index(row["label"][word]))
        before = word
    return encoded["input_ids"], labels


def pad(rows: list[tuple[list[int], list[int]]], filler: int) -> dict[str, torch.Tensor]:
    """One batch of rows of several lengths."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [filler] * (longest - len(row)) for row, _ in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.tensor([row + [-100] * (longest - len(row)) for _, row in rows]),
    }


def fit(model: Any, batches: Any, steps: int, score: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """AdamW with a rate that rises and falls along a cosine; scored on dev after each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), settings["rate"], weight_decay=settings["decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings["rate"], total_steps=steps * settings["epochs"], pct_start=WARM_UP
    )
    scores = []
    for epoch in range(settings["epochs"]):
        start, losses = time.perf_counter(), []
        model.train()
        for batch in batches():
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
        model.eval()
        with torch.inference_mode():
            scores.append(round(score(), 4))
        print(
            f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, dev {scores[-1]}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return {"dev": scores, "parameters": sum(p.numel() for p in model.parameters())}


def write_table(file: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
