"""A device behind ``ssh`` and ``scp``, with the user's own configuration, keys and known hosts."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.deploy._address import Address
from edgekit.deploy._there import MARK
from edgekit.spec.errors import BudgetError, EdgekitError, IntegrityError, RemoteError, UsageError
from edgekit.spec.progress import Progress
from edgekit.spec.sources import FilePath

_PLAIN = re.compile(r"/[\w./+-]*", re.ASCII)  # a path that no shell changes
# An unknown host, or one that shows another key, is refused; ssh never prompts; the rest is what scp sets itself.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "4",
    "LogLevel": "ERROR",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
_ERRORS: Mapping[int, type[EdgekitError]] = {
    error.exit_code: error for error in (UsageError, BudgetError, IntegrityError)
}
_CODED = re.compile(r"error\[(?P<code>[a-z0-9-]+)\]: (?P<message>.*)", re.DOTALL)
"""Error line of the command line on a device; releases without codes print the message alone."""
_TURN_S = 0.1
_GRACE_S = 5.0


class Device:
    """A machine that is reached over ssh. Each call is a connection."""

    def __init__(
        self, address: Address, python: str, identity: FilePath | None, options: Sequence[str], progress: Progress
    ) -> None:
        """Store the settings; no connection is made yet.

        Args:
            address: Address of the device.
            python: Python on the device: a name on the PATH, or a path; a relative one begins in the login's home
                folder.
            identity: Private key to log in with; None for those that ssh finds.
            options: Further arguments of ssh and scp; of two values for one setting the first holds.
            progress: Function that is called repeatedly while a program runs.

        Raises:
            UsageError: If ``identity`` is not a file, or ``python`` is empty.
        """
        if not python.strip() or "\0" in python:
            raise UsageError(
                f"python is {python!r}, expected a command or a path on the device, e.g. python3 or venv/bin/python.",
                code="remote-python-name",
            )
        if identity is not None and not Path(identity).is_file():
            raise UsageError(
                f"The key {identity} does not exist, expected the private key that ssh logs in with. "
                "Make one with: ssh-keygen",
                code="key-not-found",
            )
        self.address = address
        self.progress = progress
        self._python = python
        settings = dict(_OPTIONS)
        if address.user:
            settings["User"] = address.user
        if address.port:
            settings["Port"] = str(address.port)
        key = [] if identity is None else ["-i", str(Path(identity).absolute()), "-o", "IdentitiesOnly=yes"]
        self._options = [
            *options,
            *key,
            *(part for name, value in settings.items() for part in ("-o", f"{name}={value}")),
        ]
        self._steps_source = Path(__file__).with_name("_there.py").read_text("utf-8")

    def step(self, step: str, name: str, *arguments: str) -> dict[str, Any]:
        """Run a function of ``_there.py`` on the device and return its result.

        Args:
            step: Name of the step for the progress.
            name: Name of the function.
            arguments: Arguments of the function.

        Raises:
            RemoteError: If the device cannot be reached, has no such Python, or the step fails.
        """
        return self._json(self._call(step, name, arguments), name)

    def verb(self, step: str, *arguments: str, accept: Collection[int] = ()) -> str:
        """Run ``edgekit`` on the device and return its standard output; it ends there too if this is interrupted.

        Args:
            step: Name of the step for the progress.
            arguments: Arguments of ``edgekit``.
            accept: Exit codes beside 0 that are results and no errors, e.g. 3 of a check that found a regression.

        Raises:
            EdgekitError: If the verb fails, of the class that belongs to the exit code and with the message of the
                device; RemoteError for exit code 1 and for a lost connection.
        """
        return self._call(step, "verb", arguments, hold=True, accept=accept)

    def json_verb(self, step: str, *arguments: str) -> dict[str, Any]:
        """Run ``edgekit`` as :meth:`verb` does and return the JSON object that it writes."""
        return self._json(self.verb(step, *arguments), f"edgekit {arguments[0]}")

    def send(self, step: str, folder: Path, names: Sequence[str], place: str) -> None:
        """Copy files into a folder of the device: by scp, or through ssh alone if the device has no SFTP server.

        Args:
            step: Name of the step for the progress.
            folder: Folder of the files on this machine.
            names: Names of the files.
            place: Folder on the device, whose path needs no quoting.

        Raises:
            RemoteError: If the copy fails.
        """
        if not _PLAIN.fullmatch(place):  # it lies in the device's folder for temporary files
            raise RemoteError(
                f"The folder for temporary files on {self.address} is '{place}', "
                "expected letters, digits and . _ + - /. Set TMPDIR there.",
                code="remote-temp-folder",
            )
        command = ["scp", "-q", *self._options, "--", *names, f"{self.address.scp_host}:{place}/"]
        code, _, err = self._run(step, command, folder)
        if code and _NO_SFTP.search(err):
            # Since OpenSSH 9 scp needs an SFTP server, which small images lack. Python on the device can receive the
            # bytes.
            for name in names:
                self._call(step, "receive", (place, name), source=folder / name)
        elif code:
            remedy = "Check whether its disk is full, and deploy again."
            raise self._connection(err) or RemoteError(
                f"The copy to {self.address} failed. scp says: {_last(err)}. {remedy}", code="remote-copy"
            )

    def _call(
        self,
        step: str,
        name: str,
        arguments: Sequence[str],
        hold: bool = False,
        source: Path | None = None,
        accept: Collection[int] = (),
    ) -> str:
        remote = shlex.join([self._python, "-c", self._steps_source, name, *arguments])
        # A half-finished step must not continue after the cleanup.
        grace_s = _GRACE_S if name in ("prepare", "move") else 0.0
        command = ["ssh", *self._options, "--", self.address.host, remote]
        code, out, err = self._run(step, command, None, hold, grace_s, source)
        _, mark, result = out.partition(MARK)
        if code in (0, *accept) and mark:
            return result
        if code == 255:
            remedy = f"Try by hand: ssh {self._login()}"
            raise self._connection(err) or RemoteError(
                f"The connection to {self.address} failed. ssh says: {_last(err)}. {remedy}", code="remote-connection"
            )
        if not mark and code in (126, 127):
            remedy = "Name an existing one: --python PATH, e.g. venv/bin/python."
            raise RemoteError(
                f"There is no Python '{self._python}' on {self.address} (its shell says: {_last(err)}). {remedy}",
                code="remote-python",
            )
        if not mark and "SyntaxError" in err:
            raise RemoteError(
                f"The Python '{self._python}' of {self.address} is too old: {_last(err)}. "
                "Name a newer one: --python PATH.",
                code="remote-python",
            )
        _, mark, line = f"\n{err}".rpartition("\nedgekit: ")
        coded = _CODED.fullmatch(line.strip())
        what = line.strip() if mark else _last(err)
        if coded:
            what = coded["message"]
        if not mark and code > 128:
            what = f"it was ended by signal {code - 128}{', as for lack of memory' if code == 137 else ''}"
        does = f"'edgekit {arguments[0]}'" if name == "verb" else f"The step '{step}'"
        remote_code = coded["code"] if coded else ""
        raise _ERRORS.get(code, RemoteError)(
            f"{does} failed on {self.address} (exit code {code}): {what}", code="remote-step", remote_code=remote_code
        )

    def _login(self) -> str:
        """Return the arguments of ``ssh`` to log in by hand."""
        port = f"-p {self.address.port} " if self.address.port else ""
        user = f"{self.address.user}@" if self.address.user else ""
        return f"{port}{user}{self.address.host}"

    def _connection(self, err: str) -> RemoteError | None:
        """Return the error that a message of ssh stands for; None for an unknown message."""
        device = self.address
        to = self._login()
        says = f"ssh says: {_last(err)}."
        if "HOST IDENTIFICATION HAS CHANGED" in err:
            fingerprint = re.search(r"SHA256:[\w+/]+", err)
            new_key = fingerprint[0] if fingerprint else "unknown"
            advice = re.search(r"ssh-keygen .*", err)
            forget = advice[0].strip() if advice else f"ssh-keygen -R {device.host}"
            return RemoteError(
                f"{device} shows another host key than before ({new_key}): "
                "it was set up anew, or another machine pretends to be it. Nothing was sent. "
                "If the fingerprint is that of the device (there: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), "
                f"forget the old key ({forget}) and log in once by hand: ssh {to}",
                code="remote-host-key-changed",
            )
        if "Host key verification failed" in err:
            scan = f"ssh-keyscan {f'-p {device.port} ' if device.port else ''}{device.host}"
            return RemoteError(
                f"The host key of {device} is not known here, so it could be any machine. Nothing was sent. "
                f"Log in once by hand and compare the fingerprint: ssh {to} "
                f"(or compare what '{scan}' prints, and add it to ~/.ssh/known_hosts). {says}",
                code="remote-host-key-unknown",
            )
        for pattern, what in _CONNECTIONS:
            if re.search(pattern, err):
                return RemoteError(f"{what.format(device=device, to=to)} {says}", code="remote-connection")
        return None

    def _run(
        self,
        step: str,
        command: Sequence[str],
        folder: Path | None = None,
        hold: bool = False,
        grace_s: float = 0.0,
        source: Path | None = None,
    ) -> tuple[int, str, str]:
        """Run a program to its end and return its exit code and both outputs.

        Args:
            step: Name of the step for the progress.
            command: Program and its arguments.
            folder: Folder that it runs in; None for the current one.
            hold: Whether its standard input stays open until the program ends.
            grace_s: Time to end by itself after an interrupt, in seconds.
            source: File that is its standard input; None for none.
        """
        with contextlib.ExitStack() as stack:
            out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            stdin: Any = subprocess.PIPE if hold else subprocess.DEVNULL
            if source is not None:
                stdin = stack.enter_context(source.open("rb"))
            try:
                # In a session of its own: a Ctrl-C is for this process, which ends the program in its own way.
                child = subprocess.Popen(
                    command, stdin=stdin, stdout=out, stderr=err, cwd=folder, start_new_session=True
                )
            except OSError as problem:
                remedy = "Install the OpenSSH client (Debian, Ubuntu: apt install openssh-client)."
                raise RemoteError(
                    f"The program '{command[0]}' cannot be started here ({problem.strerror}). {remedy}",
                    code="program-missing",
                ) from problem
            with child:
                try:
                    while child.poll() is None:
                        self.progress(step, 0, 0)
                        with contextlib.suppress(subprocess.TimeoutExpired):
                            child.wait(_TURN_S)
                except BaseException:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(grace_s)
                    child.terminate()
                    raise
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode("utf-8", "replace"))
        return child.returncode, texts[0], texts[1]

    def _json(self, output: str, name: str) -> dict[str, Any]:
        try:
            value = json.loads(output)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise RemoteError(
                f"'{name}' on {self.address} wrote no JSON object, but {output[:200]!r}. "
                "Install the same version of EdgeKit there as here.",
                code="remote-answer",
            )
        return value


_NO_SFTP = re.compile(r"subsystem request failed|scp: Connection closed|scp: (command )?not found")

_CONNECTIONS = (
    (
        r"Permission denied \(|Too many authentication failures",
        "{device} refuses the available keys, and passwords are not used. "
        "Install a key there (ssh-copy-id {to}), or name one: --identity FILE.",
    ),
    (
        r"Could not resolve hostname",
        "The host name of {device} cannot be resolved. Check the name, or give the IP address.",
    ),
    (
        r"Connection refused",
        "{device} refuses connections at that port. Start its ssh server, or give the port: ssh://host:port.",
    ),
    (
        r"timed out|No route to host|[Uu]nreachable|Host is down",
        "{device} does not answer. Check its address, and that it is switched on and in this network.",
    ),
    (
        r"[Cc]onnection.* closed|[Ll]ost connection|Connection reset|Broken pipe|not responding",
        "The connection to {device} was lost. Deploy again.",
    ),
)


def _last(text: str) -> str:
    """Return the last line with content of a program's standard error, without its full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:500] if lines else "nothing"
