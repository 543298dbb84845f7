"""Registry of modules by name: the files of a folder, and entry points of installed packages.

Listing the folder is the registration; a module is imported when it is requested. For some kinds, installed packages
can add modules by entry points in the group ``edgekit.FOLDER``.
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
    """Modules of a package, except those whose names begin with an underscore.

    Attributes:
        package: Full name of the package.
        kind: Noun for a module, for messages, e.g. ``task``.
        hyphens: True if names are spelled with hyphens, and their files with underscores.
        group: Entry point group of installed packages with further modules, e.g. ``edgekit.tasks``; empty for none.
    """

    package: str
    kind: str
    hyphens: bool = False
    group: str = ""

    def names(self) -> list[str]:
        """Return the names of the package's modules, as command line, targets and manifests spell them."""
        folder = importlib.import_module(self.package).__path__
        names = [module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")]
        if self.hyphens:
            names = [name.replace("_", "-") for name in names]
        return sorted(names)

    def known(self) -> list[str]:
        """Return these names and those of installed packages, sorted."""
        points = importlib.metadata.entry_points(group=self.group) if self.group else ()
        return sorted({*self.names(), *(point.name for point in points)})

    def get(self, name: str) -> Module:
        """Return the module with this name.

        Raises:
            UsageError: If the name is unknown (with the nearest known one), two packages provide it, or its package
                cannot be imported.
        """
        if name not in self.names():
            return cast(Module, _load_plugin(self, name))
        return cast(Module, importlib.import_module(f"{self.package}.{name.replace('-', '_')}"))


@functools.cache  # listing the entry points of all installed packages takes about 0.1 s
def _load_plugin(registry: Registry[Any], name: str) -> Any:
    """Return the module with this name from an installed package."""
    check_known([name], registry.known(), registry.kind, listed="Known")
    points = list(importlib.metadata.entry_points(group=registry.group, name=name))
    if len(points) > 1:
        modules = " and ".join(sorted(point.value for point in points))
        raise UsageError(
            f"Several installed packages provide the {registry.kind} '{name}': {modules}. Uninstall all but one.",
            code="plugin-twice",
        )
    try:
        return points[0].load()
    except Exception as problem:  # foreign code can raise anything
        raise UsageError(
            f"The {registry.kind} '{name}' cannot be imported from {points[0].value}: {problem}. "
            "Install its package again.",
            code="plugin-import",
        ) from problem


def version_of(package: str) -> str | None:
    """Return the version of an installed distribution without importing it, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
