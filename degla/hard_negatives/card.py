"""The data card of a dataset of negatives: ``README.md``, which the Hugging Face hub shows, and ``summary.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from degla.artifacts import atomic_write
from degla.hard_negatives.dataset import Summary
from degla.hard_negatives.text_only import TextOnlyAccuracy

_MAX_REASONS = 12  # reasons of one kind that the card lists


def write_card(folder: Path, summary: Summary, facts: Mapping[str, Any]) -> None:
    """Write ``README.md`` and ``log/summary.json``.

    Args:
        folder: the folder of the dataset.
        summary: from ``write_dataset``.
        facts: how the dataset was made: input, writer, model, prompts, seed, tokens.
    """
    lines = [
        *_metadata(),
        *_headline(summary, facts),
        *_kinds_table(summary),
        *_reasons_table(summary),
        "## Told from captions without a picture",
        "",
        *text_only_table(summary.text_only),
        "",
        *_samples(summary),
    ]
    with atomic_write(folder / "README.md") as path:
        path.write_text("\n".join(lines), encoding="utf-8")
    with atomic_write(folder / "log" / "summary.json") as path:
        path.write_text(json.dumps(_as_json(summary, facts), indent=1, default=str) + "\n", encoding="utf-8")


def text_only_table(rows: Sequence[TextOnlyAccuracy]) -> list[str]:
    """Return the lines of a Markdown table of the text-only baseline, one row per kind."""
    lines = [
        "A text-only model (words, pairs of words, length, likelihood) chooses the caption of a pair; 50 % is chance.",
        "",
        "| kind | pairs | percent right | likelier is the caption | longer by, words | what gives negatives away |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if math.isnan(row.accuracy):
            lines.append(f"| {row.kind} | {row.num_pairs} | too few to say | | | |")
            continue
        cues = ", ".join(f"`{cue}`" for cue in row.cues)
        lines.append(
            f"| {row.kind} | {row.num_pairs} | {100 * row.accuracy:.1f} ± {50 * (row.high - row.low):.1f} "
            f"| {100 * row.plausibility:.1f} | {row.length:+.2f} | {cues} |"
        )
    return lines


def _metadata() -> list[str]:
    return [
        "---",
        "configs: [{config_name: default, data_files: captions.parquet}]",
        "task_categories: [zero-shot-image-classification]",
        "tags: [CLIP, hard-negatives, degla]",
        "---",
        "",
    ]


def _headline(summary: Summary, facts: Mapping[str, Any]) -> list[str]:
    total = sum(summary.accepted.values())
    lines = [
        "# Captions with hard negatives",
        "",
        f"{summary.num_rows} captions with {total} negatives; {summary.num_without} captions have none.",
    ]
    if summary.num_without_image:
        lines.append(f"{summary.num_without_image} rows name no image; training needs one.")
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return [*lines, "Train with `degla-train data.path=<this folder> data.image_root=<folder of the images>`.", ""]


def _kinds_table(summary: Summary) -> list[str]:
    lines = ["## Kinds", ""]
    lines += ["| kind | negatives | rejected or none | dropped for balance |", "| --- | --- | --- | --- |"]
    for kind in dict.fromkeys([*summary.accepted, *summary.reasons]):
        num_rejected = sum(summary.reasons.get(kind, {}).values())
        lines.append(f"| {kind} | {summary.accepted[kind]} | {num_rejected} | {summary.dropped[kind]} |")
    return [*lines, ""]


def _reasons_table(summary: Summary) -> list[str]:
    lines = ["## Why there is none", "", "| kind | reason | times |", "| --- | --- | --- |"]
    lines += [
        f"| {kind} | {reason.replace('|', '/')} | {times} |"
        for kind, counts in summary.reasons.items()
        for reason, times in counts.most_common(_MAX_REASONS)
    ]
    return [*lines, ""]


def _samples(summary: Summary) -> list[str]:
    lines = ["## Samples", ""]
    for kind, pairs in summary.samples.items():
        lines += [f"**{kind}**", "", *(f"- {caption} → {negative}" for caption, negative in pairs), ""]
    return lines


def _as_json(summary: Summary, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``summary.json``. The text-only baseline keeps its first name there, ``blind``."""
    content = summary._asdict()
    baseline = [row._asdict() for row in content.pop("text_only")]
    return content | {"blind": baseline, "facts": dict(facts)}
