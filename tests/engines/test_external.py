"""Which files a graph names, against what the onnx package wrote."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
from onnx import TensorProto, helper

import edgekit
from edgekit.engines._external import locations
from edgekit.engines.trust import entry, open_bundle
from edgekit.spec.errors import IntegrityError


def outside(name, location):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def model():
    """External tensors as an initializer, in an attribute, in the body of an If, and in a function."""
    constant = helper.make_node("Constant", [], ["c"], value=outside("v", "in_attribute"))
    body = helper.make_graph([], "body", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])], [outside("b", "in_body")])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    graph = helper.make_graph([constant, branch], "g", [], [], [outside("w", "as_initializer"), helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])])
    inside = helper.make_node("Constant", [], ["o"], value=outside("f", "in_function"))
    function = helper.make_function("d", "f", [], ["o"], [inside], [helper.make_opsetid("", 20)])
    return helper.make_model(graph, functions=[function])


def test_every_place_of_a_tensor_is_found():
    assert sorted(locations(model().SerializeToString())) == ["as_initializer", "in_attribute", "in_body", "in_body", "in_function"]


@pytest.mark.parametrize("cut", [1, 7, 40, 99])
def test_what_is_cut_off_is_no_graph(cut):
    with pytest.raises(IntegrityError):
        list(locations(model().SerializeToString()[:-cut]))


@pytest.mark.parametrize("location", ["../../secret", "/etc/passwd", "weights/../../../x", "not_listed", "C:x", ""])
def test_a_graph_that_names_a_file_outside_is_refused(tiny_bundle, tmp_path, location):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    name = next(iter(manifest["variants"][0]["graphs"].values()))
    graph = onnx.load(bundle / name, load_external_data=False)
    graph.graph.initializer.append(outside("hostile", location))
    (bundle / name).write_bytes(graph.SerializeToString())
    found = entry(bundle / name)
    manifest["files"][name] = {"sha256": found.sha256, "size": found.size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="cannot be trusted"):
        edgekit.load(bundle)


def test_a_bundle_of_ours_is_trusted(tiny_bundle):
    assert open_bundle(tiny_bundle).manifest.variants
