"""Static shapes for several lengths inside one OpenVINO model, which packs the weights once for all of them.

Compiled one by one, every shape packs its own copy of the weights: OpenVINO's cache of packed weights belongs to one compiled
model and knows a weight by the address of its constant. So all shapes are put into one model: a binary tree of ``If`` on
the number of tokens whose leaves are copies of the graph, each with a shape of its own, that read the same constants.
``benchmarks/openvino_shapes.py`` measures this against the other ways.

    batch == 1 and tokens in (16, 32, 64, 128)
    |- yes: tokens <= 32
    |       |- yes: tokens <= 16 ? body [1, 16] : body [1, 32]
    |       `- no:  tokens <= 64 ? body [1, 64] : body [1, 128]
    `- no:  body [batch, sequence]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.spec.errors import BackendError
from edgekit.spec.tensor import Signature

_TOKENS = "number of tokens of this call"  # a name that no input of a graph has


def check_shapes(signature: Signature, shapes: tuple[int, ...]) -> None:
    """Refuses numbers of tokens that cannot be the static shapes of a graph.

    Raises:
        BackendError: when they do not ascend from 1, or the graph varies otherwise than along batch and sequence.
    """
    if min(shapes, default=0) < 1 or list(shapes) != sorted(set(shapes)):
        raise BackendError(
            f"The static shapes are {list(shapes)}, expected ascending numbers of tokens, the first at least 1. Build the bundle again.",
            code="shapes-invalid",
        )
    for spec in signature.inputs:
        if {axis for axis in spec.shape if isinstance(axis, str)} != {"batch", "sequence"}:
            what = f"Input '{spec.name}' is [{', '.join(map(str, spec.shape))}], static shapes need inputs that vary along batch and sequence"
            raise BackendError(f"{what}. Give no shapes.", code="shapes-unsupported")


def with_bodies(library: Any, model: Any, signature: Signature, shapes: tuple[int, ...]) -> Any:
    """A model that answers a row of so many tokens in a body of that shape, and all else in a body of any shape.

    Args:
        library: the module ``openvino``.
        model: ``openvino.Model`` of the graph, its inputs of any batch and sequence. It becomes the body of any shape.
        signature: axes of its inputs, which agree in their sizes whenever the model is run.
        shapes: tokens of each static body, as :func:`check_shapes` lets them pass.
    """
    op = library.opset13
    outer = _parameters(op, model)
    sizes, zero, axes = op.shape_of(outer[0], "i64"), op.constant(np.int64(0)), _axes(outer[0], signature)
    batch, tokens = (op.gather(sizes, op.constant(np.int64(axes.index(name))), zero) for name in ("batch", "sequence"))
    known = op.reduce_logical_or(
        op.equal(tokens, op.constant(np.array(shapes, np.int64))), op.constant(np.array([0], np.int64)), False
    )
    condition = op.logical_and(known, op.equal(batch, op.constant(np.int64(1))))
    feeds = {p.get_friendly_name(): p.output(0) for p in outer} | {_TOKENS: tokens.output(0)}
    chosen = _either(op, condition, feeds, _tree(library, model, signature, shapes), model)
    for mine, theirs in zip([p.output(0) for p in outer] + chosen.outputs(), model.inputs + model.outputs, strict=True):
        mine.get_tensor().set_names(theirs.get_names())
    return library.Model([op.result(o) for o in chosen.outputs()], outer, "buckets")


def static_body(library: Any, model: Any, signature: Signature, length: int) -> Any:
    """A copy of a model that computes batch 1 and one number of tokens. It shares the constants of the model.

    Its inputs stay of any shape and are pinned by a ``Reshape``, because an ``If`` gives the inputs of its bodies the shapes
    of its own inputs; behind the ``Reshape`` all shapes are known when it is compiled.
    """
    op = library.opset13
    body, sizes_of = model.clone(), {"batch": 1, "sequence": length}
    for parameter in body.get_parameters():
        sizes = [axis if isinstance(axis, int) else sizes_of[axis] for axis in _axes(parameter, signature)]
        readers = parameter.output(0).get_target_inputs()
        pinned = op.reshape(parameter, op.constant(np.array(sizes, np.int64)), False)
        for reader in readers:
            reader.replace_source_output(pinned.output(0))
    body.validate_nodes_and_infer_types()
    return body


def _tree(library: Any, model: Any, signature: Signature, shapes: tuple[int, ...]) -> Any:
    """A model whose leaves are the static bodies; it takes the inputs of the model and the number of tokens."""
    if len(shapes) == 1:
        return static_body(library, model, signature, shapes[0])
    op = library.opset13
    low, high = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    parameters = _parameters(op, model)
    tokens = op.parameter([], np.int64, name=_TOKENS)
    feeds = {p.get_friendly_name(): p.output(0) for p in [*parameters, tokens]}
    bodies = (_tree(library, model, signature, half) for half in (low, high))
    chosen = _either(op, op.less_equal(tokens, op.constant(np.int64(low[-1]))), feeds, *bodies)
    return library.Model([op.result(o) for o in chosen.outputs()], [*parameters, tokens], "buckets")


def _either(op: Any, condition: Any, feeds: Mapping[str, Any], yes: Any, no: Any) -> Any:
    """An ``If``; each body takes what it knows by name."""
    node = op.if_op(condition.output(0))
    node.set_then_body(yes)
    node.set_else_body(no)
    takes_yes, takes_no = ({p.get_friendly_name(): p for p in body.get_parameters()} for body in (yes, no))
    for name, value in feeds.items():
        if name in takes_yes or name in takes_no:
            node.set_input(value, takes_yes.get(name), takes_no.get(name))
    for pair in zip(yes.get_results(), no.get_results(), strict=True):
        node.set_output(*pair)
    return node


def _parameters(op: Any, model: Any) -> list[Any]:
    """New parameters like those of a model, under the same names."""
    return [
        op.parameter(p.get_partial_shape(), p.get_element_type(), name=p.get_friendly_name())
        for p in model.get_parameters()
    ]


def _axes(parameter: Any, signature: Signature) -> tuple[str | int, ...]:
    name = parameter.get_friendly_name()
    return next(spec.shape for spec in signature.inputs if spec.name == name)
