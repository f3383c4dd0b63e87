"""The web page of ``degla-try``, built with gradio.

It is imported only where gradio is installed.
"""

import threading
from abc import ABCMeta
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from degla.api.model import Model
from degla.data.images import ImageLimits
from degla.demo.examples import example_scenes
from degla.demo.page_parts import maps_html, message, result_html, words_html
from degla.demo.relevance import relevance
from degla.demo.scores import check_captions, read_image, score_captions, word_effects
from degla.demo.suggest import suggest_negatives
from degla.errors import DataError, DeglaError

_FONTS = ("system-ui", "sans-serif")  # gradio's themes load their fonts from another host
_CACHE_SECONDS = 3600  # after which uploaded files are deleted


def theme() -> gr.themes.Base:
    """Return gradio's plain theme with fonts of the user's machine."""
    return gr.themes.Default(font=_FONTS, font_mono=("ui-monospace", "monospace"))


def build_page(models: Mapping[str, Model], limits: ImageLimits, example_folder: Path) -> gr.Blocks:
    """Return the page.

    Args:
        models: role -> model.
        limits: bounds of an image's size.
        example_folder: where the files of the examples are written.
    """
    actions = _Actions(models, limits)
    names = "\n".join(f"- **{role}**: {_without_markdown(model.label)}" for role, model in models.items())
    with gr.Blocks(title="degla-try", analytics_enabled=False, delete_cache=(_CACHE_SECONDS,) * 2) as page:
        gr.Markdown(
            "# Which caption fits the image?\n\nChoose an image and write captions, one per line. Each model scores "
            f"every caption.\n\n{names}"
        )
        with gr.Row():
            with gr.Column(min_width=300):
                image = _image_file()(label="Image", sources=["upload"], height=300, buttons=[], elem_id="image")
            with gr.Column(min_width=300):
                captions = gr.Textbox(
                    label="Captions, one per line",
                    info="The first line should be true of the image. Suggestions are false variants of it.",
                    lines=7,
                    max_lines=14,
                    elem_id="captions",
                )
                with gr.Row():
                    suggest = gr.Button("Suggest hard negatives", elem_id="suggest", min_width=120)
                    compare = gr.Button("Compare", variant="primary", elem_id="compare", min_width=120)
        result = gr.HTML(elem_id="result")
        chosen = gr.Dropdown([], label="Explain this caption", visible=False, elem_id="chosen")
        words, maps = gr.HTML(), gr.HTML()
        gr.Examples(
            _write_examples(example_folder), [image, captions], label="Examples: drawn scenes", elem_id="examples"
        )
        suggest.click(actions.suggest, [captions], [captions, result], api_visibility="private")
        compare.click(actions.compare, [image, captions], [result, chosen], api_visibility="private").then(
            actions.explain, [image, chosen], [words, maps], api_visibility="private"
        )
        chosen.input(actions.explain, [image, chosen], [words, maps], api_visibility="private")
    return page


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run one action at a time, because two would share cores and memory of the models."""

    @wraps(method)
    def run(self: "_Actions", *values: Any) -> Any:
        with self.lock:
            return method(self, *values)

    return run


class _Actions:
    """What the buttons do."""

    def __init__(self, models: Mapping[str, Model], limits: ImageLimits):
        self.models = models
        self.limits = limits
        self.lock = threading.Lock()

    @_locked
    def suggest(self, captions: str) -> tuple[str, str]:
        """Add suggestions below the first caption; earlier lines stay."""
        lines = _lines(captions)
        try:
            check_captions(lines)
            if not lines:
                raise DataError("Write a caption that is true of the image in the first line.")
            negatives = suggest_negatives(lines[0])
        except DeglaError as error:
            return captions, message(str(error))
        if not negatives:
            return captions, message(f"The rules find nothing to change in '{lines[0]}': name two things, or a colour.")
        kinds = ", ".join(f"{negative.type}: {negative.text}" for negative in negatives)
        texts = dict.fromkeys([*lines, *(negative.text for negative in negatives)])
        return "\n".join(texts), message(f"Added by rule: {kinds}.")

    @_locked
    def compare(self, file: str | None, captions: str) -> tuple[str, Any]:
        """Score all captions."""
        lines = _lines(captions)
        hidden = gr.Dropdown([], value=None, visible=False)
        try:
            if file is None:
                raise DataError("Choose an image first, or click on an example.")
            if not lines:
                raise DataError("Write at least one caption.")
            check_captions(lines)
            image = read_image(Path(file).read_bytes(), self.limits)
        except DeglaError as error:
            return message(str(error)), hidden
        scores = {role: score_captions(model, image, lines) for role, model in self.models.items()}
        return result_html(scores, lines), gr.Dropdown(lines, value=lines[0], visible=True)

    @_locked
    def explain(self, file: str | None, caption: str | None) -> tuple[str, str]:
        """Explain one caption's scores."""
        if file is None or not caption:
            return "", ""
        try:
            check_captions([caption])
            image = read_image(Path(file).read_bytes(), self.limits)
        except DeglaError as error:
            return message(str(error)), ""
        words = {role: word_effects(model, image, caption) for role, model in self.models.items()}
        maps = {role: relevance(model, image, caption) for role, model in self.models.items()}
        return words_html(words), maps_html(maps)


def _image_file() -> type[gr.Image]:
    """Return gradio's image component with a ``preprocess`` that hands over the file without decoding it.

    gradio would decode any format that Pillow knows, before our limits are checked.
    """

    def preprocess(self: gr.Image, payload: Any) -> str | None:
        return payload.path if payload is not None else None

    # Not a class statement: gradio's metaclass would write a stub file beside this module. ``is_template`` lets the
    # browser show the subclass as it shows the original.
    content = {"preprocess": preprocess, "is_template": True, "__module__": __name__}
    component: type[gr.Image] = ABCMeta.__new__(type(gr.Image), "ImageFile", (gr.Image,), content)
    return component


def _lines(captions: str | None) -> list[str]:
    """Return the captions of a text field, each once."""
    return list(dict.fromkeys(line.strip() for line in (captions or "").splitlines() if line.strip()))


def _write_examples(folder: Path) -> list[list[str]]:
    rows = []
    for number, example in enumerate(example_scenes()):
        path = folder / f"scene_{number}.png"
        path.write_bytes(example.image_bytes)
        rows.append([str(path), example.caption])
    return rows


def _without_markdown(label: str) -> str:
    """Return a label in which Markdown and HTML find no markup."""
    return f"`{label.replace('`', '')}`"
