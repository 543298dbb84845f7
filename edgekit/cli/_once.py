"""An option that takes one value is given once: click alone takes the last one and says nothing of the others."""

from __future__ import annotations

from typing import Any

import click


def check_once(command: click.Command) -> None:
    """Makes a command refuse an option that is given twice and takes one value."""
    if "parse_args" in vars(command):  # asked for before in this process
        return
    parse = command.parse_args

    def parse_args(context: click.Context, args: list[str]) -> list[str]:
        given = _order(command, context, list(args))
        for parameter in given:
            single = isinstance(parameter, click.Option) and not parameter.multiple and not parameter.count and not parameter.is_flag
            if single and given.count(parameter) > 1:
                name, times = max(parameter.opts, key=len), given.count(parameter)
                raise click.UsageError(f"Option '{name}' is given {times} times, expected once. Leave out all but one.")
        return parse(context, args)

    command.parse_args = parse_args  # type: ignore[method-assign,assignment]  # commands differ in class, and this is the same for all


def _order(command: click.Command, context: click.Context, args: list[str]) -> list[Any]:
    """Parameters as the arguments name them; none where the arguments cannot be parsed, which click then says by itself."""
    try:
        return list(command.make_parser(context).parse_args(args)[2])
    except click.UsageError:
        return []
