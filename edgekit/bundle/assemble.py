"""Writing of bundles. A bundle appears complete, by rename, or not at all."""

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
    """Refuse an output folder that a build must not replace, before any work is done.

    A bundle that a killed writer had moved aside is restored first.

    Args:
        out: Output folder.
        force: Flag to replace an existing bundle.

    Raises:
        UsageError: If the folder exists without ``force``, or is neither a bundle nor an empty folder.
    """
    recover(out)
    check_free(out, force, "a bundle", _is_replaceable)


def _is_replaceable(path: Path) -> bool:
    return path.is_dir() and (not any(path.iterdir()) or _is_bundle(path))


def _is_bundle(folder: Path) -> bool:
    """Return whether a folder contains the manifest of a bundle and no file that the manifest does not list.

    The name alone is not enough: web pages have a manifest.json too.
    """
    try:
        manifest = loads((folder / MANIFEST).read_text("utf-8"), str(folder))
    except (OSError, ValueError, IntegrityError):
        return False
    return set(files_below(folder)) - {MANIFEST, signature.FILE} <= set(manifest.files)


def graph_files(graphs: GraphSet) -> dict[str, Path]:
    """Return the files of a graph set by their path in a bundle.

    The paths are ``graphs/*.onnx`` or ``graphs/*.tflite``, ``graphs/weights/SHA256`` and ``assets/*``.
    """
    files = {f"assets/{name}": graphs.assets / name for name in files_below(graphs.assets)}
    for graph in graphs.graphs:
        files[f"graphs/{graph.path.name}"] = graph.path
        weights = graph.path.parent / "weights"
        if weights.is_dir():
            for name in files_below(weights):
                files[f"graphs/weights/{name}"] = weights / name
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
    """Write a bundle.

    Args:
        out: Bundle folder. It must not exist unless ``force`` is set.
        manifest: Manifest of the bundle. Its ``files`` are filled in here.
        files: Path in the bundle to its content, or to the file to copy.
        force: Flag to replace an existing bundle.
        scratch: Flag for a temporary bundle, which is not synced to the disk.
        allow_downgrade: Flag to replace a bundle of another name or a newer version too.

    Raises:
        UsageError: If ``out`` must not be replaced (:func:`check_output`,
            :func:`edgekit.bundle.install.check_replaced`).
        BuildError: If the disk is full or not writable. ``out`` is then left unchanged.
    """

    def check() -> None:
        check_output(out, force)
        check_replaced(out, manifest.name, manifest.version, allow_downgrade)

    check()
    with disk_errors(out), new_folder(out) as folder:
        for name, source in sorted(files.items()):
            _write_file(source, folder / name)
        entries = {}
        for name in files_below(folder):
            entries[name] = FileEntry(sha256(folder / name), (folder / name).stat().st_size)
        complete = replace(manifest, files=entries)
        text = dumps(complete).encode()
        (folder / MANIFEST).write_bytes(text)
        share(folder)
        if not scratch:
            sync_tree(folder)
        put_folder(folder, out, check)
    return Bundle(out, complete, digest=hashlib.sha256(text).hexdigest())


def _write_file(source: Path | bytes, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        file.write_bytes(source)
    else:
        shutil.copyfile(source, file)
