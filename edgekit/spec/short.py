"""Short reprs: one line for an object at the prompt or in a log, without large arrays and without texts of samples."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from itertools import islice
from typing import Any

__all__ = ["ShortRepr", "shorten"]

_ITEMS = 4  # of a sequence or mapping that are shown
_CHARACTERS = 60  # of a text that are shown


class _Shortener(reprlib.Repr):
    """The shortener of the standard library, with the order of mappings left as it is and arrays by their shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _CHARACTERS
        self.maxlevel = 3

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, float):
            return f"{x:.4g}"
        if isinstance(x, ShortRepr):
            return repr(x)
        if isinstance(x, Mapping):
            pairs = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in islice(x.items(), _ITEMS)]
            return "{" + _join(pairs, len(x)) + "}"
        if isinstance(x, (list, tuple)):
            items = [self.repr1(item, level - 1) for item in x[:_ITEMS]]
            ends = "[]" if isinstance(x, list) else "()"
            comma = "," if len(x) == 1 and isinstance(x, tuple) else ""
            return ends[0] + _join(items, len(x)) + comma + ends[1]
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            return f"<{x.dtype} {list(x.shape)}>"
        return super().repr1(x, level)


def _join(items: list[str], count: int) -> str:
    more = [f"... {count - len(items)} more"] if count > len(items) else []
    return ", ".join([*items, *more])


_SHORTENER = _Shortener()


def shorten(value: object) -> str:
    """Return the repr of a value in few characters.

    Args:
        value: Any object. Sequences and mappings show their first items and how many more there are, arrays their dtype
            and shape, floats four digits, texts about 60 characters.
    """
    return _SHORTENER.repr(value)


class ShortRepr:
    """A base of dataclasses whose repr is short; the dataclass is declared with ``repr=False``."""

    def __repr__(self) -> str:
        """Return the class and its fields that take part in the repr, each shortened."""
        fields = [field.name for field in dataclasses.fields(self) if field.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={shorten(getattr(self, name))}' for name in fields)})"
