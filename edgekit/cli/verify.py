"""``edgekit verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli._options import keys_option, trust_of
from edgekit.cli._output import echo_text

if TYPE_CHECKING:
    from edgekit.bundle.trust import Bundle

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
def command(bundle, files_only, require_golden, keys):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Check the files of BUNDLE against their digests, and its outputs on this machine against those of the build.

    A variant that cannot run on this machine is named and not compared: a bundle for another device passes by its files.
    """
    from edgekit.bundle.trust import open_bundle
    from edgekit.spec.errors import IntegrityError, UsageError

    if files_only and require_golden:
        raise UsageError(
            "--files-only and --require-golden contradict each other. Leave one out.", code="option-conflict"
        )
    opened = open_bundle(bundle, trust_of(keys))
    echo_text(f"files: {len(opened.manifest.files)}, all as the manifest lists them{_signature(opened, bool(keys))}")
    if files_only:
        return
    from edgekit.runtime.verify import verify

    result = verify(opened)
    for variant in result.variants:
        echo_text(variant.text())
    if problem := result.problem():
        raise IntegrityError(
            f"The bundle does not compute here what it computed where it was built: {problem}. "
            "Another backend version or a CPU with other instructions can be the reason: build it again on such a machine.",
            code="golden-differs",
        )
    if require_golden and not result.compared:
        raise IntegrityError(
            "The files are right, but no variant could be compared with its golden inputs here, which --require-golden asks for. "
            "Install the backend that is named above, or verify on the device that the bundle is for.",
            code="golden-not-run",
        )


def _signature(opened: Bundle, is_checked: bool) -> str:
    """Return what is known of the bundle's signature, as the end of a sentence."""
    from edgekit.bundle.signature import stated_key

    if is_checked:
        return ", signed by a key that is trusted"
    key = stated_key(opened.path)
    if not key:
        return "; not signed"
    return f"; signed, and the signature was not checked: verify it with --key KEY.pub (its key id: {key})"
