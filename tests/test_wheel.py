"""The wheel holds the whole package and nothing else, and works where only it is installed."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APART = ("dashboards", "analyses")
"""Folders that travel under another name."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built without network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_probe_and_nothing_else(wheel):
    ours = {f.relative_to(ROOT).as_posix() for top in ("probe", *APART) for f in (ROOT / top).rglob("*.*")}
    ours = {re.sub(f"^({'|'.join(APART)})/", r"probe_\1/", name) for name in ours if "__pycache__" not in name}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == ours and "probe/py.typed" in packed


@pytest.mark.slow
def test_the_wheel_carries_licence_requirements_and_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.split("/", 1)[1]: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name
        }
    assert "The probe authors" in texts["licenses/LICENSE"]
    assert "Requires-Dist: torch>=" in texts["METADATA"] and "Name: probe-gpt" in texts["METADATA"]
    assert "probe = probe.cli:main" in texts["entry_points.txt"]


@pytest.mark.slow
@pytest.mark.model
def test_the_dashboard_of_the_installed_wheel_opens_in_an_empty_folder(wheel, tmp_path):
    target, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    code = f"""
import sys
sys.path.insert(0, {str(target)!r})
from probe.cli._dashboard import find_app
sys.path.insert(0, str(find_app().parent))
from streamlit.testing.v1 import AppTest
app = AppTest.from_file(str(find_app()), default_timeout=120).run()
print(find_app(), [one.message for one in app.exception], app.subheader[0].value.split()[0])
from state.introduction import introduction
print(introduction.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=empty, capture_output=True, text=True)
    expected = [f"{target}/probe_dashboards/app.py [] Layer", f"{target}/probe_analyses/introduction.py"]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.slow
def test_the_installed_wheel_is_imported_without_the_checkout(wheel, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(tmp_path), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import probe; print(probe.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (str(tmp_path / "probe" / "__init__.py"), "")
