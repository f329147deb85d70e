"""Generation: the whole distribution behind every token that the model writes, or that it reads."""

import re

import pandas
import streamlit as st
from components.controls import Selection, set_place
from components.show import figure, keep, shown, theme
from components.token_strip import token_strip
from state.generation import Branches, Writing, chat_ids, generated, messages, scored

from probe.errors import BadPrompt
from probe.figures.generation import choice_bar, step_bars, surprise_bars
from probe.generation import Generation, Step
from probe.prompts import str_tokens
from probe.tokens import show_token

CONTINUE, CHAT, READ = "continue the text", "chat", "only read the text"
PRESETS = {
    "as it comes": (1.0, None, None),
    "always the likeliest (temperature 0)": (0.0, None, None),
    "careful (temperature 0.7, top-p 0.9)": (0.7, None, 0.9),
    "wild: the 20 likeliest, temperature 5": (5.0, 20, None),
    "my own": None,
}
ALTERNATIVES = 12
"""Tokens that can be put in with a click."""
SURE = 0.999
"""Shares end a little below 1, so that no token has the colour of what nobody expected."""


def page(chosen: Selection) -> None:
    """Settings, the text, one step of it in detail, and what surprised."""
    st.header("Which word comes next? (generation)")
    mode = st.segmented_control(
        "What the model does", [CONTINUE, CHAT, READ], default=CONTINUE, key="mode", bind="query-params",
        help="All three are the same game: predict the next token. Chat puts marks around what you say; reading "
        "compares each prediction with the token that follows.",
    )  # fmt: skip
    if mode == READ:
        return _read(chosen)
    ids, begin = _conversation(chosen) if mode == CHAT else (chosen.ids, None)
    _write(chosen, ids, begin)
    return None


def _write(chosen: Selection, ids: tuple[int, ...], begin: str | None) -> None:
    """`begin`: how code begins a conversation; None: it continues the prompt."""
    writing, branches = _settings(sampled=begin is None), _branches()
    made = generated(chosen.model_name, ids, chosen.taken_out, writing, branches)
    steps = made.steps
    if not steps:
        st.info("The context is full: there is no room for a new token.")
        return
    text = st.container()
    number = _choose_step(steps)
    with text:
        _text(made, number)
    step = steps[number]
    _put_in(step, number, branches)
    st.caption(
        f"The model’s own probability {step.model_probability:.2%}, rank {step.rank:,}; surprise {step.surprise:.2f} "
        f"nats, where {step.entropy:.2f} was to be expected (entropy). The slider shows other temperatures."
    )
    sampling = {"temperature": writing.temperature, "top_k": writing.top_k, "top_p": writing.top_p}
    figure(step_bars(step, **sampling, theme=theme()), key="step-bars")
    figure(choice_bar(step, **sampling, theme=theme()), key="choice")
    figure(surprise_bars(made, theme=theme()), key="surprise")
    keep(
        made, _code(chosen, writing, branches, begin, len(ids)), name="generation", heading="Which word comes next?",
        caption="Probabilities are those of this model; at each step 64 tokens are kept one by one and the others in a "
        "histogram, so that they stay right at other temperatures. The random number depends on seed and step alone.",
        draw=[
            lambda theme: step_bars(step, **sampling, theme=theme),
            lambda theme: surprise_bars(made, theme=theme),
        ],
    )  # fmt: skip


def _conversation(chosen: Selection) -> tuple[tuple[int, ...], str]:
    """Token ids of a conversation, and the code that begins it."""
    system = st.text_input(
        "Who the model should be (system prompt)", key="system", bind="query-params",
        placeholder="You are a helpful assistant.",
    )  # fmt: skip
    user = st.text_area("You say", "What is the capital of France?", key="user", bind="query-params", height=80)
    ids = chat_ids(chosen.model_name, system, user)
    with st.expander(f"What the model reads: {len(ids)} tokens, in its own template"):
        st.code("".join(str_tokens(chosen.model.tokenizer, ids)), language=None)
    return ids, f"made = probe.chat(model, {messages(system, user)!r}, "


def _settings(*, sampled: bool) -> Writing:
    """`sampled`: whether tokens are drawn unless somebody says otherwise. Small models answer best if they are not."""
    columns = st.columns([3, 2, 2])
    chosen = columns[0].selectbox(
        "How to choose", list(PRESETS), index=0 if sampled else 1, key="preset" if sampled else "chat_preset",
        bind="query-params",
    )  # fmt: skip
    preset = PRESETS[chosen]
    n = int(columns[1].number_input("New tokens", 1, 100, 16, key="n_new", bind="query-params"))
    seed = int(columns[2].number_input("Seed", 0, 2**31 - 1, 0, key="seed", bind="query-params"))
    return Writing(n, *(_own() if preset is None else preset), seed)


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


def _branches() -> Branches:
    """Words put in, as the URL has them: '3:1234 0:17'."""
    given = st.session_state.get("branch", st.query_params.get("branch", ""))
    if not given:
        st.session_state["branch"] = ""  # so that the URL notices when a word is put in
    else:
        columns = st.columns([4, 1], vertical_alignment="bottom")
        given = columns[0].text_input(
            "Words put in (step:token id)", key="branch", bind="query-params",
            help="Each counts its steps from the one before it. Empty: the model’s own text.",
        )  # fmt: skip
        columns[1].button("Take back the last", key="take_back", on_click=_take_back)
    parts = given.split()
    if not all(re.fullmatch(r"\d{1,6}:\d{1,9}", part) for part in parts):
        raise BadPrompt(f"words put in: {given[:80]!r}; expected step:token id, such as '3:1234'")
    return tuple((int(step), int(token)) for step, token in (part.split(":") for part in parts))


def _take_back() -> None:
    st.session_state["branch"] = " ".join(str(st.session_state["branch"]).split()[:-1])


def _text(made: Generation, number: int) -> None:
    """Prompt and continuation; a click on a new token looks behind it."""
    n_prompt = len(made.prompt)
    said = [f"{show_token(text)}: given" for text in made.str_tokens[:n_prompt]]
    said += [
        f"{show_token(step.text)}: probability {step.model_probability:.1%}, rank {step.rank:,}" for step in made.steps
    ]
    shares = [0.0] * n_prompt + [SURE * (1 - step.model_probability) for step in made.steps]

    def pick(place: int, _: bool) -> None:
        if place >= n_prompt:
            st.session_state["step"] = place - n_prompt

    token_strip(
        made.str_tokens, shares, said, label="The text: click a new token to look behind it",
        chosen=n_prompt + number, on_pick=pick, key="written",
    )  # fmt: skip
    st.caption(
        "Without colour: given. The stronger the colour of a new token, the less the model expected it. Click one to "
        "look behind it."
    )


def _choose_step(steps: tuple[Step, ...]) -> int:
    if (st.session_state.get("step") or 0) >= len(steps):  # of a longer text
        st.session_state["step"] = len(steps) - 1
    return int(
        st.number_input(
            "Look behind new token", 0, len(steps) - 1, value=None, step=1, key="step", bind="query-params",
            placeholder="0",
        )
        or 0
    )  # fmt: skip


def _put_in(step: Step, number: int, branches: Branches) -> None:
    """The alternatives as buttons: another text goes on from there."""
    tokens = step.distribution.tokens[:ALTERNATIVES].tolist()
    chances = step.distribution.probabilities()[:ALTERNATIVES].tolist()
    names = {
        token: f"{shown(show_token(text))} {chance:.1%}"
        for token, text, chance in zip(tokens, step.distribution.texts, chances, strict=False)
        if token != step.token
    }

    def put() -> None:
        token = st.session_state.get("put_in")
        if token is not None:
            added = [*(f"{one}:{other}" for one, other in branches), f"{number}:{token}"]
            st.session_state["branch"], st.session_state["step"] = " ".join(added), 0
            st.session_state["put_in"] = None

    st.pills(
        f"Put another word in the place of ‘{shown(show_token(step.text))}’, and let the model go on",
        list(names), format_func=lambda token: names.get(token, str(token)), key="put_in", on_change=put,
    )  # fmt: skip


def _read(chosen: Selection) -> None:
    """Every position predicts: what was expected, and how surprising what followed was."""
    found = scored(chosen.model_name, chosen.ids, chosen.taken_out)
    surprise, rank = found.surprise[0].tolist(), found.rank[0].tolist()
    texts = found.str_tokens[0]
    most = max([one for one in surprise if one == one] or [1.0])
    said = [f"{show_token(texts[0])}: the first; nothing predicts it"] + [
        f"{show_token(text)}: surprise {surprise[place]:.2f} nats, rank {rank[place]:,}"
        for place, text in enumerate(texts[1:])
    ]
    shares = [0.0] + [SURE * one / most for one in surprise[: len(texts) - 1]]
    token_strip(
        texts, shares, said, label="The text: click a token to see what was expected", chosen=chosen.query,
        on_pick=set_place, key="read",
    )  # fmt: skip
    st.caption("The stronger its colour, the more a token surprised. Click one to see what was expected after it.")
    st.markdown(
        f"Mean surprise **{float(found.mean_surprise[0]):.3f} nats** a token: as if it chose among "
        f"{float(found.perplexity[0]):,.1f} equally likely tokens (perplexity)."
    )
    place = chosen.query
    st.markdown(f"After ‘{shown(show_token(texts[place]))}’ \\[{place}\\] the model expected:")
    expected = pandas.DataFrame(
        {
            "token": [show_token(found.texts[token]) for token in found.top_tokens[0, place].tolist()],
            "probability": found.top_probabilities[0, place].tolist(),
        }
    )  # fmt: skip
    st.dataframe(
        expected, hide_index=True,
        column_config={"probability": st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)},
    )  # fmt: skip
    figure(surprise_bars(found, theme=theme()), key="surprise-read")
    keep(
        found,
        chosen.code(
            f"scores = probe.score_text(model, prompt, document_start=document_start{chosen.without})",
            "print(scores.to_dataframe().to_string())",
        ),
        name="scores", heading="How surprising is this text?",
        caption="Surprise is the negative logarithm of the probability that the model gave to the token that follows.",
        draw=[lambda theme: surprise_bars(found, theme=theme)],
    )  # fmt: skip


def _code(chosen: Selection, writing: Writing, branches: Branches, begin: str | None, n_prompt: int) -> str:
    n_run = min(n_prompt + writing.n, chosen.model.config.n_ctx) - 1
    start = begin or "made = probe.generate(model, prompt, document_start=document_start, "
    return chosen.code(
        f"{start}max_tokens={writing.n}, temperature={writing.temperature}, top_k={writing.top_k}, "
        f"top_p={writing.top_p}, seed={writing.seed}{chosen.without}).run()",
        *(f"made = made.branch({step}, {token}).run()" for step, token in branches),
        "for step in made.steps:",
        "    print(repr(step.text), step.model_probability, step.rank)",
        n_tokens=n_run,
    )
