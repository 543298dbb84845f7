"""Answers of a bundle against torch, and of rows in lists against the same rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _rounds import Side

BATCHES = (2, 8, 32)
Rows = Sequence[Any]
"""Outputs of each row: a mapping by name, or the logits themselves."""


def torch_logits(model: Path, texts: Sequence[str]) -> np.ndarray:
    """Return torch's logits of each text alone, float32 ``[rows, labels]``."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    module = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = [module(**tokenizer(text, return_tensors="pt", truncation=True)).logits[0] for text in texts]
    return torch.stack(rows).numpy()


def logits_of(rows: Rows) -> np.ndarray:
    """Return the logits of rows, float32 ``[rows, labels]``."""
    values = [next(iter(row.values())) if isinstance(row, Mapping) else row for row in rows]
    return np.asarray(values, np.float32)


def against_torch(reference: np.ndarray, rows: Rows, labels: Sequence[str], bundle: Path) -> dict[str, Any]:
    """Return accuracy, the number of labels that differ from torch's, and the errors of the logits."""
    logits = logits_of(rows)
    names = json.loads((bundle / "assets" / "task.json").read_text("utf-8"))["labels"]
    right = [names[i] == label for i, label in zip(logits.argmax(axis=1), labels, strict=True)]
    error = logits.astype(np.float64) - reference
    return {
        "rows": len(labels),
        "accuracy": float(np.mean(right)),
        "flips": int((logits.argmax(axis=1) != reference.argmax(axis=1)).sum()),
        "rms": float(np.sqrt(np.mean(error**2))),
        "largest_error": float(np.abs(error).max()),
    }


def in_lists(side: Side, bundle: Path, texts: Sequence[str], long: str, reference: np.ndarray) -> dict[str, Any]:
    """Return, for each way of putting rows into lists, how many answers differ from those to the rows alone.

    Near ties do not count: rows whose margin in torch is below what rounding may change, as a build counts them.

    Args:
        side: Process of the bundle.
        bundle: Folder of the bundle.
        texts: Rows.
        long: Row that each row shares a call with.
        reference: Logits of torch.
    """
    from edgekit import tasks
    from edgekit.search import agree

    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    task = tasks.get(manifest["task"]).load(bundle / "assets")
    method = manifest["variants"][0]["method"]
    alone = side.ask(do="outputs", lists=[texts], batched=False)["outputs"][0]
    name = next(iter(alone[0]))
    single = _named(name, alone)
    torch_rows = _named(name, list(reference))
    every = list(range(len(texts)))
    backwards = every[::-1]
    ways = {f"lists of {size}": _cut(every, size) for size in BATCHES} | {
        "one list": [every],
        "one list, reversed": [backwards],
        "lists of 32, reversed": _cut(backwards, 32),
    }
    results: dict[str, Any] = {}
    for way, orders in ways.items():
        replies = side.ask(do="outputs", lists=[[texts[i] for i in order] for order in orders], batched=True)["outputs"]
        listed = _named(name, [row for reply in replies for row in reply])
        order = [i for part in orders for i in part]
        results[way] = _difference(
            agree.compare(task, single, listed, order, torch_rows, method), listed, single, order
        )
    pairs = side.ask(do="outputs", lists=[[text, long] for text in texts], batched=True)["outputs"]
    listed = _named(name, [pair[0] for pair in pairs])
    results["beside a long row"] = _difference(
        agree.compare(task, single, listed, every, torch_rows, method), listed, single, every
    )
    return {"variant": f"{method} on {manifest['variants'][0]['backend']}", "lists": results}


def _named(name: str, rows: Rows) -> list[dict[str, np.ndarray]]:
    return [{name: row} for row in logits_of(rows)]


def _cut(order: Sequence[int], size: int) -> list[list[int]]:
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def _difference(agreement: Any, listed: Sequence[Any], single: Sequence[Any], order: Sequence[int]) -> dict[str, Any]:
    pairs = [(row, single[i]) for row, i in zip(listed, order, strict=True)]
    exact = sum(all(np.array_equal(a[k], b[k]) for k in a) for a, b in pairs)
    return {
        "labels": agreement.labels,
        "difference": agreement.difference,
        "allowed": agreement.allowed,
        "exact": exact,
    }
