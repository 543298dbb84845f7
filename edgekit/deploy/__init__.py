"""Deployment of a bundle to another machine over OpenSSH.

The device needs Python, EdgeKit with its command line, and a backend. The bundle is copied next to its destination,
checked against its digests, compiled if it has engines, and run on its golden inputs; then it is moved to its
destination. So a bundle that the device cannot run never replaces one that it can.
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
from edgekit.deploy._address import Address, parse_url
from edgekit.deploy._ssh import Device
from edgekit.deploy._there import COPY
from edgekit.report.bench import Bench
from edgekit.spec.digests import sha256
from edgekit.spec.distribution import install_hint
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
    """Result of a deployment.

    Attributes:
        device: Address, ``[user@]host[:port]``.
        path: Path of the bundle on the device.
        system: Operating system and machine of the device.
        python: Version of Python on the device.
        edgekit: Version of EdgeKit on the device.
        manifest: sha256 of the bundle's manifest, in hex.
        size_mb: Size of the bundle, MiB.
        replaced: Whether an existing bundle was replaced.
        seconds: Duration of the deployment, seconds.
        compiled: Result of ``edgekit compile`` on the device; None for a bundle without a choice on the device.
        verified: Output of ``edgekit verify`` on the device.
        doctor: Result of ``edgekit doctor`` on the device.
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
        """Return the result as text for a terminal."""
        replaced = ", in place of the bundle that was there" if self.replaced else ""
        board, gpu = (self._part_of_doctor(name) for name in ("board", "gpu"))
        named = [
            board.get("model"),
            self.doctor.get("cpu"),
            gpu.get("name"),
            f"Python {self.python}",
            f"EdgeKit {self.edgekit}",
        ]
        lines = [
            f"Deployed to {self.device}:{self.path}, {self.size_mb:.1f} MB, in {self.seconds:.0f} s{replaced}.",
            f"device: {', '.join(str(name) for name in (self.system, *named) if name)}",
        ]
        if self.compiled is not None:
            lines.append(f"runs there: {self.compiled.get('chosen', '-')}, {self.compiled.get('reason', '-')}")
        return "\n".join([*lines, self.verified])

    def _part_of_doctor(self, name: str) -> Mapping[str, Any]:
        part = self.doctor.get(name)
        return part if isinstance(part, Mapping) else {}


@takes_paths("bundle")
def deploy(
    bundle: str | Path,
    where: str,
    *,
    options: DeployOptions | None = None,
    progress: Progress = silent,
) -> Deployed:
    """Copy a bundle to a device, compile its engines there, and verify its outputs on the golden inputs.

    The user's own ssh configuration, agent and known hosts apply. A host whose key is unknown or differs is refused.
    Temporary copies are removed, also after an error or an interrupt; if the connection is lost for good, the next
    deployment to that place removes them after a day.

    Args:
        bundle: Folder of the bundle.
        where: Address ``ssh://[user@]host[:port][/path]``, by default with the path ``~/edgekit/NAME``. An existing
            bundle is replaced.
        options: Options; None for the defaults.
        progress: Function that is called with the current step.

    Returns:
        The device and what it reported.

    Raises:
        UsageError: If ``where`` is not an address, or the path holds something that must not be replaced.
        IntegrityError: If the bundle is altered, here or in transit, has expired, or computes something else there.
        RemoteError: If the device cannot be reached, lacks Python, EdgeKit, a backend or disk space, or a step fails.
    """
    chosen = _checked(options)
    keys = chosen.keys
    revoked = chosen.revoked
    started = time.monotonic()
    address = parse_url(where)
    device = Device(address, chosen.python, chosen.identity, chosen.ssh_options, progress)
    _LOG.info("deploy %s to %s", bundle, address)
    progress("check the bundle", 0, 0)
    opened = open_bundle(bundle, Trust(keys, revoked=revoked or ()) if keys else None)
    notes = check_install(opened.manifest, opened.path)
    state = ask_device(device, opened, address)
    if not chosen.allow_downgrade:
        existing = (str(state["name"]), str(state["version"]))
        new = (opened.manifest.name, opened.manifest.version)
        check_successor(f"{address}, in {state['path']},", existing, new)
    path = str(state["path"])
    token = secrets.token_hex(8)
    _LOG.info(
        "device: %s, Python %s, %s; at %s: %s", state["system"], state["python"], state["edgekit"], path, state["state"]
    )
    with tempfile.TemporaryDirectory(prefix="edgekit-deploy-") as folder:
        progress("pack", 0, 0)
        files = [pack(opened.path, Path(folder) / _PACKED)]
        trusted = {f"key{number}.pub": key for number, key in enumerate(keys)}
        if revoked is not None and keys:
            trusted[_REVOKED] = revoked
        files += [Path(shutil.copyfile(source, Path(folder) / name)) for name, source in trusted.items()]
        try:
            compiled, verified, doctor = _install(device, opened, path, token, files, chosen.allow_downgrade)
        except EdgekitError as problem:
            # The message names the temporary folder; the user knows the destination.
            message = str(problem).replace(_stage(path, token) + "/bundle", path)
            raise problem.reworded(message + clean_device(device, path, token)) from problem
        except BaseException:
            clean_device(device, path, token)
            raise
    left = clean_device(device, path, token)
    _LOG.info("installed at %s; engines: %s; golden inputs: %s", path, compiled or "none", verified)
    return Deployed(
        device=str(address),
        path=path,
        system=str(state["system"]),
        python=str(state["python"]),
        edgekit=str(state["edgekit"]).rpartition(" ")[2],
        manifest=sha256(opened.path / MANIFEST),
        size_mb=opened.size / 2**20,
        replaced=state["state"] == "bundle",
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
    """Time a bundle on a device, as :func:`edgekit.bench` does here; it is deployed first if need be.

    Args:
        bundle: Folder of the bundle, on this machine.
        where: Address as for :func:`deploy`.
        options: Options of the timing; None for the defaults.
        login: Options of the login and of the deployment; None for the defaults.
        progress: Function that is called with the current step.

    Returns:
        Times of each pair of batch and length.

    Raises:
        EdgekitError: If a step fails, see :func:`deploy`; a UsageError if the model does not take a length.
    """
    timing = options or BenchOptions()
    chosen = _checked(login)
    keys = chosen.keys
    revoked = chosen.revoked
    address = parse_url(where)
    device = Device(address, chosen.python, chosen.identity, chosen.ssh_options, progress)
    opened = open_bundle(bundle, Trust(keys, revoked=revoked or ()) if keys else None)
    state = ask_device(device, opened, address)
    if state["manifest"] != sha256(opened.path / MANIFEST):
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
    output = device.json_verb("bench there", "bench", *arguments, "--", str(state["path"]))
    result = parse(Bench, output, f"what 'edgekit bench' on {address} wrote", RemoteError)
    return replace(result, machine=f"{address} ({state['system']})")


def _checked(options: DeployOptions | None) -> DeployOptions:
    """Return the options, whose paths can be paths."""
    chosen = options or DeployOptions()
    for name in ("keys", "revoked", "identity"):
        if getattr(chosen, name) is not None:
            check_path(getattr(chosen, name), name)
    return chosen


def ask_device(device: Device, bundle: Bundle, address: Address) -> dict[str, Any]:
    """Return what the device has at the path, after its Python and its EdgeKit were checked."""
    state = device.step("ask the device", "ask", address.path or f"~/edgekit/{bundle.path.resolve().name}")
    version = str(state["python"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise RemoteError(
            f"The Python of {address} is {version}, expected {oldest} or newer. "
            "Name another one: --python PATH, e.g. venv/bin/python.",
            code="remote-python",
        )
    if not state["edgekit"]:
        backends = " or ".join(dict.fromkeys(v.backend for v in bundle.manifest.variants))
        complaint = (str(state["complaint"]).splitlines() or ["nothing"])[-1]
        raise RemoteError(
            f"EdgeKit does not start on {address}: {complaint.rstrip('.')}. "
            f"Install it there, and the bundle's backend ({backends}): python3 -m {install_hint('cli')}; "
            "or name the Python that has it: --python PATH.",
            code="remote-edgekit",
        )
    if state["state"] == "other":
        raise UsageError(
            f"On {address}, {state['path']} is not a bundle, and only a bundle is replaced. "
            "Give another path: ssh://HOST/PATH",
            code="remote-not-a-bundle",
        )
    return state


def _stage(path: str, token: str) -> str:
    return f"{path.rpartition('/')[0]}/.{COPY}{token}"


def _install(
    device: Device, bundle: Bundle, path: str, token: str, files: Sequence[Path], allow_downgrade: bool
) -> tuple[dict[str, Any] | None, str, dict[str, Any]]:
    """Copy, unpack, compile and verify the bundle on the device, and move it to its place."""
    needed = sum(file.stat().st_size for file in files) + 2 * bundle.size
    room = device.step("make room", "prepare", path, token, str(needed))
    if int(room["free"]) < needed:
        raise RemoteError(
            f"The disk of {path} on {device.address} has {room['free'] / 2**20:.1f} MB free, "
            f"expected {needed / 2**20:.1f} for the copy and two unpacked bundles. "
            "Free space there, or give another path.",
            code="remote-disk-full",
        )
    stage = str(room["stage"])
    device.send("copy", files[0].parent, [file.name for file in files], str(room["door"]))
    arrived = device.step("check the copy", "digests", stage, *(file.name for file in files))
    for file in files:
        if arrived.get(file.name) != sha256(file):
            raise IntegrityError(
                f"{file.name} was altered on its way to {device.address}: "
                f"its sha256 there is {arrived.get(file.name)}, here {sha256(file)}. "
                "Deploy again; if it happens again, check the memory and the disk of the device.",
                code="remote-copy-altered",
            )
    trust: list[str] = []
    for file in files[1:]:
        trust += ["--revoked" if file.name == _REVOKED else "--key", f"{stage}/{file.name}"]
    copy = f"{stage}/bundle"
    device.verb("unpack there", "pack", "--unpack", *trust, "-o", copy, "--", f"{stage}/{_PACKED}")
    compiled = None
    if bundle.manifest.choose_on == "device":
        compiled = {**device.json_verb("compile there", "compile", *trust, "--json", "--", copy), "bundle": path}
    verified = device.verb("verify there", "verify", "--require-golden", *trust, "--", copy).strip()
    verified = verified.replace("\n  ", " ")  # lines that were wrapped there
    doctor = device.json_verb("look at the device", "doctor", "--json")
    # In one step, by the code that replaces a bundle anywhere; it also removes what a killed deployment left.
    allowed = ["--allow-downgrade"] if allow_downgrade else []
    device.verb(
        "put it in its place", "pack", "--unpack", "--force", *allowed, *trust, "-o", path, "--", f"{stage}/{_PACKED}"
    )
    return compiled, verified, doctor


def clean_device(device: Device, path: str, token: str) -> str:
    """Remove the temporary copies; return a sentence if that is not possible."""
    device.progress = silent  # it may raise to end the command, and cleaning up is what follows that
    try:
        device.step("clean up", "clean", path, token)
    except EdgekitError as problem:
        return f" The copy {_stage(path, token)} may have stayed there: {problem}"
    return ""
