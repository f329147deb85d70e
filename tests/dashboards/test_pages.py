"""Every page opens, every widget moves, and no prompt breaks a page; without a browser, on a tiny model from disk."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from state import lens
from views import PAGES

import probe
import probe.methods.tuned_lens as tuned_lens
from probe.cli._dashboard import MODELS
from probe.figures.lens import lens_lines
from tests.hooked_reference import CONFIGS, state_dict

pytestmark = pytest.mark.model  # the tokenizer is the default model's

APP = Path(__file__).parents[2] / "dashboards" / "app.py"
HURTING = {
    "empty": "",
    "one token": "a",
    "emoji and partial UTF-8": "a 👩‍👩‍👧 b \u0301 \ud83d".encode("utf-8", "replace").decode() + "\x00\x7f",
    "HTML": "<script>alert(1)</script> <b>bold</b> &amp;",
    "Markdown": "# title\n**bold** [link](http://example.com) `code` | a | b |",
    "LaTeX": r"$\frac{a}{b}$ and $$x^2$$ cost $5",
    "newlines": "a\n\n\tb\r\n c",
    "right to left": "שלום עולם مرحبا بالعالم",
    "2,000 tokens": "word " * 2000,
}


def right(app) -> None:
    assert not app.exception, [one.message for one in app.exception]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_with_a_prompt_analysed_and_every_widget_moves(page, open_page):
    app = open_page(page)
    right(app)
    assert not app.error and app.header
    for kind in ("selectbox", "toggle", "number_input", "slider", "checkbox", "text_input"):
        for number, key in enumerate([one.key for one in getattr(app, kind)]):
            if key in ("model", None):
                continue
            widget = getattr(app, kind)(key=key)
            if widget.disabled:
                continue
            if kind == "selectbox":
                widget.select_index(len(widget.options) - 1)
            elif kind in ("toggle", "checkbox"):
                widget.set_value(not widget.value)
            elif kind == "text_input":
                widget.set_value(f"{widget.value} {'abcdefgh'[number]}")
            else:
                widget.set_value(widget.max if widget.max is not None else widget.value)
            app.run()
            right(app)
            assert not app.error, (key, [one.value for one in app.error])


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("case", HURTING)
def test_no_prompt_breaks_a_page(page, case, open_page):
    app = open_page(page)
    app.text_area(key="prompt").set_value(HURTING[case]).run()
    right(app)
    assert case == "empty" or not app.error, [one.value for one in app.error]  # there, some pages need one token more
    if case == "empty":
        app.toggle(key="start").set_value(False).run()
        right(app)
        assert "empty" in app.error[0].value
        app.text_area(key="prompt").set_value("a b c").run()
        assert not app.error and app.header  # the page is usable again


@pytest.mark.parametrize("page", PAGES)
def test_a_model_of_attention_alone_without_norms_has_every_page(page, open_page, default_model, tmp_path, monkeypatch):
    """As an old checkpoint brings it, with its tokenizer beside it."""
    cfg = {**CONFIGS["attention without norms"], "d_vocab": default_model.config.d_vocab, "n_ctx": 64}
    torch.save(state_dict(cfg), tmp_path / "model.pth")
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    default_model.tokenizer.save(tmp_path)
    monkeypatch.setenv(MODELS, str(tmp_path))
    app = open_page(page, taken_out="L1H1")
    right(app)
    assert not app.error and app.header, [one.value for one in app.error]


def test_a_link_opens_what_it_names_and_what_is_not_there_falls_back(open_page):
    app = open_page("heads", layer="2", head="3", prompt="one two three")
    right(app)
    assert app.subheader[0].value == "Layer 2, head 3"
    assert app.text_area(key="prompt").value == "one two three"
    places = open_page("heads", prompt="one two three", query="2", key="1")
    assert any(one.value == "‘one’" for one in places.sidebar.caption), [one.value for one in places.sidebar.caption]
    assert "looks" in places.markdown[0].value and "\\[2\\] looks" in places.markdown[0].value
    broken = open_page("heads", layer="77", head="x")
    right(broken)
    assert broken.subheader[0].value == "Layer 0, head 0"


def test_more_of_a_head_is_the_librarys(open_page, tiny_folder):
    model = probe.load_model(tiny_folder)
    where = {"layer": "1", "head": "2", "query": "3", "key": "1", "prompt": "one two three four"}
    for more in ("what it writes here", "what it would write for the key", "as lines", "heads alike"):
        right(app := open_page("heads", more=more, **where))
        assert not app.error
    table = open_page("heads", more="query · key, number by number", **where).dataframe[1].value
    turned = probe.record(model, "one two three four", document_start=True)
    alike = open_page("heads", more="heads alike", **where).dataframe[1].value
    assert [tuple(row) for row in alike.itertuples(index=False)] == probe.similar_heads(turned, 1, 2).top(20)
    pair = probe.read_pair(turned, 1, 2, 3, 1)
    assert sorted(table.term) == pytest.approx(sorted(pair.terms.tolist()), abs=1e-6)
    assert sum(table.term) == pytest.approx(pair.score, abs=1e-5)


def test_a_row_in_every_head_is_the_librarys(open_page, tiny_folder, monkeypatch):
    import views.heads

    drawn = []
    as_it_is = views.heads.row_in_every_head
    monkeypatch.setattr(
        views.heads,
        "row_in_every_head",
        lambda rows, *more, **how: (drawn.append(rows), as_it_is(rows, *more, **how))[1],
    )
    page = open_page("heads", more="this row in every head", query="3", prompt="one two three four")
    right(page)
    assert not page.error and "in every head" in page.get("plotly_chart")[-1].proto.spec
    pattern = probe.record(probe.load_model(tiny_folder), "one two three four", document_start=True).stack("pattern")
    np.testing.assert_allclose(drawn[0], pattern[:, 0, :, 3], atol=1e-6)


def test_only_the_first_figure_of_a_session_waits_for_what_stands_above_it(open_page, monkeypatch):
    from components import show

    waited: list[float] = []
    monkeypatch.setattr(show, "time", SimpleNamespace(sleep=waited.append))
    app = open_page("heads")
    right(app)
    assert waited == [show.AHEAD]
    right(app.run())
    assert waited == [show.AHEAD]


def test_a_visitor_cannot_name_a_path(open_page, tmp_path):
    app = open_page("heads", model=str(tmp_path))
    right(app)
    assert app.selectbox(key="model").value != str(tmp_path)


def test_a_model_that_cannot_be_loaded_is_said_and_another_can_be_chosen(open_page, tiny_folder, monkeypatch, tmp_path):
    (tmp_path / "broken").mkdir()
    monkeypatch.setenv(MODELS, f"{tmp_path / 'broken'}\n{tiny_folder}")
    app = open_page("heads")
    right(app)
    assert app.error and not app.header
    app.selectbox(key="model").set_value(str(tiny_folder)).run()
    right(app)
    assert not app.error and app.header


def test_copied_code_gives_the_numbers_of_the_page(open_page):
    app = open_page("heads", layer="1", head="2")
    code = app.code[0].value
    printed: list = []
    exec(compile(code, "copied", "exec"), {"print": printed.append})
    table = app.dataframe[-1].value
    shown = table[table.query_pos == len(printed[0]) - 1].weight.tolist()
    assert shown == pytest.approx(printed[0].tolist(), abs=1e-6)


@pytest.mark.parametrize("page", PAGES)
def test_the_copied_code_of_every_page_runs_and_prints(page, open_page):
    app = open_page(page)
    printed: list = []
    exec(compile(app.code[0].value, "copied", "exec"), {"print": lambda *values: printed.append(values)})
    assert printed
    if page == "generation":
        table = app.dataframe[-1].value
        assert [text for text, *_ in printed] == [repr(text) for text in table.token]
    if page == "tokens":
        assert any(f"In all **{printed[-1][0]:,}**" in one.value for one in app.markdown)


def test_the_weights_of_gpt_3_are_counted(open_page):
    app = open_page("tokens")
    assert any("**175,181,291,520** in 27,938 matrices" in one.value for one in app.markdown)


def test_the_grids_payload_holds_every_head(tiny_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(APP.parent))
    import json

    import numpy as np

    grid, heads = importlib.import_module("components.head_grid"), importlib.import_module("state.heads")
    model = probe.load_model(tiny_folder)
    ids = (5, 9, 5, 7)
    packed = grid.packed(heads.overview.__wrapped__(str(tiny_folder), ids))
    length = int.from_bytes(packed[:4], "little")
    header = json.loads(packed[4 : 4 + length])
    pictures = np.frombuffer(packed[4 + length :], np.uint8).reshape(3, 4, 4, 4)
    assert (header["layers"], header["heads"], header["size"]) == (3, 4, 4)
    pattern = probe.record(model, [list(ids)], sites=["pattern"]).stack("pattern")[:, 0]
    assert np.abs((pictures / 255.0) ** 2 - pattern.numpy()).max() < 0.005
    expected = probe.head_scores(model, [list(ids)], n_random=0).of("previous token")
    assert header["scores"]["previous token"] == pytest.approx(expected.nan_to_num().flatten().tolist(), abs=1e-4)


def test_a_tuned_lens_is_used_where_there_is_one_and_never_fitted_by_a_page(open_page, monkeypatch, tmp_path):
    monkeypatch.setattr(tuned_lens, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(tuned_lens, "fit_tuned_lens", None)
    lens.tuned_lens.clear()
    app = open_page("lens", prompt="one two three")
    assert not app.exception and app.toggle(key="tuned").disabled
    assert "load_tuned_lens" in app.toggle(key="tuned").help
    lens.tuned_lens.clear()


def test_tokens_that_are_followed_through_the_layers_are_the_librarys(open_page, tiny_folder):
    app = open_page("lens", prompt="one two three", watch="two, four")
    right(app)
    model = probe.load_model(tiny_folder)
    stream = probe.record(model, "one two three", sites=["resid_pre", "resid_mid", "resid_post"], document_start=True)
    expected = probe.logit_lens(model, stream, watch=[" two", " four"]).to_dataframe()
    shown = app.dataframe[-1].value
    for column in ("place", "token_id", "rank"):
        assert shown[shown.kind == "watched"][column].tolist() == expected[expected.kind == "watched"][column].tolist()
    assert "watch=" in app.code[0].value
    app.text_input(key="watch").set_value("not one token").run()
    assert not app.exception and "not one token" in app.error[0].value.replace("\\", "")
    app.text_input(key="watch").set_value("a, b, c, d, e, f, g").run()
    assert "6 lines" in app.error[0].value


def test_the_lens_of_a_long_text_is_read_after_the_token_that_was_chosen(open_page, tiny_folder):
    text = " ".join("one two three four five six seven eight nine ten".split() * 6)
    app = open_page("lens", prompt=text, query="23")
    right(app)
    assert not app.error
    model = probe.load_model(tiny_folder)
    kept = lens.lens_positions(len(model.tokenizer.encode(text)) + 1)
    assert len(kept) == 48 and kept[0] < 23
    stream = probe.record(
        model, text, sites=["resid_pre", "resid_mid", "resid_post"], positions=kept, document_start=True
    )
    expected = lens_lines(probe.logit_lens(model, stream), position=kept.index(23))
    drawn = json.loads(app.get("plotly_chart")[-1].proto.spec)["data"]
    right_ones = json.loads(expected.to_json())["data"]
    assert [(one["name"], one["y"]) for one in drawn] == [(one["name"], one["y"]) for one in right_ones]
    assert "[23]" in next(one.value for one in app.markdown if "click another" in one.value).replace("\\", "")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_what_the_parts_that_are_taken_out_mean_for_its_numbers(page, open_page):
    """Pages that do not run without them, or not everywhere, must not claim it."""
    said = open_page(page, taken_out="L1H1").info[0].value
    of_all = page in ("heads", "generation", "lens")
    assert said.startswith("Without L1H1: ") and ("every number on this page" in said) == of_all
    assert of_all or "whole model" in said
