"""Bundles whose engines the device makes: what a build writes of them, what it checks without the device, and what it says of that."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import small
from board import Board
from refusals import refused

import edgekit
from edgekit import BackendError, UsageError, backends
from edgekit.backends import tensorrt_rtx
from edgekit.bundle import onnx_reader
from edgekit.bundle.trust import open_bundle
from edgekit.quantize import graphs
from edgekit.search import checks
from edgekit.spec.manifest import content_digest
from edgekit.spec.target import folders
from edgekit.spec.target import load as load_target

RTX = backends.installed_version("tensorrt_rtx")
needs_rtx = pytest.mark.skipif(
    RTX is None, reason="TensorRT-RTX is not installed here: pip install 'edgekit-sdk[tensorrt-rtx]'"
)
ON_DEVICE = "The engine: built on the device by 'edgekit compile' or at the first load, and checked there with the golden inputs."
TIMED_THERE = (
    "Latency, startup time and memory on the device, and which variant is faster there: the device times them."
)
FIXED = ('embeddings = "float32"', 'embeddings = "float32"\nranges = "min_max"\nsmooth = "off"')


def toml(file, name, *changes):
    """A target that EdgeKit ships with some of its text changed, as a file of the user's own."""
    (text,) = [f.read_text("utf-8") for folder in folders() if (f := folder / f"{name}.toml").is_file()]
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    file.write_text(text, "utf-8")
    return file


@pytest.fixture
def build(tiny_model, tiny_samples, tmp_path):
    """``edgekit.build`` with the session's model and samples."""

    def call(target, **options):
        return small.build(
            tiny_model,
            samples=tiny_samples.train,
            eval=tiny_samples.dev,
            out=tmp_path / "out",
            target=target,
            **options,
        ).bundle.manifest

    return call


@pytest.fixture(scope="module")
def jetson(tmp_path_factory, tiny_model, tiny_samples):
    """A bundle for the target ``jetson`` as today's code builds it. Do not change it: copy it."""
    out = tmp_path_factory.mktemp("jetson") / "out"
    edgekit.build(tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=out, target="jetson")
    return out


@pytest.fixture(scope="module")
def twice(tmp_path_factory, tiny_model, tiny_samples, jetson):
    """The same build twice, from the export on. Tensors from 4 kB on lie beside the graphs, as those of a real model do from 1 MB on."""
    folder, cache = tmp_path_factory.mktemp("twice"), Path(os.environ["EDGEKIT_CACHE"])
    aim = toml(folder / "fixed.toml", "jetson", FIXED)
    exported = [
        file.parent
        for file in cache.glob("*/entry.json")
        if json.loads(file.read_text())["step"] in ("export", "reference")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "EXTERNAL_FROM", 4096)
        for name in ("first", "second"):
            for entry in exported:
                shutil.copytree(entry, folder / f"cache-{name}" / entry.name)
            patch.setenv("EDGEKIT_CACHE", str(folder / f"cache-{name}"))
            made = edgekit.build(
                tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=folder / name, target=aim
            )
            assert not {"static_float16", "float16"} & set(made.reused)
    return folder / "first", folder / "second"


@pytest.fixture
def without_rtx(monkeypatch):
    """As on a machine where TensorRT-RTX is not installed."""
    real = backends.installed_version
    monkeypatch.setattr(backends, "installed_version", lambda name: None if name == "tensorrt_rtx" else real(name))
    monkeypatch.setattr(tensorrt_rtx, "compile_ahead", lambda *_: pytest.fail("TensorRT-RTX was asked"))


def no_work(step, *_):
    pytest.fail(f"work began: {step}")


def said(sentences, beginning):
    """The one sentence that begins so."""
    (found,) = [s for s in sentences if s.startswith(beginning)]
    return found


# ---- for a device that makes its engines


def test_what_a_bundle_for_a_jetson_holds(jetson):
    manifest = open_bundle(jetson).manifest
    assert (manifest.target, manifest.choose_on, manifest.max_batch) == ("jetson", "device", 8)
    assert [(v.method, v.backend, v.device, v.engines) for v in manifest.variants] == [
        ("static_float16", "tensorrt", "gpu", {}),
        ("float16", "tensorrt", "gpu", {}),
    ]
    asked = load_target("jetson").engine
    for variant in manifest.variants:
        recipe = variant.engine
        # The target's two profiles end at 64 and 512 tokens; the model takes 64, so the second says nothing new.
        assert recipe.profiles == ({"batch": (1, 1, 8), "sequence": (1, 32, 64)},)
        assert (recipe.minimum, recipe.compute_capability, recipe.workspace_mb, recipe.precisions) == (
            "10.3",
            ("8.7",),
            512,
            asked.precisions,
        )
        assert variant.executed == "unknown (scored on onnxruntime)"
        assert variant.shapes == ()
    assert sorted(n for n in manifest.files if not n.startswith("assets/")) == [
        "golden.npz",
        "graphs/float16-model.onnx",
        "graphs/model.onnx",
        "race.json",
        "trtexec.txt",
    ]


def operators(bundle, variant):
    graph = onnx.load(bundle / variant.graphs["forward"])
    return Counter(node.op_type for node in graph.graph.node), {
        onnx.TensorProto.DataType.Name(t.data_type) for t in graph.graph.initializer
    }


def test_the_graph_of_each_variant_says_what_it_computes_in(jetson):
    static, half = open_bundle(jetson).manifest.variants
    nodes, types = operators(jetson, static)
    assert nodes["QuantizeLinear"] > 0
    assert nodes["DequantizeLinear"] >= nodes["QuantizeLinear"]
    assert {"INT8", "FLOAT16"} <= types
    nodes, types = operators(jetson, half)
    assert not nodes["QuantizeLinear"] + nodes["DequantizeLinear"]
    assert "FLOAT16" in types
    assert "INT8" not in types


def test_graphs_share_their_weights(twice):
    first, _ = twice
    bundle = open_bundle(first)
    named = [
        {tensor.location for tensor in onnx_reader.read((first / v.graphs["forward"]).read_bytes()).external}
        for v in bundle.manifest.variants
    ]
    assert named[0] & named[1], "embedding tables are the same in both"
    assert named[1] - named[0], "weights of linear layers are INT8 in one and float16 in the other"
    assert {f"graphs/{n}" for n in set.union(*named)} == {
        n for n in bundle.manifest.files if n.startswith("graphs/weights/")
    }


def test_the_same_build_gives_the_same_bytes(twice):
    first, second = (open_bundle(folder).manifest for folder in twice)
    assert content_digest(first) == content_digest(second)
    assert first.files == {**second.files, "race.json": first.files["race.json"]}
    assert first.verified == second.verified


def test_golden_outputs_are_those_of_each_graph(jetson, twice):
    """By ONNX Runtime itself, without any of EdgeKit's code. It computes in float32, and the stored answers are rounded behind each operator."""
    for folder in (jetson, twice[0]):
        stored = np.load(folder / "golden.npz")
        for index, variant in enumerate(open_bundle(folder).manifest.variants):
            session = onnxruntime.InferenceSession(
                str(folder / variant.graphs["forward"]), providers=["CPUExecutionProvider"]
            )
            names = [i.name for i in session.get_inputs()]
            for row, length in enumerate(stored["lengths"]):
                (found,) = session.run(
                    None, {n: stored[f"input.{n}"][row : row + 1, :length].astype(np.int64) for n in names}
                )
                np.testing.assert_allclose(
                    found[0], stored[f"outputs.{index}"][row], atol=1.5e-2 * max(1, np.ptp(stored[f"outputs.{index}"]))
                )
        assert max(stored["lengths"]) > 32
        assert not np.allclose(stored["outputs.0"], stored["outputs.1"], atol=1e-3), "INT8 and float16 are told apart"


def test_lines_for_trtexec(jetson):
    head, *lines = (jetson / "trtexec.txt").read_text("utf-8").splitlines()
    assert head.startswith("# ")
    manifest = open_bundle(jetson).manifest
    assert len(lines) == 2
    for line, variant in zip(lines, manifest.variants, strict=True):
        program, *words = shlex.split(line)
        options = dict(word.removeprefix("--").partition("=")[::2] for word in words)
        assert program == "trtexec"
        assert options["onnx"] == variant.graphs["forward"]
        assert (jetson / options["onnx"]).is_file()
        assert options["saveEngine"] == f"{variant.method}.plan"
        assert options["memPoolSize"] == "workspace:512M"
        for place, shape in (("minShapes", "1x1"), ("optShapes", "1x32"), ("maxShapes", "8x64")):
            assert dict(part.split(":") for part in options[place].split(",")) == {
                s.name: shape for s in manifest.signatures[0].inputs
            }
        assert {"stronglyTyped", "noTF32"} <= set(options)
        assert not {"fp16", "int8", "best"} & set(options), "trtexec refuses these beside stronglyTyped"


def test_the_board_takes_what_was_built(jetson, twice, monkeypatch, tmp_path):
    """With weights in the graph, and with weights beside it."""
    board = Board(monkeypatch)
    for index, bundle in enumerate((jetson, twice[0])):
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / str(index)))
        with edgekit.load(bundle) as session:
            texts = small.texts(8, seed=3)
            assert [a.label for a in session(texts)] == [session(t).label for t in texts]
    assert board.fake.builds == 4
    assert not board.leaks()


# ---- what was verified, and what was not


def test_what_was_checked_without_the_device(jetson, tiny_samples):
    manifest = open_bundle(jetson).manifest
    rules = said(manifest.verified, "Rules of TensorRT ")
    assert (
        rules
        == "Rules of TensorRT 10.3, 10.16, 11.4: the operators, types, Q/DQ and strong typing of static_float16 and float16 meet all of them."
    )
    for method in ("static_float16", "float16"):
        accuracy = said(manifest.verified, f"Accuracy: {method} ")
        assert f" was scored on {len(tiny_samples.rows)} rows by onnxruntime on this machine (" in accuracy
        assert "in float16 arithmetic as IEEE 754 has it" in accuracy
        assert "rows of up to 64 tokens" in accuracy
    assert ON_DEVICE in manifest.unverified
    assert TIMED_THERE in manifest.unverified
    assert not any(s.startswith("Rows beyond") for s in manifest.unverified)


@needs_rtx
def test_nvidias_own_parser_and_builder_saw_the_graphs(jetson):
    manifest = open_bundle(jetson).manifest
    version = importlib.metadata.version("tensorrt-rtx-cu13-bindings")
    assert said(manifest.verified, "NVIDIA's parser") == (
        f"NVIDIA's parser and builder: TensorRT-RTX {version} built an engine of each graph, without a GPU."
    )
    assert len(manifest.unverified) == 2


@pytest.mark.slow
def test_without_rtx_a_bundle_says_that_nobody_saw_the_graphs(build, without_rtx, jetson):
    manifest = build("jetson")
    assert not any(s.startswith("NVIDIA's parser") for s in manifest.verified)
    assert "pip install 'edgekit-sdk[tensorrt-rtx]'" in said(
        manifest.unverified, "NVIDIA's parser and builder did not check the graphs"
    )
    assert ON_DEVICE in manifest.unverified
    assert content_digest(manifest) == content_digest(open_bundle(jetson).manifest), (
        "who looked at the graphs does not change them"
    )


@pytest.mark.slow
@needs_rtx
def test_a_build_ends_where_nvidias_builder_refuses(build, monkeypatch, tmp_path):
    def refuses(graph, *_):
        raise BackendError(f"{graph.name} is refused")

    monkeypatch.setattr(tensorrt_rtx, "compile_ahead", refuses)
    with refused("error", "model.onnx"):
        build("jetson")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs_rtx
def test_a_flag_that_there_is_not(build, tmp_path):
    aim = toml(
        tmp_path / "flag.toml",
        "jetson",
        ("optimization_level = 3", 'optimization_level = 3\nflags = ["SPARSE_WEIGHT"]'),
    )
    with refused("tensorrt-name-unknown", "SPARSE_WEIGHT", "SPARSE_WEIGHTS"):
        build(aim)


@pytest.mark.slow
def test_profiles_that_end_before_the_model_does(build, tmp_path):
    aim = toml(
        tmp_path / "short.toml",
        "jetson",
        ("sequence = [1, 32, 64]", "sequence = [1, 16, 30]"),
        ("sequence = [1, 128, 512]", "sequence = [1, 8, 20]"),
    )
    manifest = build(aim)
    assert manifest.variants[0].engine.profiles == ({"batch": (1, 1, 8), "sequence": (1, 16, 30)},)
    assert (
        "Rows beyond 30 tokens: the target's profiles end there, so the device refuses longer rows. The model takes up to 64."
        in manifest.unverified
    )


@pytest.mark.slow
def test_a_bundle_whose_profiles_end_before_the_model_does_loads(build, tmp_path, monkeypatch, without_rtx):
    aim = toml(
        tmp_path / "short.toml",
        "jetson",
        ("sequence = [1, 32, 64]", "sequence = [1, 16, 30]"),
        ("sequence = [1, 128, 512]", "sequence = [1, 8, 20]"),
    )
    build(aim)
    Board(monkeypatch)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    with edgekit.load(tmp_path / "out") as session:
        assert session("a fine film").label in small.LABELS


# ---- TensorRT-RTX, ahead of time


@needs_rtx
def test_what_a_bundle_for_rtx_holds(rtx):
    manifest = open_bundle(rtx).manifest
    assert [(v.method, v.backend, v.engines) for v in manifest.variants] == [
        (m, "tensorrt_rtx", {"forward": f"engines/{m}-forward.plan"}) for m in ("float16", "static_float16")
    ]
    assert manifest.variants[0].engine.profiles == ({"batch": (1, 1, 32), "sequence": (1, 32, 64)},)
    plans = [(rtx / v.engines["forward"]).read_bytes() for v in manifest.variants]
    assert all(len(plan) > 100_000 for plan in plans)
    assert plans[0] != plans[1]
    assert "trtexec.txt" not in manifest.files, "trtexec is TensorRT's and makes no engines for TensorRT-RTX"


@needs_rtx
def test_what_a_bundle_for_rtx_says_of_its_engines(rtx):
    manifest = open_bundle(rtx).manifest
    assert " for compute capability 7.5, 8.6, 8.9, 12.0, without a GPU." in said(
        manifest.verified, "NVIDIA's parser and builder: TensorRT-RTX"
    )
    assert ON_DEVICE not in manifest.unverified
    assert "edgekit sign" in said(manifest.unverified, "Origin of the engines")


@pytest.mark.slow
def test_without_rtx_the_device_makes_the_engines_that_were_to_be_made_ahead(build, without_rtx, tmp_path):
    manifest = build("rtx")
    assert [v.engines for v in manifest.variants] == [{}, {}]
    assert not any(n.startswith("engines/") for n in manifest.files)
    assert ON_DEVICE in manifest.unverified
    assert not any(s.startswith("Origin of the engines") for s in manifest.unverified)


@pytest.mark.slow
@needs_rtx
def test_engines_are_for_the_chips_that_the_target_names(build, monkeypatch, tmp_path):
    asked, real = [], tensorrt_rtx.compile_ahead

    def compile_ahead(graph, signature, recipe, progress):
        asked.append(recipe)
        return real(graph, signature, recipe, progress)

    monkeypatch.setattr(tensorrt_rtx, "compile_ahead", compile_ahead)
    manifest = build(toml(tmp_path / "one.toml", "rtx", ('["7.5", "8.6", "8.9", "12.0"]', '["8.9"]')))
    assert [r.compute_capability for r in asked] == [("8.9",)] * 2
    assert " for compute capability 8.9, without" in said(manifest.verified, "NVIDIA's parser and builder: ")


@pytest.mark.slow
@needs_rtx
def test_a_chip_that_rtx_does_not_build_for(build, tmp_path):
    with refused("tensorrt-name-unknown", "SM87", "SM86"):
        build(toml(tmp_path / "orin.toml", "rtx", ('["7.5", "8.6", "8.9", "12.0"]', '["8.7"]')))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_target_for_both(build, tmp_path):
    """Each has its own engines: TensorRT's are made on the device, so it is said of all that they are."""
    both = (
        ('backends = ["tensorrt"]', 'backends = ["tensorrt", "tensorrt_rtx"]'),
        ('methods = ["static_float16", "float16"]', 'methods = ["float16"]'),
    )
    manifest = build(toml(tmp_path / "both.toml", "jetson", *both, ('["8.7"]', '["8.9"]')))
    assert [(v.backend, v.engines) for v in manifest.variants] == [("tensorrt", {}), ("tensorrt_rtx", {})]
    assert [n for n in manifest.files if n.endswith(".onnx")] == ["graphs/model.onnx"]
    assert ON_DEVICE in manifest.unverified
    lines = (tmp_path / "out" / "trtexec.txt").read_text("utf-8").splitlines()
    assert len(lines) == 2, "a head and a line of TensorRT's"


# ---- refused before any work


@pytest.mark.parametrize(
    ("name", "change", "error", "text"),
    [
        (
            "jetson",
            ('"float16", "bfloat16", "int8"]', '"float16"]'),
            UsageError,
            ("target-precision", "static_float16", "jetson"),
        ),
        (
            "jetson",
            ("batch = [1, 1, 8]", "batch = [1, 1, 4]"),
            BackendError,
            ("target-batch-profile", "jetson", "1", "8", "4"),
        ),
        (
            "jetson",
            ('choose_on = "device"\n', ""),
            BackendError,
            ("target-choose-on", "choose_on", "device"),
        ),
        (
            "jetson",
            ('device = "gpu"', 'device = "cpu"'),
            BackendError,
            ("backend-wrong-device", "jetson", "cpu"),
        ),
        (
            "jetson",
            ('methods = ["static_float16", "float16"]', 'methods = ["dynamic"]'),
            UsageError,
            "target-no-candidate",
        ),
        (
            "rtx",
            ('compute_capability = ["7.5", "8.6", "8.9", "12.0"]\n', ""),
            BackendError,
            ("target-compute-capability", "compute_capability", "RTX"),
        ),
    ],
    ids=["no int8", "small batch", "chosen here", "cpu", "no candidate", "no chips"],
)
def test_a_target_that_cannot_be(build, tmp_path, name, change, error, text):
    with refused(text):
        build(toml(tmp_path / "wrong.toml", name, change), progress=no_work)
    assert not (tmp_path / "out").exists()


def test_a_target_without_an_engine_table(build, tmp_path):
    aim = small.target(tmp_path / "none.toml", ("float16",), ("tensorrt",), 'device = "gpu"\nchoose_on = "device"')
    with refused("target-without-engine", "none"):
        build(aim, progress=no_work)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("workspace_mb = 512", "worksapce_mb = 512", "Did you mean 'workspace_mb'?"),
        (
            "workspace_mb = 512",
            "workspace_mb = 8192",
            "workspace_mb is 8192 and memory_mb 4096, expected a workspace smaller",
        ),
        ("workspace_mb = 512", 'workspace_mb = "512"', "expected a value of type int"),
        ('"bfloat16"', '"bfloat61"', "Did you mean 'bfloat16'?"),
        ("optimization_level = 3", "optimization_level = 6", "optimization_level is 6, expected 0 to 5"),
        ('minimum = "10.3"', 'minimum = "8.6"', "minimum is '8.6', expected 10.3 or newer"),
        ('minimum = "10.3"', 'minimum = "ten"', "'ten' is not a version"),
        ('["8.7"]', '["sm87"]', "'sm87' is not a version"),
        (
            "sequence = [1, 32, 64]",
            "sequence = [1, 65, 64]",
            "sequence is [1, 65, 64], expected least <= usual <= largest",
        ),
        ("sequence = [1, 32, 64]", "sequence = [1, 64]", "has 2 entries, expected 3"),
        (
            "sequence = [1, 32, 64]",
            "length = [1, 32, 64]",
            "profiles[1] names the axes batch, sequence, the first names batch, length",
        ),
    ],
)
def test_a_wrong_engine_table_is_told_with_its_file(build, tmp_path, before, after, text):
    with pytest.raises(UsageError) as caught:
        build(toml(tmp_path / "of-mine.toml", "jetson", (before, after)), progress=no_work)
    assert "target of-mine.toml: engine" in str(caught.value) or "in target of-mine.toml" in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.slow
def test_none_inside_the_budget_leaves_nothing(build, tmp_path):
    with refused("budget-none-inside", "static_float16", "size_mb"):
        build("jetson", budget={"size_mb": 0.01})
    assert not (tmp_path / "out").exists()


# ---- the targets that are shipped


@pytest.mark.parametrize(
    "name", ["gpu", "jetson", "jetson-agx-orin", "jetson-orin-nano", "jetson-orin-nx", "jetson-thor", "rtx"]
)
def test_targets_for_nvidia_are_sound(name):
    aim = load_target(name)
    checks.check_target(checks.resolve_target(aim, (), None))
    recipe = aim.engine
    lengths = [p["sequence"] for p in recipe.profiles]
    assert lengths[-1][2] == 512, "what encoders take"
    assert all(p["batch"][0] == p["sequence"][0] == 1 for p in recipe.profiles), "one short text is answered as it is"
    orin = recipe.compute_capability == ("8.7",)
    assert orin == (name.startswith("jetson") and name != "jetson-thor")
    assert not (orin and {"fp8", "fp4"} & set(recipe.precisions)), "Orin has neither"
    assert recipe.workspace_mb <= recipe.memory_mb / 2 or not recipe.memory_mb


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "chips", "rules"),
    [("gpu", (), "10.3, 10.16, 11.4"), ("jetson-thor", ("11.0", "10.1"), "10.16, 11.4")],
    ids=["gpu", "jetson-thor"],
)
def test_other_targets_build(build, without_rtx, tmp_path, name, chips, rules):
    """Rules are those of releases that the target's minimum admits."""
    manifest = build(name)
    assert {v.engine.compute_capability for v in manifest.variants} == {chips}
    assert f"Rules of TensorRT {rules}:" in said(manifest.verified, "Rules of")
    lines = (tmp_path / "out" / "trtexec.txt").read_text("utf-8")
    assert ("memPoolSize" in lines) == bool(manifest.variants[0].engine.workspace_mb)


@pytest.mark.slow
def test_the_result_tells_what_was_verified(tiny_model, tiny_samples, tmp_path, without_rtx):
    result = edgekit.build(
        tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=tmp_path / "out", target="jetson"
    )
    words = " ".join(result.table().split())
    for sentence in result.bundle.manifest.verified:
        assert f"verified here: {sentence}" in words
    for sentence in result.bundle.manifest.unverified:
        assert f"not verified: {sentence}" in words
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["unverified"] == list(
        result.bundle.manifest.unverified
    )
