#!/bin/sh
# transformers 5.23.0, torch 2.13.0 (CPU), onnx 1.23.2, onnxscript 0.7.2.
#
# A ViT has no padding: every image is the same number of patches, and no attention mask is given. Expected: an ONNX export whose attention is MatMul, scale,
# Softmax, MatMul. Seen: an Add of a constant mask stands before every Softmax, with eager attention and with sdpa, and the constant is zero in every place, so
# that it hides nothing. A runtime that fuses attention by that pattern finds a mask where there is none. With sdpa a guard against rows of NaN (IsNaN, Where)
# follows each Softmax besides.
#
# Prints, for each kind of attention, what feeds each Softmax and the largest absolute value of the mask. Ends with 0 while that is so, else with 1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 onnx==1.23.2 onnxscript==0.7.2
"$folder/venv/bin/python" -W ignore - <<'END'
import sys

import numpy as np
import torch
from onnx import numpy_helper
from transformers import ViTConfig, ViTForImageClassification

torch.manual_seed(0)
config = ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=32, patch_size=8)
model = ViTForImageClassification(config).eval()
seen = {}
for attention in ("eager", "sdpa"):
    model.set_attn_implementation(attention)
    graph = torch.onnx.export(model, (torch.zeros(1, 3, 32, 32),), dynamo=True, verbose=False).model_proto.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants |= {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"}
    maker = {name: node for node in graph.node for name in node.output}
    seen[attention] = []
    for softmax in (node for node in graph.node if node.op_type == "Softmax"):
        before = maker[softmax.input[0]]
        masks = [constants[name] for name in before.input if name in constants]
        seen[attention].append((before.op_type, *(float(np.abs(mask).max()) for mask in masks)))
    guards = sum(node.op_type == "IsNaN" for node in graph.node)
    print(f"{attention}: before each Softmax {seen[attention]}, IsNaN nodes {guards}")
sys.exit(seen != {kind: [("Add", 0.0)] * 2 for kind in ("eager", "sdpa")})
END
