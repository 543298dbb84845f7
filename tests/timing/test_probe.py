"""Probe kernels: the same work in every run, by the bundle's backend."""

from __future__ import annotations

import os
import time

import numpy as np
import onnx
import probe_graphs
import pytest

from edgekit import backends
from edgekit.spec.tensor import Signature, TensorSpec
from edgekit.timing.probe import BACKENDS, PRODUCTS, Kernels, make_prober, time_kernels


@pytest.mark.parametrize("kind", probe_graphs.KINDS)
def test_the_graphs_that_ship_are_those_of_the_script(kind):
    shipped = onnx.load(probe_graphs.FOLDER / f"{kind}.onnx", load_external_data=False)
    assert shipped == probe_graphs.model(kind)


@pytest.mark.parametrize("kind", probe_graphs.LITERT_KINDS)
def test_the_graphs_for_litert_are_those_of_the_script(kind):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed here")
    assert (probe_graphs.FOLDER / f"{kind}.tflite").read_bytes() == probe_graphs.litert_model(kind)


@pytest.mark.parametrize("backend", BACKENDS)
def test_products_run_in_their_precision(backend):
    with make_prober(backend, 1) as probes:
        device = backends.get(backend).open_device("cpu", 1)
        spec = [TensorSpec(name, "float32", (probe_graphs.ROWS, probe_graphs.WIDE)) for name in ("x", "y")]
        x = np.random.default_rng(2).normal(size=spec[0].shape).astype(np.float32)
        for name in PRODUCTS:
            graph = probes.folder / name / f"graph{backends.get(backend).GRAPH}"
            engine = device.load(graph, Signature("probe", (spec[0],), (spec[1],)))
            assert backends.summary(engine.precisions()).partition(" ")[0] == name
            y = engine.run({"x": x})["y"]
            assert np.isfinite(y).all()
            assert y.std(axis=1).min() > 0.1, "LayerNorm of a product with weights that are not zero"


def test_a_process_with_kernels_answers_as_a_bundles_does():
    with make_prober("onnxruntime", 1) as probes, probes.worker() as worker:
        start = worker.start("int8 1")
        assert start.total_ms > start.load_ms > 0
        kernels = probes.fit_kernels(worker, 1e3)
        assert {k.partition(" ")[0] for k in kernels} >= {"int8", "float32", "memory"}
        assert all(int(k.partition(" ")[2]) > 1 for k in kernels[:2]), "a call of a second is more than one of a kernel"
        times_ms = time_kernels(worker, ("int8 1", "memory 1"))
        assert {name: len(times) for name, times in times_ms.items()} == {"int8 1": 3, "memory 1": 1} and min(
            times_ms["int8 1"]
        ) > 0


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU has nobody to meet")
def test_cores_meet_and_the_other_process_ends_with_its_own(tmp_path):
    with make_prober("onnxruntime", 1) as probes:
        kernels = Kernels(probes.folder, "onnxruntime", 1)
        kernels("cores 3")
        other = kernels._cores._partner
        assert other.poll() is None
        other.stdin.close()
        for _ in range(100):
            if other.poll() is not None:
                break
            time.sleep(0.05)
        assert other.poll() is not None


def test_where_the_cpus_are_not_what_computes_there_are_none():
    with make_prober("tensorrt", 1) as probes:
        assert probes is None
