"""Option types that several verbs share."""

from __future__ import annotations

from collections.abc import Sequence
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


class Pairs(click.ParamType):  # type: ignore[type-arg]
    """``layers=3,epochs=8``: whole numbers, numbers or text; ``keep=0/2/5`` is a list."""

    name = "KEY=VALUE,..."

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> dict[str, Any]:
        """Reads the pairs."""
        if isinstance(value, dict):
            return value
        read: dict[str, Any] = {}
        for part in value.split(","):
            key, equals, text = (p.strip() for p in part.partition("="))
            if not equals or not text:
                self.fail(f"'{part}' is not KEY=VALUE. Write e.g. --distill layers=3,epochs=8.", param, context)
            if key in read:
                self.fail(f"'{key}' is named twice in '{value}', expected once. Leave one out.", param, context)
            read[key] = self._value(key, text)
        return read

    @staticmethod
    def _value(key: str, text: str) -> Any:
        if key == "student":
            return text
        parts = text.split("/")
        if key == "keep" and all(p.isdecimal() for p in parts):
            return [int(p) for p in parts]
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                pass
        return text


def once(context: click.Context, param: click.Parameter, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Options that are given one by one, each with a name of its own, as a mapping."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise click.BadParameter(f"'{max(names, key=names.count)}' is named twice, expected once. Leave one out.", context, param)
    return dict(pairs)


def _columns(context: click.Context, param: click.Parameter, groups: Sequence[dict[str, str]]) -> dict[str, str] | None:
    """Roles of all ``--columns`` together."""
    return once(context, param, [pair for group in groups for pair in group.items()]) if groups else None


columns_option = click.option(
    "--columns",
    type=Columns(),
    multiple=True,
    callback=_columns,
    help="Which column plays which role: text, text_pair, label. E.g. text=sentence,label=y; label=a|b: a 0 or 1 for each label.",
)
slices_option = click.option(
    "--slice", "slices", multiple=True, metavar="COLUMN", help="Also compare the rows of each value of this column by themselves. Repeatable."
)
gates_option = click.option(
    "--gates", default=None, metavar="FILE", help="TOML with margins over the baseline and limits of the bundle. [default: +5 % p50, +10 % p90 ...]"
)
include_text_option = click.option("--include-text", is_flag=True, help="Put texts of samples into the report. Without it there are none, only keyed hashes.")
seed_option = click.option("--seed", type=click.IntRange(min=0), default=None, help="Of all that is drawn. [default: 0]")
max_time_option = click.option(
    "--max-time",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    metavar="SECONDS",
    help="How long the timing may go on while something is open. [default: 30]",
)
downgrade_option = click.option("--allow-downgrade", is_flag=True, help="Replace also a bundle of another name, or a newer one.")
_key_option = click.option("--key", "keys", multiple=True, metavar="FILE", help="Public key: the bundle must be signed by one of these. Repeatable.")


def keys_option(command: Any) -> Any:
    """``--key`` and ``--revoked``, as one argument ``keys`` for :func:`trust_of`."""
    revoked = click.option("--revoked", metavar="FILE", default=None, expose_value=False, callback=_revoked, help=_REVOKED)
    return _key_option(revoked(command))


_REVOKED = "Fingerprints of keys that are trusted no more, one a line. It goes with --key."


def _revoked(context: click.Context, param: click.Parameter, value: str | None) -> None:
    context.meta[_REVOKED] = value


def revoked() -> str | None:
    """The file of ``--revoked``."""
    return click.get_current_context().meta.get(_REVOKED)


def trust_of(keys: Sequence[str]) -> Any:
    """Whose bundles may be opened, of the options above; None for anybody's.

    Raises:
        UsageError: for a revocation list without a key.
    """
    from edgekit.bundle.signature import Trust
    from edgekit.spec.errors import UsageError

    if revoked() and not keys:
        raise UsageError("--revoked goes with --key: without a key that is trusted nothing is asked of a signature. Give --key KEY.pub.")
    return Trust(keys, revoked=revoked() or ()) if keys else None


def given(**options: Any) -> dict[str, Any]:
    """Those that were given; the others are left to the function's own defaults, or to ``edgekit.toml``."""
    return {name: value for name, value in options.items() if value is not None and value is not False and value != ()}


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=None,
    help="Threads of one call, on a GPU calls at the same time. [default: as the bundle was tuned]",
)
