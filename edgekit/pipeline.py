"""Floor 9: the whole story: a fine-tuned model goes in, a measured and verified bundle comes out."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import backends, quantize, source, tasks, tune
from edgekit import samples as samples_module
from edgekit.engines import assemble
from edgekit.engines.cache import Cache, code_digest, key
from edgekit.engines.measure import cpu_name, cpus, has_vnni
from edgekit.engines.trust import Bundle, files_below, sha256
from edgekit.export import single as single_export
from edgekit.report.table import trials_table
from edgekit.runtime import golden
from edgekit.runtime.loops import single
from edgekit.samples import Samples
from edgekit.source import Source
from edgekit.spec import target as targets
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.manifest import FORMAT, Manifest, Trial, Variant
from edgekit.spec.parsing import parse, plain
from edgekit.spec.progress import Progress, silent
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature
from edgekit.tasks.text_classification import TextClassification

CALIBRATION_ROWS = 300
_CALIBRATION_BATCH = 4
_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "openvino", "numpy", "tokenizers")


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

    Attributes:
        bundle: the bundle; its manifest holds all trials and the reason of the choice.
        seconds: what the build took.
        reused: steps that were taken from the cache.
    """

    bundle: Bundle
    seconds: float
    reused: tuple[str, ...]

    def table(self) -> str:
        """The candidates as a plain text table, and why the winner won."""
        manifest = self.bundle.manifest
        return f"{trials_table(manifest.trials, manifest.score_name, manifest.reference_score)}\n{manifest.reason}"


def build(
    model: str | os.PathLike[str] | None = None,
    *,
    samples: str | os.PathLike[str],
    eval: str | os.PathLike[str],
    out: str | os.PathLike[str],
    target: str | os.PathLike[str] = "cpu",
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    budget: Mapping[str, float] | None = None,
    module: Any = None,
    processor: Any = None,
    task: str = source.TASK,
    calibration_rows: int = CALIBRATION_ROWS,
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Exports, quantizes, measures every candidate against the torch model, and writes the fastest inside the budget.

    Args:
        model: a local Hugging Face folder or a hub id; or None with ``module`` and ``processor``.
        samples: calibration rows (JSONL, CSV, TSV or a calibration TOML); labels are not needed.
        eval: evaluation rows with labels: candidates are scored on them.
        out: folder of the bundle; appears whole or not at all.
        target: name of a target, or a TOML file.
        revision: branch, tag or commit of a hub id.
        columns: role (``text``, ``text_pair``, ``label``) to column name, for both sample files.
        budget: limits that replace the target's, e.g. ``{"accuracy_drop": 0.005}``.
        module: a torch module with a head of one's own, see :func:`edgekit.source.from_module`.
        processor: its Hugging Face tokenizer.
        task: the task of ``module``.
        calibration_rows: rows chosen from ``samples``, at random by ``seed``.
        seed: of that choice.
        force: replace a bundle that is at ``out``.
        progress: told how far each step is.

    Raises:
        EdgekitError: a subclass says which of model, samples, target, export, budget or disk is at fault; nothing is left at ``out``.
    """
    start = time.perf_counter()
    destination = Path(os.path.abspath(out))
    aim = targets.with_budget(targets.load(os.fspath(target)), budget or {})
    _check_target(aim)
    assemble.check_output(destination, force)
    assemble.check_place(destination)
    # Labels are not needed for calibration, so a column that is named for them need not be there.
    calibration = samples_module.read(Path(samples), {r: c for r, c in (columns or {}).items() if r != "label"}).take(calibration_rows, seed)
    evaluation = samples_module.read(Path(eval), columns)
    labels = evaluation.labels()  # a missing one is told now, not when the export is done
    _check_count(calibration, aim)
    origin = _origin(model, revision, module, processor, task)

    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        steps = _Steps(origin, calibration, evaluation, Path(scratch), progress)
        floats = steps.export()
        scorer = tasks.get(floats.task).load(floats.assets)
        truth = scorer.parse_labels(labels, evaluation.where)
        answers = steps.reference()
        reference = scorer.score(answers, truth)
        origin.release()
        made = {method: steps.quantize(method, floats, scorer) for method in aim.methods}
        blank = _manifest(aim, floats, scorer.score_name, reference, steps.provenance(seed))
        candidates = [
            steps.candidate(made[method], backend, aim, blank) for method in aim.methods for backend in aim.backends if backend in quantize.get(method).BACKENDS
        ]
        trials = steps.race(candidates, scorer, answers)
        winner, reason, judged = tune.choose(trials, aim, scorer.score_name, reference)
        best, trial = candidates[winner], judged[winner]
        variant = replace(best.bundle.manifest.variants[0], executed=trial.executed)
        manifest = replace(best.bundle.manifest, variants=(variant,), reason=reason, trials=tuple(judged))
        files: dict[str, Path | bytes] = {name: best.bundle.path / name for name in manifest.files}
        files[golden.FILE] = _golden(best, variant, manifest, scorer)
        progress("write", 0, 0)
        bundle = assemble.write(destination, manifest, files, force=force)
    return BuildResult(bundle, time.perf_counter() - start, tuple(steps.reused))


class _Steps:
    """The steps that are worth keeping: each looks into the cache first, by the digest of all that it depends on."""

    def __init__(self, origin: Source, calibration: Samples, evaluation: Samples, scratch: Path, progress: Progress) -> None:
        self.origin, self.calibration, self.evaluation = origin, calibration, evaluation
        self.scratch, self.progress = scratch, progress
        self.cache = Cache()
        self.reused: list[str] = []
        self.tools = {name: version for name in _TOOLS if (version := _version(name)) is not None}
        self.always = {"code": code_digest(), "tools": self.tools}

    def export(self) -> GraphSet:
        """The float32 graphs, compared with torch on the calibration texts."""
        texts = [row.inputs for row in self.calibration.rows]
        parts = {"step": "export", "model": self.origin.digest, "samples": self.calibration.digest}
        self.progress("export", 0, 0)
        made = self._graphs("export", parts, lambda out: single_export.export(self.origin, out, texts))
        # The same files may have had another name when they were exported.
        return replace(made, provenance={**made.provenance, "model": self.origin.model_id, "revision": self.origin.revision})

    def reference(self) -> np.ndarray:
        """What the torch model answers on the evaluation texts: float32 ``[rows, labels]``."""
        parts = {"step": "reference", "model": self.origin.digest, "samples": self.evaluation.digest}

        def make(folder: Path) -> None:
            rows = self.origin.token_ids([row.inputs for row in self.evaluation.rows])
            np.save(folder / "logits.npy", self.origin.logits(rows, self.progress))

        return np.asarray(np.load(self._kept("torch reference", parts, make) / "logits.npy", allow_pickle=False))

    def quantize(self, method: str, floats: GraphSet, scorer: TextClassification) -> GraphSet:
        """The graphs by one method. The graphs of ``float32`` are those of the export."""
        if method == "float32":
            return floats
        # The assets decide what token ids the samples become.
        inputs = {"graphs": [sha256(g.path) for g in floats.graphs], "assets": [[n, sha256(floats.assets / n)] for n in files_below(floats.assets)]}
        parts = {"step": method, **inputs, "samples": self.calibration.digest}

        def make(out: Path) -> GraphSet:
            batches = _batches(scorer, floats.graphs[0].signature, self.calibration) if quantize.get(method).NEEDS_SAMPLES else []
            return quantize.get(method).quantize(floats, batches, out, self.progress)

        return replace(self._graphs(method, parts, make), assets=floats.assets, provenance=floats.provenance)

    def candidate(self, graphs: GraphSet, backend: str, aim: Target, blank: Manifest) -> tune.Candidate:
        """A bundle in the scratch folder, complete but for its golden outputs."""
        method = graphs.graphs[0].method
        engines = {g.signature.name: backends.get(backend).compile_graph(g, aim, self.scratch) for g in graphs.graphs}
        variant = Variant(
            backend=backend,
            method=method,
            graphs={name: f"graphs/{path.name}" for name, path in engines.items()},
            device=aim.device,
            threads=aim.threads or cpus(),
            executed="not measured",
            requires=_requires(method),
            versions={name: self.tools[name] for name in (backends.get(backend).PACKAGE, "numpy", "tokenizers") if name in self.tools},
        )
        place = self.scratch / f"{method}-{backend}"
        return tune.Candidate(method, backend, assemble.write(place, replace(blank, variants=(variant,)), assemble.graph_files(graphs), scratch=True))

    def race(self, candidates: Sequence[tune.Candidate], scorer: TextClassification, reference: np.ndarray) -> list[Trial]:
        """The measurements of all candidates on this machine."""
        parts = {
            "step": "race",
            "bundles": [hashlib.sha256(repr(sorted(c.bundle.manifest.files.items())).encode()).hexdigest() + c.backend for c in candidates],
            "threads": [c.bundle.manifest.variants[0].threads for c in candidates],
            "samples": self.evaluation.digest,
            "reference": hashlib.sha256(reference.tobytes()).hexdigest(),
            "machine": [cpu_name(), cpus(), platform.platform()],
        }

        def make(folder: Path) -> None:
            trials = tune.race(candidates, scorer, self.evaluation, reference, self.progress)
            (folder / "trials.json").write_text(json.dumps(plain(trials)), "utf-8")

        found = json.loads((self._kept("race", parts, make) / "trials.json").read_text("utf-8"))
        return [parse(Trial, trial, "race in the build cache") for trial in found]

    def provenance(self, seed: int) -> dict[str, str]:
        """What a bundle says of its making, beside the model."""
        return {
            "calibration_digest": self.calibration.digest,
            "calibration_rows": str(len(self.calibration)),
            "evaluation_digest": self.evaluation.digest,
            "evaluation_rows": str(len(self.evaluation)),
            "seed": str(seed),
            "cpu": cpu_name(),
            "python": platform.python_version(),
            "edgekit": _version("edgekit") or "source",
            **self.tools,
        }

    def _graphs(self, step: str, parts: dict[str, Any], make: Callable[[Path], GraphSet]) -> GraphSet:
        """A step that makes graphs; what they are is kept in ``graphs.json`` beside them."""

        def write(folder: Path) -> None:
            graphs = make(folder)
            entries = [{"signature": plain(g.signature), "path": g.path.name, "method": g.method} for g in graphs.graphs]
            (folder / "graphs.json").write_text(json.dumps({**plain(graphs), "graphs": entries, "assets": "assets"}), "utf-8")

        folder = self._kept(step, parts, write)
        data = json.loads((folder / "graphs.json").read_text("utf-8"))
        graphs = tuple(Graph(parse(Signature, g["signature"], "graph in the build cache"), folder / g["path"], g["method"]) for g in data["graphs"])
        return GraphSet(data["task"], data["loop"], graphs, folder / data["assets"], data["provenance"])

    def _kept(self, step: str, parts: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of a step: from the cache, or made now. What depends on a module from Python is not kept: its code has no digest."""
        if parts.get("model", "") is None:
            folder = self.scratch / step.replace(" ", "-")
            with assemble.disk_errors(self.scratch):
                folder.mkdir()
                make(folder)
            return folder
        digest = key(**parts, **self.always)
        found = self.cache.find(digest)
        if found is not None:
            self.reused.append(step)
            return found
        with assemble.disk_errors(self.cache.root), self.cache.fill(digest, {**parts, **self.always}) as folder:
            make(folder)
            self.progress(step, 1, 1)  # whoever wants to stop does it here, even where a library swallowed the interrupt
        return self.cache.root / digest


def _origin(model: str | os.PathLike[str] | None, revision: str | None, module: Any, processor: Any, task: str) -> Source:
    if (model is None) == (module is None):
        raise UsageError("Give either a model (folder or hub id) or module= and processor=, not both and not neither.")
    if model is None:
        if revision is not None:
            raise UsageError("revision= is of a hub id, and a module was given. Leave it out.")
        return source.from_module(module, processor, task)
    if processor is not None or task != source.TASK:
        raise UsageError("processor= and task= go with module=, and a model was given, which brings its own. Leave them out.")
    return source.read(os.fspath(model), revision)


def _check_target(aim: Target) -> None:
    """Refuses a target whose backends or methods are unknown or missing, before anything is loaded."""
    for method in aim.methods:
        quantize.get(method)
    for backend in aim.backends:
        backends.get(backend).check_target(aim)
        if backends.installed_version(backend) is None:
            raise backends.not_installed(backend)
    if not any(set(quantize.get(method).BACKENDS) & set(aim.backends) for method in aim.methods):
        raise UsageError(
            f"Target '{aim.name}' has no candidate: none of its methods ({', '.join(aim.methods)}) runs on its backends ({', '.join(aim.backends)}). "
            "Add a method or a backend."
        )


def _check_count(calibration: Samples, aim: Target) -> None:
    for method in aim.methods:
        needed = quantize.get(method).NEEDS_SAMPLES
        if len(calibration) < needed:
            raise SamplesError(
                f"{calibration.where} has {len(calibration)} rows, the method '{method}' of target '{aim.name}' needs at least {needed} "
                "to see the range of activations. Give more samples; labels are not needed."
            )


def _batches(scorer: TextClassification, signature: Signature, calibration: Samples) -> list[dict[str, np.ndarray]]:
    """Calibration feeds, a few rows each in the order of the file, so that short rows are padded as in use."""
    tokens = scorer.preprocess([row.inputs for row in calibration.rows])
    starts = range(0, len(tokens), _CALIBRATION_BATCH)
    return [single.collate(signature, [t.arrays for t in tokens[i : i + _CALIBRATION_BATCH]]) for i in starts]


def _manifest(aim: Target, floats: GraphSet, score_name: str, reference: float, provenance: Mapping[str, str]) -> Manifest:
    """What all candidates' manifests have in common."""
    return Manifest(
        format=FORMAT,
        task=floats.task,
        loop=floats.loop,
        max_batch=aim.max_batch,
        signatures=tuple(g.signature for g in floats.graphs),
        variants=(),
        files={},
        target=aim.name,
        reason="",
        score_name=score_name,
        reference_score=reference,
        trials=(),
        provenance={**floats.provenance, **provenance},
    )


def _golden(best: tune.Candidate, variant: Variant, manifest: Manifest, scorer: TextClassification) -> bytes:
    """Inputs from generated text, and what the winner answers to them here."""
    signature = manifest.signatures[0]
    device = backends.get(variant.backend).open_device(variant.device, variant.threads)
    engine = device.load(best.bundle.path / variant.graphs[signature.name], signature)
    texts = single_export.fuzz_texts(max_length=scorer.settings.max_length, count=16)[:16]
    try:
        return golden.make(engine, signature, [t.arrays for t in scorer.preprocess(texts)])
    finally:
        engine.close()
        device.close()


def _requires(method: str) -> dict[str, str]:
    """What a device must have beyond the backend: an INT8 bundle that was scored with VNNI saturates on x86 without it."""
    return {"instructions": "vnni"} if method != "float32" and has_vnni() else {}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
