"""Targets: the shipped files load, typing mistakes are refused, budgets are numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small
import tomllib
from refusals import refused

from edgekit import backends, quantize
from edgekit.spec import target
from edgekit.spec.quantization import Quantization
from edgekit.spec.target import Budget

FILES = sorted((small.ROOT / "targets").glob("*.toml"))
GOOD = 'name = "mine"\ndescription = "d"\nbackends = ["onnxruntime"]\nmethods = ["float32"]\n'


def test_every_file_is_listed():
    assert FILES
    assert target.names() == sorted(f.stem for f in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_what_ships_loads(file):
    data = tomllib.loads(file.read_text("utf-8"))
    loaded = target.load(file.stem)
    assert loaded.name == file.stem == data["name"]
    for key in ("backends", "methods"):
        assert list(getattr(loaded, key)) == data.get(key, list(getattr(loaded, key))), (
            "a missing key comes from the target that it extends"
        )
    assert {k: v for k, v in vars(loaded.budget).items() if v is not None} == data.get(
        "budget", {"accuracy_drop": 0.01}
    )
    assert loaded == target.load(file)
    for method in loaded.methods:
        assert set(quantize.get(method).BACKENDS) & set(loaded.backends), (
            f"{method} is a candidate on no backend of {file.stem}"
        )
    for backend in loaded.backends:
        backends.get(backend).check_target(loaded)


def test_an_unknown_target_suggests_the_nearest():
    with refused("name-unknown", "openvin", "openvino"):
        target.load("openvin")
    with refused("name-unknown", "qqqqqqq"):
        target.load("qqqqqqq")


def test_a_file_of_the_user(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(GOOD + "threads = 3\nmax_batch = 4\n[budget]\nsize_mb = 9\n")
    loaded = target.load(file)
    assert (loaded.name, loaded.threads, loaded.max_batch, loaded.budget) == (
        "mine",
        3,
        4,
        Budget(accuracy_drop=0.01, size_mb=9.0),
    )
    assert loaded == target.load(str(file))
    with refused("target-not-found"):
        target.load(tmp_path / "other.toml")
    with refused("target-not-found"):
        (tmp_path / "folder.toml").mkdir()
        target.load(tmp_path / "folder.toml")


def test_a_missing_accuracy_budget_is_the_default_and_never_no_limit(tmp_path):
    file = tmp_path / "mine.toml"
    for text in (GOOD, GOOD + "[budget]\n", GOOD + "[budget]\np50_ms = 5\n"):
        file.write_text(text)
        assert target.load(file).budget.accuracy_drop == target.ACCURACY_DROP == 0.01
    assert target.Target("t", "d", ("onnxruntime",), ("static",)).budget.accuracy_drop == 0.01


@pytest.mark.parametrize(
    ("budget", "reference", "drop"),
    [
        (Budget(0.02), 0.95, 0.02),
        (Budget(0.02, accuracy=0.94), 0.95, 0.01),
        (Budget(0.02, accuracy=0.9), 0.95, 0.02),
        (Budget(0.02, accuracy=0.96), 0.95, -0.01),
    ],
)
def test_the_largest_drop_keeps_the_floor_too(budget, reference, drop):
    assert budget.largest_drop(reference) == pytest.approx(drop)


def test_a_target_extends_another(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'extends = "cpu"\nname = "mine"\nmethods = ["static"]\n[budget]\nmemory_mb = 300\naccuracy = 0.9\n'
    )
    mine = target.load(tmp_path / "mine.toml")
    cpu = target.load("cpu")
    assert mine == replace(
        cpu, name="mine", methods=("static",), budget=Budget(accuracy_drop=0.01, memory_mb=300.0, accuracy=0.9)
    )
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "child.toml").write_text(
        'extends = "../mine.toml"\nname = "child"\n[budget]\naccuracy_drop = 0.03\n[quantize]\nweight_bits = 7\n'
    )
    child = target.load(tmp_path / "below" / "child.toml")
    assert child == replace(
        mine,
        name="child",
        budget=replace(mine.budget, accuracy_drop=0.03),
        quantize=replace(mine.quantize, weight_bits=7),
    )
    (tmp_path / "mine.toml").write_text('extends = "jetson"\nname = "mine"\n[engine]\nmemory_mb = 2048\n')
    jetson = target.load("jetson")
    assert jetson.engine is not None
    assert target.load(tmp_path / "mine.toml").engine == replace(jetson.engine, memory_mb=2048), (
        "the other keys of the table stay"
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('extends = "cpuu"\nname = "mine"\n', ("name-unknown", "'cpuu'", "'cpu'")),
        ('extends = "none.toml"\nname = "mine"\n', ("target-not-found", "none.toml")),
        ('extends = "cpu"\n', ("target-extends", "mine.toml", "name")),
        ('extends = ["cpu"]\nname = "mine"\n', ("target-extends", "mine.toml", "['cpu']")),
        ('extends = "mine.toml"\nname = "mine"\n', ("target-extends", "mine.toml -> mine.toml")),
        ('extends = "cpu"\nname = "mine"\nmethod = ["static"]\n', ("key-unknown", "'methods'")),
        ('extends = "cpu"\nname = "mine"\nbudget = 3\n', ("value-type", "budget", "int", "table")),
        ('extends = "cpu"\nname = "mine"\n[budget]\naccuracy = 90\n', ("budget-value", "accuracy", "90")),
    ],
)
def test_invalid_extends(tmp_path, text, error):
    (tmp_path / "mine.toml").write_text(text)
    with refused(error):
        target.load(tmp_path / "mine.toml")


def test_two_targets_that_extend_each_other(tmp_path):
    (tmp_path / "one.toml").write_text('extends = "two.toml"\nname = "one"\n')
    (tmp_path / "two.toml").write_text('extends = "one.toml"\nname = "two"\n')
    with refused("target-extends", "one.toml", "two.toml"):
        target.load(tmp_path / "one.toml")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (GOOD + 'method = ["static"]\n', ("key-unknown", "'methods'")),
        (GOOD + "threads = true\n", ("value-type", "threads", "True (bool)")),
        (GOOD + "threads = 1.5\n", ("value-type", "threads", "1.5 (float)")),
        (GOOD + "[budget]\naccuracy_drp = 1\n", ("key-unknown", "'accuracy_drop'")),
        (GOOD + '[budget]\np50_ms = "fast"\n', ("value-type", "p50_ms", "'fast'")),
        (GOOD.replace('["float32"]', '"float32"'), ("value-type", "methods", "str", "list")),
        (GOOD.replace('name = "mine"\n', ""), ("key-missing", "'name'")),
        (GOOD + "[budget\n", ("toml-invalid",)),
        (GOOD + "name = 1\n", ("toml-invalid",)),
        (GOOD + "threads = " + "9" * 5000, ("toml-invalid",)),
        (GOOD + "threads = " + "[" * 100_000, ("toml-invalid",)),
        (GOOD + "[budget]\naccuracy_drop = nan\n", ("value-not-finite", "accuracy_drop")),
        (GOOD + "[budget]\naccuracy_drop = -0.01\n", ("budget-value", "accuracy_drop")),
        (GOOD + "max_batch = 0\n", ("target-value", "max_batch")),
        (GOOD + "threads = -1\n", ("target-value", "threads")),
        (GOOD + 'use = "throughputs"\n', ("target-value", "'throughputs'", "'throughput'", "latency, throughput")),
        (GOOD + 'use = ""\n', ("target-value", "use", "''", "latency, throughput")),
        (GOOD + "use = 1\n", ("value-type", "use", "1 (int)")),
        (GOOD + 'choose_on = "hots"\n', ("target-value", "choose_on", "'hots'", "'host'", "host, device")),
        (GOOD + 'choose_on = ["device"]\n', ("value-type", "choose_on", "['device'] (list)")),
        (GOOD + 'instructions = "avx2"\n', ("value-type", "instructions", "str", "list")),
        (GOOD + "instructions = [2]\n", ("value-type", "instructions[0]", "2 (int)")),
        (GOOD + 'instruction = ["avx2"]\n', ("key-unknown", "'instructions'")),
        (GOOD + "shapes = [16, 8]\n", ("target-value", "shapes", "[16, 8]")),
        (GOOD + "shapes = [8, 8]\n", ("target-value", "shapes", "[8, 8]")),
        (GOOD + "shapes = [0, 8]\n", ("target-value", "shapes", "[0, 8]")),
        (GOOD + "shapes = 8\n", ("value-type", "shapes", "int", "list")),
        (GOOD + "shapes = [8.0]\n", ("value-type", "shapes[0]", "8.0 (float)")),
        (GOOD.replace('["float32"]', '["static", "static"]'), ("target-value", "methods", "'static'")),
        (GOOD + "quantize = 8\n", ("value-type", "quantize", "int", "table")),
        (GOOD + '[quantize]\nrange = "mse"\n', ("key-unknown", "'ranges'")),
        (GOOD + "[quantize]\nsmooth = 0.5\n", ("value-type", "smooth", "0.5 (float)")),
        (GOOD + "[quantize]\nweight_bits = true\n", ("value-type", "weight_bits", "True (bool)")),
        (GOOD + "[quantize]\nbias_correction = 1\n", ("value-type", "bias_correction", "1 (int)")),
        (GOOD + '[quantize]\nkeep_float = "encoder"\n', ("value-type", "keep_float", "str", "list")),
    ],
)
def test_invalid_values(tmp_path, text, error):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with refused(error) as caught:
        target.load(file)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('ranges = "entropi"', ("ranges", "'entropi'", "'entropy'", "auto, min_max, percentile, entropy, mse")),
        ('smooth = "half"', ("smooth", "'half'", "auto", "off", "from 0 to 1")),
        ('smooth = "nan"', ("smooth", "'nan'")),
        ('smooth = "-0.1"', ("smooth", "'-0.1'")),
        ('smooth = "1.01"', ("smooth", "'1.01'")),
        ('embeddings = "int2"', ("embeddings", "'int2'", "'int8'")),
        ("weight_bits = 6", ("weight_bits", "6", "8", "7", "0")),
    ],
)
def test_invalid_quantization(tmp_path, text, parts):
    file = tmp_path / "mine.toml"
    file.write_text(f"{GOOD}[quantize]\n{text}\n")
    with refused(("target-value", *parts)) as caught:
        target.load(file)
    assert str(caught.value).startswith("target mine.toml: quantize: ")


def test_a_missing_key_has_a_default(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    loaded = target.load(file)
    assert (loaded.use, loaded.choose_on, loaded.instructions, loaded.shapes) == ("latency", "host", (), None)
    assert loaded.quantize == Quantization("auto", "auto", (), "int8", 0, False)
    device = 'use = "throughput"\nchoose_on = "device"\ninstructions = ["avx2", "avx_vnni"]\nshapes = []\n'
    quantize_table = '[quantize]\nranges = "mse"\nsmooth = "0.5"\nkeep_float = ["a.*", "b"]\n'
    more = 'embeddings = "float32"\nweight_bits = 7\nbias_correction = true\n'
    file.write_text(GOOD + device + quantize_table + more)
    loaded = target.load(file)
    assert (loaded.use, loaded.choose_on, loaded.instructions, loaded.shapes) == (
        "throughput",
        "device",
        ("avx2", "avx_vnni"),
        (),
    )
    assert loaded.quantize == Quantization("mse", "0.5", ("a.*", "b"), "float32", 7, True)


@pytest.mark.parametrize("smooth", ["auto", "off", "0", "1", "0.85", "1e-3"])
@pytest.mark.parametrize("ranges", ["auto", "min_max", "percentile", "entropy", "mse"])
def test_values_that_quantize_knows(tmp_path, smooth, ranges):
    file = tmp_path / "mine.toml"
    file.write_text(GOOD + f'[quantize]\nsmooth = "{smooth}"\nranges = "{ranges}"\n')
    assert (target.load(file).quantize.smooth, target.load(file).quantize.ranges) == (smooth, ranges)


def test_a_file_that_is_not_utf8(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes(GOOD.encode() + b"# caf\xe9\n")
    with refused("toml-invalid"):
        target.load(file)


def test_budget_override():
    base = target.load("cpu")
    changed = target.with_budget(base, {"accuracy_drop": 0, "size_mb": 12})
    assert changed.budget == Budget(accuracy_drop=0.0, size_mb=12.0)
    assert (changed.name, changed.methods) == (base.name, base.methods)
    assert base.budget == Budget(accuracy_drop=0.01)
    assert target.with_budget(base, {}) == base


@pytest.mark.parametrize(
    "value", [-1, -1e-9, float("nan"), float("inf"), True, "0.1", None, 10**400], ids=lambda v: str(v)[:8]
)
def test_a_budget_is_a_number_of_at_least_0(value):
    with refused("budget-value", "0"):
        target.with_budget(target.load("cpu"), {"p50_ms": value})


def test_an_unknown_budget_key():
    with refused("name-unknown", "p50", "p50_ms", "memory_mb"):
        target.with_budget(target.load("cpu"), {"p50": 1})
