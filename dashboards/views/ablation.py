"""Ablation: what the model says without some heads, and which of all its parts it needs."""

import pandas
import streamlit as st
from components.controls import Selection, part_name, set_head, switch_head, switch_parts
from components.head_grid import Overlay, head_grid
from components.show import figure, keep, shown, theme
from state.ablation import Question, joint_effect, sweep_layers, sweep_part, sweep_plan, token_name
from state.heads import overview
from state.models import contrast, last_logits

import probe
from probe.errors import BadPrompt
from probe.figures.ablation import ablation_bars, ablation_map, prompt_effects, total_against_direct
from probe.figures.distribution import next_token_bars, next_token_change
from probe.methods._replacement import VALUES
from probe.methods._units import Unit
from probe.methods.ablation import join_sweeps
from probe.methods.distribution import same_next_tokens
from probe.prompts import str_tokens, token_id
from probe.tokens import show_token

TEXT = "this text"
KINDS = {"heads": "heads", "MLPs": "MLPs", "whole layers": "layers"}
SIZES = (9, 16, 25, 49)
"""Prompts of a task: so many templates times as many sets of words."""
AT_ONCE = 1e12
"""Floating-point operations, some seconds: what takes fewer is begun without being asked."""
LISTED = 12
"""Tokens of each distribution."""


def page(chosen: Selection) -> None:
    """What is taken out and what that does; then every part in turn."""
    st.header("What does the model need? (ablation)")
    columns = st.columns(2)
    target = _token(chosen, columns[0], "The right next token", 0)
    against = _token(chosen, columns[1], "Compared with", 1)
    if target == against:
        raise BadPrompt("the right next token and the one that it is compared with are the same")
    _before_and_after(chosen, target, against)
    st.subheader("Each part in turn")
    question = _ask(chosen, target, against)
    sweep = _swept(question)
    if sweep is not None:
        _show(chosen, question, sweep)


def _token(chosen: Selection, column: st.delta_generator.DeltaGenerator, label: str, rank: int) -> int:
    """A token of the reader's, or the model's own first or second choice."""
    likely = contrast(chosen.model_name, chosen.ids)[rank]
    text = str_tokens(chosen.model.tokenizer, [likely])[0]
    given = column.text_input(
        label, key=f"token_{rank}", bind="query-params", placeholder=f"{show_token(text)} (the model’s choice)",
        help="One token, with the space before it, such as ‘ Mary’. Empty: the likeliest, and the second.",
    )  # fmt: skip
    return token_id(chosen.model.config, chosen.model.tokenizer, given) if given else likely


def _before_and_after(chosen: Selection, target: int, against: int) -> None:
    """The next token with the whole model, and without the heads that are taken out."""
    st.subheader("What comes next")
    recordings = [last_logits(chosen.model_name, chosen.ids), last_logits(*_asked(chosen))]
    before, after = same_next_tokens(chosen.model, recordings, top=LISTED, also=[target, against])
    drawn = next_token_change(before, after, theme=theme()) if chosen.taken_out else None
    figure(drawn or next_token_bars(before, theme=theme()), key="before-after")
    names = [f"‘{shown(show_token(text))}’" for text in str_tokens(chosen.model.tokenizer, [target, against])]
    said = [float(recording["logits"][0, -1, target] - recording["logits"][0, -1, against]) for recording in recordings]
    text = f"{names[0]} stands {said[0]:+.2f} logits above {names[1]}"
    if not chosen.taken_out:
        parts = "heads and MLPs" if chosen.model.config.d_mlp else "heads"
        st.markdown(f"{text}. Nothing is taken out yet: choose {parts} in the sidebar, or click them below.")
        return
    st.markdown(f"{text} in the whole model, and {said[1]:+.2f} without {', '.join(map(part_name, chosen.taken_out))}.")


def _asked(chosen: Selection) -> tuple:
    return chosen.model_name, chosen.ids, chosen.taken_out


def _ask(chosen: Selection, target: int, against: int) -> Question:
    """What is measured on what."""
    columns = st.columns(4)
    where = columns[0].selectbox("Measured on", [TEXT, *probe.task_names()], key="measured_on", bind="query-params")
    n = columns[1].selectbox(
        "Prompts", SIZES, key="n_prompts", bind="query-params", disabled=where == TEXT,
        help="More prompts: narrower intervals, longer sweeps. One text has no interval.",
    )  # fmt: skip
    kinds = [kind for kind in KINDS if chosen.model.config.d_mlp or kind != "MLPs"]
    units = columns[2].selectbox("Take out each of the", kinds, key="units", bind="query-params")
    values = ["zero"] if where == TEXT else [*VALUES[1:], "zero"]
    if st.session_state.get("value", values[0]) not in values:
        st.session_state["value"] = values[0]
    value = columns[3].selectbox(
        "Put in its place", values, key="value", bind="query-params",
        help="Zero: it writes nothing. Mean: what it writes on average, in the other prompts. Resample: what it wrote "
        "in another prompt. One text has no others.",
    )  # fmt: skip
    return Question(
        chosen.model_name, chosen.ids, target, against, None if where == TEXT else where, int(n), KINDS[units], value,
        chosen.document_start,
    )  # fmt: skip


def _swept(question: Question) -> probe.AblationSweep | None:
    """The sweep as far as it has come: it begins by itself where it is short, shows every part, and can be stopped."""
    plan = sweep_plan(question)
    st.caption(f"This takes {shown(str(plan))}. Finished layers are kept: after a stop it goes on from there.")
    state = st.session_state
    if state.get("sweep_of") != question:
        state["sweep_of"], state["sweep_parts"], state["sweep_runs"] = question, {}, plan.flops <= AT_ONCE
    parts, layers = state["sweep_parts"], sweep_layers(question)
    missing = [one for one in layers if one not in parts]
    if missing and not state["sweep_runs"]:
        st.button("Go on" if parts else "Begin", key="begin", on_click=_run, args=(True,))
    elif missing:
        stop, bar, so_far = st.empty(), st.progress(0.0), st.empty()
        stop.button("Stop", key="stop", on_click=_run, args=(False,))
        for one in missing:
            bar.progress(len(parts) / len(layers), f"layers done: {len(parts)} of {len(layers)} parts")
            if parts and question.units == "heads":
                so_far.plotly_chart(
                    ablation_map(join_sweeps(list(parts.values())), theme=theme()), theme=None,
                    key=f"so-far-{len(parts)}",
                )  # fmt: skip
            parts[one] = sweep_part(question, one)
        for one in (stop, bar, so_far):
            one.empty()
    if len(parts) < len(layers):
        if parts:
            st.warning(f"Stopped: {len(parts)} of {len(layers)} parts of the layers are done, the last layers first.")
        else:
            return None
    return join_sweeps(list(parts.values()))


def _run(go: bool) -> None:
    st.session_state["sweep_runs"] = go


def _show(chosen: Selection, question: Question, sweep: probe.AblationSweep) -> None:
    """Figures, the chosen unit on every prompt, heads together, numbers."""
    whole = len({unit.layer for unit in sweep.units}) == chosen.model.config.n_layers
    if question.units == "heads" and whole:
        effects = sweep.effects.mean(1).numpy().reshape(chosen.model.config.n_layers, -1)
        st.markdown("Effect of taking out each head: click to choose it, shift+click to take it out for good.")
        head_grid(
            overview(*_asked(chosen)), chosen.layer, chosen.head, taken_out=chosen.taken_out,
            overlay=Overlay(effects, signed=True, unit=sweep.unit), on_pick=set_head, on_switch=switch_head,
        )  # fmt: skip
    if question.task is not None or question.units != "heads" or not whole:  # the grid shows no noise
        figure(ablation_map(sweep, theme=theme()), key="ablation-map")
    st.caption("Click a bar to take that part out of every page, and again to put it back.")
    figure(
        ablation_bars(sweep, theme=theme()), key="ablation-bars",
        on_pick=lambda name: switch_parts(_parts(chosen, next(unit for unit in sweep.units if unit.name == name))),
    )  # fmt: skip
    figure(total_against_direct(sweep, theme=theme()), key="total-direct")
    names = [unit.name for unit in sweep.units]
    unit = f"{chosen.layer}.{chosen.head}" if question.units == "heads" else f"{question.units[:-1]} {chosen.layer}"
    if question.task is not None and unit in names:
        figure(prompt_effects(sweep, unit, theme=theme()), key="prompt-effects")
    _together(chosen, question)
    keep(
        sweep, _code(chosen, question), name="ablation", heading="What does the model need?",
        caption=f"Effect: the metric with the part taken out minus the metric as it is, in {sweep.unit}; in its place "
        f"stands {sweep.replaced_by}, everywhere but at the first token. Direct: through its own path to the logits "
        f"alone. n = {sweep.effects.shape[1]} prompt(s), seed {sweep.seed}. A head whose work others take over shows "
        "little: take several out together.",
        draw=[
            lambda theme: ablation_map(sweep, theme=theme), lambda theme: ablation_bars(sweep, theme=theme),
            lambda theme: total_against_direct(sweep, theme=theme),
        ],
    )  # fmt: skip


def _parts(chosen: Selection, unit: Unit) -> list[tuple[int, int | None]]:
    """The heads and MLPs of a unit."""
    heads = range(chosen.model.config.n_heads)
    return [
        (part.layer, head)
        for part in unit.parts
        for head in ({"z": [part.index], "mlp_out": [None]}.get(part.site) or heads)
    ]


def _together(chosen: Selection, question: Question) -> None:
    """Redundant parts do nothing one by one, and much together."""
    if len(chosen.taken_out) < 2:
        return
    found = joint_effect(question, chosen.taken_out)
    *alone, joint = found.effects.mean(1).tolist()
    named = [(unit.name, effect) for unit, effect in zip(found.units[:-1], alone, strict=True)]
    rows = [*named, ("sum of these", sum(alone)), ("all together", joint)]
    st.markdown("**What is taken out, one by one and together**")
    st.dataframe(
        pandas.DataFrame(rows, columns=["part", f"effect ({found.unit})"]), hide_index=True,
        column_config={f"effect ({found.unit})": st.column_config.NumberColumn(format="%+.3f")},
    )  # fmt: skip


def _code(chosen: Selection, question: Question) -> str:
    if question.task is None:
        asked = [
            f"metric = probe.logit_difference({token_name(chosen.model, question.target)!r}, "
            f"{token_name(chosen.model, question.against)!r})",
            f"sweep = probe.ablation_sweep(model, prompt, metric=metric, units={question.units!r}, "
            f"value={question.value!r}, document_start=document_start)",
        ]
    else:
        asked = [
            f"task = probe.load_task(model, {question.task!r}, {question.n}, document_start=document_start)",
            f"sweep = probe.ablation_sweep(model, task, units={question.units!r}, value={question.value!r})",
        ]
    return chosen.code(*asked, "print(sweep.to_dataframe().to_string())")
