"""Address of a device and of a bundle on it: ``ssh://[user@]host[:port][/path]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from edgekit.spec.errors import UsageError

_FORM = "ssh://[user@]host[:port][/path]"
_EXAMPLE = f"Write {_FORM}, e.g. ssh://pi@192.168.1.20/opt/models/film or ssh://board/~/film."
_USER = re.compile(r"[\w.+$][\w.+$-]*", re.ASCII)  # a name must not begin like an option of ssh
_HOST = re.compile(r"[\w.][\w.-]*|\[[0-9a-fA-F:.]+(%[\w.-]+)?\]", re.ASCII)


@dataclass(frozen=True)
class Address:
    """Address of a device and path of a bundle on it.

    Attributes:
        host: Name, IP address, or alias of the user's ssh configuration.
        user: User to log in as; empty for the choice of ssh.
        port: Port of the ssh server; None for the choice of ssh.
        path: Path of the bundle on the device, absolute or beginning with ``~/``; empty for the default.
    """

    host: str
    user: str = ""
    port: int | None = None
    path: str = ""

    @property
    def scp_host(self) -> str:
        """Host as scp and URLs write it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{user}{self.scp_host}{port}"


def parse_url(url: str) -> Address:
    """Read ``ssh://[user@]host[:port][/path]``: ``/~/path`` is below the login's home folder, ``%20`` is a space.

    Raises:
        UsageError: If it is anything else.
    """
    scheme, separator, rest = url.partition("://")
    if scheme != "ssh" or not separator:
        raise UsageError(f"'{url}' is not an address of the form {_FORM}. {_EXAMPLE}", code="address-invalid")
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    if ":" in user:
        raise UsageError(
            f"The address of '{host}' holds a password, which is not supported: ssh logs in with a key. "
            "Make one (ssh-keygen, ssh-copy-id).",
            code="address-password",
        )
    port = ""
    if split := re.fullmatch(r"(.*):([^\]:]*)", host):
        host, port = split.groups()
        if not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
            raise UsageError(
                f"'{url}' names the port '{port}', expected a whole number from 1 to 65535. {_EXAMPLE}",
                code="address-invalid",
            )
    if at and not _USER.fullmatch(user):
        raise UsageError(
            f"'{url}' names the user '{user}', expected letters, digits and . _ + $ -. {_EXAMPLE}",
            code="address-invalid",
        )
    if not _HOST.fullmatch(host):
        raise UsageError(
            f"'{url}' names the host '{host}', expected a name, an IPv4 address, or an IPv6 address in brackets. "
            f"{_EXAMPLE}",
            code="address-invalid",
        )
    try:
        path = unquote_to_bytes(slash + path).decode("utf-8").rstrip("/")
    except UnicodeDecodeError as problem:
        raise UsageError(
            f"'{url}' names a path that is not UTF-8 ({problem}). {_EXAMPLE}", code="address-invalid"
        ) from problem
    if any(ord(c) < 32 for c in path) or path == "/~":
        raise UsageError(
            f"'{url}' names the path {path!r}, expected the folder of a bundle, without control characters. {_EXAMPLE}",
            code="address-invalid",
        )
    if path.startswith("/~/"):
        path = path[1:]
    return Address(host.strip("[]"), user, int(port) if port else None, path)
