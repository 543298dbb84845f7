"""The answers of a candidate as the build cache keeps them: arrays as they are, costs and the machine's load in ``costs.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.machine.busy import Busy
from edgekit.search.race import Answers
from edgekit.spec.parsing import parse, plain, to_json

_ARRAYS = ("logits", "listed", "order")


def write(folder: Path, answers: Answers, load: Busy) -> None:
    """Writes answers, and how busy the machine was."""
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(answers, name))
    costs = {name: value for name, value in vars(answers).items() if name not in _ARRAYS}
    (folder / "costs.json").write_text(to_json([costs, plain(load)]), "utf-8")


def read(folder: Path) -> Answers:
    """The answers that :func:`write` wrote."""
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
    return Answers(**{**_costs(folder)[0], **arrays})


def busy(folder: Path) -> Busy:
    """How busy the machine was when they were made."""
    return parse(Busy, _costs(folder)[1], "build cache")


def _costs(folder: Path) -> Any:
    return json.loads((folder / "costs.json").read_text("utf-8"))
