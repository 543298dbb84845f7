"""What the numbers of ``benchmarks/`` rest on: ratios, intervals, exponents, states of the machine, streams of texts, and sides that take turns."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small

sys.path.insert(0, str(small.ROOT / "benchmarks"))

import _base_tables
import _build
import _numbers
import _rounds
import _scaling_tables
import _short_tables
import _texts
import base_size
import products
import scaling

SIDE = """
import json, os, sys, time
print(json.dumps({"hello": os.getpid()}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "end" in request:
        sys.exit("it was told to end")
    print(json.dumps({"ms": [float(value) for value in request["inputs"]], "answers": request["inputs"]}), flush=True)
"""


def words(text):
    return len(text.split()) + 2


# States


def test_two_states_are_told_apart_by_the_probe():
    assert _numbers.split_states([0.19, 0.54, 0.2, 0.57, 0.53, 0.19]) == ["near", "far", "near", "far", "far", "near"]


def test_one_state_stays_one_and_one_outlier_is_a_state_of_its_own():
    assert set(_numbers.split_states([0.5, 0.52, 0.55, 0.49, 0.6])) == {"one"}
    assert _numbers.split_states([0.5, 0.52, 3.0]) == ["near", "near", "far"]
    assert _numbers.split_states([0.5]) == ["one"]
    assert set(_numbers.split_states([0.2, math.nan, 0.5])) == {"one"}


def test_rounds_by_state_have_all_of_them_besides():
    rounds = [{"probe_us": us} for us in (0.2, 0.5, 0.2)]
    assert _numbers.states_of(rounds) == {"all": [0, 1, 2], "near": [0, 2], "far": [1]}
    assert _numbers.states_of(rounds[:1]) == {"one": [0]}


# Ratios


def test_a_ratio_is_the_median_over_rounds_of_quotients_within_a_round():
    base = [[1.0, 3.0], [10.0, 30.0], [2.0, 2.0]]  # a machine that is ten times as slow for one round
    side = [[1.0, 1.0], [10.0, 10.0], [2.0, 4.0]]
    found = _numbers.ratio(side, base)
    assert (found.value, found.low, found.high, found.count) == (0.5, 0.5, 1.5, 3)
    assert _numbers.ratio(side[:2], base[:2]) is None


def test_the_interval_of_a_median_covers_as_often_as_it_says():
    draw = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        found = _numbers.median(draw.normal(1.0, 0.2, 41).tolist(), seed)
        hits += found.low <= 1.0 <= found.high
    assert 0.9 <= hits / 200 <= 0.99


def test_mixing_costs_what_was_added_to_every_text():
    draw = random.Random(0)
    single = [[(length, 0.1 * length)] * 5 for length in range(4, 40)]
    mixed = [[(n, 0.1 * n * 1.2) for n in draw.choices(range(4, 40), k=20)] for _ in range(30)]
    found = _numbers.mixed_over_single(mixed, single)
    assert found.value == pytest.approx(1.2)
    assert found.low == pytest.approx(1.2)


def test_a_length_that_was_not_timed_alone_does_not_count():
    single = [[(4, 1.0)], [(5, 2.0)], [(6, 3.0)]]
    mixed = [[(4, 1.0), (99, 50.0)], [(5, 2.0)], [(6, 3.0)]]
    assert _numbers.mixed_over_single(mixed, single).value == pytest.approx(1.0)


# Exponents


def test_an_exponent_with_its_interval_is_that_of_scipy():
    from scipy import stats

    draw = np.random.default_rng(1)
    sizes = [10.0, 100.0, 1e3, 1e4, 1e5]
    values = [3 * s**0.8 * f for s, f in zip(sizes, np.exp(draw.normal(0, 0.1, 5)), strict=True)]
    found = _numbers.fit_exponent(sizes, values)
    expected = stats.linregress(np.log(sizes), np.log(values))
    half = stats.t.ppf(0.975, 3) * expected.stderr
    assert (found.exponent, found.low, found.high) == pytest.approx(
        (expected.slope, expected.slope - half, expected.slope + half)
    )


def test_two_points_have_a_slope_without_an_interval_and_one_has_none():
    found = _numbers.fit_exponent([1, 10], [2, 200])
    assert (found.exponent, found.low, found.high) == (pytest.approx(2), -math.inf, math.inf)
    assert _numbers.fit_exponent([5, 5], [1, 2]) is None
    with pytest.raises(ValueError):
        _numbers.fit_exponent([1, 0], [1, 1])


@pytest.mark.parametrize(("value", "limit", "at_least", "expected"), [
    (0.75, 0.75, False, "held"), (0.76, 0.75, False, "not held"), (1.5, 1.5, True, "held"), (1.4, 1.5, True, "not held"),
    (None, 1, False, "not measured"),
])  # fmt: skip
def test_a_limit_is_held_or_not(value, limit, at_least, expected):
    assert _numbers.verdict(value, limit, at_least=at_least) == expected


def curve(axis, exponent, sizes=(100, 1000, 10_000), **more):
    return [
        {"key": f"{axis} {n}", "seconds": 2 * n**exponent, "largest_mb": 500.0, "p50_ms": 1.0, **more} for n in sizes
    ]


def verdicts(points):
    return {(c["axis"], c["quantity"]): c["verdict"] for c in _scaling_tables.clauses(points)}


def test_growth_that_is_worse_than_linear_is_not_held():
    assert verdicts(curve("samples", 0.9))["samples", "seconds"] == "held"
    assert verdicts(curve("samples", 1.2))["samples", "seconds"] == "not held"
    # A start that takes long hides a last step that is quadratic from a slope over all points, but not from that of the step.
    hidden = [{"key": f"layers {n}", "seconds": 1000 + n**2} for n in (1, 2, 4, 8, 16, 32, 64)]
    assert _scaling_tables.growth(hidden, "seconds")[0].exponent < 0.5
    assert verdicts(hidden)["layers", "seconds"] == "not held"


def test_width_is_held_to_the_work_counted_from_the_graph():
    points = [{"key": f"width {n}", "seconds": n**1.9, "largest_mb": n**2.5, "macs": n**2} for n in (64, 128, 256)]
    found = verdicts(points)
    assert (found["width", "seconds"], found["width", "largest_mb"]) == ("held", "not held")
    assert found["width", "p50_ms"] == "not measured"


def test_memory_of_calibration_must_be_flat():
    assert verdicts(curve("calibration", 0.5))["calibration", "largest_mb"] == "held"
    growing = [point | {"largest_mb": 100.0 * (1 + i)} for i, point in enumerate(curve("calibration", 0.5))]
    assert verdicts(growing)["calibration", "largest_mb"] == "not held"


def test_points_come_cheap_ones_first_and_finished_ones_are_not_measured_again(tmp_path):
    order = scaling.points(list(scaling.SIZES), None)
    assert len(order) == sum(map(len, scaling.SIZES.values()))
    assert order[0].key in {f"{axis} {sizes[0]}" for axis, sizes in scaling.SIZES.items()}
    assert order[-1].size == 100_000
    file = tmp_path / "points.jsonl"
    done = {"key": order[0].key, "seconds": 1}
    file.write_text(f'{json.dumps(done)}\n{json.dumps({"key": "width 64", "error": "no"})}\n{{"key": "lab')
    assert scaling.read_points(file) == {order[0].key: done}


@pytest.mark.parametrize("labels", [2, 30])
def test_rows_of_the_curves_have_the_length_and_the_labels_of_their_point(tmp_path, labels):
    point = scaling.Point("labels", labels=labels, length=12)
    scaling.write_rows(tmp_path / "rows.jsonl", point, 100, 0)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {words(row["text"]) for row in rows} == {12}
    assert len({row["label"] for row in rows}) == labels


# Texts


def test_a_mixed_stream_has_each_text_once_in_order_and_none_to_warm_up():
    texts = [f"text number {i}" + " more" * (i % 5) for i in range(23)]
    bursts = _texts.mixed_bursts(texts, ["other one", "other two"], 10, words)
    assert [t for burst in bursts for t in burst.inputs] == texts
    assert [len(burst.inputs) for burst in bursts] == [10, 10, 3]
    assert all(set(burst.warm) <= {"other one", "other two"} and len(burst.warm) == _texts.WARM for burst in bursts)
    assert bursts[0].sizes == tuple(map(words, texts[:10]))


def test_bursts_of_one_length_have_the_same_texts_and_warm_up_at_that_length():
    texts = [f"text number {i}" + " more" * (i % 5) for i in range(23)]
    bursts = _texts.single_bursts(texts, ["some other words to take"], 4, words)
    assert sorted(t for burst in bursts for t in burst.inputs) == sorted(texts)
    for burst in bursts:
        assert {*map(words, (*burst.inputs, *burst.warm)), *burst.sizes} == {burst.sizes[0]}


def test_texts_of_a_length_differ_and_have_exactly_that_length():
    def two_for_long_words(text):
        return 2 + sum(2 if len(word) > 5 else 1 for word in text.split())

    texts = ["a sentence of several complicated words", "and another one"]
    made = _texts.texts_of_length(texts, 9, 5, two_for_long_words)
    assert set(map(two_for_long_words, made)) == {9}
    assert len(set(made)) > 1
    with pytest.raises(ValueError):
        _texts.texts_of_length(["complicated"], 3, 1, two_for_long_words)


# Sides


@pytest.fixture
def side(tmp_path):
    program = tmp_path / "side.py"
    program.write_text(SIDE)
    log = tmp_path / "log"
    one = _rounds.Side("one", [sys.executable, str(program)], _rounds.environment(), log)
    yield one
    one.close()


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are suspended on Linux")
def test_a_side_is_suspended_except_during_a_request(side):
    pid = side.greeting["hello"]
    wait_until(lambda: state_of(pid) == "T")
    assert side.ask(inputs=[1, 2])["answers"] == [1, 2]
    wait_until(lambda: state_of(pid) == "T")


def test_a_side_that_ends_says_why(side):
    with pytest.raises(_rounds.SideError, match="it was told to end"):
        side.ask(end=True)


class Counted:
    """A side that takes as long as it is told."""

    def __init__(self, factor):
        self.factor, self.requests = factor, []

    def ask(self, **request):
        self.requests.append(request)
        return {"ms": [self.factor * v for v in request["inputs"]], "answers": request["inputs"]}


def test_all_sides_answer_the_same_bursts_in_random_order():
    sides = {"a": Counted(1.0), "b": Counted(2.0)}
    bursts = [_rounds.Burst("mixed", (i, i + 1), (0,), (3, 4)) for i in range(1, 9)]
    done = []
    rounds = _rounds.take_turns(bursts, lambda stream: sides, 0, lambda *at: done.append(at))
    assert done[-1] == (8, 8)
    assert sorted(one["ms"]["a"][0] for one in rounds) == list(range(1, 9))
    assert [one["ms"]["a"][0] for one in rounds] != list(range(1, 9))
    assert len({tuple(one["ms"]) for one in rounds}) == 2  # the orders of the sides
    assert all(r["warm"] == (0,) and r["do"] == "each" for s in sides.values() for r in s.requests)
    found = _short_tables.summarize(rounds, "a", {"b": "onnxruntime"})
    (state,) = found["streams"]["mixed"].keys() - {"near", "far"}
    assert found["streams"]["mixed"][state]["b"]["over a"]["value"] == 2.0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the probe needs two CPUs")
def test_the_probe_is_a_time_and_leaves_the_process_its_cpus():
    before = os.sched_getaffinity(0)
    assert 0.01 < _rounds.probe_us() < 1e5
    assert os.sched_getaffinity(0) == before


# Builds and tables


def test_steps_of_a_build_have_peaks_of_their_own():
    steps = _build.Steps()
    steps("large", 0, 0)
    block = bytearray(b"x") * (80 << 20)
    steps("", 0, 0)
    del block
    steps("small", 0, 0)
    steps("large", 1, 1)
    lines = {line["step"]: line for line in _build.sum_steps(steps.finish())}
    assert set(lines) == {"prepare", "large", "small"}
    assert lines["large"]["growth_mb"] > 70
    assert lines["small"]["growth_mb"] < 40


def test_clauses_of_short_texts_come_from_the_best_bundle():
    def times(factors):
        return {name: [float(f)] * 2 for name, f in factors.items()}

    sides = {"b27babd": 1.0, "quick": 0.6, "slow": 0.9, "optimum-onnx dynamic INT8": 1.5}
    rounds = [
        {"stream": s, "probe_us": 0.2, "sizes": (16, 16), "ms": times(sides)} for s in ("mixed", "single", "16") * 3
    ]
    part = _short_tables.summarize(rounds, "b27babd", {"quick": "litert", "slow": "onnxruntime"})
    found = {c["clause"]: (c["measured"], c["verdict"]) for c in _short_tables.clauses({"latency": part})}
    assert found["mixed texts over b27babd, one"] == ("0.6 (quick)", "held")
    assert found["mixed texts over optimum-onnx dynamic INT8, one"] == ("0.4 (quick)", "held")
    assert found["mixed texts on ONNX Runtime over b27babd, one"] == ("0.9 (slow)", "not held")
    assert found["mixed over single lengths, one"] == ("1 (quick)", "held")
    assert found["16 tokens over b27babd, one"] == ("0.6 (quick)", "held")
    assert found["32 tokens over b27babd, one"] == ("", "not measured")
    assert found["texts a second over b27babd"][1] == "not measured"


def test_throughput_start_and_lists_have_their_clauses():
    rates = {"b27babd": 100.0, "batched": 160.0, "optimum-onnx dynamic INT8": 90.0}
    runs = {name: {"rows_per_s": r, "batch": 1, "sorted": False, "accuracy": 0.9} for name, r in rates.items()}
    starts = {"ms": {"b27babd": 200.0, "batched": 90.0}, "mb": {"b27babd": 107.0, "batched": 84.0}, "probe_us": 0.5}
    lists = {"lists of 2": {"labels": 0}, "lists of 8": {"labels": 1}}
    found = {
        "throughput": {"rounds": [{"probe_us": 0.5, "runs": runs}] * 3, "backends": {"batched": "litert"}},
        "start": {"rounds": [starts] * 3, "backends": {"batched": "litert"}},
        "exact": {"bundles": {"batched": {"flips": 3, "rms": 0.08, "variant": "dynamic on litert", "lists": lists}}},
    }
    verdict = {c["clause"]: c["verdict"] for c in _short_tables.clauses(found)}
    assert verdict["texts a second over b27babd"] == "held"
    assert verdict["texts a second over optimum-onnx dynamic INT8"] == "not held"
    assert verdict["start on litert over b27babd"] == "held"
    assert verdict["peak memory to the first answer on litert, MB"] == "not held"
    assert verdict["labels unlike torch's on dev, best INT8"] == "held"
    assert verdict["rms of logits on dev, best INT8"] == "not held"
    assert verdict["labels changed in lists, worst bundle"] == "not held"


def test_the_best_peer_is_that_of_each_round():
    times = {"EdgeKit": [[1.0], [1.0], [1.0]], "p": [[2.0], [4.0], [2.0]], "q": [[4.0], [2.0], [4.0]]}
    rounds = [
        {"probe_us": 0.2, "ms": {n: t[i] for n, t in times.items()}, "answers": {n: ["x"] for n in times}}
        for i in range(3)
    ]
    part = base_size.summarize(rounds)
    assert part["states"]["one"]["best"]["value"] == 0.5
    assert part["states"]["one"]["sides"]["q"]["ours_over"]["value"] == 0.25
    built = {"seconds": 194.0, "largest_mb": 1900}
    found = {
        c["clause"]: c["verdict"] for c in _base_tables.clauses({"latency": {"x": part}, "build": {"BERT-base": built}})
    }
    assert found == {
        "x: EdgeKit over the best peer, one": "held",
        "BERT-base: seconds of the build": "not held",
        "BERT-base: largest process of the build, MB": "held",
    }


def test_a_layers_time_is_that_of_its_products():
    gops = {"ONNX Runtime float32, 1": 100.0}
    part = [{"shape": list(s), "rows": 32, "gops": gops} for s in products.SHAPES]
    ((kind, way, *cells),) = products._rates(part, 32)
    macs = 384 * 1152 + 384 * 384 + 2 * 384 * 1536
    assert (kind, way) == ("ONNX Runtime float32", "1")
    assert cells[-1] == f"{2 * macs * 32 / 100e9 * 1e6:.0f}"


@pytest.mark.parametrize("kind", ["ONNX Runtime DynamicQuantizeMatMul", "ONNX Runtime MatMulNBits 8", "OpenVINO static INT8",
                                  "OpenVINO INT8 weights, dynamic", "LiteRT INT8, dynamic by row", "LiteRT float32"])  # fmt: skip
def test_products_agree_with_numpy(kind):
    import _product_sides

    pytest.importorskip({"O": "onnxruntime", "L": "ai_edge_litert"}[kind[0]])
    run, x = _product_sides.prepare(_product_sides.KINDS[kind][0], 1, 64, 96, 5)
    assert _product_sides.timed(run, x, 0)["calls"] == 1


def test_a_product_that_is_wrong_is_not_timed():
    import _product_sides

    with pytest.raises(ArithmeticError):
        _product_sides.prepare(lambda weights, rows, threads: lambda x: np.zeros((rows, 96)), 1, 64, 96, 5)
