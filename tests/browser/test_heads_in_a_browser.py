"""The dashboard in a real Chromium: the head grid, links, no request off this machine, nothing on the console.

Without a browser these tests are skipped, and say so; in CI they fail instead.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.model]
PROMPT = "When Mary and John went to the store, John gave a drink to"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a dashboard listens, started by its own command."""
    pytest.importorskip("streamlit")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("probe")), "dashboard", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        where = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{where}/_stcore/health") as answer:
                    if answer.status == 200:
                        break
                time.sleep(0.5)
            yield where
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, or Playwright's own."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        except Error as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield started
        started.close()


class Tab:
    """A page, and all that went wrong in it."""

    def __init__(self, browser, width: int = 1400):
        self.page = browser.new_context(viewport={"width": width, "height": 1000}).new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda one: self.wrong.append(one.text) if one.type == "error" else None)
        self.page.on("pageerror", lambda one: self.wrong.append(str(one)))
        self.page.on("request", lambda one: None if _is_here(one.url) else self.wrong.append(one.url))

    def open(self, url: str):
        self.page.goto(url)
        self.page.wait_for_selector("canvas.heads", timeout=120_000)
        self.page.wait_for_selector(".js-plotly-plot", timeout=60_000)
        return self.page

    def chosen(self, layer: int, head: int) -> None:
        """Wait until this head stands in the page, the widgets and the URL."""
        self.page.wait_for_selector(f"text=Layer {layer}, head {head}", timeout=30_000)
        assert self.page.get_by_role("spinbutton", name="Layer").input_value() == str(layer)
        assert self.page.get_by_role("spinbutton", name="Head").input_value() == str(head)
        for name, value in (("layer", layer), ("head", head)):
            assert value == 0 or f"{name}={value}" in self.page.url, self.page.url


def _is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def tab(browser):
    opened = Tab(browser)
    yield opened
    opened.page.context.close()
    assert not opened.wrong


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
    assert (layer, head) != (0, 0) and box is not None
    tab.chosen(layer, head)


def test_arrows_move_enter_chooses_and_escape_goes_back(tab, address):
    page = tab.open(address)
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
    page = tab.open(f"{address}/?layer=23&head=3&query=14&overlay=induction&sort=first+token")
    tab.chosen(23, 3)
    assert page.locator(".grid .said").inner_text().startswith("L23H3 (chosen)")
    assert PROMPT in page.get_by_role("textbox", name="Text to look at (prompt)").input_value()


def test_tokens_never_become_markup(tab, address):
    page = tab.open(f"{address}/?prompt=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E+and+**bold**")
    page.locator("canvas.heads").hover(position={"x": 60, "y": 60})
    assert page.locator("img[src=x]").count() == 0
