"""The learners' page: every chapter is tried on the model, and every example opens a page that shows what it says."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from state.introduction import introduction_chapter
from views import PAGES, introduction

from probe.cli._dashboard import MODELS

pytestmark = pytest.mark.model
CHAPTERS = list(introduction.introduction.CHAPTERS)
KINDS = ("text_area", "text_input", "selectbox", "number_input", "slider", "toggle", "segmented_control")


def address(title: str) -> str:
    name = introduction.NAMES[title]
    return "/" if name == next(iter(PAGES)) else f"/{name}"


@pytest.fixture
def chapters(tiny_folder, monkeypatch, glove):
    monkeypatch.setenv(MODELS, str(tiny_folder))
    return {name: introduction_chapter(str(tiny_folder), name) for name in CHAPTERS}


def test_the_names_of_pages_are_those_of_the_app():
    assert {title: name for name, (title, _) in PAGES.items() if name != "introduction"} == introduction.NAMES


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_example_stands_on_the_page_with_its_number(chapter, chapters, open_page):
    app = open_page("introduction", chapter=chapter)
    assert not app.exception and not app.error
    table = app.dataframe[-1].value
    examples = chapters[chapter].examples
    assert table.claim.tolist() == [one.claim for one in examples]
    links = [urlsplit(one.proto.url) for one in app.get("link_button")]
    assert [(link.path, dict(parse_qsl(link.query))) for link in links] == [
        (address(one.page), {"model": app.selectbox(key="model").value, **one.opens})
        for one in examples
        if one.page != "—"
    ]


@pytest.mark.slow
def test_every_link_sets_the_widgets_that_it_names(chapters, open_page):
    links = {
        (introduction.NAMES[example.page], tuple(example.opens.items()))
        for chapter in chapters.values()
        for example in chapter.examples
        if example.opens
    }
    assert len(links) > 15
    for page, parameters in sorted(links):
        app = open_page(page, **dict(parameters))
        assert not app.exception and not app.error, (page, parameters)
        for key, value in parameters:
            found = [str(one.value) for kind in KINDS for one in app.get(kind) if one.key == key]
            assert found in ([value], [f"{value}.0"]), (page, key, value, found)
