"""Static shapes for several sequence lengths inside one OpenVINO model, which packs the weights only once.

If each shape were compiled as a model of its own, each would pack its own copy of the weights: OpenVINO's cache of
packed weights belongs to one compiled model and identifies a weight by the address of its constant. All shapes are
therefore put into one model: a binary tree of ``If`` nodes on the sequence length, whose leaves are copies of the
graph, each with its own static shape, that share the constants. ``benchmarks/openvino_shapes.py`` compares the
alternatives.

    batch == 1 and tokens in (16, 32, 64, 128)
    |- yes: tokens <= 32
    |       |- yes: tokens <= 16 ? body [1, 16] : body [1, 32]
    |       `- no:  tokens <= 64 ? body [1, 64] : body [1, 128]
    `- no:  body [batch, sequence]

OpenVINO optimizes a body of an ``If`` otherwise than the same graph by itself: with INT8 activations 485 of 872 answers
differed (2026.4.1, MiniLM-L6). A body that is compiled before the others is therefore a body of an ``If`` too, whose
other side is never taken. Its answers are then those of the whole, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature

__all__ = ["ANY_SHAPE", "alone_body", "check_shapes", "static_body", "with_bodies"]

ANY_SHAPE = 0
"""Length that stands for the body with dynamic shapes."""

_TOKENS = "number of tokens of this call"  # No input of a graph has this name.


def check_shapes(signature: Signature, shapes: tuple[int, ...]) -> None:
    """Raise if sequence lengths cannot be the static shapes of a graph.

    Args:
        signature: Inputs of the graph.
        shapes: Sequence lengths.

    Raises:
        BackendError: The lengths are not ascending from 1, or the inputs do not vary along batch and sequence.
    """
    if min(shapes, default=0) < 1 or list(shapes) != sorted(set(shapes)):
        raise BackendError(
            f"The static shapes are {list(shapes)}, expected ascending numbers of tokens from 1 on. "
            "Build the bundle again.",
            code="shapes-invalid",
        )
    for spec in signature.inputs:
        if {axis for axis in spec.shape if isinstance(axis, str)} != {"batch", "sequence"}:
            raise BackendError(
                f"Input '{spec.name}' is [{', '.join(map(str, spec.shape))}], but static shapes need inputs that vary "
                "along batch and sequence. Do not pass shapes.",
                code="shapes-unsupported",
            )


def with_bodies(library: Any, model: Any, signature: Signature, shapes: tuple[int, ...]) -> Any:
    """Return a model that runs a single row of a listed length with static shapes, and everything else dynamically.

    Args:
        library: Module ``openvino``.
        model: ``openvino.Model`` of the graph with dynamic batch and sequence. It is not changed.
        signature: Inputs of the graph; their axes agree in size on every call.
        shapes: Sequence lengths that :func:`check_shapes` accepts.
    """
    op = library.opset13
    parameters = _copy_parameters(op, model)
    batch = _size(op, parameters[0], signature, "batch")
    tokens = _size(op, parameters[0], signature, "sequence")
    matches = op.equal(tokens, op.constant(np.array(shapes, np.int64)))
    is_listed = op.reduce_logical_or(matches, op.constant(np.array([0], np.int64)), False)
    condition = op.logical_and(is_listed, op.equal(batch, op.constant(np.int64(1))))
    feeds = {parameter.get_friendly_name(): parameter.output(0) for parameter in parameters}
    feeds[_TOKENS] = tokens.output(0)
    branch = _make_if(op, condition, feeds, _make_tree(library, model, signature, shapes), model.clone())
    return _make_model(library, model, parameters, branch)


def alone_body(library: Any, model: Any, signature: Signature, length: int) -> Any:
    """Return a model that has one body of :func:`with_bodies`, and gives the same answers as that body, to the bit.

    Args:
        library: Module ``openvino``.
        model: ``openvino.Model`` of the graph with dynamic batch and sequence.
        signature: Inputs of the graph; their axes agree in size on every call.
        length: Sequence length of the static body, which takes single rows of this length only. :data:`ANY_SHAPE` for
            the dynamic body, which takes all calls.
    """
    op = library.opset13
    parameters = _copy_parameters(op, model)
    tokens = _size(op, parameters[0], signature, "sequence")
    feeds = {parameter.get_friendly_name(): parameter.output(0) for parameter in parameters}
    unused = _unused_body(library, model)
    if length == ANY_SHAPE:
        # A condition that OpenVINO could decide at compile time would remove the ``If``.
        branch = _make_if(op, op.equal(tokens, op.constant(np.int64(0))), feeds, unused, model.clone())
    else:
        condition = op.equal(tokens, op.constant(np.int64(length)))
        branch = _make_if(op, condition, feeds, static_body(library, model, signature, length), unused)
    return _make_model(library, model, parameters, branch)


def static_body(library: Any, model: Any, signature: Signature, length: int) -> Any:
    """Return a copy of a model for batch 1 and one sequence length. It shares the constants of the model.

    The inputs stay dynamic and a ``Reshape`` behind each fixes its shape, because an ``If`` passes the shapes of its
    own inputs on to its bodies. All shapes behind the ``Reshape`` are known at compile time.

    Args:
        library: Module ``openvino``.
        model: ``openvino.Model`` of the graph.
        signature: Inputs of the graph.
        length: Sequence length.
    """
    op = library.opset13
    body = model.clone()
    axis_sizes: dict[str | int, int] = {"batch": 1, "sequence": length}
    for parameter in body.get_parameters():
        sizes = [axis_sizes.get(axis, axis) for axis in _axes(parameter, signature)]
        readers = parameter.output(0).get_target_inputs()
        reshape = op.reshape(parameter, op.constant(np.array(sizes, np.int64)), False)
        for reader in readers:
            reader.replace_source_output(reshape.output(0))
    body.validate_nodes_and_infer_types()
    return body


def _make_tree(library: Any, model: Any, signature: Signature, shapes: tuple[int, ...]) -> Any:
    """Return a model with the static bodies as leaves; its inputs are those of the model and the number of tokens."""
    if len(shapes) == 1:
        return static_body(library, model, signature, shapes[0])
    op = library.opset13
    middle = len(shapes) // 2
    low_body = _make_tree(library, model, signature, shapes[:middle])
    high_body = _make_tree(library, model, signature, shapes[middle:])
    parameters = _copy_parameters(op, model)
    tokens = op.parameter([], np.int64, name=_TOKENS)
    parameters.append(tokens)
    feeds = {parameter.get_friendly_name(): parameter.output(0) for parameter in parameters}
    condition = op.less_equal(tokens, op.constant(np.int64(shapes[middle - 1])))
    branch = _make_if(op, condition, feeds, low_body, high_body)
    return library.Model([op.result(output) for output in branch.outputs()], parameters, "buckets")


def _unused_body(library: Any, model: Any) -> Any:
    """Return the side of an ``If`` that is never taken: constants of the ranks and types of a model's outputs."""
    op = library.opset13
    results = []
    for output in model.outputs:
        shape = output.get_partial_shape()
        axes = [] if shape.rank.is_dynamic else list(shape)
        sizes = [axis.get_min_length() or 1 for axis in axes]
        results.append(op.result(op.constant(np.zeros(sizes), output.get_element_type())))
    return library.Model(results, _copy_parameters(op, model), "unused")


def _make_if(op: Any, condition: Any, feeds: Mapping[str, Any], then_body: Any, else_body: Any) -> Any:
    """Return an ``If`` node; each body reads the feeds that it has parameters for, by name."""
    node = op.if_op(condition.output(0))
    node.set_then_body(then_body)
    node.set_else_body(else_body)
    then_parameters = {parameter.get_friendly_name(): parameter for parameter in then_body.get_parameters()}
    else_parameters = {parameter.get_friendly_name(): parameter for parameter in else_body.get_parameters()}
    for name, value in feeds.items():
        if name in then_parameters or name in else_parameters:
            node.set_input(value, then_parameters.get(name), else_parameters.get(name))
    for results in zip(then_body.get_results(), else_body.get_results(), strict=True):
        node.set_output(*results)
    return node


def _make_model(library: Any, model: Any, parameters: list[Any], branch: Any) -> Any:
    """Return a model of an ``If`` node that has the tensor names of another model."""
    ports = [parameter.output(0) for parameter in parameters] + branch.outputs()
    for port, original in zip(ports, model.inputs + model.outputs, strict=True):
        port.get_tensor().set_names(original.get_names())
    return library.Model([library.opset13.result(output) for output in branch.outputs()], parameters, "buckets")


def _size(op: Any, parameter: Any, signature: Signature, axis: str) -> Any:
    """Return a node with the size of an axis of an input at a call."""
    index = op.constant(np.int64(_axes(parameter, signature).index(axis)))
    return op.gather(op.shape_of(parameter, "i64"), index, op.constant(np.int64(0)))


def _copy_parameters(op: Any, model: Any) -> list[Any]:
    """Return new parameters with the shapes, types and names of a model's parameters."""
    return [
        op.parameter(parameter.get_partial_shape(), parameter.get_element_type(), name=parameter.get_friendly_name())
        for parameter in model.get_parameters()
    ]


def _axes(parameter: Any, signature: Signature) -> tuple[str | int, ...]:
    """Return the axes of a parameter from the signature."""
    name = parameter.get_friendly_name()
    return next(spec.shape for spec in signature.inputs if spec.name == name)
