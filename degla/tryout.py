"""``degla-try`` and ``python -m degla.tryout``: score captions of an image with a model and its base.

Imports no torch. ``try`` is a keyword of Python, so the module has another name than the program.
"""

import importlib.util
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from degla.cli.keys import root_keys
from degla.cli.main import run_program
from degla.errors import ConfigError, MissingDependencyError

_PROGRAM = "try"
_KEY = re.compile(r"[+~]{0,2}[\w./@-]+=.*", re.DOTALL)
_PRINTING_FLAGS = {"--options", "--help", "-h", "--hydra-help", "--version"}
# Hydra's flags that are followed by a value.
_FLAGS_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir",
                     "-cd", "--info", "-i"}  # fmt: skip
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class CommandLine(NamedTuple):
    """The parts of a command line."""

    settings: list[str]  # for Hydra
    captions: list[str]
    model: str | None  # the value of ``model=``


def main() -> None:
    """Run the program with the command line's arguments."""
    line = split_arguments(sys.argv[1:])
    sys.argv[1:] = line.settings

    def task(cfg: DictConfig) -> None:
        logging.getLogger().setLevel(logging.WARNING)  # open_clip tells which files it reads
        GlobalHydra.instance().clear()  # a model that is named by an option composes a config of its own
        if line.model is not None:
            cfg.model = line.model
        try_models(cfg, line.captions)

    run_program(_PROGRAM, task)


def split_arguments(arguments: Sequence[str]) -> CommandLine:
    """Separate captions from settings.

    An argument is a setting if it begins with ``key=``; a caption may hold "=" after its first space. Everything
    after ``--`` is a caption.

    ``model=`` is taken out as well. Hydra reads a key as the choice of an option where a folder of that name is in
    ``configs/``, and ``configs/model`` is one. Here ``model`` is a plain key, which takes folders and names.

    Args:
        arguments: the command line without the program's name.
    """
    words, after_dashes = list(arguments), []
    if "--" in words:
        cut = words.index("--")
        words, after_dashes = words[:cut], words[cut + 1 :]
    if _PRINTING_FLAGS & {word.partition("=")[0] for word in words}:
        return CommandLine(words, after_dashes, None)
    settings: list[str] = []
    captions: list[str] = []
    model = None
    for previous, word in zip(["", *words], words, strict=False):
        if word.startswith("model="):
            model = _without_quotes(word.removeprefix("model="))
        elif word.startswith("-") or previous in _FLAGS_WITH_VALUE or _KEY.fullmatch(word):
            settings.append(word)
        else:
            captions.append(word)
    return CommandLine(settings, [*captions, *after_dashes], None if model in ("", "null") else model)


def try_models(cfg: DictConfig, captions: Sequence[str] = ()) -> None:
    """Print the scores of an image's captions, or serve the page.

    Args:
        cfg: the composed ``configs/try.yaml``.
        captions: of the command line; they follow those of the config.

    Raises:
        DeglaError: a setting, the model or the image cannot be used.
    """
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    texts = [*(settings["captions"] or []), *captions]
    _check(settings, texts)
    from degla.data.images import ImageLimits
    from degla.demo.console import print_scores
    from degla.demo.examples import example_scenes
    from degla.demo.pair import load_pair
    from degla.demo.scores import check_captions, read_image
    from degla.demo.server import serve

    limits = ImageLimits(max_pixels=cfg.max_image_pixels)
    image = read_image(Path(cfg.image).expanduser(), limits) if cfg.image is not None else None
    check_captions(texts)
    models = load_pair(cfg.model, cfg.base, cfg.architecture, cfg.runs_dir, cfg.device)
    if cfg.serve:
        serve(models, limits, cfg.host, cfg.port, cfg.max_upload_mb)
        return
    name = str(cfg.image)
    if image is None:
        example = example_scenes(1)[0]
        image, name = read_image(example.image_bytes, limits), f"an example scene ({example.caption})"
        texts = texts or [example.caption, *example.negatives]
    print_scores(models, image, name, texts)


def _check(settings: dict[Any, Any], captions: Sequence[object]) -> None:
    """Check what needs no model."""
    if settings["serve"] and importlib.util.find_spec("gradio") is None:
        raise MissingDependencyError.for_extra("serve=true needs gradio", "demo")
    for caption in captions:
        if not isinstance(caption, str):
            raise ConfigError(f"captions: {caption!r} must be a text: quote it")
        if caption in root_keys(_PROGRAM):
            raise ConfigError(f"'{caption}' is read as a caption: to set the key, write {caption}=...")
        if Path(caption).suffix.lower() in _IMAGE_SUFFIXES and " " not in caption:
            raise ConfigError(f"'{caption}' is read as a caption: if it is the image, write image={caption}")
    if settings["image"] is not None and not captions and not settings["serve"]:
        raise ConfigError(f"image={settings['image']} needs captions to score: write them after it, each in quotes")


def _without_quotes(value: str) -> str:
    """Remove the quotes that Hydra needs around other values with special characters."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


if __name__ == "__main__":
    main()
