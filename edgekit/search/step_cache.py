"""Results of build steps, stored in the build cache, or in the scratch folder if they cannot be cached.

A step returns objects. The files that it writes are their cached form, and only later builds read them.
"""

from __future__ import annotations

import json
import logging
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekit.bundle.place import disk_errors
from edgekit.cache.store import Cache, key
from edgekit.drivers import heap
from edgekit.machine.busy import Busy, outdated_reason
from edgekit.spec.digests import code_digest
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.parsing import parse, plain, to_json
from edgekit.spec.progress import Progress
from edgekit.spec.protocols import Arrays
from edgekit.spec.registry import version_of
from edgekit.spec.rows import pack, unpack
from edgekit.spec.tensor import Signature

__all__ = ["Result", "StepCache", "read_graphs", "write_graphs"]

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

_TOOLS = (
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "flatbuffers",
    "numpy",
    "scipy",
    "tokenizers",
)
_GRAPHS_FILE = "graphs.json"
_VALUES_FILE = "values.json"


class StepCache:
    """Results of build steps, looked up by the digest of their inputs.

    Attributes:
        scratch: Temporary folder that is removed when the build ends.
        progress: Function that is called as steps progress.
        cache: Build cache, which holds results of earlier builds.
        tools: Versions of the packages that a result may depend on, by package name.
        always: Key parts of every result: digest of the code, and ``tools``.
        reused: Names of the steps whose results came from the cache.
        remeasured: Notes, one sentence each, on cached times that were measured again, and why.
    """

    def __init__(
        self, scratch: Path, progress: Progress, cache: Cache, *, replay: bool = False, rerace: bool = False
    ) -> None:
        """Create a step cache.

        Args:
            scratch: Temporary folder that is removed when the build ends.
            progress: Function that is called as steps progress.
            cache: Build cache to read and fill.
            replay: Whether a record supplies all times. Cached times then never expire.
            rerace: Whether to measure all times again, even if the cache has them.
        """
        self.scratch = scratch
        self.progress = progress
        self.cache = cache
        self.tools: dict[str, str] = {}
        for name in _TOOLS:
            version = version_of(name)
            if version is not None:
                self.tools[name] = version
        self.always = {"code": code_digest(), "tools": self.tools}
        self.reused: list[str] = []
        self.remeasured: list[str] = []
        self._replay = replay
        self._rerace = rerace
        self._computed: set[str] = set()

    def get(
        self,
        step: str,
        parts: Mapping[str, Any],
        make: Callable[[Path], Result],
        read: Callable[[Path], Result],
        *,
        names_files: bool = False,
    ) -> Result:
        """Return the result of a step, from the cache or computed now.

        The code of a Python module has no digest, so results that depend on one are stored for this build only.

        Args:
            step: Name of the step in logs and messages.
            parts: Key parts of the result. ``model`` is the digest of the model, or None for a Python module.
            make: Function that computes the result, and writes the files that ``read`` needs into an empty folder.
                A result that holds times has the attribute ``busy``, the load of the machine during the measurement.
                Such a result is computed again if it is old, or if the machine was busy.
            read: Function that reads the result from that folder.
            names_files: Whether the result contains paths of files in its folder. The folder is renamed when it is
                complete, so the result is then read again from the final folder.
        """
        digest = key(**parts, **self.always)
        if parts["model"] is None:
            return self._get_for_this_build(self.scratch / "made" / digest, make, read)
        folder = self.cache.find(digest)
        _LOG.debug("step '%s' has the cache key %s", step, digest)
        if folder is not None:
            result = read(folder)
            if not hasattr(result, "busy") or not self._is_outdated(step, digest, result.busy):
                if digest not in self._computed and step not in self.reused:
                    self.reused.append(step)
                _LOG.info("step '%s': read from the cache", step)
                return result
            self.cache.drop(digest)
        self._computed.add(digest)
        start = time.perf_counter()
        with disk_errors(self.cache.root), self.cache.fill(digest, {**parts, **self.always}) as folder:
            result = make(folder)
            _LOG.info("step '%s': computed in %.1f s", step, time.perf_counter() - start)
            # This call lets the user stop the build even if a library swallowed the interrupt.
            self.progress("", 0, 0)
        heap.trim()  # Else what one step freed adds to the peak of the next.
        return read(self.cache.root / digest) if names_files else result

    def graphs(self, step: str, parts: Mapping[str, Any], make: Callable[[Path], GraphSet]) -> GraphSet:
        """Return the graphs of a step. In the cache, ``graphs.json`` in their folder describes them."""

        def write(folder: Path) -> GraphSet:
            graphs = make(folder)
            write_graphs(folder, graphs)
            return graphs

        return self.get(step, parts, write, read_graphs, names_files=True)

    def values(self, step: str, parts: Mapping[str, Any], kind: type[Result], make: Callable[[], Result]) -> Result:
        """Return the result of a step that is a dataclass of numbers, text, and rows of arrays.

        In the cache, each field with rows is an ``.npz`` file, and ``values.json`` holds the other fields.
        """
        hints = typing.get_type_hints(kind)
        row_fields = [name for name, hint in hints.items() if hint == Sequence[Arrays]]

        def write(folder: Path) -> Result:
            result = make()
            for name in row_fields:
                rows = getattr(result, name)
                arrays: dict[str, Any] = {**pack(rows)} if rows else {}
                np.savez(folder / f"{name}.npz", **arrays)
            other_fields = {name: plain(value) for name, value in vars(result).items() if name not in row_fields}
            (folder / _VALUES_FILE).write_text(to_json(other_fields), "utf-8")
            return result

        def read(folder: Path) -> Result:
            rows = {}
            for name in row_fields:
                with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
                    rows[name] = unpack({part: stored[part] for part in stored.files})
            other_fields = json.loads((folder / _VALUES_FILE).read_text("utf-8"))
            return parse(kind, {**other_fields, **rows}, f"{step} in the build cache")

        return self.get(step, parts, write, read)

    def _get_for_this_build(
        self, folder: Path, make: Callable[[Path], Result], read: Callable[[Path], Result]
    ) -> Result:
        """Return a result from the scratch folder, or compute and store it there."""
        if folder.exists():
            return read(folder)
        with disk_errors(self.scratch):
            folder.mkdir(parents=True)
            result = make(folder)
        heap.trim()
        return result

    def _is_outdated(self, step: str, digest: str, busy: Busy | None) -> bool:
        """Return whether cached times must be measured again. A note in ``remeasured`` gives the reason.

        Times that this build measured, or that a record replaces, are never outdated.
        """
        if digest in self._computed or self._replay:
            return False
        reason = outdated_reason(busy, self.cache.created_at(digest))
        if reason and not self._rerace:
            self.remeasured.append(f"Times in the cache ({step}) were not used but measured again: {reason}.")
        return self._rerace or bool(reason)


def write_graphs(folder: Path, graphs: GraphSet) -> None:
    """Write the description of the graphs in a folder."""
    entries = [
        {"signature": plain(g.signature), "path": g.path.name, "method": g.method, "recipe": dict(g.recipe)}
        for g in graphs.graphs
    ]
    description = {**plain(graphs), "graphs": entries, "assets": graphs.assets.name}
    (folder / _GRAPHS_FILE).write_text(to_json(description), "utf-8")


def read_graphs(folder: Path) -> GraphSet:
    """Read the graphs that :func:`write_graphs` described."""
    data = json.loads((folder / _GRAPHS_FILE).read_text("utf-8"))
    graphs = []
    for entry in data["graphs"]:
        signature = parse(Signature, entry["signature"], "graph in the build cache")
        graphs.append(Graph(signature, folder / entry["path"], entry["method"], entry["recipe"]))
    return GraphSet(data["task"], data["loop"], tuple(graphs), folder / data["assets"], data["provenance"])
