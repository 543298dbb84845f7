"""An extension of griffe, which reads docstrings for the API reference: cross-reference roles of Sphinx become literals.

``:func:`edgekit.load` `` is a role; Markdown knows none and would show it as it is written.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:\w+:)?\w+:`~?([^`]+)`")


class Roles(griffe.Extension):
    """Replace the roles in each docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"``\1``", obj.docstring.value)
