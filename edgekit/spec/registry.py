"""A folder whose files are what may be chosen by name: listing it is the registration, importing one waits until it is asked for.

Of some kinds installed packages may bring more: an entry point in the group ``edgekit.FOLDER`` is as good as a file in that folder.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from edgekit.spec.errors import UsageError, check_known

__all__ = ["Registry", "version_of"]

Module = TypeVar("Module")


@dataclass(frozen=True)
class Registry(Generic[Module]):
    """The modules of a package, but those that begin with an underscore.

    Attributes:
        package: full name of the package.
        kind: what a module is, for messages: ``task``.
        hyphens: names are spelled with hyphens, their files with underscores.
        group: entry points by which installed packages bring more such modules, e.g. ``edgekit.tasks``; empty where they cannot.
    """

    package: str
    kind: str
    hyphens: bool = False
    group: str = ""

    def names(self) -> list[str]:
        """Names of the package's own modules, as command line, targets and manifests spell them."""
        files = [
            m.name
            for m in pkgutil.iter_modules(importlib.import_module(self.package).__path__)
            if not m.name.startswith("_")
        ]
        return sorted(name.replace("_", "-") if self.hyphens else name for name in files)

    def known(self) -> list[str]:
        """These names and those that installed packages bring."""
        points = importlib.metadata.entry_points(group=self.group) if self.group else ()
        return sorted({*self.names(), *(point.name for point in points)})

    def get(self, name: str) -> Module:
        """The module of a name.

        Raises:
            UsageError: for an unknown name, with the nearest known one; for one that two packages bring, or whose package cannot be imported.
        """
        if name not in self.names():
            return cast(Module, _brought(self, name))
        return cast(Module, importlib.import_module(f"{self.package}.{name.replace('-', '_')}"))


@functools.cache  # looking through all that is installed takes some 0.1 s
def _brought(registry: Registry[Any], name: str) -> Any:
    """The module of a name that no file of EdgeKit has."""
    check_known([name], registry.known(), registry.kind, listed="Known")
    named = list(importlib.metadata.entry_points(group=registry.group, name=name))
    if len(named) > 1:
        modules = " and ".join(sorted(point.value for point in named))
        raise UsageError(
            f"The {registry.kind} '{name}' is brought by several installed packages: {modules}. Uninstall all but one.",
            code="plugin-twice",
        )
    try:
        return named[0].load()
    except Exception as problem:  # code of others
        raise UsageError(
            f"The {registry.kind} '{name}' cannot be imported from {named[0].value}: {problem}. Install its package again.",
            code="plugin-import",
        ) from problem


def version_of(package: str) -> str | None:
    """Version of an installed distribution, or None; does not import it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
