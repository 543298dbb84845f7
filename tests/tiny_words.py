"""Tiny token classifiers of all supported architectures: random weights that answer with all labels, saved as ordinary Hugging Face folders."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import tiny
import torch
from transformers import AutoModelForTokenClassification

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
_WORK = tempfile.TemporaryDirectory(prefix="edgekit-tiny-words-")  # goes with the process


def tokenizer(name: str):
    """The tokenizer of ``tiny``; RoBERTa's with a space before the first word, as its words need it."""
    tokens = tiny.tokenizer(name)
    if name == "roberta":
        merges = [tuple(m) for m in json.loads(tokens.backend_tokenizer.to_str())["model"]["merges"]]
        tokens = type(tokens)(vocab=tokens.get_vocab(), merges=merges, add_prefix_space=True)
    tokens.model_max_length = tiny.MAX_LENGTH
    return tokens


def made(name: str, labels: tuple[str, ...] = LABELS):
    """A module and its tokenizer."""
    tokens = tokenizer(name)
    config = tiny.config(name, tokens)
    config.problem_type = None
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    torch.manual_seed(3)
    module = AutoModelForTokenClassification.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.2 / parameter.shape[-1] ** 0.5))
        answers = torch.cat(
            [module(**tokens(text, return_tensors="pt", truncation=True)).logits[0] for text in tiny.SENTENCES]
        )
        scale = 2 / answers.std(dim=0)
        module.classifier.bias.sub_(answers.mean(dim=0)).mul_(scale)
        module.classifier.weight.mul_(scale[:, None])
    return module, tokens


@functools.cache
def folder(name: str) -> Path:
    """The model folder of an architecture, made once a process. Read only: tests that change it copy it first."""
    path = Path(_WORK.name) / name
    module, tokens = made(name)
    module.save_pretrained(path)
    tokens.save_pretrained(path)
    return path
