#!/usr/bin/env bash
# The baseline of short_texts.py: the SST-2 bundle of commit b27babd, made by that commit in an environment of its own.
#
#   benchmarks/baseline_b27babd.sh FOLDER MODEL DATA
#
# FOLDER gets the source of the commit, an environment with the versions that it pins, and the bundle: method dynamic, ONNX
# Runtime, 2 threads. DATA has train.jsonl, dev.jsonl and test.jsonl. What is already in FOLDER is not made again.
set -euo pipefail
commit=b27babd7faaf7f9382b171a15c096c2c0035acb4
folder=$(mkdir -p "${1:?FOLDER MODEL DATA}" && cd "$1" && pwd)
model=$(cd "${2:?MODEL}" && pwd)
data=$(cd "${3:?DATA}" && pwd)
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)  # an archive made below it lacks the rest

if [ ! -e "$folder/source/pyproject.toml" ]; then
  mkdir -p "$folder/source"
  git -C "$root" archive --format=tar "$commit" | tar -x -C "$folder/source"
fi

if [ ! -e "$folder/venv/.installed" ]; then
  ${PYTHON:-python3} -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet "torch==2.13.0"
  "$folder/venv/bin/pip" install --quiet --constraint "$folder/source/constraints.txt" "$folder/source[build]"
  touch "$folder/venv/.installed"
fi

if [ ! -e "$folder/bundle/manifest.json" ]; then
  cat > "$folder/baseline.toml" <<'TOML'
name = "baseline"
description = "Method dynamic on ONNX Runtime with 2 threads"
backends = ["onnxruntime"]
methods = ["dynamic"]
device = "cpu"
threads = 2
max_batch = 32
TOML
  cd "$folder"  # no other checkout may be on the import path
  env -u PYTHONPATH HF_HUB_OFFLINE=1 EDGEKIT_CACHE="$folder/cache" OMP_NUM_THREADS=2 "$folder/venv/bin/edgekit" build "$model" \
    --target "$folder/baseline.toml" --samples "$data/train.jsonl" --eval "$data/dev.jsonl" --test "$data/test.jsonl" -o "$folder/bundle"
fi
echo "$folder: commit $commit, manifest sha256 $(sha256sum "$folder/bundle/manifest.json" | cut -d ' ' -f 1)"
