"""The app: one selection in the sidebar, and the pages that show it."""

import streamlit as st
from components.controls import choose, say_taken_out
from components.session_file import session_file
from components.show import shown
from components.tour import tour
from views import PAGES

from probe.errors import ProbeError

st.set_page_config(page_title="probe", layout="wide")


def run(name: str) -> None:
    """What a page cannot do with what was chosen is said in its place; the widgets stay."""
    try:
        chosen = choose()
        say_taken_out(chosen, name)
        session_file(list(PAGES), name)
        tour(name, chosen.model_name)
        PAGES[name][1](chosen)
    except ProbeError as error:
        st.error(shown(error))


pages = [
    st.Page(lambda name=name: run(name), title=title, url_path=name, default=place == 0)
    for place, (name, (title, _)) in enumerate(PAGES.items())
]
st.navigation(pages, position="top").run()
