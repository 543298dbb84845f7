"""The file ``assets/task.json``: the settings of a task for one model, with one reader and writer for all tasks."""

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
    """Read the settings of a bundle's task.

    Args:
        kind: Dataclass of the task's settings.
        assets: Folder ``assets`` of the bundle.

    Raises:
        IntegrityError: If the file is missing or malformed.
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
    """Write the file that :func:`read_settings` reads; create the folder if it is missing."""
    assets.mkdir(parents=True, exist_ok=True)
    text = to_json(plain(settings), indent=2, ensure_ascii=False, sort_keys=True)
    (assets / FILE).write_text(text + "\n", "utf-8")
