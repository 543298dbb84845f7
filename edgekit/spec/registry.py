"""A folder whose files are what may be chosen by name: listing it is the registration, importing one waits until it is asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from edgekit.spec.errors import check_known

__all__ = ["Registry", "version_of"]

Module = TypeVar("Module")


@dataclass(frozen=True)
class Registry(Generic[Module]):
    """The modules of a package, but those that begin with an underscore.

    Attributes:
        package: full name of the package.
        kind: what a module is, for messages: ``task``.
        hyphens: names are spelled with hyphens, their files with underscores.
    """

    package: str
    kind: str
    hyphens: bool = False

    def names(self) -> list[str]:
        """Names, as command line, targets and manifests spell them."""
        files = [m.name for m in pkgutil.iter_modules(importlib.import_module(self.package).__path__) if not m.name.startswith("_")]
        return sorted(name.replace("_", "-") if self.hyphens else name for name in files)

    def get(self, name: str) -> Module:
        """The module of a name.

        Raises:
            UsageError: for an unknown name, with the nearest known one.
        """
        check_known([name], self.names(), self.kind, listed="Known")
        return cast(Module, importlib.import_module(f"{self.package}.{name.replace('-', '_')}"))


def version_of(package: str) -> str | None:
    """Version of an installed distribution, or None; does not import it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
