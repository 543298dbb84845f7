"""Recipe of a TensorRT engine: the ``[engine]`` table of a target file, which a bundle passes to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.spec.errors import UsageError, near
from edgekit.spec.tensor import Signature

__all__ = ["OLDEST", "PRECISIONS", "EngineRecipe", "is_supported_version", "shapes", "trtexec", "version"]

PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "int8", "fp8", "fp4")
"""Precisions of tensor cores, by the names of NVIDIA's hardware support matrix."""

OLDEST = (10, 3)
"""Oldest supported TensorRT, from JetPack 6.1."""

_Profile = Mapping[str, tuple[int, int, int]]
"""Optimization profile: least, usual and largest size by axis name."""


@dataclass(frozen=True)
class EngineRecipe:
    """Profiles and builder settings of an engine.

    Networks are always strongly typed: the graph defines the type of each layer. TensorRT 11 accepts nothing else.

    Attributes:
        profiles: Optimization profiles. Each has the least, the usual and the largest size of every variable axis, e.g.
            ``{"batch": (1, 1, 8), "sequence": (1, 32, 64)}``. A call runs in the first profile that holds its shapes.
        minimum: Oldest TensorRT that can build the engine, ``major.minor``.
        compute_capability: Compute capabilities of the supported GPUs, e.g. ``8.7``; empty for any.
        memory_mb: Memory of the device in MiB, shared with the CPU on a Jetson; 0 if it is not known.
        workspace_mb: Largest scratch memory of a layer at build time and at run time, in MiB; 0 for a quarter of the
            device's memory. The default of TensorRT is all memory, which the rest of a Jetson's system needs too.
        precisions: Precisions that the GPU supports.
        optimization_level: Effort of TensorRT to find fast kernels, 0 to 5. The default of TensorRT is 3.
        flags: Names of the members of ``BuilderFlag`` to set, e.g. ``SPARSE_WEIGHTS``. All others are cleared. So is
            ``TF32``, which TensorRT sets by default and which computes in a lower precision than the graph states.
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
        """Check the values.

        Raises:
            UsageError: If the sizes of a profile do not ascend, or a value is out of range.
        """
        for message in self._invalid_values():
            raise UsageError(message, code="engine-settings")
        for name in self.compute_capability:
            version(name)

    def _invalid_values(self) -> Iterator[str]:
        """Yield an error message for each invalid value."""
        if not self.profiles:
            yield "profiles is empty, expected at least one table of axis = [least, usual, largest]."
        for index, profile in enumerate(self.profiles):
            for axis, (least, usual, largest) in profile.items():
                if not 1 <= least <= usual <= largest:
                    yield (
                        f"profiles[{index}]: {axis} is [{least}, {usual}, {largest}], "
                        "expected least <= usual <= largest, all at least 1. Put them in order."
                    )
            if set(profile) != set(self.profiles[0]):
                axes = ", ".join(sorted(profile))
                first_axes = ", ".join(sorted(self.profiles[0]))
                yield f"profiles[{index}] names the axes {axes}, the first names {first_axes}. Name the same axes."
        for name in self.precisions:
            if name not in PRECISIONS:
                yield f"precisions has '{name}'.{near(name, PRECISIONS)} Expected: {', '.join(PRECISIONS)}."
        if not 0 <= self.optimization_level <= 5:
            yield f"optimization_level is {self.optimization_level}, expected 0 to 5."
        is_too_large = self.memory_mb > 0 and self.workspace_mb > self.memory_mb
        if self.workspace_mb < 0 or self.memory_mb < 0 or is_too_large:
            yield (
                f"workspace_mb is {self.workspace_mb} and memory_mb {self.memory_mb}, "
                "expected a workspace smaller than the device's memory."
            )
        if version(self.minimum) < OLDEST:
            yield f"minimum is '{self.minimum}', expected {'.'.join(map(str, OLDEST))} or newer."

    def accepts(self) -> str:
        """Return the profiles as text, e.g. ``batch 1-8, sequence 1-64``."""
        texts = []
        for profile in self.profiles:
            texts.append(", ".join(f"{axis} {low}-{high}" for axis, (low, _, high) in sorted(profile.items())))
        return "; ".join(texts)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Return whether a profile holds these sizes, by axis name."""
        return any(_profile_holds(profile, sizes) for profile in self.profiles)

    def clamp_profiles(self, limits: Mapping[str, int], axes: Iterable[str] | None = None) -> EngineRecipe:
        """Return the recipe for one model, without profiles that hold no further sizes.

        Args:
            limits: Largest size that the model accepts, by axis name. Other axes are not clamped.
            axes: Names of the variable axes of the model's graphs, including ``batch``. Other axes are removed from the
                profiles. None keeps all axes.
        """
        profiles: list[_Profile] = []
        for profile in self.profiles:
            clamped = {}
            for axis, sizes in profile.items():
                if axes is not None and axis not in axes:
                    continue
                limit = limits.get(axis, sizes[2])
                least, usual, largest = (min(size, limit) for size in sizes)
                clamped[axis] = (least, usual, largest)
            if not any(_covers(other, clamped) for other in profiles):
                profiles.append(clamped)
        return replace(self, profiles=tuple(profiles))


def _profile_holds(profile: _Profile, sizes: Mapping[str, int]) -> bool:
    """Return whether a profile holds these sizes, by axis name. Axes that it does not name are ignored."""
    return all(profile[axis][0] <= size <= profile[axis][2] for axis, size in sizes.items() if axis in profile)


def _covers(profile: _Profile, other: _Profile) -> bool:
    """Return whether a profile holds every size of another one with the same axes."""
    return all(profile[axis][0] <= least and largest <= profile[axis][2] for axis, (least, _, largest) in other.items())


def version(text: str) -> tuple[int, ...]:
    """Parse a version such as ``10.16.2.10`` into numbers, so that 10.3 is older than 10.16.

    Raises:
        UsageError: If the text is not a version.
    """
    parts = text.split("+")[0].split(".")
    numbers = [int(p) for p in parts if p.isascii() and p.isdigit()]
    if len(numbers) < 2 or len(numbers) < min(2, len(parts)):
        raise UsageError(
            f"'{text}' is not a version, expected numbers separated by dots, e.g. 10.3.", code="version-invalid"
        )
    return tuple(numbers)


def shapes(
    signature: Signature, profile: Mapping[str, tuple[int, int, int]]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Return the least, the usual and the largest shape of each input in a profile, by input name.

    Raises:
        UsageError: If the profile lacks a variable axis.
    """
    result = {}
    for spec in signature.inputs:
        sizes: list[tuple[int, int, int]] = []
        for axis in spec.shape:
            if isinstance(axis, int):
                sizes.append((axis, axis, axis))
            elif axis in profile:
                sizes.append(profile[axis])
            else:
                raise UsageError(
                    f"The input '{spec.name}' varies along '{axis}', which the profiles do not name. "
                    f"Add {axis} = [least, usual, largest].",
                    code="engine-axis-missing",
                )
        least = tuple(size[0] for size in sizes)
        usual = tuple(size[1] for size in sizes)
        largest = tuple(size[2] for size in sizes)
        result[spec.name] = (least, usual, largest)
    return result


def trtexec(recipe: EngineRecipe, signature: Signature, graph: str, plan: str) -> list[str]:
    """Return ``trtexec`` command lines that build the engines of a recipe, one per profile.

    EdgeKit itself puts all profiles into one engine. ``--stronglyTyped`` is required by TensorRT 10 and ignored by 11.
    It excludes all precision flags (trtexec of TensorRT 10.3 to 11).

    Args:
        recipe: Recipe of the engine.
        signature: Signature of the graph.
        graph: Path of the ONNX file.
        plan: Path of the engine; the number of the profile is added if there are several.
    """
    lines = []
    for index, profile in enumerate(recipe.profiles):
        parts = ["trtexec", f"--onnx={graph}", "--stronglyTyped"]
        if "TF32" not in recipe.flags:
            parts.append("--noTF32")
        input_shapes = shapes(signature, profile)
        for place, option in enumerate(("minShapes", "optShapes", "maxShapes")):
            sizes = ",".join(f"{name}:{'x'.join(map(str, s[place]))}" for name, s in input_shapes.items())
            parts.append(f"--{option}={sizes}")
        if recipe.workspace_mb:
            parts.append(f"--memPoolSize=workspace:{recipe.workspace_mb}M")
        path = plan if len(recipe.profiles) == 1 else f"{plan.removesuffix('.plan')}-{index}.plan"
        parts += [f"--builderOptimizationLevel={recipe.optimization_level}", "--skipInference", f"--saveEngine={path}"]
        lines.append(" ".join(parts))
    return lines


def is_supported_version(numbers: Sequence[int]) -> bool:
    """Return whether EdgeKit supports this version of TensorRT."""
    return OLDEST <= tuple(numbers[:2]) < (12,)
