"""A page of figures in one HTML file: it opens anywhere, without network, in the reader's own light or dark.

Every text is escaped here, so a token can never become markup. plotly.js is part of the file.
"""

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from probe.figures._theme import THEMES, ThemeName

Draw = Callable[[ThemeName], Any]
"""From a theme to a plotly figure."""


@dataclass(frozen=True)
class Chip:
    """A token with its position in the prompt and its id."""

    text: str
    position: int
    token: int


@dataclass(frozen=True)
class Table:
    """Rows of text; a cell that is a number between 0 and 1 is drawn as a bar of that length."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str | float, ...]]


@dataclass(frozen=True)
class PageSection:
    """A heading and what stands under it, in this order."""

    heading: str
    term: str
    """What the field calls it."""
    paragraphs: Sequence[str] = ()
    chips: Sequence[Chip] = ()
    figures: Sequence[Draw] = ()
    table: Table | None = None
    remarks: Sequence[str] = ()
    """Paragraphs after figures and table."""
    code: Sequence[str] = ()
    """Lines to copy, before the remarks."""
    more_code: Sequence[str] = ()
    """Lines to copy, after them."""


def html_page(title: str, lead: Sequence[str], sections: Sequence[PageSection]) -> str:
    """The whole file. Figures are drawn in both themes' colours; the reader's browser picks one."""
    from plotly.offline import get_plotlyjs  # here, so that sections can be shown in a terminal without plotly

    figures: list[dict[str, object]] = []
    body = [f"<h1>{_text(title)}</h1>", *(f'<p class="lead">{_text(paragraph)}</p>' for paragraph in lead)]
    for section in sections:
        body.append(_section(section, figures))
    return _PAGE.format(
        title=_text(title),
        style=_style(),
        plotly=get_plotlyjs(),
        body="\n".join(body),
        figures=json.dumps(figures).replace("<", "\\u003c"),  # no text can close the script
    )


def _section(section: PageSection, figures: list[dict[str, object]]) -> str:
    parts = [f'<section><h2>{_text(section.heading)} <span class="term">({_text(section.term)})</span></h2>']
    parts += [f"<p>{_text(paragraph)}</p>" for paragraph in section.paragraphs]
    if section.chips:
        chips = "".join(
            f"<li>{_text(chip.text)}<small>[{chip.position}] {chip.token}</small></li>" for chip in section.chips
        )
        parts.append(f'<ol class="chips">{chips}</ol>')
    if section.table is not None:
        parts.append(_table(section.table, bars=not section.figures))
    drawn = []
    for draw in section.figures:
        both = {theme: json.loads(str(draw(theme).to_json())) for theme in get_args(ThemeName)}
        title, height = both["light"]["layout"]["title"]["text"], both["light"]["layout"]["height"]
        drawn.append(
            f'<div class="figure" role="img" aria-label="{html.escape(title)}" style="height:{height}px"></div>'
        )
        figures.append(both)
    if drawn:
        parts.append(f'<div class="figures{" pairs" if len(drawn) > 2 else ""}">{"".join(drawn)}</div>')
    parts += _code(section.code)
    parts += [f"<p>{_text(remark)}</p>" for remark in section.remarks]
    parts += _code(section.more_code)
    return "\n".join([*parts, "</section>"])


def _code(lines: Sequence[str]) -> list[str]:
    return [f"<pre>{_text(chr(10).join(lines))}</pre>"] if lines else []


def _table(table: Table, *, bars: bool) -> str:
    """Without bars where a figure shows the same."""
    kept = [place for place in range(len(table.columns)) if bars or not _is_bar(table, place)]
    head = "".join(f"<th>{_text(table.columns[place])}</th>" for place in kept)
    rows = "\n".join(f"<tr>{''.join(_cell(row[place]) for place in kept)}</tr>" for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _is_bar(table: Table, place: int) -> bool:
    return any(isinstance(row[place], float) for row in table.rows)


def _cell(cell: str | float) -> str:
    if isinstance(cell, str):
        return f"<td>{_text(cell)}</td>"
    return f'<td><span class="bar" style="width:{max(0.0, min(1.0, cell)):.1%}"></span></td>'


def _text(text: str) -> str:
    return html.escape(text)


def _style() -> str:
    colours = {
        theme: "".join(
            f"--{name}:{getattr(look, name)};" for name in ("background", "panel", "text", "muted", "grid")
        ) + f"--bar:{look.lines[0]};"
        for theme, look in THEMES.items()
    }  # fmt: skip
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {colours['dark']} color-scheme: dark; }} }}"
    return f":root {{ {colours['light']} color-scheme: light; }}\n{dark}\n{_STYLE}"


_STYLE = """
body { margin: 0 auto; max-width: 1120px; padding: 2rem 1.25rem 5rem; background: var(--background); color: var(--text);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; }
p, pre { max-width: 46rem; }
.lead, .term, small, th { color: var(--muted); font-weight: normal; }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem; padding: 0; }
.chips li { background: var(--panel); border: 1px solid var(--grid); border-radius: 6px; padding: .15rem .5rem;
  font-family: ui-monospace, monospace; font-size: .9rem; text-align: center; overflow-wrap: anywhere; }
.chips small { display: block; font-size: .7rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--grid); min-width: 2.5rem; }
td:has(.bar) { min-width: 12rem; }
.bar { display: inline-block; height: .8rem; min-width: 1px; background: var(--bar); border-radius: 2px; }
.figures { display: grid; gap: 1.5rem; margin: 1rem 0; }
.figures.pairs { grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.figure { min-width: 0; }
pre { background: var(--panel); border: 1px solid var(--grid); border-radius: 6px; padding: .8rem 1rem;
  overflow-x: auto; }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body>
{body}
<script type="application/json" id="figures">{figures}</script>
<script>
const dark = matchMedia("(prefers-color-scheme: dark)");
const figures = JSON.parse(document.getElementById("figures").textContent);
function draw() {{
  document.querySelectorAll(".figure").forEach((place, index) => {{
    const figure = figures[index][dark.matches ? "dark" : "light"];
    Plotly.react(place, figure.data, figure.layout, {{responsive: true, displaylogo: false}});
  }});
}}
draw();
dark.addEventListener("change", draw);
</script>
</body>
</html>
"""
