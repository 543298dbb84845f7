"""What EdgeKit's Python costs between a text and its answer, beside the model and beside tokenizing.

    python benchmarks/python_overhead.py --tokenizer TOKENIZER.json --data SST2 [--before CHECKOUT]

The engine of the session is replaced by one that returns constant logits, so that nothing but Python and the tokenizers library
is left. ``--before`` is a checkout of an earlier commit (``git worktree add CHECKOUT COMMIT``), which is measured in turns.

- text to answer: ``session(text)``, mean of the texts of ``dev.jsonl``, less the time of ``Tokenizer.encode(text).ids`` on the same texts;
  with the words of all texts remembered, the whole call.
- unseen texts: the encoder on the texts of ``test.jsonl``, which it sees for the first time, after all texts of ``dev.jsonl`` and
  ``train.jsonl``; over ``Tokenizer.encode(text).ids`` of the same texts.
- the limit: the check of a text of ten million characters, refused, accepted or cut.

Each checkout has its own process. Processes take turns, and each number is the best of its rounds: other work on the machine only
adds to it. Times are CPU time of the thread, without waiting for a CPU. Ratios are medians of the rounds.

Writes ``results/python_overhead.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUNDLE = ROOT / "tests" / "data" / "bundles" / "onnxruntime"
MAX_LENGTH = 128
CHARACTERS = 10_000_000
LONG = {
    "one word": "x",
    "words": "the film is strong. ",
    "spaces": " ",
    "line ends and tabs": " \n\t ",
    "words, double spaces": "a  ",
}


def main() -> None:
    """Parses, measures in turns, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of a text classifier")
    parser.add_argument("--data", type=Path, required=True, help="folder with dev.jsonl, test.jsonl and train.jsonl")
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "python_overhead.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments.tokenizer, arguments.data)
        return
    checkouts = {"now": ROOT} | ({"before": arguments.before.resolve()} if arguments.before else {})
    rounds = measure(checkouts, arguments)
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "commits": {name: commit(path) for name, path in checkouts.items()},
        "rounds": arguments.rounds,
        "best": {name: best(one) for name, one in rounds.items()},
        "ratios": ratios(rounds),
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(table(result["best"]))
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio:.2f} of before")


def commit(checkout: Path) -> str:
    """Returns the commit of a checkout, with a + if files differ from it."""
    text = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always", "--dirty=+"], capture_output=True, text=True
    )
    return text.stdout.strip()


def measure(checkouts: dict[str, Path], arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Returns what each round of each checkout measured."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        "--tokenizer",
        str(arguments.tokenizer),
        "--data",
        str(arguments.data),
    ]
    workers = {}
    for name, path in checkouts.items():
        environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
        workers[name] = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for number in range(arguments.rounds):
        order = list(workers) if number % 2 else list(reversed(workers))
        for name in order:
            worker = workers[name]
            assert worker.stdin and worker.stdout
            worker.stdin.write("\n")
            worker.stdin.flush()
            rounds[name].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate("")
    return rounds


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Returns the least value of each measurement."""
    return {name: min(one[name] for one in rounds) for name in rounds[0]}


def ratios(rounds: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Returns the median over the rounds of now / before, for what both have."""
    if "before" not in rounds:
        return {}
    pairs = list(zip(rounds["now"], rounds["before"], strict=True))
    names = [name for name in pairs[0][0] if name in pairs[0][1]]
    return {name: statistics.median(now[name] / before[name] for now, before in pairs) for name in names}


def table(results: dict[str, dict[str, float]]) -> str:
    """Returns a table in Markdown: a line for each measurement, a column for each checkout."""
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---:|" * len(results)]
    for name in results["now"]:
        cells = [f"{one[name]:.2f}" if name in one else "" for one in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- the process of a checkout


def serve(tokenizer: Path, data: Path) -> None:
    """Measures once for each line of the input."""
    take = worker(tokenizer, data)
    for _ in sys.stdin:
        print(json.dumps(take()), flush=True)


def worker(tokenizer: Path, data: Path) -> Callable[[], dict[str, float]]:
    """Returns what measures once."""
    import numpy as np
    from tokenizers import Tokenizer

    import edgekit
    from edgekit.tasks import text_classification
    from edgekit.tasks.text_classification import Settings, TextEncoder

    class Constant:
        """An engine that returns the same logits at once."""

        logits = np.array([[0.1, 2.0, -1.0]], np.float32)

        def run(self, feeds: Any, keep: Any = ()) -> dict[str, Any]:
            return {"logits": self.logits}

        def close(self) -> None:
            pass

    texts = {part: read(data / f"{part}.jsonl") for part in ("dev", "test", "train")}
    session: Any = edgekit.load(BUNDLE, threads=1)
    inputs = session._task.settings.inputs
    labels = session._task.settings.labels
    encoder: Any = TextEncoder(tokenizer, inputs, MAX_LENGTH)
    session._task = text_classification.bind(
        Settings("single_label_classification", labels, MAX_LENGTH, inputs), encoder
    )
    session._engines["forward"].close()
    session._engines["forward"] = Constant()
    plain = Tokenizer.from_file(str(tokenizer))
    plain.no_padding()
    plain.enable_truncation(MAX_LENGTH)
    can_remember = hasattr(encoder, "remember_words")

    def take() -> dict[str, float]:
        if can_remember:
            encoder.remember_words(False)
        whole = mean_us(session, texts["dev"])
        tokenizing = mean_us(lambda text: plain.encode(text).ids, texts["dev"])
        result = {
            "text to answer, us": whole,
            "tokenizing alone, us": tokenizing,
            "text to answer beside tokenizing, us": whole - tokenizing,
        }
        if can_remember:
            encoder.remember_words(True)
            # A text of many new words takes several turns until all of them are known.
            for text in texts["dev"] * 5:
                session(text)
            result["text to answer, all words remembered, us"] = mean_us(session, texts["dev"])
            encoder.remember_words(True)
            for text in (*texts["dev"], *texts["train"]):
                encoder([text])
            result["encoder, unseen texts, words remembered, us"] = mean_us(lambda text: encoder([text]), texts["test"])
            encoder.remember_words(False)
        result["encoder, unseen texts, us"] = mean_us(lambda text: encoder([text]), texts["test"])
        result["tokenizing alone, unseen texts, us"] = mean_us(lambda text: plain.encode(text).ids, texts["test"])
        return result | limit_ms(encoder)

    return take


def read(file: Path) -> list[str]:
    """Returns the texts of a file of samples."""
    return [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]


def mean_us(call: Callable[[str], Any], texts: list[str]) -> float:
    """Returns the mean CPU time of a call, in microseconds, one text after the other."""
    began = time.thread_time()
    for text in texts:
        call(text)
    return (time.thread_time() - began) / len(texts) * 1e6


def limit_ms(encoder: Any) -> dict[str, float]:
    """Returns the time of the limit's check of a text of ten million characters, in milliseconds."""
    from edgekit import InputError
    from edgekit.modalities.limits import Limit

    result = {}
    for name, part in LONG.items():
        text = part * (CHARACTERS // len(part))
        for truncate in (False, True):
            limit = Limit(encoder.limit.characters, truncate)
            began = time.thread_time()
            try:
                _, is_cut = encoder._fitter.fit(text, limit, "")
                outcome = "cut" if is_cut else "accepted"
            except InputError:
                outcome = "refused"
            result[f"limit, {name}, {outcome}, ms"] = (time.thread_time() - began) * 1e3
    return result


if __name__ == "__main__":
    main()
