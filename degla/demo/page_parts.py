"""The HTML of the page's results: bars, coloured words, and maps of relevance.

Every text in it is escaped, and images are part of the page.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from degla.demo.relevance import Relevance
from degla.demo.scores import Scores, WordEffect
from degla.demo.sentences import headline

# The variables of gradio's theme follow its light and dark mode.
STYLE = """
.gradio-container{max-width:72rem!important;margin:0 auto!important;overflow-wrap:anywhere}
.gradio-container h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .5rem}
.degla{--base:#2f6fb5;--tuned:#c4671b;font-size:.95rem;line-height:1.45}
.degla h2{font-size:1.15rem;margin:1rem 0 .5rem}.degla h3{font-size:.95rem;margin:.6rem 0 .25rem;font-weight:600}
.degla .key b{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin:0 .35rem 0 0}
.degla .key span{margin-right:1.2rem}.degla .base{background:var(--base)}.degla .tuned{background:var(--tuned)}
.degla ol{list-style:none;margin:.4rem 0;padding:0}
.degla li{margin:0;padding:.45rem 0;border-bottom:1px solid var(--border-color-primary)}
.degla .row{display:grid;grid-template-columns:1fr 9.5rem;gap:.6rem;align-items:center;margin:.15rem 0}
.degla .track{height:.7rem;border-radius:3px;background:var(--background-fill-secondary)}
.degla .track i{display:block;height:100%;border-radius:3px}
.degla .number{font-variant-numeric:tabular-nums;font-size:.85rem}
.degla .words mark{padding:.1rem .25rem;border-radius:3px;margin:0 .12rem .25rem 0;display:inline-block;
color:#1f2328!important;background:#f1f2f4}
.degla .words sub{display:block;font-size:.68rem;line-height:1;text-align:center;bottom:0;color:#4a5057!important}
.degla .maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(14rem,100%),1fr));gap:1rem}
.degla figure{margin:0;max-width:20rem}
.degla figure img{width:100%;height:auto;margin:0;border-radius:6px;display:block}
.degla .muted{opacity:.75;font-size:.85rem}
"""
_MAP_WIDTH = 320  # pixels on the page
_OPACITY = 0.75  # of the most relevant cell
_FOR, _AGAINST = (255, 140, 0), (40, 110, 255)  # RGB: parts that raise and lower the score


def message(text: str) -> str:
    """Return one sentence as the only content of a result."""
    return f"<div class=degla><p role=status>{html.escape(text)}</p></div>"


def result_html(scores: Mapping[str, Scores], captions: Sequence[str]) -> str:
    """Return the headline and one bar per caption and model.

    Args:
        scores: role -> scores of the captions.
        captions: the texts.
    """
    items = []
    for number, caption in enumerate(captions):
        rows = "".join(_row(role, values, number) for role, values in scores.items())
        items.append(f"<li>{html.escape(caption)}{rows}</li>")
    return (
        f"<div class=degla><h2 id=headline>{html.escape(headline(scores, captions))}</h2>{_key(scores)}"
        f"<ol id=scores>{''.join(items)}</ol><p class=muted>Bars: share of the caption among all of them, by softmax "
        "with the model's temperature. In brackets: cosine of image and caption.</p></div>"
    )


def words_html(effects: Mapping[str, Sequence[WordEffect]]) -> str:
    """Return the words of a caption, coloured by what each of them adds to the score.

    Args:
        effects: role -> effect of each word.
    """
    largest = max((abs(word.effect) for words in effects.values() for word in words), default=0) or 1.0
    lines = []
    for role, words in effects.items():
        marks = "".join(
            f'<mark style="background:rgb({_tint(word.effect / largest)})">{html.escape(word.word)}'
            f"<sub>{word.effect:+.3f}</sub></mark>"
            for word in words
        )
        lines.append(f"<h3>{html.escape(role)} model</h3><div class=words>{marks}</div>")
    return (
        f"<div class=degla id=words><h2>Which words matter</h2>{''.join(lines)}<p class=muted>The number under a word "
        "is the cosine of the caption minus the cosine without that word. Orange words raise it, blue words "
        "lower it.</p></div>"
    )


def maps_html(maps: Mapping[str, Relevance]) -> str:
    """Return the image as each model sees it, with the relevance of its parts.

    Args:
        maps: role -> relevance.
    """
    figures = "".join(
        f'<figure><h3>{html.escape(role)} model</h3><img alt="relevance of the image\'s parts for the {role} model" '
        f'src="{_data_uri(_overlay(found))}"></figure>'
        for role, found in maps.items()
    )
    return (
        "<div class=degla id=maps><h2>Which parts of the image matter (approximate)</h2>"
        f"<div class=maps>{figures}</div>"
        "<p class=muted>Integrated gradients of the caption's cosine, summed over cells. Orange parts raise the score, "
        "blue parts lower it. Such maps are approximate: they show what the score reacts to, not what the model "
        "understands.</p></div>"
    )


def _key(scores: Mapping[str, Scores]) -> str:
    parts = "".join(f"<span><b class={role}></b>{role} model</span>" for role in scores)
    return f"<p class=key>{parts}</p>"


def _row(role: str, values: Scores, number: int) -> str:
    share, cosine = float(values.shares[number]), float(values.cosines[number])
    is_best = number == int(values.cosines.argmax())
    text = f"{100 * share:.1f} % ({cosine:.3f})"
    return (
        f'<div class=row><span class=track><i class={role} style="width:{100 * share:.2f}%"></i></span>'
        f"<span class=number>{f'<b>{text} ✓</b>' if is_best else text}</span></div>"
    )


def _tint(value: float) -> str:
    """Return a background colour for a value from -1 to 1: blue, light grey, orange."""
    end, weight = (_FOR if value > 0 else _AGAINST), 0.8 * abs(value)
    return ",".join(str(round((1 - weight) * 241 + weight * part)) for part in end)


def _overlay(found: Relevance) -> Image.Image:
    """Colour the view of the model by its map; the image itself becomes grey, so that colours mean relevance alone."""
    height, width = found.view.shape[1:]
    size = (round(_MAP_WIDTH * height / width), _MAP_WIDTH)
    view = F.interpolate(found.view[None].float(), size, mode="bilinear", antialias=True)[0]
    grey = 70 + 0.65 * view.mean(dim=0, keepdim=True).expand(3, -1, -1)  # lighter, so that colours show on black
    cells = F.interpolate(found.cells[None, None], size, mode="bilinear")[0]
    weight = cells / cells.abs().amax().clamp_min(1e-12)
    colour = torch.where(weight[..., None] > 0, _rgb(_FOR), _rgb(_AGAINST))[0].permute(2, 0, 1)
    mixed = grey + _OPACITY * weight.abs() * (colour - grey)
    return Image.fromarray(mixed.clamp(0, 255).byte().permute(1, 2, 0).numpy())


def _rgb(colour: tuple[int, int, int]) -> Tensor:
    """Return ``(3,)`` float32."""
    return torch.tensor(colour, dtype=torch.float32)


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
