"""What the doctor finds is what is there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys

import fake_jetson
import pytest
import small
from fake_cuda import FakeDriver
from refusals import refused

from edgekit import backends, doctor
from edgekit.doctor import examine
from edgekit.drivers import cuda, cuda_api
from edgekit.spec import target
from edgekit.spec.errors import BackendError

CPU = [name for name in backends.names() if not backends.get(name).ENGINES]
GPU = [name for name in backends.names() if backends.get(name).ENGINES]


@pytest.fixture(scope="module")
def found():
    return examine()


@pytest.fixture
def driver(monkeypatch):
    """Gives this machine a driver."""

    def give(made):
        monkeypatch.setattr(cuda_api, "load_library", lambda: made)
        return made

    return give


@pytest.fixture
def versions(monkeypatch):
    """Gives backends of NVIDIA's a version; without one they are not installed."""
    installed = backends.installed_version

    def give(**known):
        monkeypatch.setattr(
            backends, "installed_version", lambda name: installed(name) if name in CPU else known.get(name)
        )

    give()
    return give


@pytest.fixture
def no_driver(monkeypatch):
    def none():
        raise BackendError("There is no NVIDIA driver here. Install it.")

    monkeypatch.setattr(cuda_api, "load_library", none)


def line(found, name):
    """One line of the text, without its name; several are joined."""
    return "\n".join(row[14:] for row in found.text().splitlines() if row[:14].rstrip() == name)


def test_the_machine(found):
    assert found.system == f"{platform.system()} {platform.release()} {platform.machine()}"
    assert found.python == platform.python_version()
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.memory_mb * 2**20 == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01)


def test_backends_and_packages(found):
    assert set(found.backends) == set(backends.names())
    assert {n: found.backends[n] for n in CPU} == {
        n: importlib.metadata.version(backends.get(n).PACKAGES[0]) for n in CPU
    }
    assert {n: found.devices[n] for n in CPU} == dict.fromkeys(CPU, "CPU opens")
    assert set(found.devices) == {n for n in backends.names() if backends.installed_version(n)}
    assert found.build["torch"] == importlib.metadata.version("torch")
    assert "missing" not in found.build.values()
    assert found.targets == dict.fromkeys(target.names(), "")


def test_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "none"))
    found = examine()
    assert (found.cache, found.cache_mb) == (str(tmp_path / "none"), 0.0)
    assert (found.engines, found.engines_mb) == (str(tmp_path / "none" / "engines"), 0.0)
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    fake_jetson.write(tmp_path, {"entry/graph": b"x" * 3 * 2**20, "engines/key.plan": b"x" * 2 * 2**20})
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    found = examine()
    assert (round(found.cache_mb, 3), found.engines_mb) == (3.0, 2.0)
    assert line(found, "cache") == f"{tmp_path}, 3 MB"
    assert line(found, "engines") == f"{tmp_path}/engines, 2 MB"
    monkeypatch.setenv("EDGEKIT_CACHE_MB", "lots")
    with refused("cache-size"):
        examine()


def test_the_text_holds_what_was_found(found):
    text = found.text()
    for part in (
        found.system,
        found.cpu,
        found.cache,
        *found.instructions,
        *found.targets,
        *found.backends,
        *found.backends.values(),
        found.build["torch"],
    ):
        assert part in text
    assert text.count("CPU opens") == len(CPU)
    assert text.count("can be built here") == len(found.targets)
    assert json.loads(json.dumps(found.record()))["cpus"] == found.cpus


def test_targets_whose_engine_is_made_on_the_device(found, no_driver, versions):
    said = dict(row.split(": ", 1) for row in line(found, "target").splitlines())
    assert said["cpu"] == "can be built here"
    for name in ("gpu", "jetson", "jetson-orin-nano", "jetson-thor"):
        assert said[name] == "can be built here; engine made on the device"
    assert "rtx: can be built here; engine made on the device" in line(examine(), "target").splitlines()
    versions(tensorrt_rtx="1.7")
    assert "rtx: can be built here" in line(examine(), "target").splitlines()


def test_what_is_missing_is_said_with_the_remedy():
    """A Python that has numpy, tokenizers and ONNX Runtime, but neither torch, onnx nor OpenVINO, nor anything of NVIDIA's."""
    code = """
import importlib.metadata as metadata, sys
real = metadata.version
def version(name):
    if name in ("torch", "onnx", "openvino", "ai-edge-litert") or name.startswith("tensorrt"):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
from edgekit.doctor import examine
print(examine().text())
"""
    text = small.run(sys.executable, "-c", code).stdout.decode()
    assert "backend       openvino not installed (pip install 'edgekit-sdk[openvino]'): cannot be used" in text
    assert "backend       tensorrt_rtx not installed (pip install 'edgekit-sdk[tensorrt-rtx]'): cannot be used" in text
    assert "torch missing" in text
    assert (
        "target        openvino: needs pip install 'edgekit-sdk[openvino]' and pip install 'edgekit-sdk[build]'\n"
        in text
    )
    assert "target        onnxruntime: needs pip install 'edgekit-sdk[build]'\n" in text
    assert "target        jetson: needs pip install 'edgekit-sdk[build]'\n" in text
    needs = "needs pip install 'edgekit-sdk[litert]' and pip install 'edgekit-sdk[build]'\n"
    assert f"target        android: {needs}" in text and f"target        raspberry-pi-5: {needs}" in text
    assert "can be built here" not in text


def test_a_device_is_not_told_what_builders_need():
    code = """
import importlib.metadata as metadata
real = metadata.version
def version(name):
    if name in ("torch", "transformers", "onnx", "onnxscript"):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
from edgekit.doctor import examine
print(examine().text())
"""
    text = small.run(sys.executable, "-c", code).stdout.decode()
    assert (
        "build         not installed: this machine runs bundles (to build here: pip install 'edgekit-sdk[build]')\n"
        in text
    )
    assert "target " not in text
    assert "missing" not in text


def test_tensorrt_on_64_bit_arm_comes_with_jetpack(monkeypatch, no_driver, versions):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "JetPack brings it" in examine().backends["tensorrt"]


def test_a_package_that_does_not_load():
    code = "import sys; sys.modules['openvino'] = None; from edgekit.doctor import examine; print(examine().devices['openvino'])"
    assert small.python(code).stdout.decode().startswith("does not load: ")


def test_nothing_of_the_build_side_and_nothing_of_tensorrt_is_imported():
    code = "import sys; from edgekit.doctor import examine; examine(); print(sorted({m.split('.')[0] for m in sys.modules} & set(sys.argv)))"
    assert (
        small.python(code, "torch", "transformers", "onnx", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
        .stdout.decode()
        .strip()
        == "[]"
    )


# ---- a GPU


def test_a_gpu(tmp_path, driver, versions):
    made = driver(FakeDriver(driver_version=13000))
    release = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (x)\nGCC version:  gcc version 12.3.0\n"
    root = fake_jetson.write(tmp_path, {"proc/driver/nvidia/version": release})
    found = examine(root)
    assert (
        line(found, "gpu")
        == f"NVIDIA GeForce RTX 4060, compute capability 8.9, 8192 MB, {found.gpu.free_mb:.0f} MB free, driver 580.82.07 (CUDA 13.0)"
    )
    assert 0 < found.gpu.free_mb <= 8192
    assert found.no_gpu == ""
    assert (made.leaks(), made.misuse) == ([], [])
    assert json.loads(json.dumps(found.record()))["gpu"]["compute_capability"] == "8.9"
    assert (found.board, found.tensorrt, line(found, "jetson"), line(found, "tensorrt")) == (None, "", "", "")


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
            "driver 550.54.15 (CUDA 12.6)",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
            "driver 540.4.0 (CUDA 12.6)",
        ),
        ("\xff\n", "driver of CUDA 12.6"),
    ],
)
def test_the_release_of_the_driver(tmp_path, driver, versions, text, release):
    driver(FakeDriver())
    assert line(examine(fake_jetson.write(tmp_path, {"proc/driver/nvidia/version": text})), "gpu").endswith(
        f", {release}"
    )


def test_no_gpu(no_driver, versions):
    versions(tensorrt="10.3.0", tensorrt_rtx="1.7")
    found = examine()
    assert (found.gpu, found.no_gpu) == (None, "There is no NVIDIA driver here. Install it.")
    assert line(found, "gpu") == found.no_gpu
    assert {n: found.devices[n] for n in GPU} == dict.fromkeys(GPU, "needs a GPU that CUDA can use (see gpu)")


@pytest.mark.parametrize(
    "name",
    [
        "cuInit",
        "cuDeviceGetCount",
        "cuDriverGetVersion",
        "cuDeviceGetAttribute",
        "cuDevicePrimaryCtxRetain",
        "cuMemGetInfo_v2",
    ],
)
def test_a_driver_that_fails(driver, versions, name):
    made = driver(FakeDriver())
    made.fail(name, 999, after=name in ("cuInit", "cuDeviceGetCount") and 1)
    found = examine()
    assert found.gpu is None
    assert name in found.no_gpu
    assert "CPU opens" in found.text()


@pytest.fixture
def opening(tmp_path, monkeypatch, driver, versions):
    """A machine with a GPU and TensorRT-RTX, whose opening does what the test writes: it runs in a process of its own."""
    driver(FakeDriver())
    versions(tensorrt_rtx="1.7")

    def opens(does):
        code = f"from edgekit.backends import tensorrt_rtx\ndef opened(device, threads, streams=1):\n    assert (device, threads) == ('gpu', 1)\n    {does}\n"
        (tmp_path / "sitecustomize.py").write_text(f"{code}tensorrt_rtx.open_device = opened\n")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
        return examine().devices["tensorrt_rtx"]

    return opens


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("import contextlib; return contextlib.closing(open('/dev/null')).thing", "GPU opens"),
        (
            "from edgekit.spec.errors import BackendError; raise BackendError('It is too old. Run: x')",
            "does not open: It is too old. Run: x",
        ),
        ("import libnvinfer", "does not open: No module named 'libnvinfer'"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "does not open: the process that opens it ended with -11",
        ),
        (
            "import os; print('bad driver', file=__import__('sys').stderr, flush=True); os._exit(3)",
            "ended with 3: bad driver",
        ),
    ],
)
def test_opening_a_gpu(opening, does, said):
    assert opening(does).endswith(said)


def test_opening_a_gpu_runs_nothing_of_the_current_folder(opening, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/lying.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert opening("import lying") == "does not open: No module named 'lying'"


@pytest.mark.slow
def test_opening_a_gpu_that_never_answers(opening, monkeypatch):
    monkeypatch.setattr(doctor, "_PATIENCE_S", 1.0)
    assert opening("import time; time.sleep(60)") == "does not open: no answer within 1 s"


@pytest.mark.skipif(cuda.probe() is not None, reason=f"no GPU here: {cuda.probe()}")
def test_the_real_gpu(found):
    """As nvidia-smi has it."""
    if (command := shutil.which("nvidia-smi")) is None:
        pytest.skip("nvidia-smi is not there to compare with")
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    name, capability, memory, release = (
        small.run(command, query, "--format=csv,noheader,nounits").stdout.decode().splitlines()[0].split(", ")
    )
    assert (found.gpu.name, found.gpu.compute_capability, found.gpu.driver) == (name, capability, release)
    assert found.gpu.memory_mb == pytest.approx(float(memory), rel=0.05)


# ---- what slows this process down


def test_governor_and_limits(tmp_path, no_driver, versions):
    cpu = min(os.sched_getaffinity(0))
    files = {
        f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor": "powersave\n",
        "sys/devices/system/cpu/cpufreq/boost": "0\n",
        "proc/meminfo": fake_jetson.memory(16000, 9000),
        "proc/self/mountinfo": "31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/memory.max": f"{512 * 2**20}\n",
    }
    found = examine(fake_jetson.write(tmp_path, files))
    assert line(found, "governor") == "powersave, boost off"
    assert line(found, "limits") == "1.5 CPUs and 512 MB memory for this control group (container)"
    record = json.loads(json.dumps(found.record()))
    assert (record["governor"], record["cpu_limit"], record["memory_limit_mb"]) == ("powersave, boost off", 1.5, 512)
    fake_jetson.write(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert line(examine(tmp_path), "limits") == "512 MB memory for this control group (container)"


def test_no_governor_and_no_limits(tmp_path, no_driver, versions):
    found = examine(tmp_path)
    assert (found.governor, found.cpu_limit, found.memory_limit_mb) == ("", 0.0, 0)
    assert not any(row.startswith(("governor", "limits")) for row in found.text().splitlines())
    board = examine(fake_jetson.write(tmp_path / "board", fake_jetson.thor()))
    assert board.governor == "GPU nvhost_podgov, clocks locked"
    assert line(board, "governor") == ""  # the line of the clocks has it


# ---- a Jetson


def test_an_orin_nano(tmp_path, driver, versions):
    driver(FakeDriver.jetson(memory=7620 * 2**20))
    root = fake_jetson.write(tmp_path, {**fake_jetson.orin_nano(), **fake_jetson.tensorrt("10.3.0", "python3.9")})
    found = examine(root)
    assert line(found, "gpu").startswith("Orin, compute capability 8.7, 7620 MB shared with the CPU, ")
    assert (
        line(found, "jetson")
        == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (Orin, tegra234), JetPack 6.2, L4T 36.4.3"
    )
    assert line(found, "power mode") == "MAXN_SUPER (2)"
    assert line(found, "clocks") == (
        "GPU 306 of 1020 MHz, governor nvhost_podgov, not locked (to measure: sudo jetson_clocks); "
        "CPU 1190 of 1728 MHz, governor schedutil, not locked (to measure: sudo jetson_clocks)"
    )
    assert line(found, "memory") == "5210 of 7620 MB free"
    assert "/usr/bin/python3.9 -m venv --system-site-packages DIR" in line(found, "tensorrt")
    assert found.backends["tensorrt"] == "not installed for this Python (see tensorrt)"
    assert json.loads(json.dumps(found.record()))["board"]["gpu"]["maximum_mhz"] == 1020


def test_a_thor_whose_clocks_are_locked(tmp_path, no_driver, versions):
    found = examine(fake_jetson.write(tmp_path, fake_jetson.thor()))
    assert "(Thor, tegra264), JetPack 7.0, L4T 38.2.0" in line(found, "jetson")
    assert line(found, "clocks").startswith(
        "GPU 1575 of 1575 MHz, locked at the maximum; CPU 2601 of 2601 MHz, governor schedutil, not locked"
    )
    assert "sudo apt-get install python3-libnvinfer" in line(found, "tensorrt")


def test_another_machine_with_tensorrt_of_its_system(tmp_path, no_driver, versions):
    found = examine(fake_jetson.write(tmp_path, fake_jetson.tensorrt("10.9.0", "python3.9")))
    assert found.board is None
    assert line(found, "tensorrt").startswith("TensorRT 10.9.0 is installed for the system's Python 3.9")


def test_a_xavier_is_told_that_it_cannot_be_served(tmp_path, no_driver, versions):
    found = examine(
        fake_jetson.write(tmp_path, {**fake_jetson.xavier(), **fake_jetson.tensorrt("8.5.2.2", "python3.8")})
    )
    assert "JetPack 5.1.2, L4T 35.4.1" in line(found, "jetson")
    assert "8.5.2.2 is not supported. The last version for Jetson Xavier is JetPack 5" in line(found, "tensorrt")
    assert "--target onnxruntime" in line(found, "tensorrt")


def test_a_jetson_that_tells_little(tmp_path, no_driver, versions):
    found = examine(fake_jetson.write(tmp_path, {"proc/device-tree/compatible": b"nvidia,tegra999\0"}))
    assert line(found, "jetson") == "unknown board (tegra999), a JetPack that is not known, L4T unknown"
    assert line(found, "power mode") == "unknown (see: sudo nvpmodel -q)"
    assert (line(found, "clocks"), line(found, "memory")) == ("unknown", "0 of 0 MB free")
    found = examine(fake_jetson.write(tmp_path / "release", {"etc/nv_tegra_release": fake_jetson.release("36.4.3")}))
    assert line(found, "jetson") == "unknown board (an unknown chip), JetPack 6.2, L4T 36.4.3"


@pytest.mark.parametrize(
    ("version", "l4t", "said"),
    [
        ("10.3.0", "36.4.3", "10.3.0, and this Python sees it; JetPack 6.2 brings 10.3.0"),
        (
            "10.13.3.9",
            "39.2.0",
            "10.13.3.9, and this Python sees it; JetPack 7.2 brings 10.16.2. TensorRT 10.13.3.9 for Arm servers has no kernels for Orin",
        ),
        (
            "8.6.2",
            "36.3.0",
            "8.6.2 is not supported. JetPack 6.0 has TensorRT 8.6.2. Upgrade this board to JetPack 6.1",
        ),
        ("11.4.1", "41.0", "11.4.1, and this Python sees it"),
    ],
)
def test_a_tensorrt_that_this_python_sees(tmp_path, no_driver, monkeypatch, version, l4t, said):
    root = fake_jetson.write(tmp_path, {**fake_jetson.orin_nano(l4t), **fake_jetson.tensorrt(version)})
    monkeypatch.syspath_prepend(root / "usr/lib" / fake_jetson.HERE / "dist-packages")
    found = examine(root)
    assert found.backends["tensorrt"] == version
    assert line(found, "tensorrt").startswith(said)
    assert "tensorrt" not in sys.modules


def test_tensorrt_rtx_is_not_for_a_jetson(tmp_path, no_driver, versions):
    found = examine(fake_jetson.write(tmp_path, fake_jetson.orin_nano()))
    assert found.backends["tensorrt_rtx"] == "not installed (it is not for Jetson)"
