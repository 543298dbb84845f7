"""Writes bundles. A bundle appears whole, by rename, or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bundle import signature
from edgekit.bundle.install import check_replaced
from edgekit.bundle.place import check_free, disk_errors, new_folder, put_folder, recover, share, sync_tree
from edgekit.bundle.trust import MANIFEST, Bundle
from edgekit.spec.digests import files_below, sha256
from edgekit.spec.errors import IntegrityError
from edgekit.spec.manifest import FileEntry, Manifest, dumps, loads

if TYPE_CHECKING:
    from edgekit.spec.graph import GraphSet

__all__ = ["check_output", "graph_files", "write"]


def check_output(out: Path, force: bool) -> None:
    """Refuses an output folder that a build must not touch, before any work is done.

    A bundle that a killed writer had put aside is first brought back to its place.

    Raises:
        UsageError: when it exists and ``force`` is not given, or when it is something else than a bundle or an empty folder.
    """
    recover(out)
    check_free(out, force, "a bundle", lambda there: there.is_dir() and (not any(there.iterdir()) or _is_bundle(there)))


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle's manifest, and no file that this does not list: many a web page has a manifest.json too."""
    try:
        manifest = loads((folder / MANIFEST).read_text("utf-8"), str(folder))
    except (OSError, ValueError, IntegrityError):
        return False
    return set(files_below(folder)) - {MANIFEST, signature.FILE} <= set(manifest.files)


def graph_files(graphs: GraphSet) -> dict[str, Path]:
    """Files of a graph set by their place in a bundle: ``graphs/*.onnx``, ``graphs/weights/SHA256``, ``assets/*``."""
    files = {f"assets/{name}": graphs.assets / name for name in files_below(graphs.assets)}
    for graph in graphs.graphs:
        files[f"graphs/{graph.path.name}"] = graph.path
        weights = graph.path.parent / "weights"
        files.update(
            {f"graphs/weights/{name}": weights / name for name in files_below(weights)} if weights.is_dir() else {}
        )
    return files


def write(
    out: Path,
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    *,
    force: bool = False,
    scratch: bool = False,
    allow_downgrade: bool = False,
) -> Bundle:
    """Writes a bundle.

    Args:
        out: its folder; must not exist unless ``force``.
        manifest: its ``files`` are filled in here.
        files: place in the bundle to its content, or to the file that is copied there.
        force: replace a bundle that is there.
        scratch: for a bundle that goes when the build ends: it is not synced.
        allow_downgrade: replace also one of another name, or a newer one.

    Raises:
        UsageError: as :func:`check_output` and :func:`edgekit.bundle.install.check_replaced`.
        BuildError: when the disk is full or cannot be written; ``out`` is then as it was.
    """

    def check() -> None:
        check_output(out, force)
        check_replaced(out, manifest.name, manifest.version, allow_downgrade)

    check()
    with disk_errors(out), new_folder(out) as folder:
        for name, source in sorted(files.items()):
            _put(source, folder / name)
        listed = {
            name: FileEntry(sha256(folder / name), (folder / name).stat().st_size) for name in files_below(folder)
        }
        complete = replace(manifest, files=listed)
        text = dumps(complete).encode()
        (folder / MANIFEST).write_bytes(text)
        share(folder)
        if not scratch:
            sync_tree(folder)
        put_folder(folder, out, check)
    return Bundle(out, complete, digest=hashlib.sha256(text).hexdigest())


def _put(source: Path | bytes, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        place.write_bytes(source)
        return
    shutil.copyfile(source, place)
