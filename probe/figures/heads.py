"""Figures of `methods/heads.py` and of `methods/circuits.py`: maps of all heads, and what one head writes."""

import plotly.graph_objects as go

from probe.figures._maps import head_map
from probe.figures._theme import ThemeName, find_theme, themed, token_label
from probe.methods.circuits import CopyingScores, TokenEffects
from probe.methods.heads import SCORES, HeadScores, Score, Source

MEANINGS = {
    "previous token": "attention on the token before",
    "duplicate token": "attention on earlier occurrences of the same token",
    "induction": "attention on what came after earlier occurrences",
    "first token": "attention on position 0",
    "entropy": "entropy without position 0, of what is possible",
    "distance": "tokens back, without position 0",
}
"""What each score measures, in plain words."""
assert tuple(MEANINGS) == SCORES


def head_score_map(
    scores: HeadScores, score: Score, *, source: Source | None = None, theme: ThemeName = "light"
) -> go.Figure:
    """One score of every head; the title says what chance would give. Weights and entropy share a scale from 0 to 1.

    Raises:
        UnknownName: no such score, or a source that was not run.
    """
    look = find_theme(theme)
    values, chance = scores.of(score, source).numpy(), scores.chance_of(score, source)
    shown = scores.sources[-1] if source is None else source
    on = "repeated random tokens" if shown == "random" else "the text"
    return head_map(
        values, look, title=f"{score.capitalize()}, on {on} (even attention: {chance:.3g})", unit=MEANINGS[score],
        signed=False,
        largest=None if score == "distance" else 1.0,
    )  # fmt: skip


def copying_map(scores: CopyingScores, *, theme: ThemeName = "light") -> go.Figure:
    """Which heads raise the tokens that they read (1), and which suppress them (-1)."""
    look = find_theme(theme)
    title = "Copying: does a head raise the very token it reads? (by its weights)"
    return head_map(scores.values.numpy(), look, title=title, unit="copying score", signed=True, largest=1.0)


def token_effect_bars(effects: TokenEffects, *, most: int = 10, theme: ThemeName = "light") -> go.Figure:
    """The tokens that a head promotes, the most at the top, and those that it suppresses, the most at the bottom."""
    look = find_theme(theme)
    promoted = list(zip(effects.promoted.tolist(), effects.promoted_by.tolist(), strict=True))[:most]
    suppressed = list(zip(effects.suppressed.tolist(), effects.suppressed_by.tolist(), strict=True))[:most]
    rows = [*promoted, *reversed(suppressed)]
    values = [value for _, value in rows]
    figure = go.Figure(
        go.Bar(
            x=values, y=list(range(len(rows))), orientation="h",
            marker={"color": [look.raises if value >= 0 else look.lowers for value in values]},
            hovertext=[token_label(effects.texts[token], longest=None) for token, _ in rows],
            hovertemplate=f"'%{{hovertext}}'<br>%{{x:+.4f}} {effects.unit}<extra></extra>",
        )
    )  # fmt: skip
    title = f"What layer {effects.layer}, head {effects.head} writes {token_label(effects.about, longest=40)}"
    themed(figure, look, title=title, height=110 + 22 * len(rows))
    added = "logits added" if effects.unit == "logits" else "added, relative: without the final norm’s scale"
    figure.update_xaxes(title_text=added, zeroline=True, zerolinecolor=look.muted)
    figure.update_yaxes(
        title_text="token", tickmode="array", tickvals=list(range(len(rows))), showgrid=False,
        ticktext=[token_label(effects.texts[token]) for token, _ in rows], range=[len(rows) - 0.5, -0.5],
    )  # fmt: skip
    return figure
