"""The contract of all methods on all backends: an answer depends on its input alone.

The candidates are those that a build makes, run as it would run them; whatever else is in a list, its order, its padding, the size of a batch, the
number of streams and of threads leave labels as they are and logits within the tolerance of the precision.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import small

from edgekit import backends, quantize, samples, source
from edgekit.bundle.trust import open_bundle
from edgekit.cache.store import Cache
from edgekit.runtime.session import Session
from edgekit.samples.evaluation import Evaluation
from edgekit.search import agree, checks
from edgekit.search.context import BuildContext, EvaluationSet
from edgekit.search.models import make_candidates, prepare_model
from edgekit.search.record import Record
from edgekit.search.stand_in import reference_outputs
from edgekit.search.step_cache import StepCache
from edgekit.spec import target as targets
from edgekit.spec.progress import silent

BACKENDS = [name for name in backends.names() if checks.runs_here(name)]
RUNS = [
    (method, backend) for method in quantize.names() for backend in quantize.get(method).BACKENDS if backend in BACKENDS
]
OUTLIER = "brilliant"
TEXTS = [
    *small.texts(24, seed=9),
    f"the film is {OUTLIER}.",
    *small.texts(12, seed=11),
    f"no {OUTLIER} {OUTLIER} story",
    "film " * 90,
    "",
    *small.texts(10, seed=12),
    f"{OUTLIER} " * 20,
]
pytestmark = pytest.mark.slow
SHARED = small.ROOT.parent / "shared"


def field(folder, model, calibration, evaluation):
    """All candidates of a model, none of them measured; and the torch model's answers to the evaluation rows."""
    methods = tuple(dict.fromkeys(method for method, _ in RUNS))
    extra = "threads = 2\nshapes = []\n[budget]\naccuracy_drop = 2.0"
    file = small.target(folder / "all.toml", methods=methods, backends=tuple(BACKENDS), extra=extra)
    aim = checks.resolve_target(targets.load(file), (), None)
    rows, origin = samples.read(evaluation), source.read(model)
    cache = StepCache(folder, silent, Cache())
    task, reference = origin.save_assets(folder / "assets"), reference_outputs(cache, origin, rows)
    scored = EvaluationSet(
        rows, Evaluation(task, rows.inputs, np.array([row["logits"].argmax() for row in reference])), reference
    )
    ctx = BuildContext(aim, scored, samples.read(calibration).take(64, 0), origin.digest, cache, Record(""))
    return (ctx, prepare_model(ctx, "", origin)), scored


@pytest.fixture(scope="module")
def outliers(tmp_path_factory):
    """A model with a word whose activations are huge."""
    folder = tmp_path_factory.mktemp("outliers")
    model = small.save(folder / "model", outlier=OUTLIER)
    calibration = small.write_jsonl(
        folder / "train.jsonl", [{"text": text} for text in [*small.texts(40, seed=1), f"a {OUTLIER} voice"]]
    )
    evaluation = small.write_jsonl(
        folder / "dev.jsonl", [{"text": text, "label": small.LABELS[i % 3]} for i, text in enumerate(TEXTS)]
    )
    return field(folder, model, calibration, evaluation)


def opened(candidate, **changes):
    return Session(open_bundle(candidate.bundle.path), replace(candidate.variant, **changes))


def of(made, method, backend):
    return next(c for c in make_candidates(*made, method) if c.variant.backend == backend)


def compare(scored, alone, listed, order, method):
    """The agreement of arrays ``[rows, labels]``."""
    alone, listed = ([{"logits": row} for row in array] for array in (alone, listed))
    return agree.compare(scored.task, alone, listed, order.tolist(), scored.reference, method)


@pytest.mark.parametrize(("method", "backend"), RUNS, ids=lambda part: part)
def test_whatever_else_is_in_a_list(outliers, method, backend):
    made, scored = outliers
    candidate = of(made, method, backend)
    orders = [np.arange(len(TEXTS)), np.arange(len(TEXTS))[::-1], np.random.default_rng(0).permutation(len(TEXTS))]
    with opened(candidate) as session:
        alone = small.logits(session, TEXTS)
    ways = (
        ({}, orders),
        ({"threads": 1, "batch": 3}, orders[1:]),
        ({"streams": 2, "batch": 5}, orders[2:]),
        ({"max_tokens": 90}, orders[1:2]),
        ({"threads": 1, "batch": 2, "max_tokens": 0}, orders[2:]),
    )
    for changes, whole in ways:
        with opened(candidate, **changes) as session:
            for order in (*whole, orders[2][:7], orders[2][7:9]):
                listed = small.logits(session, [TEXTS[i] for i in order], batched=True)
                found = compare(scored, alone, listed, order, method)
                assert found.is_within_limit, (changes, len(order), found)
            again = small.logits(session, TEXTS)
            found = compare(scored, alone, again, orders[0], method)
            assert found.is_within_limit, (changes, "alone", found)


def test_the_texts_provoke_the_fault(outliers):
    """Rows that share one scale of activations: far from the contract, by many labels."""
    made, scored = outliers
    with opened(of(made, "dynamic", "onnxruntime"), rows="together") as session:
        alone, listed = small.logits(session, TEXTS), small.logits(session, TEXTS, batched=True)
    found = compare(scored, alone, listed, np.arange(len(TEXTS)), "dynamic")
    assert not found.is_within_limit
    assert found.labels >= 3
    assert found.difference > 0.05


def test_which_rows_may_share_a_call(outliers):
    """By the graph: not where an operator takes one scale of a tensor of activations when it runs.

    Graphs of LiteRT are made for one row a call where the target wants the shortest time.
    """
    made, _ = outliers
    alone = {(method, backend) for method, backend in RUNS if of(made, method, backend).variant.rows == "alone"}
    assert alone == {(method, backend) for method, backend in RUNS if method == "dynamic" or backend == "litert"}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """A trained model and a labelled set, where they are at hand."""
    model, data = SHARED / "models" / "minilm-sst2", SHARED / "data" / "sst2"
    if not (model / "model.safetensors").is_file() or not (data / "test.jsonl").is_file():
        pytest.skip(f"{model} and {data} are not here: real weights are not part of the project")
    folder = tmp_path_factory.mktemp("minilm")
    few, train = folder / "dev.jsonl", folder / "train.jsonl"
    for file, count in ((few, 8), (train, 16)):
        lines = (data / file.name).read_text("utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:count]), "utf-8")
    texts = [json.loads(line)["text"] for line in (data / "test.jsonl").read_text("utf-8").splitlines()]
    by_length = sorted(texts, key=lambda text: len(text.split()))
    # Rows of three lengths, in the order of the set: a list of all rows has hardly any padding either.
    chosen = {*by_length[150:220], *by_length[900:970], *by_length[1500:1570]}
    return field(folder, model, train, few)[0], [text for text in texts if text in chosen]


@pytest.mark.parametrize(
    ("method", "backend"), [run for run in RUNS if run[0] in ("dynamic", "static")], ids=lambda part: part
)
def test_a_trained_model_answers_a_test_set_as_a_list_as_it_answers_its_rows(minilm, method, backend):
    made, texts = minilm
    with opened(of(made, method, backend), threads=1) as session:
        alone, listed = small.logits(session, texts), small.logits(session, texts, batched=True)
    assert len(texts) == 210
    assert (alone.argmax(axis=1) != listed.argmax(axis=1)).sum() == 0
    assert np.abs(alone - listed).max() <= agree.allowed(method) * np.ptp(alone)
