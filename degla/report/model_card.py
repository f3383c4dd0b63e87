"""The card of a model: its origin, training, results and loading code.

The card is written by ``huggingface_hub``, so the hub reads its metadata. It names no folder of the machine that the
model was trained on: of every absolute path it shows the last part only.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from omegaconf import OmegaConf

from degla.artifacts import read_metrics
from degla.objective_terms import term_weights
from degla.report.retention import describe_choice, read_retention

# Groups of the run's config that say nothing about the model.
_HIDDEN_GROUPS = ("callbacks", "logger", "hydra", "runs_dir", "run_dir", "ckpt_path", "data_dir", "name")
# Architecture and tag in open_clip -> the same weights on the hub, for ``base_model``.
_HUB_IDS = {
    ("ViT-B-32", "openai"): "openai/clip-vit-base-patch32",
    ("ViT-B-16", "openai"): "openai/clip-vit-base-patch16",
    ("ViT-L-14", "openai"): "openai/clip-vit-large-patch14",
    ("ViT-B-32", "laion2b_s34b_b79k"): "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
}

_LIBRARIES = {"hf": "transformers", "sentence_transformers": "sentence-transformers"}  # layout -> name on the hub

_OPEN_CLIP = """\
import open_clip
import torch
from PIL import Image

folder = "."  # this folder
{load}
model.eval()

images = torch.stack([preprocess(Image.new("RGB", (320, 240), "red"))])  # your images
with torch.no_grad():
    image_features = model.encode_image(images, normalize=True)
    text_features = model.encode_text(tokenizer(["a red square", "a blue square"]), normalize=True)
print(image_features @ text_features.T)  # cosine similarity, (images, texts)"""

_ONNX = """\
from PIL import Image
from degla.runtime import OnnxClip  # pip install 'degla[onnx]'; it imports no PyTorch

folder = "."  # this folder
images = [Image.new("RGB", (320, 240), "red")]  # your images, or their paths
print(OnnxClip(folder).score(images, ["a red square", "a blue square"]))  # cosine similarity, (images, texts)"""

_SENTENCE_TRANSFORMERS = """\
from PIL import Image
from sentence_transformers import SentenceTransformer

folder = "."  # this folder
model = SentenceTransformer(folder, device="cpu")
image_features = model.encode([Image.new("RGB", (320, 240), "red")])  # your images
text_features = model.encode(["a red square", "a blue square"])
print(image_features @ text_features.T)  # cosine similarity, (images, texts)"""

_TRANSFORMERS = """\
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

folder = "."  # this folder
model = CLIPModel.from_pretrained(folder).eval()
processor = CLIPProcessor.from_pretrained(folder)

images = [Image.new("RGB", (320, 240), "red")]  # your images
inputs = processor(text=["a red square", "a blue square"], images=images, padding=True, return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).logits_per_image)  # (images, texts)"""

_DEGLA = """\
from degla.models import load_clip

folder = "."  # this folder
model = load_clip({name!r}, f"{{folder}}/open_clip_model.safetensors").eval()
print(model.encode_text(model.tokenizer(["a red square", "a blue square"])).shape)"""


class CardFacts(NamedTuple):
    """The facts about a written model that its card states."""

    layout: str  # open_clip, safetensors or hf
    architecture: str
    base: str | None  # the weights that fine-tuning started from: a tag, or a file; None: random
    quick_gelu: bool
    preprocess: Mapping[str, Any]
    merges: str | None = None  # name of the file with the tokenizer's own merges, in the model's folder
    weights: str = "student"  # or ema
    wise_ft: float | None = None
    checkpoint: str = ""  # name of the file that the weights come from
    is_run_result: bool = True  # whether the last results of the run are those of these weights
    choice: str = ""  # what the retention guard of the run chose, and its values


def write_card(folder: Path, facts: CardFacts, settings: Mapping[str, Any], run_dir: Path | None) -> None:
    """Write ``README.md`` beside a model.

    Args:
        folder: folder of the model.
        facts: what was written.
        settings: config of the training run; ``{}`` if it is not known.
        run_dir: folder of the training run, for its results; None if there is none.
    """
    metrics_file = run_dir / "metrics.csv" if run_dir is not None else None
    metrics = read_metrics(metrics_file) if metrics_file is not None and metrics_file.is_file() else {}
    results = {name: values for name, values in metrics.items() if name.startswith(("val/", "eval")) and values}
    data = ModelCardData(
        model_name=f"{facts.architecture} fine-tuned with degla",
        base_model=_hub_id(facts.architecture, facts.base),
        library_name=_LIBRARIES.get(facts.layout, "open_clip"),
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "degla", "hard-negatives"],
        eval_results=_eval_results(results) if facts.is_run_result else None,
        ignore_metadata_errors=False,
    )
    sections = [
        "# A CLIP model fine-tuned with degla",
        "\n".join(f"- {fact}" for fact in _facts(facts, settings)),
        f"```python\n{snippet(facts)}\n```",
        _result_table(results, facts),
        _data(settings),
        "## Licence\n\nNot stated. The licences of the base model and of the training data apply; "
        "set `license` in the first lines of this file before you publish the model.",
        _settings(settings),
    ]
    body = "\n\n".join(section for section in sections if section)
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n").save(folder / "README.md")


def write_run_card(run_dir: Path) -> None:
    """Write the card of ``<run_dir>/model``, the model that a finished run leaves; do nothing if there is none."""
    folder = run_dir / "model"
    if not (folder / "open_clip_config.json").is_file():
        return
    settings: Any = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    written = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    model = settings.get("model") or {}
    record = read_retention(run_dir)
    chosen = record.chosen if record is not None else None
    facts = CardFacts(
        layout="open_clip",
        architecture=_last_part(str(model.get("name"))),
        base=model.get("pretrained"),
        quick_gelu=written["model_cfg"]["quick_gelu"],
        preprocess=written["preprocess_cfg"],
        merges=(written["model_cfg"].get("text_cfg", {}).get("tokenizer_kwargs") or {}).get("bpe_path"),
        wise_ft=None if chosen is None or chosen.wise_ft == 1 else chosen.wise_ft,
        is_run_result=record is None or record.chose_last_step,
        choice="" if record is None else describe_choice(record),
    )
    write_card(folder, facts, settings, run_dir)


def snippet(facts: CardFacts) -> str:
    """Return Python code that loads the model from its folder and uses it."""
    if facts.layout == "hf":
        return _TRANSFORMERS
    if facts.layout == "sentence_transformers":
        return _SENTENCE_TRANSFORMERS
    if facts.layout.startswith("onnx"):
        return _ONNX
    look = facts.preprocess
    if facts.layout == "open_clip":
        # open_clip looks for a file of merges in the current folder, not in the model's.
        merges = f', bpe_path=f"{{folder}}/{facts.merges}"' if facts.merges else ""
        load = 'model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")\n'
        load += f'tokenizer = open_clip.get_tokenizer(f"local-dir:{{folder}}"{merges})'
        return _OPEN_CLIP.format(load=load)
    if facts.architecture.startswith(("degla-", "local-dir:")):  # open_clip does not know the architecture
        return _DEGLA.format(name=facts.architecture)
    load = f"""\
model, _, preprocess = open_clip.create_model_and_transforms(
    {facts.architecture!r},
    pretrained=f"{{folder}}/open_clip_model.safetensors",
    force_quick_gelu={facts.quick_gelu},
    image_mean={tuple(look["mean"])},
    image_std={tuple(look["std"])},
    image_interpolation={look["interpolation"]!r},
    image_resize_mode={look["resize_mode"]!r},
)
tokenizer = open_clip.get_tokenizer({facts.architecture!r})"""
    return _OPEN_CLIP.format(load=load)


def _facts(facts: CardFacts, settings: Mapping[str, Any]) -> list[str]:
    base = _last_part(facts.base) if facts.base else "random weights"
    weights = f"weights: {facts.weights}" + (f" of `{facts.checkpoint}`" if facts.checkpoint else "")
    if facts.wise_ft is not None:
        weights += f", {facts.wise_ft:g} of them and {1 - facts.wise_ft:g} of the base model's (WiSE-FT)"
    activation = "QuickGELU" if facts.quick_gelu else "GELU"
    return [
        f"base model: {_last_part(facts.architecture)}" + (f" / {base}" if settings or facts.base else ""),
        weights,
        f"activation: {activation}; a program that builds another activation silently loses accuracy",
        f"method: {_method(settings)}",
    ]


def _method(settings: Mapping[str, Any]) -> str:
    terms = {name: weight for name, weight in term_weights(settings.get("objective") or {}).items() if weight}
    if not terms:
        return "not recorded in the checkpoint"
    listed = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    return f"fine-tuning with the loss terms (weights) {listed}; see DeGLA, arXiv 2504.16801"


def _eval_results(results: Mapping[str, Mapping[int, float]]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=_dataset(name),
            dataset_name=_dataset(name),
            metric_type="accuracy",
            metric_name=name.partition("/")[2],
            metric_value=round(values[max(values)], 4),
        )
        for name, values in results.items()
    ]


def _dataset(metric: str) -> str:
    stage, _, name = metric.partition("/")
    return "validation samples of the run" if stage == "val" else name.partition("/")[0]


def _result_table(results: Mapping[str, Mapping[int, float]], facts: CardFacts) -> str:
    if not results:
        return ""
    title = "## Results"
    if not facts.is_run_result:
        title += " of the run's student\n\nThe weights in this folder are others"
        title += f", chosen by the retention guard: {facts.choice}." if facts.choice else " and were not measured."
    lines = [f"| {name} | {values[min(values)]:.3f} | {values[max(values)]:.3f} |" for name, values in results.items()]
    return "\n".join([f"{title}\n", "| | before training | after |", "| --- | --- | --- |", *lines])


def _data(settings: Mapping[str, Any]) -> str:
    """Return what the run was trained on, with the card of the data if there is one."""
    data = settings.get("data") or {}
    if not data:
        return ""
    source = str(data.get("path") or data.get("annotations") or data.get("_target_"))
    lines = [f"- {_last_part(source)}"]
    card = Path(source) / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8").partition("# ")[2]
        lines += [line for line in text.partition("\n## ")[0].splitlines()[1:] if line.strip()]
    return "## Data\n\n" + "\n".join(lines)


def _settings(settings: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    shown = {key: _without_folders(value) for key, value in settings.items() if key not in _HIDDEN_GROUPS}
    return f"## Settings of the run\n\n```yaml\n{yaml.safe_dump(shown, sort_keys=False).rstrip()}\n```"


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(text: str) -> str:
    """Return the name of a file or folder where ``text`` is an absolute path, else ``text``."""
    path = text.removeprefix("local-dir:")
    return Path(path).name if Path(path).is_absolute() else text


def _hub_id(architecture: str, tag: str | None) -> str | None:
    if architecture.startswith("hf-hub:"):
        return architecture.removeprefix("hf-hub:")
    return _HUB_IDS.get((architecture, tag or ""))
