"""A session as a file (session_file.js): what the URL holds, for texts that are too long for a link."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

FORMAT = "probe dashboard 1"
_HERE = Path(__file__).parent
_FILE = st.components.v2.component(
    "probe_session_file",
    html='<button type="button">Save what is chosen</button><label>Open a saved one '
    '<input type="file" accept=".json,application/json"></label><p role="alert"></p>',
    css=(_HERE / "session_file.css").read_text("utf-8"), js=(_HERE / "session_file.js").read_text("utf-8"),
)  # fmt: skip


def session_file(pages: Sequence[str], page: str) -> None:
    """In the sidebar: save what is chosen on this page; open what was saved."""
    with st.sidebar.expander("Session file"):
        _FILE(key="session_file", data={"format": FORMAT, "page": page, "pages": list(pages)})
