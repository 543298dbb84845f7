"""``assets/task.json``: what a task must know of a model, read and written in one way for every task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from edgekit.spec.content import Content
from edgekit.spec.errors import IntegrityError
from edgekit.spec.parsing import parse, plain, to_json

FILE = "task.json"
Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], assets: Content) -> Settings:
    """Reads the settings of a bundle's task.

    Args:
        kind: dataclass of the task's settings.
        assets: folder of the bundle.

    Raises:
        IntegrityError: when the file is missing or malformed.
    """
    path = assets / FILE
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise IntegrityError(
            f"{path} cannot be read ({problem}). Build or copy the bundle again.", code="bundle-assets"
        ) from problem
    return parse(kind, data, str(path), IntegrityError)


def write_settings(settings: Any, assets: Path) -> None:
    """Writes the file that :func:`read_settings` reads; makes the folder where there is none."""
    assets.mkdir(parents=True, exist_ok=True)
    (assets / FILE).write_text(to_json(plain(settings), indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
