"""What a build needs on its machine: backends that race there, and those whose graphs it writes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from refusals import refused

from edgekit import backends
from edgekit.search import checks, device_choice
from edgekit.spec.target import load


@pytest.mark.parametrize("name", ["android", "raspberry-pi-5", "arm64", "cpu"])
def test_litert_writes_its_graphs_where_the_bundle_is_built(name, monkeypatch):
    real = backends.installed_version
    monkeypatch.setattr(backends, "installed_version", lambda name: None if name == "litert" else real(name))
    with refused("backend-not-installed", "edgekit-sdk[litert]"):
        checks.check_target(load(name))


@pytest.mark.parametrize("name", ["jetson", "gpu"])
def test_an_onnx_graph_needs_no_backend_of_a_device(name, monkeypatch):
    monkeypatch.setattr(backends, "installed_version", lambda name: None)
    checks.check_target(load(name))


@pytest.mark.parametrize(
    ("names", "limit", "shipped"),
    [
        ("onnxruntime litert onnxruntime litert onnxruntime", 2, [0, 1, 2]),
        ("litert litert", 2, [0]),
        ("onnxruntime openvino onnxruntime", 2, [0, 1]),
        ("onnxruntime litert", 1, [0]),
        ("litert onnxruntime", 1, [0]),
        ("tensorrt tensorrt tensorrt", 2, [0, 1]),
    ],
)
def test_a_device_bundle_has_two_onnx_graphs_and_one_of_litert(names, limit, shipped):
    candidates = [SimpleNamespace(variant=SimpleNamespace(backend=name)) for name in names.split()]
    assert device_choice._select_first(candidates, range(len(candidates)), limit) == shipped
