"""The page: one file, no request, no token taken for markup."""

import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go

from probe.figures.page import Chip, PageSection, Table, html_page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def draw(theme):
    return go.Figure(go.Bar(x=[1], y=[EVIL]), layout={"title": {"text": f"a figure {theme}"}, "height": 100})


def page() -> str:
    section = PageSection(
        EVIL, EVIL, [EVIL], [Chip(EVIL, 3, 5)], [draw], Table((EVIL, "share", ""), [(EVIL, "50%", 0.5)]), [EVIL],
        code=[EVIL], more_code=[EVIL],
    )  # fmt: skip
    return html_page(EVIL, [EVIL], [section])


class Elements(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_no_text_becomes_an_element():
    tags = [tag for tag, _ in Elements(page()).found]
    assert "img" not in tags
    assert tags.count("script") == 3  # plotly, the figures, the code that draws them


def test_nothing_is_requested_from_anywhere():
    for tag, attributes in Elements(page()).found:
        assert not {"src", "srcset", "data", "action"} & set(attributes), tag
        assert attributes.get("href", "data:,") == "data:,", tag  # an empty icon, or browsers ask for one
    style = re.search("<style>(.*?)</style>", page(), re.S)[1]
    assert "url(" not in style and "@import" not in style


def test_figures_are_there_in_both_themes_and_read_back_whole():
    text = re.search('id="figures">(.*?)</script>', page(), re.S)[1]
    (figure,) = json.loads(text)
    assert figure["light"]["data"][0]["y"] == [EVIL]
    assert [figure[theme]["layout"]["title"]["text"] for theme in figure] == ["a figure light", "a figure dark"]
    assert "Plotly.react" in page()


def test_bars_stand_in_a_table_only_where_no_figure_shows_them():
    table = Table(("name", ""), [("a", 0.25)])
    assert "width:25.0%" in html_page("t", [], [PageSection("h", "t", table=table)])
    assert 'class="bar"' not in html_page("t", [], [PageSection("h", "t", table=table, figures=[draw])])
