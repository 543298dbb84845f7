"""What a device does with a bundle, with no more than a device has: committed bundles answer as torch did."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading

import numpy as np
import pytest
import small

import edgekit
from edgekit import backends

pytestmark = pytest.mark.device
ANSWERS = json.loads((small.ROOT / "tests" / "data" / "answers.json").read_text("utf-8"))
TEXTS = ANSWERS["texts"]
LOGITS = np.array(ANSWERS["logits"])
FLOAT = 2e-4
INT8 = 0.25  # of the logits' range, for the row that differs most


@pytest.fixture(scope="module")
def load_once():
    """Load each bundle once, whatever the order of the tests."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda bundle: stack.enter_context(edgekit.load(bundle, threads=1)))


@pytest.fixture(params=["onnxruntime", "openvino", "int8", "litert"])
def session(request, committed, load_once):
    backend = request.param if request.param in ("openvino", "litert") else "onnxruntime"
    if backends.installed_version(backend) is None:
        pytest.skip(f"{backend} is not installed here")
    return load_once(committed / request.param)


def tolerance(session):
    return INT8 * np.ptp(LOGITS) if "int8" in session.info.executed else FLOAT


def test_answers_are_those_of_torch(session):
    np.testing.assert_allclose(small.logits(session, TEXTS), LOGITS, atol=tolerance(session))
    expected = [small.LABELS[index] for index in LOGITS.argmax(axis=1)]
    labels = [answer.label for answer in session(TEXTS)]
    margins = np.sort(LOGITS, axis=1)[:, -1] - np.sort(LOGITS, axis=1)[:, -2]
    different = [i for i, (label, other) in enumerate(zip(labels, expected, strict=True)) if label != other]
    assert all(margins[i] < 2 * tolerance(session) for i in different)


def test_a_text_alone_is_answered_as_in_a_list(session):
    alone = [session(text) for text in TEXTS[:8]]
    for one, other in zip(alone, session(TEXTS[:8]), strict=True):
        assert one.label == other.label
        np.testing.assert_allclose(list(one.scores.values()), list(other.scores.values()), atol=1e-4)


def test_threads_share_a_session(session):
    expected = small.logits(session, TEXTS[:16])
    outputs = [None] * 4

    def work(index):
        outputs[index] = small.logits(session, TEXTS[:16])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for output in outputs:
        np.testing.assert_allclose(output, expected, atol=1e-4)


def test_golden_outputs_are_met_here(committed):
    for name in ("onnxruntime", "int8"):
        assert "golden: 17 inputs" in edgekit.verify(committed / name).text()


def test_nothing_of_the_build_side_is_imported(committed):
    code = "import sys, edgekit\nwith edgekit.load(sys.argv[1]) as s: s('a fine film')\n"
    code += "print([n for n in ('torch', 'transformers', 'onnx', 'scipy', 'click', 'rich') if n in sys.modules])"
    done = small.run(sys.executable, "-c", code, committed / "onnxruntime")
    assert (done.returncode, done.stdout.strip()) == (0, b"[]"), done.stderr.decode()
