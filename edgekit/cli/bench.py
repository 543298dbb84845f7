"""``edgekit bench``."""

from __future__ import annotations

import click

from edgekit.cli._options import keys_option, numbers, revoked, threads_option, trust_of
from edgekit.cli._output import bars, show
from edgekit.cli._remote import check_local, on_options

__all__ = ["command"]

_numbers = numbers(1, "whole numbers of at least 1, e.g. 1,8,32")


@click.command(name="bench")
@click.argument("bundle")
@click.option("--batches", default="1,8,32", show_default=True, callback=_numbers, help="Rows of a call.")
@click.option(
    "--lengths",
    default="16,32,64,128",
    show_default=True,
    callback=_numbers,
    help="Tokens of a row, special ones too; none for rows of one shape.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Time for each pair of batch and length.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--backend", default=None, help="Which of the bundle's backends. [default: its best]")
@threads_option
@on_options
@keys_option
def command(*, bundle, batches, lengths, seconds, as_json, backend, threads, where, python, identity, keys):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Time BUNDLE by batch and length: arrays in, outputs out (preprocessing is not in it; 'edgekit eval' has it).

    With --on the numbers are those of the device. Where it has no such bundle, or another one, BUNDLE is deployed first,
    see 'edgekit deploy', which has --python and --identity too.
    """
    with bars() as progress:
        if where is None:
            check_local()
            from edgekit.report.bench import bench

            result = bench(
                bundle,
                batches,
                lengths,
                seconds=seconds,
                backend=backend,
                threads=threads,
                trust=trust_of(keys),
                progress=progress,
            )
        else:
            from edgekit import deploy

            options = {
                "seconds": seconds,
                "backend": backend,
                "threads": threads,
                "python": python,
                "keys": keys,
                "identity": identity,
            }
            options["revoked"] = revoked()
            result = deploy.bench(bundle, where, batches, lengths, progress=progress, **options)
    show(result, as_json)
