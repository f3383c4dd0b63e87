"""Files that make a folder with a model a Space: a web page on the Hugging Face hub."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from degla import __version__

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
_GRADIO = "6.31.0"  # named in the front matter where gradio is not installed


def write_space(folder: Path, model: str, base: str | None, title: str) -> None:
    """Write ``app.py``, ``requirements.txt`` and ``README.md`` with the front matter of a Space.

    Args:
        folder: holds the folder of the model.
        model: name of that folder.
        base: folder or name of the model to compare with; None for no second model.
        title: of the page on the hub.
    """
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


def _gradio_version() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return _GRADIO
