"""Sections in a terminal: plain text where the output is no terminal, and never a token taken for markup."""

import re
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from probe.figures.page import Chip, PageSection, Table

WIDEST = 100
BAR = 14
"""Characters of a bar that stands for 1."""


def output() -> Console:
    """For results: stdout."""
    return _console(stderr=False)


def messages() -> Console:
    """For progress and errors: stderr, so that pipes carry results only."""
    return _console(stderr=True)


def show_section(console: Console, section: PageSection) -> None:
    """One stop: heading, words, table, remarks. Figures are left to the page."""
    console.print()
    heading = Text.assemble((section.heading, "bold"), (f" ({section.term})", "dim"))
    console.print(Rule(heading, align="left", characters="─", style="dim"))
    show_words(console, section.paragraphs)
    if section.chips:
        show_chips(console, section.chips)
    if section.table is not None:
        show_table(console, section.table)
    show_code(console, section.code)
    show_words(console, section.remarks)
    show_code(console, section.more_code)


def show_words(console: Console, paragraphs: Sequence[str], *, indent: int = 0) -> None:
    """Paragraphs, each after an empty line; indented, they are lines of one."""
    for paragraph in paragraphs:
        if indent == 0:
            console.print()
        text = Text(paragraph)
        console.print(Padding(text, (0, 0, 0, indent), expand=False) if indent else text)


def show_code(console: Console, lines: Sequence[str]) -> None:
    """Lines to copy: never wrapped by us."""
    if lines:
        console.print()
    for line in lines:
        console.print(Text(f"  {line}", style="cyan"), soft_wrap=True)


def show_chips(console: Console, chips: Sequence[Chip]) -> None:
    """Tokens as chips, as many in a line as fit, one below the other."""
    shown = [Text.assemble((chip.text, "bold"), (f" [{chip.position}] {chip.token}", "dim")) for chip in chips]
    gap, indent = 2, 2
    fit = (console.width - indent) // (max(text.cell_len for text in shown) + gap)
    per_line = max(1, min(fit, len(shown)))  # empty columns would take room
    grid = RichTable.grid(*[""] * per_line, padding=(0, gap, 0, 0))
    for start in range(0, len(shown), per_line):
        grid.add_row(*shown[start : start + per_line])
    console.print()
    console.print(Padding(grid, (0, 0, 0, indent), expand=False))


def show_table(console: Console, table: Table) -> None:
    """Numbers to the right, bars where a cell is a number."""
    drawn = RichTable(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for place, column in enumerate(table.columns):
        drawn.add_column(Text(column), justify="right" if _is_numeric(table, place) else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) if isinstance(cell, str) else _bar(cell) for cell in row))
    console.print()
    console.print(Padding(drawn, (0, 0, 0, 2), expand=False))


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    console.width = min(console.width, WIDEST)
    return console


def _bar(share: float) -> Text:
    eighths = round(max(0.0, min(1.0, share)) * BAR * 8)
    return Text("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip(), style="blue")


def _is_numeric(table: Table, place: int) -> bool:
    cells = [row[place] for row in table.rows]
    return all(isinstance(cell, str) and re.fullmatch(r"[-+~ ]*\d\S*( ± \S+)?", cell) for cell in cells)
