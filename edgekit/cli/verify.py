"""``edgekit verify``."""

from __future__ import annotations

import click

from edgekit.cli._options import keys_option, trust_of
from edgekit.cli._output import echo

__all__ = ["command"]


@click.command(name="verify")
@click.argument("bundle")
@click.option("--files-only", is_flag=True, help="Check the files, do not run the golden inputs.")
@click.option(
    "--require-golden",
    is_flag=True,
    help="Fail (exit 5) where no variant can be compared: on the device that BUNDLE is for.",
)
@keys_option
def command(bundle, files_only, require_golden, keys):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Check every file of BUNDLE against its digest, and that it computes here what it computed where it was built.

    What cannot run on this machine is named, and not compared: a bundle for another machine passes by its files.
    """
    from edgekit.bundle.trust import open_bundle
    from edgekit.spec.errors import IntegrityError, UsageError

    if files_only and require_golden:
        raise UsageError(
            "--files-only and --require-golden contradict each other. Leave one out.", code="option-conflict"
        )
    opened = open_bundle(bundle, trust_of(keys))
    echo(
        f"files: {len(opened.manifest.files)}, all as the manifest lists them"
        + (", signed by a key that is trusted" if keys else "")
    )
    if files_only:
        return
    from edgekit.runtime.verify import verify

    found = verify(opened)
    for one in found.variants:
        echo(one.text())
    if problem := found.problem():
        raise IntegrityError(
            f"The bundle does not compute here what it computed where it was built: {problem}. "
            "Another backend version or a CPU with other instructions can be why: build it again on such a machine.",
            code="golden-differs",
        )
    if require_golden and not found.compared:
        raise IntegrityError(
            "The files are right, and no variant of the bundle could be compared with its golden inputs on this machine, which --require-golden asks for. "
            "Install the backend that is named above, or verify on the device that the bundle is for.",
            code="golden-not-run",
        )
