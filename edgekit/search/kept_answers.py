"""What a candidate answered and cost, as the build cache keeps it: outputs in ``alone.npz`` and ``listed.npz``, costs and the machine's load in JSON."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit.machine.busy import Busy
from edgekit.search.kept import read_rows, write_rows
from edgekit.search.results import CandidateResult
from edgekit.spec.parsing import parse, plain, to_json

__all__ = ["read", "write"]

_ROWS = ("outputs", "listed")


def write(folder: Path, result: CandidateResult, busy: Busy) -> None:
    """Writes a result, and how busy the machine was."""
    write_rows(folder / "alone.npz", result.outputs)
    write_rows(folder / "listed.npz", result.listed)
    costs = {name: value for name, value in vars(result).items() if name not in _ROWS}
    (folder / "costs.json").write_text(to_json([costs, plain(busy)]), "utf-8")


def read(folder: Path) -> tuple[CandidateResult, Busy]:
    """The result that :func:`write` wrote, and how busy the machine was."""
    costs, busy = json.loads((folder / "costs.json").read_text("utf-8"))
    costs["order"] = tuple(costs["order"])
    result = CandidateResult(outputs=read_rows(folder / "alone.npz"), listed=read_rows(folder / "listed.npz"), **costs)
    return result, parse(Busy, busy, "build cache")
