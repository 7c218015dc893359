"""The parts of a page of HTML that loads nothing; strings in, strings out."""

import base64
import shlex
from collections.abc import Iterable, Sequence
from html import escape

from calibrax._files import printable


def text(plain: object) -> str:
    """Plain text, of settings, names and files, as HTML."""
    return escape(printable(str(plain)))


def command(*arguments: str) -> str:
    return f"<code>{text(shlex.join(['calibrax', *arguments]))}</code>"


def note(content: str) -> str:
    return f'<p class="note">{content}</p>'


def section(name: str, content: str) -> str:
    return f"<section><h2>{name}</h2>{content}</section>"


def folded(name: str, content: str) -> str:
    return f"<details><summary>{name}</summary>{content}</details>"


def listed(items: Iterable[str]) -> str:
    entries = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{entries}</ul>" if entries else ""


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls in a box of its own; the caption is HTML, the cells are text."""
    head = "".join(f'<th scope="col">{text(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<figure><div class="scroll" tabindex="0">{grid}</div><figcaption>{caption}</figcaption></figure>'


def figure(kind: str, content: bytes, caption: str, style: str = "") -> str:
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    caption = text(caption)
    parts = [f'<img src="{url}" alt="{caption}">', f"<figcaption>{caption}.</figcaption>"]
    return f'<figure class="{style}">{"".join(parts if style != "curve" else parts[::-1])}</figure>'


def themed(svg: str) -> str:
    """A figure of Matplotlib's on the page's background, with the page's colours in light and in dark."""
    for color, name in (("#000000", "ink"), ("#ffffff", "page"), ("#0072b2", "blue")):
        svg = svg.replace(f": {color}", f": var(--{name})")
    start = svg.index("<style")
    return svg[:start] + f"<style>{SVG_STYLE}</style>" + svg[start:]


def page(title: str, head: str, *sections: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{text(title)} · calibrax</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{text(title)}</h1>
{head}
{"".join(sections)}
</main>
</body>
</html>
"""


SVG_STYLE = """
:root { --ink: #1f2328; --page: #ffffff; --blue: #0072b2 }
text { fill: var(--ink) }
@media (prefers-color-scheme: dark) { :root { --ink: #d1d7e0; --page: #12161c; --blue: #56b4e9 } }
"""

STYLE = """
:root { --ink: #1f2328; --soft: #57606a; --line: #d1d9e0; --page: #ffffff; --box: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #d1d7e0; --soft: #9198a1; --line: #3d444d; --page: #12161c; --box: #1c2129 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 74rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .5rem }
code { background: var(--box); border-radius: 4px; padding: .1em .3em; font-size: .9em }
.note { background: var(--box); border-left: 4px solid var(--line); padding: .5rem .8rem }
figure { margin: 0 0 1rem; min-width: 0 }
figcaption { color: var(--soft); font-size: .875rem; margin-top: .3rem }
.curve figcaption { color: var(--ink); margin: 0 0 .2rem }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 4px }
.curve img { width: 100%; background: none }
.grid { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)) }
.wide { grid-column: 1 / -1 }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px }
table { border-collapse: collapse; min-width: 100%; overflow-wrap: normal }
table { font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th:first-child { text-align: left }
th { font-weight: 600 }
thead th { white-space: normal; vertical-align: bottom; min-width: 5.5rem }
tbody tr:last-child > * { border-bottom: 0 }
.settings { display: grid; gap: 0 2rem; margin: 0 }
.settings { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }
.settings div { display: flex; justify-content: space-between; gap: 1rem; padding: .25rem 0; font-size: .9rem }
.settings div { border-bottom: 1px solid var(--line) }
.settings dt { font-weight: 600; white-space: nowrap }
.settings dd { margin: 0; text-align: right }
summary { cursor: pointer; margin: 1rem 0 .5rem }
"""
