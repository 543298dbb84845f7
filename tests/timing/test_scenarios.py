"""Scenarios: the estimate against scipy and the published minimums, the rate search against an exact queue."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import small
from refusals import refused
from scipy.stats import binom, kstest

from edgekit import SamplesError, UsageError
from edgekit.stats.percentiles import samples_needed
from edgekit.timing import scenarios
from edgekit.timing.scenarios import NAMES, early_stopping, min_queries, run
from edgekit.timing.worker import Worker

TEXTS = [f"text {i}" for i in range(300)]

# mlcommons/endpoints, pull request 417, and LoadGen: queries that an early-stopping estimate needs.
FLOORS = {50: 11, 90: 64, 95: 130, 99: 662, 99.9: 6636}


# ---- the estimate


@pytest.mark.parametrize("percentile", FLOORS)
def test_the_published_floors(percentile):
    floor = FLOORS[percentile]
    assert min_queries(percentile) == floor
    assert early_stopping(range(floor - 1), percentile) is None
    assert early_stopping(range(floor), percentile) == floor - 1, "the largest of them"


@pytest.mark.parametrize("percentile", [50, 90, 95, 99])
def test_the_floors_are_those_of_the_plain_percentiles(percentile):
    assert samples_needed(percentile) == min_queries(percentile)


@pytest.mark.parametrize("percentile", [50, 75, 90, 95, 97.5, 99, 99.9])
@pytest.mark.parametrize("count", [11, 20, 64, 65, 130, 500, 662, 1000, 1821, 8403, 24576])
def test_the_estimate_is_that_of_the_binomial_distribution(percentile, count):
    below = np.flatnonzero(binom.cdf(np.arange(count), count, 1 - percentile / 100) <= 0.01)
    times = np.random.default_rng(count).permutation(count) + 0.5
    expected = None if len(below) == 0 or below[-1] < 1 else sorted(times)[-below[-1]]
    assert early_stopping(times, percentile) == expected


@pytest.mark.parametrize(("percentile", "count"), [(90, 64), (90, 300), (99, 662)])
def test_the_estimate_is_rarely_below_the_true_percentile(percentile, count):
    """In at most 1 % of 4,000 exponential series. At exactly 1 %, 69 or more have a probability of 2e-5."""
    random = np.random.default_rng(5)
    true = -np.log(1 - percentile / 100)
    low = sum(early_stopping(random.exponential(size=count), percentile) < true for _ in range(4000))
    assert low < 69


def test_none_of_few_and_no_other_percentiles():
    assert early_stopping([], 90) is None
    assert early_stopping([1.0], 50) is None
    for wrong in (0.9, 100, 49.9, float("nan")):
        for call in (lambda p: early_stopping([1.0] * 5000, p), min_queries):
            with refused("scenario-settings", "50", "100"):
                call(wrong)


# ---- arrivals


@pytest.mark.parametrize("seed", range(3))
def test_arrivals_are_poisson(seed):
    gaps = scenarios._arrival_gaps(5000, seed)
    assert gaps.mean() == pytest.approx(1)
    assert kstest(gaps, "expon").pvalue > 0.01
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.05
    assert not np.array_equal(gaps, scenarios._arrival_gaps(5000, seed + 1))


# ---- an exact bundle: every query takes as long as its text says, on a clock of its own


class Exact:
    """A fake worker with a constant service time and a clock of its own."""

    def __init__(self, service_s, streams=1, start=1000.0):
        self.service_s = service_s
        self.count = streams
        self.now = start
        self.calls = {"time": 0, "seconds": [], "serve": []}
        self.list_factor = 0.5
        self.longest_s = 0.0
        self.seen = []

    def streams(self):
        return self.count

    def passes(self, seconds):
        self.now += seconds
        self.longest_s = max(self.longest_s, seconds)

    def time(self, texts):
        self.calls["time"] += len(texts)
        self.seen += texts
        self.passes(self.service_s * len(texts))
        return [self.service_s * 1e3] * len(texts)

    def seconds(self, texts):
        self.calls["seconds"].append(list(texts))
        took = self.service_s * len(texts) * self.list_factor
        self.passes(took)
        return took

    def serve(self, texts, arrivals_s):
        assert len(texts) == len(arrivals_s)
        self.calls["serve"].append(list(arrivals_s))
        free = [0.0] * self.count
        latencies = []
        for arrival in arrivals_s:
            free.sort()
            free[0] = max(arrival, free[0]) + self.service_s
            latencies.append((free[0] - arrival) * 1e3)
        self.passes(max(free))
        return latencies


@pytest.fixture
def exact(monkeypatch):
    def make(*arguments):
        worker = Exact(*arguments)
        monkeypatch.setattr(scenarios, "time", SimpleNamespace(monotonic=lambda: worker.now))
        return worker

    return make


def largest_rate(service_s, gaps, bound_ms, streams=1):
    """Return the largest rate with a 99th percentile within the bound, to 0.01 %."""
    low = 0.01 / service_s
    high = streams / service_s
    while high > low * 1.0001:
        rate = (low + high) / 2
        estimate = early_stopping(Exact(service_s, streams).serve(["a"] * len(gaps), np.cumsum(gaps) / rate), 99)
        if estimate <= bound_ms:
            low = rate
        else:
            high = rate
    return low


@pytest.mark.parametrize(
    ("service_s", "streams", "bound_ms"), [(0.004, 1, None), (0.004, 1, 100.0), (0.02, 1, None), (0.004, 2, 100.0)]
)
def test_the_rate_is_the_largest_that_keeps_the_bound(exact, service_s, streams, bound_ms):
    worker = exact(service_s, streams)
    (result,) = run(worker, TEXTS, ["Server"], seconds=2000 * service_s * 30, bound_ms=bound_ms, seed=3)
    gaps = np.diff([0.0, *worker.calls["serve"][0]])
    limit = largest_rate(service_s, gaps / gaps.mean(), bound_ms or max(10 * service_s * 1e3, 1.0), streams)
    assert limit / 1.05 < result.value <= limit
    assert result.unit == "queries/s"
    assert result.queries == sum(map(len, worker.calls["serve"]))
    assert ("10 x the SingleStream median" in result.detail) == (bound_ms is None)


def test_a_bound_that_nothing_keeps(exact):
    (result,) = run(exact(0.004), TEXTS, ["Server"], seconds=60, bound_ms=3.0)
    assert result.value is None
    assert "queries/s exceeded the bound" in result.detail
    assert "no time for a lower rate" in result.detail


def test_what_time_is_left_is_for_the_lowest_rate_that_it_suffices_for(exact):
    """662 queries at 79 per second take 8.4 s and fail. At 44 per second they would take 15 s, but 11 s are left."""
    worker = exact(0.004)
    (result,) = run(worker, TEXTS, ["Server"], seconds=21.6, bound_ms=14.0, seed=2)
    rates = [len(arrivals) / arrivals[-1] for arrivals in worker.calls["serve"]]
    limit = largest_rate(0.004, np.diff([0.0, *worker.calls["serve"][0]]) * rates[0], 14.0)
    assert rates == [pytest.approx(79, abs=0.5), pytest.approx(60, abs=1)]
    assert rates[1] < limit < rates[0], "else this shows nothing"
    assert result.value == pytest.approx(rates[1])
    assert "79.1 queries/s exceeded the bound" in result.detail


def test_without_time_for_a_probe(exact):
    """662 queries at the first rate, 0.316 / 0.1 s, take 209 s."""
    worker = exact(0.1)
    single, offline, server = run(worker, TEXTS, NAMES, seconds=60)
    assert (server.value, server.queries) == (None, 0)
    assert "not estimable from 113 queries (needs 662)" in server.detail
    assert worker.calls["serve"] == []
    assert single.value == pytest.approx(100)
    assert single.queries > 250, "the time that Server has no use for is the others'"
    assert offline.queries > 400


def test_too_few_for_a_percentile(exact):
    (result,) = run(exact(1.0), TEXTS, ["SingleStream"], seconds=30)
    assert (result.value, result.unit, result.queries) == (None, "ms", 27)
    assert result.detail.startswith("not estimable from 27 queries (needs 64)")


@pytest.mark.parametrize("service_s", [0.0002, 0.005, 0.1])
@pytest.mark.parametrize("seconds", [5.0, 60.0])
@pytest.mark.parametrize("names", [NAMES, ["Offline"], ["Server"], ["Server", "Offline"]])
def test_the_time_is_kept(exact, service_s, seconds, names):
    worker = exact(service_s)
    results = run(worker, TEXTS, names, seconds=seconds)
    assert [s.name for s in results] == list(names)
    assert worker.now - 1000 <= seconds + worker.longest_s
    assert all("MLPerf-style, not MLPerf-compliant" in s.detail for s in results)
    if [s for s in results if s.value is not None and s.name != "Server"]:
        assert worker.now - 1000 > seconds / 5


def test_offline_is_one_list_of_all(exact):
    worker = exact(0.005)
    (result,) = run(worker, TEXTS, ["Offline"], seconds=20)
    _, *lists = worker.calls["seconds"]
    assert len(lists) >= 2
    assert all(listed == TEXTS for listed in lists)
    assert (result.value, result.unit, result.queries) == (pytest.approx(400), "rows/s", len(lists) * 300)
    assert f"{len(lists)} lists of 300 rows: {result.queries:,} samples (MLPerf requires 24,576)" in result.detail


@pytest.mark.parametrize("list_factor", [0.5, 1.3], ids=["faster in a list", "slower"])
def test_offline_of_a_slow_bundle_has_time_for_two_lists(exact, list_factor):
    worker = exact(0.05)
    worker.list_factor = list_factor
    (result,) = run(worker, TEXTS, ["Offline"], seconds=10)
    _, *lists = worker.calls["seconds"]
    assert len(lists) >= 2
    assert 64 <= len(lists[0]) < 300
    assert f"of the 300, so that there was time for two lists: {result.queries:,} samples" in result.detail


def test_queries_are_drawn_evenly_and_by_the_seed(exact):
    seen = []
    for seed in (1, 1, 2):
        worker = exact(0.01)
        run(worker, TEXTS, ["SingleStream"], seconds=10, seed=seed)
        counts = [worker.seen.count(text) for text in TEXTS]
        assert max(counts) - min(counts) <= 1
        assert len(set(worker.seen[:300])) == 300
        seen.append(worker.seen)
    assert seen[0] == seen[1] != seen[2]


def test_progress_may_end_it(exact):
    class Enough(Exception):
        pass

    def stop(step, done, total):
        if step == "scenario Server":
            raise Enough

    with pytest.raises(Enough):
        run(exact(0.001), TEXTS, NAMES, seconds=20, progress=stop)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"names": ["server"]}, UsageError, ("name-unknown", "server", "Server")),
        ({"names": ["MultiStream"]}, UsageError, "name-unknown"),
        ({"seconds": 0}, UsageError, ("scenario-settings", "0")),
        ({"seconds": float("inf")}, UsageError, "scenario-settings"),
        ({"bound_ms": -1.0}, UsageError, ("scenario-settings", "bound_ms", "1.0")),
        ({"texts": []}, SamplesError, "samples-empty"),
    ],
)
def test_what_cannot_be_run(exact, change, error, message):
    arguments = {"texts": TEXTS, "names": NAMES, "seconds": 5.0, **change}
    with refused(message):
        run(exact(0.01), arguments.pop("texts"), arguments.pop("names"), **arguments)


def test_no_scenario(exact):
    assert run(exact(0.01), TEXTS, (), seconds=5) == ()


# ---- a real one


@pytest.mark.slow
def test_a_bundle(float32_ort):
    texts = small.texts(60, seed=8)
    steps = []
    with Worker(float32_ort) as worker:
        worker.start(texts[0])
        single, offline, server = run(
            worker, texts, NAMES, seconds=4, bound_ms=2000, progress=lambda *step: steps.append(step)
        )
    assert (single.name, single.unit, offline.name, offline.unit, server.name, server.unit) == (
        "SingleStream", "ms", "Offline", "rows/s", "Server", "queries/s",
    )  # fmt: skip
    assert 0 < single.value < 1000
    assert single.queries >= 64
    assert offline.value > 0
    assert offline.queries % 60 == 0
    if server.value is not None:  # a machine that is busy with other things may not have the time
        assert server.queries >= 662
        assert server.value < 1e5
    assert {step for step, _, _ in steps} >= {"scenario SingleStream", "scenario Offline"}
    assert small.CANARY not in repr((single, offline, server))
