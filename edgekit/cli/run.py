"""``edgekit run``."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import Any

import click

from edgekit.cli._options import keys_option, threads_option, trust_of

_BATCH = 256


@click.command(name="run")
@click.argument("bundle")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--pair", is_flag=True, help="Texts are pairs: two arguments, or two fields of a line split by a tab, make one example.")
@click.option("--backend", default=None, help="Which of the bundle's backends. [default: its best]")
@click.option("--max-characters", type=click.IntRange(min=1), default=None, help="Of the longest text that is taken. [default: 64 a token of the longest row]")
@click.option("--truncate", is_flag=True, help="Cut a longer text in place of refusing it; its answer says truncated.")
@threads_option
@keys_option
def command(bundle, texts, pair, backend, max_characters, truncate, threads, keys):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Answer TEXTs with BUNDLE, one JSON object a line. '-' alone reads one text a line from standard input."""
    from edgekit.runtime.load import load
    from edgekit.spec.errors import InputError

    options = {"backend": backend, "threads": threads, "max_characters": max_characters, "truncate": truncate}
    with load(bundle, **options, trust=trust_of(keys)) as session:
        if list(texts) != ["-"]:
            if pair and len(texts) % 2:
                raise InputError(f"--pair got {len(texts)} texts, expected an even number. Give two for each example.")
            _print(session, list(zip(texts[::2], texts[1::2], strict=True)) if pair else list(texts))
            return
        waiting: list[Any] = []
        # A file is read in batches; a pipe or a terminal is answered line by line: whoever writes there may wait for it.
        batch = _BATCH if _is_file(sys.stdin) else 1
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as problem:
                raise InputError(f"Line {number} of standard input is not UTF-8 ({problem.reason}). Convert it, e.g. with iconv.") from problem
            fields = tuple(text.split("\t", 1))
            waiting.append(fields if pair else text)
            if pair and len(fields) != 2:
                raise InputError(f"Line {number} of standard input has no tab, expected TEXT<tab>TEXT with --pair.")
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
        record = {"label": answer.label, "score": round(answer.score, 6)}
        if len(answer.labels) != 1 or answer.labels[0] != answer.label:
            record["labels"] = list(answer.labels)
        if answer.truncated:
            record["truncated"] = True
        click.echo(json.dumps(record, ensure_ascii=False))
