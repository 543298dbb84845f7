"""How TensorRT makes an engine out of a graph: the ``[engine]`` table of a target file, and what a bundle tells the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.spec.errors import UsageError, near
from edgekit.spec.tensor import Signature

__all__ = ["OLDEST", "PRECISIONS", "EngineRecipe", "is_supported_version", "shapes", "trtexec", "version"]

PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "int8", "fp8", "fp4")
"""What tensor cores multiply in, by the names of NVIDIA's hardware matrix."""

OLDEST = (10, 3)
"""The oldest TensorRT that is supported: JetPack 6.1 brings it."""


@dataclass(frozen=True)
class EngineRecipe:
    """What an engine is made for, and with which settings.

    Networks are always strongly typed: the graph says what each layer computes in, and TensorRT 11 takes nothing else.

    Attributes:
        profiles: optimization profiles; each gives the least, the usual and the largest size of every axis that varies, e.g.
            ``{"batch": (1, 1, 8), "sequence": (1, 32, 64)}``. A call runs in the first that holds its shapes.
        minimum: oldest TensorRT that makes it, ``major.minor``.
        compute_capability: of the chips that it is for, e.g. ``8.7``; empty for any.
        memory_mb: memory of the device, MiB, on a Jetson shared with the CPU; 0 where it is not known.
        workspace_mb: scratch memory that a layer may ask for while the engine is made and when it runs, MiB; 0 for a quarter of the device's.
            TensorRT's own default is all memory of the device, which a Jetson needs for the rest of the system too.
        precisions: what the chip multiplies in.
        optimization_level: 0 to 5: how long TensorRT looks for fast kernels; its own default is 3.
        flags: members of ``BuilderFlag`` that are set, by name, e.g. ``SPARSE_WEIGHTS``. All others are cleared, ``TF32`` too, which TensorRT sets by
            itself: it would compute in less than the graph says.
    """

    profiles: tuple[Mapping[str, tuple[int, int, int]], ...]
    minimum: str = "10.3"
    compute_capability: tuple[str, ...] = ()
    memory_mb: int = 0
    workspace_mb: int = 0
    precisions: tuple[str, ...] = ("float32", "tf32", "float16", "int8")
    optimization_level: int = 3
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            UsageError: for a profile whose sizes do not ascend, or a value that cannot be.
        """
        if not self.profiles:
            raise UsageError(
                "profiles is empty, expected at least one table of axis = [least, usual, largest].",
                code="engine-settings",
            )
        for index, profile in enumerate(self.profiles):
            for axis, (least, usual, largest) in profile.items():
                if not 1 <= least <= usual <= largest:
                    raise UsageError(
                        f"profiles[{index}]: {axis} is [{least}, {usual}, {largest}], expected least <= usual <= largest, all at least 1. Put them in order.",
                        code="engine-settings",
                    )
            if set(profile) != set(self.profiles[0]):
                raise UsageError(
                    f"profiles[{index}] names the axes {', '.join(sorted(profile))}, the first names {', '.join(sorted(self.profiles[0]))}.",
                    code="engine-settings",
                )
        for name in self.precisions:
            if name not in PRECISIONS:
                raise UsageError(
                    f"precisions has '{name}'.{near(name, PRECISIONS)} Expected: {', '.join(PRECISIONS)}.",
                    code="engine-settings",
                )
        if not 0 <= self.optimization_level <= 5:
            raise UsageError(
                f"optimization_level is {self.optimization_level}, expected 0 to 5.", code="engine-settings"
            )
        if self.workspace_mb < 0 or self.memory_mb < 0 or self.workspace_mb > (self.memory_mb or self.workspace_mb):
            raise UsageError(
                f"workspace_mb is {self.workspace_mb} and memory_mb {self.memory_mb}, expected a workspace smaller than the device's memory.",
                code="engine-settings",
            )
        if version(self.minimum) < OLDEST:
            raise UsageError(
                f"minimum is '{self.minimum}', expected {'.'.join(map(str, OLDEST))} or newer.", code="engine-settings"
            )
        for name in self.compute_capability:
            version(name)

    def accepts(self) -> str:
        """The profiles in words, e.g. ``batch 1-8 with sequence 1-64``."""
        return "; ".join(
            ", ".join(f"{axis} {low}-{high}" for axis, (low, _, high) in sorted(p.items())) for p in self.profiles
        )

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether a profile holds these sizes, by axis."""
        return any(
            all(p[axis][0] <= size <= p[axis][2] for axis, size in sizes.items() if axis in p) for p in self.profiles
        )

    def clamp_profiles(self, limits: Mapping[str, int], axes: Iterable[str] | None = None) -> EngineRecipe:
        """The recipe for one model: larger profiles are cut, axes that its graphs do not have and profiles that say nothing new are left out.

        Args:
            limits: axis to the largest size that the model takes along it; axes without one stay as they are.
            axes: of the model's graphs that vary, ``batch`` with them; None where all that the profiles name stay.
        """
        kept: list[Mapping[str, tuple[int, int, int]]] = []
        for profile in self.profiles:
            present = {axis: sizes for axis, sizes in profile.items() if axes is None or axis in axes}
            cut = {
                axis: (min(low, most := limits.get(axis, high)), min(usual, most), min(high, most))
                for axis, (low, usual, high) in present.items()
            }
            if not any(all(cut[a][0] >= p[a][0] and cut[a][2] <= p[a][2] for a in cut) for p in kept):
                kept.append(cut)
        return replace(self, profiles=tuple(kept))


def version(text: str) -> tuple[int, ...]:
    """``10.16.2.10`` as numbers, so that 10.3 is older than 10.16.

    Raises:
        UsageError: when it is no version.
    """
    parts = text.split("+")[0].split(".")
    numbers = [int(p) for p in parts if p.isascii() and p.isdigit()]
    if len(numbers) < 2 or len(numbers) < min(2, len(parts)):
        raise UsageError(
            f"'{text}' is not a version, expected numbers with points between them, e.g. 10.3.", code="version-invalid"
        )
    return tuple(numbers)


def shapes(
    signature: Signature, profile: Mapping[str, tuple[int, int, int]]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Input name to its least, usual and largest shape in a profile.

    Raises:
        UsageError: for an axis that varies and is not in the profile.
    """
    made = {}
    for spec in signature.inputs:
        for axis in spec.shape:
            if isinstance(axis, str) and axis not in profile:
                raise UsageError(
                    f"The input '{spec.name}' varies along '{axis}', which the profiles do not name. Add {axis} = [least, usual, largest].",
                    code="engine-axis-missing",
                )
        sizes = [tuple(profile[a][i] if isinstance(a, str) else a for a in spec.shape) for i in range(3)]
        made[spec.name] = (sizes[0], sizes[1], sizes[2])
    return made


def trtexec(recipe: EngineRecipe, signature: Signature, graph: str, plan: str) -> list[str]:
    """Lines of NVIDIA's own tool that make engines like those of a recipe, one for each profile (EdgeKit puts all into one engine).

    ``--stronglyTyped`` is what TensorRT 10 needs and 11 ignores; no precision flag goes with it (trtexec of TensorRT 10.3 to 11).
    """
    lines = []
    for index, profile in enumerate(recipe.profiles):
        parts = ["trtexec", f"--onnx={graph}", "--stronglyTyped", "--noTF32" if "TF32" not in recipe.flags else ""]
        for place, name in enumerate(("minShapes", "optShapes", "maxShapes")):
            sizes = ",".join(f"{n}:{'x'.join(map(str, s[place]))}" for n, s in shapes(signature, profile).items())
            parts.append(f"--{name}={sizes}")
        parts += [f"--memPoolSize=workspace:{recipe.workspace_mb}M"] if recipe.workspace_mb else []
        own = plan if len(recipe.profiles) == 1 else f"{plan.removesuffix('.plan')}-{index}.plan"
        parts += [f"--builderOptimizationLevel={recipe.optimization_level}", "--skipInference", f"--saveEngine={own}"]
        lines.append(" ".join(p for p in parts if p))
    return lines


def is_supported_version(found: Sequence[int]) -> bool:
    """Whether EdgeKit works with a TensorRT of this version."""
    return OLDEST <= tuple(found[:2]) < (12,)
