"""The page of tokens and weights: every number is counted by the library, links and the tour set what they name."""

import html
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from components.tour import STOPS
from views import PAGES

import probe
from probe.weight_count import GPT3

pytestmark = pytest.mark.model
KINDS = ("text_area", "selectbox", "number_input", "slider", "toggle", "segmented_control", "multiselect")


def widgets(app) -> dict[str, list[str]]:
    """What the widgets of a page show, as a link says it."""
    found = {one.key: one.value for kind in KINDS for one in app.get(kind) if one.key}
    listed = {key: value if isinstance(value, list) else [value] for key, value in found.items()}
    return {
        key: [str(one).lower() if isinstance(one, bool) else str(one) for one in ones] for key, ones in listed.items()
    }


def test_weights_and_operations_stand_side_by_side(open_page, tiny_folder):
    app = open_page("tokens", prompt="one two three")
    assert not app.exception
    model = probe.load_model(tiny_folder)
    n = len(app.dataframe[0].value)
    for table, config in ((app.dataframe[2].value, model.config), (app.dataframe[3].value, GPT3)):
        expected = probe.count_pass(config, n)
        assert table.flops.tolist() == [row.flops for row in expected.rows]
        assert f"**{expected.products / expected.flops:.2%}**" in "".join(one.value for one in app.markdown)
    table = app.dataframe[2].value.set_index("kind")
    assert table.weights["query"] == probe.count_weights(model.config).rows[1].weights
    assert app.dataframe[-1].value.flops.tolist() == app.dataframe[2].value.flops.tolist()  # downloads have the same


def test_every_stage_links_to_a_page_that_shows_it_for_the_same_selection(open_page):
    app = open_page("tokens", prompt="a & b <i> ' 👩‍👩‍👧", layer="2", head="3", taken_out=["L0H1", "L1H2"])
    links = app.dataframe[1].value.page.dropna().tolist()
    assert len(links) == 6
    for link in links:
        url, page = urlsplit(link), urlsplit(link).path.strip("/") or next(iter(PAGES))
        asked = parse_qs(url.query)
        opened = open_page(page, **asked)
        assert not opened.exception and not opened.error, link
        shown = widgets(opened)
        assert {key: shown[key] for key in asked} == asked, link


def test_the_texts_of_long_prompts_stay_out_of_links(open_page):
    app = open_page("tokens")
    app.text_area(key="prompt").set_value("word " * 500).run()
    assert all("prompt=" not in link for link in app.dataframe[1].value.page.dropna())


@pytest.mark.parametrize("name", STOPS)
def test_every_stop_of_the_tour_sets_its_page_and_says_what_to_look_at(name, open_page):
    hrefs = re.findall('href="(.*?)"', open_page("tokens").get("html")[0].proto.body)
    url = urlsplit(html.unescape(hrefs[list(STOPS).index(name)]))
    assert (url.path.strip("/") or next(iter(PAGES))) == STOPS[name].page
    app = open_page(STOPS[name].page, **parse_qs(url.query))
    assert not app.exception and not app.error
    shown = widgets(app)
    assert {key: shown[key] for key in STOPS[name].opens} == {key: [one] for key, one in STOPS[name].opens.items()}
    assert any(one.value == STOPS[name].says for one in app.markdown)


def test_the_tour_stays_away_from_who_did_not_ask_for_it(open_page):
    assert open_page("tokens").get("html") and open_page("lens", tour="1 tokens").get("html")
    assert not open_page("heads").get("html") and not open_page("heads", tour="<b>").get("html")
