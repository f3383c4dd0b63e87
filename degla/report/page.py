"""The HTML page that all reports share: one file, light and dark, wide and narrow, nothing loaded from the network."""

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Colours are variables so that a dark screen only needs other values for them.
STYLE = """
:root{color-scheme:light dark;--text:#1f2328;--muted:#646b73;--line:#d7dbe0;--back:#fff;--panel:#f5f6f8;
--bar:#2f6fb5;--bar2:#c4671b;--better:#18794e;--worse:#b3261e}
@media (prefers-color-scheme:dark){:root{--text:#e4e7eb;--muted:#9aa3ad;--line:#363c44;--back:#15181c;--panel:#1f242a;
--bar:#5b9fe8;--bar2:#e39a56;--better:#4cc38a;--worse:#ff8a80}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1.5rem 1rem 3rem;
color:var(--text);background:var(--back);overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .8rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}h3{font-size:1rem}
a{color:var(--bar)}small,.muted,.aside{color:var(--muted);font-weight:400}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
th{max-width:9rem;vertical-align:bottom}td:first-child,th:first-child{text-align:left}
.up{color:var(--better)}.down{color:var(--worse)}
img{max-width:100%;height:auto}img.figure{background:#fff;border-radius:6px}
pre,code{background:var(--panel);border-radius:4px;font-size:.87em}code{padding:.1em .3em}
pre{padding:.8rem 1rem;overflow:auto}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.5rem 0}
dt{color:var(--muted)}dd{margin:0;min-width:0;overflow-wrap:anywhere}
.headline{display:flex;flex-wrap:wrap;gap:.8rem;margin:0 0 1rem}
.headline div{background:var(--panel);border-radius:8px;padding:.6rem 1rem;min-width:9rem}
.headline b{display:block;font-size:1.5rem;line-height:1.3}
.bars{display:grid;grid-template-columns:minmax(6rem,15rem) minmax(4rem,1fr) max-content;gap:.2rem .8rem;
align-items:center}
.bars h3{grid-column:1/-1;margin:.9rem 0 .1rem}
.track{position:relative;height:1rem;background:var(--panel);border-radius:3px}
.track i{position:absolute;left:0;top:0;bottom:0;border-radius:3px;background:var(--bar)}
.track i.second{background:var(--bar2)}
.track u{position:absolute;top:calc(50% - 1px);height:2px;background:var(--text)}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(22rem,100%),1fr));gap:.8rem}
.sample{display:flex;gap:.8rem;border:1px solid var(--line);border-radius:6px;padding:.6rem}
.sample img{width:8rem;height:8rem;object-fit:contain;background:var(--panel);flex:none}
.sample>div{min-width:0}.sample p{margin:.15rem 0}
summary{cursor:pointer;color:var(--muted);margin:.6rem 0}
@media (max-width:600px){body{padding:1rem .7rem 2rem;font-size:14px}h1{font-size:1.3rem}
td,th{padding:.2rem .45rem}dl{grid-template-columns:1fr}dt{margin-top:.4rem}
.bars{grid-template-columns:minmax(4.5rem,8rem) minmax(3rem,1fr) max-content;gap:.2rem .5rem;font-size:.9em}
.headline div{min-width:0;flex:1 1 40%}}
"""


class Bar(NamedTuple):
    """One horizontal bar; all numbers are fractions of the full width, in [0, 1]."""

    label: str
    value: float
    low: float | None = None  # ends of the interval, where there is one
    high: float | None = None
    series: int = 0  # 0 or 1: which of the two colours


def page(title: str, sections: Sequence[str]) -> str:
    """Return a whole HTML document.

    Args:
        title: plain text; it becomes the window's title and the first heading.
        sections: HTML, in order. Whoever makes a section escapes the texts in it.
    """
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{STYLE}</style>\n<h1>{name}</h1>\n" + "\n".join(sections) + "\n</html>\n"
    )


def headline(numbers: Mapping[str, str]) -> str:
    """Return panels with the few numbers at the top of a report, from name -> value."""
    panels = "".join(f"<div><b>{html.escape(value)}</b>{html.escape(name)}</div>" for name, value in numbers.items())
    return f"<div class=headline>{panels}</div>"


def facts(values: Mapping[str, str]) -> str:
    """Return a list of names and values, such as the command and the versions behind a report."""
    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in values.items())
    return f"<dl>{rows}</dl>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """Return a table that scrolls sideways where the screen is too narrow for it.

    Args:
        heads: plain texts of the first line.
        rows: plain texts, one list per line.
        classes: a CSS class for each row, such as ``aside``; "" for none. Empty: no row has one.
    """
    first = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    lines = []
    for row, name in zip(rows, classes or [""] * len(rows), strict=True):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{f' class={name}' if name else ''}>{cells}</tr>")
    return f"<div class=scroll><table><tr>{first}</tr>{''.join(lines)}</table></div>"


def bars(groups: Mapping[str, Sequence[Bar]]) -> str:
    """Return horizontal bars with their intervals, each group of them under a heading.

    Args:
        groups: heading -> bars, in order; the heading "" is left out.
    """
    parts = []
    for heading, members in groups.items():
        parts.append(f"<h3>{html.escape(heading)}</h3>" if heading else "")
        parts += map(_bar, members)
    return f"<div class=bars>{''.join(parts)}</div>"


def _bar(bar: Bar) -> str:
    interval, half = "", ""
    if bar.low is not None and bar.high is not None:
        interval = f'<u style="left:{100 * bar.low:.2f}%;width:{100 * (bar.high - bar.low):.2f}%"></u>'
        half = f" <small>± {50 * (bar.high - bar.low):.1f}</small>"
    series = " class=second" if bar.series else ""
    return (
        f"<span>{html.escape(bar.label)}</span>"
        f'<span class=track><i{series} style="width:{100 * bar.value:.2f}%"></i>{interval}</span>'
        f"<span>{100 * bar.value:.1f}{half}</span>"
    )
