"""Where models come from: folders and hub ids that can be taken, and all that is refused with words that help."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import tiny
import torch
from refusals import refused
from safetensors.torch import load_file, save_file

import edgekit
from edgekit import source
from edgekit.export.graphs import check_preprocessing
from edgekit.modalities.text import TextEncoder, fuzz_texts
from edgekit.source.processors.text import tokenizer_json
from edgekit.spec.errors import ModelError
from edgekit.tasks import text_classification

each = pytest.mark.parametrize("name", tiny.ARCHITECTURES)


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny BERT, to be spoiled."""
    return Path(shutil.copytree(tiny.folder("bert"), tmp_path / "my-model"))


def change(file, **entries):
    """Sets entries of a JSON file; None removes one."""
    data = json.loads(file.read_text("utf-8")) if file.exists() else {}
    data.update(entries)
    file.write_text(json.dumps({k: v for k, v in data.items() if v is not None}), "utf-8")


def remove(folder, pattern):
    found = list(folder.glob(pattern))
    assert found
    for file in found:
        file.unlink()


def assert_refused(model, code, *values, revision=None):
    """Expects a model to be refused, at the latest when its settings are read; returns the message."""
    with refused(code, *values) as caught:
        _ = source.read(model, revision).settings
    assert isinstance(caught.value, ModelError)
    assert caught.value.exit_code == 2
    return str(caught.value)


# ---- models that can be taken


@each
def test_a_folder_is_read(name):
    found = source.read(tiny.folder(name))
    assert (found.model_id, found.revision, found.task) == ("model", "local", "text-classification")
    count, kind = tiny._LABELS[name]
    assert found.settings.labels == tuple(f"LABEL_{i}" for i in range(count))
    assert found.settings.problem_type == (
        kind or ("multi_label_classification" if count == 1 else "single_label_classification")
    )
    assert found.settings.max_length == tiny.MAX_LENGTH
    assert not found.module.training
    assert {p.dtype for p in found.module.parameters()} == {torch.float32}
    assert found.settings.pads["attention_mask"] == 0
    assert found.settings.pads["input_ids"] == found.module.config.pad_token_id
    assert ("token_type_ids" in found.settings.inputs) == (name in (*tiny.TOKEN_TYPES, "deberta-v2"))


def test_all_problem_types_occur():
    kinds = {source.read(tiny.folder(name)).settings.problem_type for name in tiny.ARCHITECTURES}
    assert kinds == {"single_label_classification", "multi_label_classification", "regression"}


@each
def test_logits_are_those_of_the_model(name):
    """In padded batches of similar length, back in the order of the rows; the truth is torch on each row alone."""
    found = source.read(tiny.folder(name))
    rows = found.encode([*tiny.TEXTS, *tiny.SENTENCES])  # more than one batch
    told = []
    got = tiny.logits(found, rows, lambda *step: told.append(step))
    alone = np.concatenate([tiny.torch_logits(found, {n: np.array([ids]) for n, ids in row.items()}) for row in rows])
    assert np.ptp(alone) >= 1
    np.testing.assert_allclose(got, alone, atol=1e-5)
    assert told[-1] == ("torch reference", len(rows), len(rows))
    assert len(told) == 2


def test_a_half_precision_model_is_read_as_float32(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({n: t.half() for n, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    change(folder / "config.json", dtype="float16")
    found = source.read(folder)
    assert {p.dtype for p in found.module.parameters()} == {torch.float32}
    np.testing.assert_allclose(
        tiny.logits(found, found.encode(["a fine film"])),
        tiny.logits(tiny.source("bert"), found.encode(["a fine film"])),
        atol=0.05,
    )


@pytest.mark.parametrize("name", ["bert", "distilbert", "electra", "mpnet", "roberta"])
def test_a_tokenizer_in_the_files_of_its_kind(name, tmp_path):
    """As older models have them: vocab.txt, or vocab.json and merges.txt, and no tokenizer.json."""
    copy = Path(shutil.copytree(tiny.folder(name), tmp_path / "model"))
    model = json.loads((copy / "tokenizer.json").read_text("utf-8"))["model"]
    if name == "roberta":
        (copy / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
        (copy / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]), "utf-8")
    else:
        (copy / "vocab.txt").write_text(
            "".join(f"{w}\n" for w in sorted(model["vocab"], key=model["vocab"].get)), "utf-8"
        )
    remove(copy, "tokenizer.json")
    assert tiny.ids(source.read(copy)) == tiny.ids(tiny.source(name))


def test_a_released_model_is_made_anew(folder):
    found = source.read(folder)
    rows = found.encode(["a fine film"])
    first, module = tiny.logits(found, rows), found.module
    found.release()
    assert found.module is not module
    np.testing.assert_array_equal(tiny.logits(found, rows), first)


def test_reading_says_nothing(folder, capfd):
    _ = source.read(folder).settings
    assert capfd.readouterr() == ("", "")


# ---- folders that are refused


def test_a_folder_that_is_missing(tmp_path):
    assert_refused(tmp_path / "nothing", "model-not-found", "nothing", "config.json", "model.safetensors")


def test_a_file_instead_of_a_folder(folder):
    assert_refused(folder / "config.json", "model-not-found", "config.json is a file")


def test_an_empty_folder(tmp_path):
    assert_refused(tmp_path, "model-no-config", "save_pretrained()")


def without(*patterns):
    return lambda folder: [remove(folder, pattern) for pattern in patterns]


def with_config(**entries):
    return lambda folder: change(folder / "config.json", **entries)


def with_weight(name, change_tensor):
    """Change a tensor of the weights; None removes it."""

    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        tensor = change_tensor(weights.pop(name))
        store = weights if tensor is None else {**weights, name: tensor.contiguous()}
        save_file(store, folder / "model.safetensors", {"format": "pt"})

    return spoil


def as_adapter(folder, config=True, weights="adapter_model.safetensors"):
    (folder / "model.safetensors").rename(folder / weights)
    if weights.endswith(".safetensors"):
        (folder / "adapter_config.json").write_text("{}")
    if not config:
        remove(folder, "config.json")


def with_tokenizer_cut(folder):
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-100])


ADAPTER = ("model-adapter", "merge_and_unload().save_pretrained(FOLDER)")
TASK = "text-classification (...ForSequenceClassification) of ALBERT, BERT"
LABELS = ("model-labels", "id2label of my-model", "0 to 2", "config.json")
SUPPORTED = "Supported: ALBERT, BERT, DeBERTa-v2/v3, DistilBERT"
SPOILED = {  # how a folder is spoiled, the code of the error and its values
    "no config": (without("config.json"), "model-no-config", "my-model", "save_pretrained()"),
    "no weights": (without("*.safetensors"), "model-no-weights", "model.safetensors"),
    "only an adapter": (as_adapter, *ADAPTER),
    "an adapter without a config": (lambda folder: as_adapter(folder, config=False), *ADAPTER),
    "an adapter in a pickle": (
        lambda folder: as_adapter(folder, weights="adapter_model.bin"),
        "model-adapter",
        "merge_and_unload()",
    ),
    # Transformers would fill them with random numbers, and only warn.
    "weights missing": (
        with_weight("classifier.weight", lambda _: None),
        "weights-missing",
        "my-model",
        "1",
        "(classifier.weight",
    ),
    "weights of another shape": (with_weight("classifier.weight", lambda w: w[:, :16]), "model-load", "my-model"),
    "no vocabulary": (without("tokenizer.json"), "tokenizer-missing", "my-model", "tokenizer.save_pretrained(FOLDER)"),
    "tokenizer cut": (with_tokenizer_cut, "model-load", "my-model", "'bert'", "tokenizer"),
    "problem type": (with_config(problem_type="multi_label"), "model-problem-type", "multi_label"),
    "labels twice": (with_config(id2label={"0": "yes", "1": "no", "2": "yes"}, label2id=None), *LABELS),
    "labels with a gap": (with_config(id2label={"0": "a", "1": "b", "3": "c"}, label2id=None), *LABELS),
    "masked words": (with_config(architectures=["BertForMaskedLM"]), "model-task", "(BertForMaskedLM)", TASK),
    "no head": (with_config(architectures=["BertModel"]), "model-task", "(BertModel)", TASK),
    "head not named": (with_config(architectures=None), "model-task", "(no head is named)", TASK),
    "heads empty": (with_config(architectures=[]), "model-task", "(no head is named)", TASK),
    **{
        kind: (with_config(model_type=kind), "model-architecture", f"'{kind}'", f"Did you mean '{meant}'?", SUPPORTED)
        for kind, meant in (("deberta_v2", "deberta-v2"), ("distillbert", "distilbert"), ("modern-bert", "modernbert"))
    },
}


@pytest.mark.parametrize(("spoil", "code", "values"), [(s, c, v) for s, c, *v in SPOILED.values()], ids=SPOILED)
def test_a_spoiled_folder(folder, spoil, code, values):
    spoil(folder)
    assert_refused(folder, code, *values)


def test_only_a_pickle(folder):
    remove(folder, "*.safetensors")
    marker = folder / "pickle-was-read"
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    assert_refused(folder, "model-pickle", "pytorch_model.bin", "safe_serialization=True")
    assert not marker.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own(folder, file):
    (folder / "modeling_mine.py").write_text(f"open({str(folder / 'code-was-run')!r}, 'w')")
    change(
        folder / file,
        auto_map={"AutoModelForSequenceClassification": "modeling_mine.Mine", "AutoTokenizer": "modeling_mine.Mine"},
    )
    assert_refused(
        folder,
        "model-own-code",
        f"{file} has auto_map",
        "edgekit.build(edgekit.TorchModule(module=..., processor=...), ...)",
    )
    assert not (folder / "code-was-run").exists()


@pytest.mark.parametrize("kind", ["llama", "t5", None])
def test_an_architecture_that_is_not_supported(folder, kind):
    change(folder / "config.json", model_type=kind)
    message = assert_refused(folder, "model-architecture", f"'{kind}'", "Supported: ALBERT")
    assert "Did you mean" not in message


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", ['{"model_type": "bert",', "[" * 100000, "\udcff", ""], ids=["cut", "deep", "not UTF-8", "empty"]
)
def test_json_that_is_broken(folder, file, text):
    (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert_refused(folder, "model-json", file)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["[]", '"bert"', "3", "null"])
def test_json_that_is_no_object(folder, file, text):
    (folder / file).write_text(text)
    assert_refused(folder, "model-json", file)


@pytest.mark.parametrize("keep", [0, 7, 2000, -1])
def test_weights_that_are_cut_off(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert_refused(folder, "model-load", "my-model", "'bert'", "tokenizer")


@each
def test_no_tokenizer(tmp_path, name):
    """Some of Transformers' classes make a tokenizer of five words where there is none."""
    copy = Path(shutil.copytree(tiny.folder(name), tmp_path / "my-model"))
    for file in copy.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    assert_refused(copy, "tokenizer-missing", "my-model", "tokenizer.save_pretrained(FOLDER)")


def test_no_pad_token(tmp_path):
    copy = Path(shutil.copytree(tiny.folder("modernbert"), tmp_path / "my-model"))
    change(copy / "tokenizer_config.json", pad_token=None)
    assert_refused(copy, "tokenizer-no-padding", "my-model", "pad_token")


# ---- digest


def test_the_digest_is_of_the_content(folder):
    first = source.read(folder).digest
    assert first == source.read(tiny.folder("bert")).digest
    (folder / "README.md").write_text("words about the model")
    (folder / "checkpoint").mkdir()
    assert source.read(folder).digest == first


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"])
def test_any_byte_changes_the_digest(folder, file):
    first = source.read(folder).digest
    data = bytearray((folder / file).read_bytes())
    if file == "model.safetensors":
        data[-1] ^= 1
    else:
        data += b" "  # still JSON
    (folder / file).write_bytes(data)
    assert source.read(folder).digest != first


def test_a_new_file_changes_the_digest(folder):
    first = source.read(folder).digest
    (folder / "added_tokens.json").write_text("{}")
    assert source.read(folder).digest != first


# ---- modules from Python


def test_what_a_module_must_be():
    tokens, module = tiny.source("bert").processor, tiny.source("bert").module
    with refused("module-type"):
        source.from_module("bert", tokens)
    with refused("processor-missing"):
        source.from_module(module, None)
    with refused("name-unknown", "text-clasification", "text-classification"):
        source.from_module(module, tokens, "text-clasification")


def test_a_module_without_labels():
    found = source.from_module(torch.nn.Linear(2, 2), tiny.source("bert").processor)
    with refused("model-labels"):
        _ = found.settings
    assert found.digest is None


# ---- token ids


def saved(name, assets, change=lambda data: None):
    """The assets of a model as a bundle has them, its tokenizer changed."""
    found = tiny.source(name)
    data = json.loads(tokenizer_json(found.processor))
    change(data)
    text_classification.save(found.settings, json.dumps(data), assets)
    return found


def check_tokenizer(found, assets, texts):
    task = text_classification.load(assets)
    check_preprocessing(found, task, texts, task.modality.generate(400, task.max_size, 0))


@each
def test_the_runtime_makes_the_same_token_ids(name, tmp_path):
    """On many scripts, pairs, empty texts, texts of blanks, special tokens as text, and texts far too long."""
    found = saved(name, tmp_path)
    texts = fuzz_texts(found.settings.max_length)
    assert len(texts) > 500
    assert sum(isinstance(t, tuple) for t in texts) > 100
    encode = TextEncoder(tmp_path / "tokenizer.json", found.settings.inputs, found.settings.max_length)
    lengths = set()
    for text, tokens in zip(texts, encode(texts), strict=True):
        columns = [[part] for part in text] if isinstance(text, tuple) else [[text]]
        truth = found.processor(*columns, truncation=True, max_length=found.settings.max_length)
        assert {n: a.tolist() for n, a in tokens.arrays.items()} == {n: truth[n][0] for n in found.settings.inputs}
        lengths.add(len(tokens.arrays["input_ids"]))
    assert max(lengths) == found.settings.max_length
    check_tokenizer(found, tmp_path, tiny.TEXTS)


def first_of(data, kind):
    """The first part of a normalizer, pre-tokenizer or post-processor of a kind."""
    parts = [data] if isinstance(data, dict) else data
    for part in parts:
        if part.get("type") == kind:
            return part
        for inner in ("normalizers", "pretokenizers", "processors"):
            if (found := first_of(part.get(inner, []), kind)) is not None:
                return found
    return None


def no_lowercase(data):
    normalizer = first_of(data["normalizer"], "BertNormalizer")
    assert normalizer["lowercase"] is True
    normalizer["lowercase"] = False


def no_normalizer(data):
    assert data["normalizer"]
    data["normalizer"] = None


def swapped_words(data):
    """Two words have each other's id."""
    vocabulary = data["model"]["vocab"]
    if isinstance(vocabulary, list):
        place = {piece: i for i, (piece, _) in enumerate(vocabulary)}
        i, j = place["▁the"], place["a"]
        vocabulary[i], vocabulary[j] = vocabulary[j], vocabulary[i]
    else:
        i, j = ("the", "a") if "the" in vocabulary else ("Ġthe", "a")
        vocabulary[i], vocabulary[j] = vocabulary[j], vocabulary[i]


def no_special_tokens(data):
    assert data["post_processor"]
    data["post_processor"] = None


TAMPERED = [
    *((name, no_lowercase) for name in ("bert", "electra", "distilbert", "mpnet")),
    *((name, no_normalizer) for name in ("albert", "deberta-v2", "modernbert")),
    *((name, swapped_words) for name in tiny.ARCHITECTURES),
    *((name, no_special_tokens) for name in tiny.ARCHITECTURES),
]


@pytest.mark.parametrize(("name", "tamper"), TAMPERED)
def test_another_tokenizer_is_noticed(name, tamper, tmp_path):
    found = saved(name, tmp_path, tamper)
    with refused("tokenizer-differs") as caught:
        check_tokenizer(found, tmp_path, tiny.TEXTS)
    message = str(caught.value)
    assert "The runtime's tokenizer disagrees with the Hugging Face tokenizer of model on input" in message
    assert not any(word in message for word in ("kitchen", "thermostat"))  # no text of a sample is shown


def test_another_length_is_noticed(tmp_path):
    found = saved("bert", tmp_path)
    change(tmp_path / "task.json", max_length=63)
    other = text_classification.load(tmp_path).settings
    assert other.max_length == 63
    encode = TextEncoder(tmp_path / "tokenizer.json", other.inputs, other.max_length)
    assert (
        len(encode(["word " * 200])[0].arrays["input_ids"]) == 63 != len(found.encode(["word " * 200])[0]["input_ids"])
    )


# ---- the hub

FIRST, SECOND = "1" * 40, "2" * 40


class Hub:
    """The hub's endpoints that huggingface_hub asks for a model, on the loopback interface."""

    def __init__(self, repositories):
        """``repositories``: id -> revision -> (commit, {path: bytes})."""
        self.repositories, self.requests = repositories, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, path):
        """Status, headers and body."""
        parts = [unquote(p) for p in path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        model, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4:] if api else parts[2:]
        revisions = self.repositories.get(model)
        if revisions is None:
            # As the hub answers who is not logged in: it does not tell missing from private.
            return (
                401,
                {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."},
                b'{"error": "Invalid username or password."}',
            )
        wanted = rest[1] if len(rest) > 1 else "main"
        found = next(((commit, files) for name, (commit, files) in revisions.items() if wanted in (name, commit)), None)
        if found is None:
            return (
                404,
                {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {wanted}"},
                b'{"error": "Invalid rev id"}',
            )
        commit, files = found
        if api and rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        if api:
            info = {
                "id": model,
                "modelId": model,
                "sha": commit,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
            return (
                200,
                {"Content-Type": "application/json"},
                json.dumps({**info, "siblings": [{"rfilename": n} for n in files]}).encode(),
            )
        if model == "some/gated":
            return (
                403,
                {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model some/gated is restricted"},
                b"{}",
            )
        name = "/".join(rest[2:])
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        return (
            200,
            {
                "ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"',
                "X-Repo-Commit": commit,
                "Content-Type": "application/octet-stream",
            },
            files[name],
        )

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = urlsplit(self.path).path
                hub.requests.append((self.command, path))
                status, headers, body = hub.answer(path)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    with contextlib.suppress(OSError):
                        self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        return Handler


_ASK = """
import json, sys
from edgekit import source
from edgekit.spec.errors import EdgekitError
answers = []
for model, revision, deep in json.loads(sys.argv[1]):
    try:
        found = source.read(model, revision)
        answer = {"model_id": found.model_id, "revision": found.revision, "digest": found.digest}
        if deep:
            rows = found.encode(["a fine film", "the plot was dull"])
            answer |= {"labels": found.settings.labels, "logits": [row["logits"].tolist() for row in found.outputs(rows)]}
    except EdgekitError as problem:
        answer = {"error": type(problem).__name__, "message": str(problem)}
    answers.append(answer)
print(json.dumps(answers))
"""


def ask(url, home, *questions):
    """Reads models by id in a process of its own: the hub's address is taken from the environment when the client is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    package = str(Path(edgekit.__file__).resolve().parents[1])
    more = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
        "PYTHONPATH": package,
    }
    done = subprocess.run(
        [sys.executable, "-c", _ASK, json.dumps(questions)],
        env={**kept, **more},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """All questions to the hub in one process, since the client takes a second to import and Transformers more."""
    files = {f.name: f.read_bytes() for f in tiny.folder("bert").iterdir()}
    other = {f.name: f.read_bytes() for f in tiny.folder("distilbert").iterdir()}
    more = {
        n: b"raise SystemExit"
        for n in ("pytorch_model.bin", "README.md", "modeling.py", "onnx/model.onnx", "part/model.safetensors")
    }
    pickle = {n: d for n, d in files.items() if n != "model.safetensors"} | {
        "pytorch_model.bin": bytes(3_000_000),
        "sub/model.safetensors": bytes(1000),
    }
    server = Hub(
        {
            "some/model": {"main": (FIRST, files | more), "v2": (SECOND, other)},
            "some/pickle": {"main": (FIRST, pickle)},
            "some/gated": {"main": (FIRST, files)},
            "some/adapter": {
                "main": (FIRST, {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x", "README.md": b""})
            },
            "some/code": {
                "main": (FIRST, files | {"config.json": files["config.json"].replace(b"{", b'{"auto_map": {},', 1)})
            },
        }
    )
    home = tmp_path_factory.mktemp("hf")
    questions = {
        "main": ("some/model", None, True),
        "v2": ("some/model", "v2", False),
        "commit": ("some/model", FIRST, False),
        "no revision": ("some/model", "v3", False),
        "no id": ("some/modle", None, False),
        "pickle": ("some/pickle", None, False),
        "gated": ("some/gated", None, False),
        "adapter": ("some/adapter", None, False),
        "code": ("some/code", None, False),
    }
    try:
        answers, said = ask(server.url, home, *questions.values())
    finally:
        server.close()
    return SimpleNamespace(
        answers=dict(zip(questions, answers, strict=True)), said=said, requests=server.requests, home=home
    )


@pytest.mark.slow
def test_a_hub_id_is_read_like_its_folder(hub):
    local, found = source.read(tiny.folder("bert")), hub.answers["main"]
    assert (found["model_id"], found["revision"]) == ("some/model", FIRST)
    assert found["digest"] == local.digest
    assert tuple(found["labels"]) == local.settings.labels
    expected = tiny.logits(local, local.encode(["a fine film", "the plot was dull"]))
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)


@pytest.mark.slow
def test_a_revision_is_a_branch_or_a_commit(hub):
    assert hub.answers["v2"]["revision"] == SECOND
    assert hub.answers["v2"]["digest"] == source.read(tiny.folder("distilbert")).digest
    assert hub.answers["commit"]["revision"] == FIRST
    assert hub.answers["commit"]["digest"] == hub.answers["main"]["digest"]


@pytest.mark.slow
def test_nothing_is_downloaded_that_is_not_needed(hub):
    """No pickle, no code, nothing in subfolders."""
    fetched = {
        path.split("/resolve/", 1)[1].split("/", 1)[1]
        for method, path in hub.requests
        if "/resolve/" in path and method == "GET" and "/model/" in path
    }
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not {"pytorch_model.bin", "modeling.py", "onnx/model.onnx", "part/model.safetensors", "README.md"} & fetched
    assert not list(hub.home.rglob("*.bin"))


@pytest.mark.slow
def test_the_client_says_nothing(hub):
    assert hub.said == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no revision", ["'some/model'", "404", "--revision"]),
        ("no id", ["'some/modle'", "HF_TOKEN"]),
        ("gated", ["'some/gated'", "HF_TOKEN"]),
        ("pickle", ["some/pickle", "pytorch_model.bin", "safe_serialization=True"]),
        ("adapter", ["some/adapter", "merge_and_unload()"]),
        ("code", ["some/code", "config.json has auto_map"]),
    ],
)
def test_what_the_hub_has_but_cannot_be_taken(hub, case, words):
    answer = hub.answers[case]
    assert answer["error"] == "ModelError"
    assert [w for w in words if w not in answer["message"]] == [], answer["message"]


@pytest.mark.slow
def test_of_a_repository_of_pickles_nothing_is_downloaded(hub):
    assert [r for r in hub.requests if "some/pickle" in r[1]] == [("GET", "/api/models/some/pickle")]


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached(tmp_path):
    server = Hub({})
    server.close()
    (answer,), _ = ask(server.url, tmp_path, ("some/model", None, False))
    assert answer["error"] == "ModelError"
    assert "'some/model'" in answer["message"]
    assert "the connection" in answer["message"]


@pytest.mark.parametrize(
    "model", ["a/b/c", "./model", "/no/such", "../x", "~/x", "two words", "C:\\model", "owner/na me"]
)
def test_what_looks_like_a_path_is_not_asked_of_the_hub(model, monkeypatch):
    monkeypatch.setattr(source._folder, "_download", lambda *_: pytest.fail("asked the hub"))
    assert_refused(model, "model-not-found", model)
