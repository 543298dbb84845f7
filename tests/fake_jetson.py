"""System files of Jetson boards under a folder: device tree, Jetson Linux release, nvpmodel and kernel files.

The texts are those of real boards, as published by their owners: release lines, power modes and names.
"""

from __future__ import annotations

import sys

HERE = f"python{sys.version_info.major}.{sys.version_info.minor}"

ORIN_MODES = """# Orin Nano
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ 612000000
< POWER_MODEL ID=1 NAME=25W >
GPU MAX_FREQ 918000000
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
GPU MAX_FREQ -1
< PM_CONFIG DEFAULT=0 >
"""


def release(revision):
    """Return ``/etc/nv_tegra_release`` for a release such as ``36.4.3``."""
    major, _, rest = revision.partition(".")
    return f"# R{major} (release), REVISION: {rest}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"


def write(root, files):
    """Write files, bytes or text by relative path, and return the root."""
    for place, content in files.items():
        file = root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def memory(total_mb, free_mb):
    return f"MemTotal:       {total_mb * 1024} kB\nMemFree:          {123 * 1024} kB\nMemAvailable:   {free_mb * 1024} kB\nBuffers:           5 kB\n"


def gpu(name, current, low, high, governor="nvhost_podgov"):
    """Return the frequency files; clocks are in MHz."""
    folder = f"sys/class/devfreq/{name}"
    return {
        **{f"{folder}/{n}_freq": f"{v}000000\n" for n, v in (("cur", current), ("min", low), ("max", high))},
        f"{folder}/governor": f"{governor}\n",
    }


def cpu(policy, current, low, high, governor="schedutil"):
    """Return the frequency files; clocks are in MHz."""
    folder = f"sys/devices/system/cpu/cpufreq/policy{policy}"
    return {
        **{f"{folder}/scaling_{n}_freq": f"{v}000\n" for n, v in (("cur", current), ("min", low), ("max", high))},
        f"{folder}/scaling_governor": f"{governor}\n",
    }


def tree(model, compatible, l4t):
    """Return the files that every board has."""
    named = b"\0".join(name.encode() for name in compatible) + b"\0"
    return {
        "proc/device-tree/model": model.encode() + b"\0",
        "proc/device-tree/compatible": named,
        "etc/nv_tegra_release": release(l4t),
    }


def orin_nano(l4t="36.4.3"):
    """Return the files of an Orin Nano in its fastest mode with unlocked clocks."""
    return {
        **tree(
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            ["nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"],
            l4t,
        ),
        "etc/nvpmodel.conf": ORIN_MODES,
        "var/lib/nvpmodel/status": "pmode:0002\n",
        "proc/meminfo": memory(7620, 5210),
        **gpu("17000000.gpu", 306, 306, 1020),
        **cpu(0, 1190, 729, 1728),
        **cpu(4, 729, 729, 1728),
        "sys/class/devfreq/13e40000.host1x/cur_freq": "1\n",
    }


def xavier(l4t="35.4.1"):
    """Return the files of an AGX Xavier."""
    return {
        **tree("Jetson-AGX", ["nvidia,p2972-0000", "nvidia,tegra194"], l4t),
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MODE_30W_ALL >\n",
        "var/lib/nvpmodel/status": "pmode:0003 fmode:quiet",
        "proc/meminfo": memory(31000, 29000),
        **gpu("17000000.gv11b", 1377, 1377, 1377),
        **cpu(0, 2265, 2265, 2265),
    }


def thor(l4t="38.2.0"):
    """Return the files of an AGX Thor with locked clocks."""
    return {
        **tree(
            "NVIDIA Jetson AGX Thor Developer Kit",
            ["nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"],
            l4t,
        ),
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
        "var/lib/nvpmodel/status": "pmode:0001",
        "proc/meminfo": memory(125772, 120000),
        **gpu("gpu-gpc-0", 1575, 1575, 1575),
        **gpu("gpu-nvd-0", 100, 100, 1692),
        **cpu(0, 2601, 2601, 2601),
        **cpu(10, 972, 972, 2601),
    }


def tensorrt(version, python=HERE, lib="usr/lib", record=True):
    """Return the TensorRT package as JetPack installs it. An import of it ends the process: no code may import it."""
    folder = f"{lib}/{python}/dist-packages"
    files = {f"{folder}/tensorrt/__init__.py": f'raise SystemExit("imported")\n__version__ = "{version}"\n'}
    return (
        {
            **files,
            f"{folder}/tensorrt-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n",
        }
        if record
        else files
    )
