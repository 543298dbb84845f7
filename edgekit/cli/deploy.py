"""``edgekit deploy``."""

from __future__ import annotations

import click

from edgekit.cli._options import downgrade_option, keys_option, revoked
from edgekit.cli._output import bars, show
from edgekit.cli._remote import identity_option, python_option
from edgekit.spec.parsing import to_json

__all__ = ["command"]


@click.command(name="deploy")
@click.argument("bundle")
@click.argument("where", metavar="ssh://[USER@]HOST[:PORT][/PATH]")
@keys_option
@downgrade_option
@python_option
@identity_option
@click.option("--report", default=None, metavar="FILE", help="Also write the result as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle, where, report, as_json, **options):  # type: ignore[no-untyped-def]
    """Copy BUNDLE to a device over ssh, compile its engines there, and verify its outputs on the golden inputs.

    It goes to ~/edgekit/NAME there, or to PATH (/~/PATH is below the login's home), and replaces an existing bundle
    only after all steps succeeded. The device needs Python 3.10, edgekit-sdk[cli] and the bundle's backend; files are
    copied by scp, or through ssh alone where the device has no SFTP server. Your ssh configuration, agent and known
    hosts apply; a host that is unknown or shows another key is refused.
    """
    from edgekit.deploy import deploy
    from edgekit.spec.options import DeployOptions

    with bars() as progress:
        login = DeployOptions(revoked=revoked(), **options)
        result = deploy(bundle, where, options=login, progress=progress)
    show(result, as_json)
    if report:
        from edgekit.report.files import write_text

        write_text(report, to_json(result.record(), indent=2) + "\n")
