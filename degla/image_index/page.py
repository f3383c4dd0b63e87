"""The page of hits: one HTML file with thumbnails that loads nothing from the network.

Imports no torch.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from degla.artifacts import atomic_write
from degla.data.image_files import BadImage, load_rgb
from degla.image_index.query import Hit
from degla.report.page import facts, page

_SIDE = 256  # longer side of a thumbnail in pixels
_STYLE = """<style>
.hits{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(15rem,100%),1fr));gap:.8rem}
.hit{border:1px solid var(--line);border-radius:6px;padding:.6rem;margin:0;min-width:0;overflow-wrap:anywhere}
.hit img,.hit .none{width:100%;height:12rem;object-fit:contain;background:var(--panel);border-radius:4px;display:block}
.hit .none{display:grid;place-items:center;color:var(--muted)}.hit p{margin:.3rem 0 0}
</style>"""


def write_page(path: Path, query: str, folder: Path, hits: Sequence[Hit], about: Mapping[str, str]) -> None:
    """Write the page.

    Args:
        path: where to.
        query: the caption that was searched.
        folder: of the images.
        hits: in order.
        about: name -> value, such as the model and the number of images.
    """
    cards = "".join(_card(number, folder, hit) for number, hit in enumerate(hits, start=1))
    sections = [_STYLE, f"<div class=hits>{cards}</div>", "<h2>Search</h2>", facts(about)]
    with atomic_write(path) as partial:
        partial.write_text(page(query, sections), encoding="utf-8")


def _card(number: int, folder: Path, hit: Hit) -> str:
    name = html.escape(hit.path)
    source = thumbnail(folder / hit.path)
    image = f'<img src="{source}" alt="{name}">' if source else "<div class=none>no longer readable</div>"
    lines = [f"<b>{number}.</b> {name}", f"score {hit.score:.4f}"]
    if hit.margin is not None:
        lines.append(f"margin {hit.margin:+.4f} <small>over “{html.escape(hit.rival)}”; by score {hit.rank}</small>")
    return f"<figure class=hit>{image}{''.join(f'<p>{line}</p>' for line in lines)}</figure>"


def thumbnail(path: Path) -> str | None:
    """Return a small copy of an image as a ``data:`` address; None where the file cannot be decoded."""
    try:
        small = load_rgb(str(path))
    except BadImage:
        return None
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
