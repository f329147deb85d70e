"""Logit lens: what each layer would say next, if the model ended there."""

import pandas
import streamlit as st
from components.controls import Selection, set_place
from components.show import figure, keep, shown, theme
from components.token_strip import token_strip
from state.lens import LENS_POSITIONS, lens_change, lens_positions, lens_readout, tuned_lens

from probe.errors import BadPrompt, OutOfRange
from probe.figures.lens import Colour, lens_difference_heatmap, lens_heatmap, lens_lines, place_label
from probe.methods.lens import LensDifference, LensReadout
from probe.prompts import token_id
from probe.sites import residual_sites
from probe.tokens import show_token

COLOURS: dict[str, Colour] = {
    "rank of the final token": "rank",
    "probability of the final token": "probability",
    "how undecided (entropy)": "entropy",
    "how far from the end (KL)": "divergence",
}
BEFORE = "one step before (none: below the 5 likeliest)"
CELL, BESIDE_CELLS = 44, 230
"""Width of a cell of the map that has room for a token, and what axis and colour bar take (pixels)."""
WRITTEN = 32
"""Positions up to which the map of 30 layers has tokens in its cells."""
FOLLOWED = 6
"""Lines that can be told apart."""


def page(chosen: Selection) -> None:
    """Layers by positions, one place of it, then the ranks of the tokens that were ever first."""
    st.header("What would each layer say next? (logit lens)")
    colour = COLOURS[st.selectbox("Colour", list(COLOURS), key="lens_colour", bind="query-params")]
    with st.container(horizontal=True):
        tuned = _tuned(chosen)
        changed = st.toggle(
            "What changed", key="lens_change", bind="query-params", disabled=not chosen.taken_out,
            help="With heads taken out (in the sidebar): what each layer says otherwise than in the whole model.",
        )  # fmt: skip
    asked = chosen.model_name, chosen.ids, chosen.taken_out, tuned
    watch = _watched(chosen)
    readout = lens_readout(*asked, watch)
    difference = lens_change(*asked) if changed and chosen.taken_out else None
    kept = lens_positions(len(chosen.ids))
    if kept[0]:
        st.caption(f"Shown are the last {LENS_POSITIONS} of {len(chosen.ids):,} tokens; all of them were read.")
    if difference is not None:
        figure(lens_difference_heatmap(difference, theme=theme()), key="lens-change", least_width=_width(len(kept)))
    figure(lens_heatmap(readout, colour=colour, theme=theme()), key="lens", least_width=_width(len(kept)))
    position = max(chosen.query, kept[0])
    _position(chosen, readout, kept, position, watch)
    keep(
        readout if difference is None else difference, _code(chosen, kept, position, tuned, difference, watch),
        name="lens",
        heading="What would each layer say next?",
        caption="Each place of the residual stream is read with the model’s own final norm and unembedding"
        + (", after a translation that was fitted for each place (tuned lens). " if tuned else ". Early layers do not "
           "write for that reader. ")
        + "Where a place is hatched it predicts worse than knowing nothing.",
        draw=[
            *([] if difference is None else [lambda theme: lens_difference_heatmap(difference, theme=theme)]),
            lambda theme: lens_heatmap(readout, colour=colour, theme=theme),
            lambda theme: lens_lines(readout, position=kept.index(position), theme=theme),
        ],
    )  # fmt: skip


def _width(n_positions: int) -> int:
    """Pixels in which the tokens in the cells do not run into one another; where there are too many they have none."""
    return BESIDE_CELLS + CELL * n_positions if n_positions <= WRITTEN else 0


def _watched(chosen: Selection) -> tuple[int, ...]:
    """Token ids that the reader wants to follow.

    Raises:
        BadPrompt: one that is not a single token; the message shows its pieces.
        OutOfRange: more than can be told apart.
    """
    given = st.text_input(
        "Follow these tokens", key="watch", bind="query-params", placeholder="every token that was ever first",
        max_chars=300, help="Words with commas between them, such as ‘Paris, London’: each as one token, with the "
        "space before it where the model has it so.",
    )  # fmt: skip
    words = list(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))
    if len(words) > FOLLOWED:
        raise OutOfRange(f"{len(words)} tokens to follow: {FOLLOWED} lines are the most that can be told apart")
    return tuple(_one_token(chosen, word) for word in words)


def _one_token(chosen: Selection, word: str) -> int:
    config, tokenizer = chosen.model.config, chosen.model.tokenizer
    try:
        return token_id(config, tokenizer, f" {word}")
    except BadPrompt:
        return token_id(config, tokenizer, word)


def _tuned(chosen: Selection) -> bool:
    found = tuned_lens(chosen.model_name)
    return st.toggle(
        "Tuned lens", key="tuned", bind="query-params", disabled=found is None,
        help=found.verdict() if found else "None was fitted for this model yet. In Python, "
        "probe.load_tuned_lens(model) does that once, in minutes; then this can be switched on.",
    ) and found is not None  # fmt: skip


def _position(
    chosen: Selection, readout: LensReadout, kept: list[int], position: int, watch: tuple[int, ...]
) -> None:  # fmt: skip
    """One column of the map: what each place expects after one token, and what that step added."""
    st.subheader("From the embedding to the end")
    ends = dict(zip(kept, readout.final_tokens[0].tolist(), strict=True))
    sure = dict(zip(kept, readout.final_log_probs[-1, 0].exp().tolist(), strict=True))
    said = [
        f"{show_token(text)} [{place}]"
        + (f": then ‘{show_token(readout.texts[ends[place]])}’, {sure[place]:.1%}" if place in ends else ": not read")
        for place, text in enumerate(chosen.str_tokens)
    ]
    token_strip(
        chosen.str_tokens, [sure.get(place, 0.0) for place in range(len(said))], said, chosen=position,
        label="The text: click the token after which to look", on_pick=set_place, key="lens-strip",
    )  # fmt: skip
    st.markdown(
        f"The stronger the colour, the surer the model is in the end of what comes next. After "
        f"‘{shown(show_token(chosen.str_tokens[position]))}’ \\[{position}\\] (click another): the rank of "
        f"{'the tokens to follow' if watch else 'every token that was first at some place'}."
    )
    figure(lens_lines(readout, position=kept.index(position), theme=theme()), key="lens-lines")
    st.markdown("The likeliest tokens at one place, and how likely they were one step before:")
    names = [place_label(place) for place in readout.places]
    at = st.select_slider("Read after", names, names[-1], key="lens_place", bind="query-params")
    st.dataframe(
        _candidates(readout, names.index(at), kept.index(position)), hide_index=True,
        column_config={
            name: st.column_config.NumberColumn(format="percent") for name in ("probability", BEFORE)
        },
    )  # fmt: skip


def _candidates(readout: LensReadout, place: int, column: int) -> pandas.DataFrame:
    """The likeliest tokens at a place, and what this step did to them."""
    tokens = readout.top_tokens[place, 0, column].tolist()
    chances = readout.top_log_probs[place, 0, column].exp().tolist()
    rows = {"token": [show_token(readout.texts[token]) for token in tokens], "probability": chances}
    if place:
        before = dict(zip(
            readout.top_tokens[place - 1, 0, column].tolist(),
            readout.top_log_probs[place - 1, 0, column].exp().tolist(), strict=True,
        ))  # fmt: skip
        rows[BEFORE] = [before.get(token) for token in tokens]
    return pandas.DataFrame(rows)


def _code(
    chosen: Selection, kept: list[int], position: int, tuned: bool, difference: LensDifference | None,
    watch: tuple[int, ...],
) -> str:  # fmt: skip
    sites, positions = residual_sites(chosen.model.config), f"list(range({kept[0]}, {kept[-1] + 1}))"
    arguments = f"sites={sites}, positions={positions}, document_start=document_start"
    lens = ["lens = probe.load_tuned_lens(model)"] if tuned else []
    with_lens = ", tuned=lens" if tuned else ""
    if difference is not None:
        return chosen.code(
            *lens,
            f"before = probe.record(model, prompt, {arguments})",
            f"after = probe.record(model, prompt, {arguments}, interventions=taken_out)",
            f"change = probe.lens_difference(model, before, after{with_lens})",
            "print(change.to_dataframe().to_string())",
        )
    return chosen.code(
        *lens,
        f"recording = probe.record(model, prompt, {arguments}{chosen.without})",
        f"readout = probe.logit_lens(model, recording{with_lens}{f', watch={list(watch)}' if watch else ''})",
        f"for place, tokens in zip(readout.places, readout.top_tokens[:, 0, {kept.index(position)}, 0].tolist()):",
        "    print(place, readout.texts[tokens])",
    )
