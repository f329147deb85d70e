"""Heads: every head's attention at once, and one of them in detail."""

import dataclasses
import difflib
import re

import numpy as np
import pandas
import plotly.graph_objects as go
import streamlit as st
from components.controls import Selection, set_head, set_place, switch_head
from components.head_grid import Overlay, head_grid
from components.show import figure, isolated, keep, show_so_far, shown, theme
from components.token_strip import token_strip
from state.ablation import needed
from state.heads import ALL_LAYERS, Overview, attribution, head_written, layer_recording, looks, overview
from state.models import contrast

import probe
from probe.figures._theme import ThemeName
from probe.figures.attention import attention_heatmap, attention_lines, row_in_every_head
from probe.figures.heads import token_effect_bars
from probe.methods.attention import HeadPair, HeadPattern, read_look
from probe.methods.heads import SCORES
from probe.prompts import str_tokens
from probe.tokens import show_token

PATTERN, LOOK, WRITES, NEEDED = (
    "pattern",
    "from query to key",
    "what it writes for the answer",
    "what is lost without it",
)
ABOUT = {
    PATTERN: "Each picture is one head: rows look, columns are looked at; the stronger the colour, the more.",
    LOOK: "How much each head looks from the chosen query to the chosen key.",
    WRITES: "What each head writes, straight to the logits, for the likeliest next token above the second (direct "
    "logit attribution): blue for the likeliest, orange against it.",
    NEEDED: "What happens to the same difference when this head alone is taken out and the rest runs on "
    "(ablation; of the whole model): orange, it falls; blue, it rises.",
    "previous token": "How much each token looks at the one just before it.",
    "duplicate token": "How much a token that came before looks at its earlier place.",
    "induction": "How much a token that came before looks at what followed it then.",
    "first token": "How much goes to the first token, where heads rest that have nothing to say.",
    "entropy": "How evenly a head spreads its attention over what it sees.",
    "distance": "How far back a head looks.",
}
ONE_HEAD = 512
"""Tokens up to which a single head is shown in full."""


def page(chosen: Selection) -> None:
    """Grid, then the chosen head."""
    st.header("Where does each word look? (attention heads)")
    found = overview(chosen.model_name, chosen.ids, chosen.taken_out)
    columns = st.columns([3, 2, 2, 2])
    overlay = columns[0].selectbox(
        "Show in the grid",
        [name for name in ABOUT if name in (PATTERN, LOOK, WRITES, NEEDED) or name in found.scores],
        key="overlay", bind="query-params",
    )  # fmt: skip
    values = _overlay(chosen, found, overlay)
    orders = ["layer", *(["what is shown"] if values is not None else []), *(n for n in SCORES if n in found.scores)]
    if st.session_state.get("sort", "layer") not in orders:
        st.session_state["sort"] = "layer"
    sort = columns[1].selectbox("Sort by", orders, key="sort", bind="query-params")
    least = columns[2].slider(
        "Fade below", 0.0, 1.0, 0.0, 0.05, key="least", bind="query-params", disabled=values is None,
        help="As a share of the largest number in the grid. Pictures are never faded.",
    )  # fmt: skip
    columns[3].text_input(
        "Find", key="find", placeholder="L9H6, induction", on_change=_find, args=(chosen, tuple(found.scores)),
        help="A head by name, or what to sort by.",
    )  # fmt: skip
    if st.session_state.get("not_found"):
        st.warning(shown(st.session_state["not_found"]))
    st.caption(
        f"{ABOUT[overlay]} Point to preview, click to choose, shift+click to take out; with the keyboard: arrows, "
        "Enter, Esc."
    )
    order = None if values is None else np.abs(values.values)
    head_grid(
        found, chosen.layer, chosen.head, taken_out=chosen.taken_out, overlay=values, least=least,
        order=order if sort == "what is shown" else found.scores.get(sort), on_pick=set_head, on_switch=switch_head,
    )  # fmt: skip
    show_so_far()
    st.subheader(f"Layer {chosen.layer}, head {chosen.head}")
    if len(chosen.ids) > ONE_HEAD:
        st.info(f"A single head is shown in full up to {ONE_HEAD} tokens; this text has {len(chosen.ids):,}.")
        return
    _one_head(chosen)


def _overlay(chosen: Selection, found: Overview, name: str) -> Overlay | None:
    """The numbers that the grid shows in the place of pictures."""
    asked = chosen.model_name, chosen.ids, chosen.taken_out
    if name in found.scores:
        return Overlay(found.scores[name])
    if name == LOOK:
        return Overlay(looks(*asked, chosen.query)[:, :, chosen.key])
    if name in (WRITES, NEEDED):
        target, against = contrast(chosen.model_name, chosen.ids)
        values = (
            attribution(*asked, target, against) if name == WRITES else needed(chosen.model_name, chosen.ids)
        )  # fmt: skip
        texts = (shown(show_token(text)) for text in str_tokens(chosen.model.tokenizer, [target, against]))
        st.caption("The likeliest next token and the second: ‘{}’, ‘{}’.".format(*texts))
        return Overlay(values, signed=True, unit="logits")
    return None


def _find(chosen: Selection, scores: tuple[str, ...]) -> None:
    """Before the page runs again: choose the head of this name, or sort by the score of this name."""
    wanted = str(st.session_state["find"]).strip()
    config = chosen.model.config
    st.session_state["not_found"] = ""
    if head := re.fullmatch(r"[lL]?(\d+)\s*[hH.:,]\s*(\d+)", wanted):
        layer, number = map(int, head.groups())
        if layer < config.n_layers and number < config.n_heads:
            return set_head(layer, number)
    near = difflib.get_close_matches(wanted.lower(), scores, 1, cutoff=0.5)
    if near:
        st.session_state["overlay"] = st.session_state["sort"] = near[0]
    elif wanted:
        st.session_state["not_found"] = (
            f"Nothing is called {wanted!r}: heads are L0H0 to L{config.n_layers - 1}H{config.n_heads - 1}, and scores "
            f"{', '.join(scores)}."
        )
    return None


def _one_head(chosen: Selection) -> None:
    recording = layer_recording(chosen.model_name, chosen.ids, chosen.layer, chosen.taken_out)
    weighted = st.toggle(
        "Weigh by what is passed on", key="weighted", bind="query-params",
        help="Attention times the length of what the head would write for each token: a head can rest on a token "
        "without taking anything from it (value-weighted pattern).",
    )  # fmt: skip
    plain = probe.read_pattern(recording, chosen.layer, chosen.head)
    pattern = (
        probe.value_weighted_pattern(chosen.model, recording, chosen.layer, chosen.head) if weighted else plain
    )  # fmt: skip
    hide = st.toggle(
        "Leave out the first token", key="hide_first", bind="query-params", disabled=len(chosen.ids) < 3,
        help="Heads that have nothing to say rest there; without it the other weights can be seen.",
    )  # fmt: skip
    if hide and len(chosen.ids) >= 3:
        mass = float(plain.pattern[1:, 0].mean())
        st.caption(f"Left out: {mass:.1%} of the attention, on average over the rows. Colours end at the largest left.")
    st.markdown(_in_words(chosen, plain))
    weights = plain.pattern[chosen.query].tolist()
    token_strip(
        chosen.str_tokens, weights, _looked_at(chosen, weights), label="The text: click where to look from",
        chosen=chosen.query, second=chosen.key, on_pick=set_place, key="strip",
    )  # fmt: skip
    st.caption(
        "The stronger its colour, the more a token is looked at"
        + (" (attention as it is, not weighed)" if weighted else "")
        + ". Click: look from there; with shift: look at it."
    )
    with st.container(horizontal=True):  # beside one another where there is room
        with st.container(width=530):
            figure(_drawn(pattern, hide, theme(), (chosen.query, chosen.key)), key="pattern")
        with st.container(width=390):
            _row(chosen, recording)
    _more(chosen, recording, plain)
    keep(
        pattern, _code(chosen, weighted), name=f"head-{chosen.layer}-{chosen.head}",
        heading=f"Layer {chosen.layer}, head {chosen.head}",
        caption="Attention weights: how much of each token’s value this head takes. They say where information could "
        "come from, not whether it is used: for that, take the head out (ablation).",
        draw=[lambda theme: _drawn(pattern, hide, theme)],
    )  # fmt: skip


def _looked_at(chosen: Selection, weights: list[float]) -> list[str]:
    """What a pointer learns of each token."""
    return [
        f"{isolated(show_token(text))} [{place}]: "
        + (f"gets {weight:.1%}" if place <= chosen.query else f"comes after [{chosen.query}], so it is not seen")
        for place, (text, weight) in enumerate(zip(chosen.str_tokens, weights, strict=True))
    ]


def _drawn(
    pattern: HeadPattern, hide: bool, theme: ThemeName, crossed: tuple[int, int] | None = None
) -> go.Figure:  # fmt: skip
    if not hide or len(pattern.str_tokens) < 3:
        return attention_heatmap(pattern, theme=theme, crossed=crossed)
    weights = pattern.pattern.clone()
    weights[:, 0] = 0.0
    return attention_heatmap(
        dataclasses.replace(pattern, pattern=weights), theme=theme, crossed=crossed,
        largest=float(weights[1:].max().clamp(min=1e-3)),
    )  # fmt: skip


def _in_words(chosen: Selection, pattern: HeadPattern) -> str:
    row = pattern.pattern[chosen.query]
    best = int(row.argmax())
    return (
        f"**L{chosen.layer}H{chosen.head}**: {_token(chosen, chosen.query)} looks {float(row[best]):.1%} at "
        f"{_token(chosen, best)}" + (
            f" and {float(row[chosen.key]):.1%} at {_token(chosen, chosen.key)}." if chosen.key != best else "."
        )
    )  # fmt: skip


def _token(chosen: Selection, place: int) -> str:
    return f"‘{isolated(shown(show_token(chosen.str_tokens[place])))}’ \\[{place}\\]"


def _row(chosen: Selection, recording: probe.Recording) -> None:
    """What the chosen token sees, token by token."""
    st.markdown(f"What {_token(chosen, chosen.query)} sees (query · key, softmax, value)")
    look = read_look(recording, chosen.layer, chosen.head, position=chosen.query)
    table = pandas.DataFrame(
        {
            "to": [f"{place}  {isolated(show_token(text))}" for place, text in enumerate(look.str_tokens)],
            "score": look.scores.tolist(), "weight": look.weights.tolist(), "value length": look.value_lengths.tolist(),
        }
    )  # fmt: skip
    st.dataframe(
        table, hide_index=True, height=300,
        column_config={
            "score": st.column_config.NumberColumn(format="%.2f", help="query · key, scaled, before the softmax"),
            "weight": st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0),
            "value length": st.column_config.NumberColumn(format="%.2f", help="how much there is to take"),
        },
    )  # fmt: skip
    if chosen.key > chosen.query:
        st.caption("The key comes after the query: the mask hides it, so its weight is 0.")
        return
    pair = probe.read_pair(recording, chosen.layer, chosen.head, chosen.query, chosen.key)
    if pair.masked:
        st.caption("The key lies outside this layer’s window: the mask hides it, so its weight is 0.")
        return
    window = chosen.model.config.window_of_layer(chosen.layer)
    seen = chosen.query + 1 if window is None else min(window, chosen.query + 1)
    st.caption(
        f"From {chosen.query} to {chosen.key}: query · key = {_score(chosen, pair)}, the sum of {len(pair.terms)} "
        f"products; after the softmax over {seen} tokens: {pair.weight:.4f}."
    )


def _score(chosen: Selection, pair: HeadPair) -> str:
    """The sum of the products; where a model caps scores, also what becomes of it."""
    total = f"{float(pair.terms.sum()):.3f}"
    return total if chosen.model.config.attn_soft_cap is None else f"{total} ({pair.score:.3f} after the soft cap)"


WRITTEN, BY_WEIGHTS, PRODUCT, LINES, EVERY, ALIKE = (
    "what it writes here", "what it would write for the key", "query · key, number by number", "as lines",
    "this row in every head", "heads alike",
)  # fmt: skip


def _more(chosen: Selection, recording: probe.Recording, plain: HeadPattern) -> None:
    """One further look at the head, computed only if it is asked for."""
    wanted = st.segmented_control(
        "More of this head", [WRITTEN, BY_WEIGHTS, PRODUCT, LINES, EVERY, ALIKE], default=WRITTEN, key="more",
        bind="query-params",
    )  # fmt: skip
    layer, head = chosen.layer, chosen.head
    if wanted == WRITTEN:
        written = head_written(chosen.model_name, chosen.ids, chosen.taken_out, layer, head, chosen.query)
        figure(token_effect_bars(written, theme=theme()), key="written")
        st.caption(
            f"What this head added at {_token(chosen, chosen.query)}, read straight by the unembedding: tokens that it "
            "makes likelier (blue) and less likely (orange) there, if no later layer changes it."
        )
    elif wanted == BY_WEIGHTS:
        effects = probe.head_writes_for_token(chosen.model, layer, head, chosen.ids[chosen.key])
        figure(token_effect_bars(effects, theme=theme()), key="by-weights")
        st.caption(
            f"By its weights alone (OV circuit): what it would write wherever it looks at "
            f"{_token(chosen, chosen.key)}, if the stream held nothing but that token’s embedding. Late layers read "
            "much besides."
        )
    elif wanted == PRODUCT:
        pair = probe.read_pair(recording, layer, head, chosen.query, chosen.key)
        table = pair.to_dataframe().sort_values("term", key=abs, ascending=False)
        st.dataframe(table, hide_index=True, height=300)
        st.caption(
            f"Query of {_token(chosen, chosen.query)}, key of {_token(chosen, chosen.key)}, and their scaled product; "
            f"the terms sum to the score {_score(chosen, pair)}"
            + (", which the mask then hides." if pair.masked else ".")
        )
    elif wanted == LINES:
        figure(attention_lines(plain, query=chosen.query, theme=theme()), key="lines-of-one")
        figure(attention_lines(plain, theme=theme()), key="lines-of-all")
    elif wanted == EVERY:
        rows = looks(chosen.model_name, chosen.ids, chosen.taken_out, chosen.query)
        figure(row_in_every_head(rows, chosen.str_tokens, chosen.query, theme=theme()), key="every-head")
    elif wanted == ALIKE:
        _alike(chosen, recording)


def _alike(chosen: Selection, recording: probe.Recording) -> None:
    """Heads with nearly the same pattern on this text."""
    if len(chosen.ids) < 3 or len(recording.layers("pattern")) < chosen.model.config.n_layers:
        st.info(f"Patterns of all heads are compared on texts of 3 to {ALL_LAYERS} tokens.")
        return
    found = probe.similar_heads(recording, chosen.layer, chosen.head)
    st.dataframe(pandas.DataFrame(found.top(20), columns=["layer", "head", "cosine"]), hide_index=True)
    st.caption("Cosine between the patterns on this text, the first token left out: 1 is the same pattern.")


def _code(chosen: Selection, weighted: bool) -> str:
    turned = "rot_" if chosen.model.config.positions == "rotary" else ""
    sites = ["pattern", "attn_scores", f"{turned}q", f"{turned}k", "v"]
    read = "probe.value_weighted_pattern(model, recording" if weighted else "probe.read_pattern(recording"
    return chosen.code(
        f"recording = probe.record(model, prompt, sites={sites}, layers=[{chosen.layer}], "
        f"document_start=document_start{chosen.without})",
        f"head = {read}, {chosen.layer}, {chosen.head})",
        f"print(head.pattern[{chosen.query}])  # where the token at {chosen.query} looks",
    )
