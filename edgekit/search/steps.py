"""The steps of a build that are worth keeping: each looks into the cache first, by the digest of all that it depends on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import quantize, source, tasks
from edgekit.bundle import assemble
from edgekit.cache.store import Cache, key
from edgekit.compress.vocabulary import trimmed
from edgekit.export import single as single_export
from edgekit.machine.busy import Busy, Watch, outdated
from edgekit.machine.cpu import cpu_name, cpus
from edgekit.quantize._calibration import Calibration
from edgekit.quantize._sensitivity import revert
from edgekit.report import companions
from edgekit.runtime.loops import single
from edgekit.samples import Samples
from edgekit.samples.evaluation import paired
from edgekit.search import agree, kept_answers, race, record, stand_in
from edgekit.search.checks import AS_WRITTEN, answers_for, runs_here
from edgekit.search.race import Answers, Candidate, Race
from edgekit.search.stand_in import Outputs
from edgekit.source import Source
from edgekit.spec.digests import code_digest, files_below, sha256
from edgekit.spec.graph import Graph, GraphSet
from edgekit.spec.parsing import parse, plain, to_json
from edgekit.spec.progress import Progress
from edgekit.spec.quantization import Quantization
from edgekit.spec.sealed import seal
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature
from edgekit.stats.once import distinct
from edgekit.stats.paired import Paired
from edgekit.tasks.text_classification import TextClassification

_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "openvino", "numpy", "scipy", "tokenizers")


@dataclass(frozen=True)
class Evaluation:
    """Labelled rows, what they are scored by, and what the torch model answers to them.

    Attributes:
        samples: the rows.
        task: scores them.
        truth: labels as the task parses them.
        reference: float32 ``[rows, labels]``.
    """

    samples: Samples
    task: TextClassification
    truth: np.ndarray
    reference: np.ndarray

    @property
    def texts(self) -> list[Any]:
        """As a session takes them."""
        return [row.inputs for row in self.samples.rows]

    def compare(self, logits: np.ndarray) -> Paired:
        """A candidate's answers to these rows, float32 ``[rows, labels]``, against the reference's; rows with equal inputs count once."""
        return paired(self.task, logits, self.reference, self.truth, self.texts)

    def holds(self, logits: np.ndarray, limit: float, drop: float | None, strict: bool) -> bool:
        """Whether a candidate's answers are inside the accuracy budget, and what the score cannot see inside what goes with it.

        Args:
            logits: float32 ``[rows, labels]``.
            limit: largest drop from the reference's score.
            drop: the budget's ``accuracy_drop``, which the error of numbers and the recall of labels are measured by.
            strict: the upper ends of intervals count.
        """
        compared, once = self.compare(logits), distinct(self.texts, self.truth)
        if not (compared.high if strict else compared.drop) <= limit + 1e-9:
            return False
        error, recall = companions.of_rows(self.task, self.reference[once.rows], logits[once.rows], once.truth, drop)
        return companions.holds(error, recall, drop, strict)


class Steps:
    """Makes the parts of one build, or finds them."""

    def __init__(
        self,
        origin: Source,
        calibration: Samples,
        scratch: Path,
        progress: Progress,
        replayed: record.Record | None,
        cache: Cache | None = None,
        rerace: bool = False,
    ) -> None:
        """Binds what every step needs.

        Args:
            origin: the model.
            calibration: rows that ranges are taken from.
            scratch: a folder that goes when the build ends.
            progress: told how far each step is.
            replayed: take times from this record instead of a clock.
            cache: where what was made is looked for; by default the user's.
            rerace: measure times anew, whatever is in the cache.
        """
        self.origin, self.calibration = origin, calibration
        self.scratch, self.progress, self.replayed = scratch, progress, replayed
        self.cache = cache or Cache()
        self.rerace = rerace
        self.reused: list[str] = []
        self.remeasured: list[str] = []
        self._made: set[str] = set()
        self._references: dict[str, np.ndarray] = {}
        self.tools = {name: found for name in _TOOLS if (found := version(name)) is not None}
        self.always = {"code": code_digest(), "tools": self.tools}
        self.recorded = record.Record(cpu_name())

    def export(self, origin: Source) -> GraphSet:
        """The float32 graphs of the model or of a student, compared with torch on the calibration texts."""
        texts = [row.inputs for row in self.calibration.rows]
        parts = {"step": "export", "model": origin.digest, "samples": self.calibration.digest}
        self.progress("export", 0, 0)
        made = self._graphs("export", parts, lambda out: single_export.export(origin, out, texts))
        # The same files may have had another name when they were exported.
        return replace(made, provenance={**made.provenance, "model": origin.model_id, "revision": origin.revision})

    def trim(self, model: Source, samples: Sequence[Samples], tokens: Sequence[str] | None, evaluation: Samples) -> tuple[Source, str]:
        """The model or a student with the tokens of the samples, or of a list, alone; and what that came to, in two sentences."""
        listed = None if tokens is None else key(tokens=list(tokens))
        parts = {"step": "vocabulary", "model": model.digest, "samples": [s.digest for s in samples], "tokens": listed, "eval": evaluation.digest}
        texts, others = [row.inputs for s in samples for row in s.rows], [row.inputs for row in evaluation.rows]

        def make(folder: Path) -> None:
            made = trimmed(model, texts, tokens, others, folder / "model", self.progress)
            (folder / "said.txt").write_text(made.text(), "utf-8")

        folder = self._kept("vocabulary", parts, make)
        found = source.read(folder / "model")
        found.model_id, found.revision = model.model_id, model.revision
        return found, (folder / "said.txt").read_text("utf-8")

    def reference(self, samples: Samples) -> np.ndarray:
        """What the torch model answers on texts: float32 ``[rows, labels]``."""
        parts = {"step": "reference", "model": self.origin.digest, "samples": samples.digest}

        def make(folder: Path) -> None:
            rows = self.origin.token_ids([row.inputs for row in samples.rows])
            np.save(folder / "logits.npy", self.origin.logits(rows, self.progress))

        if samples.digest not in self._references:  # a small cache may let it go, and every candidate is compared with it
            self._references[samples.digest] = np.load(self._kept("torch reference", parts, make) / "logits.npy", allow_pickle=False)
        return self._references[samples.digest]

    def quantize(self, method: str, floats: GraphSet, settings: Quantization, rows: Calibration) -> GraphSet:
        """The graphs by one method. The graphs of ``float32`` are those of the export."""
        if method == "float32":
            return floats

        def make(out: Path) -> GraphSet:
            return quantize.get(method).quantize(floats, rows, settings, out, self.progress)

        return replace(self._graphs(method, self._made_from(method, floats, settings, rows), make), assets=floats.assets, provenance=floats.provenance)

    def reverted(
        self, method: str, floats: GraphSet, settings: Quantization, rows: Calibration, scored: Evaluation, aim: Target, strict: bool
    ) -> tuple[GraphSet, Mapping[str, float]] | None:
        """The graphs with the fewest layers in float that hold the accuracy budget on the evaluation rows, and the ranking.

        Args:
            method: by which the rest is quantized.
            floats: of the export.
            settings: with ranges and smoothing as they were chosen for all layers in INT8.
            rows: calibration feeds.
            scored: evaluation rows.
            aim: its budget, and the backend that is asked first.
            strict: the upper end of the drop's interval must hold it.

        Returns:
            None where not even all but one layer in float would hold it.
        """
        limit = aim.budget.largest_drop(scored.task.score(scored.reference, scored.truth))
        assert limit is not None
        parts = self._made_from(method, floats, settings, rows) | {"revert": [limit, strict, list(answers_for(method, aim)), scored.samples.digest]}

        def good(graphs: GraphSet) -> bool:
            return _inside(self._outputs(graphs.graphs[0], aim, scored), scored, aim, limit, strict)

        def make(out: Path) -> GraphSet:
            found = revert(quantize.get(method), floats, rows, settings, good, out, self.progress)
            ranking = {s.layer: s.damage for s in found[1]} if found else {}
            (out / "sensitivity.json").write_text(to_json(ranking), "utf-8")
            return found[0] if found else replace(floats, graphs=())

        made = self._graphs(f"{method}, layers in float", parts, make)
        if not made.graphs:
            return None
        ranking = json.loads((made.graphs[0].path.parent / "sensitivity.json").read_text("utf-8"))
        return replace(made, assets=floats.assets, provenance=floats.provenance), ranking

    def holds(self, graphs: GraphSet, scored: Evaluation, aim: Target, strict: bool) -> bool:
        """Whether graphs are inside the accuracy budget and give numbers, as :meth:`outputs` says; kept, since it is asked at every build."""
        limit = aim.budget.largest_drop(scored.task.score(scored.reference, scored.truth))
        # Where torch itself is under the floor, no number of layers in float reaches it.
        if limit is None or limit < 0 or graphs.graphs[0].method == "float32":
            return True
        return _inside(self.outputs(graphs.graphs[0], scored, aim), scored, aim, limit, strict)

    def outputs(self, graph: Graph, scored: Evaluation, aim: Target) -> Outputs:
        """What a graph answers to the evaluation rows on the first of the target's backends that runs here, or the stand-in; there to long rows too."""
        where = answers_for(graph.method, aim)
        weights = files_below(graph.path.parent / "weights")
        parts: dict[str, Any] = {"step": "logits", "graph": sha256(graph.path), "weights": weights, "backend": list(where)}
        parts |= {"samples": scored.samples.digest, "model": self.origin.digest, "cpu": cpu_name()}
        parts |= {"longest": stand_in.longest(aim, scored.task.settings.max_length)}

        def make(folder: Path) -> None:
            found = self._outputs(graph, aim, scored)
            np.savez(folder / "logits.npz", logits=found.logits, long=found.long)

        with np.load(self._kept(f"{graph.method} on the evaluation rows", parts, make) / "logits.npz", allow_pickle=False) as stored:
            return Outputs(stored["logits"], stored["long"])

    def for_the_device(self, candidate: Candidate, scored: Evaluation, aim: Target) -> tuple[Answers, str]:
        """What a candidate for a device elsewhere answers to rows, and why it cannot be used, empty where it can.

        On the stand-in costs are 0, and a row that is not finite is answered by zeros, so that it can be scored.

        Args:
            candidate: what is scored.
            scored: rows, whatever tokenizer they come with.
            aim: the target.
        """
        variant, manifest = candidate.variant, candidate.bundle.manifest
        backend, place = answers_for(variant.method, aim)
        if place != AS_WRITTEN and runs_here(variant.backend):
            return self.answers(candidate, scored.samples, aim.budget.memory_mb), ""
        signature, task = manifest.signatures[0], tasks.get(manifest.task).load(candidate.bundle.path / "assets")
        graph = Graph(signature, candidate.bundle.path / variant.graphs[signature.name], variant.method)
        found = self.outputs(graph, replace(scored, task=task), aim)
        finite = np.isfinite(found.logits).all(axis=1, keepdims=True)
        return Answers(np.where(finite, found.logits, np.float32(0)), 0.0, 0.0, f"unknown (scored on {backend})"), found.trouble(variant.method)

    def answers(self, candidate: Candidate, samples: Samples, limit_mb: float | None = None) -> Answers:
        """What a candidate answers to texts alone and in lists, how far these are apart, and what that costs on this machine.

        Args:
            candidate: what runs.
            samples: with the texts.
            limit_mb: memory that the process may take, or None: lists are cut accordingly.
        """
        parts = {"step": "answers", **self._raced([candidate]), "samples": samples.digest, "limit_mb": limit_mb}
        texts = [row.inputs for row in samples.rows]
        task = tasks.get(candidate.bundle.manifest.task).load(candidate.bundle.path / "assets")
        longest = max(candidate.variant.max_tokens or task.settings.max_length, *map(len, task.preprocess(texts)))

        def make(folder: Path) -> None:
            watch = Watch()
            given = race.answers(candidate, texts, min(longest, task.settings.max_length), limit_mb, self.progress)
            kept_answers.write(folder, given, watch.stop())

        given = kept_answers.read(self._kept("answers", parts, make, kept_answers.busy))
        given = replace(given, lists=agree.compare(task, given.logits, given.listed, given.order, self.reference(samples), candidate.variant.method))
        given = self.replayed.with_costs(candidate, given) if self.replayed else given
        self.recorded.add_costs(candidate, given)
        return given

    def race(self, candidates: Sequence[Candidate], samples: Samples, rounds: int, texts: int, lists: bool, until: float | None) -> Race:
        """The times of candidates in turns, on this machine or from the record."""
        parts = {"step": "race", **self._raced(candidates), "samples": samples.digest, "rounds": rounds, "texts": texts, "lists": lists}
        parts["until"] = until  # a race that was cut short is found by no build that has more time

        def make(folder: Path) -> None:
            inputs = [row.inputs for row in samples.rows]
            found = race.in_turns(candidates, inputs, rounds, texts, self.progress, lists=lists, until=until)
            (folder / "race.json").write_text(to_json(plain(found)), "utf-8")

        found = self.replayed.race(candidates) if self.replayed else _race_in(self._kept("race", parts, make, lambda made: _race_in(made).busy))
        self.recorded.add_race(candidates, found)
        return found

    def sealed(self, samples: Samples) -> str:
        """The digest of samples as a bundle shows it; the same for the same model."""
        return seal(samples.digest, hashlib.sha256(f"samples of {self.origin.digest}".encode()).digest()[:16])

    def provenance(self, seed: int, evaluation: Samples) -> dict[str, str]:
        """What a bundle says of its making, beside the model."""
        return {
            "calibration_digest": self.sealed(self.calibration),
            "calibration_rows": str(len(self.calibration)),
            "evaluation_digest": self.sealed(evaluation),
            "evaluation_rows": str(len(evaluation)),
            "seed": str(seed),
            "cpu": cpu_name(),
            "python": platform.python_version(),
            "edgekit": version("edgekit") or "source",
            **self.tools,
        }

    def _outputs(self, graph: Graph, aim: Target, scored: Evaluation) -> Outputs:
        backend, place = answers_for(graph.method, aim)
        threads = aim.threads if backend in aim.backends and aim.threads else cpus()
        rows: list[Mapping[str, np.ndarray]] = [encoded.arrays for encoded in scored.task.preprocess(scored.texts)]
        count = len(rows)
        if place == AS_WRITTEN:
            rows += stand_in.long_rows(scored.task, scored.texts, stand_in.longest(aim, scored.task.settings.max_length))
        with stand_in.opened(graph.path, graph.signature, backend, place, self.scratch, threads=threads) as engine:
            parts = []
            for index, row in enumerate(rows):
                parts.append(next(iter(single.run({"forward": engine}, {"forward": graph.signature}, [row])[0].values()))[None])
                self.progress(f"score {graph.method}", index + 1, len(rows))
        answered = np.concatenate(parts)
        return Outputs(answered[:count], answered[count:])

    def _made_from(self, method: str, floats: GraphSet, settings: Quantization, rows: Calibration) -> dict[str, Any]:
        # The assets decide what token ids the samples become.
        inputs = {"graphs": [sha256(g.path) for g in floats.graphs], "assets": [[n, sha256(floats.assets / n)] for n in files_below(floats.assets)]}
        guard = rows.guard_digest() if "float16" in quantize.get(method).PRECISIONS else ""
        return {"step": method, **inputs, "samples": self.calibration.digest, "guard": guard, "settings": plain(settings), "model": self.origin.digest}

    def _raced(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        machine = [cpu_name(), cpus(), platform.platform()]
        return {"candidates": [record.key(c) for c in candidates], "machine": machine, "model": self.origin.digest}

    def _graphs(self, step: str, parts: dict[str, Any], make: Callable[[Path], GraphSet]) -> GraphSet:
        """A step that makes graphs; what they are is kept in ``graphs.json`` beside them."""

        def write(folder: Path) -> None:
            graphs = make(folder)
            entries = [{"signature": plain(g.signature), "path": g.path.name, "method": g.method, "recipe": dict(g.recipe)} for g in graphs.graphs]
            (folder / "graphs.json").write_text(to_json({**plain(graphs), "graphs": entries, "assets": "assets"}), "utf-8")

        folder = self._kept(step, parts, write)
        data = json.loads((folder / "graphs.json").read_text("utf-8"))
        where = "graph in the build cache"
        graphs = tuple(Graph(parse(Signature, g["signature"], where), folder / g["path"], g["method"], g["recipe"]) for g in data["graphs"])
        return GraphSet(data["task"], data["loop"], graphs, folder / data["assets"], data["provenance"])

    def _kept(self, step: str, parts: dict[str, Any], make: Callable[[Path], None], timed: Callable[[Path], Busy | None] | None = None) -> Path:
        """The folder of a step: from the cache, or made now. What depends on a module from Python is not kept: its code has no digest.

        Args:
            step: what it is called.
            parts: what it depends on.
            make: fills the folder.
            timed: of a step that holds times, what else the machine did while they were taken; old ones, and those of a busy machine, are not used.
        """
        digest = key(**parts, **self.always)
        if parts["model"] is None:
            folder = self.scratch / "made" / digest
            if not folder.exists():
                with assemble.disk_errors(self.scratch):
                    folder.mkdir(parents=True)
                    make(folder)
            return folder
        found = self.cache.find(digest)
        if found is not None and timed is not None and self._outdated(step, digest, timed(found)):
            self.cache.drop(digest)
            found = None
        if found is not None:
            if digest not in self._made and step not in self.reused:
                self.reused.append(step)
            return found
        self._made.add(digest)
        with assemble.disk_errors(self.cache.root), self.cache.fill(digest, {**parts, **self.always}) as folder:
            make(folder)
            self.progress("", 0, 0)  # whoever wants to stop does so now, even where a library swallowed the interrupt
        return self.cache.root / digest

    def _outdated(self, step: str, digest: str, busy: Busy | None) -> bool:
        """Whether times in the cache are to be taken again, which is said. Those of this build are not, nor what a record replaces."""
        if digest in self._made or self.replayed is not None:
            return False
        why = outdated(busy, self.cache.made(digest))
        if why and not self.rerace:
            self.remeasured.append(f"Times in the cache ({step}) were not used but measured again: {why}.")
        return self.rerace or bool(why)


def _race_in(folder: Path) -> Race:
    return parse(Race, json.loads((folder / "race.json").read_text("utf-8")), "race in the build cache")


def _inside(found: Outputs, scored: Evaluation, aim: Target, limit: float, strict: bool) -> bool:
    return found.finite and scored.holds(found.logits, limit, aim.budget.accuracy_drop, strict)


def version(package: str) -> str | None:
    """Of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
