"""Files that make a folder with a model a Space: a web page on the Hugging Face hub."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from degla import __version__
from degla.demo.pair import base_values
from degla.models import load_clip, save_open_clip

_APP = '''\
"""The page of degla-try for the model in this folder."""

import os
from pathlib import Path

from degla.demo.space import serve_space

if __name__ == "__main__":
    serve_space(
        Path(__file__).parent,
        model={model!r},
        base={base!r},
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),  # a Space sets both
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
'''
_README = """\
---
{front_matter}---

# {title}

Choose an image, write captions, and compare the model with the one that it started from. The model is in `{model}/`,
with a card of its own.

On your machine: `pip install -r requirements.txt`, then `python app.py`.
"""
_BASE = "base"  # folder of a base model that has no public name
_GRADIO = "6.31.0"  # named in the front matter where gradio is not installed


def write_space(folder: Path, model: str, settings: Mapping[str, Any], title: str) -> None:
    """Write ``app.py``, ``requirements.txt`` and ``README.md`` with the front matter of a Space.

    A base model that only this machine has is written as well.

    Args:
        folder: holds the folder of the model.
        model: name of that folder.
        settings: config of the run, for the model that it started from; ``{}`` if it is not known.
        title: of the page on the hub.

    Raises:
        DeglaError: the base model cannot be loaded.
    """
    base = _base(settings, folder)
    front_matter = {
        "title": title,
        "emoji": "🔎",
        "colorFrom": "blue",
        "colorTo": "yellow",
        "sdk": "gradio",
        "sdk_version": _gradio_version(),
        "app_file": "app.py",
        "pinned": False,
        "tags": ["clip", "degla", "hard-negatives"],
    }
    header = yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True)
    (folder / "README.md").write_text(_README.format(front_matter=header, title=title, model=model), encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(model=model, base=base), encoding="utf-8")
    requirements = f"degla[demo]=={__version__}\ngradio=={_gradio_version()}\n"
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")


def serve_space(folder: Path, model: str, base: str | None, host: str, port: int) -> None:
    """Serve the page of a Space until the process ends.

    Args:
        folder: of the Space.
        model: name of the model's folder in it.
        base: likewise, or a name that ``degla.load`` takes; None for no second model.
        host: address to listen on.
        port: of the page.

    Raises:
        DeglaError: a model cannot be used, or gradio is not installed.
    """
    from degla.data.images import ImageLimits
    from degla.demo.pair import load_pair
    from degla.demo.server import serve

    first = "none" if base is None else str(folder / base) if (folder / base).is_dir() else base
    models = load_pair(str(folder / model), first, None, str(folder), "auto")
    serve(models, ImageLimits(), host, port)


def _base(settings: Mapping[str, Any], folder: Path) -> str | None:
    """Return the name by which a Space loads the base model; write the model where it has no public name."""
    values = base_values(settings)
    if values is None:
        return None
    name, pretrained = values["name"], values["pretrained"]
    if name.startswith("local-dir:") or (pretrained is not None and Path(pretrained).exists()):
        save_open_clip(load_clip(**values).eval(), folder / _BASE)
        return _BASE
    return name if pretrained is None else f"{name}/{pretrained}"


def _gradio_version() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return _GRADIO
