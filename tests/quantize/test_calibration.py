"""The calibration set: what is measured is what torch computes, in memory that does not grow, and divergences are scipy's."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import scipy.special
import tiny
from pairs import batches_of, calibration_of, quantized
from scipy import stats

from edgekit.quantize.calibration import Calibration, kl_divergence, runner
from edgekit.quantize.graphs import linears, load, save
from edgekit.spec.rows import difference

# ---- measuring


@pytest.mark.slow
def test_calibration_memory_does_not_grow_with_samples():
    """The same bytes in histograms for 64 samples and for 2048, and hardly more at the peak."""
    held, peaks, counted = [], [], []
    once = batches_of("bert", tiny.SENTENCES[:16], size=16)
    exact = tiny.exported("bert").graphs[0].path
    Calibration(once).damage(exact, exact)  # what is imported at the first use
    for samples in (64, 2048):
        model, calibration = load(exact), Calibration(once * (samples // 16))
        tracemalloc.start()
        histograms = calibration.measure(model)
        assert calibration.damage(exact, exact) == 0.0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        arrays = [v for h in histograms.values() for v in vars(h).values() if isinstance(v, np.ndarray)]
        held.append(sum(a.nbytes for a in arrays))
        counted.append(sum(float(h.counts.sum()) for h in histograms.values()))
    channels = 7 * 32 + 2 * 64
    # Nine activations of 2,048 float64 bins, and three numbers a channel.
    assert held[0] == held[1] == 9 * 2048 * 8 + channels * (4 + 8 + 8)
    assert counted[1] == 32 * counted[0]
    assert peaks[1] < 1.1 * peaks[0]


def test_calibration_leaves_the_graph_as_it_was():
    model = load(tiny.exported("bert").graphs[0].path)
    outputs, before = [v.name for v in model.graph.outputs], len(model.graph)
    assert len(calibration_of("bert").measure(model)) == 9
    assert ([v.name for v in model.graph.outputs], len(model.graph)) == (outputs, before)
    # Nor does a value that was looked at say that it is an output, for then nothing could be fused with its node.
    assert [v.name for node in model.graph for v in node.outputs if v.is_graph_output()] == outputs


def test_what_is_measured_is_what_torch_computes():
    """Maximum, mean and count of each channel, of every batch and of the sample."""
    source, seen = tiny.source("bert"), []
    query = source.module.bert.encoder.layer[1].attention.self.query
    batches = batches_of("bert", size=1)
    calibration = Calibration(batches)
    assert len(batches) == 24
    chosen = calibration.sample()
    assert len(chosen) == 16
    assert [chosen[0], chosen[-1]] == [batches[0], batches[-1]]
    handle = query.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy().reshape(-1, 32)))
    try:
        for searching, rows in ((False, batches), (True, chosen)):
            seen.clear()
            for row in rows:
                tiny.torch_logits(source, row)
            expected = np.concatenate(seen)
            model = load(tiny.exported("bert").graphs[0].path)
            name = next(
                layer.x.name
                for layer in linears(model.graph)
                if layer.name == "bert.encoder.layer.1.attention.self.key_value"
            )
            found = calibration.measure(model, searching=searching)[name]
            np.testing.assert_allclose(found.channels, np.abs(expected).max(axis=0), rtol=1e-4)
            np.testing.assert_allclose(found.total / found.seen, expected.mean(axis=0, dtype=np.float64), atol=1e-5)
            assert found.seen == len(expected)
    finally:
        handle.remove()


# ---- divergence


def rows(array):
    """Of an output without a name: one entry a row."""
    return [{"scores": row} for row in array]


@pytest.mark.parametrize("shape", [(5, 3), (4, 7, 16)])
@pytest.mark.parametrize("size", [0.1, 3.0, 40.0])
def test_kl_divergence_is_scipys(shape, size):
    """Of the outputs from the reference: the expectation is the reference's."""
    choose = np.random.default_rng(0)
    reference, outputs = (choose.standard_normal(shape).astype(np.float32) * size for _ in range(2))
    p, q = (
        scipy.special.softmax(reference.astype(np.float64), axis=-1),
        scipy.special.softmax(outputs.astype(np.float64), axis=-1),
    )
    outputs, reference, shifted = rows(outputs), rows(reference), rows(outputs + 5)
    assert kl_divergence(outputs, reference) == pytest.approx(
        scipy.special.rel_entr(p, q).sum(axis=-1).mean(), rel=1e-9
    )
    assert kl_divergence(outputs, reference) == pytest.approx(float(np.mean(stats.entropy(p, q, axis=-1))), rel=1e-9)
    assert size < 1 or kl_divergence(outputs, reference) != pytest.approx(kl_divergence(reference, outputs), rel=1e-3)
    assert kl_divergence(reference, reference) == 0.0
    assert kl_divergence(shifted, reference) == pytest.approx(
        kl_divergence(outputs, reference), rel=1e-4
    )  # softmax knows no common offset


def test_kl_divergence_of_far_logits_is_finite():
    far = np.array([[1e4, 0.0], [0.0, -1e4]], np.float32)
    assert kl_divergence(rows(far[:, ::-1]), rows(far)) == pytest.approx(1e4)


def test_damage_is_the_mean_over_the_sample():
    """Of 24 batches of one row 16 are looked at; what is counted are the outputs against the float graph's, by scipy."""
    batches = batches_of("bert", size=1)
    exact, rounded = tiny.exported("bert").graphs[0].path, quantized("bert").file.path
    calibration = Calibration(batches)
    chosen = calibration.sample()

    def probabilities(path):
        run = runner(path)
        return np.concatenate([scipy.special.softmax(run(batch)[0].astype(np.float64), axis=-1) for batch in chosen])

    expected = float(np.mean(stats.entropy(probabilities(exact), probabilities(rounded), axis=-1)))
    assert expected > 0
    assert calibration.damage(exact, rounded) == pytest.approx(expected, rel=1e-6)
    assert calibration.damage(exact, exact) == 0.0
    assert Calibration(batches, difference).damage(exact, rounded) > 0.0


def test_rows_are_judged_without_their_padding():
    """What takes outputs apart says which part of them is the row's own."""
    batches = batches_of("bert", size=2)
    exact, rounded = tiny.exported("bert").graphs[0].path, quantized("bert").file.path
    seen = []

    def split(batch, outputs):
        seen.append(batch)
        (array,) = outputs.values()
        return rows(array[:1])

    first = Calibration(batches, difference, split=split).damage(exact, rounded)
    of_all = Calibration(batches, difference).damage(exact, rounded)
    assert 0 < first < of_all
    assert seen == 2 * list(range(len(batches)))


def test_each_float_graph_has_its_own_outputs(tmp_path: Path):
    """A calibration that has served for one graph says of another what a new one says."""
    exact, rounded = tiny.exported("bert").graphs[0].path, quantized("bert").file.path
    model = load(exact)
    bias = next(v for n, v in model.graph.initializers.items() if n.endswith("classifier.bias"))
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.array([3, 0, -3], np.float32), name=bias.name)
    save(model, tmp_path / "other.onnx")
    used = calibration_of("bert")
    assert used.damage(exact, rounded) < 0.1
    assert (
        used.damage(tmp_path / "other.onnx", rounded)
        == calibration_of("bert").damage(tmp_path / "other.onnx", rounded)
        > 0.1
    )
