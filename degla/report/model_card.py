"""The card of an exported model: what it is, how it was made, what it can do, how to load it."""

from pathlib import Path
from typing import Any

import yaml

from degla.artifacts import newest_checkpoint, read_metrics
from degla.models import ClipModel

_LOAD = {
    "open_clip": "model, _, preprocess = open_clip.create_model_and_transforms('local-dir:<this folder>')\n"
    "tokenizer = open_clip.get_tokenizer('local-dir:<this folder>')",
    "safetensors": "model, _, preprocess = open_clip.create_model_and_transforms({name!r}, "
    "pretrained='<this folder>/open_clip_model.safetensors', force_quick_gelu={quick_gelu},\n"
    "    image_mean={mean}, image_std={std}, image_interpolation={interpolation!r}, image_resize_mode={resize_mode!r})",
    "hf": "model = transformers.CLIPModel.from_pretrained('<this folder>')\n"
    "processor = transformers.CLIPProcessor.from_pretrained('<this folder>')",
}
_NOT_SHOWN = ("callbacks", "logger", "hydra", "runs_dir", "run_dir", "ckpt_path", "data_dir")


def write_card(
    folder: Path, model: ClipModel, wanted: dict[str, Any], checkpoint: Path, settings: dict, run_dir: Path | None
) -> None:
    """Write ``README.md``.

    Args:
        folder: of the exported model.
        model: that was written.
        wanted: the settings of the export.
        checkpoint: that it came from.
        settings: of the training run; ``{}`` where it is not known.
        run_dir: of the training run, for its results; None where there is none.
    """
    known = settings.get("model") or {}
    name = (wanted.get("model") or known).get("name")
    base = f"{name} / {known.get('pretrained') or 'random weights'}" if known else name
    load = _LOAD[wanted["to"]].format(name=name, quick_gelu=model.config["quick_gelu"], **_preprocessing(model))
    activation = "QuickGELU" if model.config["quick_gelu"] else "GELU"
    share = wanted["wise_ft"]
    lines = [
        "---",
        f"library_name: {'transformers' if wanted['to'] == 'hf' else 'open_clip'}",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [clip, degla, hard-negatives]",
        "---",
        "",
        "# A CLIP model fine-tuned with degla",
        "",
        f"- began as: {base}",
        f"- weights: {wanted['weights']} of `{checkpoint.name}`"
        + (f", {share:g} of them and {1 - share:g} of the base model's (WiSE-FT)" if share is not None else ""),
        f"- activation: {activation}; a reader that builds another loses points",
        f"- method: {_method(settings)}",
        "",
        "```python",
        load,
        "```",
        "",
    ]
    if run_dir is not None and (run_dir / "metrics.csv").exists():
        is_the_last = (
            wanted["weights"] == "student" and share is None and newest_checkpoint(checkpoint.parent) == checkpoint
        )
        lines += _results(read_metrics(run_dir / "metrics.csv"), is_the_last)
    lines += _data(settings)
    if settings:
        shown = {key: value for key, value in settings.items() if key not in _NOT_SHOWN}
        lines += ["## Settings of the run", "", "```yaml", yaml.safe_dump(shown, sort_keys=False).rstrip(), "```", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _preprocessing(model: ClipModel) -> dict[str, Any]:
    known = model.preprocess
    return {
        "mean": tuple(known["mean"]),
        "std": tuple(known["std"]),
        "interpolation": known["interpolation"],
        "resize_mode": known["resize_mode"],
    }


def _method(settings: dict) -> str:
    weights = {name: value for name, value in (settings.get("objective") or {}).items() if value and name[0] != "_"}
    if not weights:
        return "not recorded in the checkpoint"
    terms = ", ".join(
        f"{name} {value:g}" if isinstance(value, float | int) else name for name, value in weights.items()
    )
    return f"fine-tuning by {terms} (the terms are those of DeGLA, arXiv 2504.16801, and of what it is compared with)"


def _results(metrics: dict[str, dict[int, float]], is_the_last: bool) -> list[str]:
    rows = []
    for name, values in metrics.items():
        if name.startswith(("val/", "eval")) and values:
            steps = list(values)
            rows.append(f"| {name} | {values[steps[0]]:.3f} | {values[steps[-1]]:.3f} |")
    whose = "" if is_the_last else " of the run's student, from its first step to its last, which these weights are not"
    header = [f"## Results{whose}", "", "| | first | last |", "| --- | --- | --- |"]
    return [*header, *rows, ""] if rows else []


def _data(settings: dict) -> list[str]:
    """What the run was trained on, with the data's own card where there is one."""
    data = settings.get("data") or {}
    if not data:
        return []
    source = data.get("path") or data.get("annotations") or data.get("_target_")
    lines = ["## Data", "", f"- {source}"]
    card = Path(str(source)) / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8").partition("# ")[2]
        lines += [line for line in text.partition("\n## ")[0].splitlines()[1:] if line.strip()]
    return [*lines, ""]
