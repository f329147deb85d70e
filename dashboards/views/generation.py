"""Generation: the whole distribution behind every token that the model writes."""

import streamlit as st
from components.controls import Selection
from components.show import figure, keep, shown, theme
from state import generated

from probe.figures.generation import choice_bar, step_bars, surprise_bars
from probe.generation import Generation
from probe.tokens import show_token

PRESETS = {
    "as it comes": (1.0, None, None),
    "always the likeliest (temperature 0)": (0.0, None, None),
    "careful (temperature 0.7, top-p 0.9)": (0.7, None, 0.9),
    "wild: the 20 likeliest, temperature 5": (5.0, 20, None),
    "my own": None,
}


def page(chosen: Selection) -> None:
    """Settings, the text, one step of it in detail, and what surprised."""
    st.header("Which word comes next? (generation)")
    columns = st.columns([3, 2, 2])
    preset = PRESETS[columns[0].selectbox("How to choose", list(PRESETS), key="preset", bind="query-params")]
    n = int(columns[1].number_input("New tokens", 1, 100, 16, key="n_new", bind="query-params"))
    seed = int(columns[2].number_input("Seed", 0, 2**31 - 1, 0, key="seed", bind="query-params"))
    temperature, top_k, top_p = _own() if preset is None else preset
    made = generated(chosen.model_name, chosen.ids, n, temperature, top_k, top_p, seed)
    st.markdown(_text(chosen, made))
    steps = list(made.steps)
    number = st.selectbox(
        "Look behind", range(len(steps)), key="step", bind="query-params",
        format_func=lambda place: f"{place}  {show_token(steps[place].text)}" if place < len(steps) else str(place),
    )  # fmt: skip
    step = steps[int(number or 0)]
    st.caption(
        f"The model’s own probability {step.model_probability:.2%}, rank {step.rank:,}; surprise {step.surprise:.2f} "
        f"nats, where {step.entropy:.2f} was to be expected (entropy). The slider shows other temperatures."
    )
    figure(step_bars(step, temperature=temperature, theme=theme()), key="step-bars")
    figure(choice_bar(step, temperature=temperature, top_k=top_k, top_p=top_p, theme=theme()), key="choice")
    figure(surprise_bars(made, theme=theme()), key="surprise")
    keep(
        made, _code(chosen, n, temperature, top_k, top_p, seed), name="generation", heading="Which word comes next?",
        caption="Probabilities are those of this model; at each step 64 tokens are kept one by one and the others in a "
        "histogram, so that they stay right at other temperatures. The random number depends on seed and step alone.",
        draw=[
            lambda theme: step_bars(step, temperature=temperature, theme=theme),
            lambda theme: surprise_bars(made, theme=theme),
        ],
    )  # fmt: skip


def _own() -> tuple[float, int | None, float | None]:
    columns = st.columns(3)
    temperature = columns[0].slider(
        "Temperature", 0.0, 5.0, 1.0, 0.1, key="temperature", bind="query-params",
        help="Logits are divided by it before the softmax: 0 always takes the likeliest, above 1 evens them out.",
    )  # fmt: skip
    top_k = columns[1].number_input(
        "Only the likeliest (top-k; 0: all)", 0, 1000, 0, key="top_k", bind="query-params"
    )  # fmt: skip
    top_p = columns[2].slider(
        "Only as many as make up (top-p)", 0.05, 1.0, 1.0, 0.05, key="top_p", bind="query-params"
    )  # fmt: skip
    return float(temperature), int(top_k) or None, float(top_p) if top_p < 1 else None


def _text(chosen: Selection, made: Generation) -> str:
    """The prompt, then what is new in bold, as plain text."""
    return f"{shown(chosen.prompt)}:blue-background[{shown(made.text) or '∅'}]"


def _code(chosen: Selection, n: int, temperature: float, top_k: int | None, top_p: float | None, seed: int) -> str:
    return chosen.code(
        f"made = probe.generate(model, prompt, max_tokens={n}, temperature={temperature}, top_k={top_k}, "
        f"top_p={top_p}, seed={seed}, document_start=document_start).run()",
        "for step in made.steps:",
        "    print(repr(step.text), step.model_probability, step.rank)",
    )
