"""A Python for 64-bit ARM on an x86-64 Debian: qemu-user, unpacked Debian packages and ARM wheels; no chroot and no binfmt_misc.

Emulation shows whether the runtime runs there and what it answers. It says nothing about speed or memory.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import small

_OLDEST_QEMU = 10  # 7.2 shows /proc/cpuinfo of the host to the guest, and ends with SIGSEGV where a program believes it
_RELEASE = "trixie"  # of Debian: Python 3.13, and qemu-user 10
_PYTHON = "3.13"
_SYSTEM = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
_WHEELS = ("numpy", "tokenizers", "onnxruntime", "ai-edge-litert", "click", "rich", "cryptography", "pytest")
_OPENVINO = ("2026.2.0", "2026.4.1")  # the last that multiplies right on ARM, and one that does not
_BESIDE = ("pygments", "markdown-it-py", "mdurl", "cffi", "pycparser", "pluggy", "iniconfig", "packaging")
"""What these packages import, unpinned."""
_PLATFORMS = ("manylinux_2_35", "manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17")


class Unavailable(Exception):
    """The emulator cannot be set up here; the message says why."""


@dataclass(frozen=True)
class Emulator:
    """A Python that runs ARM programs.

    Attributes:
        program: to start in place of ``python3``; children that it starts as ``sys.executable`` are emulated too.
        site: packages of the device: numpy, tokenizers, ONNX Runtime, LiteRT and the command line, and pytest.
        openvino: OpenVINO's package, apart from them, by version.
    """

    program: Path
    site: Path
    openvino: Mapping[str, Path]

    def run(
        self,
        cpu: str,
        *arguments: object,
        cache: Path,
        openvino: str = "",
        timeout: float = 600,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs Python with the checkout of this project.

        Args:
            cpu: a CPU model of QEMU, e.g. ``cortex-a76``.
            arguments: of the interpreter.
            cache: EdgeKit's cache folder for it.
            openvino: version that can be imported; none where it is empty.
            timeout: seconds.
            environment: further variables.
        """
        path = [str(small.ROOT), str(self.site)] + ([str(self.openvino[openvino])] if openvino else [])
        variables = {"QEMU_CPU": cpu, "PYTHONPATH": os.pathsep.join(path), "EDGEKIT_CACHE": str(cache)}
        return small.run(self.program, *arguments, timeout=timeout, **variables, **(environment or {}))


def set_up() -> Emulator:
    """Makes the emulator below ``.work``, or takes the one that is there; a minute and 400 MB.

    Raises:
        Unavailable: where a part of it cannot be had.
    """
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        raise Unavailable(f"the emulator is set up on x86-64 Linux, this is {platform.machine()} {sys.platform}")
    pins = small.ROOT / "constraints.txt"
    digest = hashlib.sha256(pins.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    folder = small.ROOT / ".work" / f"arm-{digest}"
    made = Emulator(
        folder / "bin" / "python3", folder / "site", {version: folder / f"openvino-{version}" for version in _OPENVINO}
    )
    if (folder / "complete").is_file():
        return made
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    try:
        mirror = _mirror()
        qemu = _qemu(folder, mirror)
        _system(folder / "root", mirror)
        versions = dict(re.findall(r"^([\w-]+)==([^\s;]+)$", pins.read_text(), re.MULTILINE))
        _packages(made.site, [*(f"{name}=={versions[name]}" for name in _WHEELS), *_BESIDE])
        for version, place in made.openvino.items():
            _packages(place, [f"openvino=={version}"])
    except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError, lzma.LZMAError) as problem:
        shutil.rmtree(folder, ignore_errors=True)
        raise Unavailable(f"{type(problem).__name__}: {problem}") from problem
    command = f'exec "{qemu}" -L "{folder / "root"}" -0 "$0" "{folder / "root/usr/bin"}/python{_PYTHON}" "$@"'
    made.program.write_text(f"#!/bin/sh\n{command}\n")
    made.program.chmod(0o755)
    (folder / "complete").touch()
    return made


def _mirror() -> str:
    """Address of the Debian mirror that this machine installs from."""
    for file in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if file.is_file() and (
            address := re.search(r"(?:^URIs:|^deb)\s+(\S*/debian/?)(?:\s|$)", file.read_text(), re.MULTILINE)
        ):
            return address.group(1).rstrip("/")
    raise Unavailable("no Debian mirror is in the sources of apt")


def _qemu(folder: Path, mirror: str) -> Path:
    """The machine's own qemu-aarch64 where it is new enough, else the one of Debian's package, which is one static file."""
    installed = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if installed:
        version = re.search(
            r"version (\d+)",
            subprocess.run([installed, "--version"], capture_output=True, text=True, check=True).stdout,
        )
        if version and int(version.group(1)) >= _OLDEST_QEMU:
            return Path(installed)
    index = lzma.decompress(_fetch(f"{mirror}/dists/{_RELEASE}/main/binary-amd64/Packages.xz")).decode()
    package = re.search(r"^Package: qemu-user\n(?:.+\n)*?Filename: (.+)$", index, re.MULTILINE)
    if package is None:
        raise Unavailable(f"Debian {_RELEASE} has no package qemu-user")
    archive = folder / "qemu.deb"
    archive.write_bytes(_fetch(f"{mirror}/{package.group(1)}"))
    listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(listed)) as files:
        program = files.extractfile("./usr/bin/qemu-aarch64")
        assert program is not None
        (folder / "bin" / "qemu-aarch64").write_bytes(program.read())
    (folder / "bin" / "qemu-aarch64").chmod(0o755)
    archive.unlink()
    return folder / "bin" / "qemu-aarch64"


def _system(root: Path, mirror: str) -> None:
    """Python and the C libraries for ARM: packages unpacked, nothing of them run."""
    if shutil.which("mmdebstrap") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise Unavailable("mmdebstrap is not installed (apt-get install mmdebstrap)")
        _command("apt-get", "install", "-y", "-qq", "--no-install-recommends", "mmdebstrap")
    _command(
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        "--architectures=arm64",
        f"--include={','.join(_SYSTEM)}",
        _RELEASE,
        root,
        mirror,
    )
    for name in ("lib", "bin"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")


def _packages(place: Path, wanted: list[str]) -> None:
    """ARM wheels, by this machine's pip."""
    tags = [argument for name in (*(f"{p}_aarch64" for p in _PLATFORMS), "any") for argument in ("--platform", name)]
    abis = [argument for name in (f"cp{_PYTHON.replace('.', '')}", "abi3", "none") for argument in ("--abi", name)]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--target", place]
    _command(
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        *tags,
        "--python-version",
        _PYTHON,
        "--implementation",
        "cp",
        *abis,
        *wanted,
    )


def _command(*command: object) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise Unavailable(
            f"{Path(str(command[0])).name} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}"
        )


def _fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return bytes(answer.read())
