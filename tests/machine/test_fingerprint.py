"""The fingerprint of this machine and of file trees as kernels write them, with expected values computed by hand."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import time

import fake_jetson
import pytest
import small
from fake_cuda import FakeDriver
from fake_jetson import write

from edgekit import backends
from edgekit.drivers import cuda_api
from edgekit.machine import fingerprint as module
from edgekit.machine.control_groups import Limits, limits
from edgekit.machine.fingerprint import fingerprint, governor
from edgekit.spec.digests import code_digest
from edgekit.spec.distribution import DISTRIBUTION
from edgekit.spec.parsing import plain
from edgekit.spec.registry import version_of
from edgekit.spec.subject import Fingerprint

CPU = "sys/devices/system/cpu"
NONE = "9223372036854771712\n"  # no limit, as version 1 writes it
ODD = [
    b"",
    b"\n",
    b"max",
    b"-1",
    b"\xff\xfe\x00\x80",
    b"9" * 400,
    b"1 2 3 4",
    "٣".encode(),
    b"0x10",
    b"nan",
    b"a:b:c\n::\n0::\n",
    b"1 2 3 / /sys - cgroup",
]
MOUNT2 = "31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def cpus(monkeypatch):
    """Which CPUs this process may use."""
    return lambda *numbers: monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(numbers), raising=False)


def tree(root, files):
    return write(root, {"proc/meminfo": fake_jetson.memory(16000, 9000), **files})


# ---- this machine


def test_this_machine():
    result = fingerprint()
    installed = version_of(DISTRIBUTION) or f"source {code_digest()[:12]}"  # a checkout on the path is not installed
    assert (result.edgekit, result.python) == (installed, platform.python_version())
    assert result.system == f"Linux {os.uname().release} {os.uname().machine}"
    assert result.cpus == len(os.sched_getaffinity(0))
    assert result.memory_mb * 2**20 == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01)
    assert result.cpu
    assert result.backends["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert set(result.backends) == {name for name in backends.names() if backends.installed_version(name)} | {
        "numpy",
        "tokenizers",
    }
    assert (result.cpu_limit >= 0, result.memory_limit_mb >= 0, result.throttled >= 0) == (True, True, True)


def test_twice_is_the_same_and_every_change_is_seen():
    result = fingerprint()
    assert fingerprint().differences(result) == []
    for field in dataclasses.fields(Fingerprint):
        value = getattr(result, field.name)
        if field.name == "backends":
            other = {"x": "1"}
        elif isinstance(value, tuple):
            other = ("x",)
        elif isinstance(value, str):
            other = value + "x"
        else:
            other = 2 * value + 1
        differences = dataclasses.replace(result, **{field.name: other}).differences(result)
        assert len(differences) == (field.name != "throttled"), field.name
        assert all(d.startswith(f"{field.name.replace('_', ' ')}: ") for d in differences)
    kernel = dataclasses.replace(result, memory_mb=result.memory_mb + result.memory_mb // 100)
    assert kernel.differences(result) == [], "what a kernel keeps for itself is not another machine"


def test_it_is_plain_data(tmp_path):
    record = plain(fingerprint(write(tmp_path, fake_jetson.orin_nano())))
    assert {type(value) for value in record.values()} <= {str, int, float, list, tuple, dict}


def test_no_backend_is_loaded_and_it_takes_well_under_a_second():
    code = """
import sys, time
from edgekit.machine.fingerprint import fingerprint
began = time.perf_counter()
fingerprint()
print(time.perf_counter() - began, sorted({m.split(".")[0] for m in sys.modules} & set(sys.argv)))
"""
    heavy = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "torch", "onnx", "scipy")
    took, loaded = small.python(code, *heavy).stdout.decode().strip().split(" ", 1)
    assert loaded == "[]"
    assert float(took) < 0.5


def test_without_package_metadata_the_version_is_that_of_the_code(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(module, "code_digest", lambda: "0123456789abcdef")
    result = fingerprint()
    assert (result.edgekit, result.backends) == ("source 0123456789ab", {})


# ---- files that are missing, or odd


def test_a_machine_without_files(tmp_path):
    result = fingerprint(tmp_path)
    assert (result.memory_mb, result.gpu, result.driver, result.governor, result.power_mode) == (0, "", "", "", "")
    assert (result.cpu_limit, result.memory_limit_mb, result.throttled) == (0.0, 0, 0)


def every_file():
    """All files that are looked at, of a machine of each kind."""
    cpu = {
        f"{CPU}/cpu0/{name}"
        for name in ("cpufreq/scaling_governor", "cpufreq/energy_performance_preference", "topology/core_id")
    }
    cpu |= {f"{CPU}/cpu0/thermal_throttle/{name}_throttle_count" for name in ("core", "package")} | {
        f"{CPU}/cpu0/topology/physical_package_id"
    }
    other = {
        f"{CPU}/intel_pstate/no_turbo",
        f"{CPU}/cpufreq/boost",
        "sys/firmware/acpi/platform_profile",
        "proc/meminfo",
        "proc/driver/nvidia/version",
    }
    other |= {
        "proc/driver/nvidia/gpus/0/information",
        "sys/class/hwmon/hwmon0/name",
        "sys/class/hwmon/hwmon1/oc1_event_cnt",
        *fake_jetson.orin_nano(),
    }
    group = {
        f"sys/fs/cgroup/{name}"
        for name in (
            "cpu.max",
            "cpu.stat",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "memory.max",
            "memory.limit_in_bytes",
        )
    }
    return sorted(cpu | other | group)


@pytest.mark.parametrize("content", ODD)
def test_odd_contents(tmp_path, cpus, content):
    cpus(0)
    whole = {"proc/self/mountinfo": MOUNT2, "proc/self/cgroup": "0::/\n", "sys/class/hwmon/hwmon1/name": "soctherm_oc"}
    result = fingerprint(write(tmp_path, {**dict.fromkeys(every_file(), content), **whole}))
    assert (result.cpu_limit, result.memory_limit_mb) == (0.0, 0)
    assert result.throttled >= 0
    assert "\ufffd" not in result.governor + result.power_mode + result.driver
    assert fingerprint(write(tmp_path, {"proc/self/mountinfo": content, "proc/self/cgroup": "0::/\n"})).cpu_limit == 0.0
    assert fingerprint(write(tmp_path, {"proc/self/mountinfo": MOUNT2, "proc/self/cgroup": content})).cpu_limit == 0.0


def test_files_that_cannot_be_read(tmp_path, cpus):
    cpus(0)
    for place in every_file():
        (tmp_path / place).mkdir(parents=True)
    write(tmp_path, {"proc/self/mountinfo": MOUNT2, "proc/self/cgroup": "0::/\n"})
    assert (
        fingerprint(tmp_path).differences(dataclasses.replace(fingerprint(tmp_path / "nothing"), gpu="", driver=""))
        == []
    )


def test_what_cannot_be_printed_does_not_get_into_a_report(tmp_path, cpus):
    cpus(0)
    root = write(tmp_path, {f"{CPU}/cpu0/cpufreq/scaling_governor": b"perf\x00\x1b[31m\xffor\x7fmance\nsecond line\n"})
    assert governor(root) == "perf[31mormance"


# ---- clocks


def frequency(cpu, name, preference=""):
    more = {f"{CPU}/cpu{cpu}/cpufreq/energy_performance_preference": f"{preference}\n"} if preference else {}
    return {f"{CPU}/cpu{cpu}/cpufreq/scaling_governor": f"{name}\n", **more}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (frequency(0, "performance"), "performance"),
        (
            {**frequency(0, "performance"), **frequency(3, "performance"), **frequency(1, "powersave")},
            "performance",
        ),  # CPU 1 is not for this process
        ({**frequency(0, "schedutil"), **frequency(3, "performance")}, "performance + schedutil"),
        (frequency(3, "powersave", "balance_performance"), "powersave (balance_performance)"),
        ({**frequency(0, "powersave", "power"), f"{CPU}/intel_pstate/no_turbo": "0\n"}, "powersave (power), boost on"),
        ({**frequency(0, "powersave"), f"{CPU}/intel_pstate/no_turbo": "1\n"}, "powersave, boost off"),
        ({**frequency(0, "schedutil"), f"{CPU}/cpufreq/boost": "1\n"}, "schedutil, boost on"),
        ({**frequency(0, "schedutil"), f"{CPU}/cpufreq/boost": "0\n"}, "schedutil, boost off"),
        ({f"{CPU}/cpufreq/boost": "0\n"}, "boost off"),
        ({f"{CPU}/cpufreq/boost": "2\n"}, ""),
    ],
)
def test_governor(tmp_path, cpus, files, expected):
    cpus(0, 3)
    assert fingerprint(write(tmp_path, files)).governor == expected
    assert fingerprint(tmp_path).cpus == 2


def test_platform_profile(tmp_path):
    assert fingerprint(write(tmp_path, {"sys/firmware/acpi/platform_profile": "low-power\n"})).power_mode == "low-power"


# ---- a GPU, a Jetson


def test_a_gpu(tmp_path):
    files = {
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  "
        "Release Build  (x)\n"
        "GCC version:  gcc 12.3.0\n",
        "proc/driver/nvidia/gpus/0000:c1:00.0/information": "Model: \t\t NVIDIA A2\nIRQ:   \t\t 7\n",
        "proc/driver/nvidia/gpus/0000:41:00.0/information": "Model: \t\t NVIDIA L4\nIRQ:   \t\t 7\n",
    }
    result = fingerprint(write(tmp_path, files))
    assert (result.gpu, result.driver) == ("NVIDIA L4", "580.82.07")


def test_a_gpu_of_which_only_cuda_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "entries", lambda folder, pattern: [])
    monkeypatch.setattr(module, "line", lambda file: "")
    driver = FakeDriver(driver_version=13000)
    monkeypatch.setattr(cuda_api, "load_library", lambda: driver)
    result = fingerprint()
    assert (result.gpu, result.driver) == ("NVIDIA GeForce RTX 4060", "CUDA 13.0")
    assert (driver.leaks(), driver.misuse) == ([], [])
    calls = len(driver.log)
    assert fingerprint(tmp_path).gpu == ""  # files of another machine: CUDA does not know it
    assert len(driver.log) == calls
    driver.fail("cuInit", 999)
    result = fingerprint()
    assert (result.gpu, result.driver) == ("", "")


def test_a_jetson(tmp_path, cpus):
    cpus(0)
    files = {**fake_jetson.orin_nano(), **frequency(0, "schedutil"), "sys/class/hwmon/hwmon3/name": "soctherm_oc\n"}
    files |= {f"sys/class/hwmon/hwmon3/oc{n}_event_cnt": f"{count}\n" for n, count in ((1, 2), (2, 0), (3, 37))}
    files |= {f"sys/class/hwmon/hwmon3/oc{n}_throt_en": "1\n" for n in (1, 2, 3)}
    result = fingerprint(write(tmp_path, files))
    assert (result.gpu, result.driver) == (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "36.4.3",
    )
    assert (result.power_mode, result.memory_mb) == ("MAXN_SUPER (2)", 7620)
    assert result.governor == "schedutil, GPU nvhost_podgov"
    assert result.throttled == 39
    write(
        tmp_path,
        {
            "sys/class/hwmon/hwmon3/oc3_throt_en": "0\n",
            "sys/class/hwmon/hwmon4/name": "other",
            "sys/class/hwmon/hwmon4/oc1_event_cnt": "5\n",
        },
    )
    assert fingerprint(tmp_path).throttled == 2


def test_a_jetson_with_locked_clocks(tmp_path, cpus):
    cpus(0)
    result = fingerprint(write(tmp_path, {**fake_jetson.xavier(), **frequency(0, "schedutil")}))
    assert result.governor == "schedutil, clocks locked, GPU nvhost_podgov, clocks locked"
    assert (result.power_mode, result.driver) == ("MODE_30W_ALL (3)", "35.4.1")
    assert (
        fingerprint(write(tmp_path / "little", {"proc/device-tree/compatible": b"nvidia,tegra234\0"})).gpu == "tegra234"
    )


# ---- throttling


def thermal(cpu, core, package, core_count, package_count):
    folder = f"{CPU}/cpu{cpu}"
    return {
        f"{folder}/topology/physical_package_id": f"{package}\n",
        f"{folder}/topology/core_id": f"{core}\n",
        f"{folder}/thermal_throttle/core_throttle_count": f"{core_count}\n",
        f"{folder}/thermal_throttle/package_throttle_count": f"{package_count}\n",
    }


def test_thermal_events_are_counted_once(tmp_path):
    """Two packages of two cores; the first core has two threads. Cores: 5 + 7 + 0 + 1, packages: 20 + 3."""
    files = {
        **thermal(0, 0, 0, 5, 20),
        **thermal(1, 0, 0, 5, 20),
        **thermal(2, 1, 0, 7, 20),
        **thermal(10, 0, 1, 0, 3),
        **thermal(11, 1, 1, 1, 3),
    }
    assert (
        fingerprint(
            write(tmp_path, {**files, f"{CPU}/cpuidle/thermal_throttle/core_throttle_count": "1000\n"})
        ).throttled
        == 36
    )


def test_thermal_events_without_topology(tmp_path):
    files = {f"{CPU}/cpu{n}/thermal_throttle/core_throttle_count": f"{n + 1}\n" for n in range(3)}
    assert fingerprint(write(tmp_path, files)).throttled == 6


# ---- control groups


def test_version_2_the_tightest_of_the_tree(tmp_path):
    group = "sys/fs/cgroup"
    files = {
        "proc/self/mountinfo": "22 27 0:21 / /proc rw - proc proc rw\n" + MOUNT2,
        "proc/self/cgroup": "0::/ci.slice/job.scope/inner\n",
        f"{group}/ci.slice/cpu.max": "150000 100000\n",
        f"{group}/ci.slice/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4\nthrottled_usec 77\n",
        f"{group}/ci.slice/memory.max": "max\n",
        f"{group}/ci.slice/job.scope/cpu.max": "max 100000\n",
        f"{group}/ci.slice/job.scope/memory.max": f"{3 * 2**30}\n",
        f"{group}/ci.slice/job.scope/inner/cpu.max": "400000 100000\n",
        f"{group}/ci.slice/job.scope/inner/cpu.stat": "nr_throttled 2\n",
        f"{group}/ci.slice/job.scope/inner/memory.max": f"{4 * 2**30}\n",
        f"{group}/ci.slice/other/cpu.max": "1000 100000\n",  # not above this process
        f"{group}/ci.slice/other/memory.max": "1048576\n",
    }
    assert limits(tree(tmp_path, files)) == Limits(1.5, 3072, 6)
    result = fingerprint(tmp_path)
    assert (result.cpu_limit, result.memory_limit_mb, result.throttled) == (1.5, 3072, 6)


def test_version_2_with_a_namespace(tmp_path):
    files = {
        "proc/self/mountinfo": MOUNT2,
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/memory.max": "536870912\n",
    }
    assert limits(tree(tmp_path, files)) == Limits(0.5, 512, 0)


@pytest.mark.parametrize("path", ["/../outside", "/elsewhere/job"])
def test_a_mount_that_does_not_show_the_group(tmp_path, path):
    """A process outside its namespace, and a container with a mount of another group: the top of the mount counts."""
    mount = "31 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    elsewhere = {
        f"sys/fs/{name}/cpu.max": "1000 100000\n" for name in ("outside", "cgroup/elsewhere/job", "cgroup/job")
    }
    files = {
        "proc/self/mountinfo": mount,
        "proc/self/cgroup": f"0::{path}\n",
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
        **elsewhere,
    }
    assert limits(tree(tmp_path, files)) == Limits(0.5, 0, 0)
    if ".." in path:
        assert limits(write(tmp_path, {"proc/self/mountinfo": MOUNT2})) == Limits(0.5, 0, 0)


def test_version_1(tmp_path):
    """Separate mounts of controllers, one with two controllers. In ``memory`` the group of the container is the top."""
    mounts = (
        "40 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "41 31 0:31 /docker/abc /mnt/a\\040b rw,relatime - cgroup cgroup rw,memory\n"
        "42 31 0:32 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
        "43 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    cpu = "sys/fs/cgroup/cpu,cpuacct"
    files = {
        "proc/self/mountinfo": mounts,
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc/in\n2:cpuset:/\n"
        "1:name=systemd:/docker/abc\n0::/\n",
        f"{cpu}/cpu.cfs_quota_us": "-1\n",
        f"{cpu}/cpu.cfs_period_us": "100000\n",
        f"{cpu}/docker/cpu.cfs_quota_us": "250000\n",
        f"{cpu}/docker/cpu.cfs_period_us": "100000\n",
        f"{cpu}/docker/cpu.stat": "nr_periods 10\nnr_throttled 3\nthrottled_time 5\n",
        f"{cpu}/docker/abc/cpu.cfs_quota_us": "20000\n",
        f"{cpu}/docker/abc/cpu.cfs_period_us": "60000\n",
        f"{cpu}/docker/abc/cpu.stat": "nr_periods 10\nnr_throttled 8\nthrottled_time 5\n",
        "mnt/a b/memory.limit_in_bytes": NONE,
        "mnt/a b/in/memory.limit_in_bytes": f"{2 * 2**30}\n",
        "sys/fs/cgroup/cpuset/cpu.cfs_quota_us": "1000\n",  # not where a limit of CPU time is
    }
    assert limits(tree(tmp_path, files)) == Limits(0.333, 2048, 11)


def test_no_limits(tmp_path):
    files = {
        "proc/self/mountinfo": "40 31 0:30 / /cpu rw - cgroup cgroup rw,cpu\n"
        "41 31 0:31 / /memory rw - cgroup cgroup rw,memory\n" + MOUNT2,
        "proc/self/cgroup": "2:cpu:/\n1:memory:/\n0::/\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "memory/memory.limit_in_bytes": NONE,
        "sys/fs/cgroup/cpu.max": "max 100000\n",
        "sys/fs/cgroup/memory.max": f"{16000 * 2**20}\n",  # all that the machine has
    }
    assert limits(tree(tmp_path, files)) == Limits(0.0, 0, 0)
    write(tmp_path, {"sys/fs/cgroup/memory.max": f"{15999 * 2**20}\n"})
    assert limits(tmp_path).memory_mb == 15999


def test_it_is_quick_with_many_cpus(tmp_path):
    for cpu in range(256):
        write(tmp_path, {**thermal(cpu, cpu // 2, cpu // 128, 1, 2), **frequency(cpu, "performance")})
    began = time.perf_counter()
    assert fingerprint(tmp_path).throttled == 128 + 4
    assert time.perf_counter() - began < 1
