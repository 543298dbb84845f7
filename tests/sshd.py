"""An OpenSSH server on loopback, run as the current user, with keys of its own: the device of the tests that deploy.

Nothing outside its folder is read or written, the user's own keys and known hosts included. What runs on the device
has a home and a cache of its own there.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


@dataclass(frozen=True)
class Device:
    """A server that answers.

    Attributes:
        folder: of all its files.
        port: it listens there.
        home: what ``~`` is for what runs there.
        config: the client's configuration; with it ``device`` is a name of this server, and its host key is known.
        process: the server's process.
    """

    folder: Path
    port: int
    home: Path
    config: Path
    process: subprocess.Popen

    @property
    def url(self) -> str:
        return f"ssh://127.0.0.1:{self.port}"

    @property
    def options(self) -> tuple[str, ...]:
        """For ssh and scp, in place of all of the user's own configuration."""
        return ("-F", str(self.config))

    def configured(self, name: str, **changes: str) -> tuple[str, ...]:
        """As ``options``, with another configuration file where some settings are others."""
        lines = self.config.read_text().splitlines()
        kept = [line for line in lines if line.split()[0] not in changes]
        file = self.folder / name
        file.write_text("\n".join([*kept, *(f"  {key} {value}" for key, value in changes.items())]) + "\n")
        return ("-F", str(file))

    def programs(self, folder: Path, scp: str = 'exec "$real" -F "$config" "$@"') -> dict[str, str]:
        """A PATH on which ``ssh`` and ``scp`` use the configuration without being told, as the user's own would be.

        Args:
            folder: of the two programs.
            scp: what ``scp`` does instead, in sh: ``$real`` is the real one.
        """
        folder.mkdir()
        for name, does in (("ssh", 'exec "$real" -F "$config" "$@"'), ("scp", scp)):
            program = folder / name
            program.write_text(f"#!/bin/sh\nreal='{shutil.which(name)}'\nconfig='{self.config}'\n{does}\n")
            program.chmod(0o755)
        return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def key(file: Path) -> Path:
    """Makes a key pair without a password: FILE and FILE.pub."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(file)], check=True, capture_output=True
    )
    return file


def known(file: Path, port: int, public: Path) -> Path:
    """Writes a file of known hosts with this one key."""
    file.write_text(f"[127.0.0.1]:{port} {public.read_text()}")
    return file


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path, *, sftp: bool = True, **environment: str) -> Iterator[Device]:
    """Starts a server, or skips with the reason where there is none.

    Args:
        folder: empty, for all of its files.
        sftp: Whether it offers SFTP, which scp needs since OpenSSH 9.
        environment: set for what runs on the device; values without spaces.
    """
    missing = [name for name in ("ssh", "scp", "ssh-keygen") if shutil.which(name) is None]
    if SSHD is None or missing:
        pytest.skip(
            f"{', '.join(missing) or 'sshd'} is not installed here (Debian, Ubuntu: apt-get install -y openssh-server openssh-client)"
        )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(
            exist_ok=True
        )  # where a server of root locks its helpers up; the package makes it when the system starts
    host, user, port, home = key(folder / "host"), key(folder / "user"), free_port(), folder / "home"
    home.mkdir()
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    variables = " ".join(
        f"{k}={v}" for k, v in {"HOME": home, "EDGEKIT_CACHE": folder / "cache", **environment}.items()
    )
    subsystem = "Subsystem sftp internal-sftp\n" if sftp else ""
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host}\nAuthorizedKeysFile {folder / 'authorized'}\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n{subsystem}SetEnv {variables}\n"
    )
    config = folder / "config"
    config.write_text(
        f"Host device 127.0.0.1\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {user}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {known(folder / 'known', port, folder / 'host.pub')}\n  GlobalKnownHostsFile none\n"
    )
    log = folder / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stderr=errors
        ) as process,
    ):
        try:
            _wait(process, port, log)
            yield Device(folder, port, home, config, process)
        finally:
            process.terminate()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not answer: {log.read_text('utf-8', 'replace')[-2000:]}")
