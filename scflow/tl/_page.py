"""A page in one file: headings, tables and pictures. Whatever comes from outside is escaped here, and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from scflow.tl._pictures import Picture

__all__ = ["Markup", "details", "facts", "page", "paragraph", "pictures", "section", "sentences", "table"]

_CSS = """
:root { color-scheme: light; --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --good: #1a7f37; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1.2rem 1rem 3rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 48rem; }
.soft { color: var(--soft); font-size: .9rem; }
.verdict { max-width: 52rem; border-left: 4px solid #0072b2; background: #f4f8fb; padding: .6rem 1rem;
  border-radius: 0 6px 6px 0; }
.verdict p:first-child { font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .4rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th { font-weight: 600; white-space: nowrap; }
th:first-child, td:first-child, td.good, td.close, td.bad { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
td { white-space: nowrap; }
td.good { color: var(--good); } td.bad { color: var(--bad); font-weight: 600; } td.close { color: var(--soft); }
.facts td { text-align: left; white-space: normal; min-width: 8rem; vertical-align: top; overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--line); padding: .35rem 0; }
summary { cursor: pointer; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem 1.4rem; align-items: flex-start; }
.pictures > div { max-width: 100%; overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; }
@media (max-width: 40rem) { body { font-size: 15px; padding: .9rem .8rem 2rem; } img.wide { max-width: none; } }
@media print { details > * { display: block; } }
"""

# Even a label that slipped through could neither run nor fetch anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_WIDE = 620
"""Pictures wider than this, in points, are scrolled on a narrow screen: their writing could not be read any more."""


class Markup(str):
    """Text that is HTML already: whatever is not one is escaped."""

    __slots__ = ()


def page(title: str, body: Iterable[Markup]) -> str:
    """The whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<link rel="icon" href="data:,">\n<title>{_escaped(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n'
        f"<h1>{_escaped(title)}</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def section(heading: str, *body: Markup) -> Markup:
    """A heading and what belongs under it."""
    return Markup(f"<section>\n<h2>{_escaped(heading)}</h2>\n" + "\n".join(body) + "\n</section>")


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph; `kind` is a class of the style sheet."""
    return Markup(f"<p{_kind(kind)}>{_escaped(text)}</p>")


def sentences(text: str) -> Markup:
    """A verdict: a paragraph a line, the first one stressed."""
    return Markup('<div class="verdict">' + "".join(paragraph(line) for line in text.splitlines()) + "</div>")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str] = ()) -> Markup:
    """A table that is scrolled where it is too wide; `kinds` are classes of the second cell of each row."""
    head = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in header)
    lines = []
    for i, row in enumerate(rows):
        cells = [f"<td>{_escaped(text)}</td>" for text in row]
        if kinds:
            cells[1] = f"<td{_kind(kinds[i])}>{_escaped(row[1])}</td>"
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody>"
    return Markup(f'<div class="scroll"><table>{body}</table></div>')


def facts(pairs: Mapping[str, str]) -> Markup:
    """Names and values, a row each."""
    rows = "\n".join(
        f'<tr><th scope="row">{_escaped(name)}</th><td>{_escaped(value)}</td></tr>' for name, value in pairs.items()
    )
    return Markup(f'<div class="scroll"><table class="facts"><tbody>\n{rows}\n</tbody></table></div>')


def details(summary: str, *body: Markup) -> Markup:
    """What is shown where one asks for it."""
    return Markup(f"<details><summary>{_escaped(summary)}</summary>\n" + "\n".join(body) + "\n</details>")


def pictures(found: Iterable[Picture]) -> Markup:
    """Pictures beside each other, or below where there is no room."""
    shown = "\n".join(
        f'<div><img{_kind("wide" if one.width > _WIDE else "")} src="{_escaped(one.uri)}" width="{one.width}" '
        f'alt="{_escaped(one.alt)}"></div>'
        for one in found
    )
    return Markup(f'<div class="pictures">\n{shown}\n</div>')


def _kind(name: str) -> str:
    return f' class="{_escaped(name)}"' if name else ""


def _escaped(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(text, quote=True)
