"""A session's answers against torch, and everything that a caller can get wrong."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import sys
import threading

import numpy as np
import pytest
import scipy.special
import small
from refusals import refused

import edgekit
from edgekit import BackendError, EdgekitError, InputError, IntegrityError
from edgekit.bundle.trust import open_bundle
from edgekit.machine.cpu import cpus
from edgekit.runtime import choice, golden

TEXTS = [
    *small.texts(40, seed=5),
    "",
    " ",
    "😀👩‍👩‍👧‍👦 the film",
    "שלום the ending was sad",
    "مرحبا",
    "的一是不",
    "e\u0301\u200d",
    "[MASK] [SEP]",
    "film " * 200,
    "x" * 300,
]
PAIRS = [
    ("the plot was dull", "their cast is strong"),
    ("", ""),
    ("a", ""),
    ("", "b"),
    ("film " * 100, "song"),
    ("film " * 100, "song " * 90),
]
FIELDS = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture(scope="module")
def load_once():
    """Load each bundle once, whatever the order of the tests."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda bundle: stack.enter_context(edgekit.load(bundle)))


@pytest.fixture
def session(load_once, float32_bundle):
    return load_once(float32_bundle)


@pytest.fixture(scope="module")
def expected(tiny_module):
    return small.torch_logits(tiny_module, [*TEXTS, *PAIRS])


def close(found, logits):
    """An answer is torch's to float32 accuracy."""
    truth = scipy.special.softmax(logits.astype(np.float64))
    np.testing.assert_allclose([found.scores[n] for n in small.LABELS], truth, atol=2e-5)
    assert found.label == small.LABELS[int(np.argmax(list(found.scores.values())))]
    assert found.score == max(found.scores.values())
    assert found.labels == (found.label,)


def feeds(batch=2, length=5):
    return {n: np.ones((batch, length), np.int64) for n in FIELDS}


# ---- what it answers


def test_one_by_one_equals_torch(session, expected):
    for text, logits in zip([*TEXTS, *PAIRS], expected, strict=True):
        close(session(text), logits)


def test_a_list_equals_torch_in_its_order(session, expected):
    answers = session([*TEXTS, *PAIRS])
    assert len(answers) == len(expected)
    for found, logits in zip(answers, expected, strict=True):
        close(found, logits)
    backwards = session([*TEXTS, *PAIRS][::-1])[::-1]
    assert [a.label for a in backwards] == [a.label for a in answers]


def test_a_list_longer_than_a_batch(session, expected):
    limit = open_bundle(session.info.bundle).manifest.max_batch
    texts = (TEXTS * (2 * limit // len(TEXTS) + 2))[: 2 * limit + 1]
    for found, logits in zip(session(texts), np.tile(expected[: len(TEXTS)], (9, 1)), strict=False):
        close(found, logits)
    assert len(session(texts)) == 2 * limit + 1


def test_logits_equal_torch(session, expected):
    found = small.logits(session, [*TEXTS, *PAIRS])
    assert (found.dtype, found.shape) == (np.dtype(np.float32), expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def test_every_label_is_the_answer_to_something(expected):
    assert set(expected.argmax(axis=1)) == {0, 1, 2}, "else the tests above would not see a mix-up"


def test_small_lists(session):
    assert session([]) == []
    assert session(["the film was fine"]) == [session("the film was fine")]


def test_a_list_is_not_changed(session):
    texts = ["b is long and long", "a"]
    session(texts)
    assert texts == ["b is long and long", "a"]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("film " * 62, False),
        ("film " * 63, True),
        ("film " * 800, True),
        (("film " * 40, "song " * 22), True),
        ("short", False),
    ],
)
def test_truncated_is_told(session, text, cut):
    assert session(text).truncated is cut
    assert [a.truncated for a in session(["short", text])] == [False, cut]


# ---- what it refuses

WRONG = [
    (None, "NoneType"),
    (3, "int"),
    (b"the film", "bytes"),
    (("a", "b", "c"), "a tuple of 3"),
    (("a", 3), "a tuple of str and int"),
    ({"text": "a"}, "dict"),
    (np.array(["a"]), "ndarray"),
    (["a"], "list"),
]


# An array of texts and a list are several inputs.
@pytest.mark.parametrize(("wrong", "said"), WRONG[:-2], ids=[w[1] for w in WRONG[:-2]])
def test_one_thing_that_is_no_text(session, wrong, said):
    with refused("input-type", f"{said}"):
        session(wrong)


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=[w[1] for w in WRONG])
def test_something_in_a_list_that_is_no_text(session, wrong, said):
    with refused("input-type", f"{said}", "position 1"):
        session(["a", wrong, "b"])
    with refused("input-type", f"{said}"):
        session([wrong])


def test_a_list_of_int(session):
    with refused("input-type", "position 0"):
        session([101, 102])


def test_a_lone_surrogate(session):
    with refused("text-surrogate"):
        session("half of an emoji: \ud83d")
    with refused("text-surrogate", "position 2"):
        session(["a", "b", "\udc80"])


def test_input_errors_are_value_errors_and_usage_errors(session):
    with refused("input-type") as caught:
        session(None)
    assert all(isinstance(caught.value, kind) for kind in (ValueError, edgekit.UsageError, EdgekitError))


# ---- raw arrays


def test_run_equals_the_call(session, expected):
    tokens = small.tokenizer()
    for text, logits in zip(TEXTS[:5], expected, strict=False):
        row = {n: np.array([ids], np.int64) for n, ids in tokens(text).items()}
        found = session.run(row)
        assert list(found) == ["logits"]
        assert found["logits"].shape == (1, 3)
        if session.info.shapes:  # logits are of the row in its bucket, padded
            np.testing.assert_allclose(found["logits"], small.logits(session, [text]), atol=1e-4)
        else:
            assert np.array_equal(found["logits"], small.logits(session, [text]))
        np.testing.assert_allclose(found["logits"][0], logits, atol=1e-4 * np.ptp(expected))


def test_run_with_padding_equals_torch(session, expected):
    batch = small.tokenizer()(TEXTS[:8], padding=True, truncation=True, return_tensors="np")
    found = session.run({n: np.asarray(batch[n], np.int64) for n in FIELDS})["logits"]
    np.testing.assert_allclose(found, expected[:8], atol=1e-4 * np.ptp(expected))


def test_what_run_gives_stays(session):
    """A later call must not write into the arrays of an earlier one."""
    one = session.run(feeds())["logits"]
    kept = one.copy()
    session.run({**feeds(), "input_ids": np.full((2, 5), 7)})
    assert np.array_equal(one, kept)


def without(name):
    return {k: v for k, v in feeds().items() if k != name}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({**feeds(), "input_idz": feeds()["input_ids"]}, "Unknown input 'input_idz'. Did you mean 'input_ids'"),
        (without("attention_mask"), "Input 'attention_mask' is missing, expected int64 .batch, sequence."),
        ({}, "is missing"),
        ({**feeds(), "input_ids": [[1, 2]]}, "Input 'input_ids' is a list"),
        ({**feeds(), "input_ids": np.ones((2, 5), np.int32)}, "Input 'input_ids' is int32"),
        ({**feeds(), "input_ids": np.ones((2, 5))}, "Input 'input_ids' is float64"),
        ({**feeds(), "input_ids": np.ones(5, np.int64)}, r"is int64 \[5\]"),
        ({**feeds(), "input_ids": np.ones((2, 5, 1), np.int64)}, r"is int64 \[2, 5, 1\]"),
        (feeds(0, 5), "no empty axis"),
        (feeds(2, 0), "no empty axis"),
        ({**feeds(), "attention_mask": np.ones((3, 5), np.int64)}, "has size 3 along 'batch', expected 2 as"),
        ({**feeds(), "attention_mask": np.ones((2, 6), np.int64)}, "has size 6 along 'sequence', expected 5 as"),
        (
            feeds(1, small.MAX_LENGTH + 1),
            f"have size {small.MAX_LENGTH + 1} along 'sequence', this model takes at most {small.MAX_LENGTH}",
        ),
    ],
)
def test_run_refuses(session, wrong, said):
    with pytest.raises(InputError, match=said):
        session.run(wrong)
    session.run(feeds(1, small.MAX_LENGTH))


def test_token_ids_that_the_model_does_not_have(session):
    """ONNX Runtime fails at them, OpenVINO takes a row of zeros for each: both are refused before, by the sizes of the tables."""
    rows = len(small.vocabulary())
    for name, wrong, table in (("input_ids", rows, rows), ("input_ids", -1, rows), ("token_type_ids", 2, 2)):
        ids = feeds()[name].copy()
        ids[1, 2] = wrong
        with refused("text-id-outside", f"{wrong}", f"{name}", f"{table}"):
            session.run({**feeds(), name: ids})
    assert session("still alive").label in small.LABELS


def test_arrays_that_are_not_contiguous(session):
    wide = np.arange(20).reshape(2, 10) % 7
    straight = {**feeds(), "input_ids": np.ascontiguousarray(wide[:, ::2])}
    crooked = {**feeds(), "input_ids": wide[:, ::2]}
    turned = {**feeds(), "input_ids": np.asfortranarray(wide[:, ::2])}
    readonly = {**feeds(), "input_ids": straight["input_ids"].copy()}
    readonly["input_ids"].flags.writeable = False
    truth = session.run(straight)["logits"]
    for other in (crooked, turned, readonly):
        np.testing.assert_allclose(session.run(other)["logits"], truth, atol=1e-6)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 16), (2, small.MAX_LENGTH)])
def test_example_feeds(session, batch, length):
    made = session.example_feeds(batch, length)
    assert {n: (a.shape, a.dtype) for n, a in made.items()} == {
        n: ((batch, length), np.dtype(np.int64)) for n in FIELDS
    }
    assert made["attention_mask"].all()
    assert session.run(made)["logits"].shape == (batch, 3)


# ---- threads


def test_many_threads_give_what_one_gives(session):
    texts = TEXTS[:49] + PAIRS[:1]
    assert len(texts) == 50
    truth = [small.logits(session, [t]) for t in texts]
    labels = [session(t).label for t in texts]
    wrong, start = [], threading.Barrier(8)

    def work(offset):
        start.wait()
        for index in [*range(offset, 50), *range(offset)]:
            found = small.logits(session, [texts[index]])
            if not np.allclose(found, truth[index], atol=1e-5) or session(texts[index]).label != labels[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i * 6,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("threads", [1, 7])
def test_the_answer_does_not_depend_on_the_threads_of_a_call(float32_bundle, expected, threads):
    with edgekit.load(float32_bundle, threads=threads) as opened:
        assert opened.info.threads == threads
        np.testing.assert_allclose(small.logits(opened, TEXTS[:5]), expected[:5], atol=1e-4 * np.ptp(expected))


@pytest.mark.parametrize("threads", [0, -1, 10**6, 1.5, "2"])
def test_a_number_of_threads_that_is_none(float32_ort, threads):
    with refused("threads-out-of-range", f"{threads}"):
        edgekit.load(float32_ort, threads=threads)


def test_more_threads_than_cpus_run_with_a_warning(float32_ort, caplog):
    most = cpus()
    with edgekit.load(float32_ort, threads=most) as opened:
        assert opened("a").label
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    with edgekit.load(float32_ort, threads=most + 5) as opened:
        assert opened("a").label
        assert opened.info.threads == most + 5
    assert f"threads={most + 5}" in caplog.text


# ---- its life


def test_context_manager_and_close(float32_bundle):
    with edgekit.load(float32_bundle) as opened:
        opened("a")
    opened.close()
    for call in (
        lambda: opened("a"),
        lambda: opened(["a"]),
        lambda: opened.run(feeds()),
        lambda: small.logits(opened, ["a"]),
        opened.executed_precision,
    ):
        with refused("session-closed"):
            call()
    assert opened.info.task == "text-classification"


@pytest.mark.slow
def test_a_bundle_may_be_opened_twice(float32_bundle):
    with edgekit.load(float32_bundle) as one, edgekit.load(str(float32_bundle)) as two:
        assert one("the film was fine") == two("the film was fine")
        one.close()
        assert two("the film was fine").label in small.LABELS


def test_a_relative_path_with_blanks_and_letters(float32_bundle, tmp_path, monkeypatch):
    bundle = small.copy(float32_bundle, tmp_path / "näme mit 空 %20 'x'")
    monkeypatch.chdir(tmp_path)
    with edgekit.load(bundle.name) as opened:
        assert opened("a").label in small.LABELS


def test_info(session, float32_bundle):
    info = session.info
    package = importlib.metadata.version(info.backend)
    assert (info.bundle, info.task, info.method, info.executed) == (
        str(float32_bundle),
        "text-classification",
        "float32",
        "float32",
    )
    assert (info.backend_version, info.built_with) == (package, package)
    assert (info.labels, info.max_length, info.target) == (small.LABELS, small.MAX_LENGTH, "exact")
    assert info.backend in str(float32_bundle)
    assert info.provenance["model"] == "tiny-bert"
    assert info.threads >= 1
    assert (info.streams, info.batch, info.chosen) == (1, 32, "it won the race where the bundle was built")
    (variant,) = json.loads((float32_bundle / "manifest.json").read_text())["variants"]
    assert list(info.shapes) == variant["shapes"]


def test_executed_precision(session, tiny_bundle):
    assert session.executed_precision() == "float32"
    with edgekit.load(tiny_bundle) as opened:
        (variant,) = open_bundle(tiny_bundle).manifest.variants
        assert opened.executed_precision() == opened.info.executed == variant.executed
        assert "int8" in variant.executed


# ---- backends


@pytest.fixture
def both(float32_ort, tmp_path):
    """One graph, listed for two backends: what a target whose finalists could not be raced would give."""
    bundle = small.copy(float32_ort, tmp_path / "both")
    variant = json.loads((bundle / "manifest.json").read_text())["variants"][0]
    opened = open_bundle(bundle)
    stored = golden.read(opened)
    (bundle / golden.FILE).write_bytes(
        golden.pack(opened.manifest.signatures[0], stored.rows, stored.outputs * 2, stored.reference)
    )
    small.sign(bundle, variants=[variant, {**variant, "backend": "openvino", "versions": {"openvino": "1.2.3"}}])
    return bundle


def test_the_first_variant_is_the_default_and_others_are_asked_for(both, expected):
    for asked, runs in ((None, "onnxruntime"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
        with edgekit.load(both, backend=asked) as opened:
            assert opened.info.backend == runs
            assert opened.info.chosen.startswith(
                "the backend was requested" if asked else "it won the race where the bundle was built"
            )
            assert ("golden inputs compared" in opened.info.chosen) is (runs == "openvino"), (
                "of another version than that of the build"
            )
            np.testing.assert_allclose(small.logits(opened, TEXTS[:4]), expected[:4], atol=1e-4 * np.ptp(expected))
    assert (opened.info.built_with, opened.info.backend_version) == ("1.2.3", importlib.metadata.version("openvino"))


def test_a_backend_that_is_not_in_the_bundle(both, float32_ort):
    with refused("backend-not-in-bundle", "openvin", "openvino"):
        edgekit.load(both, backend="openvin")
    with refused("backend-not-in-bundle", "openvino"):
        edgekit.load(float32_ort, backend="openvino")


def test_a_backend_that_is_not_installed(float32_bundle):
    """Nothing else is tried in its place, though the other backend is there."""
    name = "onnxruntime" if "onnxruntime" in str(float32_bundle) else "openvino"
    code = """
import sys
sys.modules[sys.argv[2]] = None
import edgekit
try:
    edgekit.load(sys.argv[1])
except edgekit.BackendError as problem:
    print(problem)
"""
    done = small.run(sys.executable, "-c", code, float32_bundle, name)
    assert f"The backend '{name}' is not installed" in done.stdout.decode()
    assert f"pip install 'edgekit-sdk[{name}]'" in done.stdout.decode()
    assert done.returncode == 0


def test_a_graph_that_the_backend_refuses(float32_bundle, tmp_path):
    onnx = pytest.importorskip("onnx")
    bundle = small.copy(float32_bundle, tmp_path / "copy")
    graph = bundle / "graphs/model.onnx"
    whole = graph.read_bytes()
    model = onnx.load_from_string(whole)
    model.graph.node[0].op_type = "NoSuchOperator"
    # What is no ONNX file, or none of this signature, does not get as far as the backend.
    cases = [
        (model.SerializeToString(), BackendError, ("graph-refused", "model.onnx")),
        (b"", IntegrityError, "bundle-graph"),
    ]
    cases += [(content, IntegrityError, "bundle-graph") for content in (b"not a graph", whole[: len(whole) // 2])]
    for content, kind, code in cases:
        graph.write_bytes(content)
        small.sign(bundle)
        with refused(code) as caught:
            edgekit.load(bundle)
        assert isinstance(caught.value, kind)


def test_external_data_outside_of_the_bundle(float32_bundle, tmp_path):
    """A graph may name files; one that names what lies outside must not bring it in."""
    onnx = pytest.importorskip("onnx")
    bundle = small.copy(float32_bundle, tmp_path / "copy")
    model = onnx.load(bundle / "graphs/model.onnx")
    tensor = next(
        t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.raw_data) > 10_000
    )
    data = tensor.raw_data
    weights = bundle / "graphs" / "weights"
    weights.mkdir(exist_ok=True)
    own = weights / hashlib.sha256(data).hexdigest()
    places = {
        tmp_path / "secret": False,
        bundle / "secret": False,
        bundle / "graphs" / "inside": False,
        weights / "inside": False,
        own: True,
    }
    entry = tensor.external_data.add()
    entry.key = "location"
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for place, loads in places.items():
        place.write_bytes(data)
        for spelling in (
            {os.path.relpath(place, bundle / "graphs"), str(place)} if not loads else {f"weights/{place.name}"}
        ):
            entry.value = spelling
            (bundle / "graphs/model.onnx").write_bytes(model.SerializeToString())
            small.sign(bundle)
            if loads:
                edgekit.load(bundle).close()
                continue
            with refused("bundle-graph"):
                edgekit.load(bundle)


def test_int8_that_needs_vnni_is_refused_without_it(tiny_bundle, tmp_path, monkeypatch):
    bundle = small.copy(tiny_bundle, tmp_path / "copy")
    (variant,) = json.loads((bundle / "manifest.json").read_text())["variants"]
    small.sign(bundle, variants=[{**variant, "requires": {"instructions": "vnni"}}])
    monkeypatch.setattr(choice, "cpu_instructions", lambda: ("avx2",))
    with refused("cpu-saturates", "VNNI", "weight_bits", "7"):
        edgekit.load(bundle)
    monkeypatch.setattr(choice, "cpu_instructions", lambda: ("avx2", "avx_vnni"))
    edgekit.load(bundle).close()
    monkeypatch.setattr(choice, "cpu_instructions", lambda: ("asimd",))  # ARM's products do not saturate
    edgekit.load(bundle).close()
