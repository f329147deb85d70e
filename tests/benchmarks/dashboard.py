"""What the page of heads costs a reader: first paint, a click, a hover, DOM nodes and bytes, in a real Chromium.

Two models (144 heads, random; 270 heads, the default one, or --model) by two lengths of text. The server is started by
its own command and has loaded the model on another text before the clock starts; every repeat is a new browser context
and a text that nobody has seen. All clocks run inside the page, from the start of the navigation or from the pointer to
the frame that shows the grid or the changed text: from outside, a page that draws a figure just then answers late.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch
from _measure import Measured, Setting, number
from playwright.sync_api import Browser, Page, sync_playwright

import probe

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
AIMS = {"first paint": 1.5, "click to detail": 0.25, "hover": 0.05}
"""Seconds, for 144 heads and 64 tokens."""
FIRST = """() => {
    const look = () => {
        const host = [...document.querySelectorAll(".st-key-head_grid *")].find((node) => node.shadowRoot);
        if (host?.shadowRoot.querySelector(".said")?.textContent) setTimeout(() => window.painted = performance.now());
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""
HOVER = """async (canvas) => {
    const said = canvas.getRootNode().querySelector(".said"), box = canvas.getBoundingClientRect(), taken = [];
    for (let step = 0; step < 30; step++) {
        const before = said.textContent, start = performance.now();
        canvas.dispatchEvent(new MouseEvent("mousemove", { bubbles: true,
            clientX: box.left + 45 + 49 * (step % 9), clientY: box.top + 30 + 49 * (step % 5) }));
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        if (said.textContent !== before) taken.push(performance.now() - start);
    }
    return taken;
}"""
CLICKED = """() => {
    window.clicked = {};
    const begun = new Promise((done) => addEventListener("click", () => done(performance.now()), { once: true }));
    const names = { "click to detail": () => document.querySelector("strong")?.textContent,
                    "click to figure": () => document.querySelector(".gtitle")?.textContent };
    for (const [name, read] of Object.entries(names)) {
        const before = read();
        const observer = new MutationObserver(() => {
            if (read() === undefined || read() === before) return;
            observer.disconnect();
            requestAnimationFrame(() => setTimeout(async () => {
                const now = performance.now();
                window.clicked[name] = now - await begun;
            }));
        });
        observer.observe(document.body, { subtree: true, childList: true, characterData: true });
    }
}"""
NODES = """() => {
    const count = (root) => [...root.querySelectorAll("*")].reduce(
        (sum, node) => sum + 1 + (node.shadowRoot ? count(node.shadowRoot) : 0), 0);
    return count(document);
}"""


def missing() -> str | None:
    """Why this cannot be measured here, if so."""
    return None if shutil.which("chromium") else "no chromium on the PATH"


def measure(setting: Setting) -> Iterator[Measured]:
    """Two models by two lengths of text."""
    default, repeats = setting.model, 1 if setting.quick else 3
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        small = random_model(default, Path(folder) / "random-12-by-12")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        models = {12 * 12: str(small), default.config.n_layers * default.config.n_heads: setting.source}
        for heads, model in models.items():
            with server(model) as address:
                for n_tokens in (64,) if setting.quick else (64, 256):
                    yield from visits(browser, address, default, heads, n_tokens, repeats)


def random_model(like: probe.GPT, folder: Path) -> Path:
    """12 layers of 12 heads, with the tokenizer of another model."""
    torch.manual_seed(0)
    config = probe.GPTConfig(
        n_layers=12, d_model=384, n_heads=12, d_head=32, d_mlp=1536, d_vocab=like.config.d_vocab, n_ctx=1024,
        norm="rms", positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False, attn_out_bias=False,
        mlp_bias=False,
    )  # fmt: skip
    probe.save_model(probe.GPT(config, tokenizer=like.tokenizer, name="random-12-by-12"), folder)
    return folder


@contextlib.contextmanager
def server(model: str | None) -> Iterator[str]:
    """A dashboard that offers this model first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("probe")), "dashboard", "--port", str(port)]
    command += [] if model is None else ["--model", model]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)) as run:
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/_stcore/health"):
                    break
                time.sleep(0.5)
            yield address
        finally:
            run.terminate()


def visits(
    browser: Browser, address: str, model: probe.GPT, heads: int, n_tokens: int, repeats: int
) -> Iterator[Measured]:
    """One size: every repeat a new visitor with a text of their own; the first only warms the server."""
    names = ("first paint", "click to detail", "click to figure", "hover", "DOM nodes", "MB")
    taken: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        page = context.new_page()
        page.add_init_script(f"({FIRST})()")
        received = [] if repeat else count_bytes(page)  # not beside a clock: it has every byte handed out twice
        query = urllib.parse.urlencode({"prompt": text_of(model, n_tokens, repeat), "layer": 0, "head": 0})
        page.goto(f"{address}/?{query}")
        page.locator(".grid .said", has_text="L0H0").wait_for(timeout=120_000)
        page.wait_for_function("window.painted")
        first = page.evaluate("window.painted") / 1000
        page.wait_for_selector(".js-plotly-plot", timeout=120_000)
        page.wait_for_selector("[data-testid=stStatusWidget]", state="detached", timeout=120_000)
        hover = [one / 1000 for one in page.locator("canvas.heads").evaluate(HOVER)]
        mb = sum(received) / 1e6
        clicks = [click(page, layer) for layer in (1, 2, 3)]
        if repeat:
            taken["first paint"].append(first)
            taken["hover"] += hover
            for name in ("click to detail", "click to figure"):
                taken[name] += [clicked[name] / 1000 for clicked in clicks]
            taken["DOM nodes"].append(page.evaluate(NODES))
        else:
            taken["MB"].append(mb)
        context.close()
    for name, values in taken.items():
        unit = name if name in ("DOM nodes", "MB") else "s"
        aim = AIMS.get(name) if (heads, n_tokens) == (144, 64) else None
        yield number(f"dashboard, {heads} heads, {n_tokens} tokens: {name}", values, unit, bar=aim)


def click(page: Page, layer: int) -> dict[str, float]:
    """Milliseconds from the click to the head's row of words, and to its figure, each as seen on the screen."""
    page.evaluate(CLICKED)
    page.locator("canvas.heads").click(position={"x": 45, "y": 30 + 49 * layer})
    page.wait_for_function("Object.keys(window.clicked).length === 2")
    page.wait_for_selector("[data-testid=stStatusWidget]", state="detached", timeout=120_000)
    return page.evaluate("window.clicked")


def text_of(model: probe.GPT, n_tokens: int, seed: int) -> str:
    """A text of so many tokens, the document start included."""
    words = "the cat sat on a mat and then it went out to see who was there in the dark of the night".split()
    text = " ".join(words[(place * (seed + 3) + seed) % len(words)] for place in range(n_tokens - 1))
    assert len(model.tokenizer.encode(text)) == n_tokens - 1, "each word is one token"
    return text


def count_bytes(page: Page) -> list[int]:
    """What the page receives, by HTTP and through its socket."""
    received: list[int] = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.dataReceived", lambda event: received.append(event["dataLength"]))
    session.on(
        "Network.webSocketFrameReceived", lambda event: received.append(len(event["response"]["payloadData"]) * 3 // 4)
    )
    return received
