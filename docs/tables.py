"""Fill the tables of numbers in README.md, ``docs/`` and ``benchmarks/README.md`` from committed records.

    python docs/tables.py                              # fill every block
    python docs/tables.py --check                      # change nothing; exit code 1 if a block is out of date
    python docs/tables.py --demo runs/demo/<time> ...  # first take the record of finished demo runs, one per seed
    python docs/tables.py --text-only                  # first measure the text-only baseline of the scenes again
    python docs/tables.py --folds runs/flickr8k/folds  # first take the record of a cross-validation
    python docs/tables.py --negatives Flickr8k=<folder> SugarCrepe=<folder>     # first read what degla-negatives wrote

A block is between ``<!-- table:NAME -->`` and ``<!-- /table -->``. Each table says by which commit and versions its
numbers were measured.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "records"
STUDY = ROOT / "docs" / "study" / "study.json"
PAGES = (
    "README.md",
    "benchmarks/README.md",
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))),
)

_BLOCK = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<content>.*?)(<!-- /table -->)", re.DOTALL)

# Mean of the report -> its name in tables. The means of benchmarks come before the mean of everything.
_MEANS = {
    "sugarcrepe": "SugarCrepe's sub-tasks, mean",
    "aro": "ARO's sub-tasks, mean",
    "valse": "VALSE's sub-tasks, mean",
    "compositional": "compositional: mean of the three",
    "general": "general: digits, letters, textures, colours, shapes",
}


def main() -> None:
    """Update the records that were asked for, then fill or check every block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a block is out of date")
    parser.add_argument("--demo", nargs="+", type=Path, metavar="RUN", help="finished runs of experiment=demo by seed")
    parser.add_argument("--text-only", action="store_true", help="measure the text-only baseline of the scenes")
    parser.add_argument("--folds", type=Path, metavar="SWEEP", help="folder of a finished +sweep=folds")
    parser.add_argument("--negatives", nargs="+", metavar="NAME=FOLDER", help="outputs of degla-negatives")
    parser.add_argument("--balanced", nargs="+", metavar="NAME=FOLDER", help="the same of balance=true")
    arguments = parser.parse_args()
    if arguments.demo:
        write_record("demo", demo_record(arguments.demo))
        examples = json.loads((arguments.demo[0] / "examples.json").read_text(encoding="utf-8"))
        write_record("demo_examples", examples)  # docs/figures.py draws them
    if arguments.text_only:
        write_record("scenes_text_only", text_only_record())
    if arguments.folds:
        write_record("flickr8k", folds_record(arguments.folds))
    for record, outputs in (("negatives", arguments.negatives), ("negatives_balanced", arguments.balanced)):
        if outputs:
            folders = dict(item.split("=", 1) for item in outputs)
            write_record(record, negatives_record({name: Path(folder) for name, folder in folders.items()}))
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            stale.append(name)
            if not arguments.check:
                page.write_text(filled, encoding="utf-8")
    print(f"{'out of date' if arguments.check else 'filled'}: {', '.join(stale) or 'nothing'}")
    sys.exit(1 if arguments.check and stale else 0)


def fill(text: str) -> str:
    """Return a page with every block filled from its record.

    Raises:
        KeyError: a block has a name that no table has.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block['name']]()}\n{block[4]}", text)


def read_record(name: str) -> dict[str, Any]:
    """Read ``docs/records/<name>.json``."""
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def write_record(name: str, record: dict[str, Any]) -> None:
    """Write ``docs/records/<name>.json``."""
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def demo_record(runs: list[Path]) -> dict[str, Any]:
    """Take the first and the last evaluation of demo runs, with what they were measured by.

    Args:
        runs: folders of finished runs that differ in their seed; the first has the demo's own seed.
    """
    import yaml

    from degla.artifacts import provenance

    configs = [yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) for run in runs]
    changes = [_before_and_after(run) for run in runs]
    return {
        "command": "degla-train experiment=demo",
        **provenance(),
        "steps": configs[0]["trainer"]["max_steps"],
        "items": configs[0]["benchmark"]["scenes"]["num_items"],
        "seeds": [config["seed"] for config in configs],
        "scores": changes[0],
        "after_by_seed": {name: [change[name]["after"] for change in changes] for name in changes[0]},
    }


def _before_and_after(run: Path) -> dict[str, dict[str, float]]:
    """Return each score of the scenes at the first and at the last step of a run."""
    from degla.artifacts import read_metrics

    scores = {}
    for name, values in read_metrics(run / "metrics.csv").items():
        if name.startswith(("eval/scenes/", "eval_mean/scenes/")):
            steps = sorted(values)
            scores[name] = {"before": round(values[steps[0]], 4), "after": round(values[steps[-1]], 4)}
    return scores


def text_only_record() -> dict[str, Any]:
    """Measure how much of each sub-task of the scenes a classifier of texts can answer."""
    sys.path.insert(0, str(ROOT))
    from degla.artifacts import provenance
    from degla.data.scenes.suite import SUBSETS, suite_items
    from tests.helpers.text_only import text_only_accuracy

    accuracy = {}
    for benchmark, subsets in SUBSETS.items():
        for subset in subsets:
            train, test = (
                [(item.caption, item.foils) for item in suite_items(benchmark, subset, split, count)]
                for split, count in (("train", 1000), ("test", 500))
            )
            accuracy[subset] = round(text_only_accuracy(train, test), 4)
    return {"command": "python docs/tables.py --text-only", **provenance(), "train": 1000, "test": 500,
            "accuracy": accuracy}  # fmt: skip


def negatives_record(folders: dict[str, Path]) -> dict[str, Any]:
    """Read how many negatives of each kind ``degla-negatives`` wrote, and what the text-only baseline makes of them."""
    sys.path.insert(0, str(ROOT))
    from degla.artifacts import provenance

    sets = {}
    for name, folder in folders.items():
        summary = json.loads((folder / "log" / "summary.json").read_text(encoding="utf-8"))
        kinds = {
            row["kind"]: {
                "negatives": summary["accepted"][row["kind"]],
                "text_only": round(row["accuracy"], 4),
                "half_interval": round((row["high"] - row["low"]) / 2, 4),
            }
            for row in summary["blind"]
        }
        sets[name] = {"captions": summary["num_rows"], "without": summary["num_without"], "kinds": kinds}
        balance = " balance=true" if summary["dropped"] else ""
    return {"command": f"degla-negatives kinds=[{','.join(kinds)}]{balance}", **provenance(), "sets": sets}


def folds_record(sweep: Path) -> dict[str, Any]:
    """Take the folds of a cross-validation, with what they were measured by."""
    (group,) = json.loads((sweep / "folds.json").read_text(encoding="utf-8"))["groups"]
    run = next(sweep.glob("*/provenance.json"))
    command = " ".join(["degla-train", *group.pop("settings")])
    return {"command": command, **json.loads(run.read_text(encoding="utf-8")), **group}


def flickr8k_table() -> str:
    """Return every metric of the cross-validation on photos, with the text-only baseline beside it."""
    sys.path.insert(0, str(ROOT))
    from degla.report.folds import HEADS, Group, fold_rows

    record = read_record("flickr8k")
    group = Group(settings=[], **{name: record[name] for name in Group.model_fields if name != "settings"})
    lines = [[f"`{row[0]}`", *row[1:]] for row in fold_rows(group)]
    note = f"{len(group.folds)} of {group.num_folds} folds, {max(group.steps)} steps each; {group.model}."
    return f"{_table(list(HEADS), lines)}\n\n{_measured(record)} {note}"


def negatives_table(name: str) -> str:
    """Return the negatives of each kind with the accuracy of the text-only baseline, for each set of captions."""
    record = read_record(name)
    heads = ["kind"]
    for name, measured in record["sets"].items():
        heads += [f"{name}: negatives of {measured['captions']}", "text-only, percent"]
    lines = []
    for kind in next(iter(record["sets"].values()))["kinds"]:
        line = [f"`{kind}`"]
        for measured in record["sets"].values():
            row = measured["kinds"][kind]
            line += [str(row["negatives"]), f"{100 * row['text_only']:.1f} ± {100 * row['half_interval']:.1f}"]
        lines.append(line)
    return f"{_table(heads, lines)}\n\n{_measured(record)}"


_DEMO_HEADS = ("before", "after", "change", "change, mean and 95 % interval over seeds")


def demo_table() -> str:
    """Return the means of the demo before and after, and its largest gain and loss."""
    record = read_record("demo")
    lines = [_demo_row(record, f"eval_mean/scenes/{name}", title) for name, title in _MEANS.items()]
    changes = {name: score["after"] - score["before"] for name, score in _subtasks(record).items()}
    for label, name in (("largest gain", max(changes, key=changes.__getitem__)),
                        ("largest loss", min(changes, key=changes.__getitem__))):  # fmt: skip
        lines.append(_demo_row(record, f"eval/scenes/{name}", f"{label} of a sub-task: `{name}`"))
    seeds = ", ".join(map(str, record["seeds"]))
    note = f"{_measured(record)} {record['items']} items a sub-task; after: seed {record['seeds'][0]}; seeds {seeds}."
    return f"{_table(['test split, percent', *_DEMO_HEADS], lines)}\n\n{note}"


def demo_subtasks_table() -> str:
    """Return every sub-task of the demo."""
    record = read_record("demo")
    lines = [_demo_row(record, f"eval/scenes/{name}", f"`{name}`") for name in _subtasks(record)]
    return f"{_table(['sub-task, percent', *_DEMO_HEADS], lines)}\n\n{_measured(record)}"


def scenes_model_table() -> str:
    """Return what the model that comes with the package can do."""
    path = ROOT / "degla" / "models" / "pretrained" / "degla-scenes" / "plain_clip.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    splits = list(record["accuracy"])
    names = [name for name in record["accuracy"][splits[0]] if "/" in name] + ["compositional", "general"]
    lines = [[f"`{name}`", *(f"{100 * record['accuracy'][split][name]:.1f}" for split in splits)] for name in names]
    note = f"`{record['command']}` at commit {record['commit']}, {record['steps']} steps, seed {record['seed']}."
    return f"{_table(['sub-task, percent', *splits], lines)}\n\n{note}"


def scenes_text_only_table() -> str:
    """Return the text-only baseline of each sub-task of the scenes."""
    record = read_record("scenes_text_only")
    lines = [[f"`{name}`", "20" if name == "order" else "50", f"{100 * accuracy:.1f}"]
             for name, accuracy in record["accuracy"].items()]  # fmt: skip
    heads = ["sub-task, percent", "chance", "text-only baseline"]
    return f"{_table(heads, lines)}\n\n{_measured(record)}"


def benchmarks_table() -> str:
    """Return the ratios of ``benchmarks/records`` with their spread, commit, versions and device."""
    lines = []
    for path in sorted((ROOT / "benchmarks" / "records").glob("*.json")):
        record = _benchmark_record(path.stem)
        ratio = record.get("figures", {}).get("ratio")
        if isinstance(ratio, dict):
            spread = f"{ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})"
            lines.append([f"`{path.stem}`", spread, str(ratio["repeats"]), *_origin(record)])
    return _table(["record", "times faster", "repeats", "commit", "torch", "device"], lines)


def scaling_table() -> str:
    """Return how the seconds of a step grow with each quantity."""
    record = _benchmark_record("scaling")
    lines = []
    for key, seconds in record["figures"].items():
        values = [f"{value:.2f}" for value in seconds.values()]
        lines.append([key.removeprefix("seconds_by_"), ", ".join(seconds), ", ".join(values)])
    return f"{_table(['varied', 'values', 'seconds'], lines)}\n\n{_measured(record)}"


def faults_table() -> str:
    """Return the faults that were injected into runs, and how many runs survived."""
    record = _benchmark_record("faults")
    figures = record["figures"]
    faults = figures["faults"]
    lines = [[name, str(fault["tries"]), str(fault["survived"])] for name, fault in faults.items()]
    survived, tries = (sum(fault[key] for fault in faults.values()) for key in ("survived", "tries"))
    weights = "equal to the last bit" if figures["bit_equal"] else "not equal"
    outcome = (
        f"The run resumed after each of {tries} faults, and after {survived} of them it had ended by itself within two "
        f"minutes and as it should. The final weights and those of the undisturbed run are {weights}. "
        f"{figures['steps_made_again']} steps were computed again; {figures['steps_without_a_line_in_the_log']} "
        "have no line in the log."
    )
    return f"{outcome}\n\n{_table(['fault', 'times', 'ended as it should'], lines)}\n\n{_measured(record)}"


def fuzz_table() -> str:
    """Return how every boundary answered hostile input."""
    record = _benchmark_record("fuzz")
    answers = ("cases", "refused", "reported", "accepted", "defect")
    rows = {**record["figures"], "all": {key: sum(row[key] for row in record["figures"].values()) for key in answers}}
    lines = [[name, *(str(row[key]) for key in answers)] for name, row in rows.items()]
    heads = ["input", "cases", "one clear error", "reported and skipped", "accepted rightly", "defects"]
    return f"{_table(heads, lines)}\n\n{_measured(record)}"


def methods_table() -> str:
    """Return what each method learns, forgets and costs on the built-in scenes."""
    record = _benchmark_record("methods")
    figures = record["figures"]
    lines = [
        [
            f"`{name}`",
            *(f"{100 * (figure[key] - figure[f'{key}_before']):+.1f}" for key in ("compositional", "general")),
            f"{figure['step_cost']:.2f}",
        ]
        for name, figure in figures.items()
    ]
    first = next(iter(figures.values()))
    before = (
        f"The base has {100 * first['compositional_before']:.1f} compositional and "
        f"{100 * first['general_before']:.1f} general accuracy, percent; the table shows changes in points after "
        f"{record['settings']['steps']} steps of 32 samples. One run a method."
    )
    heads = ["`objective=`", "compositional", "general", "step, times plain CLIP's"]
    return f"{before}\n\n{_table(heads, lines)}\n\n{_measured(record)}"


def serve_table() -> str:
    """Return the latency of PyTorch and of ONNX Runtime for each model, tower and batch."""
    record = _benchmark_record("serve")
    lines = []
    for model, figures in record["figures"].items():
        for tower in ("image", "text"):
            for batch in record["settings"]["batches"]:
                timed = figures[f"{tower}_{batch}"]
                torch, onnx = (f"{1000 * timed[side]['median']:.1f}" for side in ("torch", "onnx"))
                lines.append([model, tower, str(batch), torch, onnx, f"{timed['times_faster']:.2f}"])
    heads = ["model", "tower", "batch", "PyTorch, ms", "ONNX Runtime, ms", "times faster"]
    return f"{_table(heads, lines)}\n\n{_measured(record)} {_note(record)}"


def onnx_table() -> str:
    """Return how features of ONNX exports differ from PyTorch's."""
    record = _benchmark_record("onnx")
    lines = [
        [model, "float32", f"{figures['largest_difference']:.0e}", "", ""]
        for model, figures in record["figures"].items()
    ]
    for model, figures in record["figures"].items():
        for precision in ("float16", "int8"):
            if change := figures.get(precision):
                accuracy = f"{100 * change['before']:.1f} to {100 * change['after']:.1f}"
                answers = f"{100 * change['changed']:.1f} % of {change['items']}"
                lines.append([model, precision, f"{change['largest_difference']:.0e}", accuracy, answers])
    heads = ["model", "export", "largest difference of a feature", "accuracy on scenes, percent", "answers that differ"]
    return f"{_table(heads, lines)}\n\n{_measured(record)}"


def search_table() -> str:
    """Return what ``degla-search`` took, and how much its index finds, for each folder that was measured."""
    records = [_benchmark_record(path.stem) for path in sorted((ROOT / "benchmarks/records").glob("search_*.json"))]
    rows = {
        "embedding before the kill, seconds": lambda r: _seconds(r["seconds_until_killed"]),
        "embedding after it, or without one, seconds": lambda r: _seconds(r["seconds_resumed"]),
        "images embedded after the kill": lambda r: str(r["embedded_after_the_kill"]),
        "repeated without a change, seconds": lambda r: _seconds(r["seconds_unchanged"]),
        "repeated with some images changed, seconds": lambda r: f"{_seconds(r['seconds_updated'])} ({r['updated']})",
        "whole command of a query, seconds": lambda r: _seconds(r["seconds_query_command"]),
        "encoding a caption, ms": lambda r: f"{1000 * r['encode_caption']['median']:.1f}",
        "searching the graph, ms": lambda r: f"{1000 * r['search']['median']:.2f}",
        "brute force instead, ms": lambda r: f"{1000 * r['brute_force']['median']:.2f}",
        "recall@10, captions of the benchmark": lambda r: f"{r['recall_at_10_queries']:.4f}",
        "recall@10, captions of the program": lambda r: f"{r['recall_at_10_of_the_program']['texts']:.4f}",
        "recall@10, images": lambda r: f"{r['recall_at_10_of_the_program']['images']:.4f}",
        "size on disk, MB": lambda r: f"{r['bytes_on_disk'] / 1e6:.0f}",
    }
    lines = [[name, *(cell(record["figures"]) for record in records)] for name, cell in rows.items()]
    heads = ["", *(f"{record['figures']['images']} {record['settings']['images']}" for record in records)]
    notes = "\n\n".join(f"{_measured(record)} {_note(record)}" for record in records)
    return f"{_table(heads, lines)}\n\n{notes}"


def study_table(name: str) -> str:
    """Return a table of ``docs/study/study.json``, with what it shows above it and how it was measured below."""
    sys.path.insert(0, str(ROOT))
    from degla.report import study_tables
    from degla.report.study_record import read_record as read_study

    record = read_study(STUDY, key="docs/study/study.json")
    table = getattr(study_tables, f"{name}_table")(record)
    return f"{table.note}\n\n{table.markdown()}\n\n{_measured(record.provenance)}"


def old_study_table(number: int) -> str:
    """Return one of the tables of the study's first record, which ``degla.study`` wrote beside it."""
    text = (ROOT / "docs" / "study" / "study.md").read_text(encoding="utf-8")
    return re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)[number].rstrip("\n")


TABLES: dict[str, Callable[[], str]] = {
    "demo": demo_table,
    "demo_subtasks": demo_subtasks_table,
    "scenes_model": scenes_model_table,
    "scenes_text_only": scenes_text_only_table,
    "benchmarks": benchmarks_table,
    "faults": faults_table,
    "fuzz": fuzz_table,
    "scaling": scaling_table,
    "methods": methods_table,
    "search": search_table,
    "serve": serve_table,
    "onnx": onnx_table,
    "flickr8k": flickr8k_table,
    "negatives": partial(negatives_table, "negatives"),
    "negatives_balanced": partial(negatives_table, "negatives_balanced"),
    "study_means": partial(old_study_table, 0),
    "study_rates": partial(old_study_table, 2),
    "study_differences": partial(old_study_table, 3),
    "study_retention": partial(study_table, "retention"),
    "study_candidates": partial(study_table, "candidates"),
    "study_hypervolume": partial(study_table, "hypervolume"),
    "study_paired": partial(study_table, "paired"),
    "study_subtasks": partial(study_table, "subtasks"),
}


def _benchmark_record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "records" / f"{name}.json").read_text(encoding="utf-8"))


def _subtasks(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    prefix = "eval/scenes/"
    return {name.removeprefix(prefix): score for name, score in record["scores"].items() if name.startswith(prefix)}


def _demo_row(record: dict[str, Any], key: str, title: str) -> list[str]:
    """Return a score before, after with the demo's own seed, and its change over all seeds."""
    from degla.report.study_statistics import mean_and_interval

    before, after = 100 * record["scores"][key]["before"], 100 * record["scores"][key]["after"]
    mean, half = mean_and_interval([100 * value - before for value in record["after_by_seed"][key]])
    return [title, f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}", f"{mean:+.1f} ± {half:.1f}"]


def _measured(record: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {record[name]}" for name in ("torch", "lightning", "open_clip_torch") if name in record
    )
    origin = f"`{record['command']}` at commit {record['commit']}"
    return f"{origin}: Python {record['python']}, {versions}; {record['machine']}."


def _note(record: dict[str, Any]) -> str:
    note = record["settings"]["note"]
    return f"{note[0].upper()}{note[1:]}."


def _seconds(value: float | None) -> str:
    return "not killed" if value is None else f"{value:.1f}"


def _origin(record: dict[str, Any]) -> list[str]:
    cores = record.get("machine", "").partition(", ")[2] or f"{record.get('cores', '?')} CPU cores"
    return [record["commit"], record["torch"], f"{record['device']}, {cores}"]


def _table(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *lines])


if __name__ == "__main__":
    main()
