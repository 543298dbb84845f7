"""Options that several verbs share, and functions that read their values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import click

from edgekit.spec.errors import UsageError


def once(context: click.Context, param: click.Parameter, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return options that are given one by one, each with a name, as a mapping; refuse a name that is given twice."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise click.BadParameter(
            f"'{max(names, key=names.count)}' is named twice, expected once. Leave one out.", context, param
        )
    return dict(pairs)


def read_columns(context: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, str] | None:
    """Return the roles of all ``text=sentence,label=y`` as one mapping."""
    from edgekit.samples import parse_columns

    if not texts:
        return None
    return once(context, param, [pair for text in texts for pair in parse_columns(text).items()])


def read_budget(context: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, float]:
    """Return limits such as ``accuracy_drop=0.01`` as a mapping."""
    limits = []
    for text in texts:
        key, _, number = text.partition("=")
        try:
            limits.append((key.strip(), float(number)))
        except ValueError:
            raise click.BadParameter(f"'{text}' is not KEY=NUMBER. Write e.g. --budget accuracy_drop=0.01.") from None
    return once(context, param, limits)


def read_students(context: click.Context, param: click.Parameter, texts: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Return settings such as ``layers=3,epochs=8``: whole numbers, numbers or text; ``keep=0/2/5`` is a list."""
    settings = []
    for text in texts:
        pairs = [_setting(pair) for pair in text.split(",")]
        settings.append(once(context, param, pairs))
    return tuple(settings)


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
    """Return a function that reads whole numbers such as ``1,8,32``."""

    def read(context: click.Context, param: click.Parameter, text: str | None) -> list[int] | None:
        if text is None:
            return None
        wrong = f"'{text}' is not a list of {what}."
        try:
            values = [int(part) for part in text.split(",")]
        except ValueError:
            raise click.BadParameter(wrong) from None
        if min(values) < least:
            raise click.BadParameter(wrong)
        return values

    return read


columns_option = click.option(
    "--columns",
    metavar="ROLE=COLUMN,...",
    multiple=True,
    callback=read_columns,
    help="Role of each column: text, text_pair, label. E.g. text=sentence,label=y; label=a|b for a column of 0 and 1 "
    "for each label.",
)
slices_option = click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="COLUMN",
    help="Column whose values are scored and compared one by one. Repeatable.",
)
gates_option = click.option(
    "--gates",
    default=None,
    metavar="FILE",
    help="TOML file of margins over the baseline and limits of the bundle. [default: +5 % p50, +10 % p90 ...]",
)
include_text_option = click.option(
    "--include-text",
    is_flag=True,
    help="Put texts of samples into the report; without it the report has only keyed hashes of them.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=None, help="Random seed for sampling and bootstrap. [default: 0]"
)
backend_option = click.option(
    "--backend",
    default=None,
    metavar="NAME",
    help="Backend of the bundle that runs. 'onnxruntime' for a bundle of a device that is not here is a stand-in: its "
    "graph runs on this CPU, accuracy and size are judged, latency is incomparable. [default: the best one]",
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
    help="Longest time for timing while a gate is undecided. Loading, predictions and the report are not part of it. "
    "[default: 30]",
)
downgrade_option = click.option(
    "--allow-downgrade", is_flag=True, help="Also replace a bundle of another name, or a newer one."
)
_key_option = click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="FILE",
    help="Public key; the bundle must be signed by one of them. Repeatable.",
)


def keys_option(command: Any) -> Any:
    """Add ``--key`` and ``--revoked``, as one argument ``keys`` for :func:`trust_of`."""
    revoked = click.option(
        "--revoked", metavar="FILE", default=None, expose_value=False, callback=_revoked, help=_REVOKED
    )
    return _key_option(revoked(command))


_REVOKED = "File of fingerprints of revoked keys, one a line. Needs --key."


def _revoked(context: click.Context, param: click.Parameter, value: str | None) -> None:
    context.meta[_REVOKED] = value


def revoked() -> str | None:
    """Return the file of ``--revoked``; None where it is not given."""
    return click.get_current_context().meta.get(_REVOKED)


def trust_of(keys: Sequence[str]) -> Any:
    """Return the trusted keys of the options above; None where a bundle of anybody may be opened.

    Raises:
        UsageError: If there is a revocation list without a key.
    """
    from edgekit.bundle.signature import Trust
    from edgekit.spec.errors import UsageError

    if revoked() and not keys:
        raise UsageError(
            "--revoked needs --key: without a trusted key no signature is checked. Give --key KEY.pub.",
            code="option-needs-other",
        )
    return Trust(keys, revoked=revoked() or ()) if keys else None


def given_options(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave; others keep the function's defaults or the values of ``edgekit.toml``."""
    return {name: value for name, value in options.items() if value is not None and value is not False and value != ()}


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=None,
    help="Threads of one call; on a GPU the number of calls at the same time. [default: as the bundle was tuned]",
)


def check_once(command: click.Command) -> None:
    """Make a command refuse an option that is given twice and takes one value: click alone would use the last one."""
    if "parse_args" in vars(command):  # this command was used before in this process
        return
    parse = command.parse_args

    def parse_args(context: click.Context, args: list[str]) -> list[str]:
        parameters = _order(command, context, list(args))
        for parameter in parameters:
            single = (
                isinstance(parameter, click.Option)
                and not parameter.multiple
                and not parameter.count
                and not parameter.is_flag
            )
            times = parameters.count(parameter)
            if single and times > 1:
                name = max(parameter.opts, key=len)
                raise UsageError(
                    f"Option '{name}' is given {times} times, expected once. Leave out all but one.",
                    code="option-repeated",
                )
        return parse(context, args)

    # Commands differ in class, and this function is the same for all.
    command.parse_args = parse_args  # type: ignore[method-assign,assignment]


def _order(command: click.Command, context: click.Context, args: list[str]) -> list[Any]:
    """Return the parameters in the order of the arguments; none if parsing fails, which click reports itself."""
    try:
        return list(command.make_parser(context).parse_args(args)[2])
    except click.UsageError:
        return []
