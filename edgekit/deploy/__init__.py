"""A bundle onto another machine, over OpenSSH, and what it comes to there.

The device needs Python, EdgeKit with its command line, and a backend. The bundle is copied beside its place, checked against its digests,
compiled where it is to be, and run on its golden inputs; then it is moved to its place. So what the device cannot run never takes the
place of what it can.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.bundle.install import check_install, check_successor
from edgekit.bundle.pack import SUFFIX, pack
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import MANIFEST, Bundle, open_bundle
from edgekit.deploy._ssh import Address, Device, parse_url
from edgekit.deploy._there import COPY
from edgekit.report.bench import Bench
from edgekit.spec.digests import sha256
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import EdgekitError, IntegrityError, RemoteError, UsageError
from edgekit.spec.parsing import Recorded, parse
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent

__all__ = ["Address", "Deployed", "bench", "deploy", "parse_url"]

_LOG = logging.getLogger(__name__)

_OLDEST = (3, 10)  # Python of the device runtime
_PACKED = f"bundle{SUFFIX}"
_REVOKED = "revoked"


@dataclass(frozen=True, repr=False)
class Deployed(Recorded):
    """What a deployment came to.

    Attributes:
        device: ``[user@]host[:port]``.
        path: of the bundle there.
        system: the device's operating system and machine.
        python: its version there.
        edgekit: its version there.
        manifest: sha256 of the bundle's manifest.
        size_mb: of the bundle, MiB.
        replaced: whether a bundle was there before.
        seconds: that it took.
        compiled: what ``edgekit compile`` said there; None for a bundle that was chosen where it was built.
        verified: what ``edgekit verify`` said there.
        doctor: what ``edgekit doctor`` said there.
    """

    device: str
    path: str
    system: str
    python: str
    edgekit: str
    manifest: str
    size_mb: float
    replaced: bool
    seconds: float
    compiled: Mapping[str, Any] | None
    verified: str
    doctor: Mapping[str, Any]

    def text(self) -> str:
        """For a terminal."""
        there = ", in place of the bundle that was there" if self.replaced else ""
        board, gpu = (found if isinstance(found := self.doctor.get(name), Mapping) else {} for name in ("board", "gpu"))
        named = [
            board.get("model"),
            self.doctor.get("cpu"),
            gpu.get("name"),
            f"Python {self.python}",
            f"EdgeKit {self.edgekit}",
        ]
        lines = [
            f"Deployed to {self.device}:{self.path}, {self.size_mb:.1f} MB, in {self.seconds:.0f} s{there}.",
            f"device: {', '.join(str(name) for name in (self.system, *named) if name)}",
        ]
        if self.compiled is not None:
            lines.append(f"runs there: {self.compiled.get('chosen', '-')}, {self.compiled.get('reason', '-')}")
        return "\n".join([*lines, self.verified])


@takes_paths("bundle", "keys", "revoked", "identity")
def deploy(
    bundle: str | Path,
    where: str,
    *,
    python: str = "python3",
    keys: Sequence[str | Path] = (),
    revoked: str | Path | None = None,
    allow_downgrade: bool = False,
    identity: str | Path | None = None,
    ssh_options: Sequence[str] = (),
    progress: Progress = silent,
) -> Deployed:
    """Brings a bundle to a device, makes its engines there where it has any, and checks that it computes there what it is to.

    The user's own ssh configuration, agent and known hosts apply. A host whose key is not known, or is another one, is refused. What is
    copied for the time being is removed again, also after an error or an interrupt; where the connection is lost for good, the next
    deployment to that place after a day removes it.

    Args:
        bundle: its folder.
        where: ``ssh://[user@]host[:port][/path]``; by default it goes to ``~/edgekit/NAME`` there. A bundle that is there is replaced.
        python: Python there: a name on the PATH, or a path, from the login's home where it is relative.
        keys: public keys; the bundle must be signed by one of them. That is checked here, and with copies of the keys there.
        revoked: file with the fingerprints of keys that are trusted no more; it goes with ``keys``.
        allow_downgrade: replace also a bundle of another name, or a newer one.
        identity: private key to log in with; None for those that ssh finds.
        ssh_options: more arguments of ssh and scp.
        progress: told which step it is at.

    Raises:
        UsageError: when ``where`` is no such address, or something else than a bundle is there, or one that this one must not replace.
        IntegrityError: when the bundle is altered, here or on the way, has expired, or computes something else there.
        RemoteError: when the device cannot be reached, lacks Python, EdgeKit, a backend or room, or fails at a step.
    """
    started = time.monotonic()
    address = parse_url(where)
    device = Device(address, python, identity, ssh_options, progress)
    _LOG.info("deploy %s to %s", bundle, address)
    progress("check the bundle", 0, 0)
    opened = open_bundle(bundle, Trust(keys, revoked=revoked or ()) if keys else None)
    notes = check_install(opened.manifest, opened.path)
    found = ask_device(device, opened, address)
    if not allow_downgrade:
        there, new = (str(found["name"]), str(found["version"])), (opened.manifest.name, opened.manifest.version)
        check_successor(f"{address}, in {found['path']},", there, new)
    path, token = str(found["path"]), secrets.token_hex(8)
    _LOG.info(
        "device: %s, Python %s, %s; at %s: %s", found["system"], found["python"], found["edgekit"], path, found["state"]
    )
    with tempfile.TemporaryDirectory(prefix="edgekit-deploy-") as folder:
        progress("pack", 0, 0)
        files = [pack(opened.path, Path(folder) / _PACKED)]
        trusted = {f"key{number}.pub": key for number, key in enumerate(keys)} | (
            {_REVOKED: revoked} if revoked is not None and keys else {}
        )
        files += [Path(shutil.copyfile(source, Path(folder) / name)) for name, source in trusted.items()]
        try:
            compiled, verified, doctor = _install(device, opened, path, token, files, allow_downgrade)
        except EdgekitError as problem:
            # It names the place where the bundle was checked; the user knows the one where it is to be.
            said = str(problem).replace(_stage(path, token) + "/bundle", path)
            raise problem.reworded(said + clean_device(device, path, token)) from problem
        except BaseException:
            clean_device(device, path, token)
            raise
    left = clean_device(device, path, token)
    _LOG.info("installed at %s; engines: %s; golden inputs: %s", path, compiled or "none", verified)
    return Deployed(
        device=str(address),
        path=path,
        system=str(found["system"]),
        python=str(found["python"]),
        edgekit=str(found["edgekit"]).rpartition(" ")[2],
        manifest=sha256(opened.path / MANIFEST),
        size_mb=opened.size / 2**20,
        replaced=found["state"] == "bundle",
        seconds=time.monotonic() - started,
        compiled=compiled,
        verified=verified + "".join(f" {note}" for note in notes) + left,
        doctor=doctor,
    )


@takes_paths("bundle", "keys", "revoked", "identity")
def bench(
    bundle: str | Path,
    where: str,
    batches: Sequence[int],
    lengths: Sequence[int],
    *,
    seconds: float = 1.0,
    backend: str | None = None,
    threads: int | None = None,
    python: str = "python3",
    keys: Sequence[str | Path] = (),
    revoked: str | Path | None = None,
    identity: str | Path | None = None,
    ssh_options: Sequence[str] = (),
    progress: Progress = silent,
) -> Bench:
    """Times a bundle on a device, as :func:`edgekit.report.bench.bench` does here; it is deployed first where the device has another one or none.

    Args:
        bundle: its folder, on this machine.
        where: see :func:`deploy`.
        batches: rows of a call.
        lengths: tokens of a row.
        seconds: for each pair of them.
        backend: which of the bundle's backends; None for its best one.
        threads: threads of one call; None for what the bundle was tuned to.
        python: Python there.
        keys: public keys; the bundle here, whose manifest the device's has to equal, must be signed by one of them.
        revoked: file with the fingerprints of keys that are trusted no more; it goes with ``keys``.
        identity: private key to log in with.
        ssh_options: more arguments of ssh and scp.
        progress: told which step it is at.

    Raises:
        EdgekitError: as :func:`deploy`; UsageError for a length that the model does not take.
    """
    address = parse_url(where)
    device = Device(address, python, identity, ssh_options, progress)
    opened = open_bundle(bundle, Trust(keys, revoked=revoked or ()) if keys else None)
    found = ask_device(device, opened, address)
    if found["manifest"] != sha256(opened.path / MANIFEST):
        deploy(
            bundle,
            where,
            python=python,
            keys=keys,
            revoked=revoked,
            identity=identity,
            ssh_options=ssh_options,
            progress=progress,
        )
    options = [
        "--batches",
        ",".join(map(str, batches)),
        "--lengths",
        ",".join(map(str, lengths)),
        "--seconds",
        str(seconds),
        "--json",
    ]
    options += [] if backend is None else ["--backend", backend]
    options += [] if threads is None else ["--threads", str(threads)]
    said = device.json_verb("bench there", "bench", *options, "--", str(found["path"]))
    result = parse(Bench, said, f"what 'edgekit bench' on {address} wrote", RemoteError)
    return replace(result, machine=f"{address} ({found['system']})")


def ask_device(device: Device, bundle: Bundle, address: Address) -> dict[str, Any]:
    """What there is on the device, after it was found to do."""
    found = device.step("ask the device", "ask", address.path or f"~/edgekit/{bundle.path.resolve().name}")
    version = str(found["python"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise RemoteError(
            f"The Python of {address} is {version}, expected {oldest} or newer. Name another one: --python PATH, e.g. venv/bin/python.",
            code="remote-python",
        )
    if not found["edgekit"]:
        backends = " or ".join(dict.fromkeys(v.backend for v in bundle.manifest.variants))
        complaint = (str(found["complaint"]).splitlines() or ["nothing"])[-1]
        raise RemoteError(
            f"EdgeKit does not start on {address}: {complaint.rstrip('.')}. Install it there, and the bundle's backend ({backends}): "
            f"python3 -m {install_hint('cli')}; or name the Python that has it: --python PATH.",
            code="remote-edgekit",
        )
    if found["state"] == "other":
        raise UsageError(
            f"On {address}, {found['path']} is not a bundle, and only a bundle is replaced. Give another path: ssh://.../path",
            code="remote-not-a-bundle",
        )
    return found


def _stage(path: str, token: str) -> str:
    return f"{path.rpartition('/')[0]}/.{COPY}{token}"


def _install(
    device: Device, bundle: Bundle, path: str, token: str, files: Sequence[Path], allow_downgrade: bool
) -> tuple[dict[str, Any] | None, str, dict[str, Any]]:
    """Everything between the first byte that is written on the device and the bundle in its place."""
    needed = sum(file.stat().st_size for file in files) + 2 * bundle.size
    made = device.step("make room", "prepare", path, token, str(needed))
    if int(made["free"]) < needed:
        raise RemoteError(
            f"The disk of {path} on {device.address} has {made['free'] / 2**20:.1f} MB free, expected {needed / 2**20:.1f}: for the copy, for what is "
            "unpacked from it to be checked, and for the bundle in its place. Free space there, or give another path.",
            code="remote-disk-full",
        )
    stage = str(made["stage"])
    device.send("copy", files[0].parent, [file.name for file in files], str(made["door"]))
    arrived = device.step("check the copy", "digests", stage, *(file.name for file in files))
    for file in files:
        if arrived.get(file.name) != sha256(file):
            raise IntegrityError(
                f"{file.name} was altered on its way to {device.address}: its sha256 there is {arrived.get(file.name)}, here {sha256(file)}. "
                "Deploy again; when it happens again, look at the device's memory and disk.",
                code="remote-copy-altered",
            )
    trust = [
        part
        for file in files[1:]
        for part in ("--revoked" if file.name == _REVOKED else "--key", f"{stage}/{file.name}")
    ]
    copy = f"{stage}/bundle"
    device.verb("unpack there", "pack", "--unpack", *trust, "-o", copy, "--", f"{stage}/{_PACKED}")
    compiled = None
    if bundle.manifest.choose_on == "device":
        compiled = {**device.json_verb("compile there", "compile", *trust, "--json", "--", copy), "bundle": path}
    verified = device.verb("verify there", "verify", "--require-golden", *trust, "--", copy).strip()
    verified = verified.replace("\n  ", " ")  # lines that were wrapped there
    doctor = device.json_verb("look at the device", "doctor", "--json")
    # In one step, by the same code that replaces a bundle anywhere; it removes what one that was killed has left there.
    allowed = ["--allow-downgrade"] if allow_downgrade else []
    device.verb(
        "put it in its place", "pack", "--unpack", "--force", *allowed, *trust, "-o", path, "--", f"{stage}/{_PACKED}"
    )
    return compiled, verified, doctor


def clean_device(device: Device, path: str, token: str) -> str:
    """Removes what was copied for the time being; what to say when that is not possible."""
    device.progress = silent  # which does not ask whether to go on: it is what is done when the answer was no
    try:
        device.step("clean up", "clean", path, token)
    except EdgekitError as problem:
        return f" The copy {_stage(path, token)} may have stayed there: {problem}"
    return ""
