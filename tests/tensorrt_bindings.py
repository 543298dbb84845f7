"""The real Python bindings of TensorRT on a machine that has no TensorRT: what a version calls its things, read from NVIDIA's own code.

The wheels ``tensorrt-cu12-bindings`` hold one extension module each. It needs nine C functions of three libraries that come
in other packages. Empty ones with these names, made here with the C compiler, let it be imported: all classes, enums and
signatures are there, and only creating something fails. An import happens in a child process, for the loader must know the
folder of the libraries before it starts, and two versions do not fit into one process.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

VERSIONS = {"10.3.0": "10.3.0", "10.16.1": "10.16.1.11", "11.4.0": "11.4.0.106"}  # and what pip calls them
RTX = "rtx"
FOLDER = Path(sys.prefix) / "tensorrt"  # a folder for each version, as pip install --target makes it
LISTS = (
    Path(__file__).resolve().parents[2] / "shared" / "tensorrt-api"
)  # names that were read off the same bindings before

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)

# Runs in the child. A name's entry is a number (enum member), "property", "read-only property", a list of signatures (method) or a word.
_DUMP = r"""
import importlib, json, re, sys
module = importlib.import_module(sys.argv[1])

def signatures(function):
    # pybind11 writes them into the docstring: one line, or a numbered list under an "Overloaded function" line.
    lines = [re.sub(r"^\d+\. ", "", line) for line in (function.__doc__ or "").splitlines()]
    wanted = re.compile(re.escape(function.__name__) + r"\(.*\) -> ")
    return [re.sub(r"\b[\w.]+\.tensorrt(_rtx)?\.", "", line) for line in lines if wanted.match(line)]

def entry(owner, name):
    value = getattr(owner, name, None)
    if type(value) is owner:
        return int(value)
    kept = getattr(owner, "__dict__", {}).get(name)
    if isinstance(kept, property):
        return "property" if kept.fset else "read-only property"
    return signatures(value) if callable(value) and not isinstance(value, type) else type(value).__name__

def members(owner):
    return {name: entry(owner, name) for name in dir(owner) if not name.startswith("_") or name == "__init__"}

names = {}
for name in dir(module):
    value = getattr(module, name)
    if not name.startswith("_"):
        names[name] = members(value) if isinstance(value, type) else type(value).__name__
# Severity hangs on the logger's class.
names["ILogger.Severity"] = members(module.ILogger.Severity)
ordered = [name for name in names if isinstance(getattr(module, name, None), type) and "__lt__" in vars(getattr(module, name))]
json.dump({"version": module.__version__, "names": names, "ordered": ordered}, sys.stdout)
"""


class Absent(Exception):
    """The bindings of a version cannot be read here; the message is a reason to skip a test."""


@functools.cache
def dump(version: str) -> dict[str, Any]:
    """All names of a version's bindings.

    Args:
        version: one of ``VERSIONS``, or ``RTX`` for TensorRT-RTX, whose real libraries pip installs.

    Returns:
        ``version`` in full; ``names``: class -> name -> what it is, see ``_DUMP``; ``ordered``: enums whose members compare with ``<``.

    Raises:
        Absent: when the wheel is not installed, or there is no C compiler.
    """
    if version == RTX:
        if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
            raise Absent(
                "TensorRT-RTX is not installed (pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings)"
            )
        return _dump("tensorrt_rtx_bindings", dict(os.environ))
    if not (FOLDER / version / "tensorrt_bindings").is_dir():
        install = f"pip install --no-deps --target {FOLDER / version} tensorrt-cu12-bindings=={VERSIONS[version]}"
        raise Absent(f"the bindings of TensorRT {version} are not installed (run: {install})")
    libraries = _stubs().name
    paths = filter(None, (libraries, os.environ.get("LD_LIBRARY_PATH")))
    return _dump(
        "tensorrt_bindings", dict(os.environ, LD_LIBRARY_PATH=os.pathsep.join(paths), PYTHONPATH=str(FOLDER / version))
    )


@functools.cache
def listed(version: str) -> dict[str, set[str]]:
    """Public names of each class of a version, as the lists beside the checkout have them.

    Raises:
        Absent: when the lists are not there.
    """
    file = LISTS / f"{version}.txt"
    if not file.is_file():
        raise Absent(f"no list of names at {file}")
    lines = (line.partition(": ") for line in file.read_text().splitlines() if line.startswith("CLASS "))
    return {
        head.removeprefix("CLASS "): {name for name in names.split() if not name.startswith("_")}
        for head, _, names in lines
    }


@functools.cache
def signatures() -> dict[str, dict[str, Any]]:
    """What the list of 11.4.0 tells of each name: a list of signatures, ``property`` or a word.

    Raises:
        Absent: when the lists are not there.
    """
    file = LISTS / "11.4.0.json"
    if not file.is_file():
        raise Absent(f"no list of signatures at {file}")
    found = json.loads(file.read_text())["names"]
    clean = re.compile(r"^\d+\. |\btensorrt_bindings\.tensorrt\.")
    return {
        owner: {
            name: [clean.sub("", line) for line in entry] if isinstance(entry, list) else entry
            for name, entry in names.items()
        }
        for owner, names in found.items()
        if isinstance(names, dict)
    }


@functools.cache
def _stubs() -> tempfile.TemporaryDirectory[str]:
    """Libraries with the nine functions, all of which return nothing. They go with the process.

    Raises:
        Absent: when there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise Absent("no C compiler (cc) to make stub libraries with")
    folder = tempfile.TemporaryDirectory(prefix="edgekit-tensorrt-")
    first = Path(folder.name, "stub.so")
    source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in _SYMBOLS)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(first)], input=source, text=True, check=True
    )
    for library in _LIBRARIES:
        for major in {version.split(".")[0] for version in VERSIONS}:
            shutil.copy(first, Path(folder.name, f"lib{library}.so.{major}"))
    return folder


def _dump(module: str, environment: dict[str, str]) -> dict[str, Any]:
    child = subprocess.run([sys.executable, "-c", _DUMP, module], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, f"{module} cannot be imported:\n{child.stderr}"
    return json.loads(child.stdout)
