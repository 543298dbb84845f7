"""First files of a repository that deploys a model: ``edgekit.toml``, ``gates.toml`` and a GitHub workflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgekit.spec import target as targets
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import UsageError
from edgekit.spec.gates import Gates
from edgekit.spec.parsing import to_json
from edgekit.spec.paths import check_path, takes_paths

__all__ = ["GATES", "WORKFLOW", "Started", "start"]

GATES = "gates.toml"
WORKFLOW = ".github/workflows/edgekit.yml"
_PROJECT = "edgekit.toml"
_TYPES = (".jsonl", ".json", ".csv", ".tsv")
_CALIBRATION = ("train", "calibration", "calib", "samples")
_EVALUATION = ("dev", "val", "valid", "validation", "eval", "evaluation", "test")
_FOLDERS = (".", "data", "samples", "datasets")


@dataclass(frozen=True)
class Started:
    """Result of :func:`start`.

    Attributes:
        files: Paths of the files that were written.
        model: Model in ``edgekit.toml``; empty if the user has to fill it in.
        samples: Calibration samples; empty if the user has to fill them in.
        eval: Evaluation samples; empty if the user has to fill them in.
        targets: Targets, by name or TOML file.
    """

    files: tuple[str, ...]
    model: str
    samples: str
    eval: str
    targets: tuple[str, ...]

    def text(self) -> str:
        """Return the written files and the next steps, one line each."""
        lines = [f"Wrote {', '.join(self.files)}."]
        missing = [key for key in ("model", "samples", "eval") if not getattr(self, key)]
        steps = []
        if missing:
            steps.append(f"Fill in {', '.join(missing)} in {_PROJECT}.")
        steps += [
            "Build: edgekit build",
            "Measure the baseline that later builds are compared with: edgekit baseline",
            f"Check a build: edgekit check --gates {GATES}",
            f"Adapt {WORKFLOW} to your repository and commit the files, the baseline with them.",
        ]
        lines += ["Next:", *(f"  {number}.  {step}" for number, step in enumerate(steps, 1))]
        return "\n".join(lines)


@takes_paths("folder")
def start(
    folder: str | Path = ".",
    *,
    model: str | None = None,
    samples: str | None = None,
    eval: str | None = None,
    target: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
) -> Started:
    """Write the first files of a project. Existing files are never overwritten.

    Args:
        folder: Root of the repository.
        model: Hugging Face folder or hub id; None for a folder with a ``config.json`` in or below ``folder``.
        samples: Calibration samples; None for a file such as ``data/train.jsonl``.
        eval: Evaluation samples with labels; None for a file such as ``data/dev.jsonl``.
        target: Targets, by name or TOML file; none for ``cpu``.
        columns: Column name by role.

    Returns:
        The written files, with the chosen values.

    Raises:
        UsageError: If one of the files exists, or a target is unknown. Nothing is written then.
    """
    root = Path(folder)
    for value, name in ((model, "model"), (samples, "samples"), (eval, "eval")):
        if value is not None:
            check_path(value, name)
    for name in target:
        targets.load(name)
    chosen = Started(
        files=(_PROJECT, GATES, WORKFLOW),
        model=model or _find_model(root),
        samples=samples or _find_samples(root, _CALIBRATION),
        eval=eval or _find_samples(root, _EVALUATION),
        targets=tuple(target) or ("cpu",),
    )
    texts = {
        _PROJECT: _project_text(chosen, columns or {}),
        GATES: _gates_text(),
        WORKFLOW: _workflow_text(),
    }
    for name in texts:
        if (root / name).exists():
            raise UsageError(
                f"{root / name} exists, and init does not overwrite it. Edit it, or remove it first.",
                code="init-exists",
                path=name,
            )
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("x", encoding="utf-8") as stream:
            stream.write(text)
    return chosen


def _find_model(root: Path) -> str:
    """Return the path of the model folder in or directly below the root; empty if there is none, or several."""
    if not root.is_dir():
        return ""
    folders = [root, *sorted(place for place in root.iterdir() if place.is_dir())]
    models = [folder for folder in folders if (folder / "config.json").is_file()]
    return _relative(models[0], root) if len(models) == 1 else ""


def _find_samples(root: Path, stems: Sequence[str]) -> str:
    """Return the path of the first sample file with one of the names; empty if there is none."""
    for stem in stems:
        for folder in _FOLDERS:
            for suffix in _TYPES:
                file = root / folder / f"{stem}{suffix}"
                if file.is_file():
                    return _relative(file, root)
    return ""


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _toml(value: Any) -> str:
    """Return a string or a list of strings as TOML, whose basic strings are those of JSON."""
    return to_json(value, ensure_ascii=False)


def _project_text(chosen: Started, columns: Mapping[str, str]) -> str:
    several = len(chosen.targets) > 1
    lines = [
        "# Model, samples and targets of edgekit build, edgekit baseline and edgekit check.",
        "# Paths are relative to this file.",
        "",
        f"model = {_toml(chosen.model)}  # Hugging Face folder or hub id",
        f"samples = {_toml(chosen.samples)}  # calibration of INT8; labels are not needed",
        f"eval = {_toml(chosen.eval)}  # labelled samples of the build's choice and of checks",
        f"targets = {_toml(list(chosen.targets))}  # see: edgekit targets",
        'out = "bundles"  # the bundle of each target is at bundles/TARGET',
        f"baseline = {_toml('baselines' if several else 'baseline.json')}  # written by: edgekit baseline",
    ]
    if columns:
        pairs = ", ".join(f"{role} = {_toml(name)}" for role, name in columns.items())
        lines.append(f"columns = {{ {pairs} }}")
    lines += [
        "",
        "[budget]  # limits of the build and of every check",
        "accuracy_drop = 0.01  # against the torch model",
        "# p50_ms = 5",
        "# memory_mb = 200",
        "",
        "[check]",
        'report = "reports"  # HTML, Markdown, JUnit and JSON',
        "",
    ]
    return "\n".join(lines)


_MEANING = {
    "latency": "largest allowed growth over the baseline, as a share: 0.05 is 5 %",
    "accuracy": "largest allowed loss against the baseline",
    "footprint": "largest allowed growth over the baseline, as a share",
}


def _gates_text() -> str:
    """Return the default margins as TOML, for the user to edit."""
    lines = ['# Margins of edgekit check --gates gates.toml. "off" in place of a number turns a gate off.']
    for table in fields(Gates):
        if table.name == "budget":
            continue
        lines += ["", f"[{table.name}]  # {_MEANING[table.name]}"]
        for name, value in vars(getattr(Gates(), table.name)).items():
            lines.append(f"{name} = {value:g}" if value is not None else f'{name} = "off"')
    return "\n".join([*lines, ""])


def _workflow_text() -> str:
    return f"""\
# Builds the bundles of {_PROJECT} and compares them with the baseline. The report is an artifact of the run.
name: edgekit
on:
  pull_request:
  workflow_dispatch:
permissions:
  contents: read
jobs:
  check:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
          cache: pip
          cache-dependency-path: {_PROJECT}
      # Not on PyPI yet: until then, name your wheel of it in place of the distribution.
      - run: {install_hint("build")} --extra-index-url https://download.pytorch.org/whl/cpu
      - run: edgekit build
      # A baseline of another machine decides accuracy and size; its latencies are incomparable here.
      - run: edgekit check --gates {GATES} --allow-incomparable
      - uses: actions/upload-artifact@v4
        if: always()
        with:
          name: edgekit-reports
          path: reports
          if-no-files-found: ignore
"""
