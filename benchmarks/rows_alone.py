"""The price of answers that depend on their input alone: texts a second of a list, rows run one by one and rows that share calls.

Dynamic INT8 takes one activation scale for a whole tensor, so its rows are run one by one; before that they shared calls, and some labels depended on
the neighbours. Both forms of one bundle take turns in one process.

    python benchmarks/rows_alone.py --bundle DYNAMIC --data test.jsonl

Writes ``results/rows_alone.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

from edgekit.bundle.trust import open_bundle
from edgekit.machine.cpu import cpu_instructions, cpu_name, cpus
from edgekit.runtime.session import Session

HERE = Path(__file__).resolve().parent
FORMS = ("alone", "together")


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="built with the method dynamic")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with text")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    texts = [json.loads(line)["text"] for line in options.data.read_text("utf-8").splitlines()]
    checked = open_bundle(options.bundle)
    variant = checked.manifest.variants[0]
    sessions = {form: Session(open_bundle(options.bundle), replace(variant, rows=form)) for form in FORMS}
    labels = {
        form: [answer.label for answer in session(texts)] for form, session in sessions.items()
    }  # and warms both up
    rates: dict[str, list[float]] = {form: [] for form in FORMS}
    for turn in range(options.rounds):
        for form in FORMS if turn % 2 == 0 else reversed(FORMS):
            start = time.perf_counter()
            sessions[form](texts)
            rates[form].append(len(texts) / (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(rates["alone"], rates["together"], strict=True)]
    single = [session_label(sessions["alone"], text) for text in texts]
    changed = {form: sum(a != b for a, b in zip(labels[form], single, strict=True)) for form in FORMS}
    machine = {"cpu": cpu_name(), "cpus": cpus(), "instructions": cpu_instructions(), "date": time.strftime("%Y-%m-%d")}
    record = {
        "machine": machine,
        "method": variant.method,
        "backend": variant.backend,
        "rows": len(texts),
        "rows_per_s": rates,
        "changed": changed,
    }
    (HERE / "results" / "rows_alone.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    lines = [
        f"{machine['cpu']}, {cpus()} CPUs ({', '.join(machine['instructions'])}), {machine['date']}; {variant.method} on {variant.backend}, {len(texts)} texts "
        f"as one list, {variant.threads} thread(s); medians of {options.rounds} rounds in turns.",
        "",
        "| rows of a list | texts/s | labels that differ from the text alone |",
        "|---|---:|---:|",
        *(f"| {form} | {statistics.median(rates[form]):.0f} | {changed[form]} |" for form in FORMS),
        "",
        f"Alone over together: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}).",
    ]
    (HERE / "results" / "rows_alone.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


def session_label(session: Session, text: str) -> str:
    """The label of one text by itself."""
    return str(session(text).label)


if __name__ == "__main__":
    main()
