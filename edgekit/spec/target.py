"""What a bundle is built for: a TOML file per kind of device."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
"""The limit of a target that states none: a missing accuracy budget is never "no limit"."""


@dataclass(frozen=True)
class Budget:
    """What a candidate may cost, and what it must reach. ``None`` is no limit; a target replaces it for ``accuracy_drop``.

    Attributes:
        accuracy_drop: how much worse the candidate's score is than the torch model's, on the evaluation samples.
        p50_ms: median time from input to answer, one stream, batch 1.
        memory_mb: peak resident memory of the process that predicts, in MiB.
        first_answer_ms: from process start to the first label.
        size_mb: of the bundle on disk, in MiB.
        accuracy: least task score of the candidate on the evaluation samples, 0 to 1, whatever torch reaches; the largest one of an error rate.
    """

    accuracy_drop: float | None = None
    p50_ms: float | None = None
    memory_mb: float | None = None
    first_answer_ms: float | None = None
    size_mb: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        """Checks the range of each limit.

        Raises:
            UsageError: for a negative limit, or an ``accuracy`` above 1.
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
        """The drop from a reference score that keeps both ``accuracy_drop`` and ``accuracy``; negative where the reference is under the floor.

        Args:
            reference: score of the torch model.
            higher_is_better: direction of the score.
        """
        limits = [] if self.accuracy_drop is None else [self.accuracy_drop]
        if self.accuracy is not None:
            limits.append(reference - self.accuracy if higher_is_better else self.accuracy - reference)
        return min(limits, default=None)


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: as given to ``--target``.
        description: one line for ``edgekit targets``.
        backends: in order of preference.
        methods: quantization methods that may compete.
        device: which device of the backend: ``cpu`` or ``gpu``.
        threads: threads of one call, on a GPU calls at the same time; 0 means every CPU that the process may use.
        max_batch: rows of the largest batch that a session forms out of a list.
        budget: limits that a candidate must keep; without an ``accuracy_drop`` it is ``ACCURACY_DROP``.
        quantize: what the methods are told.
        shapes: bucket edges in tokens for backends that gain from static shapes; empty for none, left out to have them searched.
        use: ``latency``: one text at a time as fast as possible; ``throughput``: as many texts a second as possible, in batches.
        choose_on: ``host``: the building machine races the candidates; ``device``: it cannot run them as the device does, so the two
            that the target prefers (methods in their order, then backends) go into the bundle and race where it is first loaded.
        instructions: instruction sets that the device's CPU has, as ``edgekit doctor`` names them; empty means those of the building machine.
        engine: how TensorRT makes engines for it; None for backends that run the graph itself.
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
        """Fills in the accuracy budget that every target has."""
        if self.budget.accuracy_drop is None:
            object.__setattr__(self, "budget", replace(self.budget, accuracy_drop=ACCURACY_DROP))


def folders() -> tuple[Path, ...]:
    """Where target files are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return tuple(p for p in (package / "targets", package.parent / "targets") if p.is_dir())


def names() -> list[str]:
    """Names of the targets that EdgeKit ships, sorted."""
    return sorted({file.stem for folder in folders() for file in folder.glob("*.toml")})


@takes_paths("name")
def load(name: str | Path) -> Target:
    """Reads a target by its name, or from a TOML file of the user's own.

    A file may begin with ``extends = "cpu"``: the name of a target, or a TOML file relative to this one. Its keys replace those of the
    target that it extends; the tables ``budget``, ``quantize`` and ``engine`` are merged key by key, a list is replaced as a whole.

    Raises:
        UsageError: for an unknown name or key, or a file that is not TOML; with the nearest known name.
    """
    path = _file(name)
    target = parse(Target, _merged(path, ()), f"target {path.name}")
    if target.threads < 0 or target.max_batch < 1:
        raise UsageError(
            f"target {path.name} has threads {target.threads} and max_batch {target.max_batch}, expected at least 0 and 1. Correct the file.",
            code="target-value",
        )
    for key in ("backends", "methods"):
        names = getattr(target, key)
        if len(set(names)) < len(names):
            raise UsageError(
                f"target {path.name}: {key} names '{max(names, key=names.count)}' twice, expected each once. Leave one out.",
                code="target-value",
            )
    if target.shapes is not None and (
        list(target.shapes) != sorted(set(target.shapes)) or min(target.shapes, default=1) < 1
    ):
        raise UsageError(
            f"target {path.name}: shapes is {list(target.shapes)}, expected ascending numbers of tokens. Correct the file.",
            code="target-value",
        )
    for key, value, known in (("use", target.use, USES), ("choose_on", target.choose_on, CHOOSE_ON)):
        if value not in known:
            raise UsageError(
                f"target {path.name}: {key} is '{value}'.{near(value, known)} Expected one of: {', '.join(known)}.",
                code="target-value",
            )
    return target


def _file(name: str | Path, folder: Path | None = None) -> Path:
    """The file of a target: by its name, or of the user's own.

    Args:
        name: of a target, or a path that ends in ``.toml``.
        folder: what a relative path starts from; None for the working directory.
    """
    if str(name).endswith(".toml"):
        path = Path(name) if folder is None else folder / name
        if not path.is_file():
            raise UsageError(
                f"Target file {path} does not exist. Expected a TOML file or one of: {', '.join(names())}.",
                code="target-not-found",
            )
        return path
    files = [file for each in folders() if (file := each / f"{name}.toml").is_file()] if str(name) in names() else []
    check_known([] if files else [name], names(), "target")
    return files[0]


def _merged(path: Path, below: tuple[Path, ...]) -> dict[str, object]:
    """The keys of a target file over those of the target that it extends.

    Args:
        path: the file.
        below: files that extend this one, the first of all first.
    """
    data = read_toml(path)
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise UsageError(
            f"target {path.name}: extends is {parent!r}, expected the name of a target or a TOML file. Correct the file.",
            code="target-extends",
        )
    if "name" not in data:
        raise UsageError(
            f"target {path.name} extends '{parent}' and has no name of its own. Add name = ... to it.",
            code="target-extends",
        )
    base = _file(parent, path.parent)
    if base.resolve() in (seen := tuple(file.resolve() for file in (*below, path))):
        chain = " -> ".join(file.name for file in (*seen, base))
        raise UsageError(f"target {path.name} extends itself: {chain}. Remove one extends.", code="target-extends")
    return _overlaid(_merged(base, (*below, path)), data)


def _overlaid(base: dict[str, object], data: dict[str, object]) -> dict[str, object]:
    """Tables merged key by key, everything else replaced."""
    result = dict(base)
    for key, value in data.items():
        under = result.get(key)
        result[key] = _overlaid(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def read_toml(path: Path) -> dict[str, object]:
    """Reads a TOML file, which people write; devices read JSON. ``tomllib`` starts at Python 3.11, before that it takes the package ``tomli``."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as problem:
            why = f"which Python {sys.version.split()[0]} cannot read by itself (3.11 can)"
            raise UsageError(
                f"{path} is a TOML file, {why}. Run: pip install tomli, or do this on the build machine.",
                code="extra-missing",
            ) from problem
    try:
        with path.open("rb") as stream:
            found: dict[str, object] = tomllib.load(stream)
            return found
    except (
        ValueError,
        RecursionError,
    ) as problem:  # not TOML, not UTF-8, a number of thousands of digits, nested too deeply
        raise UsageError(f"{path} is not valid TOML: {problem}. Correct the file.", code="toml-invalid") from problem


def with_budget(target: Target, overrides: Mapping[str, float]) -> Target:
    """The same target with other limits.

    Raises:
        UsageError: for a key that is not a budget key, or a value that is not a number of at least 0.
    """
    check_known(overrides, [f.name for f in fields(Budget)], "budget key", listed="Known keys")
    for key, value in overrides.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= sys.float_info.max:
            raise UsageError(f"Budget {key} is {value!r}, expected a number of at least 0.", code="budget-value")
    return replace(target, budget=replace(target.budget, **{k: float(v) for k, v in overrides.items()}))
