"""The share of padding in the calls that a list of texts is cut into.

    python benchmarks/padding.py --tokenizer minilm-sst2/tokenizer.json --texts sst2/test.jsonl

Rows are sorted by size and cut as the runtime cuts them (``edgekit.runtime.loops.single.cut``), for the whole file and
for short lists drawn from it at random. Token counts alone, so the machine does not matter.

Writes ``results/padding.json`` and prints it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edgekit.runtime.loops import single

HERE = Path(__file__).resolve().parent
DRAWS = 500


def main() -> None:
    """Parse the options, count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines with the field text")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokenizer.no_padding()
    lines = options.texts.read_text("utf-8").splitlines()
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch([json.loads(line)["text"] for line in lines])]
    record = {
        "texts": len(lengths),
        "quartiles": [int(length) for length in np.percentile(lengths, [25, 50, 75])],
        "whole": {f"{rows} rows a call": share([lengths], rows) for rows in (8, 32)},
    }
    generator = np.random.default_rng(0)
    for count in (8, 32, 100, 256):
        lists = [generator.choice(lengths, count, replace=False).tolist() for _ in range(DRAWS)]
        record[f"lists of {count}"] = {f"{rows} rows a call": share(lists, rows) for rows in (8, 32)}
    text = json.dumps(record, indent=1) + "\n"
    (HERE / "results" / "padding.json").write_text(text, "utf-8")
    print(text)


def share(lists: list[list[int]], rows: int) -> float:
    """Return the share of padding in all tokens that the calls of some lists compute."""
    real = 0
    computed = 0
    for lengths in lists:
        real += sum(lengths)
        for part in single.cut(lengths, rows, 0):
            computed += len(part) * max(lengths[index] for index in part)
    return round(1 - real / computed, 4)


if __name__ == "__main__":
    main()
