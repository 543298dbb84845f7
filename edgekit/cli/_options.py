"""Options that several verbs share, and how options are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import click

from edgekit.spec.errors import UsageError


def once(context: click.Context, param: click.Parameter, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Options that are given one by one, each with a name of its own, as a mapping."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise click.BadParameter(
            f"'{max(names, key=names.count)}' is named twice, expected once. Leave one out.", context, param
        )
    return dict(pairs)


def read_columns(context: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, str] | None:
    """Roles of all ``text=sentence,label=y`` together."""
    from edgekit.samples import parse_columns

    return once(context, param, [pair for text in texts for pair in parse_columns(text).items()]) if texts else None


def read_budget(context: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, float]:
    """Limits like ``accuracy_drop=0.01``."""
    limits = []
    for text in texts:
        key, _, number = text.partition("=")
        try:
            limits.append((key.strip(), float(number)))
        except ValueError:
            raise click.BadParameter(f"'{text}' is not KEY=NUMBER. Write e.g. --budget accuracy_drop=0.01.") from None
    return once(context, param, limits)


def read_students(context: click.Context, param: click.Parameter, texts: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Settings like ``layers=3,epochs=8``: whole numbers, numbers or text; ``keep=0/2/5`` is a list."""
    return tuple(once(context, param, [_setting(pair) for pair in text.split(",")]) for text in texts)


def _setting(pair: str) -> tuple[str, Any]:
    key, _, text = (part.strip() for part in pair.partition("="))
    if not text:
        raise click.BadParameter(f"'{pair}' is not KEY=VALUE. Write e.g. --distill layers=3,epochs=8.")
    parts = text.split("/")
    if key == "keep" and all(p.isdecimal() for p in parts):
        return key, [int(p) for p in parts]
    for kind in (int, float) if key != "student" else ():
        with contextlib.suppress(ValueError):
            return key, kind(text)
    return key, text


def numbers(least: int, what: str) -> Callable[[click.Context, click.Parameter, str | None], list[int] | None]:
    """A reader of whole numbers like ``1,8,32``."""

    def read(context: click.Context, param: click.Parameter, text: str | None) -> list[int] | None:
        wrong = f"'{text}' is not a list of {what}."
        try:
            found = None if text is None else [int(part) for part in text.split(",")]
        except ValueError:
            raise click.BadParameter(wrong) from None
        if found is not None and min(found) < least:
            raise click.BadParameter(wrong)
        return found

    return read


columns_option = click.option(
    "--columns",
    metavar="ROLE=COLUMN,...",
    multiple=True,
    callback=read_columns,
    help="Which column plays which role: text, text_pair, label. E.g. text=sentence,label=y; label=a|b: a 0 or 1 for each label.",
)
slices_option = click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="COLUMN",
    help="Also compare the rows of each value of this column by themselves. Repeatable.",
)
gates_option = click.option(
    "--gates",
    default=None,
    metavar="FILE",
    help="TOML with margins over the baseline and limits of the bundle. [default: +5 % p50, +10 % p90 ...]",
)
include_text_option = click.option(
    "--include-text",
    is_flag=True,
    help="Put texts of samples into the report. Without it there are none, only keyed hashes.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=None, help="Of all that is drawn. [default: 0]"
)
metric_option = click.option(
    "--metric",
    default=None,
    metavar="MODULE:NAME",
    help="A metric of your own in place of the task's first one: a function of (predictions, truths), e.g. scores:f2.",
)
max_time_option = click.option(
    "--max-time",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    metavar="SECONDS",
    help="How long the timing may go on while something is open. [default: 30]",
)
downgrade_option = click.option(
    "--allow-downgrade", is_flag=True, help="Replace also a bundle of another name, or a newer one."
)
_key_option = click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="FILE",
    help="Public key: the bundle must be signed by one of these. Repeatable.",
)


def keys_option(command: Any) -> Any:
    """``--key`` and ``--revoked``, as one argument ``keys`` for :func:`trust_of`."""
    revoked = click.option(
        "--revoked", metavar="FILE", default=None, expose_value=False, callback=_revoked, help=_REVOKED
    )
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
        raise UsageError(
            "--revoked goes with --key: without a key that is trusted nothing is asked of a signature. Give --key KEY.pub.",
            code="option-needs-other",
        )
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


def check_once(command: click.Command) -> None:
    """Makes a command refuse an option that is given twice and takes one value: click alone takes the last one and says nothing of the others."""
    if "parse_args" in vars(command):  # asked for before in this process
        return
    parse = command.parse_args

    def parse_args(context: click.Context, args: list[str]) -> list[str]:
        given = _order(command, context, list(args))
        for parameter in given:
            single = (
                isinstance(parameter, click.Option)
                and not parameter.multiple
                and not parameter.count
                and not parameter.is_flag
            )
            if single and given.count(parameter) > 1:
                name, times = max(parameter.opts, key=len), given.count(parameter)
                raise UsageError(
                    f"Option '{name}' is given {times} times, expected once. Leave out all but one.",
                    code="option-repeated",
                )
        return parse(context, args)

    command.parse_args = parse_args  # type: ignore[method-assign,assignment]  # commands differ in class, and this is the same for all


def _order(command: click.Command, context: click.Context, args: list[str]) -> list[Any]:
    """Parameters as the arguments name them; none where the arguments cannot be parsed, which click then says by itself."""
    try:
        return list(command.make_parser(context).parse_args(args)[2])
    except click.UsageError:
        return []
