"""What the doctor finds is what is there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys

import pytest
import small

from edgekit import UsageError, backends
from edgekit.doctor import examine
from edgekit.spec import target


@pytest.fixture(scope="module")
def found():
    return examine()


def test_the_machine(found):
    assert found.system == f"{platform.system()} {platform.release()} {platform.machine()}"
    assert found.python == platform.python_version()
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.memory_mb * 2**20 == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01)


def test_backends_and_packages(found):
    assert found.backends == {name: importlib.metadata.version(name) for name in backends.names()}
    assert found.devices == dict.fromkeys(backends.names(), "CPU opens")
    assert found.build["torch"] == importlib.metadata.version("torch")
    assert "missing" not in found.build.values()
    assert found.targets == dict.fromkeys(target.names(), "")


def test_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "none"))
    assert (examine().cache, examine().cache_mb) == (str(tmp_path / "none"), 0.0)
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    (tmp_path / "entry").write_bytes(b"x" * 3 * 2**20)
    assert examine().cache_mb == 3.0
    monkeypatch.setenv("EDGEKIT_CACHE_MB", "lots")
    with pytest.raises(UsageError):
        examine()


def test_the_text_holds_what_was_found(found):
    text = found.text()
    for part in (found.system, found.cpu, found.cache, *found.instructions, *found.targets, *found.backends, *found.backends.values(), found.build["torch"]):
        assert part in text
    assert text.count("CPU opens") == len(found.backends)
    assert text.count("can be built here") == len(found.targets)
    assert json.loads(json.dumps(found.record()))["cpus"] == found.cpus


def test_what_is_missing_is_said_with_the_remedy():
    """A Python that has numpy, tokenizers and ONNX Runtime, but neither torch, onnx nor OpenVINO."""
    code = """
import importlib.metadata as metadata, sys
real = metadata.version
def version(name):
    if name in ("torch", "onnx", "openvino"):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
from edgekit.doctor import examine
print(examine().text())
"""
    text = small.run(sys.executable, "-c", code).stdout.decode()
    assert "backend       openvino not installed (pip install 'edgekit[openvino]'): cannot be used" in text
    assert "torch missing" in text
    assert "target        openvino: needs pip install 'edgekit[openvino]' and pip install 'edgekit[build]'\n" in text
    assert "target        onnxruntime: needs pip install 'edgekit[build]'\n" in text
    assert "can be built here" not in text


def test_a_package_that_does_not_load():
    code = "import sys; sys.modules['openvino'] = None; from edgekit.doctor import examine; print(examine().devices['openvino'])"
    assert small.python(code).stdout.decode().startswith("does not load: ")


def test_nothing_of_the_build_side_is_imported():
    code = "import sys; from edgekit.doctor import examine; examine(); print(sorted({m.split('.')[0] for m in sys.modules} & set(sys.argv)))"
    assert small.python(code, "torch", "transformers", "onnx").stdout.decode().strip() == "[]"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'NVIDIA Thing, 580.1, 8192 MiB'", "NVIDIA Thing, 580.1, 8192 MiB"),
        ("echo 'one'; echo 'two'", "one; two"),
        ("echo 'no driver' >&2; exit 9", "nvidia-smi fails: no driver"),
    ],
)
def test_the_gpu(tmp_path, monkeypatch, script, said):
    if os.path.exists("/etc/nv_tegra_release"):
        pytest.skip("on a Jetson its release file is what counts")
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert examine().gpu == said
    command.write_text("not a program")
    assert "nvidia-smi does not answer" in examine().gpu
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert examine().gpu.startswith("none found")
