"""Glossing with torch: the module, its two graphs, and what stands in for a processor. It is built from Python, and not trained here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from edgekit_glossing import task
from PIL import Image

from edgekit.spec.errors import ModelError
from edgekit.spec.head import Traced
from edgekit.spec.tensor import Signature, TensorSpec, merge_signatures

AUTO_CLASS = ""
ARCHITECTURES = "ForGlossing"
OPTIONS: dict[str, str] = {}
MODULE_OPTIONS = ()
ALIGNED = True
PADS: dict[str, float] = {}
NOUN = "vocabulary"
WIDTH, SIDE, PATCH = 32, 16, 4


@dataclass(frozen=True)
class Vocabulary:
    """What the model was trained with."""

    words: tuple[str, ...]
    glosses: tuple[str, ...]


class Glosser(torch.nn.Module):
    """What a picture shows and all words so far decide over the gloss of a word."""

    def __init__(self, vocabulary, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.patches = torch.nn.Linear(3 * PATCH * PATCH, WIDTH)
        self.words = torch.nn.Embedding(len(vocabulary.words), WIDTH)
        self.mix = torch.nn.Linear(WIDTH, WIDTH)
        self.gloss = torch.nn.Linear(WIDTH, len(vocabulary.glosses))
        with torch.no_grad():
            self.patches.weight *= 6
            self.mix.weight *= 3
            self.gloss.weight *= 8

    def encode(self, pixels):
        count = SIDE // PATCH
        patches = (
            pixels.reshape(-1, 3, count, PATCH, count, PATCH)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(-1, count * count, 3 * PATCH * PATCH)
        )
        return torch.tanh(self.patches(patches - 0.5)).mean(dim=1)

    def step(self, memory, word, state):
        means = torch.tanh(self.mix(self.words(word)))
        seen = state[:, None] + torch.cumsum(means, dim=1)
        return self.gloss(torch.tanh(2 * means + 0.4 * seen + 2 * memory[:, None])), seen[:, -1]


class Encode(torch.nn.Module):
    """The first graph."""

    def __init__(self, module):
        super().__init__()
        self.model = module

    def forward(self, *arrays):
        return self.model.encode(*arrays)


class Step(Encode):
    """The second."""

    def forward(self, *arrays):
        return self.model.step(*arrays)


def survey(model_id, config, folder, shapes, told):
    return "words", ()


def prepare(module, kind, told):
    return module


def settings(model_id, module, processor, kind):
    if module.gloss.out_features != len(processor.glosses):
        raise ModelError(
            f"{model_id} gives {module.gloss.out_features} glosses, its vocabulary has {len(processor.glosses)}."
        )
    return task.Settings(processor.words, processor.glosses, SIDE)


def save(settings, processor, assets):
    task.save(settings, assets)


def encode(settings, processor, inputs):
    rows = []
    for image, text in inputs:
        opened = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image).convert("RGB")
        pixels = np.asarray(opened.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1) / 255
        places = [processor.words.index(word) if word in processor.words else 0 for word in text.split()]
        rows.append({"pixels": pixels, "word": np.array(places[: task.LONGEST], np.int64)})
    return rows


def signatures(settings):
    state = TensorSpec("state", "float32", ("batch", WIDTH))
    memory = TensorSpec("memory", "float32", ("batch", WIDTH))
    pixels = TensorSpec("pixels", "float32", ("batch", 3, SIDE, SIDE))
    word = TensorSpec("word", "int64", ("batch", "sequence"), 0)
    scores = TensorSpec("scores", "float32", ("batch", "sequence", len(settings.glosses)))
    after = TensorSpec("state_after", "float32", ("batch", WIDTH))
    return Signature("encode", (pixels,), (memory,)), Signature(
        "step", (memory, word, state), (scores, after), (("state_after", "state"),)
    )


def signature(settings):
    return merge_signatures(signatures(settings))


def graphs(module, settings, processor):
    encode, step = signatures(settings)
    batch, sequence = torch.export.Dim("batch", min=1, max=2**16), torch.export.Dim("sequence", min=1, max=2**16)
    memory, state = torch.zeros(2, WIDTH), torch.ones(2, WIDTH)
    return [
        Traced(encode, Encode(module).eval(), (torch.rand(2, 3, SIDE, SIDE),), ({0: batch},)),
        Traced(
            step,
            Step(module).eval(),
            (memory, torch.ones(2, 3, dtype=torch.int64), state),
            ({0: batch}, {0: batch, 1: sequence}, {0: batch}),
        ),
    ]


def outputs(model_id, module, settings, rows, progress):
    """Word by word, row by row: the plainest loop there is."""
    found = []
    with torch.inference_mode():
        for row in rows:
            memory, state, scores = module.encode(torch.from_numpy(row["pixels"])[None]), torch.zeros(1, WIDTH), []
            for word in row["word"].tolist():
                score, state = module.step(memory, torch.tensor([[word]]), state)
                scores.append(score[0, 0])
            found.append({"scores": torch.stack(scores).numpy()})
    return found


def check_outputs(model_id, kind, outputs):
    pass
