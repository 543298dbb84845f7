"""What is measured: every candidate on the same texts in turns, and what the times can prove."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import BackendError
from edgekit.bundle.trust import open_bundle
from edgekit.search.race import measure_candidate, ratio, time_candidates, turns
from edgekit.search.record import Candidate, Race
from edgekit.spec.progress import silent

TEXTS = [*small.texts(12, seed=7), "", "film " * 200]


def candidate(path, **changes):
    bundle = open_bundle(path)
    return Candidate(bundle, replace(bundle.manifest.variants[0], **changes))


# ---- which texts are timed


@given(st.integers(1, 400), st.integers(1, 12), st.integers(1, 30))
def test_turns_cover_the_texts_evenly(count, rounds, texts):
    made = turns(count, rounds, texts)
    assert [len(turn) for turn in made] == [texts] * rounds
    assert all(0 <= i < count for turn in made for i in turn)
    times = np.bincount([i for turn in made for i in turn], minlength=count)
    if rounds * texts >= count:
        assert times.max() - times.min() <= 1, "each as often as any other"
    else:
        assert times.max() == 1, "none twice while others wait"
        chosen = np.flatnonzero(times)
        assert np.diff([*chosen, chosen[0] + count]).max() <= -(-count // (rounds * texts)), "and no wide gap"
    for turn in made:
        assert turn == sorted(turn)
        # Every round alone is spread over the whole set too: its gaps are those of the whole, `rounds` times as wide.
        assert np.diff([*turn, turn[0] + count]).max() <= -(-count // texts) + 1


def test_turns_of_a_known_case():
    assert turns(8, 2, 4) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert turns(100, 2, 2) == [[0, 50], [25, 75]]
    assert turns(2, 2, 2) == [[0, 1], [0, 1]]
    assert turns(1, 3, 2) == [[0, 0]] * 3


# ---- what times prove


def noisy(ratio_of, seed, rounds=9, texts=9, text_noise=0.1, round_noise=0.0):
    """Times of two candidates whose ratio is known; a text takes 1 to 10 ms, and a round may be slower for one of them."""
    random = np.random.default_rng(seed)
    other = random.uniform(1, 10, (rounds, texts))
    noise = random.normal(0, text_noise, (rounds, texts)) + random.normal(0, round_noise, (rounds, 1))
    return other * ratio_of * np.exp(noise), other


@pytest.mark.parametrize("known", [0.5, 0.97, 1.0, 2.0])
def test_a_known_ratio(known):
    own, other = noisy(known, seed=1)
    middle, high = ratio(own, other)
    assert middle == pytest.approx(np.median(own / other), rel=1e-12)
    assert middle == pytest.approx(known, rel=0.1)
    assert middle < high < known * 1.1
    assert ratio(own, other) == (middle, high), "the same seed gives the same interval"
    assert ratio(own, other, seed=1)[0] == middle
    assert ratio(own, other, seed=1)[1] != high
    assert ratio(1000 * own, 1000 * other) == pytest.approx((middle, high)), "the unit does not matter"


@pytest.mark.slow
def test_the_upper_end_holds_the_known_ratio_nearly_always():
    """97.5 % of the time for many rounds, somewhat less for twelve: of 24 draws at least 20."""
    held = [ratio(*noisy(0.8, seed, rounds=12, texts=5, round_noise=0.1))[1] >= 0.8 for seed in range(24)]
    assert sum(held) >= 20


def test_two_equal_ones_are_not_faster():
    faster = [ratio(*noisy(1.0, seed, rounds=12, texts=5, round_noise=0.1))[1] < 1.0 for seed in range(30, 46)]
    assert sum(faster) <= 2


def test_a_slow_round_of_the_machine_cancels():
    """It meets both: the ratio is as sharp as if it had not been there."""
    own, other = noisy(0.8, seed=4, text_noise=0.0)
    slow = np.exp(np.random.default_rng(5).normal(0, 1, (9, 1)))
    assert ratio(own * slow, other * slow) == pytest.approx((0.8, 0.8))


def test_texts_of_one_round_are_no_independent_witnesses():
    """A round that is slow for one candidate alone is one event: its texts together widen the interval, as single texts would not."""
    own, other = noisy(0.9, seed=6, rounds=8, texts=50, text_noise=0.01, round_noise=0.2)
    middle, high = ratio(own, other)
    mixed = np.random.default_rng(0).permutation((own / other).reshape(-1)).reshape(8, 50)
    narrow = ratio(mixed, np.ones((8, 50)))
    assert narrow[0] == pytest.approx(middle)
    assert high / middle - 1 > 1.5 * (narrow[1] / middle - 1)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.01, 100), st.integers(1, 6), st.integers(1, 6))
def test_times_without_noise(known, rounds, texts):
    other = np.random.default_rng(0).uniform(1, 10, (rounds, texts))
    assert ratio(known * other, other) == pytest.approx((known, known))


def test_rounds_of_several_lengths():
    assert ratio([[2.0], [4.0, 6.0]], [[1.0], [2.0, 3.0]]) == pytest.approx((2.0, 2.0))
    with pytest.raises(ValueError, match="zip"):
        ratio([[1.0]], [[1.0], [1.0]])


# ---- the real thing


@pytest.mark.slow
def test_candidates_in_turns(tiny_bundle, float32_bundle):
    told = []
    found = time_candidates(
        [candidate(tiny_bundle), candidate(float32_bundle, threads=1)], TEXTS, 5, 4, lambda *step: told.append(step)
    )
    assert np.shape(found.times_ms) == (2, 5, 4)
    assert (np.array(found.times_ms) > 0).all()
    assert found.rows_per_s == ()
    assert told == [("race candidates", turn, 5) for turn in range(1, 6)]


def test_lists_are_timed_beside_single_texts(float32_ort):
    both = [candidate(float32_ort), candidate(float32_ort, threads=2, streams=2, batch=4)]
    found = time_candidates(both, TEXTS, 3, 2, silent, lists=True)
    assert np.shape(found.times_ms) == (2, 3, 2)
    assert np.shape(found.rows_per_s) == (2, 3)
    # A list is not answered in less time than its texts at 1 us each, nor slower than at 10 s each.
    assert ((np.array(found.rows_per_s) > 0.1) & (np.array(found.rows_per_s) < 1e6)).all()


@pytest.mark.slow
def test_time_that_is_used_up_leaves_four_rounds(float32_ort):
    found = time_candidates([candidate(float32_ort)], TEXTS, 9, 2, silent, until=time.monotonic() - 1)
    assert np.shape(found.times_ms) == (1, 4, 2)
    assert np.shape(
        time_candidates([candidate(float32_ort)], TEXTS, 5, 2, silent, until=time.monotonic() + 3600).times_ms
    ) == (1, 5, 2)
    assert np.shape(
        time_candidates([candidate(float32_ort)], TEXTS, 2, 2, silent, until=time.monotonic() - 1).times_ms
    ) == (
        1,
        2,
        2,
    )


@pytest.mark.slow
def test_answers_in_batches_are_those_of_one_by_one(float32_bundle, tiny_module):
    expected = small.torch_logits(tiny_module, TEXTS)
    told = []
    one = measure_candidate(candidate(float32_bundle), TEXTS, 64, None, lambda *step: told.append(step))
    assert told == [(f"evaluate {candidate(float32_bundle)}", len(TEXTS), len(TEXTS))]
    several = measure_candidate(
        candidate(float32_bundle, threads=2, streams=2, batch=3, shapes=()), TEXTS, 64, None, silent
    )
    for found, rows in ((one, 32), (several, 3)):
        alone, listed = (np.stack([row["logits"] for row in rows_of]) for rows_of in (found.outputs, found.listed))
        assert (alone.dtype, alone.shape) == (np.dtype(np.float32), expected.shape)
        np.testing.assert_allclose(alone, expected, atol=1e-4 * np.ptp(expected))
        assert list(found.order)[: len(TEXTS)] == list(range(len(TEXTS))), "all in their order, then in another"
        assert sorted(found.order[len(TEXTS) :]) == list(range(len(TEXTS)))
        np.testing.assert_allclose(listed, expected[list(found.order)], atol=1e-4 * np.ptp(expected))
        assert (found.costs.memory_rows, found.costs.memory_tokens, found.costs.max_tokens) == (rows, 64, 2048)
        assert 20 < found.costs.first_answer_ms < 60_000
        assert 20 < found.costs.memory_mb < 600
        assert found.costs.executed == "float32"


def test_answers_to_more_texts_than_a_request_holds(float32_ort, tiny_module):
    texts = small.texts(130, seed=11)
    told = []
    found = measure_candidate(candidate(float32_ort), texts, 64, None, lambda *step: told.append(step))
    np.testing.assert_allclose(
        np.stack([row["logits"] for row in found.outputs]), small.torch_logits(tiny_module, texts), atol=1e-3
    )
    assert [done for _, done, _ in told] == [50, 100, 130]


@pytest.mark.slow
def test_lists_are_cut_so_that_the_largest_call_fits_into_the_memory(float32_ort):
    """A limit between the peaks at one row and at all; what is cut by is what the peak was measured at."""
    one = measure_candidate(candidate(float32_ort, rows="alone"), TEXTS[:4], 64, None, silent)
    most = measure_candidate(candidate(float32_ort), TEXTS[:4], 64, None, silent)
    assert (one.costs.memory_rows, most.costs.memory_rows) == (1, 32)
    limit = (one.costs.memory_mb + most.costs.memory_mb) / 2
    cut = measure_candidate(candidate(float32_ort), TEXTS[:4], 64, limit, silent)
    assert 1 < cut.costs.memory_rows < 32
    assert cut.costs.max_tokens == cut.costs.memory_rows * 64
    assert one.costs.memory_mb - 5 < cut.costs.memory_mb <= limit
    assert measure_candidate(candidate(float32_ort), TEXTS[:4], 64, 1.0, silent).costs.memory_rows == 1, (
        "a single row is not cut"
    )
    roomy = measure_candidate(candidate(float32_ort), TEXTS[:4], 64, 10_000.0, silent)
    assert (roomy.costs.memory_rows, roomy.costs.max_tokens) == (32, 2048)


@pytest.mark.slow
def test_a_candidate_that_cannot_run(float32_ort):
    for wrong in ({"threads": 1, "streams": 2}, {"shapes": (8, 16)}):
        with pytest.raises(BackendError):
            measure_candidate(candidate(float32_ort, **wrong), TEXTS, 64, None, silent)
        with pytest.raises(BackendError):
            time_candidates([candidate(float32_ort), candidate(float32_ort, **wrong)], TEXTS, 2, 2, silent)


def test_a_candidate_in_words(float32_ort):
    assert str(candidate(float32_ort, threads=2)) == "float32 on onnxruntime, 2 thread(s)"
    several = candidate(float32_ort, threads=4, shapes=(8, 16), streams=2, batch=8)
    assert str(several) == "float32 on onnxruntime, buckets 8/16, 4 thread(s), 2 streams, batch 8"


# ---- noise


def test_halves_of_a_race_tell_its_noise():
    """Ratios between candidates that are the same in both halves are no noise; a factor in every other round is."""
    random = np.random.default_rng(0)
    texts = random.uniform(1, 30, (6, 5))  # texts of any length: only ratios count
    steady = Race(tuple(tuple(map(tuple, texts * factor)) for factor in (1.0, 1.7, 4.0)))
    assert steady.noise() == pytest.approx(1.0)
    shaken = texts * 1.7 * np.where(np.arange(6) % 2, 1.2, 1.0)[:, None]
    assert Race((tuple(map(tuple, texts)), tuple(map(tuple, shaken)))).noise() == pytest.approx(1.2)
    rates = (1 / texts[:, 0], 1 / shaken[:, 0])
    assert Race(steady.times_ms[:2], tuple(map(tuple, rates))).noise() == pytest.approx(1.2), (
        "where lists count, they are what is compared"
    )


def test_one_candidate_has_nothing_to_be_compared_with():
    assert Race((((1.0,), (2.0,)),)).noise() == 1.0
    assert Race((((1.0,),), ((2.0,),))).noise() == 1.0
