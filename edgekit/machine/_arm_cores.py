"""Names of ARM cores: 64-bit ARM kernels print numbers in ``/proc/cpuinfo`` where others print a name.

``CPU implementer`` and ``CPU part`` are fields of the register MIDR_EL1. The numbers are those of Linux
(``arch/arm64/include/asm/cputype.h``) and of util-linux (``sys-utils/lscpu-arm.c``).
"""

from __future__ import annotations

_ARM, _FUJITSU, _HISILICON, _NVIDIA, _QUALCOMM, _APPLE, _AMPERE = 0x41, 0x46, 0x48, 0x4E, 0x51, 0x61, 0xC0
_NAMES = {
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse-N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD0E): "Cortex-A76AE",
    (_ARM, 0xD40): "Neoverse-V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD49): "Neoverse-N2",
    (_ARM, 0xD4A): "Neoverse-E1",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4C): "Cortex-X1C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD4F): "Neoverse-V2",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD82): "Cortex-X4",
    (_ARM, 0xD83): "Neoverse-V3AE",
    (_ARM, 0xD84): "Neoverse-V3",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_ARM, 0xD8E): "Neoverse-N3",
    (_FUJITSU, 0x001): "A64FX",
    (_HISILICON, 0xD01): "Kunpeng 920",
    (_NVIDIA, 0x003): "Denver 2",
    (_NVIDIA, 0x004): "Carmel",
    (_NVIDIA, 0x010): "Olympus",
    (_QUALCOMM, 0x001): "Oryon",
    (_QUALCOMM, 0x802): "Kryo 3xx Gold",
    (_QUALCOMM, 0x803): "Kryo 3xx Silver",
    (_QUALCOMM, 0x804): "Kryo 4xx Gold",
    (_QUALCOMM, 0x805): "Kryo 4xx Silver",
    (_APPLE, 0x022): "M1 Icestorm",
    (_APPLE, 0x023): "M1 Firestorm",
    (_APPLE, 0x032): "M2 Blizzard",
    (_APPLE, 0x033): "M2 Avalanche",
    (_AMPERE, 0xAC3): "Ampere-1",
    (_AMPERE, 0xAC4): "Ampere-1a",
}


def core_names(cpuinfo: str) -> tuple[str, ...]:
    """Each kind of ARM core, in the order of ``/proc/cpuinfo``; several on a chip with large and small cores.

    Args:
        cpuinfo: the text of ``/proc/cpuinfo``.

    Returns:
        Names; ``core 0x41:0xd99`` for numbers that are not in the table; nothing for another architecture.
    """
    names: list[str] = []
    implementer = 0
    for line in cpuinfo.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "CPU implementer":
            implementer = _number(value)
        if key == "CPU part":
            part = _number(value)
            names.append(_NAMES.get((implementer, part), f"core {implementer:#04x}:{part:#05x}"))
    return tuple(dict.fromkeys(names))


def _number(text: str) -> int:
    try:
        return int(text[:10], 16)
    except ValueError:
        return 0
