"""The record of a run's examples, ``examples.json``, and the part of the report that shows them before and after."""

import base64
import html
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from degla.report.run_json import read_record, write_record

_FILE = "examples.json"  # in the folder of the run


class Example(BaseModel):
    """One item of a benchmark: an image, its caption, and a foil, with the cosine of each to the image."""

    model_config = ConfigDict(extra="forbid")

    subset: str
    image: str  # the encoded file in base64
    caption: str
    foil: str
    before: tuple[float, float]  # cosines of caption and foil
    after: tuple[float, float] | None = None  # None until the run ends


class Examples(BaseModel):
    """The examples of a run."""

    model_config = ConfigDict(extra="forbid")

    items: list[Example] = Field(min_length=1)


def write_examples(run_dir: Path, examples: Examples) -> None:
    """Write the record into the folder of a run.

    Args:
        run_dir: folder of the run.
        examples: the record.
    """
    write_record(run_dir / _FILE, examples)


def read_examples(run_dir: Path) -> Examples | None:
    """Return the record of a run; None if it has none, or one that cannot be read."""
    return read_record(run_dir / _FILE, Examples)


def examples_section(run_dir: Path) -> str:
    """Return the HTML of a run's examples; "" if there are none."""
    examples = read_examples(run_dir)
    if examples is None or examples.items[0].after is None:
        return ""
    cards = "".join(map(_card, examples.items))
    note = "Cosine of image and text before and after. Item n of the n-th sub-task, not chosen by its scores."
    return f"<h2>Examples</h2><p>{note}</p><div class=samples>{cards}</div>"


def _card(example: Example) -> str:
    lines = []
    for number, (mark, text) in enumerate((("true", example.caption), ("false", example.foil))):
        scores = [f"{score[number]:.3f}" for score in (example.before, example.after) if score]
        lines.append(f"<p>{html.escape(text)} <small>{mark}, {' → '.join(scores)}</small></p>")
    verdict = " → ".join(
        "correct" if score[0] > score[1] else "wrong" for score in (example.before, example.after) if score
    )
    picture = f'<img alt="{html.escape(example.caption)}" src="data:image/png;base64,{html.escape(example.image)}">'
    head = f"<small>{html.escape(example.subset)}: {verdict}</small>"
    return f"<div class=sample>{picture}<div>{''.join(lines)}{head}</div></div>"


def encoded_image(data: bytes) -> str:
    """Return an encoded image file in base64."""
    return base64.b64encode(data).decode()
