"""``edgekit run``."""

from __future__ import annotations

import difflib
import os
import re
import stat
import sys
from typing import Any

import click

from edgekit.cli._options import backend_option, keys_option, threads_option, trust_of
from edgekit.cli._output import echo
from edgekit.spec.parsing import plain, to_json

__all__ = ["command"]

_BATCH = 256


# A known or mistyped option; a text has a space or a number after its dash.
_LIKE_AN_OPTION = re.compile(r"--?[A-Za-z][\w-]*(=\S*)?")


class _Texts(click.Command):
    """A command whose arguments may begin with a dash: "-5 degrees" is a text, a mistyped option is an error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Separate options from texts.

        Raises:
            NoSuchOption: If an option is unknown; the message says how to give such a text.
        """
        parameters = {
            name: p for p in self.get_params(ctx) for name in (*p.opts, *p.secondary_opts) if name.startswith("-")
        }
        options: list[str] = []
        texts: list[str] = []
        rest = iter(args)
        for argument in rest:
            name = argument.partition("=")[0]
            if argument == "--":
                texts += rest
            elif name in parameters:
                takes_value = (
                    isinstance(option := parameters[name], click.Option) and not option.is_flag and "=" not in argument
                )
                options += [argument, *([value] if takes_value and (value := next(rest, None)) is not None else [])]
            elif _LIKE_AN_OPTION.fullmatch(argument):
                hint = (
                    f"No such option: {name}. A text that begins with a dash goes after --: edgekit run BUNDLE -- TEXT."
                )
                raise click.NoSuchOption(name, hint, difflib.get_close_matches(name, parameters), ctx)
            else:
                texts.append(argument)
        return super().parse_args(ctx, [*options, "--", *texts])


@click.command(name="run", cls=_Texts)
@click.argument("bundle")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option(
    "--pair",
    is_flag=True,
    help="Read pairs of texts: two arguments, or two fields of a line split by a tab, are one input.",
)
@backend_option
@click.option(
    "--max-characters",
    type=click.IntRange(min=1),
    default=None,
    help="Longest text in characters. [default: 64 for each token of the longest row]",
)
@click.option(
    "--truncate", is_flag=True, help="Cut a longer text instead of refusing it; its answer has truncated: true."
)
@threads_option
@keys_option
def command(bundle, texts, pair, keys, **options):  # type: ignore[no-untyped-def]
    """Predict TEXTs with BUNDLE and print one JSON object a line.

    '-' alone reads one text a line from standard input. A text that begins with a dash goes after --:
    edgekit run BUNDLE -- TEXT... For a whole file, see: edgekit predict.
    """
    from edgekit.runtime.load import load
    from edgekit.spec.errors import InputError

    with load(bundle, **options, trust=trust_of(keys)) as session:
        if list(texts) != ["-"]:
            if pair and len(texts) % 2:
                raise InputError(
                    f"--pair got {len(texts)} texts, expected an even number. Give two for each example.",
                    code="pairs-odd",
                )
            _print(session, list(zip(texts[::2], texts[1::2], strict=True)) if pair else list(texts))
            return
        waiting: list[Any] = []
        # A file is read in batches. A pipe or a terminal is answered line by line, since its writer may wait for each
        # answer.
        batch = _BATCH if _is_file(sys.stdin) else 1
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as problem:
                raise InputError(
                    f"Line {number} of standard input is not UTF-8 ({problem.reason}). Convert it, e.g. with iconv.",
                    code="stdin-not-utf8",
                ) from problem
            fields = tuple(text.split("\t", 1))
            waiting.append(fields if pair else text)
            if pair and len(fields) != 2:
                raise InputError(
                    f"Line {number} of standard input has no tab, expected TEXT<tab>TEXT with --pair.",
                    code="stdin-no-tab",
                )
            if len(waiting) == batch:
                _print(session, waiting)
                waiting = []
        _print(session, waiting)


def _is_file(stream: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False


def _print(session: Any, inputs: list[Any]) -> None:
    for answer in session(inputs):
        echo(to_json(_rounded(plain(answer)), ensure_ascii=False))


def _rounded(value: Any) -> Any:
    """Return plain data with numbers of six decimals; more digits of a float32 are noise."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return value
