"""Find and load the two models that are compared: a fine-tuned one, and the one that it started from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from degla.api.model import Model, choose_device, load
from degla.artifacts import newest_checkpoint
from degla.errors import ConfigError, DeglaError
from degla.models import has_bundled_weights, load_clip
from degla.models.checkpoints import read_settings

BASE, TUNED = "base", "tuned"  # roles of the models, as tables and the page show them
_NO_BASE = "none"  # value of the key ``base`` that shows the model alone
_DEMO = "demo"  # name of the runs of ``make demo``
_CONFIG_FILES = ("open_clip_config.json", "config.json")  # of a run's folder model/


def load_pair(
    model: str | None, base: str | None, architecture: str | None, runs_dir: str, device: str
) -> dict[str, Model]:
    """Load a model and its base.

    Args:
        model: any name that ``degla.load`` takes; None is the newest run of the demo in ``runs_dir``.
        base: likewise; None is the model that the run of ``model`` started from, where that is known, and ``none``
            is no second model.
        architecture: open_clip name for a file of weights that does not record it.
        runs_dir: folder of all runs.
        device: ``cpu``, ``cuda`` or ``auto``.

    Returns:
        Role -> model: ``base``, where there is one, then ``tuned``. No weight of them asks for a gradient.

    Raises:
        DeglaError: a model does not exist or cannot be used.
    """
    name = newest_demo_run(Path(runs_dir)) if model is None else Path(model).expanduser()
    choose_device(device)
    # A path would turn "hf-hub:a/b" and the like into another text, so names stay as they are.
    tuned = load(name if model is None else model, architecture, device)
    tuned.label = _short(str(name if model is None else model))
    first = _load_base(name, base, architecture, device)
    models = {TUNED: tuned} if first is None else {BASE: first, TUNED: tuned}
    for loaded in models.values():
        loaded.clip.requires_grad_(False)  # explanations need the gradient of the image alone
    return models


def newest_demo_run(runs_dir: Path) -> Path:
    """Return the folder of the newest run of the demo that has left a model or a checkpoint.

    Args:
        runs_dir: folder of all runs.

    Raises:
        ConfigError: there is none.
    """
    runs = runs_dir / _DEMO
    files = [file for name in _CONFIG_FILES for file in runs.glob(f"*/model/{name}")]
    files += runs.glob("*/checkpoints/step-*.ckpt")
    if not files:
        raise ConfigError(f"model is not set, and {runs} holds no run of the demo: run make demo, or set model=...")
    return max(files, key=lambda file: file.stat().st_mtime).parents[1]


def settings_of_run(model: Path) -> dict[str, Any]:
    """Return the settings of the run that wrote a model, or ``{}`` where they are not recorded.

    Args:
        model: the folder of a run, its ``model/``, or one of its checkpoints.
    """
    for folder in (model, model.parent, model.parent.parent):
        is_run = folder == model or model.name == "model" or model.parent.name == "checkpoints"
        if is_run and (folder / "config.yaml").is_file():
            settings = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
            return {str(key): value for key, value in settings.items()} if isinstance(settings, dict) else {}
    file = newest_checkpoint(model / "checkpoints") if model.is_dir() else model
    return read_settings(file) if file is not None and file.is_file() else {}


def base_values(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of ``load_clip`` for the model that a run started from; None where there is no such model.

    Args:
        settings: the config of the run.
    """
    values = dict(settings.get("model") or {})
    name, pretrained = values.get("name"), values.get("pretrained")
    if not isinstance(name, str) or (pretrained is None and not has_bundled_weights(name)):
        return None  # not recorded, or random weights
    return {key: values.get(key) for key in ("name", "pretrained", "quick_gelu", "cache_dir")}


def _load_base(name: Path, base: str | None, architecture: str | None, device: str) -> Model | None:
    if base == _NO_BASE:
        return None
    if base is not None:
        loaded = load(base, architecture, device)
        loaded.label = _short(base)
        return loaded
    values = base_values(settings_of_run(name))
    if values is None:
        return None
    try:
        clip = load_clip(**values).eval()
    except DeglaError as error:
        raise ConfigError(
            f"base: the model that the run started from cannot be loaded ({error}); set base=... or base=none"
        ) from error
    return Model(clip, _short(clip.source.description)).to(choose_device(device))


def _short(name: str) -> str:
    """Return the last parts of a path, which are enough to tell models apart in a table."""
    path = Path(name)
    return "/".join(path.parts[-2:]) if path.exists() else name
