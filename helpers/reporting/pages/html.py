"""The frame that every page the program writes shares: one file, no network, light and dark, narrow and wide."""

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["escape", "image", "page", "section", "tiles"]

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #fff; --ink: #1d1f21; --soft: #5f6670; --line: #e2e3e5;
  --accent: #2563c9; --second: #c2571a; --warn: #a1390f; }
@media (prefers-color-scheme: dark) { :root { --ground: #131517; --card: #1c1f22; --ink: #e8e9ea; --soft: #9aa2ab;
  --line: #33383d; --accent: #7fb0ff; --second: #f0a06a; --warn: #ff9d73; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li { max-width: 46rem; } .soft { color: var(--soft); } .warn { color: var(--warn); }
.path { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; } .tile span { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .75rem; }
.card h3 { margin-top: 0; }
h4 { font-size: .95rem; margin: 1rem 0 .4rem; } h4 span { color: var(--soft); font-weight: 400; margin-left: .5rem; }
.images { display: flex; flex-wrap: wrap; gap: .35rem; } .images img { border-radius: 4px; display: block; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); } .bar, .dot { fill: var(--accent); } .mark { stroke: var(--second); fill: none; }
svg text.marked { fill: var(--second); }
"""


def page(title: str, *, body: Iterable[str], note: str = "", style: str = "", script: str = "") -> str:
    """A whole document. note: a comment on its first lines, for whoever reads the file as text.

    style, script: what this page has beyond the frame that all pages share.
    """
    remark = f"<!-- {note.replace('--', '- -')} -->\n" if note else ""
    return (
        f'<!doctype html>\n{remark}<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + (f"\n<script>{script}</script>" if script else "")
        + "\n</body>\n</html>\n"
    )


def section(title: str, *, content: str) -> str:
    """A framed part of a page under a small heading; nothing where there is no content."""
    return f'<div class="card"><h3>{escape(title)}</h3>{content}</div>' if content else ""


def tiles(figures: Sequence[tuple[str, str]]) -> str:
    """Large figures with what each counts beneath."""
    inner = "".join(
        f'<div class="tile"><b>{escape(figure)}</b><span>{escape(of)}</span></div>' for figure, of in figures
    )
    return f'<div class="tiles">{inner}</div>'


def image(data_url: str, *, text: str, width: int, height: int) -> str:
    """An image that is part of the page; `text` shows where the pointer rests, and is read aloud."""
    said = escape(text, quote=True)
    return f'<img src="{data_url}" width="{width}" height="{height}" alt="{said}" title="{said}" loading="lazy">'
