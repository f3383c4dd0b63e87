"""Resolve the architecture and the weights of a model from a name, a tag, a file, a folder or the hub.

A folder or a repository of the hub decides the architecture, the activation and the preprocessing.
"""

import contextlib
import copy
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from huggingface_hub import hf_hub_download, snapshot_download
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX, get_model_config
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg

from degla.compat.open_clip import find_weights
from degla.errors import CheckpointError, ConfigError
from degla.hub import reachable_hub
from degla.models.checkpoints import Weights, first_line, read_weights
from degla.models.hf_folder import FILES, PICKLED_WEIGHTS, is_hf_folder, read_hf
from degla.models.hub_names import HUB_PREFIXES, download_hub_file, hub_file, hub_name, is_on_hub

ARCHITECTURES = Path(__file__).parent / "architectures"  # open_clip configs that come with the package
BUNDLED_WEIGHTS = Path(__file__).parent / "pretrained"  # <name>/<tag>.safetensors
_RANDOM = "random weights"
_WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Settings of open_clip's tokenizers that run no code of a model's folder.
_TOKENIZER_SETTINGS = {"additional_special_tokens", "bpe_path", "clean", "language", "lower", "reduction_mask",
                       "strip_sep_token"}  # fmt: skip
# Values of open_clip's ``preprocess_cfg``.
_PREPROCESSING = {
    "interpolation": ("bicubic", "bilinear", "random"),
    "resize_mode": ("shortest", "longest", "squash"),
}

open_clip.add_model_config(ARCHITECTURES)


class ModelSource(NamedTuple):
    """The architecture and the weights of a model, for labels and records."""

    architecture: str  # name of the architecture; that of a folder's config where a folder was given
    pretrained: str | None  # tag, file, folder or repository of the weights; None for random weights

    @property
    def description(self) -> str:
        """Architecture and weights in a few words, such as ``ViT-B-32 openai``."""
        return f"{self.architecture} {self.pretrained or _RANDOM}"


class Source(NamedTuple):
    """The origin of architecture and weights, and what is recorded about the weights."""

    name: str  # by which open_clip builds the model and its tokenizer
    config: dict[str, Any]  # open_clip's ``model_cfg``
    weights: Weights | None  # None for random weights
    origin: str  # for messages
    quick_gelu: bool | None  # None where nothing is recorded
    preprocess: dict[str, Any]  # recorded part of open_clip's ``preprocess_cfg``
    model: ModelSource
    is_hf: bool = False  # ``config`` comes from a ``transformers.CLIPModel``, whose name open_clip does not know


class _Architecture(NamedTuple):
    config: dict[str, Any]
    preprocess: dict[str, Any]  # {} where open_clip finds it by the name
    hf_folder: Path | None = None  # folder of a ``transformers.CLIPModel``


def resolve_architecture(name: str, pretrained: str | None) -> str:
    """Return the name to build by: a folder or repository that is given as weights decides the architecture too.

    Args:
        name: as for ``load_clip``.
        pretrained: as for ``load_clip``.

    Returns:
        ``local-dir:<folder>`` or ``hf-hub:<repository>``, or ``name`` where ``pretrained`` is neither.
    """
    if pretrained is not None and is_on_hub(pretrained) and hub_file(pretrained) is None:
        return hub_name(pretrained)
    folder = (pretrained or "").removeprefix(LOCAL_DIR_PREFIX)
    return LOCAL_DIR_PREFIX + folder if folder and Path(folder).is_dir() else name


def has_bundled_weights(name: str) -> bool:
    """Return whether a name includes weights, as ``hf-hub:``, ``hf://`` and ``local-dir:`` names do."""
    return name.startswith((LOCAL_DIR_PREFIX, *HUB_PREFIXES))


def find_source(name: str, pretrained: str | None, cache_dir: str | None, part: str) -> Source:
    """Find architecture and weights, and read the weights.

    Args:
        name: as for ``load_clip``.
        pretrained: as for ``load_clip``.
        cache_dir: as for ``load_clip``.
        part: as for ``load_clip``.

    Raises:
        ConfigError: the name or the tag is unknown, a folder or repository is not usable, or a download failed.
        CheckpointError: the weights cannot be read.
    """
    name = hub_name(name)
    if pretrained is not None and (file := hub_file(pretrained)) is not None:
        pretrained = str(download_hub_file(*file, cache_dir))
    if (folder := resolve_architecture(name, pretrained)) != name:
        name, pretrained = folder, None
    if has_bundled_weights(name) and not pretrained:
        return _from_repository(name, cache_dir)
    if has_bundled_weights(name) and not Path(str(pretrained)).is_file():
        raise ConfigError(
            f"model.name={name} has weights of its own: set model.pretrained=null, or to a file of weights for it"
        )
    architecture = _architecture(name, cache_dir)
    config, is_hf = architecture.config, architecture.hf_folder is not None
    model = ModelSource(_architecture_name(name, config), pretrained)
    if pretrained is None:
        return Source(name, config, None, _RANDOM, None, {}, model)
    if Path(pretrained).is_file():
        weights = read_weights(Path(pretrained), part)
        preprocess = architecture.preprocess | (weights.preprocess or {})
        return Source(name, config, weights, pretrained, weights.quick_gelu, preprocess, model, is_hf)
    bundled = BUNDLED_WEIGHTS / name / f"{pretrained}.safetensors"
    if bundled.is_file():
        weights = read_weights(bundled)
        return Source(name, config, weights, f"{name}/{pretrained}", weights.quick_gelu, {}, model)
    return _from_tag(name, pretrained, cache_dir, config)


def own_merges(source: Source) -> Path | None:
    """Return the file of byte-pair merges of a model that does not use CLIP's; it lies beside the model's config.

    Args:
        source: of the model.

    Raises:
        ConfigError: the config names a file that is not there.
    """
    file: str | None = (source.config["text_cfg"].get("tokenizer_kwargs") or {}).get("bpe_path")
    if file is None:
        return None
    if source.name.startswith(HF_HUB_PREFIX) and Path(file).name == file:
        return download_hub_file(source.name.removeprefix(HF_HUB_PREFIX), file)
    folder = Path(source.name.removeprefix(LOCAL_DIR_PREFIX))
    folder = folder if source.name.startswith(LOCAL_DIR_PREFIX) else ARCHITECTURES
    if Path(file).name != file or not (folder / file).is_file():
        raise ConfigError(
            f"model.name: {source.name} needs the merges in {file}, which is not in {folder}; copy it there"
        )
    return folder / file


def check_preprocess(preprocess: Mapping[str, Any], origin: str) -> None:
    """Check what a file or folder records about preprocessing.

    Args:
        preprocess: open_clip's ``preprocess_cfg``.
        origin: for the message.

    Raises:
        CheckpointError: a value cannot be used.
    """
    for key in ("mean", "std"):
        value = preprocess.get(key)
        if not (isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(v, int | float) for v in value)):
            raise CheckpointError(f"{origin} records {key}={value!r} for its images; it must be three numbers")
    for key, choices in _PREPROCESSING.items():
        if preprocess.get(key) not in choices:
            raise CheckpointError(
                f"{origin} records {key}={preprocess.get(key)!r} for its images; it must be {' or '.join(choices)}"
            )


def _from_repository(name: str, cache_dir: str | None) -> Source:
    """Read a folder, or a repository of the hub, that holds a config and weights."""
    config, preprocess, hf_folder = _architecture(name, cache_dir)
    model = ModelSource(_architecture_name(name, config), name.removeprefix(LOCAL_DIR_PREFIX))
    quick_gelu = bool(config.get("quick_gelu", False))
    if hf_folder is not None:
        weights = Weights(read_hf(hf_folder).state, quick_gelu)
        return Source(name, config, weights, name, quick_gelu, preprocess, model, is_hf=True)
    if name.startswith(HF_HUB_PREFIX):
        try:
            with reachable_hub():
                path = Path(download_pretrained_from_hf(name.removeprefix(HF_HUB_PREFIX), cache_dir=cache_dir))
        except Exception as error:
            raise ConfigError(f"model.name: {name} cannot be loaded ({first_line(error)})") from error
        return Source(name, config, read_weights(path), name, quick_gelu, {}, model)
    weights_file = find_weights(Path(name.removeprefix(LOCAL_DIR_PREFIX)))
    if weights_file is None:
        raise ConfigError(f"model.name: {name} holds no weights; put open_clip_model.safetensors there")
    return Source(name, config, read_weights(weights_file), name, quick_gelu, {}, model)


def _hf_folder(name: str, cache_dir: str | None) -> Path | None:
    """Return the folder of a ``transformers.CLIPModel``, downloaded where it is on the hub; None for other names."""
    if name.startswith(LOCAL_DIR_PREFIX):
        folder = Path(name.removeprefix(LOCAL_DIR_PREFIX))
        return folder if is_hf_folder(folder) else None
    if not name.startswith(HF_HUB_PREFIX):
        return None
    repository = name.removeprefix(HF_HUB_PREFIX)
    with reachable_hub():
        with contextlib.suppress(Exception):
            hf_hub_download(repository, "open_clip_config.json", cache_dir=cache_dir)
            return None
        try:
            folder = Path(snapshot_download(repository, allow_patterns=list(FILES), cache_dir=cache_dir))
            if not any(folder.glob("*.safetensors")):
                snapshot_download(repository, allow_patterns=[*FILES, PICKLED_WEIGHTS], cache_dir=cache_dir)
        except Exception as error:
            raise ConfigError(
                f"model.name: {name} could not be downloaded ({first_line(error)}): run once with internet access, or "
                "set model.pretrained to a folder that holds it"
            ) from error
    if not is_hf_folder(folder):
        raise ConfigError(f"model.name: {name} holds neither open_clip_config.json nor config.json of transformers")
    return folder


def _from_tag(name: str, tag: str, cache_dir: str | None, config: dict[str, Any]) -> Source:
    recorded = get_pretrained_cfg(name, tag)
    if not recorded:
        tags = open_clip.list_pretrained_tags_by_model(name)
        tags += sorted(path.stem for path in (BUNDLED_WEIGHTS / name).glob("*.safetensors"))
        raise ConfigError(
            f"model.pretrained={tag} is neither a file, nor a folder, nor a tag of {name} "
            f"(its tags: {', '.join(tags) or 'none'}){_hub_hint(tag)}"
        )
    try:
        with reachable_hub():
            path = Path(download_pretrained(recorded, cache_dir=cache_dir))
    except Exception as error:
        hub = recorded.get("hf_hub")
        page = f"https://huggingface.co/{hub.strip('/')}" if hub else recorded["url"]
        raise ConfigError(
            f"the weights {name}/{tag} could not be downloaded ({first_line(error)}): fetch them from {page} "
            "on a machine with internet and set model.pretrained=/path/to/the/file"
        ) from error
    quick_gelu = bool(recorded.get("quick_gelu", False))
    return Source(name, config, read_weights(path), f"{name}/{tag}", quick_gelu, recorded, ModelSource(name, tag))


def _architecture(name: str, cache_dir: str | None) -> _Architecture:
    """Return a copy of open_clip's ``model_cfg`` for a name, after checking that it can be used."""
    if (hf_folder := _hf_folder(name, cache_dir)) is not None:
        hf = read_hf(hf_folder, with_weights=False)
        return _Architecture(hf.config, hf.preprocess, hf_folder)
    try:
        with reachable_hub() if name.startswith(HF_HUB_PREFIX) else contextlib.nullcontext():
            config: dict[str, Any] | None = get_model_config(name)
    except (OSError, ValueError) as error:
        if not has_bundled_weights(name):
            raise
        raise ConfigError(
            f"model.name: {name} cannot be loaded ({first_line(error)}); give a folder or repository that open_clip or "
            "transformers wrote"
        ) from error
    if config is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.3)
        hint = _hub_hint(name) or f"; did you mean {' or '.join(close or ['ViT-B-32'])}?"
        raise ConfigError(f"model.name={name} is unknown to open_clip{hint}")
    if not isinstance(config, dict) or not all(isinstance(config.get(k), dict) for k in ("text_cfg", "vision_cfg")):
        raise ConfigError(f"model.name: the open_clip_config.json of {name} has no model_cfg with text_cfg, vision_cfg")
    if not isinstance(config.get("quick_gelu", False), bool):
        raise ConfigError(f"model.name: {name} records quick_gelu={config['quick_gelu']!r}; set it to true or false")
    _refuse_programs(name, config)
    return _Architecture(copy.deepcopy(config), {})


def _hub_hint(name: str) -> str:
    """Return how to load ``name`` if it looks like a repository of the hub."""
    looks_like_one = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not name.endswith(_WEIGHTS_SUFFIXES)
    hint = f"; if it is a repository of the hub, set model.name=hf-hub:{name} model.pretrained=null"
    return hint if looks_like_one else ""


def _architecture_name(name: str, config: dict[str, Any]) -> str:
    """Return open_clip's name of an architecture, whose config may come from a folder."""
    if not has_bundled_weights(name):
        return name

    def without_activation(config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key != "quick_gelu"}

    for candidate in open_clip.list_models():
        if without_activation(get_model_config(candidate)) == without_activation(config):
            return str(candidate)
    return "architecture of its own"


def _refuse_programs(name: str, config: dict[str, Any]) -> None:
    """Refuse tokenizer settings that are not open_clip's: transformers would get them, and some run code."""
    unknown = set(config["text_cfg"].get("tokenizer_kwargs") or {}) - _TOKENIZER_SETTINGS
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ConfigError(f"model.name: {name} sets {names} for its tokenizer, which is not allowed; remove it there")
