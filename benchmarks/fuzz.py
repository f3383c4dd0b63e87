"""Run hostile input against every boundary, many cases of each class, and write the table of answers.

``python -m benchmarks.fuzz --cases 300`` takes about twenty minutes on 2 cores and prints every defect with the seed
that repeats it (``--only CLASS --seed N --cases 1``).
"""

import argparse
import collections
import logging
import os
import random
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import datasets

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.record import save
from tests.helpers.hostile import CASES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300, help="cases of each class")
    parser.add_argument("--seed", type=int, default=0, help="the first case's seed; each case adds one")
    parser.add_argument("--only", default=None, help="a part of a class's name")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/fuzz.json")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    table, num_defects = {}, 0
    for name, case in CASES.items():
        if arguments.only and arguments.only not in name:
            continue
        answers: collections.Counter[str] = collections.Counter()
        kinds: collections.Counter[str] = collections.Counter()
        for seed in range(arguments.seed, arguments.seed + arguments.cases):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    answers[case(Path(folder), random.Random(seed))] += 1
                except Exception as error:
                    answers["defect"] += 1
                    last = traceback.extract_tb(error.__traceback__)[-1]
                    kind = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:120]!r}"
                    kinds[kind] += 1
                    if kinds[kind] == 1:
                        print(f"  defect: {name}, --seed {seed}: {kind}", flush=True)
        num_defects += answers["defect"]
        row = {answer: answers[answer] for answer in ("refused", "reported", "accepted", "defect")}
        table[name] = {"cases": arguments.cases, **row}
        print(f"{name}: {table[name]}", flush=True)
    if arguments.record:
        save("fuzz", {"cases": arguments.cases, "seed": arguments.seed}, table)
    return int(num_defects > 0)


if __name__ == "__main__":
    sys.exit(main())
