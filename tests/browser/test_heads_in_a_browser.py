"""The head grid in a real browser: hover, click, keys, links, tokens as text."""

import pytest

import probe

pytestmark = [pytest.mark.slow, pytest.mark.model]
PROMPT = "When Mary and John went to the store, John gave a drink to"


def test_a_click_in_the_grid_chooses_the_head_everywhere(tab, address):
    page = tab.open(address)
    said = page.locator(".grid .said")
    canvas = page.locator("canvas.heads")
    box = canvas.bounding_box()
    canvas.hover(position={"x": 60, "y": 60})
    preview = said.inner_text()
    assert preview.startswith("L") and "(chosen)" not in preview
    assert "looks about" in preview
    canvas.click(position={"x": 60, "y": 60})
    layer, head = (int(part) for part in preview.split(".")[0][1:].split("H"))
    assert box is not None
    tab.chosen(layer, head)


def test_arrows_move_enter_chooses_and_escape_goes_back(tab, address):
    page = tab.open(f"{address}/?layer=0&head=0")
    page.locator("canvas.heads").focus()
    said = page.locator(".grid .said")
    page.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("L0H1.")
    page.keyboard.press("ArrowDown")
    assert said.inner_text().startswith("L1H1.")
    page.keyboard.press("Escape")
    assert said.inner_text().startswith("L0H0 (chosen)")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    tab.chosen(0, 1)


def test_a_link_opens_the_same_view(tab, address):
    page = tab.open(f"{address}/?layer=23&head=3&query=10&key=4&overlay=induction&sort=first+token")
    tab.chosen(23, 3)
    assert page.locator(".grid .said").inner_text().startswith("L23H3 (chosen)")
    recording = probe.record(probe.load_model(), PROMPT, sites=["pattern"], document_start=True)
    largest = float(probe.read_head_scores(recording).of("induction").max())
    assert page.locator(".grid .key").inner_text().split() == ["0", f"{largest:.2f}"]  # the ends of the scale
    page.get_by_text("From 10 to 4: query").wait_for()
    assert PROMPT in page.get_by_role("textbox", name="Text to look at (prompt)").input_value()


def test_tokens_never_become_markup(tab, address):
    page = tab.open(f"{address}/?prompt=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E+and+**bold**")
    page.locator("canvas.heads").hover(position={"x": 60, "y": 60})
    assert page.locator("img[src=x]").count() == 0


def test_shift_and_click_takes_a_head_out_and_puts_it_back(tab, address):
    page = tab.open(f"{address}/?layer=20&head=0")
    canvas = page.locator("canvas.heads")
    canvas.hover(position={"x": 60, "y": 60})
    name = page.locator(".grid .said").inner_text().split(".")[0]
    canvas.click(position={"x": 60, "y": 60}, modifiers=["Shift"])
    page.get_by_text(f"Without {name}: every number").wait_for()
    tab.settle()
    assert f"taken_out={name}" in page.url
    tab.chosen(20, 0)
    canvas.click(position={"x": 60, "y": 60}, modifiers=["Shift"])
    page.get_by_text(f"Without {name}: every number").wait_for(state="detached")


def test_a_click_on_a_token_looks_from_there(tab, address):
    page = tab.open(f"{address}/?layer=0&head=0")
    page.locator(".strip button").nth(4).click()
    page.get_by_text("What ‘\u2068·John\u2069’ [4] sees").wait_for()  # isolated, whatever way it is written
    assert "query=4" in page.url
    page.locator(".strip button").nth(2).click(modifiers=["Shift"])
    page.get_by_text("From 4 to 2: query").wait_for()
    assert "key=2" in page.url


def test_find_chooses_a_head_and_says_what_it_cannot_find(tab, address):
    page = tab.open(address)
    find = page.get_by_role("textbox", name="Find")
    find.fill("L7H4")
    find.press("Enter")
    tab.chosen(7, 4)
    find.fill("zebra")
    find.press("Enter")
    page.get_by_text("Nothing is called").wait_for()
