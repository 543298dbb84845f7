"""``edgekit verify``."""

from __future__ import annotations

import click

from edgekit.cli._options import keys_option, trust_of
from edgekit.cli._output import echo_text

__all__ = ["command"]


@click.command(name="verify")
@click.argument("bundle")
@click.option("--files-only", is_flag=True, help="Check the files only; do not run the golden inputs.")
@click.option(
    "--require-golden",
    is_flag=True,
    help="Fail (exit 5) where no variant can be compared; use it on the device that BUNDLE is for.",
)
@keys_option
def command(bundle, files_only, require_golden, keys):  # type: ignore[no-untyped-def]
    """Check the files of BUNDLE against their digests, and its outputs on this machine against those of the build.

    A variant that cannot run on this machine is named and not compared: a bundle for another device passes by its
    files.
    """
    from edgekit.spec.errors import UsageError
    from edgekit.verbs.bundles import look_at

    if files_only and require_golden:
        raise UsageError(
            "--files-only and --require-golden contradict each other. Leave one out.", code="option-conflict"
        )
    result = look_at(bundle, files_only=files_only, trust=trust_of(keys))
    echo_text(result.text())
    result.check(require_golden)
