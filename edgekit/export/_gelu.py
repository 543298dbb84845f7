"""Fusion of a GELU in several operators to the single operator of opset 20.

The patterns are both forms of Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415, as the activations
of Transformers write them. onnxscript's rewriter does the matching; it tries both orders of every product and sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

_ROOT_2_OVER_PI = math.sqrt(2.0 / math.pi)


def _one_plus_erf(op: Any, x: Any) -> Any:
    return op.Add(op.Erf(op.Div(x, math.sqrt(2.0))), 1.0)


def _one_plus_erf_product(op: Any, x: Any) -> Any:
    return op.Add(op.Erf(op.Mul(x, math.sqrt(0.5))), 1.0)


def _one_plus_tanh(op: Any, x: Any) -> Any:
    return op.Add(op.Tanh(op.Mul(op.Add(x, op.Mul(op.Pow(x, 3.0), 0.044715)), _ROOT_2_OVER_PI)), 1.0)


def _one_plus_tanh_factored(op: Any, x: Any) -> Any:
    return op.Add(op.Tanh(op.Mul(op.Mul(x, _ROOT_2_OVER_PI), op.Add(op.Mul(op.Mul(x, 0.044715), x), 1.0))), 1.0)


def _half_first(gate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def pattern(op: Any, x: Any) -> Any:
        return op.Mul(op.Mul(x, 0.5), gate(op, x))

    return pattern


def _half_last(gate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def pattern(op: Any, x: Any) -> Any:
        return op.Mul(op.Mul(x, gate(op, x)), 0.5)

    return pattern


def _exact(op: Any, x: Any) -> Any:
    return op.Gelu(x, approximate="none")


def _tanh(op: Any, x: Any) -> Any:
    return op.Gelu(x, approximate="tanh")


def fuse_gelu(model: ir.Model) -> int:
    """Replace every GELU of several operators in place, and return their number."""
    forms = (
        (_one_plus_erf, _exact),
        (_one_plus_erf_product, _exact),
        (_one_plus_tanh, _tanh),
        (_one_plus_tanh_factored, _tanh),
    )
    rules = [RewriteRule(half(gate), fused) for gate, fused in forms for half in (_half_first, _half_last)]
    return int(RewriteRuleSet(rules, commute=True).apply_to_model(model))
