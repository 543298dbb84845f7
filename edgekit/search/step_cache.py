"""What the steps of a build leave behind: their results, in the build cache or in the scratch folder.

A step hands over objects. Files are its cache: they are written beside, and read in a later build alone.
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
    "numpy",
    "scipy",
    "tokenizers",
)
_GRAPHS, _VALUES = "graphs.json", "values.json"


class StepCache:
    """Results of steps by the digest of all that they depend on.

    Attributes:
        scratch: a folder that goes when the build ends.
        progress: told how far each step is.
        cache: where results of other builds are.
        tools: name to version of the packages that a result may depend on.
        always: what every result depends on.
        reused: steps that were taken from the cache.
        remeasured: times in the cache and why they were not used, a sentence each.
    """

    def __init__(
        self, scratch: Path, progress: Progress, cache: Cache, *, replay: bool = False, rerace: bool = False
    ) -> None:
        """Binds folders.

        Args:
            scratch: a folder that goes when the build ends.
            progress: told how far each step is.
            cache: where results are looked for.
            replay: costs come from a record, so that times in the cache are never too old.
            rerace: measure times anew, whatever is in the cache.
        """
        self.scratch, self.progress, self.cache = scratch, progress, cache
        self.tools = {name: number for name in _TOOLS if (number := version_of(name)) is not None}
        self.always = {"code": code_digest(), "tools": self.tools}
        self.reused: list[str] = []
        self.remeasured: list[str] = []
        self._replay, self._rerace = replay, rerace
        self._made: set[str] = set()

    def get(
        self,
        step: str,
        parts: Mapping[str, Any],
        make: Callable[[Path], Result],
        read: Callable[[Path], Result],
        *,
        names_files: bool = False,
    ) -> Result:
        """The result of a step. What depends on a module from Python is not kept beyond the build: its code has no digest.

        Args:
            step: name for people.
            parts: what the result depends on; ``model`` is a digest, or None for a module from Python.
            make: computes the result, and writes what ``read`` needs of it into an empty folder. A result with the attribute ``busy`` holds
                times, and says there what else the machine did meanwhile: one that is old, or of a busy machine, is made anew.
            read: the result from that folder.
            names_files: the result names files of its folder, which has another name when it is whole.
        """
        digest = key(**parts, **self.always)
        if parts["model"] is None:
            return self._of_this_build(self.scratch / "made" / digest, make, read)
        folder = self.cache.find(digest)
        _LOG.debug("step '%s' has the cache key %s", step, digest)
        if folder is not None:
            result = read(folder)
            if not hasattr(result, "busy") or not self._outdated(step, digest, result.busy):
                if digest not in self._made and step not in self.reused:
                    self.reused.append(step)
                _LOG.info("step '%s': read from the cache", step)
                return result
            self.cache.drop(digest)
        self._made.add(digest)
        start = time.perf_counter()
        with disk_errors(self.cache.root), self.cache.fill(digest, {**parts, **self.always}) as folder:
            result = make(folder)
            _LOG.info("step '%s': computed in %.1f s", step, time.perf_counter() - start)
            self.progress("", 0, 0)  # whoever wants to stop does so now, even where a library swallowed the interrupt
        return read(self.cache.root / digest) if names_files else result

    def graphs(self, step: str, parts: Mapping[str, Any], make: Callable[[Path], GraphSet]) -> GraphSet:
        """The graphs of a step; in the cache ``graphs.json`` beside them says what they are."""

        def write(folder: Path) -> GraphSet:
            graphs = make(folder)
            write_graphs(folder, graphs)
            return graphs

        return self.get(step, parts, write, read_graphs, names_files=True)

    def values(self, step: str, parts: Mapping[str, Any], kind: type[Result], make: Callable[[], Result]) -> Result:
        """A dataclass of numbers, text, and rows of arrays; in the cache each field of rows is a file of its own, and ``values.json`` has the others."""
        of_rows = [name for name, hint in typing.get_type_hints(kind).items() if hint == Sequence[Arrays]]

        def write(folder: Path) -> Result:
            made = make()
            for name in of_rows:
                arrays: dict[str, Any] = {**pack(rows)} if (rows := getattr(made, name)) else {}
                np.savez(folder / f"{name}.npz", **arrays)
            (folder / _VALUES).write_text(
                to_json({name: plain(value) for name, value in vars(made).items() if name not in of_rows}), "utf-8"
            )
            return made

        def read(folder: Path) -> Result:
            rows = {}
            for name in of_rows:
                with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
                    rows[name] = unpack({part: stored[part] for part in stored.files})
            return parse(
                kind, {**json.loads((folder / _VALUES).read_text("utf-8")), **rows}, f"{step} in the build cache"
            )

        return self.get(step, parts, write, read)

    def _of_this_build(self, folder: Path, make: Callable[[Path], Result], read: Callable[[Path], Result]) -> Result:
        if folder.exists():
            return read(folder)
        with disk_errors(self.scratch):
            folder.mkdir(parents=True)
            return make(folder)

    def _outdated(self, step: str, digest: str, busy: Busy | None) -> bool:
        """Whether times in the cache are to be taken again, which is said. Those of this build are not, nor what a record replaces."""
        if digest in self._made or self._replay:
            return False
        why = outdated_reason(busy, self.cache.created_at(digest))
        if why and not self._rerace:
            self.remeasured.append(f"Times in the cache ({step}) were not used but measured again: {why}.")
        return self._rerace or bool(why)


def write_graphs(folder: Path, graphs: GraphSet) -> None:
    """Writes what graphs in a folder are."""
    entries = [
        {"signature": plain(g.signature), "path": g.path.name, "method": g.method, "recipe": dict(g.recipe)}
        for g in graphs.graphs
    ]
    (folder / _GRAPHS).write_text(to_json({**plain(graphs), "graphs": entries, "assets": graphs.assets.name}), "utf-8")


def read_graphs(folder: Path) -> GraphSet:
    """The graphs that :func:`write_graphs` wrote."""
    data = json.loads((folder / _GRAPHS).read_text("utf-8"))
    where = "graph in the build cache"
    graphs = tuple(
        Graph(parse(Signature, g["signature"], where), folder / g["path"], g["method"], g["recipe"])
        for g in data["graphs"]
    )
    return GraphSet(data["task"], data["loop"], graphs, folder / data["assets"], data["provenance"])
