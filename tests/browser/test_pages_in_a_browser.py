"""Every page in a real browser: it draws, nothing is wrong on the console, nothing is asked of anybody else."""

import json
import re
import subprocess
import sys
import urllib.parse

import pytest
from components.tour import STOPS
from playwright.sync_api import expect
from views import PAGES

import probe

pytestmark = [pytest.mark.slow, pytest.mark.model]
PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.mark.parametrize("width", [1400, 800])
@pytest.mark.parametrize("page", PAGES)
def test_every_page_draws_and_nothing_is_cut_off(page, width, tab, address):
    tab.page.set_viewport_size({"width": width, "height": 1000})
    shown = tab.open(f"{address}/{'' if page == next(iter(PAGES)) else page}", wait="h2")
    assert not shown.locator("[data-testid=stException]").count()
    assert not shown.locator("[data-testid=stAlertContentError]").count()
    wide = shown.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0


def test_a_head_that_nobody_chose_is_the_same_on_the_next_page(tab, address):
    page = tab.open(address)
    first = page.get_by_role("heading", name=re.compile(r"^Layer \d+, head \d+$")).inner_text()
    page.get_by_role("link", name="Logit lens").first.click()
    page.get_by_role("heading", name="What would each layer say next?").wait_for()
    tab.settle()
    page.get_by_role("link", name="Heads").first.click()
    page.get_by_role("heading", name=first).wait_for()


def test_the_tour_goes_from_stop_to_stop_and_forgets_what_was_chosen_before(tab, address):
    page = tab.open(f"{address}/tokens?prompt=my+own&taken_out=L3H3&layer=4", wait="nav[aria-label=Tour]")
    for name, stop in STOPS.items():
        page.get_by_role("navigation", name="Tour").get_by_role("link", name=name).click()
        page.get_by_text(stop.says).wait_for()
        tab.settle()
        expect(page.get_by_role("textbox", name="Text to look at (prompt)")).to_have_value(stop.opens["prompt"])
        assert not page.get_by_text("every number on this page").count()
    page.get_by_role("link", name="Directions").first.click()  # who leaves the tour has left it
    page.get_by_role("heading", name="What does a direction mean?").wait_for()
    assert not page.get_by_role("navigation", name="Tour").count()


def test_the_code_of_a_page_gives_its_numbers_in_another_process(tab, address):
    page = tab.open(f"{address}/?layer=23&head=3")
    page.get_by_text("Copy as Python").click()
    code = page.locator("[data-testid=stCode]").first.inner_text()
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed = [float(number) for number in re.findall(r"\d\.\d+(?:e-?\d+)?", ran.stdout)]
    recording = probe.record(probe.load_model(), PROMPT, sites=["pattern"], layers=[23], document_start=True)
    assert printed == pytest.approx(recording["pattern", 23][0, 3, -1].tolist(), abs=1e-4)


def test_files_asked_for_one_right_after_another_all_come(tab, address):
    page, came = tab.open(f"{address}/?layer=23&head=3"), []
    page.on("download", lambda download: came.append(download.suggested_filename))
    page.get_by_text("The numbers, and downloads").click()
    for name in ("Table (CSV)", "Manifest (JSON)", "Figures (HTML)"):
        page.get_by_role("button", name=name).click()
    for _ in range(120):
        if len(came) == 3:
            break
        page.wait_for_timeout(500)
    assert sorted(came) == ["head-23-3.csv", "head-23-3.html", "head-23-3.json"]


def test_one_who_takes_heads_out_does_not_change_what_another_sees(browser, tab, address):
    from tests.browser.conftest import Tab

    quiet = tab.open(f"{address}/ablation", wait="text=stands")
    before = quiet.get_by_text("logits above").inner_text()
    other = Tab(browser)
    changed = other.open(f"{address}/ablation?taken_out=L23H3&taken_out=L20H0", wait="text=in the whole model")
    after = changed.get_by_text("in the whole model").inner_text()
    quiet.reload()
    quiet.wait_for_selector("text=stands", timeout=120_000)
    assert quiet.get_by_text("logits above").inner_text() == before
    numbers = [float(one) for one in re.findall(r"[+-]\d+\.\d+", after)]
    assert f"{numbers[0]:+.2f}" in before and numbers[1] < numbers[0]
    other.page.context.close()
    assert not other.wrong


def test_eight_people_at_once_each_see_their_own_numbers(browser, address):
    """All pages load together, each with its own text and its own heads taken out, on one shared model."""
    from tests.browser.conftest import Tab

    tabs = [Tab(browser) for _ in range(8)]
    asked = [(f"one two three {number} five", (20 + number, number % 9)) for number in range(len(tabs))]
    for one, (text, (layer, head)) in zip(tabs, asked, strict=True):
        link = urllib.parse.urlencode({"prompt": text, "taken_out": f"L{layer}H{head}"})
        one.page.goto(f"{address}/ablation?{link}", wait_until="commit", timeout=120_000)
    model = probe.load_model()
    for one, (text, (layer, head)) in zip(tabs, asked, strict=True):
        said = one.page.get_by_text("in the whole model")
        said.wait_for(timeout=120_000)
        numbers = [float(number) for number in re.findall(r"[+-]\d+\.\d+", said.inner_text())]
        clean = probe.record(model, text, sites=[], positions=-1, document_start=True)
        n_tokens = int(clean.lengths[0])
        out = probe.zero("z", layer=layer, heads=head, positions=range(1, n_tokens))
        changed = probe.record(model, text, sites=[], positions=-1, document_start=True, interventions=out)
        first, second = clean.logits[0, -1].topk(2).indices
        expected = [float(rec.logits[0, -1, first] - rec.logits[0, -1, second]) for rec in (clean, changed)]
        assert numbers == pytest.approx(expected, abs=0.006)
    for one in tabs:
        one.settle()
        one.page.context.close()
        assert not one.wrong


def test_a_session_file_brings_back_what_was_chosen(tab, address, tmp_path):
    text = "one two three " * 600  # too long for a link
    page = tab.open(f"{address}/lens?layer=5&head=2", wait="h2")
    box = page.get_by_role("textbox", name="Text to look at (prompt)")
    box.fill(text)
    box.press("Control+Enter")
    page.get_by_text("Links carry up to").wait_for(timeout=60_000)
    tab.settle()
    page.get_by_text("Session file", exact=True).click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save what is chosen").click()
    file = tmp_path / "session.json"
    saved.value.save_as(file)
    assert json.loads(file.read_text())["parameters"]["layer"] == ["5"]
    page = tab.open(f"{address}/?taken_out=L3H3&head=5")
    page.get_by_text("Session file", exact=True).click()
    for wrong, said in (
        ("{", "not JSON"),
        ('{"format": 1}', "no session"),
        ('{"format": "probe dashboard 1"}', "page"),
    ):
        (tmp_path / "wrong.json").write_text(wrong)
        page.locator("input[type=file]").set_input_files(str(tmp_path / "wrong.json"))
        page.get_by_text("Not opened: it").filter(has_text=said).wait_for()
    page.locator("input[type=file]").set_input_files(str(file))
    page.get_by_role("heading", name="What would each layer say next?").wait_for(timeout=60_000)
    tab.settle()
    assert page.get_by_text("every number on this page").count() == 0  # what the file does not name is as it was
    expect(page.get_by_role("spinbutton", name="Layer")).to_have_value("5")
    assert page.get_by_role("textbox", name="Text to look at (prompt)").input_value() == text


def test_a_word_put_in_with_a_click_goes_on_from_there(tab, address):
    page = tab.open(f"{address}/generation?n_new=4", wait="text=Put another word")
    first = page.locator(".st-key-put_in button").first
    word = first.inner_text().split()[0]
    first.click()
    page.get_by_text("Words put in").wait_for()
    tab.settle()
    assert "branch=0" in page.url
    written = page.locator(".strip button").filter(has_text=re.compile(rf"^{re.escape(word)}$"))
    expect(written.first).to_be_visible()  # the tokens are drawn anew, one after another


def test_a_long_sweep_can_be_stopped_and_goes_on(tab, address):
    page = tab.open(f"{address}/ablation?measured_on=indirect+object&n_prompts=16", wait=".st-key-begin")
    page.locator(".st-key-begin button").click()
    page.locator(".st-key-stop button").wait_for()
    page.wait_for_selector("text=/layers done: [1-9]/", timeout=240_000)
    page.locator(".st-key-stop button").click()
    page.get_by_text("Stopped:").wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Go on").count() == 1


def test_a_bar_that_is_clicked_is_taken_out_and_with_another_click_put_back(tab, address):
    page = tab.open(f"{address}/ablation?units=MLPs", wait="text=Copy as Python")
    for clicks, out in enumerate((True, False)):
        bars = page.locator(f".st-key-ablation-bars-{clicks}")  # drawn anew after each click
        name = bars.locator(".ytick text").first.inner_html()
        page.mouse.move(0, 0)  # plotly learns what is under the pointer when it moves
        bars.locator(".bars .point path").first.click(force=True)  # a transparent layer above passes it on
        said = page.get_by_text(f"Without L{name.removeprefix('MLP ')} MLP: what comes next")
        said.wait_for(state="attached" if out else "detached")
        expect(page).to_have_url(re.compile("^[^=]*units=MLPs" + ("&taken_out=L" if out else "$")), timeout=60_000)
