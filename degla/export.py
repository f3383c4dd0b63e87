"""``degla-export`` and ``python -m degla.export``: write a checkpoint as a model that other programs load."""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf

from degla.artifacts import apply_default_modes, checkpoint_error, newest_checkpoint
from degla.cli.main import run_program
from degla.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from degla.models import ClipModel

log = logging.getLogger(__name__)

_FORMATS = ("open_clip", "safetensors", "hf", "sentence_transformers", "onnx", "onnx_fp16", "onnx_int8", "space")
_SPACE_MODEL = "model"  # folder of a Space
_PARTS = {"student": "student", "ema": "teacher.model"}  # value of the key ``weights`` -> part of a checkpoint


def main() -> None:
    """Run the program with the command line's arguments."""
    run_program("export", export)


def export(cfg: DictConfig) -> None:
    """Read a checkpoint, write its model with a card, and upload both if the config asks for it.

    Args:
        cfg: the composed ``export.yaml``.

    Raises:
        DeglaError: a setting cannot work, or the checkpoint cannot be read.
    """
    from degla.models import save_open_clip, save_safetensors
    from degla.models.hf import save_hf
    from degla.models.onnx import save_onnx
    from degla.models.sentence_transformers import save_sentence_transformers
    from degla.report.model_card import write_card

    _check_settings(cfg)
    repository = _repository(cfg.ckpt)
    checkpoint = _find_checkpoint(cfg.ckpt) if repository is None else Path(repository.rpartition("/")[2])
    run_dir = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
    beside = Path() if repository or _is_on_hub(cfg.ckpt) else run_dir or checkpoint.parent
    out = Path(cfg.out or beside / f"{checkpoint.stem}_{cfg.to}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} exists already; choose another folder")
    source = _read_source(cfg, checkpoint) if repository is None else _source_of(cfg, repository, checkpoint)
    model = _build(cfg, source)
    writers: dict[str, Callable[[ClipModel, Path], Path]] = {
        "open_clip": save_open_clip,
        "safetensors": save_safetensors,
        "hf": save_hf,
        "sentence_transformers": save_sentence_transformers,
        "onnx": save_onnx,
        "onnx_fp16": partial(save_onnx, precision="16"),
        "onnx_int8": partial(save_onnx, precision="int8"),
        "space": save_open_clip,
    }
    folder = out / _SPACE_MODEL if cfg.to == "space" else out
    writers[cfg.to](model, folder)
    if cfg.to == "open_clip":
        _write_adapter(cfg, source, model, folder)
    write_card(folder, _card_facts(cfg, source, model), source.settings, run_dir)
    if cfg.to.startswith("onnx"):
        _describe_onnx(model, folder)
    if cfg.to == "space":
        _write_space(source, model, out)
    apply_default_modes(out)
    print(out)
    if cfg.push_to_hub:
        _push(out, cfg.push_to_hub, "space" if cfg.to == "space" else "model")


class _Source(NamedTuple):
    """The origin of the weights, and the settings that build their model."""

    checkpoint: Path
    settings: dict[str, Any]  # config of the run that wrote the checkpoint; {} if it is not known
    arguments: dict[str, Any]  # of load_clip, without ``pretrained``
    base: str | None  # the weights that fine-tuning started from
    is_repository: bool = False  # the name in ``arguments`` includes the weights


def _check_settings(cfg: DictConfig) -> None:
    if cfg.to not in _FORMATS:
        raise ConfigError(f"to={cfg.to} must be one of {', '.join(_FORMATS)}")
    if cfg.weights not in _PARTS:
        raise ConfigError(f"weights={cfg.weights} is neither student nor ema")
    share = cfg.wise_ft
    if share is not None and not (isinstance(share, int | float) and 0 <= share <= 1):
        raise ConfigError(f"wise_ft={share} must be from 0 (the base) to 1 (the fine-tuned model)")
    if cfg.push_to_hub and not os.environ.get("HF_TOKEN"):
        raise ConfigError("push_to_hub needs a token of the Hugging Face hub in the environment: set HF_TOKEN")


def _is_on_hub(ckpt: str | None) -> bool:
    from degla.models.hub_names import is_on_hub

    return is_on_hub(ckpt)


def _repository(ckpt: str | None) -> str | None:
    """Return the name that loads a whole model, from a folder or from the hub; None for a run or a file."""
    from degla.models.hf_folder import is_hf_folder
    from degla.models.hub_names import hub_file, hub_name
    from degla.models.saving import CONFIG_NAME

    if ckpt is None:
        return None
    if _is_on_hub(ckpt):
        return hub_name(ckpt) if hub_file(ckpt) is None else None
    folder = Path(ckpt)
    return f"local-dir:{folder}" if (folder / CONFIG_NAME).is_file() or is_hf_folder(folder) else None


def _source_of(cfg: DictConfig, repository: str, checkpoint: Path) -> _Source:
    if cfg.weights == "ema" or cfg.wise_ft is not None:
        raise ConfigError(f"ckpt: {cfg.ckpt} holds one model: weights=ema and wise_ft need the folder of a run")
    arguments: Any = OmegaConf.to_container(cfg.model, resolve=True) if cfg.model else {}
    arguments = {key: value for key, value in arguments.items() if key not in ("_target_", "pretrained")}
    return _Source(checkpoint, {}, {**arguments, "name": repository}, None, is_repository=True)


def _find_checkpoint(ckpt: str | None) -> Path:
    if ckpt is None:
        raise ConfigError("ckpt is not set: a run's folder, a step-*.ckpt, or a file of weights such as epoch_5.pt")
    from degla.models.hub_names import download_hub_file, hub_file

    path = download_hub_file(*file) if (file := hub_file(ckpt)) else Path(ckpt)
    if path.is_dir():
        if (newest := newest_checkpoint(path / "checkpoints")) is None:
            raise ConfigError(f"ckpt: {path} holds no usable checkpoints/step-*.ckpt")
        return newest
    if not path.is_file():
        raise ConfigError(f"ckpt: there is no file {path}")
    if path.suffix == ".ckpt" and (reason := checkpoint_error(path)):
        raise CheckpointError(f"ckpt: {path}: {reason}")
    return path


def _read_source(cfg: DictConfig, checkpoint: Path) -> _Source:
    """Read the settings in the checkpoint; ``cfg.model`` takes precedence over the model that they name."""
    from degla.models import resolve_architecture
    from degla.models.checkpoints import read_settings, read_weights

    settings = read_settings(checkpoint)
    arguments: Any = OmegaConf.to_container(cfg.model, resolve=True) if cfg.model else dict(settings.get("model") or {})
    arguments.pop("_target_", None)
    if not arguments:
        read_weights(checkpoint)  # raises if the file itself is the problem
        raise ConfigError(f"ckpt: {checkpoint} does not say its architecture: set model=vit_b_32 or another")
    base = arguments.pop("pretrained", None)
    if (folder := resolve_architecture(arguments["name"], base)) != arguments["name"]:
        arguments["name"], base = folder, None
    if cfg.weights == "ema" and not (settings.get("teacher") or {}).get("decay"):
        raise ConfigError(f"weights=ema: {checkpoint} has no EMA teacher; set weights=student")
    return _Source(checkpoint, settings, arguments, base)


def _build(cfg: DictConfig, source: _Source) -> "ClipModel":
    """Build the model that is written: the checkpoint's weights, or a mix of them and the base model's."""
    from degla.models import has_bundled_weights, interpolate_weights, load_clip

    pretrained = None if source.is_repository else str(source.checkpoint)
    model = load_clip(**source.arguments, pretrained=pretrained, part=_PARTS[cfg.weights])
    if cfg.wise_ft is not None:
        if source.base is None and not has_bundled_weights(source.arguments["name"]):
            raise ConfigError("wise_ft needs the weights before fine-tuning: set model=... model.pretrained=...")
        base = load_clip(**source.arguments, pretrained=source.base).clip.state_dict()
        model.clip.load_state_dict(interpolate_weights(base, model.clip.state_dict(), cfg.wise_ft))
    return model.eval()


def _card_facts(cfg: DictConfig, source: _Source, model: "ClipModel") -> Any:
    from degla.report.model_card import CardFacts

    newest = newest_checkpoint(source.checkpoint.parent)
    return CardFacts(
        layout="open_clip" if cfg.to == "space" else cfg.to,
        architecture=source.arguments["name"],
        base=source.base or (source.settings.get("model") or {}).get("pretrained"),
        quick_gelu=model.config["quick_gelu"],
        preprocess=model.preprocess,
        merges=model.merges.name if model.merges else None,
        weights=cfg.weights,
        wise_ft=cfg.wise_ft,
        checkpoint=source.checkpoint.name,
        is_run_result=cfg.weights == "student" and cfg.wise_ft is None and newest == source.checkpoint,
    )


def _describe_onnx(model: "ClipModel", folder: Path) -> None:
    from degla.report.onnx_card import add_section, measure_change

    add_section(folder / "README.md", measure_change(model, folder))


def _write_adapter(cfg: DictConfig, source: _Source, model: "ClipModel", folder: Path) -> None:
    """Write the adapter of a run with a LoRA beside its merged model, unless that is mixed with the base model."""
    settings = dict(source.settings.get("adapter") or {})
    if not settings.pop("_target_", None) or cfg.wise_ft is not None:
        return
    from degla.models.adapters import FOLDER, Lora, save_adapter
    from degla.models.checkpoints import read_adapter

    if adapter := read_adapter(source.checkpoint, _PARTS[cfg.weights]):
        save_adapter(Lora(**settings).settings(model), adapter, folder / FOLDER)


def _write_space(source: _Source, model: "ClipModel", out: Path) -> None:
    """Add the files of a Space beside the model."""
    from degla.demo.space import write_space

    settings = source.settings or {"model": {**source.arguments, "pretrained": source.base}}
    title = f"{model.source.architecture} fine-tuned with degla"
    # Of a folder or repository that was given as the model itself, nobody knows what it started from.
    write_space(out, _SPACE_MODEL, {} if source.is_repository else settings, title)


def _push(folder: Path, name: str, repo_type: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from degla.models.checkpoints import first_line

    # OSError, and the base of what the hub's HTTP client raises without a network; the client's name varies.
    errors = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
    api = HfApi(token=os.environ["HF_TOKEN"])
    try:
        sdk = "gradio" if repo_type == "space" else None
        api.create_repo(name, private=True, exist_ok=True, repo_type=repo_type, space_sdk=sdk)
        if not api.repo_info(name, repo_type=repo_type).private:
            raise ConfigError(
                f"push_to_hub: {name} exists already and is public: choose another name, or make it private"
            )
        message = "Model exported by degla"
        print(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, repo_type=repo_type))
    except errors as error:
        raise ConfigError(f"push_to_hub: {first_line(error)}; the model is in {folder}") from error


if __name__ == "__main__":
    main()
