"""The table that ``degla-try`` prints."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from torch import Tensor

from degla.api.model import Model
from degla.demo.pair import BASE
from degla.demo.scores import Scores, score_captions
from degla.demo.sentences import headline


def print_scores(models: Mapping[str, Model], image: Tensor, name: str, captions: Sequence[str]) -> None:
    """Print the scores of one image's captions, one column per model.

    A share is the softmax over the captions with the model's temperature. A star marks the caption that fits best.

    Args:
        models: role -> model.
        image: ``(3, H, W)`` uint8.
        name: what the image is called in the first line.
        captions: the texts.
    """
    scores = {role: score_captions(model, image, captions) for role, model in models.items()}
    console = Console()
    console.print(f"image  {name}", soft_wrap=True, markup=False, highlight=False)
    for role, model in models.items():
        console.print(f"{role:<6} {model.label}", soft_wrap=True, markup=False, highlight=False)
    console.print(_table(scores, captions))
    console.print(headline(scores, captions), markup=False, highlight=False)
    if BASE not in models:
        console.print("base=... adds a second model to compare with", style="dim", markup=False, highlight=False)


def _table(scores: Mapping[str, Scores], captions: Sequence[str]) -> Table:
    table = Table("caption")
    for role in scores:
        table.add_column(f"{role}: share (cosine)", justify="right", no_wrap=True)
    for number, caption in enumerate(captions):
        table.add_row(_plain(caption), *(_cell(values, number) for values in scores.values()))
    return table


def _cell(scores: Scores, number: int) -> str:
    text = f"{100 * scores.shares[number]:.1f} % ({scores.cosines[number]:.3f})"
    return f"[bold]* {text}[/]" if number == int(scores.cosines.argmax()) else text


def _plain(caption: str) -> str:
    """Return a caption in which rich finds no markup, on one line."""
    return " ".join(caption.split()).replace("[", "\\[")
