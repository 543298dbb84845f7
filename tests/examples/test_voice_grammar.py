"""Tests of the generated voice commands of the first example."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "01_voice_commands"
CALIBRATION = ROOT / "calibration"


def _load() -> ModuleType:
    # The folder's name begins with a digit, so that it cannot be imported in the ordinary way.
    spec = importlib.util.spec_from_file_location("voice_commands_grammar", EXAMPLE / "grammar.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


grammar = _load()


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, str]]]:
    """All three splits of seed 0, with the template of each row."""
    return {split: grammar.generate(split, with_template=True) for split in ("train", "dev", "test")}


def _plain(text: str) -> str:
    """Write the text without capitals, punctuation and braces; not the grammar's own function, on purpose."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _words(template: str) -> set[str]:
    """Return the words of a template without its slots and without those words which say nothing."""
    words = set(re.sub(r"\{\w+\}", " ", template).replace(",", " ").split())
    return words - {"the", "a", "an", "in", "to", "for", "of", "at", "is", "i", "and", "on", "my", "with"}


def test_sizes(splits: dict[str, list[dict[str, str]]]) -> None:
    """Every split is as large as promised."""
    assert len(splits["train"]) >= 4000
    assert 700 <= len(splits["dev"]) <= 1000
    assert len(splits["test"]) >= 1000


def test_labels_and_balance(splits: dict[str, list[dict[str, str]]]) -> None:
    """Every split has all the labels, about equally often."""
    names = set(grammar.labels())
    assert 13 <= len(names) <= 20
    for rows in splits.values():
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == names
        assert max(counts.values()) <= 1.5 * min(counts.values())


def test_rows_are_mixed(splits: dict[str, list[dict[str, str]]]) -> None:
    """The labels come in mixed order."""
    for rows in splits.values():
        assert len({row["label"] for row in rows[:100]}) >= 12


def test_no_utterance_twice(splits: dict[str, list[dict[str, str]]]) -> None:
    """No utterance is in two splits or twice in one."""
    texts = [_plain(row["text"]) for rows in splits.values() for row in rows]
    assert len(texts) == len(set(texts))


def test_test_templates_are_new(splits: dict[str, list[dict[str, str]]]) -> None:
    """No template of the test split is a training template, with or without its slots."""
    seen = {_plain(row["template"]) for split in ("train", "dev") for row in splits[split]}
    held_out = {_plain(row["template"]) for row in splits["test"]}
    assert held_out
    assert not seen & held_out
    without_slots = {_plain(re.sub(r"\{\w+\}", "", row["template"])) for row in splits["train"]}
    assert not without_slots & {_plain(re.sub(r"\{\w+\}", "", row["template"])) for row in splits["test"]}


def test_test_templates_are_other_wordings() -> None:
    """A test template shares at most some of its words with any training template."""
    seen, held_out = grammar.templates("train"), grammar.templates("test")
    for label, texts in held_out.items():
        for text in texts:
            for other in seen[label]:
                common = len(_words(text) & _words(other)) / max(1, len(_words(text) | _words(other)))
                assert common <= 0.55, f"{label}: {text!r} is nearly {other!r}"


def test_every_template_is_used(splits: dict[str, list[dict[str, str]]]) -> None:
    """Each template gives at least one row."""
    for split in ("train", "test"):
        rows = splits[split]
        used = {row["template"] for row in rows}
        assert used == {text for texts in grammar.templates(split).values() for text in texts}


def test_texts_are_whole(splits: dict[str, list[dict[str, str]]]) -> None:
    """No slot is left open and no blank is too many."""
    for rows in splits.values():
        for row in rows:
            assert not re.search(r"[{}]|\s\s|^\s|\s$", row["text"])
            assert row["text"]


def test_both_ways_of_writing(splits: dict[str, list[dict[str, str]]]) -> None:
    """About half of the rows look like the output of a speech recogniser."""
    for rows in splits.values():
        recognised = sum(bool(re.fullmatch(r"[a-z' ]+", row["text"])) for row in rows)
        assert 0.3 * len(rows) < recognised < 0.7 * len(rows)


def test_same_seed_same_rows() -> None:
    """The rows depend on the seed and on nothing else."""
    assert grammar.generate("dev", seed=3) == grammar.generate("dev", seed=3)
    assert grammar.generate("dev", seed=3) != grammar.generate("dev", seed=4)


def test_unknown_split() -> None:
    """A wrong split name is refused."""
    with pytest.raises(ValueError, match="unknown split"):
        grammar.generate("training")


def test_write(tmp_path: Path) -> None:
    """The files hold what `generate` returns."""
    files = grammar.write(tmp_path / "data")
    assert {file.name for file in files.values()} == {"train.jsonl", "dev.jsonl", "test.jsonl"}
    for split, file in files.items():
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert rows == grammar.generate(split)
        assert all(set(row) == {"text", "label"} for row in rows)


def test_calibration_set_is_what_the_grammar_writes(tmp_path: Path) -> None:
    """The calibration set in the repository can be made again, byte for byte."""
    for made in grammar.write_calibration(tmp_path):
        assert (CALIBRATION / made.relative_to(tmp_path)).read_bytes() == made.read_bytes()


def test_calibration_description_fits_its_file(splits: dict[str, list[dict[str, str]]]) -> None:
    """The digest is right and the rows are training rows."""
    about = tomllib.loads((CALIBRATION / "voice-commands.toml").read_text(encoding="utf-8"))
    data = (CALIBRATION / about["file"]).read_bytes()
    assert about["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
    rows = [json.loads(line) for line in data.decode().splitlines()]
    assert len(rows) == 400
    assert about["count"] <= len(rows)
    train = {(row["text"], row["label"]) for row in splits["train"]}
    assert all((row[about["columns"]["text"]], row[about["columns"]["label"]]) in train for row in rows)
