"""``edgekit verify``."""

from __future__ import annotations

import click

from edgekit.cli._options import keys_option, trust_of
from edgekit.cli._output import echo


@click.command(name="verify")
@click.argument("bundle")
@click.option("--files-only", is_flag=True, help="Check the files, do not run the golden inputs (for a machine without the backend).")
@keys_option
def command(bundle, files_only, keys):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Check every file of BUNDLE against its digest, and that it computes here what it computed where it was built."""
    from edgekit.engines.trust import open_bundle
    from edgekit.spec.errors import IntegrityError

    opened = open_bundle(bundle, trust_of(keys))
    echo(f"files: {len(opened.manifest.files)}, all as the manifest lists them" + (", signed by a key that is trusted" if keys else ""))
    if files_only:
        return
    from edgekit.runtime.golden import TOLERANCE, check
    from edgekit.runtime.load import load

    with load(bundle, trust=trust_of(keys)) as session:
        result = check(session, opened.path)
        version = session.info
    text = f"golden: {result.rows} inputs on {version.backend} {version.backend_version} (built with {version.built_with}), "
    text += f"largest difference {result.difference:.2g} of the outputs' spread, {result.flips} label(s) changed"
    echo(text)
    if not result.passed:
        raise IntegrityError(
            f"The bundle does not compute here what it computed where it was built: {result.difference:.2g} of the spread, expected at most {TOLERANCE}. "
            "Another backend version or a CPU with other instructions can be why: build it again on such a machine."
        )
