"""Whatever a caller hands to a public function, a session or a verb: a typed error, exit code 2, never a traceback. What is tried is read off the package."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import small
from refusals import refused

import edgekit
import edgekit.cli
from edgekit import EdgekitError, InputError, UsageError, samples
from edgekit.bundle import keys, pack, trust
from edgekit.deploy import bench as bench_there
from edgekit.deploy import deploy
from edgekit.report import check
from edgekit.runtime import compile as compiling
from edgekit.search import record
from edgekit.spec import gates, project, target

# Not in ``edgekit`` itself: what the verbs call.
BEHIND_VERBS = (
    *(
        compiling.explain,
        trust.open_bundle,
        trust.sign,
        pack.pack,
        pack.unpack,
        keys.make_keys,
    ),
    *(
        check.report,
        check.baseline,
        check.compare,
        check.check,
        check.self_check,
        deploy,
        bench_there,
        samples.read,
        target.load,
    ),
    *(project.read, gates.read, record.read),
)
PUBLIC = [getattr(edgekit, name) for name in edgekit.__all__ if inspect.isfunction(getattr(edgekit, name))]
PATHS = (
    *("bundle", "path", "key", "bundle_folder", "out", "file", "private", "samples", "after", "keys", "identity"),
    *("model", "teacher", "eval", "race", "student", "tokens", "test", "source"),
)


class Lying:
    def __fspath__(self):
        return 3


class Bytes:
    def __fspath__(self):
        return b"x"


def bad_paths(folder):
    """What no path is, and paths that the system does not look at; not what merely is not there, which each function has a word of its own for."""
    loop = folder / "loop"
    if not loop.is_symlink():
        loop.symlink_to(loop)
        (folder / "file").write_text("x")
    return {
        "None": None,
        "a number": 3,
        "bytes": b"out",
        "a bytearray": bytearray(b"out"),
        "an object": object(),
        "a path that is none": Lying(),
        "a path of bytes": Bytes(),
        "nothing": "",
        "NUL": "a\0b",
        "a lone surrogate": "\ud800",
        "a long name": "x" * 300,
        "a long path": "x/" * 5000,
        "a loop": str(loop),
        "below a loop": str(loop / "x"),
    }


def pairs():
    for function in (*PUBLIC, *BEHIND_VERBS):
        for name, parameter in inspect.signature(function).parameters.items():
            if (name in PATHS or function is target.load) and "Mapping" not in str(parameter.annotation):
                yield pytest.param(function, name, id=f"{function.__module__}.{function.__name__}({name})")


@pytest.mark.parametrize(("function", "name"), pairs())
def test_a_path_that_is_none_is_a_usage_error(tmp_path, function, name):
    fitting = {}
    for other, parameter in inspect.signature(function).parameters.items():
        if parameter.default is parameter.empty:
            fitting[other] = str(tmp_path / "absent")
    optional = inspect.signature(function).parameters[name].default is None
    for what, value in bad_paths(tmp_path).items():
        if value is None and optional:
            continue
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UsageError) as failed:
            function(**{**fitting, name: value})
        assert failed.value.exit_code == 2, what
        assert len(str(failed.value)) < 1000, what
        assert sorted(tmp_path.iterdir()) == before, what


@pytest.mark.parametrize("function", [*PUBLIC, *BEHIND_VERBS], ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_what_is_not_there_or_is_a_folder_or_cannot_be_read_is_typed(tmp_path, monkeypatch, function):
    bad_paths(tmp_path)
    monkeypatch.chdir(tmp_path)
    others = {"where": "ssh://nobody@127.0.0.1:1", "speedup": 1.5, "batches": [1], "lengths": [8]}
    needed = [n for n, p in inspect.signature(function).parameters.items() if p.default is p.empty]
    needed = needed or ["name"]  # of ``targets``
    for value in (
        tmp_path / "absent",
        tmp_path,
        tmp_path / "file",
        tmp_path / "file" / "below",
        os.fsdecode(b"\xff\xfe"),
        "/proc/self/mem",
        os.devnull,
    ):
        if function in (keys.make_keys, edgekit.keygen) and not Path(value).exists() and Path(value).parent.is_dir():
            continue  # where nothing is, keys may be written
        with pytest.raises(EdgekitError):
            function(**{n: others.get(n, value) for n in needed})


def test_the_table_is_of_all_public_functions():
    assert {f.__name__ for f in PUBLIC} == {
        *(
            "baseline",
            "bench",
            "build",
            "check",
            "compare",
            "compile_bundle",
            "distill",
            "evaluate",
            "inspect",
            "keygen",
        ),
        *("load", "measure", "pack", "predict", "prune", "sign", "targets", "trim_vocab", "unpack", "verify"),
    }
    for function in (*PUBLIC, *BEHIND_VERBS):
        assert function in (target.load, edgekit.targets) or any(
            n in PATHS for n in inspect.signature(function).parameters
        ), function


# ---- sessions


@pytest.fixture(scope="module")
def session(float32_ort):
    with edgekit.load(float32_ort) as opened:
        yield opened


NO_TEXTS = [
    None,
    3,
    2.5,
    True,
    b"film",
    bytearray(b"film"),
    {"text": "film"},
    {"film"},
    object(),
    iter(["a"]),
    (t for t in "ab"),
    range(2),
    np.array([1.0]),
]


@pytest.mark.parametrize(
    "wrong",
    [*NO_TEXTS, (), ("a",), ("a", 3), ("a", "b", "c"), [["a"]], [None], ["a", 3], [("a",)], [["a", "b"]], "\ud800"],
    ids=lambda value: type(value).__name__,
)
def test_a_session_refuses_what_is_no_text(session, wrong):
    with pytest.raises(InputError):
        session(wrong)
    with refused("input-type"):
        session.outputs(wrong)


def test_a_session_takes_what_is_a_text(session):
    class Text(str):
        __slots__ = ()

    label = session("the film").label
    assert [a.label for a in session([np.str_("the film"), Text("the film")])] == [label, label]
    assert session(np.str_("the film")).label == label
    assert session([]) == []
    assert session.outputs([]) == []
    assert session("").label in small.LABELS


@pytest.mark.parametrize(
    "wrong",
    [None, 3, "input_ids", [1], {3: np.ones((1, 2), np.int64)}, {"input_ids": None}, {"input_ids": [[1, 2]]}],
    ids=repr,
)
def test_a_graph_refuses_what_are_no_arrays(session, wrong):
    with pytest.raises(InputError):
        session.run(wrong)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("backend", 3),
        ("backend", b"onnxruntime"),
        ("backend", ""),
        ("threads", "2"),
        ("threads", 1.0),
        ("threads", True),
        ("trust", "key.pub"),
    ],
)
def test_options_of_another_type(float32_ort, option, value):
    with pytest.raises(EdgekitError):
        edgekit.load(float32_ort, **{option: value})


# ---- verbs


def verbs():
    for module in pkgutil.iter_modules(edgekit.cli.__path__):
        if not module.name.startswith("_"):
            yield getattr(importlib.import_module(f"edgekit.cli.{module.name}"), "command", None)


def cases():
    """Each text that a verb takes as a path, by its place: the others are absent files."""
    for verb in filter(None, verbs()):
        if isinstance(verb, click.Group):
            continue
        needed = [p for p in verb.params if p.required]
        taken = [
            *needed,
            *(
                p
                for p in verb.params
                if not p.required and p.metavar and ("FILE" in p.metavar or "FOLDER" in p.metavar)
            ),
        ]
        for one in taken:
            words = [verb.name]
            for other in dict.fromkeys([*needed, one]):
                value = "{bad}" if other is one else "ssh://nobody@localhost:1" if other.name == "where" else "absent"
                words += [value] if isinstance(other, click.Argument) else [other.opts[-1], value]
            if verb.name == "init" and one.name != "folder":
                continue  # it writes the names of files that may come later
            if one.name not in ("texts", "where"):
                yield pytest.param(words, id=f"{verb.name} {one.name}")


_ALL = """
import io, json, sys, contextlib, traceback
from edgekit.cli import main
out = []
for words in json.load(sys.stdin):
    sys.argv = ["edgekit", *words]
    said, code = io.StringIO(), None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
    out.append([code, said.getvalue()])
json.dump(out, sys.stdout)
"""


@pytest.mark.slow
def test_verbs_end_with_a_line_and_a_code(tmp_path):
    bad_paths(tmp_path)
    values = [
        "",
        "x" * 300,
        "x/" * 5000,
        "loop",
        "file/below",
        "file",
        ".",
        "absent",
        "/proc/self/mem",
        os.fsdecode(b"\xff\xfe"),
        "/dev/null",
    ]
    tried = [[word.replace("{bad}", value) for word in case.values[0]] for case in cases() for value in values]
    assert len(tried) > 400
    done = small.run(
        sys.executable,
        "-c",
        _ALL,
        cwd=tmp_path,
        stdin=json.dumps(tried).encode(),
        timeout=400,
        EDGEKIT_CACHE=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    faults = []
    for words, (code, said) in zip(tried, json.loads(done.stdout), strict=True):
        fine = "Traceback" not in said and code in (1, 2, 5) and (said.startswith("edgekit: ") or "Usage: " in said)
        # A path that cannot be one is the caller's mistake (2), one that leads to no bundle a bundle's (5), a place that cannot be written to is told by 1.
        if not fine or (code == 1 and "deploy" not in words and "--out" not in words):
            faults.append((words, code, said[-300:]))
    assert not faults, "\n".join(map(str, faults))
    odd = os.fsdecode(b"\xff\xfe")
    assert {p.name for p in tmp_path.iterdir()} <= {
        "loop",
        "file",
        "cache",
        "absent",
        "absent.pub",
        odd,
        f"{odd}.pub",
    }, "two key pairs at most"


def test_a_folder_that_may_not_be_read(float32_ort, tmp_path):
    if os.geteuid() == 0 and not Path("/proc/self/mem").exists():
        pytest.skip("a superuser may read everything, and this system has no file that it cannot")
    copy = small.copy(float32_ort, tmp_path / "copy")
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").symlink_to("/proc/self/mem")
    with refused("bundle-no-manifest"):
        edgekit.load(copy)
