"""How a GPT works: the examples of the visual introduction, one by one, with this model's own numbers."""

from collections.abc import Mapping

import pandas
import streamlit as st
from components.controls import Selection, address
from components.show import Tabled, figure, keep, shown, theme
from state.introduction import Chapter, introduction, introduction_chapter, introduction_numbers

from probe.provenance import provenance

HOLDS = {
    "yes": ":material/check_circle: it holds here",
    "partly": ":material/contrast: partly",
    "no": ":material/cancel: not here",
    "not tried": ":material/remove_circle: not tried",
}
NAMES = {
    "Heads": "heads", "Generation": "generation", "Ablation": "ablation", "Logit lens": "lens",
    "Directions": "directions", "Tokens and model": "tokens",
}  # fmt: skip
"""Pages by title: `views/__init__.py` cannot be read from a page."""


def page(chosen: Selection) -> None:
    """A chapter: what it explains, its examples, figures, and where to look on."""
    st.header("How does a GPT work? (the visual introduction)")
    st.caption(
        "3Blue1Brown’s video “But what is a GPT?” (2024), example by example, in its order, with the time in the video "
        "and what the model of the sidebar says to each. The text and the heads of the sidebar play no part here."
    )
    name = st.selectbox("Chapter", list(introduction.CHAPTERS), key="chapter", bind="query-params")
    chapter = introduction_chapter(chosen.model_name, name)
    for paragraph in chapter.paragraphs:
        st.markdown(shown(paragraph))
    for example in chapter.examples:
        with st.container(border=True):
            st.markdown(f"**{shown(example.claim)}**")
            st.markdown(shown(example.here))
            st.caption(f"{shown(example.time)} · {HOLDS[example.holds]}")
            if example.page in NAMES:
                st.link_button(f"Look at it: {example.page}", _link(chosen, example.page, example.opens))
    if name == "words as vectors":
        st.markdown("How far one, two, three, ... lie along cats - cat (dot product):")
        st.dataframe(introduction_numbers(chosen.model_name).round(3), hide_index=True)
    for number, draw in enumerate(chapter.figures):
        figure(draw(theme()), key=f"introduction-{number}")
    for remark in chapter.remarks:
        st.markdown(shown(remark))
    table = pandas.DataFrame(list(introduction.rows({name: chapter}))).astype({"value": str})  # of many types
    keep(
        Tabled(table, {**provenance(chosen.model), "method": "introduction", "method_arguments": {"chapter": name}}),
        _code(chosen, chapter), name="introduction", heading=chapter.heading, draw=chapter.figures,
        caption="Stories here are short, so that a chapter is ready in seconds: `analyses/introduction.py` tells them "
        "at length, and writes all chapters to one page.",
    )  # fmt: skip


def _link(chosen: Selection, title: str, opens: Mapping[str, str]) -> str:
    """To the page of this title, with the same model."""
    return address(NAMES[title], {"model": chosen.model_name, **opens})


def _code(chosen: Selection, chapter: Chapter) -> str:
    """What gives the number of each example."""
    lines = [
        line
        for example in chapter.examples
        if example.code
        for line in (f"# {example.time}: {example.claim}", f"print({example.code})")
    ]
    return chosen.code("words = probe.load_word_vectors()", *lines)
