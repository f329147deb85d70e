"""Figures of `methods/patching.py` and of `methods/path_patching.py`: where does the answer come from?"""

from collections.abc import Sequence

import plotly.graph_objects as go

from probe.figures._maps import NAMED, Cells, cell_tables, head_map
from probe.figures._marks import name_label
from probe.figures._noise import evidence_of, is_noise, noise_lines, prompts_line, titled_below
from probe.figures._theme import LONGEST_LABEL, Theme, ThemeName, find_theme, token_label
from probe.methods.patching import PatchingMap, PatchSite
from probe.methods.path_patching import PathPatching

_MEANS = {
    "denoise": "clean values in the corrupted run: 0 changes nothing, 1 is as clean",
    "noise": "corrupted values in the clean run: 0 changes nothing, -1 is as corrupted",
}


def patching_map(found: PatchingMap, *, site: PatchSite | None = None, theme: ThemeName = "light") -> go.Figure:
    """How far patching each place moves the metric: layer by position, by head, or layers alone.

    In shares of clean minus corrupted, from the run that is patched: `recovered` when denoising, and `recovered` - 1
    when noising, so that 0 is no change either way. Hatched: inside the noise.

    Raises:
        UnknownName: a site that was not patched, or none named where there are several.
        OutOfRange: cells by head and position fit no map.
    """
    look = find_theme(theme)
    found.grid(site)  # raises what fits no map
    named = found.cells[0].site if site is None else site
    chosen = [number for number, cell in enumerate(found.cells) if cell.site == named]
    cells = [found.cells[number] for number in chosen]
    by = "head" if cells[0].head is not None else "layer" if cells[0].position is None else "position"
    evidence, moved = evidence_of(found), shares(found)
    tables = cell_tables(
        [(cell.layer, (cell.head if by == "head" else cell.position) or 0) for cell in cells],
        [moved[number] for number in chosen],
        is_noise(evidence, len(found.cells))[chosen].tolist(),
    )
    columns, hovered, across = [""], [named], "every position"
    if by == "head":
        columns, across = [str(head) for head in tables.columns], "head"
        hovered = [f"head {head}" for head in columns]
    elif by == "position":
        texts = [found.tokens[place] for place in tables.columns]
        columns = [token_label(text, longest=LONGEST_LABEL) for text in texts]
        hovered = [
            f"'{token_label(text, longest=None)}' [{at}]" for text, at in zip(texts, tables.columns, strict=True)
        ]
        across = "position" + (" (tokens of the first clean prompt)" if len(found.clean) > 1 else " (clean prompt)")
    title = f"Share of {name_label(found.metric)} that {named} carries, by {by}"
    return _map(
        found, tables, look, title, lines=noise_lines(evidence, "of the difference"), columns=columns, hovered=hovered,
        across=across, named=len(tables.layers) if by == "layer" else NAMED,
    )  # fmt: skip


def path_patching_map(found: PathPatching, *, theme: ThemeName = "light") -> go.Figure:
    """How far each sender's new message to the receiver moves the metric, in shares of clean minus corrupted."""
    look = find_theme(theme)
    evidence = evidence_of(found)
    tables = cell_tables(found.senders, shares(found), is_noise(evidence, len(found.senders)).tolist())
    receiver = "the logits" if found.receiver == "logits" else name_label(found.receiver)
    on_the_way = "MLPs on the way notice it" if found.through_mlps else "straight, past all MLPs"
    return _map(
        found, tables, look,
        f"Share of {name_label(found.metric)} that each head tells {receiver} directly",
        lines=[f"the message goes {on_the_way}", *noise_lines(evidence, "of the difference")],
        columns=[str(head) for head in tables.columns], hovered=[f"head {head}" for head in tables.columns],
        across="head", named=NAMED,
    )  # fmt: skip


def shares(found: PatchingMap | PathPatching) -> list[float]:
    """What each patch moves the metric by, as a share of clean minus corrupted (a ratio of means)."""
    return (found.effects.mean(1) / (found.clean - found.corrupted).mean()).tolist()


def _map(
    found: PatchingMap | PathPatching, tables: Cells, look: Theme, title: str, *, lines: Sequence[str],
    columns: Sequence[str], hovered: Sequence[str], across: str, named: int,
) -> go.Figure:  # fmt: skip
    figure = head_map(
        tables.values, look, title="", unit="share of the difference", signed=True, layers=tables.layers,
        columns=columns, hovered=hovered, across=across, hatched=tables.hatched, named=named,
        hover="%{z:+.3f} of the difference",
    )  # fmt: skip
    below = [
        _MEANS[found.direction],
        f"difference: clean {float(found.clean.mean()):+.3f}, corrupted {float(found.corrupted.mean()):+.3f} "
        f"{found.unit}, mean over {prompts_line(found, of='pair')}",
        *lines,
    ]
    return titled_below(figure, look, title, below, height=max(300, 130 + 16 * len(tables.layers)))
