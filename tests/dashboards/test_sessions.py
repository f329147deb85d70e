"""Many people with one server: one model serves all sessions, and each has its own right numbers."""

import pytest

import probe

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
