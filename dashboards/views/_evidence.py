"""Directions: is it one? Its scores on other pairs beside chance, every pair, and the way through the layers."""

import dataclasses

import streamlit as st
from components.show import figure, keep, shown, theme
from state.directions import evaluation, profile, profile_seconds

from probe.figures.directions import layer_profile_lines, pair_differences, permutation_histogram, projection_strip
from probe.figures.word_space import pair_arrows
from views import _pairs
from views._pairs import LEAST_WIDTH, PairsInSpace, name_missing


def evidence(asked: PairsInSpace) -> None:
    """Where the pairs stand, whether chance could do it, each pair."""
    twin = asked.kind != "static" and st.toggle(
        "Beside the untrained twin", key="twin", bind="query-params",
        help="A model of the same shape with random weights: what it tells apart, no training was needed for.",
    )  # fmt: skip
    found = evaluation(asked.space, asked.pairs, twin)
    name_missing({**asked.direction.pairs.dropped, **found.dropped})
    draw = [projection_strip, permutation_histogram, pair_differences]
    for number, one in enumerate(draw):
        figure(one(found, theme=theme()), key=f"evidence-{number}")
    with st.expander("The evidence in sentences"):
        st.markdown("\n".join(f"* {shown(line)}" for line in found.report()))
    held_out = "pairs, " if asked.given.held_out else ""
    keep(
        found,
        asked.code(
            *asked.fit,
            f"found = probe.evaluate_direction(direction, {held_out}twin={twin}, on_missing='drop')",
            "print('\\n'.join(found.report()))", "print(found.to_dataframe().to_string())",
        ),
        name="evidence", heading="Is it a direction?",
        caption=f"Scores are out of sample: {shown(found.how)}. A score says how far along the direction a word lies, "
        f"not what the model does with it. n = {len(found.words)} pairs, seed 0.",
        draw=[lambda theme, one=one: one(found, theme=theme) for one in draw],
    )  # fmt: skip


def differences(asked: PairsInSpace) -> None:
    """An arrow for each pair."""
    found = asked.direction
    name_missing(found.pairs.dropped)
    figure(pair_arrows(found, theme=theme()), key="arrows", least_width=LEAST_WIDTH)
    keep(
        found, asked.code(*asked.fit, "print(direction.to_dataframe().to_string())"), name="differences",
        heading="Every pair’s difference",
        caption="If the pairs share one direction, their arrows are parallel and of one length. The picture shows two "
        f"of {len(found.vector):,} dimensions; these are the very pairs of the fit, so they look better than others.",
        draw=[lambda theme: pair_arrows(found, theme=theme)],
    )  # fmt: skip


def through_layers(asked: PairsInSpace) -> None:
    """The whole way from the embedding to the unembedding."""
    chosen, pairs = asked.chosen, asked.given
    wanted = (chosen.model_name, pairs, chosen.document_start)
    seconds = profile_seconds(chosen.model_name, pairs)
    n_texts = 2 * len(pairs.all) * len(pairs.templates)
    st.caption(
        f"All {len(pairs.all)} pairs in {len(pairs.templates)} sentences: {n_texts:,} short texts through all "
        f"{chosen.model.config.n_layers} layers, once with this model and once with its untrained twin, and 1,000 fits "
        f"with swapped pairs at every layer. About {seconds:,.0f} s."
    )
    if seconds > _pairs.AT_ONCE and st.session_state.get("profile_of") != wanted:
        st.button("Begin", key="begin_profile", on_click=lambda: st.session_state.update(profile_of=wanted))
        return
    found = profile(*wanted)
    figure(layer_profile_lines(found, theme=theme()), key="profile")
    keep(
        found,
        chosen.code(
            f"pairs = {dataclasses.replace(asked, kind='stream').pairs_in_code}",
            f"found = probe.layer_profile(model, pairs, templates={list(pairs.templates)}, "
            "document_start=document_start, on_missing='drop')",
            "print(found.to_dataframe().to_string())",
        ),
        name="profile", heading="Through the layers",
        caption=f"Cross-validated over {len(found.pairs)} pairs, seed 0; p is against the best place of every "
        "permutation. That a layer tells the words apart does not say that the model uses it: steer, to see that.",
        draw=[lambda theme: layer_profile_lines(found, theme=theme)],
    )  # fmt: skip
