"""An image classifier and a tagger on real data: what INT8 costs on the test sets, and answers side by side with the pipelines of Transformers.

Models and tables are those of ``train_small.py``. Of each model these bundles are built: what ``--target cpu`` chooses, and one for each INT8 method and
backend that a CPU has, with ranges from train and choices made on dev. All are scored on the test set, row by row against the torch model. A
float32 bundle answers the test set beside ``transformers.pipeline``: images by their paths; sentences as texts (words with a space between them, and as
they were written) and as words.

    python benchmarks/real_data.py WORK [--part build|score|beside] [--task images|words]

Writes ``results/real_data.json`` and the table ``results/real_data.md``; parts that are left out stay as they are there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "real_data.json"
TASKS = {"images": ("vit", "image-classification"), "words": ("tagger", "token-classification")}
BUNDLES = {
    "cpu": None,
    "float32": ("onnxruntime", "float32"),
    "dynamic": ("onnxruntime", "dynamic"),
    "static-onnxruntime": ("onnxruntime", "static"),
    "static-openvino": ("openvino", "static"),
}
TARGET = """name = "{name}"
description = "One method on one backend"
backends = ["{backend}"]
methods = ["{method}"]
"""
STRATEGIES = ("none", "first", "average", "max")  # beside "simple", which bundles have
FORMS = ("words with spaces", "as written", "words")
TOLERANCE = 1e-4
SOME = 250  # rows by which the other strategies are compared


def main() -> None:
    """Parses, builds, scores, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="of train_small.py; bundles are written there too")
    parser.add_argument(
        "--part", choices=("build", "score", "beside"), action="append", help="repeatable; all by default"
    )
    parser.add_argument("--task", choices=tuple(TASKS), action="append", help="repeatable; all by default")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.is_file() else {}
    found["machine"] = machine()
    for name in options.task or TASKS:
        found.setdefault("training", {})[name] = json.loads(
            (options.work / TASKS[name][0] / "training.json").read_text("utf-8")
        )
        for part in options.part or ("build", "score", "beside"):
            found.setdefault(part, {})[name] = {"build": build, "score": score, "beside": beside}[part](
                options.work, name
            )
            RESULT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if "score" in found and "beside" in found:
        RESULT.with_suffix(".md").write_text(table(found), "utf-8")
        print(table(found))


def build(work: Path, name: str) -> dict[str, Any]:
    """All bundles of a model."""
    import edgekit

    model, _ = TASKS[name]
    found = {}
    for kind, chosen in BUNDLES.items():
        target: str | Path = "cpu"
        if chosen is not None:
            target = work / f"{kind}.toml"
            target.write_text(TARGET.format(name=kind, backend=chosen[0], method=chosen[1]), "utf-8")
        start = time.perf_counter()
        data = {
            part: work / name / f"{rows}.jsonl"
            for part, rows in (("samples", "train"), ("eval", "dev"), ("test", "test"))
        }
        # What one method costs is what is asked here, whatever it is; a build for 'cpu' has the budget of its target.
        budget = {} if chosen is None else {"accuracy_drop": 1.0}
        test = data.pop("test")
        options = edgekit.BuildOptions(test=test, budget=budget, force=True)
        made = edgekit.build(work / model, **data, target=target, out=work / f"{model}-{kind}", options=options)
        text = made.table()
        print(f"{name}, {kind}: {time.perf_counter() - start:.0f} s\n{text}", flush=True)
        found[kind] = {
            "seconds": round(time.perf_counter() - start),
            "table": text.splitlines(),
            "notes": list(made.bundle.manifest.notes),
        }
    return found


def score(work: Path, name: str) -> dict[str, Any]:
    """All bundles on the test set against torch, with the interval of the drop; and each label's recall."""
    import edgekit
    from edgekit import samples, source, tasks

    model, kind = TASKS[name]
    origin = source.read(work / model)
    reference, found = None, {}
    for bundle in BUNDLES:
        folder = work / f"{model}-{bundle}"
        task = tasks.get(kind).load(folder / "assets")
        scored = samples.read(work / name / "test.jsonl", modality=task.modality).evaluation(task)
        reference = reference or origin.outputs(origin.encode(scored.inputs))
        with edgekit.load(folder) as session:
            outputs, info = session.outputs(list(scored.inputs)), session.info
        paired = scored.compare(outputs, reference)
        truth, answered = task.label_matrix(outputs, scored.truth)
        _, before = task.label_matrix(reference, scored.truth)
        columns = zip(task.labels, truth.T, before.T, answered.T, strict=True)
        recalls = {
            label: {"count": int(t.sum()), "torch": float(b[t].mean()), "bundle": float(a[t].mean())}
            for label, t, b, a in columns
        }
        found[bundle] = {
            "runs": f"{info.method} on {info.backend}", "score_name": task.metrics[0].name, "score": scored.score(outputs),
            "reference": scored.score(reference), "drop": paired.drop, "low": paired.low, "high": paired.high, "losses": paired.losses, "gains": paired.gains,
            "p_value": paired.p_value, "rows": paired.rows, "rows_changed": int((~task.same_answer(outputs, reference)).sum()),
            "answers_changed": float((answered != before).any(axis=1).mean()), "labels": recalls,
        }  # fmt: skip
        print(name, bundle, {k: v for k, v in found[bundle].items() if k != "labels"}, flush=True)
    return found


def beside(work: Path, name: str) -> dict[str, Any]:
    """The float32 bundle's answers and those of the pipeline: rows in which they differ, and the largest difference of scores."""
    import edgekit

    table = work / name / "test.jsonl"
    rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    with edgekit.load(work / f"{TASKS[name][0]}-float32") as session:
        return dict((beside_images if name == "images" else beside_words)(work, table.parent, rows, session))


def beside_images(work: Path, folder: Path, rows: Sequence[dict[str, Any]], session: Any) -> Iterator[tuple[str, Any]]:
    """Each image by its path: the label, and the scores of all labels."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(work / "vit", backend="pil")
    every = len(session.info.labels)  # the pipeline takes None for 5
    pipeline = transformers.pipeline(
        "image-classification", model=str(work / "vit"), image_processor=processor, device="cpu", top_k=every
    )

    def ours(path: str) -> list[tuple[Any, float]]:
        answer = session(path)
        return [
            (label, answer.scores[label]) for label in sorted(answer.scores, key=lambda label: -answer.scores[label])
        ]

    yield (
        "paths",
        compare(
            [str(folder / row["image"]) for row in rows],
            ours,
            lambda path: [(e["label"], e["score"]) for e in pipeline(path)],
        ),
    )


def beside_words(work: Path, folder: Path, rows: Sequence[dict[str, Any]], session: Any) -> Iterator[tuple[str, Any]]:
    """Each sentence in three forms: the entities, their places and scores; some also by the other strategies."""
    import transformers

    from edgekit import tasks

    pipeline = transformers.pipeline("token-classification", model=str(work / "tagger"), device="cpu")
    task = tasks.get("token-classification").load(work / "tagger-float32" / "assets")
    for form in FORMS:
        values = [
            row["text"] if form == "as written" else tuple(row["words"]) if form == "words" else " ".join(row["words"])
            for row in rows
        ]

        def theirs(value: Any, strategy: str = "simple") -> list[tuple[Any, float]]:
            split = {"is_split_into_words": True} if isinstance(value, tuple) else {}
            made = pipeline(list(value) if split else value, aggregation_strategy=strategy, **split)
            made = made[0] if made and isinstance(made[0], list) else made
            return [((e.get("entity_group", e.get("entity")), e["start"], e["end"]), float(e["score"])) for e in made]

        yield (
            f"{form}, simple",
            compare(
                values, lambda value: [((e.label, e.start, e.end), e.score) for e in session(value).entities], theirs
            ),
        )
        for strategy in STRATEGIES:

            def ours(value: Any, strategy: str = strategy) -> list[tuple[Any, float]]:
                (entities,) = task.aggregate(session.outputs([value]), task.preprocess([value]), strategy)
                return [((e.label, e.start, e.end), e.score) for e in entities]

            yield (
                f"{form}, {strategy}",
                compare(values[:SOME], ours, lambda value, strategy=strategy: theirs(value, strategy)),
            )


def compare(
    values: Sequence[Any],
    ours: Callable[[Any], list[tuple[Any, float]]],
    theirs: Callable[[Any], list[tuple[Any, float]]],
) -> dict[str, Any]:
    """Rows in which labels or places differ, those in which a score does by more than the tolerance, and the largest difference of scores."""
    labels, scores, largest, places = 0, 0, 0.0, []
    for place, value in enumerate(values):
        a, b = ours(value), theirs(value)
        if [what for what, _ in a] != [what for what, _ in b]:
            labels += 1
            places.append(place)
            continue
        far = max((abs(x - y) for (_, x), (_, y) in zip(a, b, strict=True)), default=0.0)
        largest, scores = max(largest, far), scores + (far > TOLERANCE)
    found = {
        "rows": len(values),
        "labels_differ": labels,
        "scores_differ": scores,
        "largest": largest,
        "rows_that_differ": places[:20],
    }
    print(found, flush=True)
    return found


def machine() -> dict[str, Any]:
    """Where it ran."""
    from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus

    return {"cpu": cpu_name(), "cpus": cpus(), "instructions": cpu_instructions(), "date": time.strftime("%Y-%m-%d")}


def table(found: dict[str, Any]) -> str:
    """The tables in Markdown."""
    where = found["machine"]
    lines = [f"{where['cpu']}, {where['cpus']} CPUs ({', '.join(where['instructions'])}), {where['date']}."]
    for name in found["score"]:
        model, _ = TASKS[name]
        about = found["training"][name]
        settings, rows = about["settings"], about["rows"]
        lines += [
            "",
            f"**{name}**: {about['parameters'] / 1e6:.1f} million parameters, {settings['epochs']} epochs, {rows['train']} rows of train, {rows['dev']} of "
            f"dev; `{model}` as the target `cpu` chose it and by each INT8 method, on {rows['test']} rows of test. Drops from torch, paired 90 % intervals.",
            "",
            "| bundle | runs | score | torch | drop | lost, won | answers changed | lowest recall against torch |",
            "|---|---|---:|---:|---|---|---:|---|",
        ]
        for bundle, s in found["score"][name].items():
            drop = f"{s['drop']:+.4f} ({s['low']:+.4f} to {s['high']:+.4f})"
            worst = min(s["labels"], key=lambda label: s["labels"][label]["bundle"] - s["labels"][label]["torch"])
            label = s["labels"][worst]
            flips = "" if s["losses"] is None else f"{s['losses']}, {s['gains']}"
            recall = f"{worst} ({label['count']}): {label['torch']:.3f} to {label['bundle']:.3f}"
            cells = [
                bundle,
                s["runs"],
                f"{s['score']:.4f}",
                f"{s['reference']:.4f}",
                drop,
                flips,
                f"{s['answers_changed']:.2%}",
                recall,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Side by side with `transformers.pipeline`, float32 on ONNX Runtime; labels and places must be the same, scores to 1e-4.",
        "",
        "| input | rows | rows with other labels or places | rows with other scores | largest difference of a score |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, answers in found["beside"].items():
        for what, b in answers.items():
            lines.append(
                f"| {name}: {what} | {b['rows']} | {b['labels_differ']} | {b['scores_differ']} | {b['largest']:.1e} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
