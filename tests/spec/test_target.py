"""Targets: what ships loads, what is mistyped is refused, budgets are numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small
import tomllib
from refusals import refused

from edgekit import backends, quantize
from edgekit.spec import target
from edgekit.spec.errors import UsageError
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
            "what a file does not state, it has of the target that it extends"
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


def test_an_unknown_target_with_the_nearest():
    with refused("name-unknown", "openvin", "openvino"):
        target.load("openvin")
    with refused("name-unknown", "qqqqqqq"):
        target.load("qqqqqqq")


def test_a_file_of_ones_own(tmp_path):
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
    mine, cpu = target.load(tmp_path / "mine.toml"), target.load("cpu")
    assert mine == replace(
        cpu, name="mine", methods=("static",), budget=Budget(accuracy_drop=0.01, memory_mb=300.0, accuracy=0.9)
    )
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "ours.toml").write_text(
        'extends = "../mine.toml"\nname = "ours"\n[budget]\naccuracy_drop = 0.03\n[quantize]\nweight_bits = 7\n'
    )
    ours = target.load(tmp_path / "below" / "ours.toml")
    assert ours == replace(
        mine,
        name="ours",
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
    ("text", "said"),
    [
        ('extends = "cpuu"\nname = "mine"\n', "Unknown target 'cpuu'. Did you mean 'cpu'?"),
        ('extends = "none.toml"\nname = "mine"\n', "none.toml does not exist"),
        ('extends = "cpu"\n', "has no name of its own"),
        ('extends = ["cpu"]\nname = "mine"\n', "extends is ['cpu'], expected the name of a target"),
        ('extends = "mine.toml"\nname = "mine"\n', "extends itself: mine.toml -> mine.toml"),
        ('extends = "cpu"\nname = "mine"\nmethod = ["static"]\n', "Did you mean 'methods'?"),
        ('extends = "cpu"\nname = "mine"\nbudget = 3\n', "budget is a int, expected a table"),
        ('extends = "cpu"\nname = "mine"\n[budget]\naccuracy = 90\n', "accuracy is 90, expected a score from 0 to 1"),
    ],
)
def test_a_mistake_in_what_is_extended(tmp_path, text, said):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        target.load(tmp_path / "mine.toml")
    assert said in str(caught.value)


def test_two_targets_that_extend_each_other(tmp_path):
    (tmp_path / "one.toml").write_text('extends = "two.toml"\nname = "one"\n')
    (tmp_path / "two.toml").write_text('extends = "one.toml"\nname = "two"\n')
    with refused("target-extends", "one.toml", "two.toml"):
        target.load(tmp_path / "one.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + 'method = ["static"]\n', "Did you mean 'methods'?"),
        (GOOD + "threads = true\n", "threads is True (bool)"),
        (GOOD + "threads = 1.5\n", "threads is 1.5 (float)"),
        (GOOD + "[budget]\naccuracy_drp = 1\n", "Did you mean 'accuracy_drop'?"),
        (GOOD + '[budget]\np50_ms = "fast"\n', "p50_ms is 'fast'"),
        (GOOD.replace('["float32"]', '"float32"'), "methods is a str, expected a list"),
        (GOOD.replace('name = "mine"\n', ""), "has no key 'name'"),
        (GOOD + "[budget\n", "not valid TOML"),
        (GOOD + "name = 1\n", "not valid TOML"),
        (GOOD + "threads = " + "9" * 5000, "not valid TOML"),
        (GOOD + "threads = " + "[" * 100_000, "not valid TOML"),
        (GOOD + "[budget]\naccuracy_drop = nan\n", "accuracy_drop"),
        (GOOD + "[budget]\naccuracy_drop = -0.01\n", "accuracy_drop"),
        (GOOD + "max_batch = 0\n", "max_batch"),
        (GOOD + "threads = -1\n", "threads"),
        (
            GOOD + 'use = "throughputs"\n',
            "use is 'throughputs'. Did you mean 'throughput'? Expected one of: latency, throughput.",
        ),
        (GOOD + 'use = ""\n', "use is ''. Expected one of: latency, throughput."),
        (GOOD + "use = 1\n", "use is 1 (int)"),
        (GOOD + 'choose_on = "hots"\n', "choose_on is 'hots'. Did you mean 'host'? Expected one of: host, device."),
        (GOOD + 'choose_on = ["device"]\n', "choose_on is ['device'] (list)"),
        (GOOD + 'instructions = "avx2"\n', "instructions is a str, expected a list"),
        (GOOD + "instructions = [2]\n", "instructions[0] is 2 (int)"),
        (GOOD + 'instruction = ["avx2"]\n', "Did you mean 'instructions'?"),
        (GOOD + "shapes = [16, 8]\n", "shapes is [16, 8], expected ascending numbers of tokens"),
        (GOOD + "shapes = [8, 8]\n", "shapes is [8, 8], expected ascending"),
        (GOOD + "shapes = [0, 8]\n", "shapes is [0, 8], expected ascending"),
        (GOOD + "shapes = 8\n", "shapes is a int, expected a list"),
        (GOOD + "shapes = [8.0]\n", "shapes[0] is 8.0 (float)"),
        (GOOD + "quantize = 8\n", "quantize is a int, expected a table"),
        (GOOD + '[quantize]\nrange = "mse"\n', "Did you mean 'ranges'?"),
        (GOOD + "[quantize]\nsmooth = 0.5\n", "smooth is 0.5 (float)"),
        (GOOD + "[quantize]\nweight_bits = true\n", "weight_bits is True (bool)"),
        (GOOD + "[quantize]\nbias_correction = 1\n", "bias_correction is 1 (int)"),
        (GOOD + '[quantize]\nkeep_float = "encoder"\n', "keep_float is a str, expected a list"),
    ],
)
def test_a_mistake_in_a_file(tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        target.load(file)
    assert said in str(caught.value)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'ranges = "entropi"',
            "ranges is 'entropi'. Did you mean 'entropy'? Expected one of: auto, min_max, percentile, entropy, mse.",
        ),
        ('smooth = "half"', "smooth is 'half', expected auto, off, or a number from 0 to 1 in quotes"),
        ('smooth = "nan"', "smooth is 'nan'"),
        ('smooth = "-0.1"', "smooth is '-0.1'"),
        ('smooth = "1.01"', "smooth is '1.01'"),
        ('embeddings = "int2"', "embeddings is 'int2'. Did you mean 'int8'?"),
        ("weight_bits = 6", "weight_bits is 6, expected 8, 7, or 0"),
    ],
)
def test_a_value_that_quantize_does_not_know(tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(f"{GOOD}[quantize]\n{text}\n")
    with refused("target-value") as caught:
        target.load(file)
    assert str(caught.value).startswith(f"target mine.toml: quantize: {said}")


def test_what_is_not_said_has_a_default(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    loaded = target.load(file)
    assert (loaded.use, loaded.choose_on, loaded.instructions, loaded.shapes) == ("latency", "host", (), None)
    assert loaded.quantize == Quantization("auto", "auto", (), "int8", 0, False)
    more = 'use = "throughput"\nchoose_on = "device"\ninstructions = ["avx2", "avx_vnni"]\nshapes = []\n[quantize]\nranges = "mse"\nsmooth = "0.5"\n'
    file.write_text(
        GOOD + more + 'keep_float = ["a.*", "b"]\nembeddings = "float32"\nweight_bits = 7\nbias_correction = true\n'
    )
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
