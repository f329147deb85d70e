"""A session as a file: it brings back what a link would, and nothing that is not one gets in."""

import json

import pytest
from components.session_file import FORMAT, unpack

from probe.errors import BrokenFile

PAGES = ["heads", "lens"]


def test_a_file_brings_back_page_and_parameters():
    parameters = {"prompt": ["a 👩‍👩‍👧 <b>" * 1000], "taken_out": ["L0H1", "L2H3"], "layer": ["2"]}
    file = json.dumps({"format": FORMAT, "page": "lens", "parameters": parameters})
    assert unpack(file.encode(), PAGES) == ("lens", parameters)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no session"),
        (json.dumps({"format": "other"}).encode(), "no session"),
        (json.dumps({"format": FORMAT, "page": "../etc", "parameters": {}}).encode(), "expected one of heads, lens"),
        (json.dumps({"format": FORMAT, "page": "lens", "parameters": [1]}).encode(), "lists of texts"),
        (json.dumps({"format": FORMAT, "page": "lens", "parameters": {"layer": {"a": 1}}}).encode(), "lists of texts"),
        (b" " * 1_000_001, "at most"),
    ],
)
def test_what_is_no_session_is_said(data, said):
    with pytest.raises(BrokenFile, match=said):
        unpack(data, PAGES)
