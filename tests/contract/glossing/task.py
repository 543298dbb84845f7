"""Glossing: a picture and a text in, a gloss for some of the words of the text out. A toy of all that a task may ask of the rest at once.

Two graphs of different modalities: the picture is encoded once, the text is read two words at a time, and a state goes from call to call. This one file
is the task, its modality and its loop.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np

from edgekit.modalities.image import ImageModality
from edgekit.modalities.pixels import Pixels
from edgekit.runtime.loops import single
from edgekit.spec.errors import InputError, IntegrityError, SamplesError
from edgekit.spec.parsing import parse, plain, to_json
from edgekit.spec.protocols import Encoded, Metric, Truth, additive

LOOP = "glossing"
MODALITY = "glossing"

# ---- the task

LONGEST = 24
WER = Metric("WER", additive(lambda sums: sums[:, 0] / sums[:, 1]), higher_is_better=False)


@dataclass(frozen=True)
class Settings:
    """Words that are known, the first for all others, and the glosses, the first for none."""

    words: tuple[str, ...]
    glosses: tuple[str, ...]
    side: int


@dataclass(frozen=True)
class Glossed:
    """The answer for one input."""

    text: str
    truncated: bool


class Glossing:
    """The task of one model."""

    metrics = (WER,)
    max_size = LONGEST
    answers_quote_input = False

    def __init__(self, settings):
        self.settings = settings
        self.modality = PictureAndText(settings)
        self.identity = {"glosses": list(settings.glosses)}

    def check_signature(self, signature, shapes=()):
        side, glosses = self.settings.side, len(self.settings.glosses)
        known = {spec.name: spec.shape[1:] for spec in (*signature.inputs, *signature.outputs)}
        if (
            known.get("pixels", (3, side, side)) != (3, side, side)
            or known.get("scores", ("sequence", glosses))[1] != glosses
        ):
            raise IntegrityError(
                f"assets/task.json has pictures of {side} and {glosses} glosses, the graph '{signature.name}' has others."
            )

    def check_arrays(self, feeds):
        if "word" in feeds and feeds["word"].max() >= len(self.settings.words):
            raise InputError(
                f"The input word holds {feeds['word'].max()}, expected less than {len(self.settings.words)}."
            )

    def preprocess(self, inputs):
        return [self.modality.encode(value) for value in inputs]

    def postprocess(self, outputs, encoded):
        return [Glossed(text, row.truncated) for text, row in zip(self.describe(outputs), encoded, strict=True)]

    def labelled(self, rows):
        return [row.label is not None for row in rows]

    def parse_truth(self, rows, where):
        for number, row in enumerate(rows, 1):
            if not isinstance(row.label, str) or not set(row.label.split()) <= set(self.settings.glosses):
                raise SamplesError(f"{where}, row {number} has no label of known glosses. Correct it.")
        return Truth([tuple(row.label.split()) for row in rows])

    def merge_truth(self, values):
        return Counter(values).most_common(1)[0][0]

    def evidence(self, outputs, truth, metric):
        answers = [text.split() for text in self.describe(outputs)]
        pairs = [(edits(right, given), len(right)) for right, given in zip(truth, answers, strict=True)]
        table = np.array(pairs, np.float64).reshape(-1, 2)
        table[[bool(np.isnan(row["scores"]).any()) for row in outputs]] = np.nan
        return table

    def same_answer(self, outputs, reference):
        return np.array([a == b for a, b in zip(self.describe(outputs), self.describe(reference), strict=True)], bool)

    def divergence(self, outputs, reference):
        return np.array(
            [np.mean(divergence(a["scores"], b["scores"])) for a, b in zip(outputs, reference, strict=True)], np.float64
        )

    def decided(self, outputs, tolerance):
        tops = [np.sort(row["scores"].astype(np.float64), axis=1)[:, -2:] for row in outputs]
        return np.array([((top[:, 1] - top[:, 0]) / 2 >= tolerance).all() for top in tops], bool)

    def describe(self, outputs):
        found = [[self.settings.glosses[place] for place in row["scores"].argmax(axis=1) if place] for row in outputs]
        return [" ".join(glosses) for glosses in found]

    def describe_truth(self, truth):
        return [" ".join(glosses) for glosses in truth]


def edits(right, given):
    """Levenshtein distance of two lists of words."""
    row = list(range(len(given) + 1))
    for i, word in enumerate(right, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(given, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def divergence(scores, reference):
    """Kullback-Leibler divergence of each word's distribution."""
    x, y = (
        a.astype(np.float64) - np.logaddexp.reduce(a.astype(np.float64), axis=1, keepdims=True)
        for a in (scores, reference)
    )
    return (np.exp(y) * (y - x)).sum(axis=1)


def load(assets):
    return Glossing(parse(Settings, json.loads((assets / "task.json").read_bytes()), str(assets), IntegrityError))


def save(settings, assets):
    assets.mkdir(parents=True, exist_ok=True)
    (assets / "task.json").write_text(to_json(plain(settings)), "utf-8")


# ---- the modality


class PictureAndText:
    """Pairs of an image and a text: what is asked of one modality of EdgeKit's is asked of it, with the text beside."""

    roles = ("image", "text")
    reads_files = True

    def __init__(self, settings=None):
        pixels = settings and Pixels(settings.side, settings.side, resize=(settings.side, settings.side), scale=1 / 255)
        self.settings, self.images = settings, ImageModality(pixels)

    def read(self, columns, folder):
        if not isinstance(columns.get("text"), str) or not columns["text"].split():
            raise SamplesError("has no word in text, expected a text. Correct or remove the row.")
        return self.images.read({"image": columns["image"]}, folder), columns["text"]

    def content(self, value):
        return self.images.content(value[0]) + b"\0" + value[1].encode()

    def encode(self, value):
        if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[1], str) or not value[1].split():
            raise InputError("An input is no pair of an image and a text with a word. Give (IMAGE, TEXT).")
        known = {word: place for place, word in enumerate(self.settings.words)}
        places = [known.get(word, 0) for word in value[1].split()]
        (pixels,) = self.images.encode([value[0]])
        return Encoded(
            {"pixels": pixels, "word": np.array(places[:LONGEST], np.int64)}, truncated=len(places) > LONGEST
        )

    def size(self, arrays):
        return len(arrays["word"])

    def generate(self, count, longest, seed):
        draw = np.random.default_rng(seed)
        sizes = [*draw.integers(1, longest + 1, count - 1), longest]
        return [
            (image, self.text(draw, size))
            for image, size in zip(self.images.generate(count, longest, seed), sizes, strict=True)
        ]

    def text(self, draw, size):
        return " ".join(draw.choice(self.settings.words, size))

    def join(self, inputs, longest):
        words = " ".join(text for _, text in inputs).split()
        return [(inputs[0][0], " ".join((words * longest)[:longest]))]

    def cut(self, arrays, longest):
        return {**arrays, "word": arrays["word"][:longest]}

    def check(self, inputs, where):
        self.images.check([image for image, _ in inputs], where)

    @property
    def perturbations(self):
        def of_the_image(disturb):
            return lambda value, draw: (disturb(value[0], draw), value[1])

        return {name: of_the_image(disturb) for name, disturb in self.images.perturbations.items() if name != "shift"}

    def occlude(self, value, filler):
        words = value[1].split()
        return words, [(value[0], " ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]

    def filler(self):
        return ""

    def quote(self, value):
        return value[1]


UNBOUND = PictureAndText()

# ---- the loop

SIGNATURES = ("encode", "step")
AT_ONCE = 2


def run(engines, signatures, rows, shapes=(), options=None):
    return drive(engines, signatures, rows, lambda name, feeds: None)


def record(engines, signatures, rows):
    fed = {name: [] for name in SIGNATURES}
    drive(engines, signatures, rows, lambda name, feeds: fed[name].append(feeds))
    return fed


def calls(signatures, rows):
    return [rows]


def drive(engines, signatures, rows, see):
    """Encodes the pictures at once, then reads two words of every row at a time, with the state that the last call left."""
    encode, step = (signatures[name] for name in SIGNATURES)
    feeds = single.collate(encode, rows)
    see("encode", feeds)
    carried = dict(engines["encode"].run(feeds))
    for spec in step.inputs:
        if spec.name in {name for _, name in step.state}:
            carried[spec.name] = np.zeros((len(rows), *spec.shape[1:]), spec.dtype)
    scores = [[] for _ in rows]
    for start in range(0, max(len(row["word"]) for row in rows), AT_ONCE):
        part = [
            {"word": row["word"][start : start + AT_ONCE], **{n: carried[n][i] for n in ("memory", "state")}}
            for i, row in enumerate(rows)
        ]
        feeds = single.collate(step, part)
        see("step", feeds)
        outputs = engines["step"].run(feeds)
        carried |= {name: outputs[output] for output, name in step.state}
        for kept, answer in zip(scores, single.split(step, part, outputs), strict=True):
            kept.append(answer["scores"])
    return [{"scores": np.concatenate(kept)} for kept in scores]
