"""The data card of a dataset of negatives: ``README.md``, which the Hugging Face hub shows, and ``summary.json``.

The card begins with the result. It holds no absolute path, because it is meant to be shared with the dataset.
"""

import html
import json
import math
from collections.abc import Mapping
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
        facts: how the dataset was made: input, command, writer, model, prompts, seed, tokens, versions.
    """
    sections = [
        _metadata(),
        _headline(summary, str(facts.get("input", ""))),
        _kinds_table(summary),
        _how_to_train(summary),
        _facts(facts),
        _cues_table(summary.text_only),
        _reasons_table(summary),
        _samples(summary),
    ]
    with atomic_write(folder / "README.md") as path:
        path.write_text("\n\n".join("\n".join(lines) for lines in sections) + "\n", encoding="utf-8")
    with atomic_write(folder / "log" / "summary.json") as path:
        path.write_text(json.dumps(_as_json(summary, facts), indent=1, default=str) + "\n", encoding="utf-8")


def headline(summary: Summary) -> str:
    """Return the result in one sentence."""
    total = sum(summary.accepted.values())
    return (
        f"{summary.num_rows:,} captions have {total:,} hard negatives ({total / max(1, summary.num_rows):.1f} each); "
        f"{summary.num_without:,} captions have none."
    )


def text_only_sentence(summary: Summary) -> str:
    """Return the range of the text-only baseline in one sentence; "" where nothing was measured."""
    rows = [row for row in summary.text_only if not math.isnan(row.accuracy)]
    if not rows:
        return ""
    low, high = min(rows, key=lambda row: row.accuracy), max(rows, key=lambda row: row.accuracy)
    return (
        f"A model that sees no image chooses the caption in {100 * low.accuracy:.1f} % ({low.kind}) to "
        f"{100 * high.accuracy:.1f} % ({high.kind}) of the pairs; chance is 50 %, and closer to it is better."
    )


def _metadata() -> list[str]:
    return [
        "---",
        "configs: [{config_name: default, data_files: captions.parquet}]",
        "task_categories: [zero-shot-image-classification]",
        "tags: [CLIP, hard-negatives, degla]",
        "---",
    ]


def _headline(summary: Summary, name: str) -> list[str]:
    lines = [f"# Hard negatives for {_escaped(name)}", "", f"**{headline(summary)}** {text_only_sentence(summary)}"]
    if summary.num_without_image:
        lines += ["", f"{summary.num_without_image:,} rows name no image; training needs one."]
    return lines


def _kinds_table(summary: Summary) -> list[str]:
    accuracies = {row.kind: _percent(row) for row in summary.text_only}
    lines = [
        "| kind | negatives | rejected or none | dropped for balance | text-only, percent |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys([*summary.accepted, *summary.reasons]):
        num_rejected = sum(summary.reasons.get(kind, {}).values())
        cells = (_escaped(kind), summary.accepted[kind], num_rejected, summary.dropped[kind], accuracies.get(kind, ""))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _percent(row: TextOnlyAccuracy) -> str:
    if math.isnan(row.accuracy):
        return "too few pairs"
    return f"{100 * row.accuracy:.1f} ± {50 * (row.high - row.low):.1f}"


def _how_to_train(summary: Summary) -> list[str]:
    image_root = "" if summary.num_without_image == summary.num_rows else " data.image_root=<folder of the images>"
    return [f"Train with `degla-train data.path=<this folder>{image_root}`. No check can know whether a text is false",
            "of its image: look at samples before you rely on them."]  # fmt: skip


def _facts(facts: Mapping[str, Any]) -> list[str]:
    lines = ["## How were they made?", ""]
    for name, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        lines.append(f"- {name}: `{text}`" if name == "command" else f"- {name}: {_escaped(text)}")
    return lines


def _cues_table(rows: list[TextOnlyAccuracy]) -> list[str]:
    lines = [
        "## Can they be told from captions without the image?",
        "",
        "The text-only baseline is a logistic regression on words, bigrams, length and likelihood, cross-validated",
        "over captions. A kind far above 50 % has cues that a model can learn instead of using the image.",
        "",
        "| kind | pairs | percent correct | caption is likelier, percent | longer by, words | strongest cues |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if math.isnan(row.accuracy):
            lines.append(f"| {_escaped(row.kind)} | {row.num_pairs} | {_percent(row)} | | | |")
            continue
        cues = ", ".join(f"`{cue}`" for cue in row.cues)
        lines.append(
            f"| {_escaped(row.kind)} | {row.num_pairs} | {_percent(row)} | {100 * row.plausibility:.1f} "
            f"| {row.length:+.2f} | {cues} |"
        )
    return lines


def _reasons_table(summary: Summary) -> list[str]:
    lines = ["## Why do some captions have none?", "", "| kind | reason | times |", "| --- | --- | --- |"]
    lines += [
        f"| {_escaped(kind)} | {_escaped(reason)} | {times} |"
        for kind, counts in summary.reasons.items()
        for reason, times in counts.most_common(_MAX_REASONS)
    ]
    return lines


def _samples(summary: Summary) -> list[str]:
    lines = ["## Samples"]
    for kind, pairs in summary.samples.items():
        lines += ["", f"**{_escaped(kind)}**", ""]
        lines += [f"- {_escaped(caption)} → {_escaped(negative)}" for caption, negative in pairs]
    return lines


def _escaped(text: str) -> str:
    """Return a text that is no HTML and does not end a cell of a table."""
    return " ".join(html.escape(text, quote=False).replace("|", "/").split())


def _as_json(summary: Summary, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``summary.json``. The text-only baseline keeps its first name there, ``blind``."""
    content = summary._asdict()
    baseline = [row._asdict() for row in content.pop("text_only")]
    return content | {"blind": baseline, "facts": dict(facts)}
