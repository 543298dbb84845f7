"""Build targets: one TOML file per kind of device."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from edgekit.spec.engine import EngineRecipe
from edgekit.spec.errors import UsageError, check_known, near
from edgekit.spec.manifest import CHOOSE_ON
from edgekit.spec.parsing import parse
from edgekit.spec.paths import takes_paths
from edgekit.spec.quantization import Quantization

__all__ = ["ACCURACY_DROP", "USES", "Budget", "Target", "folders", "load", "names", "read_toml", "with_budget"]

USES = ("latency", "throughput")
ACCURACY_DROP = 0.01
"""Accuracy budget of a target that has none. A missing budget never means "no limit"."""


@dataclass(frozen=True)
class Budget:
    """Limits of a candidate. ``None`` is no limit, except that a target replaces it for ``accuracy_drop``.

    Attributes:
        accuracy_drop: Largest loss of the task score against the torch model, on the evaluation samples.
        p50_ms: Largest median latency from input to answer in ms, for one stream and batch 1.
        memory_mb: Largest peak resident memory of the predicting process, in MiB.
        first_answer_ms: Largest time from process start to the first answer, in ms.
        size_mb: Largest size of the bundle on disk, in MiB.
        accuracy: Least task score of the candidate on the evaluation samples, 0 to 1, independent of the torch model;
            the largest one for an error rate.
    """

    accuracy_drop: float | None = None
    p50_ms: float | None = None
    memory_mb: float | None = None
    first_answer_ms: float | None = None
    size_mb: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        """Check the range of each limit.

        Raises:
            UsageError: If a limit is negative, or ``accuracy`` is above 1.
        """
        for key, value in vars(self).items():
            if value is not None and not 0 <= value <= sys.float_info.max:
                raise UsageError(
                    f"{key} is {value:g}, expected a number of at least 0. Correct it.", code="budget-value"
                )
        if self.accuracy is not None and self.accuracy > 1:
            raise UsageError(
                f"accuracy is {self.accuracy:g}, expected a score from 0 to 1. Write 0.9 for 90 %.", code="budget-value"
            )

    def largest_drop(self, reference: float, higher_is_better: bool = True) -> float | None:
        """Return the largest drop that meets both ``accuracy_drop`` and ``accuracy``; None without a limit.

        The result is negative if the reference itself misses ``accuracy``.

        Args:
            reference: Score of the torch model.
            higher_is_better: Direction of the score.
        """
        limits = [] if self.accuracy_drop is None else [self.accuracy_drop]
        if self.accuracy is not None:
            limits.append(reference - self.accuracy if higher_is_better else self.accuracy - reference)
        return min(limits, default=None)


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: Name for ``--target``.
        description: One line for ``edgekit targets``.
        backends: Backend names, in order of preference.
        methods: Quantization methods to try.
        device: Device of the backend: ``cpu`` or ``gpu``.
        threads: Threads per call on a CPU, concurrent calls on a GPU; 0 uses all CPUs available to the process.
        max_batch: Largest number of rows that a session puts into one batch.
        budget: Limits of a candidate. A missing ``accuracy_drop`` becomes ``ACCURACY_DROP``.
        quantize: Settings of the quantization methods.
        shapes: Bucket edges in tokens, for backends that gain from static shapes; empty for no buckets. If it is
            missing, the build searches for them.
        use: ``latency`` for the shortest time per text, ``throughput`` for the most texts per second in batches.
        choose_on: ``host`` if the build machine races the candidates. ``device`` if it cannot run them as the device
            does: the bundle then holds the two candidates that the target prefers (by order of the methods, then of the
            backends) and, beside them, the first one on LiteRT. They race when the bundle is first loaded.
        instructions: Instruction sets of the device's CPU, as ``edgekit doctor`` names them; empty for those of the
            build machine.
        engine: Recipe of the TensorRT engines; None for backends that run the graph itself.
    """

    name: str
    description: str
    backends: tuple[str, ...]
    methods: tuple[str, ...]
    device: str = "cpu"
    threads: int = 0
    max_batch: int = 32
    budget: Budget = field(default_factory=Budget)
    quantize: Quantization = field(default_factory=Quantization)
    shapes: tuple[int, ...] | None = None
    use: str = "latency"
    choose_on: str = "host"
    instructions: tuple[str, ...] = ()
    engine: EngineRecipe | None = None

    def __post_init__(self) -> None:
        """Set the default accuracy budget."""
        if self.budget.accuracy_drop is None:
            object.__setattr__(self, "budget", replace(self.budget, accuracy_drop=ACCURACY_DROP))


def folders() -> tuple[Path, ...]:
    """Return the folders with target files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "targets", package.parent / "targets")
    return tuple(folder for folder in candidates if folder.is_dir())


def names() -> list[str]:
    """Return the names of the targets that EdgeKit ships, sorted."""
    return sorted({file.stem for folder in folders() for file in folder.glob("*.toml")})


@takes_paths("name")
def load(name: str | Path) -> Target:
    """Read a target by its name, or from a TOML file of the user.

    A file may begin with ``extends = "cpu"``: the name of a target, or a TOML file relative to this one. Its keys
    replace those of the extended target. The tables ``budget``, ``quantize`` and ``engine`` are merged key by key; a
    list is replaced as a whole.

    Raises:
        UsageError: If the name or a key is unknown (with the nearest known name), a value is invalid, or the file is
            not TOML.
    """
    path = _find_file(name)
    target = parse(Target, _read_with_parents(path, ()), f"target {path.name}")
    for message in _invalid_values(target):
        raise UsageError(f"target {path.name}{message}", code="target-value")
    return target


def _invalid_values(target: Target) -> Iterator[str]:
    """Yield the end of an error message, without the name of the target, for each invalid value."""
    if target.threads < 0 or target.max_batch < 1:
        yield (
            f" has threads {target.threads} and max_batch {target.max_batch}, expected at least 0 and 1. "
            "Correct the file."
        )
    for key in ("backends", "methods"):
        values = getattr(target, key)
        if len(set(values)) < len(values):
            repeated = max(values, key=values.count)
            yield f": {key} names '{repeated}' twice, expected each name once. Remove one."
    if target.shapes is not None:
        ascending = list(target.shapes) == sorted(set(target.shapes))
        if not ascending or min(target.shapes, default=1) < 1:
            yield f": shapes is {list(target.shapes)}, expected ascending numbers of tokens. Correct the file."
    for key, value, known in (("use", target.use, USES), ("choose_on", target.choose_on, CHOOSE_ON)):
        if value not in known:
            yield f": {key} is '{value}'.{near(value, known)} Expected one of: {', '.join(known)}."


def _find_file(name: str | Path, folder: Path | None = None) -> Path:
    """Return the file of a target.

    Args:
        name: Name of a target, or a path that ends in ``.toml``.
        folder: Base of a relative path; None for the working directory.
    """
    if str(name).endswith(".toml"):
        path = Path(name) if folder is None else folder / name
        if not path.is_file():
            raise UsageError(
                f"Target file {path} does not exist. Expected a TOML file or one of: {', '.join(names())}.",
                code="target-not-found",
            )
        return path
    check_known([str(name)], names(), "target")
    files = [each / f"{name}.toml" for each in folders()]
    return next(file for file in files if file.is_file())


def _read_with_parents(path: Path, children: tuple[Path, ...]) -> dict[str, object]:
    """Read a target file, and merge its keys over those of the target that it extends.

    Args:
        path: Target file.
        children: Files that led here by ``extends``, the first file first.
    """
    data = read_toml(path)
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise UsageError(
            f"target {path.name}: extends is {parent!r}, expected the name of a target or a TOML file. "
            "Correct the file.",
            code="target-extends",
        )
    if "name" not in data:
        raise UsageError(
            f"target {path.name} extends '{parent}' but has no name. Add name = ... to it.",
            code="target-extends",
        )
    base = _find_file(parent, path.parent)
    chain = tuple(file.resolve() for file in (*children, path))
    if base.resolve() in chain:
        cycle = " -> ".join(file.name for file in (*chain, base))
        raise UsageError(f"target {path.name} extends itself: {cycle}. Remove one extends.", code="target-extends")
    return _merge_tables(_read_with_parents(base, (*children, path)), data)


def _merge_tables(base: dict[str, object], data: dict[str, object]) -> dict[str, object]:
    """Return ``base`` with the keys of ``data``: tables are merged key by key, other values replaced."""
    result = dict(base)
    for key, value in data.items():
        current = result.get(key)
        if isinstance(current, dict) and isinstance(value, dict):
            result[key] = _merge_tables(current, value)
        else:
            result[key] = value
    return result


def read_toml(path: Path) -> dict[str, object]:
    """Read a TOML file. Users write TOML; devices only read JSON.

    ``tomllib`` needs Python 3.11. Older versions need the package ``tomli``.

    Raises:
        UsageError: If the file is not valid TOML, or ``tomli`` is missing.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as problem:
            raise UsageError(
                f"{path} is a TOML file, and Python {sys.version.split()[0]} has no TOML reader (3.11 has). "
                "Run: pip install tomli, or use the build machine.",
                code="extra-missing",
            ) from problem
    try:
        with path.open("rb") as stream:
            data: dict[str, object] = tomllib.load(stream)
            return data
    # ValueError: not TOML, not UTF-8, or a number with thousands of digits. RecursionError: nested too deeply.
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{path} is not valid TOML: {problem}. Correct the file.", code="toml-invalid") from problem


def with_budget(target: Target, overrides: Mapping[str, float]) -> Target:
    """Return the target with other limits.

    Args:
        target: Target to copy.
        overrides: New limit by budget key.

    Raises:
        UsageError: If a key is not a budget key, or a value is not a number of at least 0.
    """
    check_known(overrides, [f.name for f in fields(Budget)], "budget key", listed="Known keys")
    for key, value in overrides.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= sys.float_info.max:
            raise UsageError(f"Budget {key} is {value!r}, expected a number of at least 0.", code="budget-value")
    limits = {key: float(value) for key, value in overrides.items()}
    return replace(target, budget=replace(target.budget, **limits))
