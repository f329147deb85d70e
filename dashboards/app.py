"""The app: one selection in the sidebar, and the pages that show it."""

import streamlit as st
from components.controls import choose
from views import PAGES

st.set_page_config(page_title="probe", layout="wide")
pages = [
    st.Page(lambda show=show: show(choose()), title=title, url_path=name, default=place == 0)
    for place, (name, (title, show)) in enumerate(PAGES.items())
]
st.navigation(pages, position="top").run()
