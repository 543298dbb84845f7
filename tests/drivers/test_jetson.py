"""Boards told by their files, what is advised for each, and whether a Python sees JetPack's TensorRT: real virtual environments decide."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import fake_jetson
import pytest
import small

from edgekit.drivers import jetson, sysfs
from edgekit.drivers.jetson import Board, Clock, advice, board, missing_kernels, system_tensorrt

ORIN = ("An Orin of somebody's", ["somebody,board-tegra1", "nvidia,tegra234"])


def orin(l4t):
    return Board("Orin", "tegra234", l4t, *jetson._jetpack(l4t), "", None, None, 0, 0)


def test_an_orin_nano(tmp_path):
    found = board(fake_jetson.write(tmp_path, fake_jetson.orin_nano()))
    assert found == Board(
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        soc="tegra234",
        l4t="36.4.3",
        jetpack="6.2",
        tensorrt="10.3.0",
        power_mode="MAXN_SUPER (2)",
        gpu=Clock(306, 1020, "nvhost_podgov", False),
        cpu=Clock(1190, 1728, "schedutil", False),
        memory_mb=7620,
        free_mb=5210,
    )
    assert found.family == "Orin"


def test_a_xavier(tmp_path):
    found = board(fake_jetson.write(tmp_path, fake_jetson.xavier()))
    assert (found.model, found.soc, found.family) == ("Jetson-AGX", "tegra194", "Xavier")
    assert (found.l4t, found.jetpack, found.tensorrt, found.power_mode) == (
        "35.4.1",
        "5.1.2",
        "8.5.2",
        "MODE_30W_ALL (3)",
    )
    assert (found.gpu, found.cpu) == (Clock(1377, 1377, "nvhost_podgov", True), Clock(2265, 2265, "schedutil", True))


def test_a_thor(tmp_path):
    found = board(fake_jetson.write(tmp_path, fake_jetson.thor()))
    assert (found.soc, found.family, found.l4t, found.jetpack, found.tensorrt) == (
        "tegra264",
        "Thor",
        "38.2.0",
        "7.0",
        "10.13.3",
    )
    assert (found.power_mode, found.gpu) == ("120W (1)", Clock(1575, 1575, "nvhost_podgov", True)), (
        "the graphics clock, not the video engine's"
    )
    assert found.cpu == Clock(2601, 2601, "schedutil", False), "one cluster is not locked"


@pytest.mark.parametrize(
    ("l4t", "jetpack", "tensorrt"),
    [
        ("35.1.0", "5.0.2", "8.4.1"),
        ("35.2.1", "5.1", "8.5.2"),
        ("35.6.9", "5.1.x", "8.5.2"),
        ("36.2.0", "6.0 DP", "8.6.2"),
        ("36.3.0", "6.0", "8.6.2"),
        ("36.4.0", "6.1", "10.3.0"),
        ("36.4.3", "6.2", "10.3.0"),
        ("36.4.4", "6.2.1", "10.3.0"),
        ("36.4.9", "6.1 or 6.2", "10.3.0"),
        ("36.5.0", "6.2.2", "10.3.0"),
        ("36.6.0", "6.x", ""),
        ("38.2.1", "7.0", "10.13.3"),
        ("38.4.0", "7.1", "10.13.3"),
        ("39.2.0", "7.2", "10.16.2"),
        ("39.2.1", "7.2.1", "10.16.2"),
        ("39.2.7", "7.2.x", "10.16.2"),
        ("39.4.0", "7.x", ""),
        ("390.2.0", "", ""),
        ("41.1.0", "", ""),
    ],
)
def test_releases(tmp_path, l4t, jetpack, tensorrt):
    found = board(fake_jetson.write(tmp_path, fake_jetson.tree(*ORIN, l4t)))
    assert (found.soc, found.l4t, found.jetpack, found.tensorrt) == ("tegra234", l4t, jetpack, tensorrt)
    assert (found.gpu, found.cpu, found.power_mode, found.memory_mb) == (None, None, "", 0)


def test_no_jetson(tmp_path):
    assert board(tmp_path) is None
    assert board(tmp_path / "nothing") is None
    arm = {
        "proc/device-tree/compatible": b"radxa,rock-5-itx\0rockchip,rk3588\0",
        "proc/device-tree/model": b"Radxa ROCK 5 ITX\0",
        "proc/meminfo": "x",
    }
    assert board(fake_jetson.write(tmp_path, arm)) is None
    other = {"sys/devices/soc0/family": "Freescale i.MX\n", "sys/devices/soc0/soc_id": "35\n"}
    assert board(fake_jetson.write(tmp_path, other)) is None
    assert system_tensorrt(tmp_path) == (None, "")


def test_in_a_container(tmp_path):
    """The device tree is hidden there; the kernel's own folder is not, nor is the release where it is mounted."""
    kernel = {
        "sys/devices/soc0/family": "Tegra\n",
        "sys/devices/soc0/soc_id": "35\n",
        "sys/devices/soc0/machine": "NVIDIA Orin NX Developer Kit\n",
    }
    found = board(fake_jetson.write(tmp_path / "a", kernel))
    assert (found.model, found.soc, found.l4t, found.jetpack) == ("NVIDIA Orin NX Developer Kit", "tegra234", "", "")
    found = board(fake_jetson.write(tmp_path / "b", {"etc/nv_tegra_release": fake_jetson.release("36.4.3")}))
    assert (found.soc, found.family, found.jetpack) == ("", "", "6.2")
    assert (
        board(fake_jetson.write(tmp_path / "c", {**kernel, "sys/devices/soc0/soc_id": "99\n"})).soc == "tegra (chip 99)"
    )


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0", b"\xff\xfe" * 50, b"9" * 60000, b"R (release), REVISION: x pmode:" + b"8" * 9000, None]
)
def test_broken_files(tmp_path, content):
    """Whatever a file holds, or where it is a folder, the rest is still told."""
    files = fake_jetson.orin_nano()
    whole = board(fake_jetson.write(tmp_path / "whole", files))
    for number, place in enumerate(files):
        root = fake_jetson.write(tmp_path / str(number), {p: c for p, c in files.items() if p != place})
        if content is None:
            (root / place).mkdir(parents=True)
        else:
            fake_jetson.write(root, {place: content})
        found = board(root)
        assert found is not None
        same = [
            n
            for n in ("model", "soc", "l4t", "power_mode", "gpu", "cpu", "memory_mb")
            if getattr(found, n) == getattr(whole, n)
        ]
        assert len(same) >= 6, place


def test_random_files(tmp_path):
    choose = random.Random(5)
    files = fake_jetson.orin_nano()
    for number in range(60):
        broken = {}
        for place, content in files.items():
            letters = (content if isinstance(content, bytes) else content.encode()) + b"\0\n9:<>= \xff"
            broken[place] = bytes(choose.choice(letters) for _ in range(choose.randint(0, 80)))
        board(fake_jetson.write(tmp_path / str(number), broken))
        system_tensorrt(tmp_path / str(number))


# ---- the two programs


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program that is found first; nvpmodel and dpkg-query answer as they do on a board."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    write("nvpmodel", 'test "$*" = -q && printf "NV Power Mode: 15W\\n0\\n"')
    write("dpkg-query", 'test "$*" = "-W -f=\\${Version} nvidia-l4t-core" && printf 36.4.7-20250918154033')
    return write


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder whose files are this machine's."""
    read, entries, root = sysfs.text, sysfs.entries, tmp_path / "root"

    def own(folder, pattern):
        return [Path("/") / place.relative_to(root) for place in entries(root / str(folder).lstrip("/"), pattern)]

    monkeypatch.setattr(sysfs, "text", lambda file: read(root / str(file).lstrip("/")))
    monkeypatch.setattr(sysfs, "entries", own)
    return root


def test_programs_are_asked_only_for_what_no_file_tells(machine, program):
    fake_jetson.write(machine, fake_jetson.orin_nano())
    found = board()
    assert (found.l4t, found.power_mode, found.gpu.maximum_mhz) == ("36.4.3", "MAXN_SUPER (2)", 1020)
    (machine / "etc/nv_tegra_release").unlink()
    (machine / "var/lib/nvpmodel/status").unlink()
    found = board()
    assert (found.l4t, found.jetpack, found.power_mode) == ("36.4.7", "6.2.1", "15W (0)")


def test_programs_are_not_asked_about_files_of_another_machine(tmp_path, program):
    found = board(fake_jetson.write(tmp_path, {"proc/device-tree/compatible": b"nvidia,tegra234\0"}))
    assert (found.soc, found.l4t, found.power_mode) == ("tegra234", "", "")


@pytest.mark.parametrize(
    ("script", "mode"),
    [
        (
            r'printf "NV Power Mode: 5W\n1\n"; echo "NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13" >&2; exit 1',
            "5W (1)",
        ),
        (
            r'printf "NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\nNVPM ERROR: failed to read PARAM EMC\n"',
            "MAXN (0)",
        ),
        ('echo "NVPM ERROR: no mode"', ""),
        ("exit 3", ""),
        (r"printf '\377\376'", ""),
    ],
)
def test_what_nvpmodel_says(machine, program, script, mode):
    fake_jetson.write(machine, fake_jetson.tree(*ORIN, "36.4.3"))
    program("nvpmodel", script)
    assert board().power_mode == mode


@pytest.mark.slow
def test_programs_that_hang(machine, program):
    fake_jetson.write(machine, {"proc/device-tree/compatible": b"nvidia,tegra234\0"})
    for name in ("nvpmodel", "dpkg-query"):
        program(name, "exec sleep 20")
    start = time.perf_counter()
    found = board()
    assert time.perf_counter() - start < 2.5
    assert (found.soc, found.l4t, found.power_mode) == ("tegra234", "", "")


def test_a_mode_without_a_name(tmp_path):
    files = fake_jetson.orin_nano()
    assert (
        board(fake_jetson.write(tmp_path, {**files, "var/lib/nvpmodel/status": "pmode:0007"})).power_mode == "mode (7)"
    )


def test_the_performance_governor_is_locked(tmp_path):
    found = board(
        fake_jetson.write(
            tmp_path, {**fake_jetson.orin_nano(), **fake_jetson.gpu("17000000.gpu", 1020, 306, 1020, "performance")}
        )
    )
    assert found.gpu == Clock(1020, 1020, "performance", True)


# ---- advice


@pytest.mark.parametrize(
    ("version", "l4t", "parts"),
    [
        (
            "8.5.2.2",
            "35.4.1",
            ["JetPack 5.1.2 has TensorRT 8.5.2.", "Upgrade this board to JetPack 6.1 or newer", "10.3 or newer"],
        ),
        ("8.6.2", "36.3.0", ["JetPack 6.0 has TensorRT 8.6.2.", "JetPack 6.1 or newer"]),
        ("8.6.1", "36.4.3", ["JetPack 6.2 has TensorRT 10.3.0: use that one", "--system-site-packages"]),
        ("10.0.1", "36.4.0", ["JetPack 6.1 has TensorRT 10.3.0: use that one"]),
        ("10.3.0", "36.4.3", ["Upgrade this board to a newer JetPack (7.2 has 10.16)", "lower minimum"]),
        ("10.13.3.9", "39.2.0", ["JetPack 7.2 has TensorRT 10.16.2: use that one"]),
        ("8.5", "41.0", ["Upgrade this board to JetPack 6.1 or newer"]),
        ("12.0.0", "41.0", ["TensorRT 10 or 11", "a newer EdgeKit"]),
    ],
)
def test_advice_for_an_orin(version, l4t, parts):
    said = advice(version, orin(l4t))
    assert all(part in said for part in parts), said


def test_advice_for_others(tmp_path):
    xavier = board(fake_jetson.write(tmp_path / "xavier", fake_jetson.xavier()))
    said = advice("8.5.2", xavier)
    assert "Jetson Xavier is JetPack 5 (TensorRT 8.5)" in said
    assert "--target onnxruntime" in said
    assert (small.ROOT / "targets/onnxruntime.toml").is_file()
    assert "Move" not in said
    thor = board(fake_jetson.write(tmp_path / "thor", fake_jetson.thor("37.0.0")))
    assert advice("8.6", thor).startswith("Upgrade this board to JetPack 7.0 or newer")
    assert advice("8.6.1", None) == "Install TensorRT 10.3 or newer. Run: pip install -U 'tensorrt<12'"
    assert "10.3 or newer" in advice("no version", None)


@pytest.mark.parametrize("version", ["", "10", "x" * 50, "9" * 5000 + ".1"])
def test_advice_for_what_is_no_version(version):
    assert advice(version, orin("36.4.3"))
    assert missing_kernels(version, orin("36.4.3")) == ""
    assert not jetson.is_supported(version)


def test_packages_of_arm_servers_on_an_orin(tmp_path):
    assert "no kernels for Orin" in missing_kernels("10.13.3.9", orin("39.2.0"))
    assert "that of JetPack 7.2 (10.16.2)" in missing_kernels("10.13.3.9", orin("39.2.0"))
    assert "that of JetPack 6.2 (10.3.0)" in missing_kernels("10.11.0", orin("36.4.3"))
    assert "that of JetPack 6.1 or newer" in missing_kernels("10.11.0", orin("41.0"))
    for version in ("10.3.0", "10.7.0", "10.16.2", "11.4.1"):
        assert missing_kernels(version, orin("36.4.3")) == ""
    assert missing_kernels("10.13.3", board(fake_jetson.write(tmp_path, fake_jetson.thor()))) == ""
    assert missing_kernels("10.13.3", None) == ""


# ---- JetPack's TensorRT, and whether a Python sees it

SEES = """
import sys
from pathlib import Path
from edgekit.backends import installed_version
from edgekit.drivers import jetson
print(jetson.system_tensorrt(Path(sys.argv[1])), installed_version("tensorrt"), "tensorrt" in sys.modules, sep="\\n")
"""


def asked(python, root, **environment):
    """What a Python says of a tree: the version and the sentence, the version that it sees, and whether it imported it."""
    ours = os.pathsep.join((str(small.ROOT), *(p for p in sys.path if p.endswith("site-packages"))))
    clean = {n: v for n, v in os.environ.items() if n not in ("PYTHONNOUSERSITE", "PYTHONPATH")}
    done = subprocess.run(
        [str(python), "-c", SEES, str(root)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**clean, "PYTHONPATH": ours, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, seen, imported = done.stdout.splitlines()
    assert imported == "False"
    return *ast.literal_eval(said), None if seen == "None" else seen


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """A virtual environment without the system's packages, and one with them."""
    folder = tmp_path_factory.mktemp("environments")
    for name, option in (("alone", []), ("with", ["--system-site-packages"])):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", *option, str(folder / name)], check=True)
    return folder


@pytest.fixture
def jetpack(tmp_path):
    """A JetPack 6.2 for the version of this Python; its packages are on the path of whoever sees those of its system, by way of the user's folder."""
    root = fake_jetson.write(tmp_path / "root", {**fake_jetson.orin_nano(), **fake_jetson.tensorrt("10.3.0")})
    packages = root / "usr/lib" / fake_jetson.HERE / "dist-packages"
    # A virtual environment has the folder of the user exactly when it has the packages of the system (site.py of CPython).
    fake_jetson.write(tmp_path, {f"user/lib/{fake_jetson.HERE}/site-packages/system.pth": f"{packages}\n"})
    root_user = {"PYTHONUSERBASE": str(tmp_path / "user")}
    return root, packages, root_user


def test_a_virtual_environment_without_the_systems_packages(environments, jetpack):
    root, _, user = jetpack
    version, remedy, seen = asked(environments / "alone/bin/python", root, **user)
    assert (version, seen) == ("10.3.0", None)
    assert (
        f"TensorRT 10.3.0 is installed for the system's Python {fake_jetson.HERE[6:]}, but this virtual environment does not see it."
        in remedy
    )
    assert f"/usr/bin/{fake_jetson.HERE} -m venv --system-site-packages DIR" in remedy
    assert "pyvenv.cfg" not in remedy, "its Python is not the tree's: more packages of that one would not help"


def test_a_virtual_environment_with_them(environments, jetpack):
    root, _, user = jetpack
    assert asked(environments / "with/bin/python", root, **user) == ("10.3.0", "", "10.3.0")


def test_an_environment_of_another_installation(environments, jetpack, tmp_path):
    root, _, _ = jetpack
    version, remedy, seen = asked(environments / "with/bin/python", root, PYTHONUSERBASE=str(tmp_path / "nobody"))
    assert (version, seen) == ("10.3.0", None)
    assert "is another installation and does not see it" in remedy
    assert f"/usr/bin/{fake_jetson.HERE} -m venv --system-site-packages DIR" in remedy


def test_an_environment_of_the_systems_own_python(jetpack, monkeypatch, tmp_path):
    root, _, _ = jetpack
    monkeypatch.setattr(sys, "base_prefix", str(root / "usr"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    assert system_tensorrt(root)[1].endswith(f"(or set include-system-site-packages = true in {tmp_path}/pyvenv.cfg)")
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    assert "pyvenv.cfg" not in system_tensorrt(root)[1]


def test_a_python_that_is_no_virtual_environment(jetpack, monkeypatch, tmp_path):
    root, _, _ = jetpack
    for name in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    assert "is another installation and does not see it" in system_tensorrt(root)[1]


def test_another_python_cannot_load_it(tmp_path):
    root = fake_jetson.write(tmp_path, {**fake_jetson.orin_nano(), **fake_jetson.tensorrt("10.3.0", "python3.9")})
    version, remedy = system_tensorrt(root)
    assert version == "10.3.0"
    assert "the system's Python 3.9, but this is Python" in remedy
    assert "/usr/bin/python3.9 -m venv --system-site-packages DIR" in remedy
    fake_jetson.write(tmp_path, fake_jetson.tensorrt("10.16.2", lib="usr/local/lib"))
    assert system_tensorrt(root)[0] == "10.16.2", "the one for this Python comes first"


def test_a_link_to_the_package_alone(jetpack, tmp_path, monkeypatch):
    root, packages, _ = jetpack
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages/tensorrt").symlink_to(packages / "tensorrt")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    remedy = system_tensorrt(root)[1]
    command = remedy.partition("Run: ")[2]
    assert command.startswith("ln -s ")
    subprocess.run(command.split(), check=True)
    assert system_tensorrt(root) == ("10.3.0", "")


def test_a_package_without_a_record(tmp_path, monkeypatch):
    root = fake_jetson.write(
        tmp_path, {**fake_jetson.orin_nano("39.2.0"), **fake_jetson.tensorrt("10.16.2.10", record=False)}
    )
    monkeypatch.syspath_prepend(root / "usr/lib" / fake_jetson.HERE / "dist-packages")
    assert system_tensorrt(root) == ("10.16.2.10", "")
    fake_jetson.write(tmp_path, {f"usr/lib/{fake_jetson.HERE}/dist-packages/tensorrt/__init__.py": "broken"})
    assert system_tensorrt(root) == ("of unknown version", "")


def test_one_that_is_too_old(tmp_path):
    root = fake_jetson.write(
        tmp_path, {**fake_jetson.orin_nano("36.3.0"), **fake_jetson.tensorrt("8.6.2", "python3.10")}
    )
    version, remedy = system_tensorrt(root)
    assert version == "8.6.2"
    assert (
        "TensorRT 8.6.2 is not supported. JetPack 6.0 has TensorRT 8.6.2. Upgrade this board to JetPack 6.1 or newer"
        in remedy
    )


def test_a_board_without_it(tmp_path):
    root = fake_jetson.write(tmp_path / "orin", fake_jetson.orin_nano())
    assert system_tensorrt(root)[0] is None
    assert "sudo apt-get install python3-libnvinfer" in system_tensorrt(root)[1]
    assert "Xavier is JetPack 5" in system_tensorrt(fake_jetson.write(tmp_path / "xavier", fake_jetson.xavier()))[1]
    container = fake_jetson.write(tmp_path / "container", {"proc/device-tree/compatible": b"nvidia,tegra194\0"})
    assert "Xavier is JetPack 5" in system_tensorrt(container)[1]
    assert (
        "Upgrade this board to JetPack 6.1"
        in system_tensorrt(fake_jetson.write(tmp_path / "old", fake_jetson.orin_nano("35.4.1")))[1]
    )


def test_the_lean_and_dispatch_runtimes_are_not_taken_for_it(tmp_path):
    lean = {p.replace("tensorrt", "tensorrt_lean"): c for p, c in fake_jetson.tensorrt("10.3.0").items()}
    assert system_tensorrt(fake_jetson.write(tmp_path, lean)) == (None, "")
