"""What all tests share: the package on every child's path, a build cache of the session, and the small model of ``small.py``.

``float32_ort``, ``float32_openvino``, ``tiny_bundle``, ``jetson`` and ``tiny_samples`` are committed below ``data``, which
``data/make.py`` writes: a test of them builds nothing and does not import torch. A test that makes something with the
fixtures of ``BUILDING`` is ``slow``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that test files in any folder can import small
import small

import edgekit
from edgekit import backends
from edgekit.machine import busy

DATA = Path(__file__).parent / "data"
BUILDING = {"tiny_build", "rtx"}
"""Fixtures that build a bundle: some 10 to 20 seconds each, once in a process."""


def pytest_ignore_collect(collection_path):
    """Where only a device's packages are, other test files cannot even be imported."""
    if "EDGEKIT_TEST_DEVICE" in os.environ and collection_path.suffix == ".py":
        return "pytest.mark.device" not in collection_path.read_text("utf-8") or None
    return None


def pytest_collection_modifyitems(items):
    """Mark the tests that build with a fixture."""
    for item in items:
        if BUILDING.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory):
    """Children import the same package and can be interrupted; builds keep their steps in a folder that goes with the session."""
    if (
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ):  # as in a job in the background, from which children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    package = str(Path(__import__("edgekit").__file__).resolve().parents[1])
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (package, before.get("PYTHONPATH"))))
    os.environ["EDGEKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("EDGEKIT_CACHE_MB", None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    limits, busy.OTHERS, busy.STOLEN = (
        (busy.OTHERS, busy.STOLEN),
        float("inf"),
        float("inf"),
    )  # what a build reuses is not to depend on this machine's load
    yield
    busy.OTHERS, busy.STOLEN = limits
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a random-weight BERT classifier; see ``small.py``."""
    return small.save(tmp_path_factory.mktemp("model") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_module():
    """The same model in torch: the truth that bundles are compared with."""
    return small.module()


@pytest.fixture(scope="session")
def tiny_samples():
    """``train`` and ``dev`` JSONL files. Every text of ``train`` and some of ``dev`` hold the canary."""
    dev = DATA / "samples" / "dev.jsonl"
    rows = [json.loads(line) for line in dev.read_text("utf-8").splitlines()]
    return SimpleNamespace(train=DATA / "samples" / "train.jsonl", dev=dev, rows=rows, accuracy=1 - 6 / len(rows))


@pytest.fixture(scope="session")
def tiny_build(tmp_path_factory, tiny_model, tiny_samples):
    """A build with an empty cache of its own: its result, folder, cache folder and all that it wrote to the terminal."""
    folder = tmp_path_factory.mktemp("bundle")
    steps = []
    with pytest.MonkeyPatch.context() as patch, small.all_output(folder / "output.txt"):
        patch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
        result = edgekit.build(
            tiny_model,
            samples=tiny_samples.train,
            eval=tiny_samples.dev,
            out=folder / "tiny",
            target="cpu",
            progress=lambda *step: steps.append(step),
        )
    output = (folder / "output.txt").read_bytes()
    return SimpleNamespace(result=result, path=folder / "tiny", cache=folder / "cache", output=output, steps=steps)


@pytest.fixture(scope="session")
def committed(tmp_path_factory):
    """A copy of the committed bundles, which a test that goes wrong cannot harm."""
    folder = Path(shutil.copytree(DATA / "bundles", tmp_path_factory.mktemp("bundles") / "committed"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # a checkout may be writable by the group, which trust refuses
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(committed):
    """A bundle for the target ``cpu``. Do not change it: copy it with ``small.copy``."""
    return committed / "int8"


@pytest.fixture(scope="session")
def float32_ort(committed):
    """A float32 bundle on ONNX Runtime: its answers are torch's."""
    return committed / "onnxruntime"


@pytest.fixture(scope="session")
def float32_openvino(committed):
    """A float32 bundle on OpenVINO."""
    return committed / "openvino"


@pytest.fixture(scope="session")
def litert_bundle(committed):
    """A bundle for the target ``android``. Do not change it: copy it."""
    if backends.installed_version("litert") is None:
        pytest.skip("LiteRT is not installed here: pip install 'edgekit-sdk[litert]'")
    return committed / "litert"


@pytest.fixture(scope="session", params=["onnxruntime", "openvino"])
def float32_bundle(request):
    """A float32 bundle, on each backend in turn."""
    return request.getfixturevalue("float32_ort" if request.param == "onnxruntime" else "float32_openvino")


@pytest.fixture(scope="session")
def jetson(committed):
    """A bundle for the target ``jetson``. Do not change it: copy it."""
    return committed / "jetson"


@pytest.fixture(scope="session")
def rtx(tmp_path_factory, tiny_model, tiny_samples):
    """A bundle for the target ``rtx``. Do not change it: copy it."""
    if backends.installed_version("tensorrt_rtx") is None:
        pytest.skip("TensorRT-RTX is not installed here: pip install 'edgekit-sdk[tensorrt-rtx]'")
    out = tmp_path_factory.mktemp("rtx") / "out"
    edgekit.build(tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=out, target="rtx")
    return out


@pytest.fixture
def board(monkeypatch):
    """This machine poses as a Jetson, and everything that was allocated on it is freed."""
    from board import Board

    made = Board(monkeypatch)
    yield made
    assert not made.leaks()
