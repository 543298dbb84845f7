"""Conversion of an ONNX file into the form of an export from torch.

The result has one opset, one set of names and axes, and plain operators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer, version_converter
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from edgekit.export._onnx_checks import NEWEST_OPSET, open_graph, output_name
from edgekit.export._shapes import name_axes
from edgekit.quantize.graphs import number
from edgekit.source.modules import quiet
from edgekit.spec.errors import ExportError
from edgekit.spec.tensor import Signature

__all__ = ["fuse_layer_norm", "import_graph"]

_SCOPES = "pkg.torch.onnx.name_scopes"


def import_graph(path: Path, signature: Signature) -> ir.Model:
    """Read an ONNX file and bring it into the form of an export, before the clean-ups.

    Args:
        path: ONNX file.
        signature: Inputs and outputs that the task expects; the graph gets their names, order and axes.

    Raises:
        ModelError: If the file cannot be taken.
        ExportError: If the graph cannot be converted.
    """
    opened = open_graph(path)
    name = output_name(opened, signature)
    model = opened.model
    try:
        with quiet():
            passes.InlinePass()(model)
            if model.opset_imports.get("") != NEWEST_OPSET:
                version_converter.convert_version(model, NEWEST_OPSET, fallback=True)
            _keep_scopes(model)  # behind the converter, which drops metadata
            _set_signature(model.graph, signature, name)
            _lift_constants(model)
            passes.IdentityEliminationPass()(model)  # exporters share equal weights by Identity
            passes.ShapeInferencePass()(model)
            fuse_layer_norm(model)  # first: the optimizer takes an epsilon of 1e-12 for zero and removes it
            optimizer.optimize(model, onnx_shape_inference=True)
            _lift_constants(model)
            name_axes(model, signature)
    except Exception as problem:  # converters raise of every kind
        lines = str(problem).strip().splitlines()
        reason = lines[0] if lines else type(problem).__name__
        raise ExportError(
            f"{path.name} cannot be converted to opset {NEWEST_OPSET}: {reason}. "
            "Export the model again with opset_version=18, or give the Hugging Face folder.",
            code="onnx-conversion",
        ) from problem
    if model.opset_imports.get("") != NEWEST_OPSET:
        raise ExportError(
            f"{path.name} cannot be converted from opset {model.opset_imports.get('')} to {NEWEST_OPSET}. "
            "Export the model again with opset_version=18.",
            code="onnx-conversion",
        )
    return model


def _lift_constants(model: ir.Model) -> None:
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _keep_scopes(model: ir.Model) -> None:
    """Turn node names like ``/bert/encoder/layer.0/output/dense/MatMul`` into the scopes that name layers."""
    for node in model.graph:
        parts = [part for part in (node.name or "").split("/") if part]
        if (node.name or "").startswith("/") and len(parts) > 1 and _SCOPES not in node.metadata_props:
            node.metadata_props[_SCOPES] = f"['', '{'.'.join(parts[:-1])}', '{parts[-1]}']"


def _set_signature(graph: ir.Graph, signature: Signature, output: str) -> None:
    """Give a graph the names, the order and the axes of a signature, and forget shapes that name other axes."""
    scores = next(value for value in graph.outputs if value.name == output)
    graph.outputs[:] = [scores]
    for node in graph:
        for value in node.outputs:
            value.shape = None
    # Initializers may be listed as inputs, as older exports do.
    inputs = {value.name: value for value in graph.inputs if value.name not in graph.initializers}
    graph.inputs[:] = [inputs[spec.name] for spec in signature.inputs]
    for value, spec in zip([*graph.inputs, scores], [*signature.inputs, signature.outputs[0]], strict=True):
        value.shape = ir.Shape(spec.shape)
    scores.name = signature.outputs[0].name


def _spelled_out(op: Any, x: Any, axes: Any, other_axes: Any, epsilon: Any, scale: Any, bias: Any) -> Any:
    centred = op.Sub(x, op.ReduceMean(x, axes, _outputs=["mean"]))
    variance = op.ReduceMean(op.Pow(centred, 2.0), other_axes, _outputs=["variance"])
    return op.Add(op.Mul(op.Div(centred, op.Sqrt(op.Add(variance, epsilon))), scale), bias)


def _fused(op: Any, x: Any, scale: Any, bias: Any, epsilon: Any, **_: Any) -> Any:
    return op.LayerNormalization(x, scale, bias, axis=-1, epsilon=number(epsilon))


def _is_layer_norm(context: Any, epsilon: Any, **values: Any) -> bool:
    vectors = all(_has_rank(values[name], 1) and values[name].const_value is not None for name in ("scale", "bias"))
    over_last = _is_last_axis(values["axes"], values["x"]) and _is_last_axis(values["other_axes"], values["x"])
    keeps_axis = all(_ends_in_one(values[name]) for name in ("mean", "variance"))
    return vectors and over_last and keeps_axis and number(epsilon) is not None


def fuse_layer_norm(model: ir.Model) -> int:
    """Replace every spelled-out LayerNorm over the last axis by the operator, in place.

    Exports below opset 17 spell it out in nine nodes (Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450).

    Returns:
        The number of places.
    """
    return int(RewriteRuleSet([RewriteRule(_spelled_out, _fused, _is_layer_norm)], commute=True).apply_to_model(model))


def _has_rank(value: ir.Value, rank: int) -> bool:
    return value.shape is not None and len(value.shape) == rank


def _is_last_axis(axes: ir.Value, reduced: ir.Value) -> bool:
    axis = number(axes)
    return axis == -1 or (reduced.shape is not None and axis == len(reduced.shape) - 1)


def _ends_in_one(value: ir.Value) -> bool:
    return value.shape is not None and value.shape[-1] == 1
