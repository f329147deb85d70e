"""`probe dashboard`: finds the app and hands over to Streamlit, on this machine only unless told otherwise."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from probe.errors import OutOfRange, UnknownName, UnsupportedModel, unknown_name

MODELS = "PROBE_DASHBOARD_MODELS"
"""Environment variable that names models to the app, one in each line."""
SETTINGS = {
    "server.headless": "true",  # else it asks for an e-mail address when it is started for the first time
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "5",
    "runner.magicEnabled": "false",
    "theme.light.primaryColor": "#2166ac",  # the blue of the figures; Streamlit's own is a red that warns
    "theme.dark.primaryColor": "#7db7de",
}
"""Settings of Streamlit."""


def dashboard(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Offer this model too: a folder or a .gguf, .pt or .pth file; may be repeated."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Where it listens.")] = 8501,
    host: Annotated[
        str, typer.Option(help="Who can reach it: 127.0.0.1 is this machine alone, 0.0.0.0 everybody.")
    ] = "127.0.0.1",
) -> None:
    """Look around in the browser: heads, tokens, layers, generation. Ends with Ctrl-C."""
    app = find_app()
    if importlib.util.find_spec("streamlit") is None:
        raise UnsupportedModel("the dashboard needs streamlit: pip install 'probe-gpt[dashboard]'")
    if not 1 <= port <= 65535:
        raise OutOfRange(f"--port {port}: expected 1 to 65535")
    named = [_checked(name) for name in model or []]
    settings = {**SETTINGS, "server.address": host, "server.port": str(port)}
    command = [sys.executable, "-m", "streamlit", "run", str(app)]
    command += [part for name, value in settings.items() for part in (f"--{name}", value)]
    environment = {**os.environ, MODELS: "\n".join(named)}
    if os.name == "posix":  # in the place of this process, so that whoever stops this one stops the app
        os.execve(sys.executable, command, environment)
    try:
        raise typer.Exit(subprocess.call(command, env=environment))
    except KeyboardInterrupt:
        return


def find_app() -> Path:
    """`app.py` of the dashboards.

    Raises:
        UnknownName: as `find_folder`.
    """
    return find_folder("dashboards") / "app.py"


def find_folder(name: str) -> Path:
    """'dashboards' or 'analyses' of the checkout that this is, or what was installed with the wheel.

    Raises:
        UnknownName: neither is there.
    """
    beside = Path(__file__).parents[2] / name
    installed = importlib.util.find_spec(f"probe_{name}")
    for place in [beside, *map(Path, (installed and installed.submodule_search_locations) or [])]:
        if any(place.glob("*.py")):
            return place
    raise UnknownName(f"no {name} at {beside}, and no installed probe_{name}: reinstall probe-gpt")


def _checked(name: str) -> str:
    """A model's name; a path is made absolute, since the app may run in another folder."""
    from probe.catalogue import known_models

    if Path(name).exists():
        return str(Path(name).resolve())
    known = [one.name for one in known_models()]
    if name not in known:
        raise unknown_name("file, folder or model", name, known)
    return name
