"""From a graph of a bundle to an engine: what its key is made of, where it comes from, and what happens when something is in the way."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from dataclasses import replace
from types import SimpleNamespace

import fake_jetson
import numpy as np
import onnx
import pytest
import small
from board import Board
from fake_cuda import FakeDriver
from refusals import refused

import edgekit
from edgekit import BuildError, IntegrityError
from edgekit.backends import tensorrt, tensorrt_rtx
from edgekit.bundle import trust
from edgekit.bundle.keys import make_keys
from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import open_bundle
from edgekit.drivers import jetson as jetson_board
from edgekit.engines import compile as compiling
from edgekit.engines.engine_cache import EngineCache
from edgekit.spec.digests import sha256
from edgekit.spec.progress import silent

PLAN = "engines/an.plan"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return folder / "ours", make_keys(folder / "ours")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of engines of a device that has made none."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@contextlib.contextmanager
def opened(backend=tensorrt):
    device = backend.open_device("gpu", 1)
    try:
        yield device
    finally:
        device.close()


def load(bundle, device, variant=0, progress=silent, **how):
    chosen = bundle.manifest.variants[variant] if isinstance(variant, int) else variant
    options = compiling.EngineOptions(**how)
    return compiling.load_engine(bundle, chosen, bundle.manifest.signatures[0], device, progress, options)


def start(bundle, variant=0, backend=tensorrt, **how):
    """Loads an engine on a device of its own, as a process does at its start; where it came from."""
    with opened(backend) as device:
        return load(bundle, device, variant, **how)[1]


def timings(folder):
    """Engine files that are no engines, but timing caches."""
    return sorted(
        f.with_suffix(".plan").name for f in folder.glob("*.json") if '"timings of"' in f.read_text("utf-8", "replace")
    )


def left(folder, *kinds):
    """Files of these kinds, those of timing caches left out."""
    beside = {name.partition(".")[0] for name in timings(folder)}
    return (
        sorted(f.name for f in folder.iterdir() if f.suffix[1:] in kinds and f.stem not in beside)
        if folder.exists()
        else []
    )


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# ---- made here, and kept


@pytest.mark.parametrize("variant", [0, 1], ids=["static_float16", "float16"])
def test_it_is_made_once(jetson, board, cache, variant):
    """Both times it computes what ONNX Runtime made of the graph where the bundle was built."""
    bundle = open_bundle(jetson)
    stored = np.load(jetson / "golden.npz")
    found = []
    for _ in range(2):
        with opened() as device:
            engine, where = load(bundle, device, variant)
            found.append(where)
            for row, length in enumerate(stored["lengths"]):
                feeds = {
                    s.name: stored[f"input.{s.name}"][row : row + 1, :length].astype(np.int64)
                    for s in bundle.manifest.signatures[0].inputs
                }
                np.testing.assert_allclose(
                    engine.run(feeds)["logits"][0],
                    stored[f"outputs.{variant}"][row],
                    atol=0.02 * np.ptp(stored[f"outputs.{variant}"]),
                )
    first, second = found
    assert (first.source, second.source) == ("made here", "cache")
    assert first.key == second.key
    assert first.seconds == second.seconds > 0
    assert first.size_mb == second.size_mb == (cache / f"{first.key}.plan").stat().st_size / 2**20
    assert first.text() == f"engine compiled here in {first.seconds:.1f} s ({first.size_mb:.1f} MB)"
    assert second.text() == f"engine from the cache, compiled here in {first.seconds:.1f} s ({first.size_mb:.1f} MB)"
    assert board.fake.builds == 1
    assert left(cache, "plan", "json", "lock") == [f"{first.key}.json", f"{first.key}.plan"]


def test_what_is_noted_beside_an_engine(jetson, board, tmp_path, monkeypatch):
    place = fake_jetson.write(tmp_path / "orin", fake_jetson.orin_nano())
    real = jetson_board.board
    monkeypatch.setattr(jetson_board, "board", lambda: real(place))
    bundle = open_bundle(jetson)
    where = start(bundle)
    about = EngineCache().about(where.key)
    assert about["method"] == "static_float16"
    assert about["power_mode"] == "MAXN_SUPER (2)"
    assert about["model"] == bundle.manifest.provenance["model"]
    assert about["seconds"] == where.seconds
    parts = json.loads((EngineCache().root / f"{where.key}.json").read_text())["parts"]
    assert parts["l4t"] == "36.4.3"
    assert parts["graph"] == bundle.manifest.files["graphs/model.onnx"].sha256


def test_it_is_made_anew_when_that_is_asked(jetson, board, cache):
    bundle = open_bundle(jetson)
    first = start(bundle)
    plan = (cache / f"{first.key}.plan").read_bytes()
    second = start(bundle, force=True, make=True)
    assert (second.source, second.key, board.fake.builds) == ("made here", first.key, 2)
    assert (cache / f"{first.key}.plan").read_bytes() != plan, "no two builds are alike"
    assert start(bundle, make=True).source == "cache", "to make engines is to have them, not to make them again"


def test_a_copy_of_the_bundle_has_the_same_engines(jetson, board, tmp_path):
    start(open_bundle(jetson))
    again = small.copy(jetson, tmp_path / "elsewhere")
    small.sign(again, reason="another text in the manifest")
    assert start(open_bundle(again)).source == "cache"
    assert board.fake.builds == 1


# ---- what an engine is bound to


def parts(bundle, variant=0, **identity):
    return compiling.key_parts(
        bundle, bundle.manifest.variants[variant], bundle.manifest.signatures[0], {"version": "10.3.0", **identity}
    )


def test_the_key_is_of_graph_recipe_and_device(jetson):
    bundle = open_bundle(jetson)
    first, *rest = bundle.manifest.variants

    def of(variant):
        return replace(bundle, manifest=replace(bundle.manifest, variants=(variant, *rest)))

    found = [
        parts(bundle),
        parts(bundle, 1),
        parts(bundle, version="10.3.0.1"),
        parts(of(replace(first, engine=replace(first.engine, workspace_mb=256)))),
        parts(of(replace(first, engine=replace(first.engine, flags=("TF32",))))),
        parts(
            of(replace(first, engine=replace(first.engine, profiles=({"batch": (1, 1, 8), "sequence": (1, 33, 64)},))))
        ),
    ]
    assert len({EngineCache.key(p) for p in found}) == len(found)
    assert parts(of(replace(first, threads=7, method="another name", executed="?"))) == parts(bundle), (
        "of these an engine knows nothing"
    )


def test_the_key_is_of_weights_beside_the_graph(tmp_path):
    """Weights of a real model lie in files of their own, which the graph names."""
    tensor = onnx.TensorProto(
        name="w", dims=[2], data_type=onnx.TensorProto.FLOAT, data_location=onnx.TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="weights/of-it")
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "m.onnx").write_bytes(
        onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString()
    )
    files = {n: trust.FileEntry(d * 64, 8) for n, d in (("graphs/weights/of-it", "b"), ("graphs/weights/other", "c"))}
    graph = tmp_path / "graphs" / "m.onnx"
    files["graphs/m.onnx"] = trust.FileEntry(sha256(graph), graph.stat().st_size)
    bundle, variant = (
        trust.Bundle(tmp_path, SimpleNamespace(files=files)),
        SimpleNamespace(graphs={"forward": "graphs/m.onnx"}, engine=None),
    )
    found = compiling.key_parts(bundle, variant, SimpleNamespace(name="forward"), {})
    assert (found["graph"], found["weights"]) == (files["graphs/m.onnx"].sha256, [["graphs/weights/of-it", "b" * 64]])


@pytest.mark.parametrize(
    ("version", "settings"),
    [
        ("10.16.1", {}),
        ("10.3.0", {"driver_version": 12070}),
        ("10.3.0", {"name": "Orin Nano"}),
        ("10.3.0", {"memory": 8 * 2**30}),
        ("10.3.0", {"multiprocessors": 4}),
    ],
    ids=["TensorRT", "driver", "name", "memory", "multiprocessors"],
)
def test_another_device_makes_its_own(jetson, monkeypatch, version, settings):
    bundle = open_bundle(jetson)
    Board(monkeypatch)
    first = start(bundle)
    other = Board(monkeypatch, version, FakeDriver.jetson(**settings))
    second = start(bundle)
    assert (second.source, other.fake.builds) == ("made here", 1)
    assert second.key != first.key
    Board(monkeypatch)
    assert start(bundle).source == "cache", "the first device's engine is still there"


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({"etc/nv_tegra_release": fake_jetson.release("36.5.0")}, "made here"),
        ({"var/lib/nvpmodel/status": "pmode:0000\n"}, "cache"),
    ],
    ids=["another Jetson Linux", "another power mode"],
)
def test_what_a_jetson_tells_of_itself(jetson, board, tmp_path, monkeypatch, caplog, files, source):
    """Kernels were timed in a power mode; in another one the engine is as right, so it is kept, and that is said."""
    place = fake_jetson.write(tmp_path / "orin", fake_jetson.orin_nano())
    real = jetson_board.board
    monkeypatch.setattr(jetson_board, "board", lambda: real(place))
    start(open_bundle(jetson))
    assert start(open_bundle(jetson)).source == "cache" and not caplog.messages
    fake_jetson.write(place, files)
    assert start(open_bundle(jetson)).source == source
    assert [m.partition(":")[0] for m in caplog.messages] == (
        ["The engine was compiled in power mode MAXN_SUPER (2), the board is in 15W (0)"] if source == "cache" else []
    )


# ---- what is in the cache and does not serve


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == "cut":
        file.write_bytes(content[:-1])
    elif how == "altered":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_text("{")


@pytest.mark.parametrize(("kind", "how"), [("plan", "cut"), ("plan", "altered"), ("json", "not JSON")])
def test_a_damaged_engine_is_made_again(jetson, board, cache, caplog, kind, how):
    bundle = open_bundle(jetson)
    key = start(bundle).key
    damage(cache / f"{key}.{kind}", how)
    again = start(bundle)
    assert (again.source, again.key, board.fake.builds) == ("made here", key, 2)
    (line,) = warnings(caplog)
    assert f"{key}.plan is damaged: " in line
    assert start(bundle).source == "cache"


def test_an_engine_that_tensorrt_refuses_is_dropped_and_made_again(jetson, monkeypatch, caplog):
    """The key says otherwise, so this takes somebody who put it there."""
    bundle = open_bundle(jetson)
    Board(monkeypatch, "10.16.1")
    foreign = EngineCache().find(start(bundle).key)
    board = Board(monkeypatch)
    with opened() as device:
        own = compiling.key_parts(bundle, bundle.manifest.variants[0], bundle.manifest.signatures[0], device.identity())
    EngineCache().store(EngineCache.key(own), foreign, own, {})
    again = start(bundle)
    assert (again.source, board.fake.builds) == ("made here", 1)
    (line,) = warnings(caplog)
    assert "expecting library version 10.3.0 got 10.16.1" in line
    assert "It was removed" in line
    assert start(bundle).source == "cache"
    assert not board.leaks()


def test_a_folder_that_others_may_write_is_not_read(jetson, board, cache):
    start(open_bundle(jetson))
    cache.chmod(0o777)
    with refused("cache-writable"):
        start(open_bundle(jetson))


# ---- what cannot be kept


@pytest.fixture(params=["full disk", "no folder", "refused"])
def no_room(request, tmp_path, monkeypatch):
    """A cache that takes no engine."""
    with contextlib.ExitStack() as stack:
        if request.param == "full disk":  # room for a lock, and for no engine
            monkeypatch.setenv("EDGEKIT_CACHE", str(stack.enter_context(small.tiny_disk("64k"))))
        elif request.param == "no folder":
            (tmp_path / "file").write_text("x")
            monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "cache"))
        else:

            def store(*_):
                raise BuildError("there is no room")

            monkeypatch.setattr(EngineCache, "store", store)
        yield request.param


def test_an_engine_that_cannot_be_kept_runs(jetson, board, no_room, caplog):
    bundle = open_bundle(jetson)
    for builds in (1, 2):
        caplog.clear()
        with opened() as device:
            engine, where = load(bundle, device)
            assert engine.run({s.name: np.ones((1, 4), np.int64) for s in bundle.manifest.signatures[0].inputs})[
                "logits"
            ].shape == (1, 3)
        assert (where.source, board.fake.builds) == ("made here", builds)
        assert any("could not be cached" in line for line in warnings(caplog))


def test_who_asks_for_it_to_be_kept_is_told(jetson, board, no_room):
    codes = {"full disk": "disk-full", "no folder": "cache-not-writable", "refused": "error"}
    with refused(codes[no_room]):
        start(open_bundle(jetson), make=True)
    assert board.fake.builds == (no_room != "no folder"), "where there is no folder that is known before the work"


def test_timings_that_cannot_be_kept_cost_time_alone(jetson, board, monkeypatch, caplog):
    store = EngineCache.store

    def full(cache, key, engine, parts, about):
        if "timings of" in parts:
            raise BuildError("there is no room for timings")
        store(cache, key, engine, parts, about)

    monkeypatch.setattr(EngineCache, "store", full)
    assert start(open_bundle(jetson), make=True).source == "made here"
    (line,) = warnings(caplog)
    assert "kernel timings are not" in line
    assert start(open_bundle(jetson)).source == "cache"


# ---- what a build leaves for the next


def test_kernels_are_timed_once(jetson, board, cache):
    bundle = open_bundle(jetson)
    start(bundle)
    timed = board.fake.timed
    assert timed > 0
    start(bundle, force=True)
    assert (board.fake.builds, board.fake.timed) == (2, timed)
    assert len(timings(cache)) == 1
    start(bundle, 1)
    assert len(timings(cache)) == 1, "one for all graphs"
    assert board.fake.timed > timed


def test_timings_of_another_device_are_not_used(jetson, monkeypatch):
    Board(monkeypatch)
    start(open_bundle(jetson))
    other = Board(monkeypatch, "10.16.1")
    start(open_bundle(jetson))
    assert other.fake.timed > 0


def test_damaged_timings_are_made_again(jetson, board, cache, caplog):
    start(open_bundle(jetson))
    timed = board.fake.timed
    (file,) = timings(cache)
    damage(cache / file, "altered")
    start(open_bundle(jetson), force=True)
    assert board.fake.timed == 2 * timed
    assert f"{cache / file} is damaged: " in warnings(caplog)[0]


# ---- several at once, and those that give up


def test_two_that_start_at_once_make_one_engine(jetson, board):
    bundle, waits, found, told = open_bundle(jetson), threading.Event(), [], []

    def makes(step, *_):
        assert waits.wait(30), "the other one did not wait"

    def comes_later(step, *_):
        told.append(step)
        waits.set()

    def run(progress):
        found.append(start(bundle, progress=progress))

    first = threading.Thread(target=run, args=(makes,))
    first.start()
    while not left(EngineCache().root, "lock") and first.is_alive():
        pass
    run(comes_later)
    first.join(30)
    assert sorted(w.source for w in found) == ["cache", "made here"]
    assert board.fake.builds == 1
    assert "another process" in told[0]
    assert not left(EngineCache().root, "lock")


def test_a_build_that_is_stopped_leaves_nothing(jetson, board, cache):
    def stops(step, *_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(open_bundle(jetson), progress=stops)
    assert left(cache, "plan", "json", "lock") == [] == timings(cache)
    assert board.fake.builds == 0
    assert start(open_bundle(jetson)).source == "made here"


# ---- what a device refuses


def test_a_chip_that_it_is_not_for(jetson, monkeypatch):
    board = Board(monkeypatch, driver=FakeDriver())
    with refused("engine-compute-capability", "8.7", "NVIDIA", "RTX", "4060", "8.9"):
        start(open_bundle(jetson))
    assert not board.leaks()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"minimum": "10.13"}, ("tensorrt-too-old", "10.13", "10.3.0", "10.3")),
        (
            {"workspace_mb": 20000, "memory_mb": 0},
            ("engine-workspace", "20000", "16384"),
        ),
        (
            {"flags": ("FP16",)},
            ("engine-build-failed", "model.onnx"),
        ),
        ({"flags": ("NOTHING",)}, ("tensorrt-name-unknown", "NOTHING")),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_a_recipe_that_cannot_be_followed_here(jetson, board, cache, changes, said):
    bundle = open_bundle(jetson)
    variant = bundle.manifest.variants[0]
    with refused(said):
        start(bundle, replace(variant, engine=replace(variant.engine, **changes)))
    assert left(cache, "plan", "json", "lock") == []


def test_a_build_that_gives_nothing_says_what_nvidia_said(jetson, board, cache):
    board.fake.build_returns_none = True
    with refused("engine-build-failed", "workspace_mb"):
        start(open_bundle(jetson))
    assert left(cache, "plan", "json", "lock") == []


def test_a_backend_that_runs_the_graph_itself_needs_none(jetson, cache):
    bundle = open_bundle(jetson)
    device = edgekit.backends.get("onnxruntime").open_device("cpu", 1)
    engine, where = load(bundle, device, replace(bundle.manifest.variants[0], backend="onnxruntime", engine=None))
    assert where is None
    engine.close()
    device.close()
    assert not cache.exists()


# ---- engines that came with the bundle


@pytest.fixture
def ada(monkeypatch):
    """A PC with TensorRT-RTX."""
    made = Board(monkeypatch, driver=FakeDriver(), rtx=True)
    yield made
    assert not made.leaks()


@pytest.fixture
def ahead(jetson, keys, ada, tmp_path):
    """A signed bundle with an engine that was made ahead of time, as a build for TensorRT-RTX makes it."""
    bundle = small.copy(jetson, tmp_path / "ahead")
    first = json.loads((bundle / "manifest.json").read_text())["variants"][0]
    variant = {
        **first,
        "backend": "tensorrt_rtx",
        "engine": {**first["engine"], "compute_capability": ["8.9"]},
        "engines": {"forward": PLAN},
    }
    (bundle / "engines").mkdir()
    (bundle / PLAN).write_bytes(b"not yet")
    small.sign(bundle, variants=[variant])
    read = open_bundle(bundle)
    with opened(tensorrt_rtx) as device:
        built = device.compile(
            bundle / "graphs/model.onnx", read.manifest.signatures[0], read.manifest.variants[0].engine, b"", silent
        )
    (bundle / PLAN).write_bytes(built.plan)
    small.sign(bundle)
    trust.sign(bundle, keys[0])
    ada.fake.builds = 0
    return bundle


def test_an_engine_of_others_is_not_loaded(ahead, ada):
    """Also where the bundle is signed: who does not name a key trusts nobody."""
    with refused("engine-untrusted") as caught:
        start(open_bundle(ahead), backend=tensorrt_rtx)
    assert "load(..., trust=Trust(keys=[...]))" in str(caught.value)
    assert "edgekit compile BUNDLE" in str(caught.value)
    assert str(caught.value).count("(") == str(caught.value).count(")")
    assert ada.fake.builds == 0


def test_an_engine_that_a_trusted_key_signed(ahead, ada, keys, cache):
    where = start(open_bundle(ahead, Trust([keys[1]])), backend=tensorrt_rtx)
    assert (where.source, where.key, ada.fake.builds) == ("bundle", "", 0)
    assert (
        where.text()
        == f"engine of the bundle, signed by a trusted key ({(ahead / PLAN).stat().st_size / 2**20:.1f} MB)"
    )
    assert not left(cache, "plan")


@pytest.mark.parametrize("content", [b"x", b""], ids=["altered", "empty"])
def test_an_engine_that_changed_after_the_bundle_was_checked(ahead, ada, keys, content):
    bundle = open_bundle(ahead, Trust([keys[1]]))
    plan = (ahead / PLAN).read_bytes()
    (ahead / PLAN).write_bytes(content + plan[len(content) :] if content else b"")
    with pytest.raises(IntegrityError, match=r"an.plan .*altered"):
        start(bundle, backend=tensorrt_rtx)


def test_a_signed_engine_that_does_not_serve_here_can_be_made_here(ahead, keys, monkeypatch):
    """The remedy that is told is one."""
    board = Board(monkeypatch, "10.16.1", FakeDriver(), rtx=True)
    bundle = open_bundle(ahead, Trust([keys[1]]))
    with refused("engine-mismatch", "10.16.1", "10.3.0", "BUNDLE"):
        start(bundle, backend=tensorrt_rtx)
    assert start(bundle, backend=tensorrt_rtx, make=True).source == "made here"
    for trusted in (bundle, open_bundle(ahead)):
        assert start(trusted, backend=tensorrt_rtx).source == "cache"
    assert board.fake.builds == 1
    assert not board.leaks()


def test_who_made_an_engine_here_runs_that_one(ahead, ada, keys):
    bundle = open_bundle(ahead, Trust([keys[1]]))
    assert start(bundle, backend=tensorrt_rtx).source == "bundle"
    assert start(bundle, backend=tensorrt_rtx, make=True).source == "made here"
    assert start(bundle, backend=tensorrt_rtx).source == "cache"


def test_engines_of_several_graphs_are_told_as_one():
    cache, made = (
        compiling.Compilation(source, key, seconds, 2.5)
        for source, key, seconds in (("cache", "a", 3.0), ("made here", "b", 4.0))
    )
    assert compiling.merge_compilations([]) is None
    assert compiling.merge_compilations([cache]) == cache
    assert compiling.merge_compilations([cache, made, cache]).text() == "engine compiled here in 4.0 s (7.5 MB)"
