"""Draw the figures of README.md: ``python docs/figures.py`` writes ``docs/figures/*.svg``.

Texts become outlines, so the files need no fonts. The same version of matplotlib gives the same bytes.
"""

import base64
import io
import json
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

FOLDER = Path(__file__).parent / "figures"

INK, GREY, PAPER = "#1f2933", "#7b8794", "#ffffff"
GREEN, RED, BLUE, AMBER, VIOLET = "#1b7f4b", "#c0392b", "#2b6cb0", "#b7791f", "#6b46c1"

# The five types of the paper. Odd parts of a text are the words that the negative changes.
CAPTION = "a red circle left of a blue square"
NEGATIVES = [
    ("swap_nouns", "a red ", "square", " left of a blue ", "circle", ""),
    ("swap_adjectives", "a ", "blue", " circle left of a ", "red", " square"),
    ("replace_adjectives", "a red circle left of a ", "green", " square", "", ""),
    ("replace_nouns", "a red ", "star", " left of a blue square", "", ""),
    ("reshuffle_order", "", "red of circle a left square a blue", "", "", ""),
]


def main() -> None:
    """Write the figures."""
    matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "degla", "font.family": "DejaVu Sans"})
    FOLDER.mkdir(exist_ok=True)
    figures = {"hard_negatives": hard_negatives(), "method": method(), "before_after": before_after()}
    for name, figure in figures.items():
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, facecolor=PAPER)


def hard_negatives() -> Figure:
    """Draw one image, its caption, and a hard negative of each type."""
    figure, axes = canvas(10, 3.9)
    axes.add_patch(Rectangle((0.3, 0.55), 2.8, 2.8, facecolor="#f4f5f7", edgecolor=GREY))
    axes.add_patch(Circle((1.05, 1.95), 0.5, color=RED))
    axes.add_patch(Rectangle((1.85, 1.45), 1.0, 1.0, color=BLUE))
    axes.text(1.7, 0.25, "one image", ha="center", va="center", color=GREY, fontsize=10)

    axes.text(3.6, 3.5, "its caption", color=GREY, fontsize=10, va="center")
    mark(axes, 3.75, 3.1, GREEN)
    axes.text(4.0, 3.1, CAPTION, color=INK, fontsize=13, va="center")

    axes.text(3.6, 2.55, "its hard negatives: nearly the same words, but false for this image", color=GREY,
              fontsize=10, va="center")  # fmt: skip
    for row, (kind, *parts) in enumerate(NEGATIVES):
        y = 2.15 - 0.42 * row
        mark(axes, 3.75, y, RED)
        write_parts(axes, 4.0, y, parts)
        axes.text(9.85, y, kind, color=GREY, fontsize=9, va="center", ha="right", family="DejaVu Sans Mono")
    return figure


def before_after() -> Figure:
    """Draw the examples of the demo with the cosines of caption and foil before and after it."""
    record = Path(__file__).parent / "records" / "demo_examples.json"
    examples = json.loads(record.read_text(encoding="utf-8"))["items"]
    figure, axes = canvas(12, 0.5 + 1.55 * ((len(examples) + 1) // 2))
    for number, example in enumerate(examples):
        left, top = 6 * (number % 2), 1.55 * ((len(examples) + 1) // 2 - number // 2) + 0.1
        image = Image.open(io.BytesIO(base64.b64decode(example["image"]))).resize((192, 192), Image.Resampling.NEAREST)
        axes.imshow(image, extent=(left + 0.15, left + 1.45, top - 1.35, top - 0.05), aspect="auto", zorder=2)
        axes.text(left + 1.65, top - 0.15, example["subset"], color=GREY, fontsize=8.5, va="center",
                  family="DejaVu Sans Mono")  # fmt: skip
        for line, (key, colour) in enumerate((("caption", GREEN), ("foil", RED))):
            y = top - 0.45 - 0.3 * line
            mark(axes, left + 1.75, y, colour)
            axes.text(left + 1.95, y, example[key], color=INK, fontsize=9.5, va="center")
        for column, when in enumerate(("before", "after")):
            true, false = example[when]
            text = f"{when}  {true:.3f} {'>' if true > false else '<'} {false:.3f}"
            axes.text(left + 1.65 + 1.9 * column, top - 1.12, text, color=GREEN if true > false else RED, fontsize=9,
                      va="center")  # fmt: skip
    axes.set(xlim=(0, 12), ylim=(0, figure.get_figheight()))  # an image changes them
    return figure


def method() -> Figure:
    """Draw student, teacher and the four terms of the loss."""
    figure, axes = canvas(12, 5.4)
    inputs = [(4.2, "image"), (3.2, "caption"), (2.2, "K hard negatives")]
    for y, label in inputs:
        box(axes, 0.2, y - 0.3, 1.9, 0.6, label, "#f4f5f7", GREY)
    axes.text(1.15, 4.95, "a sample", color=GREY, ha="center", fontsize=10)

    axes.text(4.0, 4.95, "student: trained", color=BLUE, ha="center", fontsize=10)
    axes.add_patch(FancyBboxPatch((2.85, 2.25), 2.3, 2.4, boxstyle="round,pad=0.02,rounding_size=0.1",
                                  facecolor="#f5f9fe", edgecolor=BLUE, linewidth=0.8, linestyle=":"))  # fmt: skip
    box(axes, 3.0, 3.9, 2.0, 0.6, "image tower", "#e3eefa", BLUE)
    box(axes, 3.0, 2.4, 2.0, 0.6, "text tower", "#e3eefa", BLUE)
    box(axes, 3.0, 0.5, 2.0, 0.9, "teacher:\nfollows slowly (EMA)", "#fbf1de", AMBER)
    for start, end in (((2.1, 4.2), (3.0, 4.2)), ((2.1, 3.2), (3.0, 2.8)), ((2.1, 2.2), (3.0, 2.6))):
        arrow(axes, start, end, GREY)
    arrow(axes, (1.15, 1.9), (3.0, 0.95), GREY, bend=0.25)
    axes.text(1.3, 0.95, "the same\nsample", color=GREY, fontsize=8.5, ha="center", va="center")
    arrow(axes, (4.0, 2.22), (4.0, 1.42), AMBER, dashed=True)
    axes.text(4.1, 1.8, "averaged weights", color=AMBER, fontsize=9, va="center")

    points = {"v": (6.1, 4.2, BLUE), "t": (6.1, 3.0, BLUE), "n": (6.1, 2.3, RED), "v* t* n*": (6.1, 0.95, AMBER)}
    for label, (x, y, colour) in points.items():
        width = 0.6 if len(label) == 1 else 1.1
        box(axes, x - width / 2, y - 0.22, width, 0.44, label, PAPER, colour)
    for start, end in (((5.0, 4.2), (5.8, 4.2)), ((5.0, 2.75), (5.8, 3.0)), ((5.0, 2.65), (5.8, 2.3)),
                       ((5.0, 0.95), (5.55, 0.95))):  # fmt: skip
        arrow(axes, start, end, GREY)

    terms = [
        (4.2, BLUE, "global contrast", "v against all captions and negatives of the batch;\nt against all images"),
        (3.1, GREEN, "IGC  image-grounded", "v is closer to its own t than to its own n"),
        (2.0, VIOLET, "TGC  text-grounded", "t is closer to the teacher's t* than to its own n"),
        (0.95, AMBER, "self-distillation", "v, t, n stay close to the teacher's v*, t*, n*"),
    ]
    for y, colour, title, text in terms:
        axes.add_patch(FancyBboxPatch((7.4, y - 0.42), 4.4, 0.84, boxstyle="round,pad=0.02,rounding_size=0.08",
                                      facecolor=PAPER, edgecolor=colour, linewidth=1.4))  # fmt: skip
        axes.text(7.55, y + 0.2, title, color=colour, fontsize=11, va="center", weight="bold")
        axes.text(7.55, y - 0.14, text, color=INK, fontsize=8.8, va="center", linespacing=1.15)
    axes.text(9.6, 4.95, "four terms, added with weights", color=GREY, ha="center", fontsize=10)
    reads = [("v", 0), ("t", 0), ("n", 0), ("v", 1), ("t", 1), ("n", 1), ("t", 2), ("n", 2), ("v* t* n*", 2),
             ("v", 3), ("t", 3), ("n", 3), ("v* t* n*", 3)]  # fmt: skip
    for label, term in reads:
        x, y, _ = points[label]
        width = 0.3 if len(label) == 1 else 0.55
        arrow(axes, (x + width, y), (7.35, terms[term][0]), terms[term][1], thin=True)
    return figure


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure whose coordinates are inches."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, label: str, fill: str, edge: str) -> None:
    """Draw a rounded box with a centred label."""
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.08",
                                  facecolor=fill, edgecolor=edge, linewidth=1.2))  # fmt: skip
    axes.text(x + width / 2, y + height / 2, label, ha="center", va="center", color=INK, fontsize=10)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    bend: float = 0.0,
    dashed: bool = False,
    thin: bool = False,
) -> None:
    """Draw an arrow between two points."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8 if thin else 11, color=colour,
                                   linewidth=0.8 if thin else 1.2, linestyle="--" if dashed else "-",
                                   connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0))  # fmt: skip


def mark(axes: Axes, x: float, y: float, colour: str) -> None:
    """Draw a tick for the true caption and a cross for a false one."""
    size = 0.09
    if colour == GREEN:
        axes.plot([x - size, x - size / 4, x + size], [y, y - size, y + size], color=colour, linewidth=2.2)
    else:
        axes.plot([x - size, x + size], [y - size, y + size], color=colour, linewidth=2.2)
        axes.plot([x - size, x + size], [y + size, y - size], color=colour, linewidth=2.2)


def write_parts(axes: Axes, x: float, y: float, parts: list[str]) -> None:
    """Write a text whose odd parts are changed words, in red and underlined."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    assert isinstance(axes.figure, Figure)
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    for number, part in enumerate(parts):
        if not part:
            continue
        changed = number % 2 == 1
        drawn = axes.text(x, y, part.replace(" ", " "), color=RED if changed else INK, fontsize=12, va="center")
        width = drawn.get_window_extent(renderer).width / axes.figure.dpi
        if changed:
            axes.plot([x, x + width], [y - 0.14, y - 0.14], color=RED, linewidth=1)
        x += width


if __name__ == "__main__":
    main()
