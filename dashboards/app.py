"""The app: one selection in the sidebar, and the pages that show it."""

from collections.abc import Callable

import streamlit as st
from components.controls import Selection, choose
from components.show import shown
from views import PAGES

from probe.errors import ProbeError

st.set_page_config(page_title="probe", layout="wide")


def run(show: Callable[[Selection], None]) -> None:
    """What a page cannot do with what was chosen is said in its place; the widgets stay."""
    try:
        show(choose())
    except ProbeError as error:
        st.error(shown(error))


pages = [
    st.Page(lambda show=show: run(show), title=title, url_path=name, default=place == 0)
    for place, (name, (title, show)) in enumerate(PAGES.items())
]
st.navigation(pages, position="top").run()
