"""A model of which one unit overflows float16 in long rows alone: kept in float32, or refused, whatever rows show it; counted against torch's half."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.reference
import pytest
import small
import torch
from refusals import refused

import edgekit
from edgekit.quantize.methods import float16
from edgekit.samples import read

pytestmark = pytest.mark.slow

START = 40  # from this position on the unit is far beyond 65504
UNIT = "bert.encoder.layer.0.intermediate.dense"
CASES = small.ROOT.parent / "shared" / "cases"


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The small model with a direction that positions from 40 on have and one hidden unit reads; nothing reads the unit. And rows, short and long."""
    folder, model = tmp_path_factory.mktemp("half"), small.module()
    embeddings, layer = model.bert.embeddings, model.bert.encoder.layer[0]
    with torch.no_grad():
        u = torch.randn(64, generator=torch.Generator().manual_seed(3))
        u = (u - u.mean()) / (u - u.mean()).norm()
        parts = [
            p.weight
            for p in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings)
        ]
        for weight in (*parts, layer.attention.output.dense.weight.T):
            weight -= (weight @ u)[:, None] * u
        layer.attention.output.dense.bias -= (layer.attention.output.dense.bias @ u) * u
        embeddings.position_embeddings.weight[START:] += 30.0 * u
        layer.intermediate.dense.weight[0], layer.intermediate.dense.bias[0] = 20000.0 * u, 0.0
        layer.output.dense.weight[:, 0] = 0.0
    model.save_pretrained(folder / "model")
    tokenizer = small.tokenizer()
    tokenizer.save_pretrained(folder / "model")
    texts = small.texts(300, seed=5)
    short = [t for t in texts if len(tokenizer(t)["input_ids"]) <= START]
    long = [" and ".join(texts[i : i + 12]) for i in range(0, 240, 12)]
    assert min(len(tokenizer(t)["input_ids"]) for t in long) > START
    made = SimpleNamespace(folder=folder, model=model, tokenizer=tokenizer, long=long)
    made.cal = small.write_jsonl(folder / "cal.jsonl", [{"text": t} for t in short[:40]])

    def rows(name, chosen):
        labels = [small.LABELS[i] for i in small.torch_logits(model, chosen).argmax(axis=1)]
        return small.write_jsonl(folder / name, [{"text": t, "label": n} for t, n in zip(chosen, labels, strict=True)])

    made.short = rows("short.jsonl", short[40:100])
    made.mixed = rows("mixed.jsonl", short[40:80] + long)
    made.target = folder / "half.toml"
    made.target.write_text('name = "half"\nextends = "jetson"\nmethods = ["float16"]\n', "utf-8")
    return made


def in_float16(graph, model, tokenizer, texts):
    """Answers in numpy's own float16, by ONNX's reference implementation: float32 ``[rows, labels]``."""
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load(graph))
    found = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        for text in texts:
            row = dict(tokenizer(text, truncation=True, max_length=small.MAX_LENGTH, return_tensors="np"))
            found.append(evaluator.run(None, {n: row[n].astype(np.int64) for n in evaluator.input_names})[0])
    return np.concatenate(found)


def broken(logits):
    return int((~np.isfinite(logits).all(axis=1)).sum())


def test_the_case_is_one_that_float16_cannot_do(half):
    in_half = copy.deepcopy(half.model).half()
    assert broken(small.torch_logits(half.model, half.long)) == 0
    assert broken(small.torch_logits(in_half, half.long)) == 20


@pytest.mark.parametrize("rows", ["short", "mixed"])
def test_the_unit_stays_in_float32_where_only_evaluation_or_full_rows_show_it(half, tmp_path, rows):
    result = edgekit.build(
        half.folder / "model", samples=half.cal, eval=getattr(half, rows), out=tmp_path / "out", target=half.target
    )
    (variant,) = result.bundle.manifest.variants
    assert f"{UNIT}/MatMul" in variant.recipe["large_values"]
    assert "layer.1" not in variant.recipe["large_values"]
    graph = tmp_path / "out" / variant.graphs["forward"]
    assert broken(in_float16(graph, half.model, half.tokenizer, half.long[:12])) == 0
    assert "rows of up to 64 tokens" in " ".join(result.bundle.manifest.verified)
    stored = np.load(tmp_path / "out" / "golden.npz")
    assert np.isfinite(stored["outputs.0"]).all()


def test_what_overflows_is_refused_with_its_rows(half, tmp_path, monkeypatch, own_cache):
    """Without the guard: torch answers, and float16 does not. 20 of 60 rows are longer than the position at which the unit overflows."""
    monkeypatch.setattr(float16, "quantize", functools.partial(float16.quantize, limit=float("inf")))
    aim = tmp_path / "kept.toml"
    aim.write_text(half.target.read_text("utf-8") + "[budget]\naccuracy_drop = 1.0\n", "utf-8")
    for rows, count in ((half.short, 0), (half.mixed, 20)):
        with refused("budget-none-inside", f"{count}", "60", "20"):
            edgekit.build(half.folder / "model", samples=half.cal, eval=rows, out=tmp_path / "out", target=aim)
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_shared_case(half, tmp_path):
    subprocess.run([sys.executable, CASES / "gen.py", "half"], cwd=tmp_path, check=True, capture_output=True)
    case = tmp_path / "half"
    result = edgekit.build(
        case / "model", samples=case / "cal.jsonl", eval=case / "dev.jsonl", out=tmp_path / "out", target=half.target
    )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(case / "model")
    texts = [row.input for row in read(case / "dev.jsonl").rows]
    (variant,) = result.bundle.manifest.variants
    assert variant.method == "float16"
    assert broken(in_float16(tmp_path / "out" / variant.graphs["forward"], None, tokenizer, texts[:60])) == 0
