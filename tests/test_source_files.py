"""Files of a model folder against each other: heads, tokenizers, tables, lengths; and what a module from Python returns."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small
import tiny
import tiny_words
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertTokenizer, GPT2Config, TextClassificationPipeline

import edgekit
from edgekit import source
from edgekit.export.graphs import export
from edgekit.runtime.load import load
from edgekit.samples import Sample
from edgekit.search.request import ModelRequest
from edgekit.source.processors import _tokenizer
from edgekit.source.processors.text import facts, tokenizer_json
from edgekit.spec.errors import ModelError, UsageError
from edgekit.spec.protocols import Encoded
from edgekit.tasks.text_classification import Settings, bind

SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny BERT, to be spoiled."""
    return Path(shutil.copytree(tiny.folder("bert"), tmp_path / "my-model"))


@pytest.fixture(scope="module")
def one_saved(tmp_path_factory):
    return small.save(tmp_path_factory.mktemp("one") / "one", labels=("LABEL_0",))


@pytest.fixture
def one(one_saved, tmp_path):
    """A model with one logit and no problem type, to be spoiled."""
    return small.copy(one_saved, tmp_path / "one")


def change(file, **entries):
    """Sets entries of a JSON file; None removes one."""
    data = json.loads(file.read_text("utf-8")) if file.exists() else {}
    data.update(entries)
    file.write_text(json.dumps({k: v for k, v in data.items() if v is not None}), "utf-8")


def assert_refused(model, code, *values, error=ModelError, **options):
    """Expects a model to be refused; returns the message."""
    with refused(code, *values) as caught:
        _ = source.read(model, **options).settings
    assert isinstance(caught.value, error)
    return str(caught.value)


# ---- what the outputs mean

ST = "torch.nn.modules.activation."
HEADS = [  # problem_type of the config, entries of sentence-transformers, what is told, the kind, words of a note
    (None, {}, None, MULTI, "pipeline of Transformers"),
    (None, {"sentence_transformers": {"activation_fn": ST + "Sigmoid"}}, None, MULTI, "'sigmoid'"),
    (
        None,
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        None,
        NUMBER,
        "'identity'",
    ),
    (None, {"sbert_ce_default_activation_function": ST + "Sigmoid"}, None, MULTI, "'sigmoid'"),
    (
        None,
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        None,
        NUMBER,
        "'identity'",
    ),
    (NUMBER, {}, None, NUMBER, ""),
    (NUMBER, {"sentence_transformers": {"activation_fn": ST + "Sigmoid"}}, None, NUMBER, "problem_type was used"),
    (MULTI, {}, None, MULTI, ""),
    (None, {}, NUMBER, NUMBER, "as requested"),
    (None, {"sentence_transformers": {"activation_fn": ST + "Sigmoid"}}, NUMBER, NUMBER, "as requested"),
    (NUMBER, {}, MULTI, MULTI, "as requested"),
]


@pytest.mark.parametrize(("said", "entries", "told", "kind", "words"), HEADS)
def test_what_one_logit_is(one, said, entries, told, kind, words):
    change(one / "config.json", problem_type=said, **entries)
    found = source.read(one, problem_type=told)
    assert found.settings.problem_type == kind
    assert not words or any(words in note for note in found.notes), found.notes
    assert words or found.notes == ()


def test_one_logit_is_answered_as_by_the_pipeline(one, tmp_path):
    """The truth is the pipeline of Transformers itself."""
    found = source.read(one)
    texts = small.texts(12, seed=5)
    task = bind(found.settings, None)
    answers = task.postprocess(
        found.outputs(found.encode(texts)), [type("Row", (), {"truncated": False})()] * len(texts)
    )
    expected = TextClassificationPipeline(model=found.module, tokenizer=found.processor, device="cpu")(texts)
    assert [a.label for a in answers] == [e["label"] for e in expected]
    assert [a.score for a in answers] == pytest.approx([e["score"] for e in expected], abs=1e-5)
    assert {len(a.labels) for a in answers} == {0, 1}


def test_one_logit_is_scored_as_a_classifier():
    task = bind(Settings(MULTI, ("LABEL_0",), 64, ("input_ids",)), None)

    def read(*labels):
        return task.parse_truth([Sample("a", label=label) for label in labels], "f").values

    truth = read(0, 1, "1", "0", True, 1.0, "1.0")
    assert truth[:, 0].tolist() == [False, True, True, False, True, True, True]
    assert read("LABEL_0", "", "LABEL_0")[:, 0].tolist() == [True, False, True]
    outputs, (metric,) = [{"logits": np.array([value], np.float32)} for value in (-1, 1, 1, 2, 1, -1, 1)], task.metrics
    assert (metric.name, metric.of(task.evidence(outputs, truth, metric))) == ("accuracy", pytest.approx(5 / 7))
    with refused("samples-label", "row 2", "0", "1", "--problem-type"):
        read(0, 0.35, 1)


def test_the_activation_in_a_file_of_its_own(one):
    """As newer versions of sentence-transformers write it."""
    (one / "config_sentence_transformers.json").write_text(
        json.dumps({"activation_fn": "torch.nn.modules.linear.Identity"})
    )
    assert source.read(one).settings.problem_type == NUMBER
    change(one / "config.json", sentence_transformers={"activation_fn": ST + "Sigmoid"})
    assert_refused(one, "model-activation", "config_sentence_transformers.json", "sentence_transformers of config.json")


def test_an_activation_that_is_not_known(one):
    change(one / "config.json", sentence_transformers={"activation_fn": ST + "Tanh"})
    assert_refused(one, "model-activation", "'torch.nn.modules.activation.Tanh'", "problem_type")


@pytest.mark.parametrize(
    ("entries", "told", "kind"),
    [
        ({}, None, SINGLE),
        ({}, MULTI, MULTI),
        ({"sentence_transformers": {"activation_fn": ST + "Sigmoid"}}, None, MULTI),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, None, SINGLE),
    ],
)
def test_several_logits_without_a_problem_type(folder, entries, told, kind):
    change(folder / "config.json", problem_type=None, **entries)
    found = source.read(folder, problem_type=told)
    assert found.settings.problem_type == kind
    assert any("problem_type" in note for note in found.notes)
    assert found.module.config.problem_type == kind, "so that a student made of it says it too"


def test_a_problem_type_that_does_not_exist_or_fit(folder, one):
    assert_refused(folder, "problem-type-unknown", "'multi'", error=UsageError, problem_type="multi")
    assert_refused(one, "problem-type-one-output", MULTI, NUMBER, error=UsageError, problem_type=SINGLE)


def test_the_choice_is_part_of_the_digest(folder):
    digests = {
        source.read(folder, **told).digest
        for told in ({}, {"problem_type": MULTI}, {"tokenizer": "file"}, {"tokenizer": "transformers"})
    }
    assert len(digests) == 4


# ---- config against config, weights and the other files


THREE = {"0": "a", "1": "b", "2": "c"}
CONFIGS = {  # entries of config.json, the code of the error and its values
    "labels the other way round": (
        {"id2label": THREE, "label2id": {"a": 1, "b": 0, "c": 2}},
        ("model-labels", "'a'", "output 0 in id2label", "output 1 in label2id"),
    ),
    "number of labels": ({"num_labels": 4}, ("model-labels", "num_labels 4", "3 names in id2label")),
    "head of other labels": (
        {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}},
        ("model-head-size", "classifier.weight", "3 outputs", "2 labels"),
    ),
    **{
        how: (
            {"quantization_config": {"quant_method": how, "bits": 4}},
            ("model-quantized", how, "quantization_config"),
        )
        for how in ("bitsandbytes", "gptq", "awq")
    },
    "class of another architecture": (
        {"architectures": ["RobertaForSequenceClassification"]},
        ("model-other-class", "RobertaForSequenceClassification", "'bert'", "BertForSequenceClassification"),
    ),
    **{
        kind: (
            {"model_type": kind},
            ("model-architecture", f"'{kind}'", "set model_type to 'roberta'", "RobertaForSequenceClassification"),
        )
        for kind in ("xlm-roberta", "camembert")
    },
}


@pytest.mark.parametrize(("entries", "error"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_is_refused(folder, entries, error):
    change(folder / "config.json", **entries)
    assert_refused(folder, *error)


@pytest.mark.parametrize("back", [{"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, {"x": 0, "y": 1, "z": 2}])
def test_other_names_in_label2id_are_noted(folder, back):
    change(folder / "config.json", id2label={"0": "a", "1": "b", "2": "c"}, label2id=back)
    found = source.read(folder)
    assert found.settings.labels == ("a", "b", "c")
    assert any("label2id" in note and "id2label was used" in note for note in found.notes)


@pytest.mark.parametrize("key", ["vocab_size", "max_position_embeddings", "type_vocab_size"])
def test_a_table_of_another_size(folder, key):
    rows = json.loads((folder / "config.json").read_text())[key]
    change(folder / "config.json", **{key: rows + 8})
    assert_refused(folder, "model-config-weights", f"{key} {rows + 8}", "bert.embeddings.", f"{rows} rows")


def test_modules_beside_the_transformer(folder):
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Dense"]
    (folder / "modules.json").write_text(json.dumps([{"idx": i, "type": t} for i, t in enumerate(kinds[:1])]))
    assert source.read(folder).settings
    (folder / "modules.json").write_text(json.dumps([{"idx": i, "type": t} for i, t in enumerate(kinds)]))
    assert_refused(folder, "model-modules", "modules.json", "Dense")


def test_lengths_that_differ_are_noted(folder):
    change(folder / "tokenizer_config.json", model_max_length=32)
    change(folder / "sentence_bert_config.json", max_seq_length=16)
    change(
        folder / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 24, "strategy": "LongestFirst", "stride": 0},
    )
    found = source.read(folder)
    assert found.settings.max_length == 32
    expected = [
        ("tokenizer_config.json", "32", "model_max_length", "config.json", "64", "32 was used"),
        ("tokenizer.json", "truncation", "24", "32 was used"),
        ("sentence_bert_config.json", "max_seq_length", "16", "32 was used"),
    ]
    for words in expected:
        assert any(all(word in note for word in words) for note in found.notes), words


def test_the_length_of_a_module_under_another_name():
    """GPT-2's config has n_positions; Transformers answers max_position_embeddings with it, and no dict of the config has that key."""
    module, tokens = torch.nn.Linear(1, 1), small.tokenizer()
    module.config, tokens.model_max_length = GPT2Config(n_positions=40), 10**30
    assert facts("a module", module, tokens)["max_length"] == 40
    module.config = torch.nn.Module()
    with refused("model-max-length", "model_max_length"):
        facts("a module", module, tokens)


def test_pads_that_differ_are_noted(folder):
    change(folder / "config.json", pad_token_id=5)
    assert any("pad_token_id 5" in note and "pads with 0" in note for note in source.read(folder).notes)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_an_ordinary_folder_is_noted_for_its_problem_type_alone(name):
    notes = source.read(tiny.folder(name)).notes
    assert len(notes) == (tiny._LABELS[name][1] is None)


# ---- architectures


def test_that_way_works(tmp_path):
    """XLM-RoBERTa's weights, read as the message says, answer as its own class does."""
    from transformers import AutoModelForSequenceClassification

    copy = Path(shutil.copytree(tiny.folder("roberta"), tmp_path / "xlm"))
    change(copy / "config.json", model_type="xlm-roberta", architectures=["XLMRobertaForSequenceClassification"])
    own = AutoModelForSequenceClassification.from_pretrained(copy).eval()
    assert type(own).__name__ == "XLMRobertaForSequenceClassification"
    change(copy / "config.json", model_type="roberta")
    found = source.read(copy)
    rows = found.encode(["a fine film", "the plot was dull"])
    with torch.inference_mode():
        expected = [own(**{n: torch.tensor([ids]) for n, ids in row.items()}).logits[0].numpy() for row in rows]
    np.testing.assert_allclose(tiny.logits(found, rows), expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["gpt2", "qwen2", "t5", "mobilebert", "deberta", "roformer", "squeezebert", "mpt", "convbert"]
)
def test_no_suggestion_crosses_architectures(folder, kind):
    change(folder / "config.json", model_type=kind)
    message = assert_refused(folder, "model-architecture", f"'{kind}'")
    assert "Did you mean" not in message


# ---- tokenizers


@pytest.fixture
def cased(tmp_path):
    """A cased tokenizer.json beside a tokenizer_config.json by which Transformers lowers."""
    words = {
        w: i
        for i, w in enumerate(
            [
                "[PAD]",
                "[UNK]",
                "[CLS]",
                "[SEP]",
                "[MASK]",
                "film",
                "Film",
                "FILM",
                *"abcdefgF",
                *("##" + c for c in "ilmFILM"),
            ]
        )
    }
    copy = Path(shutil.copytree(tiny.folder("bert"), tmp_path / "cased"))
    BertTokenizer(vocab=words, do_lower_case=False, model_max_length=64).save_pretrained(copy)
    change(copy / "tokenizer_config.json", do_lower_case=None)
    return copy


def test_two_tokenizers(cased):
    raw = _tokenizer._read_stored(cased)
    assert raw["normalizer"]["lowercase"] is False
    assert AutoTokenizer.from_pretrained(cased)("Film")["input_ids"] == [2, 5, 3]
    assert_refused(
        cased,
        "tokenizer-ambiguous",
        "tokenizer.json",
        "do_lower_case (normalizer.lowercase) is false in the file, true in Transformers",
        "--tokenizer file",
    )


@pytest.mark.parametrize(("choice", "ids"), [("file", [2, 6, 3]), ("transformers", [2, 5, 3])])
def test_the_tokenizer_that_was_chosen(cased, choice, ids):
    """It is that of the reference and of the bundle, and a folder that is made of it is of one mind."""
    found = source.read(cased, tokenizer=choice)
    assert found.encode(["Film"])[0]["input_ids"].tolist() == ids
    from tokenizers import Tokenizer

    assert Tokenizer.from_str(tokenizer_json(found.processor)).encode("Film").ids == ids
    assert any("as requested" in note for note in found.notes)
    found.processor.save_pretrained(cased)
    for stale in ("vocab.txt", "special_tokens_map.json"):
        (cased / stale).unlink(missing_ok=True)
    assert source.read(cased).encode(["Film"])[0]["input_ids"].tolist() == ids


@pytest.mark.parametrize("remedy", ["class", "save"])
def test_the_folder_is_settled_as_the_message_says(cased, remedy):
    if remedy == "class":
        change(cased / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    else:
        AutoTokenizer.from_pretrained(cased).save_pretrained(cased)
    assert source.read(cased).encode(["Film"])[0]["input_ids"].tolist() == [2, 6 if remedy == "class" else 5, 3]


def test_a_template_that_differs(folder):
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    data["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    assert_refused(folder, "tokenizer-ambiguous", "template (post_processor) is null in the file")


def test_a_tokenizer_that_does_not_exist(folder):
    assert_refused(folder, "tokenizer-choice", "'files'", "'file'", error=UsageError, tokenizer="files")


def test_a_file_that_is_not_there(folder):
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    (folder / "vocab.txt").write_text(
        "".join(f"{w}\n" for w in sorted(model["vocab"], key=model["vocab"].get)), "utf-8"
    )
    (folder / "tokenizer.json").unlink()
    assert_refused(folder, "tokenizer-file-missing", "tokenizer.json", error=UsageError, tokenizer="file")


def test_two_vocabularies(folder):
    vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    lines = sorted(vocabulary, key=vocabulary.get)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", "utf-8")
    assert source.read(folder).settings
    lines[-1], lines[-2] = lines[-2], lines[-1]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", "utf-8")
    assert_refused(folder, "tokenizer-vocabularies", "vocab.txt", "tokenizer.json", "2 tokens")


def test_two_special_tokens(folder):
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": {"content": "[PAD]"}, "sep_token": "[CLS]"})
    )
    assert_refused(folder, "tokenizer-special", "sep_token", "'[SEP]' in tokenizer_config.json", "'[CLS]'")


@pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed: the model would be read"
)
@pytest.mark.parametrize(("name", "file"), [("deberta-v2", "spm.model"), ("albert", "spiece.model")])
def test_only_a_sentencepiece_model(tmp_path, name, file):
    copy = Path(shutil.copytree(tiny.folder(name), tmp_path / "my-model"))
    (copy / "tokenizer.json").unlink()
    (copy / file).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    assert_refused(
        copy,
        "tokenizer-package",
        file,
        "pip install sentencepiece",
        "save_pretrained(MODEL)",
    )


# ---- tables


def test_tokens_beyond_the_embeddings(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["[EVENT]", "[CITY]"])
    tokenizer.save_pretrained(folder)
    assert_refused(
        folder,
        "tokenizer-beyond-embeddings",
        f"'[EVENT]' ({rows}), '[CITY]' ({rows + 1})",
        "resize_token_embeddings",
    )


@pytest.mark.slow
def test_a_token_type_that_the_model_does_not_know(folder, tmp_path):
    """As RoBERTa has one type: single texts go, pairs are refused at run time."""
    weights = load_file(folder / "model.safetensors")
    name = "bert.embeddings.token_type_embeddings.weight"
    save_file({**weights, name: weights[name][:1].contiguous()}, folder / "model.safetensors", {"format": "pt"})
    change(folder / "config.json", type_vocab_size=1)
    found = source.read(folder)
    assert (found.settings.tables["token_type_ids"], found.settings.takes_pairs) == (1, False)
    with refused("model-max-length"):
        tiny.logits(found, found.encode([("a fine film", "a dull one")]))
    rows = [{"text": t, "label": i % 3} for i, t in enumerate(tiny.SENTENCES)]
    file = small.write_jsonl(tmp_path / "rows.jsonl", rows)
    small.build(
        folder,
        samples=file,
        eval=file,
        out=tmp_path / "out",
        target=small.target(tmp_path / "plain.toml"),
        accept_reference=True,
    )
    with load(tmp_path / "out") as session:
        assert session("a fine film").label
        with refused("text-id-outside", "1", "token_type_ids"):
            session(("a fine film", "a dull one"))


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_tables_are_those_of_the_module(name):
    found = source.read(tiny.folder(name))
    expected = {"input_ids": found.module.config.vocab_size}
    if "token_type_ids" in found.settings.inputs and found.module.config.type_vocab_size:
        expected["token_type_ids"] = found.module.config.type_vocab_size
    assert found.settings.tables == expected


def test_an_id_beyond_its_table_is_an_error_of_that_text(float32_ort, tmp_path):
    """A bundle whose tables are smaller than its tokenizer, as an earlier release could make them; one that does not say it is not asked."""
    copy = small.copy(float32_ort, tmp_path / "copy")
    change(copy / "assets" / "task.json", tables={"input_ids": small.vocabulary().index("the")})
    small.sign(copy)
    with load(copy) as session:
        assert session(["a cast"])
        for call in (lambda t: session(t), lambda t: small.logits(session, t)):
            with refused("text-id-outside", "position 1", "input_ids") as caught:
                call(["a cast", "cast of the film"])
            assert "cast" not in str(caught.value)
    change(copy / "assets" / "task.json", tables=None)
    small.sign(copy)
    with load(copy) as session:
        assert len(session(["a cast", "cast of the film"])) == 2


# ---- outputs of modules


class Ends(torch.nn.Module):
    """A module that ends in an activation."""

    def __init__(self, inner, last):
        super().__init__()
        self.inner, self.config, self.last = inner, inner.config, last

    def forward(self, **feeds):
        return self.last(self.inner(**feeds).logits)


def softmax(x):
    return x.softmax(dim=1)


def log_softmax(x):
    return x.log_softmax(dim=1)


def module_source(kind, last, outputs=None):
    return source.from_module(Ends(small.module(problem_type=kind), last), small.tokenizer(), outputs=outputs)


@pytest.mark.parametrize(
    ("kind", "last", "how"),
    [
        (SINGLE, softmax, "each row sums to 1, as after a softmax"),
        (MULTI, torch.sigmoid, "as after a sigmoid"),
        (SINGLE, torch.sigmoid, "as after a sigmoid"),
        (MULTI, torch.nn.functional.hardsigmoid, "as after a sigmoid"),
    ],
)
def test_outputs_that_are_probabilities(kind, last, how, tmp_path):
    with refused("model-probabilities") as caught:
        export(module_source(kind, last), tmp_path / "out", small.texts(4, seed=3))
    assert how in str(caught.value)
    assert "outputs='probabilities'" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "last"), [(SINGLE, lambda x: x), (SINGLE, log_softmax), (MULTI, lambda x: x), (NUMBER, torch.sigmoid)]
)
def test_outputs_that_are_none(kind, last):
    module_source(kind, last).check_outputs(small.texts(40, seed=3))


def test_outputs_that_were_said_to_be_logits():
    module_source(MULTI, torch.sigmoid, "logits").check_outputs(small.texts(40, seed=3))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "last"), [(SINGLE, softmax), (MULTI, torch.sigmoid)])
def test_probabilities_are_undone(kind, last, tmp_path):
    """The answers are those of the module: its probabilities come out as they are, through the exported graph too."""
    found, texts = module_source(kind, last, "probabilities"), small.texts(20, seed=3)
    export(found, tmp_path / "out", texts)
    truth = last(torch.from_numpy(small.torch_logits(small.module(problem_type=kind), texts))).numpy()
    task = bind(found.settings, None)
    answers = task.postprocess(found.outputs(found.encode(texts)), [Encoded({})] * len(texts))
    np.testing.assert_allclose([list(answer.scores.values()) for answer in answers], truth, atol=1e-5)


def test_outputs_that_do_not_exist():
    with refused("outputs-unknown", "logit", "logits"):
        module_source(SINGLE, softmax, "logit")
    with refused("outputs-of-numbers", "probabilities"):
        module_source(NUMBER, softmax, "probabilities")


# ---- what a build says


@pytest.fixture
def build(tiny_samples, tmp_path):
    target = small.target(tmp_path / "plain.toml")
    return lambda **more: small.build(
        **{"samples": tiny_samples.train, "eval": tiny_samples.dev, "out": tmp_path / "out", "target": target, **more}
    )


@pytest.mark.slow
def test_a_build_counts_rows_that_are_cut(build, tiny_model, tmp_path, tiny_module):
    long = [f"{t} " * 12 for t in small.texts(6, seed=4)]
    logits = small.torch_logits(tiny_module, long + small.texts(40, seed=6))
    rows = [
        {"text": t, "label": small.LABELS[i]}
        for t, i in zip(long + small.texts(40, seed=6), logits.argmax(axis=1), strict=True)
    ]
    file = small.write_jsonl(tmp_path / "long.jsonl", rows)
    notes = build(model=tiny_model, eval=file).bundle.manifest.notes
    assert (
        "0 of 40 calibration rows and 6 of 46 evaluation rows are longer than the model's limit of 64 tokens and were "
        "truncated." in notes
    )
    assert any("no problem_type" in note and SINGLE in note for note in notes)


def test_options_that_do_not_go_together(build, tiny_model):
    with refused("task-option-unknown", "outputs"):
        build(model=tiny_model, outputs="logits")
    with refused("module-options"):
        build(module=small.module(), processor=small.tokenizer(), tokenizer="file")
    with refused("task-option-unknown", "aggregation"):
        build(module=small.module(), processor=small.tokenizer(), aggregation="first")


def test_an_option_of_a_module_goes_through_a_build_to_its_head():
    module, processor = tiny_words.made("bert")
    model = edgekit.TorchModule(module=module, processor=processor)
    request = ModelRequest(model, options={"aggregation": "max", "tokenizer": None})
    assert request.read().settings.aggregation == "max"
