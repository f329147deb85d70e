"""The dashboard in a real Chromium: a server, a browser, and tabs that notice whatever goes wrong in them.

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
from playwright.sync_api import expect

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE = 90_000
"""Milliseconds: other tests may keep both cores busy. What is tested is what comes, not when."""
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
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
    with pytest.raises(OSError):  # who stops the command stops the app
        urllib.request.urlopen(f"{where}/_stcore/health")


@pytest.fixture(scope="session")
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
        self.page.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.page.on("console", lambda one: self.wrong.append(_said(one)) if _is_wrong(one) else None)
        self.page.on("pageerror", lambda one: self.wrong.append(str(one)))
        self.page.on("request", lambda one: None if _is_here(one.url) else self.wrong.append(one.url))

    def open(self, url: str, *, wait: str = "canvas.heads"):
        """Go there, and wait until what identifies the page is drawn and nothing runs any more."""
        self.page.goto(url)
        self.page.wait_for_selector(wait, timeout=120_000)
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the server has nothing more to say."""
        self.page.wait_for_selector("[data-testid=stStatusWidget]", state="detached", timeout=120_000)

    def chosen(self, layer: int, head: int) -> None:
        """Wait until this head stands in the page, the widgets and the URL."""
        self.page.wait_for_selector(f"text=Layer {layer}, head {head}")
        for name, value in (("Layer", layer), ("Head", head)):
            expect(self.page.get_by_role("spinbutton", name=name)).to_have_value(str(value))
        for name, value in (("layer", layer), ("head", head)):
            assert f"{name}={value}" in self.page.url, self.page.url


def _said(message) -> str:
    return f"{message.text} ({message.location.get('url')})"


def _is_wrong(message) -> bool:
    """Not so: on a page other than the first, Streamlit looks for its server below the page's own address first; and of
    a download button that the next run has just replaced it asks once more for the file, which is gone."""
    where = message.location.get("url", "")
    replaced = "/media/" in where or "Download Button source error" in message.text
    return message.type == "error" and not ("404" in message.text and ("/_stcore/" in where or replaced))


def _is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def tab(browser):
    opened = Tab(browser)
    yield opened
    opened.page.context.close()
    assert not opened.wrong
