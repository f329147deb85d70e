"""A text as its tokens, each on a colour that says how much of something it has; a click chooses (token_strip.js)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from probe.figures._theme import THEMES
from probe.tokens import show_token

MOST = 400
"""Tokens shown, the last ones."""
_HERE = Path(__file__).parent
_STRIP = st.components.v2.component(
    "probe_token_strip", html='<div class="strip" role="toolbar"></div>',
    css=(_HERE / "token_strip.css").read_text("utf-8"), js=(_HERE / "token_strip.js").read_text("utf-8"),
)  # fmt: skip


def token_strip(
    str_tokens: Sequence[str], shares: Sequence[float], said: Sequence[str], *, label: str, chosen: int,
    on_pick: Callable[[int, bool], None], key: str, second: int | None = None,
) -> None:  # fmt: skip
    """Draw it. `shares`, 0 to 1, colour the tokens; `said` is what a pointer or a screen reader learns of each.

    `on_pick` is called with a token's place, and whether shift was held, before the page runs again.
    """

    def picked() -> None:
        found = st.session_state[key].picked
        if found is not None:
            on_pick(int(found[0]), bool(found[1]))

    first = max(0, len(str_tokens) - MOST)
    if first:
        st.caption(f"The last {MOST} of {len(str_tokens):,} tokens.")
    _STRIP(
        key=key, on_picked_change=picked,
        data={
            "tokens": [show_token(text) for text in str_tokens[first:]], "first": first, "label": label,
            "values": [round(float(share), 4) for share in shares[first:]], "said": list(said[first:]),
            "chosen": chosen, "second": second,
            "light": THEMES["light"].sequential, "dark": THEMES["dark"].sequential,
        },
    )  # fmt: skip
