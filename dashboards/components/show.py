"""How every page shows a result: figures in the reader's light or dark, the table, downloads, and the code for it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas
import plotly.graph_objects as go
import streamlit as st

from probe.figures._theme import ThemeName
from probe.figures.page import PageSection, html_page
from probe.results import Result


def theme() -> ThemeName:
    """That of the reader's browser."""
    return "dark" if st.context.theme.type == "dark" else "light"


AHEAD = 0.4
"""Seconds that what stands above the first figure of a session gets ahead of it.

Reading plotly keeps a browser busy for half a second. Sent together with the grid of 144 heads, the grid is drawn after
1.57 s and the figure after 2.46 s; 0.4 s apart, after 1.16 s and 2.47 s (medians of 8, two cores).
"""


def show_so_far() -> None:
    """Let the browser draw what was sent, where it has no figure yet: the first one would keep it from that."""
    if "figures" not in st.session_state:
        time.sleep(AHEAD)


def figure(
    drawn: go.Figure, *, key: str, least_width: int = 0, on_pick: Callable[[str], None] | None = None
) -> None:  # fmt: skip
    """A figure with a button to save it; drawn by the browser, from plotly's own file on this server.

    `least_width` (pixels): in a narrower window it scrolls. `on_pick` is called, before the page runs again, with what
    a bar or point that was clicked has as its customdata.
    """
    if least_width:
        st.html(f"<style>.st-key-{key} {{overflow-x: auto}} .st-key-{key} > div {{min-width: {least_width}px}}</style>")
    st.session_state["figures"] = True
    image = {"format": st.session_state.get("image", FORMATS[0]).lower(), "filename": key, "scale": 2}
    config = {"toImageButtonOptions": image, "displaylogo": False}
    if on_pick is None:
        st.plotly_chart(drawn, theme=None, key=key, config=config)
        return
    number = st.session_state.setdefault(f"{key}-picks", 0)
    drawn_as = f"{key}-{number}"  # another one after each click, so that nothing stays selected and greys out the rest

    def picked() -> None:
        points = st.session_state[drawn_as].selection.points
        if points and st.session_state[f"{key}-picks"] == number:  # a run that the next click cut short calls it again
            st.session_state[f"{key}-picks"] = number + 1
            on_pick(points[0]["customdata"])

    st.plotly_chart(drawn, theme=None, key=drawn_as, config=config, on_select=picked, selection_mode="points")


FORMATS = ("PNG", "SVG")


@dataclass(frozen=True, eq=False)
class Tabled(Result):
    """What a page put into a table itself."""

    table: pandas.DataFrame
    manifest: Mapping[str, Any]

    def to_dataframe(self) -> pandas.DataFrame:
        """The table as the page made it."""
        return self.table


def keep(
    result: Result, code: str, *, name: str, heading: str, caption: str,
    draw: Sequence[Callable[[ThemeName], go.Figure]] = (),
) -> None:  # fmt: skip
    """What the numbers are and are not, the code that gives them, the table behind the figure, downloads."""
    st.caption(caption)
    with st.expander("Copy as Python"):
        st.code(code, language="python")
    with st.expander("The numbers, and downloads"):
        table = result.to_dataframe()
        st.dataframe(table, height=260)
        columns = st.columns(3)
        # Ignored: a page that ran again would throw away a file that is still on its way to the browser.
        columns[0].download_button(
            "Table (CSV)", table.to_csv(index=False), f"{name}.csv", key=f"{name}-csv", on_click="ignore"
        )
        columns[1].download_button(
            "Manifest (JSON)", result.files()["manifest.json"], f"{name}.json", key=f"{name}-json", on_click="ignore",
            help="Model, versions, prompt and arguments: what is needed to repeat it.",
        )  # fmt: skip
        if draw:
            section = PageSection(heading, "dashboard", [caption], figures=list(draw), code=code.splitlines())
            columns[2].download_button(
                "Figures (HTML)", lambda: html_page(heading, [], [section]), f"{name}.html", key=f"{name}-html",
                on_click="ignore",
            )  # fmt: skip
            st.radio(
                "The camera above a figure saves it as", FORMATS, key="image", horizontal=True,
                help="PNG: a picture, twice as large as on the screen. SVG: lines and letters, for print.",
            )  # fmt: skip


def isolated(text: str) -> str:
    """Text that leaves the order of the words around it alone, even if it is written from right to left."""
    return f"\u2068{text}\u2069"


def shown(value: Any) -> str:
    """Text that Streamlit takes for nothing but text."""
    return "".join(f"\\{letter}" if letter in _MARKUP else letter for letter in str(value))


_MARKUP = set("\\`*_{}[]()#+-.!|<>$:~^&\"'")
