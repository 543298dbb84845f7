"""One model of a build, the teacher or a student, and all ways to run it that compete."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from edgekit import backends, quantize, tasks
from edgekit.bundle import assemble
from edgekit.machine.cpu import cpus
from edgekit.quantize._calibration import Calibration
from edgekit.runtime.loops import single
from edgekit.samples import Samples
from edgekit.search import stand_in
from edgekit.search.checks import FULL_RANGE
from edgekit.search.race import Candidate
from edgekit.search.steps import Evaluation, Steps
from edgekit.source import Source
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.graph import GraphSet
from edgekit.spec.manifest import FORMAT, MAX_TOKENS, Manifest, Variant
from edgekit.spec.target import Target
from edgekit.spec.tensor import Signature
from edgekit.tasks.text_classification import TextClassification

_CALIBRATION_BATCH = 4


@dataclass
class Contender:
    """A model that competes.

    Attributes:
        name: of the student in tables; empty for the model itself.
        steps: makes and measures, or finds in the cache.
        aim: the target.
        floats: graphs of its export.
        rows: the evaluation set, tokenized by its own tokenizer.
        calibration: feeds of the calibration set, by its own tokenizer.
        lengths: tokens of each calibration row.
        blank: what the manifests of its candidates have in common.
        strict: gate the bound of the accuracy drop.
        until: ``time.monotonic()`` after which layers in float are no longer searched, or None.
        notes: what should be known, a sentence each.
        sensitivity: method to its ranking of layers.
    """

    name: str
    steps: Steps
    aim: Target
    floats: GraphSet
    rows: Evaluation
    calibration: Calibration
    lengths: Sequence[int]
    blank: Manifest
    strict: bool
    until: float | None
    notes: list[str] = field(default_factory=list)
    sensitivity: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def as_asked(self, method: str, backend: str) -> Candidate | None:
        """The model by one method on one backend, with all layers that the target quantizes; None where they do not go together."""
        if backend not in quantize.get(method).BACKENDS or backends.installed_version(backend) is None:
            return None
        return self._on_each(self.steps.quantize(method, self.floats, self.aim.quantize, self.calibration), [backend])[0]

    def candidates(self, method: str) -> list[Candidate]:
        """The model by one method on each backend that runs it; where that loses too much, also with fewer layers quantized."""
        runs_on = [b for b in self.aim.backends if b in quantize.get(method).BACKENDS]
        if not runs_on:
            return []
        graphs = self.steps.quantize(method, self.floats, self.aim.quantize, self.calibration)
        return [c for made in (graphs, *self._with_less_in_int8(method, graphs)) for c in self._on_each(made, runs_on)]

    def _with_less_in_int8(self, method: str, graphs: GraphSet) -> list[GraphSet]:
        """What holds the accuracy budget where all layers in INT8 do not: both race, so that the table shows what it cost."""
        if self.steps.holds(graphs, self.rows, self.aim, self.strict):
            return []
        if self.until is not None and time.monotonic() > self.until:
            self.notes.append(f"The time allowed was used up: layers of '{method}' in float were not searched.")
            return []
        recipe = graphs.graphs[0].recipe
        settings = replace(self.aim.quantize, ranges=recipe.get("ranges", self.aim.quantize.ranges), smooth=recipe.get("smooth", self.aim.quantize.smooth))
        found = self.steps.reverted(method, self.floats, settings, self.calibration, self.rows, self.aim, self.strict)
        if found is None:
            self.notes.append(f"No number of layers in float brings '{method}'{self._of} inside the accuracy budget.")
            return []
        self.sensitivity[method] = found[1]
        return [found[0]]

    def _on_each(self, graphs: GraphSet, runs_on: Sequence[str]) -> list[Candidate]:
        """One bundle in the scratch folder, complete but for its golden outputs, and a way to run it on each backend."""
        method = graphs.graphs[0].method
        variants = [self._variant(graphs, backend) for backend in runs_on]
        place = self.steps.scratch / f"{method}-{len(list(self.steps.scratch.glob(f'{method}-*')))}"
        bundle = assemble.write(place, replace(self.blank, variants=tuple(variants)), assemble.graph_files(graphs), scratch=True)
        return [Candidate(bundle, variant, self.name) for variant in variants]

    def _variant(self, graphs: GraphSet, backend: str) -> Variant:
        graph, tools = graphs.graphs[0], self.steps.tools
        return Variant(
            backend=backend,
            method=graph.method,
            graphs={g.signature.name: f"graphs/{g.path.name}" for g in graphs.graphs},
            device=self.aim.device,
            threads=self.aim.threads or cpus(),
            executed="not measured",
            requires=_requires(graph.method, self.aim),
            versions={name: tools[name] for name in (*backends.get(backend).PACKAGES, "numpy", "tokenizers") if name in tools},
            recipe=graph.recipe,
            shapes=(self.aim.shapes or ()) if backends.get(backend).STATIC_SHAPES else (),
            linear_macs=self._linear_macs,
            engine=self._engine_recipe if backends.get(backend).ENGINES else None,
            rows=quantize.rows_of(graphs),
            max_tokens=0 if backends.get(backend).ENGINES else MAX_TOKENS,  # an engine's memory is that of its profiles, whatever a call holds
        )

    @cached_property
    def _linear_macs(self) -> int:
        return quantize.linear_macs(self.floats)

    @cached_property
    def _engine_recipe(self) -> EngineRecipe | None:
        """The target's, for the rows that this model takes."""
        return self.aim.engine and self.aim.engine.settled({"sequence": self.rows.task.settings.max_length, "batch": self.aim.max_batch})

    @property
    def _of(self) -> str:
        return f" of the student {self.name}" if self.name else ""


def contender(
    name: str, origin: Source, steps: Steps, aim: Target, rows: Evaluation, provenance: Mapping[str, str], strict: bool, until: float | None
) -> Contender:
    """A model, or a student of it, with what its own tokenizer makes of the samples.

    Args:
        name: of the student; empty for the model itself.
        origin: the model.
        steps: makes and measures, or finds in the cache.
        aim: the target.
        rows: the evaluation set, with what the model itself answers.
        provenance: of the build.
        strict: gate the bound of the accuracy drop.
        until: ``time.monotonic()`` after which layers in float are no longer searched, or None.
    """
    floats = steps.export(origin)
    origin.release()
    task = tasks.get(floats.task).load(floats.assets)
    signature = floats.graphs[0].signature
    feeds, lengths = batches(task, signature, steps.calibration)
    guard: list[dict[str, np.ndarray]] = []
    if any("float16" in quantize.get(method).PRECISIONS for method in aim.methods):
        long = stand_in.long_rows(task, rows.texts, stand_in.longest(aim, task.settings.max_length))
        guard = batches(task, signature, rows.samples)[0] + [single.collate(signature, [row]) for row in long]
    blank = _blank_manifest(aim, floats, task.score_name, task.score(rows.reference, rows.truth), provenance)
    return Contender(name, steps, aim, floats, replace(rows, task=task), Calibration(feeds, task.divergence, guard), lengths, blank, strict, until)


def batches(scorer: TextClassification, signature: Signature, calibration: Samples) -> tuple[list[dict[str, np.ndarray]], list[int]]:
    """Calibration feeds, a few rows each in the order of the file, so that short rows are padded as in use; and each row's tokens."""
    tokens = scorer.preprocess([row.inputs for row in calibration.rows])
    starts = range(0, len(tokens), _CALIBRATION_BATCH)
    return [single.collate(signature, [t.arrays for t in tokens[i : i + _CALIBRATION_BATCH]]) for i in starts], [len(t) for t in tokens]


def _blank_manifest(aim: Target, floats: GraphSet, score_name: str, reference: float, provenance: Mapping[str, str]) -> Manifest:
    """What all candidates' manifests of a model have in common."""
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
        choose_on=aim.choose_on,
        provenance={**floats.provenance, **provenance},
    )


def _requires(method: str, aim: Target) -> dict[str, str]:
    """What a device must have beyond the backend: sums of INT8 products of full range saturate on x86 without VNNI, whatever they were made and scored on."""
    return {"instructions": "vnni"} if method in FULL_RANGE and aim.quantize.weight_bits == 8 else {}
