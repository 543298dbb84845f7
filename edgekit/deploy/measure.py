"""Evaluations and checks on a device: its own ``edgekit eval`` and ``edgekit check`` run there and return the result.

Samples are copied to a private folder of the device (mode 0700) beside the bundle, which is removed afterwards, also
after an error or an interrupt. The bundle is deployed first where the device has another one or none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.bundle.pack import SUFFIX, pack
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import MANIFEST, open_bundle
from edgekit.deploy._address import parse_url
from edgekit.deploy._ssh import Device
from edgekit.report import files as report_files
from edgekit.report.evaluate import BundleScores
from edgekit.spec.digests import sha256
from edgekit.spec.errors import RemoteError, UsageError
from edgekit.spec.options import DeployOptions
from edgekit.spec.parsing import parse
from edgekit.spec.progress import Progress, silent
from edgekit.spec.report import Report

__all__ = ["Connection", "evaluate", "report"]

_SAMPLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".gz")
_VERDICTS = (3, 4)  # exit codes of a regression and of something incomparable, which are results
_REPORT = "report"


@dataclass(frozen=True)
class Connection:
    """How a device is reached.

    Attributes:
        where: Address ``ssh://[user@]host[:port][/path]`` of the bundle there.
        python: Python on the device that has EdgeKit.
        keys: Public keys; the bundle must be signed by one of them.
        revoked: File of fingerprints of revoked keys; None for none.
        identity: Private key to log in with; None for those that ssh finds.
        ssh_options: Further arguments of ssh and scp.
    """

    where: str
    python: str = "python3"
    keys: Sequence[str | Path] = ()
    revoked: str | Path | None = None
    identity: str | Path | None = None
    ssh_options: Sequence[str] = ()
    progress: Progress = field(default=silent, compare=False)

    def deploy_options(self) -> DeployOptions:
        """Return the options of :func:`edgekit.deploy.deploy`."""
        names = [option.name for option in dataclasses.fields(DeployOptions)]
        return DeployOptions(**{name: value for name, value in vars(self).items() if name in names})


def evaluate(
    bundle: str | Path, files: Mapping[str, str | Path], arguments: Sequence[str], connection: Connection
) -> BundleScores:
    """Score a bundle on a device, as ``edgekit eval BUNDLE --samples FILE`` does there.

    Args:
        bundle: Folder of the bundle, on this machine.
        files: Option of ``edgekit eval`` to the file here that is its value, ``--samples`` among them.
        arguments: Further arguments of ``edgekit eval``.
        connection: Device and how it is reached.

    Raises:
        UsageError: If the samples cannot be copied as one file.
        EdgekitError: If a step fails, see :func:`edgekit.deploy.deploy`, or the evaluation on the device does.
    """
    with _open_device(bundle, files, connection) as (device, path, sent, _):
        output = device.json_verb("evaluate there", "eval", *sent, *arguments, "--json", "-", "--", path)
        scores = parse(BundleScores, output, f"what 'edgekit eval' on {device.address} wrote", RemoteError)
        return replace(scores, bundle=f"{device.address}:{path}")


def report(
    verb: str, bundle: str | Path, files: Mapping[str, str | Path], arguments: Sequence[str], connection: Connection
) -> Report:
    """Run ``edgekit eval -o`` or ``edgekit check`` on a device and return its report.

    Args:
        verb: ``eval`` or ``check``.
        bundle: Folder of the bundle, on this machine.
        files: Option of the verb to the file here that is its value; a folder is a bundle, e.g. of ``--baseline``.
        arguments: Further arguments of the verb.
        connection: Device and how it is reached.

    Raises:
        UsageError: If the samples cannot be copied as one file.
        EdgekitError: If a step fails, see :func:`edgekit.deploy.deploy`, or the verb on the device does.
    """
    with _open_device(bundle, files, connection) as (device, path, sent, stage):
        folder = f"{stage}/{_REPORT}"
        device.verb(f"{verb} there", verb, *sent, *arguments, "-o", folder, "--", path, accept=_VERDICTS)
        text = str(device.step("fetch the report", "fetch", f"{folder}/report.json")["text"])
    with tempfile.TemporaryDirectory(prefix="edgekit-report-") as scratch:
        file = Path(scratch) / "report.json"
        file.write_text(text, "utf-8")
        return report_files.read(file)


@contextlib.contextmanager
def _open_device(
    bundle: str | Path, files: Mapping[str, str | Path], connection: Connection
) -> Iterator[tuple[Device, str, list[str], str]]:
    """Deploy the bundle where need be and copy files to a private folder of the device.

    Yields:
        The device, the bundle's path there, the options with the copied files as their values, and the private folder.
    """
    for option, file in files.items():
        _check_file(option, Path(file))
    from edgekit import deploy as deployments  # here, since it is the longest chain of imports

    address = parse_url(connection.where)
    device = Device(address, connection.python, connection.identity, connection.ssh_options, connection.progress)
    keys = connection.keys
    revoked = connection.revoked
    opened = open_bundle(bundle, Trust(keys, revoked=revoked or ()) if keys else None)
    state = deployments.ask_device(device, opened, address)
    if state["manifest"] != sha256(opened.path / MANIFEST):
        deployments.deploy(bundle, connection.where, options=connection.deploy_options(), progress=connection.progress)
    path = str(state["path"])
    token = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="edgekit-measure-") as scratch:
        try:
            stage, sent = _send(device, path, token, _gather(Path(scratch), files, connection), Path(scratch))
            yield device, path, sent, stage
        finally:
            left = deployments.clean_device(device, path, token)
    if left:
        raise RemoteError(f"The samples could not be removed again.{left}", code="remote-clean")


def _check_file(option: str, file: Path) -> None:
    """Refuse what cannot be copied as one file, before anything is sent.

    Raises:
        UsageError: If it is refused; with the option and the file.
    """
    if not file.exists():
        raise UsageError(f"{option} {file} does not exist. Correct the path.", code="remote-file")
    if option == "--samples" and (not file.is_file() or file.suffix.lower() not in _SAMPLES):
        raise UsageError(
            f"{option} {file} cannot be copied to a device: expected one file of rows ({', '.join(_SAMPLES)}). "
            "Write the samples into such a file, or run the verb on the device itself.",
            code="remote-samples",
        )
    if file.is_dir() and not (file / MANIFEST).is_file():
        raise UsageError(
            f"{option} {file} is a folder and no bundle, which cannot be copied to a device. Give a file.",
            code="remote-file",
        )


def _gather(scratch: Path, files: Mapping[str, str | Path], connection: Connection) -> list[tuple[str, Path]]:
    """Return options and copies of their files in one folder, with names that need no quoting."""
    gathered = []
    for number, (option, source) in enumerate(files.items()):
        path = Path(source)
        if path.is_dir():
            gathered.append((option, pack(path, scratch / f"file{number}{SUFFIX}")))
        else:
            suffixes = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
            gathered.append((option, Path(shutil.copyfile(path, scratch / f"file{number}{suffixes.lower()}"))))
    for number, key in enumerate(connection.keys):
        gathered.append(("--key", Path(shutil.copyfile(key, scratch / f"key{number}.pub"))))
    if connection.revoked is not None and connection.keys:
        gathered.append(("--revoked", Path(shutil.copyfile(connection.revoked, scratch / "revoked"))))
    return gathered


def _send(
    device: Device, path: str, token: str, files: Sequence[tuple[str, Path]], scratch: Path
) -> tuple[str, list[str]]:
    """Copy files to a private folder of the device; return it, and the options with these files as values."""
    needed = 3 * sum(file.stat().st_size for _, file in files)
    room = device.step("make room", "prepare", path, token, str(needed))
    if int(room["free"]) < needed:
        raise RemoteError(
            f"The disk of {path} on {device.address} has {room['free'] / 2**20:.1f} MB free, "
            f"expected {needed / 2**20:.1f}. Free space there.",
            code="remote-disk-full",
        )
    stage = str(room["stage"])
    device.send("copy", scratch, [file.name for _, file in files], str(room["door"]))
    options = []
    for option, file in files:
        place = f"{stage}/{file.name}"
        if file.suffix == SUFFIX:
            unpacked = place.removesuffix(SUFFIX)
            device.verb("unpack there", "pack", "--unpack", "-o", unpacked, "--", place)
            place = unpacked
        options += [option, place]
    return stage, options
