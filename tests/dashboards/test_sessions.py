"""Many people with one server: one model serves all sessions, and each has its own right numbers."""

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import MagicMock

import pytest
from state.heads import heads_recording

import probe
from probe.cli._dashboard import MODELS

pytestmark = pytest.mark.model
TEXTS = [f"one two three {number} four" for number in range(5)]
"""Four sessions share each, with another head taken out."""


@pytest.fixture
def one_server(monkeypatch):
    """Lets Streamlit's test driver run several sessions at once, each in its own thread.

    The driver sets up a pretended server for each run and takes it away afterwards; here one stands for all of them.
    """
    from streamlit.components.v2.component_manager import BidiComponentManager
    from streamlit.runtime import Runtime
    from streamlit.runtime.caching.storage.dummy_cache_storage import MemoryCacheStorageManager
    from streamlit.runtime.dataframe_source_manager import DataframeSourceManager
    from streamlit.runtime.media_file_manager import MediaFileManager
    from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage
    from streamlit.testing.v1 import app_test
    from streamlit.testing.v1.util import patch_config_options

    class OfOneRun(Runtime):
        """What the driver puts in place and takes away."""

    server = MagicMock(spec=Runtime)
    server.media_file_mgr = MediaFileManager(MemoryMediaFileStorage("/mock/media"))
    server.dataframe_source_mgr = DataframeSourceManager()
    server.cache_storage_manager = MemoryCacheStorageManager()
    server.bidi_component_registry = BidiComponentManager()
    server.bidi_component_registry.discover_and_register_components(start_file_watching=False)
    monkeypatch.setattr(app_test, "Runtime", OfOneRun)
    monkeypatch.setattr(app_test, "patch_config_options", lambda _: contextlib.nullcontext())
    with patch_config_options({"global.appTest": True}):
        monkeypatch.setattr(Runtime, "_instance", server)
        yield


def test_twenty_sessions_at_once_each_have_their_own_right_numbers(one_server, open_page, tiny_folder):
    together = threading.Barrier(20, timeout=240)  # one that fails stops the others

    def session(number: int):
        """One visitor: a text, a head taken out, another one looked at, from another token."""
        together.wait()
        app = open_page("heads", prompt=TEXTS[number % 5], taken_out=f"L0H{number // 5}")
        app.number_input(key="layer").set_value(1 + number % 2)
        app.number_input(key="head").set_value(number % 3)
        together.wait()
        app.run()
        app.number_input(key="query").set_value(3)
        together.wait()
        return app.run()

    with ThreadPoolExecutor(20) as people:
        sessions = list(people.map(session, range(20)))
    model = probe.load_model(tiny_folder)
    for number, app in enumerate(sessions):
        assert not app.exception and not app.error
        text, layer, head = TEXTS[number % 5], 1 + number % 2, number % 3
        n_tokens = len(model.tokenizer.encode(text)) + 1
        out = probe.zero("z", layer=0, heads=[number // 5], positions=range(1, n_tokens))
        recording = probe.record(model, text, sites=["pattern"], document_start=True, interventions=out)
        table = app.dataframe[-1].value
        row = table[table.query_pos == 3].weight.tolist()
        assert row == pytest.approx(recording["pattern", layer][0, head, 3, :4].tolist(), abs=1e-6)
        assert app.subheader[0].value == f"Layer {layer}, head {head}" and f"L0H{number // 5}:" in app.info[0].value


def test_what_nobody_looks_at_any_more_is_forgotten(tiny_folder, monkeypatch):
    monkeypatch.setenv(MODELS, str(tiny_folder))
    seen = [weakref.ref(heads_recording(str(tiny_folder), (1, 2, number), None, ((0, 1),))) for number in range(3, 15)]
    gc.collect()
    alive = [number for number, one in enumerate(seen) if one() is not None]
    assert alive and len(alive) <= 4 and alive[-1] == len(seen) - 1
