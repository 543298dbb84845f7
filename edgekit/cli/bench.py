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
@click.option(
    "--batches",
    default="1,8,32",
    show_default=True,
    callback=_numbers,
    help="Rows of a call; several joined by commas.",
)
@click.option(
    "--lengths",
    default="16,32,64,128",
    show_default=True,
    callback=_numbers,
    help="Tokens of a row, special tokens included; ignored for rows of one shape.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Measuring time for each pair of batch and length.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option(
    "--backend", default=None, metavar="NAME", help="Backend of the bundle that runs. [default: the best one]"
)
@threads_option
@on_options
@keys_option
def command(bundle, where, as_json, python, identity, keys, **timing):  # type: ignore[no-untyped-def]
    """Measure latency and throughput of BUNDLE by batch and length, on arrays, without preprocessing.

    'edgekit eval' measures from text to answer. With --on the times are those of the device; BUNDLE is deployed there
    first if the device has no such bundle, see 'edgekit deploy'.
    """
    with bars() as progress:
        from edgekit.spec.options import BenchOptions, DeployOptions

        options = BenchOptions(**timing)
        if where is None:
            check_local()
            from edgekit.report.bench import bench

            result = bench(bundle, options=options, trust=trust_of(keys), progress=progress)
        else:
            from edgekit import deploy

            login = DeployOptions(python=python, keys=keys, identity=identity, revoked=revoked())
            result = deploy.bench(bundle, where, options=options, login=login, progress=progress)
    show(result, as_json)
