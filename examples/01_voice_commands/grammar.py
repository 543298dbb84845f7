"""Generates labelled voice commands for a home assistant from the TOML files beside it.

The training and the dev split are drawn from the same templates but share no utterance. The test split is drawn from
other templates, so that its accuracy says how well a model copes with wordings which it has not seen.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import tomllib

SPLITS = ("train", "dev", "test")
ROWS_PER_LABEL = {"train": 290, "dev": 50, "test": 75}
CALIBRATION_ROWS = 400
CALIBRATION_COUNT = 300

_SLOT = re.compile(r"\{(\w+)\}")
_QUESTION = re.compile(r"^(could|can|would|what|will|is|are|how|why|do|does|did|should|any|got)\b", flags=re.IGNORECASE)
_ONES = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@cache
def _toml(name: str) -> dict[str, Any]:
    """Read a TOML file of this folder, once."""
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


def labels() -> list[str]:
    """Return the names of the intents, sorted."""
    return sorted(_toml("templates_train.toml"))


def templates(split: str) -> dict[str, list[str]]:
    """Return the templates that a split is drawn from.

    Args:
        split: "train", "dev" or "test". The training and the dev split have the same templates.

    Returns:
        The templates of each label.
    """
    return {label: [text for text, _ in _templates_of(label, split)] for label in labels()}


def generate(split: str, seed: int = 0, with_template: bool = False) -> list[dict[str, str]]:
    """Generate one split.

    Args:
        split: "train", "dev" or "test".
        seed: The same seed gives the same rows, and only splits of the same seed are sure to share no utterance.
        with_template: Whether to add the key "template", which holds the template that the row was made from.

    Returns:
        Rows with the keys "text" and "label", the same number of each label, in mixed order.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    rows: list[dict[str, str]] = []
    for label in labels():
        seen: set[str] = set()
        drawn: dict[str, list[dict[str, str]]] = {}
        # Always in the same order and with one set of what was said, whichever split is wanted: this is what keeps
        # an utterance from getting into two splits.
        for name in SPLITS:
            rng = random.Random(f"{seed}/{name}/{label}")
            drawn[name] = list(_draw(label, name, rng, seen))
        rows += drawn[split]
    random.Random(f"{seed}/{split}/order").shuffle(rows)
    if not with_template:
        rows = [{"text": row["text"], "label": row["label"]} for row in rows]
    return rows


def write(folder: str | Path, seed: int = 0) -> dict[str, Path]:
    """Write train.jsonl, dev.jsonl and test.jsonl, one JSON object a line.

    Args:
        folder: Where to write; made if it does not exist.
        seed: See `generate`.

    Returns:
        The file of each split.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: folder / f"{split}.jsonl" for split in SPLITS}
    for split, file in files.items():
        file.write_bytes(_jsonl(generate(split, seed)))
    return files


def write_calibration(folder: str | Path) -> tuple[Path, Path]:
    """Write the calibration set: voice-commands.toml and data/voice-commands.jsonl.

    The rows are the first rows of the training split of seed 0.

    Args:
        folder: Where to write; made if it does not exist.

    Returns:
        The description (TOML) and the data (JSON lines).
    """
    folder = Path(folder)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    data = _jsonl(generate("train")[:CALIBRATION_ROWS])
    data_file = folder / "data" / "voice-commands.jsonl"
    data_file.write_bytes(data)
    toml_file = folder / "voice-commands.toml"
    toml_file.write_bytes(
        "\n".join(
            [
                'name = "voice-commands"',
                'description = "Short commands to a home assistant, typed or as a speech recogniser writes them '
                '(English, 16 intents, generated)"',
                'file = "data/voice-commands.jsonl"',
                'columns = { text = "text", label = "label" }',
                f"count = {CALIBRATION_COUNT}",
                "seed = 0",
                f'digest = "sha256:{hashlib.sha256(data).hexdigest()}"',
                "",
            ]
        ).encode()
    )
    return toml_file, data_file


def normal_form(text: str) -> str:
    """Return an utterance without capitals and punctuation: what counts when two utterances are compared."""
    return " ".join(re.sub(r"[^\w\s']", " ", _spell_numbers(text).lower()).split())


def _jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _templates_of(label: str, split: str) -> list[tuple[str, bool]]:
    """Return each template of a label with whether it is an order (or else a statement or a question)."""
    intent = _toml("templates_test.toml" if split == "test" else "templates_train.toml")[label]
    return [(text, True) for text in intent["orders"]] + [(text, False) for text in intent["sayings"]]


def _draw(label: str, split: str, rng: random.Random, seen: set[str]) -> Iterator[dict[str, str]]:
    """Draw the rows of one label, going round the templates so that each is used about equally often."""
    queue: list[tuple[str, bool]] = []
    wanted = ROWS_PER_LABEL[split]
    for _ in range(wanted * 50):
        if not wanted:
            return
        if not queue:
            queue = _templates_of(label, split)
            rng.shuffle(queue)
        template, order = queue.pop()
        text = _say(template, order, rng)
        key = normal_form(text)
        # A short template such as "play music" runs out of new utterances; the next one takes its turn.
        if key not in seen:
            seen.add(key)
            wanted -= 1
            yield {"text": text, "label": label, "template": template}
    if wanted:
        raise RuntimeError(f"the templates of {label!r} ({split}) cannot give {ROWS_PER_LABEL[split]} utterances")


def _say(template: str, order: bool, rng: random.Random) -> str:
    """Turn a template into an utterance: fill the slots, be polite or not, and write it like a person or a machine."""
    words = _fill(template, rng)
    manner = _toml("slots.toml")["manner"]
    polite = ""
    if order and rng.random() < 0.45:
        polite = rng.choice(manner["polite_start"])
        words = f"{polite} {words}"
    if rng.random() < 0.55:
        for long, short in manner["contractions"]:
            words = re.sub(rf"\b{long}\b", short, words)
    question = bool(_QUESTION.match(words)) and not (order and not polite)
    if rng.random() < 0.15 and "please" not in polite:
        words = f"{words}{', ' if rng.random() < 0.5 else ' '}{rng.choice(manner['polite_end'])}"
    if rng.random() < 0.15:
        words = f"{rng.choice(manner['address'])}, {words}"
    if rng.random() < 0.5:
        return _as_recognised(words, rng)
    words = re.sub(r"\bi\b", "I", words)
    words = words[0].upper() + words[1:]
    return words + rng.choice(("?", "?", "") if question else (".", ".", "", "!"))


def _fill(template: str, rng: random.Random) -> str:
    """Put a value into each slot; a slot that comes twice gets two different values."""
    slots = _toml("slots.toml")["slots"]
    left: dict[str, list[str]] = {}

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in left:
            left[name] = rng.sample(slots[name], template.count(match[0]))
        return left[name].pop()

    return _SLOT.sub(value, template)


def _as_recognised(words: str, rng: random.Random) -> str:
    """Write an utterance as a speech recogniser does: lower case, no punctuation, and what slips into speech."""
    said = normal_form(words).split()
    if rng.random() < 0.2:
        said.insert(rng.randrange(len(said)), rng.choice(_toml("slots.toml")["manner"]["filler"]))
    if rng.random() < 0.06:
        place = rng.randrange(len(said))
        said.insert(place, said[place])
    return " ".join(said)


def _spell_numbers(text: str) -> str:
    """Write numbers below 100 and times of day in words."""

    def number(value: int) -> str:
        if value < len(_ONES):
            return _ONES[value]
        tens, ones = divmod(value, 10)
        return f"{_TENS[tens]} {_ONES[ones]}" if ones else _TENS[tens]

    def time(match: re.Match[str]) -> str:
        hour, minute = int(match[1]), int(match[2])
        return f"{number(hour)} {'oh ' if minute < 10 else ''}{number(minute)}"

    text = re.sub(r"\b(\d{1,2}):(\d{2})\b", time, text)
    return re.sub(r"\b\d{1,2}\b", lambda match: number(int(match[0])), text)
