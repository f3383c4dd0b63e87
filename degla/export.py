"""``degla-export`` and ``python -m degla.export``: write a checkpoint as a model that other programs load."""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from degla.artifacts import apply_default_modes, checkpoint_error, newest_checkpoint
from degla.cli.main import run_program
from degla.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from degla.models import ClipModel

log = logging.getLogger(__name__)

_FORMATS = ("open_clip", "safetensors", "hf", "onnx", "onnx_int8")
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
    from degla.report.model_card import write_card

    _check_settings(cfg)
    checkpoint = _find_checkpoint(cfg.ckpt)
    run_dir = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
    out = Path(cfg.out or (run_dir or checkpoint.parent) / f"{checkpoint.stem}_{cfg.to}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} exists already; choose another folder")
    source = _read_source(cfg, checkpoint)
    model = _build(cfg, source)
    writers: dict[str, Callable[[ClipModel, Path], Path]] = {
        "open_clip": save_open_clip,
        "safetensors": save_safetensors,
        "hf": save_hf,
        "onnx": save_onnx,
        "onnx_int8": partial(save_onnx, precision="int8"),
    }
    writers[cfg.to](model, out)
    write_card(out, _card_facts(cfg, source, model), source.settings, run_dir)
    apply_default_modes(out)
    print(out)
    if cfg.push_to_hub:
        _push(out, cfg.push_to_hub)


class _Source(NamedTuple):
    """The origin of the weights, and the settings that build their model."""

    checkpoint: Path
    settings: dict[str, Any]  # config of the run that wrote the checkpoint; {} if it is not known
    arguments: dict[str, Any]  # of load_clip, without ``pretrained``
    base: str | None  # the weights that fine-tuning started from


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


def _find_checkpoint(ckpt: str | None) -> Path:
    if ckpt is None:
        raise ConfigError("ckpt is not set: a run's folder, a step-*.ckpt, or a file of weights such as epoch_5.pt")
    path = Path(ckpt)
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

    model = load_clip(**source.arguments, pretrained=str(source.checkpoint), part=_PARTS[cfg.weights])
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
        layout=cfg.to,
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


def _push(folder: Path, name: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from degla.models.checkpoints import first_line

    api = HfApi(token=os.environ["HF_TOKEN"])
    try:
        api.create_repo(name, private=True, exist_ok=True)
        if not api.repo_info(name).private:
            raise ConfigError(
                f"push_to_hub: {name} exists already and is public: choose another name, or make it private"
            )
        print(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model exported by degla"))
    except HfHubHTTPError as error:
        raise ConfigError(f"push_to_hub: {first_line(error)}; the model is in {folder}") from error


if __name__ == "__main__":
    main()
