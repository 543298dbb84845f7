"""Engine recipes: invalid values, clamped profiles, and trtexec command lines."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
from refusals import refused

from edgekit.spec import target as targets
from edgekit.spec.engine import EngineRecipe, is_supported_version, shapes, trtexec, version
from edgekit.spec.tensor import Signature, TensorSpec

pytestmark = pytest.mark.device

SIGNATURE = Signature(
    "forward",
    (TensorSpec("ids", "int64", ("batch", "sequence"), 0), TensorSpec("pixels", "float32", ("batch", 3, 8, 8))),
    (TensorSpec("logits", "float32", ("batch", 2)),),
)
SHORT = {"batch": (1, 1, 8), "sequence": (1, 32, 64)}
LONG = {"batch": (1, 1, 8), "sequence": (1, 128, 512)}
RECIPE = EngineRecipe((SHORT, LONG))


@pytest.mark.parametrize(
    ("error", "values"),
    [
        ("engine-settings", {"profiles": ()}),
        (
            ("engine-settings", "0", "1", "64", "32"),
            {"profiles": ({"sequence": (1, 64, 32)},)},
        ),
        (("engine-settings", "1", "0"), {"profiles": (SHORT, {**SHORT, "batch": (0, 1, 1)})}),
        (
            ("engine-settings", "1"),
            {"profiles": (SHORT, {"batch": (1, 1, 1)})},
        ),
        (("engine-settings", "int4"), {"precisions": ("int4",)}),
        (("engine-settings", "float61", "float16"), {"precisions": ("float61",)}),
        (("engine-settings", "optimization_level", "6", "0", "5"), {"optimization_level": 6}),
        (("engine-settings", "workspace_mb", "8192", "memory_mb", "4096"), {"workspace_mb": 8192, "memory_mb": 4096}),
        (("engine-settings", "workspace_mb", "1"), {"workspace_mb": -1}),
        (("engine-settings", "8.6", "10.3"), {"minimum": "8.6"}),
        (("version-invalid", "ten"), {"minimum": "ten"}),
        (("version-invalid", "87"), {"compute_capability": ("87",)}),
    ],
)
def test_invalid_values(error, values):
    with refused(error):
        EngineRecipe(**{"profiles": (SHORT,), **values})


def test_versions_are_numbers_and_not_text():
    assert version("10.16.2.10") > version("10.3") > version("8.6.1")
    assert "10.16" < "10.3", "which is why"
    for text in ("10.3.0", "10.16.1.11", "11.4.1"):
        assert is_supported_version(version(text))
    for text in ("8.6.1", "10.0.1", "12.0.0"):
        assert not is_supported_version(version(text))
    assert version("10.3.0+cuda12") == (10, 3, 0)


def test_profiles_are_cut_to_what_a_model_takes():
    assert RECIPE.clamp_profiles({"sequence": 4096}) == RECIPE
    cut = RECIPE.clamp_profiles({"sequence": 128, "batch": 4})
    assert cut.profiles == (
        {"batch": (1, 1, 4), "sequence": (1, 32, 64)},
        {"batch": (1, 1, 4), "sequence": (1, 128, 128)},
    )
    assert RECIPE.clamp_profiles({"sequence": 20}).profiles == ({"batch": (1, 1, 8), "sequence": (1, 20, 20)},), (
        "the second profile holds no further sizes"
    )
    assert RECIPE.clamp_profiles({"batch": 4}, ["batch"]).profiles == ({"batch": (1, 1, 4)},), (
        "rows of one shape have no other axis"
    )
    assert RECIPE.clamp_profiles({}, ["batch", "sequence"]) == RECIPE
    assert RECIPE.accepts() == "batch 1-8, sequence 1-64; batch 1-8, sequence 1-512"


def test_shapes_of_inputs():
    assert shapes(SIGNATURE, LONG) == {
        "ids": ((1, 1), (1, 128), (8, 512)),
        "pixels": ((1, 3, 8, 8), (1, 3, 8, 8), (8, 3, 8, 8)),
    }
    with refused("engine-axis-missing", "ids", "sequence"):
        shapes(SIGNATURE, {"batch": (1, 1, 1)})


def test_trtexec_lines():
    recipe = replace(RECIPE, workspace_mb=512, memory_mb=4096)
    first, second = (shlex.split(line) for line in trtexec(recipe, SIGNATURE, "graphs/model.onnx", "static.plan"))
    assert first[0] == "trtexec"
    assert "--onnx=graphs/model.onnx" in first
    assert {
        "--stronglyTyped",
        "--noTF32",
        "--skipInference",
        "--memPoolSize=workspace:512M",
        "--builderOptimizationLevel=3",
    } <= set(first)
    assert "--minShapes=ids:1x1,pixels:1x3x8x8" in first
    assert "--optShapes=ids:1x32,pixels:1x3x8x8" in first
    assert "--maxShapes=ids:8x64,pixels:8x3x8x8" in first
    assert "--maxShapes=ids:8x512,pixels:8x3x8x8" in second
    assert {"--saveEngine=static-0.plan", "--saveEngine=static-1.plan"} <= {*first, *second}
    # TensorRT refuses precision flags beside strong typing, and 11 does not have them.
    assert not re.search("--fp16|--int8|--best", " ".join([*first, *second]))
    (only,) = trtexec(EngineRecipe((SHORT,), flags=("TF32",)), SIGNATURE, "m.onnx", "m.plan")
    assert "--saveEngine=m.plan" in only
    assert "--noTF32" not in only
    assert "memPoolSize" not in only, "TensorRT's share of a device is not known beforehand"


NVIDIA = ("gpu", "jetson", "jetson-agx-orin", "jetson-orin-nano", "jetson-orin-nx", "jetson-thor", "rtx")


@pytest.mark.parametrize("name", NVIDIA)
def test_shipped_targets(name):
    target = targets.load(name)
    assert target.engine is not None
    assert target.device == "gpu"
    assert target.choose_on == "device"
    assert set(target.methods) == {"static_float16", "float16"}
    assert target.quantize.embeddings == "float32", "TensorRT looks up in float types"
    assert len(target.engine.profiles) > 1, "short and long rows have kernels of their own"
    assert all(p["batch"][2] == target.max_batch for p in target.engine.profiles)
    orin = name.startswith("jetson") and name != "jetson-thor"
    # NVIDIA's hardware matrix: Orin is 8.7 and has no FP8; Thor is 11.0 with CUDA 13, 10.1 before.
    assert target.engine.compute_capability == (
        ("8.7",) if orin else {"gpu": (), "rtx": ("7.5", "8.6", "8.9", "12.0"), "jetson-thor": ("11.0", "10.1")}[name]
    )
    assert ("fp8" in target.engine.precisions) == (name == "jetson-thor")
    if name.startswith("jetson"):
        assert 0 < target.engine.workspace_mb <= target.engine.memory_mb / 4


def test_the_orin_family_is_served_by_the_smallest_of_it():
    family = [targets.load(n).engine for n in ("jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin")]
    one = targets.load("jetson").engine
    assert one.memory_mb == min(r.memory_mb for r in family)
    assert one.workspace_mb == min(r.workspace_mb for r in family)
