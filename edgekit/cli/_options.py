"""Option types that several verbs share."""

from __future__ import annotations

from typing import Any

import click


class Columns(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """``text=sentence,label=y``."""

    name = "ROLE=COLUMN,..."

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> dict[str, str]:
        """Reads the pairs."""
        from edgekit.samples import parse_columns

        return value if isinstance(value, dict) else parse_columns(value)


class Budget(click.ParamType):  # type: ignore[type-arg]
    """``accuracy_drop=0.01``."""

    name = "KEY=NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, float]:
        """Reads one pair."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        try:
            number = float(text)
        except ValueError:
            number = None
        if not equals or number is None:
            self.fail(f"'{value}' is not KEY=NUMBER. Write e.g. --budget accuracy_drop=0.01.", param, context)
        return key.strip(), number


columns_option = click.option(
    "--columns", type=Columns(), default=None, help="Which column plays which role: text, text_pair, label. E.g. text=sentence,label=y."
)
threads_option = click.option("--threads", type=click.IntRange(min=1), default=None, help="Threads of one call. [default: as the bundle was tuned]")
