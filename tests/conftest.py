"""What all tests share: the package on every child's path, a build cache of the session, and the small model of ``small.py``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that test files in any folder can import small
import small
from board import Board

import edgekit
from edgekit import backends
from edgekit.machine import busy


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
def tiny_samples(tmp_path_factory, tiny_module):
    """``train`` and ``dev`` JSONL files. Every text of ``train`` and some of ``dev`` hold the canary."""
    folder = tmp_path_factory.mktemp("samples")
    train = [{"text": f"{text} {small.CANARY}{i}"} for i, text in enumerate(small.texts(40, seed=1))]
    texts = [f"{text} {small.CANARY}" if i % 3 == 0 else text for i, text in enumerate(small.texts(300, seed=2))]
    dev = small.labelled(tiny_module, texts, count=120, wrong=6)
    return SimpleNamespace(
        train=small.write_jsonl(folder / "train.jsonl", train),
        dev=small.write_jsonl(folder / "dev.jsonl", dev),
        rows=dev,
        accuracy=1 - 6 / len(dev),
    )


@pytest.fixture(scope="session")
def tiny_build(tmp_path_factory, tiny_model, tiny_samples):
    """The first build of the session, with an empty cache: its result, folder, cache folder and all that it wrote to the terminal."""
    import edgekit

    folder = tmp_path_factory.mktemp("bundle")
    steps = []
    with small.all_output(folder / "output.txt"):
        result = edgekit.build(
            tiny_model,
            samples=tiny_samples.train,
            eval=tiny_samples.dev,
            out=folder / "tiny",
            target="cpu",
            progress=lambda *step: steps.append(step),
        )
    output = (folder / "output.txt").read_bytes()
    return SimpleNamespace(
        result=result, path=folder / "tiny", cache=Path(os.environ["EDGEKIT_CACHE"]), output=output, steps=steps
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_build):
    """A bundle for the target ``cpu``. Do not change it: copy it with ``small.copy``."""
    return tiny_build.path


def _float32(tmp_path_factory, tiny_model, tiny_samples, backend):
    import edgekit

    folder = tmp_path_factory.mktemp(f"float32-{backend}")
    target = small.target(folder / "exact.toml", backends=(backend,))
    edgekit.build(tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=folder / "exact", target=target)
    return folder / "exact"


@pytest.fixture(scope="session")
def float32_ort(tmp_path_factory, tiny_build, tiny_model, tiny_samples):
    """A float32 bundle on ONNX Runtime: its answers are torch's."""
    return _float32(tmp_path_factory, tiny_model, tiny_samples, "onnxruntime")


@pytest.fixture(scope="session")
def float32_openvino(tmp_path_factory, tiny_build, tiny_model, tiny_samples):
    """A float32 bundle on OpenVINO."""
    return _float32(tmp_path_factory, tiny_model, tiny_samples, "openvino")


@pytest.fixture(scope="session", params=["onnxruntime", "openvino"])
def float32_bundle(request):
    """A float32 bundle, on each backend in turn."""
    return request.getfixturevalue("float32_ort" if request.param == "onnxruntime" else "float32_openvino")


@pytest.fixture(scope="session")
def jetson(tmp_path_factory, tiny_model, tiny_samples):
    """A bundle for the target ``jetson``. Do not change it: copy it."""
    out = tmp_path_factory.mktemp("jetson") / "out"
    edgekit.build(tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=out, target="jetson")
    return out


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
    made = Board(monkeypatch)
    yield made
    assert not made.leaks()
