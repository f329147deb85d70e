"""What the tests of pages share: a tiny model on disk, and an app that opens one of its pages."""

from pathlib import Path

import pytest
import torch
from components import show
from views import PAGES

import probe
from probe.cli._dashboard import MODELS
from probe.config import GPTConfig

APP = Path(__file__).parents[2] / "dashboards" / "app.py"


@pytest.fixture(scope="session")
def tiny_folder(default_model, tmp_path_factory) -> Path:
    """A model of three tiny layers with the default model's tokenizer, saved as users save theirs."""
    torch.manual_seed(0)
    config = GPTConfig(
        n_layers=3, d_model=16, n_heads=4, d_head=4, d_mlp=16, d_vocab=default_model.config.d_vocab, n_ctx=2100,
        norm="rms", positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False, attn_out_bias=False,
        mlp_bias=False,
    )  # fmt: skip
    model = probe.GPT(config, tokenizer=default_model.tokenizer, name="tiny")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    probe.save_model(model, folder)
    return folder


@pytest.fixture
def open_page(tiny_folder, monkeypatch):
    """Opens one page of the app with these parameters in the URL."""
    from streamlit.testing.v1 import AppTest
    from streamlit.util import calc_hash

    monkeypatch.setenv(MODELS, str(tiny_folder))
    monkeypatch.setattr(show, "AHEAD", 0.0)  # there is no browser to wait for

    def opened(page: str, **parameters: str):
        app = AppTest.from_file(str(APP), default_timeout=120)
        if page != next(iter(PAGES)):
            app._page_hash = calc_hash(page)
        for name, value in parameters.items():
            app.query_params[name] = value
        return app.run()

    return opened
