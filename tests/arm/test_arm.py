"""The runtime on 64-bit ARM, emulated: it runs, it answers as x86 does, and it knows where it is. ``make test-arm``."""

from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import emulator
import numpy as np
import pytest
import small

import edgekit

pytestmark = pytest.mark.skipif(
    "EDGEKIT_TEST_ARM" not in os.environ, reason="emulated ARM takes about 5 minutes: make test-arm"
)
CPUS = {
    "cortex-a53": ("asimd",),
    "cortex-a76": ("asimd", "asimddp"),
    "max,sme=off": ("asimd", "asimddp", "i8mm", "bf16", "sve"),
    "max": ("asimd", "asimddp", "i8mm", "bf16", "sve"),
}
ROWS = 50
METHODS = ("static", "dynamic", "dynamic_rows")
_BOARD = 'choose_on = "device"\ninstructions = ["asimd", "asimddp"]\n[budget]\naccuracy_drop = 0.2'
# In one process, since starting Python takes seconds here. What each bundle answers to each text of a file, and what the machine is.
_ANSWER = """
import json, sys
import edgekit
from edgekit.machine.cpu import cpu_instructions, cpu_name
texts = json.load(open(sys.argv[1]))
logits = {}
for bundle in sys.argv[2:]:
    with edgekit.load(bundle, threads=1) as session:
        answers = session(texts)
        logits[bundle] = [[answer.label, list(answer.scores.values())] for answer in answers]
print(json.dumps({"name": cpu_name(), "instructions": cpu_instructions(), "answers": logits}))
"""


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    try:
        emulated = emulator.set_up()
    except emulator.Unavailable as problem:
        pytest.skip(f"the emulator cannot be set up here: {problem}")
    cache = tmp_path_factory.mktemp("arm-cache")
    return SimpleNamespace(run=lambda cpu, *arguments, **options: emulated.run(cpu, *arguments, cache=cache, **options))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, tiny_model, tiny_samples):
    """A bundle for ARM boards by each method."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {}
    for method in METHODS:
        backend = "litert" if method == "dynamic_rows" else "onnxruntime"
        target = small.target(folder / f"{method}.toml", (method,), (backend,), extra=_BOARD)
        edgekit.build(tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=folder / method, target=target)
        made[method] = folder / method
    return made


@pytest.fixture(scope="module")
def here(bundles, tmp_path_factory):
    """What x86 answers to the same rows: text file, and by method labels and scores."""
    texts = small.texts(ROWS, seed=77)
    file = tmp_path_factory.mktemp("texts") / "texts.json"
    file.write_text(json.dumps(texts))
    answers = {}
    for method, bundle in bundles.items():
        with edgekit.load(bundle, threads=1) as session:
            rows = session(texts)
            answers[method] = [r.label for r in rows], np.array([list(r.scores.values()) for r in rows])
    return SimpleNamespace(file=file, answers=answers)


@pytest.fixture(scope="module", params=list(CPUS))
def there(request, arm, bundles, here):
    """One CPU model's answers."""
    done = arm.run(request.param, "-c", _ANSWER, here.file, *bundles.values())
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return SimpleNamespace(model=request.param, **json.loads(done.stdout))


@pytest.mark.parametrize("method", METHODS)
def test_labels_are_those_of_x86(there, bundles, here, method):
    """Rounding of the float part differs; a label may differ only where the two best scores are nearly equal."""
    answers = there.answers[str(bundles[method])]
    labels, scores = [label for label, _ in answers], np.array([row for _, row in answers])
    expected, reference = here.answers[method]
    best = np.sort(reference, axis=1)
    margin = best[:, -1] - best[:, -2]
    # With SME ONNX Runtime takes a kernel that quantizes a row at a time: nearer to float32, and not what x86 computes.
    by_row = method == "dynamic" and there.model == "max"
    tolerance = 0.35 if by_row else 0.05
    different = [i for i in range(ROWS) if labels[i] != expected[i]]
    assert [i for i in different if margin[i] > tolerance] == []
    assert np.median(np.abs(scores - reference)) < (0.05 if by_row else 0.005)


def test_the_cpu_is_known(there):
    assert tuple(i for i in there.instructions if i in CPUS["max"]) == CPUS[there.model]
    if there.model.startswith("cortex"):
        assert there.name.endswith(there.model.title())


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("method", METHODS)
def test_verify_passes(arm, bundles, cpu, method):
    done = arm.run(cpu, "-m", "edgekit", "verify", bundles[method])
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_the_tests_of_a_device(arm, tmp_path):
    """Tests with the marker ``device`` pass there too. Tests of child processes start further emulators, which is slow."""
    options = (
        "-q",
        "-m",
        "device",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--strict-markers",
        f"--basetemp={tmp_path}/t",
    )
    done = arm.run(
        "cortex-a76",
        "-m",
        "pytest",
        *options,
        small.ROOT / "tests",
        timeout=900,
        environment={"EDGEKIT_TEST_DEVICE": "1"},
    )
    text = done.stdout.decode()
    assert done.returncode == 0, text[-3000:] + done.stderr.decode()[-2000:]
    assert int(re.search(r"(\d+) passed", text)[1]) > 100


def test_run_prints_an_answer(arm, bundles, here):
    text = json.loads(here.file.read_text())[0]
    done = arm.run("cortex-a76", "-m", "edgekit", "run", bundles["static"], text)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["label"] == here.answers["static"][0][0]


def test_the_doctor_of_a_board(arm):
    done = arm.run("cortex-a76", "-m", "edgekit", "doctor")
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert re.search(r"^cpu +Cortex-A76, ", text, re.MULTILINE)
    assert re.search(r"^instructions +asimd, asimdhp, asimddp$", text, re.MULTILINE)
    assert "onnxruntime 1." in text
    assert "litert 2." in text
    assert "target " not in text


@pytest.mark.parametrize(("version", "right"), [("2026.2.0", True), ("2026.4.1", False)])
def test_an_openvino_that_multiplies_wrongly_is_refused(arm, version, right):
    """2026.4.1 multiplies every output channel by the scale of the first; nothing else would say so."""
    code = "from edgekit import backends; backends.get('openvino').open_device('cpu', 1).close(); print('opens')"
    done = arm.run("cortex-a76", "-c", code, openvino=version)
    assert (done.returncode == 0 and b"opens" in done.stdout) is right, done.stderr.decode()[-2000:]
    assert (b"WrongResultsError" in done.stderr) is not right
