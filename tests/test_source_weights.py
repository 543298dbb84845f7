"""Weights that are not what the folder's own files say was trained: refused by name, or read and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from refusals import refused
from safetensors.torch import load_file, save_file

from edgekit import source
from edgekit.spec.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny BERT, to be spoiled."""
    return Path(shutil.copytree(tiny.folder("bert"), tmp_path / "my-model"))


def weights(folder):
    return load_file(folder / "model.safetensors")


def store(tensors, file):
    file.parent.mkdir(exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, file, {"format": "pt"})


def assert_refused(folder, code, *values):
    with refused(code, *values) as caught:
        _ = source.read(folder).settings
    assert isinstance(caught.value, ModelError)


def adapter(tensors, file, **changed):
    """A LoRA adapter with its head, as PEFT saves it."""
    head = {f"base_model.model.{n}": t for n, t in tensors.items() if n.startswith("classifier.")}
    lora = {"base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight": torch.ones(4, 32)}
    store({**head, **lora, **changed}, file)
    (file.parent / "adapter_config.json").write_text('{"peft_type": "LORA", "modules_to_save": ["classifier"]}')


# ---- adapters, parts and other versions


@pytest.mark.parametrize(
    "file", ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json", "pytorch_adapter.bin"]
)
def test_an_adapter_beside_a_whole_model(folder, file):
    (folder / file).write_bytes(b"{}")
    assert_refused(folder, "model-adapter", file, "model.merge_and_unload().save_pretrained(FOLDER)")


@pytest.mark.parametrize("where", ["adapter", "checkpoint-100", "runs/adapter"])
def test_an_adapter_in_a_folder_below(folder, where):
    (folder / where).parent.mkdir(exist_ok=True)
    tensors = weights(folder)
    adapter(
        {**tensors, "classifier.weight": -tensors["classifier.weight"]}, folder / where / "adapter_model.safetensors"
    )
    assert_refused(folder, "model-adapter", where, "merge_and_unload()")


@pytest.mark.parametrize("form", ["classifier.", "classifier.modules_to_save.default."])
def test_a_model_that_its_checkpoints_were_merged_into(folder, form):
    """The head that was trained beside the last adapter is that of the folder."""
    tensors = weights(folder)
    adapter({n: -t for n, t in tensors.items()}, folder / "checkpoint-100" / "adapter_model.safetensors")
    renamed = {n.replace("classifier.", form): t for n, t in tensors.items() if n.startswith("classifier.")}
    prefixed = {f"base_model.model.{n}": t for n, t in renamed.items()}
    adapter({}, folder / "checkpoint-200" / "adapter_model.safetensors", **prefixed)
    assert source.read(folder).settings.labels


def test_checkpoints_below_are_named(folder):
    for step in (100, 200):
        store({n: -t for n, t in weights(folder).items()}, folder / f"checkpoint-{step}" / "model.safetensors")
    assert any(
        "2 checkpoints" in note and "(checkpoint-100, checkpoint-200)" in note for note in source.read(folder).notes
    )


def test_a_head_in_a_file_of_its_own(folder):
    store({"dense.weight": torch.ones(8, 8), "out.weight": torch.ones(3, 8)}, folder / "head.safetensors")
    assert_refused(folder, "weights-unused", "head.safetensors", "dense.weight, out.weight")


@pytest.mark.parametrize("file", ["classifier.pt", "pytorch_model_head.bin", "model_head.pkl"])
def test_a_head_in_a_pickle_of_its_own(folder, file):
    torch.save({"weight": torch.ones(3, 17)}, folder / file)
    assert_refused(folder, "weights-unused", file)


def test_a_head_in_a_pickle_that_is_the_folders_own(folder):
    torch.save(weights(folder)["classifier.weight"], folder / "classifier.pt")
    assert source.read(folder).settings.labels


@pytest.mark.parametrize(
    "file",
    [
        "ema.safetensors",
        "model.fp16.safetensors",
        "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
        "best_model.pt",
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_two_versions_of_the_weights(folder, file, same):
    """The same but for half precision is the same model; another content is one too many."""
    tensors = {n: (t if same else t + 1.0) for n, t in weights(folder).items()}
    tensors = {n: t.half() for n, t in tensors.items()} if "fp16" in file else tensors
    if file.endswith(".safetensors"):
        store(tensors, folder / file)
    else:
        torch.save(tensors, folder / file)
    if same:
        assert source.read(folder).settings.labels
    else:
        assert_refused(folder, "weights-two-versions", file)


def test_a_pickle_is_compared_without_being_run(folder):
    """Its opcodes would make a file; only the bytes of its tensors are looked at."""
    import zipfile

    marker = folder / "pickle-was-read"
    torch.save(weights(folder), folder / "whole.bin")
    with zipfile.ZipFile(folder / "whole.bin") as whole, zipfile.ZipFile(folder / "pytorch_model.bin", "w") as made:
        for name in whole.namelist():
            evil = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
            made.writestr(name, evil if name.endswith("data.pkl") else whole.read(name))
    (folder / "whole.bin").unlink()
    assert source.read(folder).settings.labels
    assert not marker.exists()


def test_what_a_training_leaves_is_no_version_of_the_weights(folder):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt"):
        torch.save({"state": torch.ones(7, 3)}, folder / name)
    for name in ("tf_model.h5", "flax_model.msgpack", "model.onnx", "README.md"):
        (folder / name).write_bytes(b"x")
    assert source.read(folder).notes == tuple(n for n in source.read(tiny.folder("bert")).notes)


def test_an_old_pickle_is_named(folder):
    torch.save(weights(folder), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert any("pytorch_model.bin" in note and "model.safetensors" in note for note in source.read(folder).notes)


# ---- shards


def shards(folder, **listed):
    tensors = weights(folder)
    (folder / "model.safetensors").unlink()
    half = {n: t for i, (n, t) in enumerate(tensors.items()) if i % 2}
    store(half, folder / "model-00001-of-00002.safetensors")
    store({n: t for n, t in tensors.items() if n not in half}, folder / "model-00002-of-00002.safetensors")
    table = {n: f"model-0000{1 if n in half else 2}-of-00002.safetensors" for n in tensors}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {**table, **listed}})
    )


def test_shards_are_read(folder):
    shards(folder)
    row = {"input_ids": [2, 7, 3], "attention_mask": [1, 1, 1], "token_type_ids": [0, 0, 0]}
    rows = [{name: np.array(values, np.int64) for name, values in row.items()}]
    np.testing.assert_allclose(
        tiny.logits(source.read(folder), rows), tiny.logits(tiny.source("bert"), rows), atol=1e-6
    )


@pytest.mark.parametrize("name", ["elsewhere.safetensors", "../model.safetensors", "/elsewhere/model.safetensors"])
def test_an_index_of_other_files(folder, name):
    shards(folder, **{"classifier.weight": name})
    assert_refused(folder, "weights-index", "model.safetensors.index.json", "my-model", name)


def test_a_shard_that_no_index_lists(folder):
    shards(folder)
    store({"extra.weight": torch.ones(3, 3)}, folder / "model-00003-of-00003.safetensors")
    assert_refused(folder, "weights-unused", "model-00003-of-00003.safetensors", "extra.weight")


# ---- names


PREFIXED = [*((name, "_orig_mod.") for name in tiny.ARCHITECTURES)]
PREFIXED += [
    (name, prefix)
    for name in ("bert", "modernbert")
    for prefix in ("module.", "model.", "module._orig_mod.", "net.inner.")
]


@pytest.mark.parametrize(("name", "prefix"), PREFIXED)
def test_weights_that_a_wrapper_saved(name, prefix, tmp_path):
    copy = Path(shutil.copytree(tiny.folder(name), tmp_path / "my-model"))
    store({prefix + n: t for n, t in weights(copy).items()}, copy / "model.safetensors")
    read, rows = source.read(copy), tiny.source(name).encode(["a fine film", "the plot was dull"])
    assert any(f"'{prefix}'" in note for note in read.notes)
    np.testing.assert_allclose(tiny.logits(read, rows), tiny.logits(tiny.source(name), rows), atol=1e-5)


def test_a_part_that_was_compiled(folder):
    store({n.replace("bert.", "bert._orig_mod."): t for n, t in weights(folder).items()}, folder / "model.safetensors")
    rows = tiny.source("bert").encode(["a fine film"])
    np.testing.assert_allclose(
        tiny.logits(source.read(folder), rows), tiny.logits(tiny.source("bert"), rows), atol=1e-5
    )


def test_weights_of_two_models(folder):
    tensors = weights(folder)
    store(
        {**{f"student.{n}": t for n, t in tensors.items()}, **{f"teacher.{n}": -t for n, t in tensors.items()}},
        folder / "model.safetensors",
    )
    assert_refused(folder, "weights-several-models", "2", "'student.', 'teacher.'")


def test_a_weight_with_and_without_a_prefix(folder):
    tensors = weights(folder)
    store({**tensors, "module.classifier.bias": tensors["classifier.bias"] + 1}, folder / "model.safetensors")
    assert_refused(folder, "weights-twice", "classifier.bias")


def test_other_names_are_shown(folder):
    store({n.replace("bert.", "backbone."): t for n, t in weights(folder).items()}, folder / "model.safetensors")
    assert_refused(folder, "weights-missing", "39", "(bert.", "(backbone.")


@pytest.mark.parametrize("extra", ["classifier2.weight", "bert.encoder.layer.0.gate.weight", "crf.transitions"])
def test_weights_that_the_architecture_has_no_place_for(folder, extra):
    store({**weights(folder), extra: torch.ones(3, 3)}, folder / "model.safetensors")
    assert_refused(folder, "weights-unused", f"({extra})", "edgekit.TorchModule(module=..., processor=...)")


@pytest.mark.parametrize(
    "extra",
    ["bert.encoder.layer.0.attention.self.query.lora_A.default.weight", "classifier.modules_to_save.default.weight"],
)
def test_an_adapter_inside_the_weights(folder, extra):
    store({**weights(folder), extra: torch.ones(3, 3)}, folder / "model.safetensors")
    assert_refused(folder, "model-adapter", extra, "merge_and_unload()")


@pytest.mark.parametrize(
    "extra", ["cls.predictions.bias", "bert.embeddings.position_ids", "loss_fct.weight", "criterion.weight"]
)
def test_weights_that_nobody_misses(folder, extra):
    store({**weights(folder), extra: torch.ones(1, 3)}, folder / "model.safetensors")
    assert source.read(folder).settings.labels


# ---- values


@pytest.mark.parametrize(
    ("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity"), (float("-inf"), "infinity")]
)
def test_values_that_are_not_finite(folder, value, word):
    tensors = weights(folder)
    row = tiny.source("bert").processor.get_vocab()["the"]
    tensors["bert.embeddings.word_embeddings.weight"][row, :5] = value
    store(tensors, folder / "model.safetensors")
    rows = len(tiny.source("bert").processor)
    assert_refused(
        folder,
        "weights-not-finite",
        "5 of",
        "bert.embeddings.word_embeddings.weight",
        f"({word})",
        f"1 of {rows} rows ({row} 'the')",
    )


def test_a_value_beyond_float16(folder):
    tensors = weights(folder)
    tensors["classifier.weight"][0, 0] = 1e6
    store({n: t.half() for n, t in tensors.items()}, folder / "model.safetensors")
    assert_refused(folder, "weights-not-finite", "1 of 96", "classifier.weight", "(infinity)", "65504")


def test_a_module_with_values_that_are_not_finite():
    origin = tiny.source("bert")
    module = type(origin.module)(origin.module.config)
    with torch.no_grad():
        module.classifier.bias[1] = float("nan")
    with refused("weights-not-finite", "1", "3"):
        _ = source.from_module(module, origin.processor).settings


@pytest.mark.parametrize(("dtype", "name"), [(torch.int8, "I8"), (torch.uint8, "U8"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_packed_weights(folder, dtype, name):
    tensors = weights(folder)
    tensors["classifier.weight"] = tensors["classifier.weight"].to(dtype)
    store(tensors, folder / "model.safetensors")
    assert_refused(folder, "model-quantized", name)
