"""A session as a file: what the URL keeps, without its limit of length. Data only, and checked like a link."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from probe.errors import BrokenFile

FORMAT = "probe dashboard 1"
LARGEST = 1_000_000
"""Bytes."""
_SAVE = st.components.v2.component(
    "probe_save_session", html='<button type="button">Save what is chosen</button>',
    css="button { font: inherit; color: inherit; background: none; border: 1px solid var(--st-border-color, #c9d1d9); "
    "border-radius: 0.5rem; padding: 0.4rem 0.8rem; cursor: pointer; }",
    js=(Path(__file__).parent / "session_file.js").read_text("utf-8"),
)  # fmt: skip
"""In the browser: only there the URL is always what is chosen."""


def session_file(pages: Mapping[str, StreamlitPage], page: str) -> None:
    """In the sidebar: save what is chosen on this page; open what was saved."""
    with st.sidebar.expander("Session file"):
        _SAVE(key="save_session", data={"format": FORMAT, "page": page})
        given = st.file_uploader("Open one", "json", key="open_session", max_upload_size=1)
        if given is None or st.session_state.get("opened_session") == given.file_id:
            return
        st.session_state["opened_session"] = given.file_id
        to, parameters = unpack(given.getvalue(), list(pages))
        for name in parameters:
            if name in st.session_state:
                del st.session_state[name]
        st.switch_page(pages[to], query_params=parameters)


def unpack(data: bytes, pages: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    """Page and parameters of a file; what they mean is checked where a link's is.

    Raises:
        BrokenFile: not such a file.
    """
    if len(data) > LARGEST:
        raise BrokenFile(f"session file of {len(data):,} bytes; expected at most {LARGEST:,}")
    try:
        found = json.loads(data.decode())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BrokenFile(f"the session file is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BrokenFile(f'the file is no session of this dashboard: expected {{"format": "{FORMAT}", ...}}')
    page, parameters = found.get("page"), found.get("parameters")
    if page not in pages:
        raise BrokenFile(f"session file: page {page!r}; expected one of {', '.join(pages)}")
    if not isinstance(parameters, dict) or not all(map(_is_parameter, parameters.values())):
        raise BrokenFile("session file: expected parameters as lists of texts")
    return page, parameters


def _is_parameter(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
