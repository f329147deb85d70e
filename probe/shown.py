"""How results and recordings show themselves: a few lines in a terminal, a small card in a notebook.

A thing says in `summary()` what it is and the few numbers that matter; everything else is done here, in one way for
all. Cards have no colours of their own but greys that are readable on any background, and load nothing.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from probe.statistics import Estimate
from probe.tokens import show_token

if TYPE_CHECKING:
    import pandas

LONGEST = 160
"""Characters of a text in a card, and of a fact in a terminal."""
ROWS = 5
"""Rows of a table, in a card."""
COLUMNS = 12
PROMPTS = 3
TOKENS = 40
"""Tokens of a prompt, in a card; facts and notes are cut off as well, so that every card is of bounded size."""

FIGURES: dict[str, tuple[str, ...]] = {
    "AblationSweep": (
        "ablation.ablation_map", "ablation.ablation_bars", "ablation.total_against_direct", "ablation.prompt_effects",
    ),
    "Agreement": ("ablation.agreement_plot",),
    "CopyingScores": ("heads.copying_map",),
    "Direction": ("word_space.pair_arrows",),
    "DoseCurve": ("steering.dose_curve_lines",),
    "ErasureTest": ("steering.erasure_bars",),
    "Evaluation": (
        "directions.projection_strip", "directions.permutation_histogram", "directions.pair_differences",
    ),
    "Generation": ("generation.surprise_bars",),
    "HeadPattern": ("attention.attention_heatmap", "attention.attention_lines"),
    "HeadScores": ("heads.head_score_map",),
    "LayerProfile": ("directions.layer_profile_lines",),
    "LensDifference": ("lens.lens_difference_heatmap",),
    "LensReadout": ("lens.lens_heatmap", "lens.lens_lines"),
    "LogitAttribution": ("attribution.attribution_bars", "attribution.attribution_map"),
    "NextTokens": ("distribution.next_token_bars", "distribution.next_token_change"),
    "PatchingMap": ("patching.patching_map",),
    "PathPatching": ("patching.path_patching_map",),
    "Projections": ("directions.word_bars",),
    "Step": ("generation.step_bars", "generation.choice_bar"),
    "TextScores": ("generation.surprise_bars",),
    "TokenEffects": ("heads.token_effect_bars",),
}  # fmt: skip
"""The functions of `probe.figures` that draw each class; a test holds this against their signatures."""


@dataclass(frozen=True)
class Summary:
    """What a thing says of itself."""

    what: str
    """What it is, in a line: '61 places of 1 prompt of 12 tokens'."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The few numbers that matter, by name."""
    of: str | None = None
    """The model, or whatever else it is of."""
    prompts: Sequence[Sequence[str]] = ()
    """The tokens of each prompt, as text."""
    notes: Sequence[str] = ()
    """What must not be overlooked."""


@dataclass(frozen=True)
class TableHead:
    """The beginning of a table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    n_rows: int
    """How many rows the whole table has."""
    row: str = "row"
    """What a row is."""


class Shown:
    """The base of what shows itself by its `summary()`."""

    def __init_subclass__(cls, **options: Any) -> None:
        """`dataclass` gives a `__repr__`, here pages of tensors, to each class whose own body has none."""
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Shown.__repr__

    def summary(self) -> Summary:
        """What it is in a line, and the few numbers that matter."""
        return Summary((type(self).__doc__ or "").split("\n")[0])

    def first_rows(self, n: int) -> TableHead | None:
        """The first n rows of its table; None: it has none."""
        if not hasattr(self, "to_dataframe"):
            return None
        table = self.to_dataframe()  # type: ignore[attr-defined]
        return beginning(table, n, len(table))

    def __repr__(self) -> str:
        summary = self.summary()
        parts = [f"{_plain(name)}: {_plain(_short(_number(value)))}" for name, value in summary.facts.items()]
        lines = ["".join(map(_plain, _heading(self, summary))), *map(_plain, _notes(self, summary))]
        lines += [" · ".join(parts)] if parts else []
        return "\n  ".join([*lines, *(f"{what}: {code}" for what, code in _how_to_go_on(self))])

    def _repr_html_(self) -> str:
        summary = self.summary()
        kind, what = (html.escape(_plain(part)) for part in _heading(self, summary))
        lines = [f"<div><b>{kind}</b>{what}</div>"]
        lines += [f"<div><b>{_cell(note)}</b></div>" for note in _notes(self, summary)]
        if summary.facts:
            facts = (f"{_quiet(_cell(name))}: {_cell(value)}" for name, value in summary.facts.items())
            lines.append(f"<div>{' &nbsp;·&nbsp; '.join(facts)}</div>")
        lines += [_tokens(tokens) for tokens in summary.prompts[:PROMPTS]]
        if len(summary.prompts) > PROMPTS:
            lines.append(f"<div>{_quiet(f'and {len(summary.prompts) - PROMPTS:,} more prompts')}</div>")
        table = self.first_rows(ROWS)
        lines += [] if table is None else [_table(table)]
        how = [f"{_quiet(what)}: <code>{html.escape(code)}</code>" for what, code in _how_to_go_on(self)]
        lines += [f"<div>{line}</div>" for line in how]
        return f'<div style="line-height:1.6">{"".join(lines)}</div>'


def beginning(table: "pandas.DataFrame", n: int, n_rows: int) -> TableHead:
    """The first n rows as they are shown: nothing where there is no number."""
    head = table.head(n).astype(object)
    return TableHead(list(head.columns), head.where(head.notna(), None).values.tolist(), n_rows)


def count(n: int, one: str, several: str | None = None) -> str:
    """'1 prompt', '2,000 prompts'; `several` where the plural takes more than an s."""
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"


def spans(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> '0-2,5'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def source_of(manifest: Mapping[str, Any]) -> str:
    """The model, or word vectors, that a manifest names."""
    return " ".join(str(manifest[key]) for key in ("model", "word_vectors") if key in manifest)


def describe_prompts(prompts: Sequence[Sized]) -> str:
    """'3 prompts of 5 to 12 tokens'."""
    lengths = sorted({len(tokens) for tokens in prompts}) or [0]
    span = count(lengths[0], "token") if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,} tokens"
    return f"{count(len(prompts), 'prompt')} of {span}"


def _heading(thing: Shown, summary: Summary) -> tuple[str, str]:
    of = "" if summary.of is None else f" of {_short(summary.of)}"
    return type(thing).__name__, f"{of}: {_short(summary.what, 2 * LONGEST)}"


def _notes(thing: Shown, summary: Summary) -> list[str]:
    manifest = getattr(thing, "manifest", {})
    interrupted = False in (getattr(thing, "complete", True), manifest.get("complete", True))
    return [*(["Not complete: it was interrupted, and what was not reached is left out."] if interrupted else []),
            *summary.notes]  # fmt: skip


def _how_to_go_on(thing: Shown) -> list[tuple[str, str]]:
    """Its table and its figures, as code."""
    lines = [("table", ".to_dataframe()")] if hasattr(thing, "to_dataframe") else []
    drawn = FIGURES.get(type(thing).__name__, ())
    for module in dict.fromkeys(name.split(".")[0] for name in drawn):
        functions = [name.split(".")[1] for name in drawn if name.startswith(f"{module}.")]
        lines.append(("figures", f"from probe.figures.{module} import {', '.join(functions)}"))
    return lines


def _number(value: Any) -> str:
    """Four digits are enough to look at; the table has them all."""
    if isinstance(value, bool) or value is None or isinstance(value, (str, Estimate)):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, (tuple, list)):
        some = (show_token(one) if isinstance(one, str) else _number(one) for one in value[:8])
        return ", ".join(some) + (", …" if len(value) > 8 else "")
    return str(value)


def _short(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _plain(text: str) -> str:
    """One line that cannot move a terminal's cursor: control characters as signs."""
    return "".join(show_token(sign) if not sign.isprintable() else sign for sign in _short(text, 2 * LONGEST))


def _cell(value: Any) -> str:
    return html.escape(_short(show_token(value) if isinstance(value, str) else _number(value)))


def _quiet(escaped: str) -> str:
    return f'<span style="opacity:.65">{escaped}</span>'


def _tokens(tokens: Sequence[str]) -> str:
    """A prompt as its tokens, each in a frame."""
    box = "border:1px solid rgba(128,128,128,.5);border-radius:3px;padding:0 2px;margin:0 1px;white-space:pre"
    shown = [f'<span style="{box}">{html.escape(_short(show_token(text), 40))}</span>' for text in tokens[:TOKENS]]
    more = _quiet(f" and {len(tokens) - TOKENS:,} more tokens") if len(tokens) > TOKENS else ""
    return f'<div style="font-family:monospace">{"<wbr>".join(shown)}{more}</div>'


def _table(table: TableHead) -> str:
    """Its head, with how much more there is."""
    columns, body = table.columns[:COLUMNS], [row[:COLUMNS] for row in table.rows]
    texts = [any(isinstance(row[place], str) for row in body) for place in range(len(columns))]
    lines = "".join(f"<tr>{_line('td', row, texts)}</tr>" for row in body)
    head = f"<thead><tr>{_line('th', columns, texts)}</tr></thead>"
    whole = len(body) >= table.n_rows
    said = count(table.n_rows, table.row) if whole else f"the first {len(body)} of {table.n_rows:,} rows"
    said += f", {COLUMNS} of {len(table.columns)} columns" if len(table.columns) > COLUMNS else ""
    drawn = f'<table class="dataframe">{head}<tbody>{lines}</tbody></table>'
    return f'<div style="overflow-x:auto">{drawn}</div><div>{_quiet(said)}</div>'


def _line(tag: str, cells: Sequence[Any], texts: Sequence[bool]) -> str:
    """Text to the left, where notebooks put everything to the right."""
    aligned = ((' style="text-align:left"' if text else "", cell) for cell, text in zip(cells, texts, strict=True))
    return "".join(f"<{tag}{style}>{_cell(cell)}</{tag}>" for style, cell in aligned)
