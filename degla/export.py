"""``degla-export`` and ``python -m degla.export``: a checkpoint as a model that others load."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from degla.cli.main import run_program
from degla.errors import ConfigError

if TYPE_CHECKING:
    from degla.models import ClipModel

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point."""
    run_program("export", export)


def export(cfg: DictConfig) -> None:
    """Read the checkpoint, write the model and its card, and upload them where that is asked for."""
    from degla.models import save_open_clip, save_safetensors
    from degla.models.hf import save_hf
    from degla.report.model_card import write_card

    if cfg.to not in ("open_clip", "safetensors", "hf"):
        raise ConfigError(f"to={cfg.to} is none of open_clip, safetensors, hf")
    if cfg.weights not in ("student", "ema"):
        raise ConfigError(f"weights={cfg.weights} is neither student nor ema")
    if cfg.push_to_hub and not os.environ.get("HF_TOKEN"):
        raise ConfigError("push_to_hub needs a token of the Hugging Face hub in the environment: set HF_TOKEN")
    checkpoint = _checkpoint(cfg.ckpt)
    run_dir = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
    out = Path(cfg.out or (run_dir or checkpoint.parent) / f"{checkpoint.stem}_{cfg.to}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} is there already; choose another folder")
    model, settings = _model(cfg, checkpoint)
    write = {"open_clip": save_open_clip, "safetensors": save_safetensors, "hf": save_hf}[cfg.to]
    write(model, out)
    write_card(out, model, OmegaConf.to_container(cfg, resolve=True), checkpoint, settings, run_dir)
    print(out)
    if cfg.push_to_hub:
        _push(out, cfg.push_to_hub)


def _checkpoint(ckpt: str | None) -> Path:
    from degla.artifacts import checkpoint_error, newest_checkpoint

    if ckpt is None:
        raise ConfigError("ckpt is not set: a run's folder, a step-*.ckpt, or a file of weights such as epoch_5.pt")
    path = Path(ckpt)
    if path.is_dir():
        if (newest := newest_checkpoint(path / "checkpoints")) is None:
            raise ConfigError(f"ckpt: {path} holds no whole checkpoints/step-*.ckpt")
        return newest
    if not path.is_file():
        raise ConfigError(f"ckpt: there is no file {path}")
    if path.suffix == ".ckpt" and (broken := checkpoint_error(path)):
        raise ConfigError(f"ckpt: {path}: {broken}")
    return path


def _model(cfg: DictConfig, checkpoint: Path) -> tuple["ClipModel", dict]:
    """The model to be written, and the settings of the run that made it, ``{}`` where they are not known."""
    from degla.models import resolve_architecture, has_bundled_weights, interpolate_weights, load_clip
    from degla.models.checkpoints import read_settings, read_weights

    settings = read_settings(checkpoint)
    arguments = OmegaConf.to_container(cfg.model, resolve=True) if cfg.model else dict(settings.get("model") or {})
    arguments.pop("_target_", None)
    if not arguments:
        read_weights(checkpoint)  # says what is wrong with the file itself
        raise ConfigError(f"ckpt: {checkpoint} does not say its architecture: set model=vit_b_32 or another")
    base = arguments.pop("pretrained", None)
    if (folder := resolve_architecture(arguments["name"], base)) != arguments["name"]:
        arguments["name"], base = folder, None
    if cfg.weights == "ema" and not (settings.get("teacher") or {}).get("decay"):
        raise ConfigError(f"weights=ema: {checkpoint} has no EMA teacher; set weights=student")
    part = {"student": "student", "ema": "teacher.model"}[cfg.weights]
    model = load_clip(**arguments, pretrained=str(checkpoint), part=part)
    if cfg.wise_ft is not None:
        if not 0 <= cfg.wise_ft <= 1:
            raise ConfigError(f"wise_ft={cfg.wise_ft} must be from 0 (the base) to 1 (the fine-tuned model)")
        if base is None and not has_bundled_weights(arguments["name"]):
            raise ConfigError(
                "wise_ft needs the weights that fine-tuning began with: set model=... model.pretrained=..."
            )
        first = load_clip(**arguments, pretrained=base).clip.state_dict()
        model.clip.load_state_dict(interpolate_weights(first, model.clip.state_dict(), cfg.wise_ft))
    return model.eval(), settings


def _push(folder: Path, name: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from degla.models.checkpoints import first_line

    api = HfApi(token=os.environ["HF_TOKEN"])
    try:
        api.create_repo(name, private=True, exist_ok=True)
        if not api.repo_info(name).private:
            raise ConfigError(
                f"push_to_hub: {name} is there already, and public: choose another name, or make it private"
            )
        print(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model exported by degla"))
    except HfHubHTTPError as error:
        raise ConfigError(f"push_to_hub: {first_line(error)}; the model is in {folder}") from error


if __name__ == "__main__":
    main()
