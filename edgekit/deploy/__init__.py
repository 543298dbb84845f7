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
from edgekit.spec.errors import EdgekitError, IntegrityError, RemoteError, UsageError
from edgekit.spec.options import BenchOptions, DeployOptions
from edgekit.spec.parsing import Recorded, parse
from edgekit.spec.paths import check_path, takes_paths
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


@takes_paths("bundle")
def deploy(
    bundle: str | Path,
    where: str,
    *,
    options: DeployOptions | None = None,
    progress: Progress = silent,
) -> Deployed:
    """Bring a bundle to a device, make its engines there where it has any, and check that it computes there what it is to.

    The user's own ssh configuration, agent and known hosts apply. A host whose key is not known, or is another one, is refused. What is
    copied for the time being is removed again, also after an error or an interrupt; where the connection is lost for good, the next
    deployment to that place after a day removes it.

    Args:
        bundle: Folder of the bundle.
        where: Address ``ssh://[user@]host[:port][/path]``; by default the bundle goes to ``~/edgekit/NAME`` there. A bundle that is there is replaced.
        options: Options; None for the defaults.
        progress: Function that is called with the name of each step.

    Raises:
        UsageError: when ``where`` is no such address, or something else than a bundle is there, or one that this one must not replace.
        IntegrityError: when the bundle is altered, here or on the way, has expired, or computes something else there.
        RemoteError: when the device cannot be reached, lacks Python, EdgeKit, a backend or room, or fails at a step.
    """
    chosen = _checked(options)
    keys, revoked, allow_downgrade = chosen.keys, chosen.revoked, chosen.allow_downgrade
    started = time.monotonic()
    address = parse_url(where)
    device = Device(address, chosen.python, chosen.identity, chosen.ssh_options, progress)
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


@takes_paths("bundle")
def bench(
    bundle: str | Path,
    where: str,
    *,
    options: BenchOptions | None = None,
    login: DeployOptions | None = None,
    progress: Progress = silent,
) -> Bench:
    """Time a bundle on a device, as :func:`edgekit.bench` does here; it is deployed first where the device has another one or none.

    Args:
        bundle: Folder of the bundle, on this machine.
        where: Address, see :func:`deploy`.
        options: Options of the timing; None for the defaults.
        login: Options of the login and of the deployment; None for the defaults.
        progress: Function that is called with the name of each step.

    Raises:
        EdgekitError: as :func:`deploy`; UsageError for a length that the model does not take.
    """
    timing, chosen = options or BenchOptions(), _checked(login)
    keys, revoked = chosen.keys, chosen.revoked
    address = parse_url(where)
    device = Device(address, chosen.python, chosen.identity, chosen.ssh_options, progress)
    opened = open_bundle(bundle, Trust(keys, revoked=revoked or ()) if keys else None)
    found = ask_device(device, opened, address)
    if found["manifest"] != sha256(opened.path / MANIFEST):
        deploy(bundle, where, options=chosen, progress=progress)
    arguments = [
        "--batches",
        ",".join(map(str, timing.batches)),
        "--lengths",
        ",".join(map(str, timing.lengths)),
        "--seconds",
        str(timing.seconds),
        "--json",
    ]
    arguments += [] if timing.backend is None else ["--backend", timing.backend]
    arguments += [] if timing.threads is None else ["--threads", str(timing.threads)]
    said = device.json_verb("bench there", "bench", *arguments, "--", str(found["path"]))
    result = parse(Bench, said, f"what 'edgekit bench' on {address} wrote", RemoteError)
    return replace(result, machine=f"{address} ({found['system']})")


def _checked(options: DeployOptions | None) -> DeployOptions:
    """Return the options, whose paths can be paths."""
    chosen = options or DeployOptions()
    for name in ("keys", "revoked", "identity"):
        if getattr(chosen, name) is not None:
            check_path(getattr(chosen, name), name)
    return chosen


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
            "python3 -m pip install 'edgekit[cli]'; or name the Python that has it: --python PATH.",
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
