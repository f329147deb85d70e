"""Many people with one server: one model serves all sessions, and each has its own right numbers."""

import gc
import weakref

import pytest
import state

import probe
from probe.cli._dashboard import MODELS

pytestmark = pytest.mark.model


def test_twenty_sessions_in_turns_each_keep_their_own_head(open_page, tiny_folder):
    """In turns, since Streamlit's test driver stands in for one server at a time."""
    model = probe.load_model(tiny_folder)
    sessions = [open_page("heads", prompt=f"one two three {number} four") for number in range(20)]
    for number, app in enumerate(sessions):
        app.number_input(key="layer").set_value(number % 3)
        app.number_input(key="head").set_value(number % 4).run()
    for number, app in enumerate(sessions):
        layer, head = number % 3, number % 4
        app.run()
        assert not app.exception
        recording = probe.record(
            model, f"one two three {number} four", sites=["pattern"],
            document_start=model.tokenizer.document_start_id is not None,
        )  # fmt: skip
        row = probe.read_pattern(recording, layer, head).pattern[-1]
        said = next(one.value for one in app.markdown if one.value.startswith(f"**L{layer}H{head}**"))
        assert f"looks {float(row.max()):.1%} at" in said


def test_what_nobody_looks_at_any_more_is_forgotten(tiny_folder, monkeypatch):
    monkeypatch.setenv(MODELS, str(tiny_folder))
    seen = [
        weakref.ref(state.heads_recording(str(tiny_folder), (1, 2, number), None, ((0, 1),))) for number in range(3, 15)
    ]
    gc.collect()
    alive = [number for number, one in enumerate(seen) if one() is not None]
    assert alive and len(alive) <= 4 and alive[-1] == len(seen) - 1
