"""Directions: does the model use one? A text pushed along it, and how far pushes move its next token."""

import dataclasses
from typing import NamedTuple

import streamlit as st
from components.show import figure, keep, shown, theme
from state.steering import DoseQuestion, Push, dose, steered, steered_logits
from streamlit.delta_generator import DeltaGenerator

from probe.errors import OutOfRange
from probe.figures.distribution import next_token_change
from probe.figures.steering import dose_curve_lines
from probe.methods.distribution import same_next_tokens
from probe.methods.steering import DOSES, USED, join_doses
from probe.prompts import read_prompts
from views._pairs import PairsInSpace, text_of

SENTENCE = "The cookie"
"""After it, one can see whether the model goes on in the plural."""
STEERED, LISTED = 24, 10
"""New tokens of a steered text; tokens of each distribution."""


class Contrast(NamedTuple):
    """What is asked of a direction where the reader asks nothing else."""

    template: str
    target: str
    against: str


CONTRASTS = {"gender": Contrast("The {} said that", " she", " he")}
"""By list of pairs."""
OTHERS = Contrast("The {}", " are", " is")
WORDS = 8
"""Texts after which the next token is compared."""


def steer(asked: PairsInSpace) -> None:
    """A text as it is, pushed along the direction, and pushed as far in a random one."""
    chosen = asked.chosen
    asked = dataclasses.replace(asked, kind="stream")
    st.caption(
        f"Added after layer {chosen.layer} of {chosen.model.config.n_layers} (the sidebar’s), at every token but the "
        "first. The direction is that of the pairs in sentences, read after the same layer, whatever space is chosen."
    )
    columns = st.columns([3, 2], vertical_alignment="bottom")
    with columns[0]:
        text = text_of("A sentence to go on with", SENTENCE, "sentence")
    strength = columns[1].slider(
        f"How far towards ‘{shown(asked.given.positive)}’", -3.0, 3.0, 1.0, 0.25, key="strength", bind="query-params",
        help="In distances between the two sides of the pairs: 1 is as far as from one to the other, 0 changes "
        "nothing, below 0 leads the other way.",
    )  # fmt: skip
    ids = read_prompts(
        chosen.model.config, chosen.model.tokenizer, [text], document_start=chosen.document_start
    ).ids[0]  # fmt: skip
    pushes = {
        "as it is": Push(asked.space, asked.pairs, 0.0),
        f"{strength:+g} along the direction": Push(asked.space, asked.pairs, strength),
        "as far, in a random direction": Push(asked.space, asked.pairs, strength, random=True),
    }
    made = {name: steered(push, ids, chosen.taken_out, STEERED) for name, push in pushes.items()}
    for (name, one), column in zip(made.items(), st.columns(3), strict=True):
        column.markdown(f"**{shown(name)}**")
        column.code(text + one.text, language=None, wrap_lines=True)
    before, after, _ = (steered_logits(push, ids, chosen.taken_out) for push in pushes.values())
    runs = same_next_tokens(chosen.model, [before, after], top=LISTED)
    figure(next_token_change(*runs, theme=theme()), key="steered")
    n_run = min(len(ids) + STEERED, chosen.model.config.n_ctx) - 1
    keep(
        made[list(made)[1]],
        asked.code(
            *asked.fit, f"push = {strength} * direction.gap * direction.vector.float()",
            f"steering = probe.add('resid_post', push, layer={chosen.layer}, positions=range(1, {n_run}))",
            f"made = probe.generate(model, {text!r}, document_start=document_start, max_tokens={STEERED}, "
            f"temperature=0, interventions=[{'*taken_out, ' if chosen.taken_out else ''}steering])",
            "for step in made:", "    print(repr(step.text), step.model_probability, step.rank)", n_tokens=n_run,
        ),
        name="steered", heading="A steered text",
        caption="The likeliest token at every step (temperature 0). If a random push of the same length changes the "
        "text as much, it is the length that did it. One sentence is an example, no evidence: look at “Effect”.",
        draw=[lambda theme: next_token_change(*runs, theme=theme)],
    )  # fmt: skip


def effect(asked: PairsInSpace) -> None:
    """How far doses of the direction move one next token above another, beside random directions."""
    chosen, asked = asked.chosen, dataclasses.replace(asked, kind="stream")
    usual, columns = CONTRASTS.get(asked.given.name, OTHERS), st.columns([2, 1, 1])
    template = _or(columns[0], "Texts, with a word at {}", usual.template, "effect_text")
    target = _or(columns[1], "Does this token gain", usual.target, "effect_target")
    against = _or(columns[2], "on this one?", usual.against, "effect_against")
    if template.count("{}") != 1:
        raise OutOfRange(f"the texts {template[:60]!r}: expected {{}} once, where the word goes")
    words = [negative for _, negative in asked.pairs.held_out or asked.pairs.fit][:WORDS]
    prompts = tuple(template.replace("{}", word) for word in words)
    question = DoseQuestion(asked.space, asked.pairs, prompts, target, against)
    st.caption(
        f"After {len(words)} texts such as ‘{shown(question.prompts[0])}’, with {shown(asked.pairs.negative)} words, "
        f"so that there is room to move. {len(DOSES)} doses, added after layer {chosen.layer} (the sidebar’s) at the "
        "last token, each beside 20 random directions of the same length; and what they change in other texts (damage)."
    )
    state = st.session_state
    if state.get("effect_of") != question:
        st.button("Begin", key="begin_effect", on_click=lambda: state.update(effect_of=question))
        return
    stop, bar, so_far, parts = st.empty(), st.progress(0.0), st.empty(), []
    stop.button("Stop", key="stop_effect", on_click=lambda: state.update(effect_of=None))
    for size in sorted(DOSES, reverse=True):  # towards the positive words first: the verdict rests on these
        bar.progress(len(parts) / len(DOSES), f"doses done: {len(parts)} of {len(DOSES)}; they are kept after a stop")
        parts.append(dose(question, size))
        curve = join_doses(parts)
        so_far.plotly_chart(dose_curve_lines(curve, theme=theme()), theme=None, key=f"doses-{len(parts)}")
    for one in (stop, bar, so_far):
        one.empty()
    figure(dose_curve_lines(curve, theme=theme()), key="doses")
    nearest = curve.natural_dose
    st.markdown(
        f"At dose {nearest:+g}, the nearest to one gap between the two sides of the pairs, it moves "
        f"{shown(curve.contrast)} by {shown(str(curve.effect(nearest)))} logits, p = {curve.p(nearest):.4f}: the model "
        + ("**uses** it here." if curve.used else "is **not shown** to use it here.")
    )
    keep(
        curve,
        asked.code(
            *asked.fit,
            f"curve = probe.dose_curve(model, direction, {list(question.prompts)}, target={target!r}, "
            f"against={against!r}, document_start=document_start)",
            "print(curve.to_dataframe().to_string())",
        ),
        name="effect", heading="Does the model use the direction?",
        caption=f"A dose of 1 is as long as the residual stream there. {USED[0].upper()}{USED[1:]}. "
        f"n = {len(curve.prompts)} texts, seed {curve.seed}. Heads that are taken out play no part here.",
        draw=[lambda theme: dose_curve_lines(curve, theme=theme)],
    )  # fmt: skip


def _or(column: DeltaGenerator, label: str, usual: str, key: str) -> str:
    """What the reader writes, or else what is usual for these pairs."""
    return column.text_input(label, key=key, bind="query-params", placeholder=usual, max_chars=200) or usual
