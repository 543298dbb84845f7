#!/bin/sh
# openvino 2026.4.1, numpy 2.4.6, CPU plugin, x86-64, float32 (INFERENCE_PRECISION_HINT f32).
#
# Softmax attention without a mask (MatMul, Multiply, Softmax, MatMul) whose number of keys is dynamic. If the first call of a compiled model has exactly one
# key, later calls with 16 keys or more are wrong, on every infer request: by several units where the right answers are within +-4 or so. Calls with fewer keys
# stay right. If the first call has two keys or more, all calls are right, those with one key too. No error is raised.
# Expected: a compiled model answers by its inputs alone, whatever was asked first.
#
# Prints the largest difference from numpy for each number of keys, after a first call with one key and with two. Ends with 0 while that is so, else with 1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import openvino

op, width = openvino.opset13, 32
random = np.random.default_rng(0)
weights = {name: (random.standard_normal((width, width)) / width**0.5).astype(np.float32) for name in "qkv"}


def graph():
    x = op.parameter([-1, -1, width], np.float32, name="x")
    q, k, v = (op.matmul(x, op.constant(weights[name]), False, False) for name in "qkv")
    scores = op.multiply(op.matmul(q, k, False, True), op.constant(np.float32(width**-0.5)))
    return openvino.Model([op.result(op.matmul(op.softmax(scores, -1), v, False, False))], [x], "attention")


def right(x):
    q, k, v = (x.astype(np.float64) @ weights[name] for name in "qkv")
    shares = np.exp(q @ k.transpose(0, 2, 1) * width**-0.5)
    return shares / shares.sum(axis=-1, keepdims=True) @ v


off = {}
for first in (1, 2):
    compiled = openvino.Core().compile_model(graph(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for keys in (first, 1, 8, 16, 40):
        x = random.standard_normal((1, keys, width)).astype(np.float32)
        answer = compiled.create_infer_request().infer({"x": x})[0]
        off[first, keys] = float(np.abs(answer - right(x)).max())
        print(f"first call with {first} key(s): {keys} keys, largest difference {off[first, keys]:.2g}")
wrong = {case for case, size in off.items() if size > 1e-3}
sys.exit(0 if wrong == {(1, 16), (1, 40)} else 1)
END
