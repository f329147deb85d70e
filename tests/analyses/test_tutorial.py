"""The tutorial runs from top to bottom, and what stands below its cells is what a run gives."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "analyses" / "tutorial.ipynb"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e-?\d+)?")
FIGURES = 5


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def said(cell: dict) -> str:
    """The text below a cell: of results what a terminal shows."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell["outputs"]]
    return " ".join("".join("".join(part) for part in parts).split())


def kinds(cell: dict) -> set[str]:
    return {kind for output in cell["outputs"] for kind in output.get("data", {"stream": 0})}


def test_the_outputs_are_those_of_one_run_and_small():
    cells = code_cells(NOTEBOOK)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in kinds(cell) for cell in cells) == FIGURES
    assert NOTEBOOK.stat().st_size < 400_000
    text = NOTEBOOK.read_text("utf-8")
    assert "/tmp/" not in text and "cdn." not in text and "vnd.plotly" not in text


@pytest.mark.slow
@pytest.mark.model
def test_a_run_says_what_is_written_below_the_cells(tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PLOTLY_RENDERER", "OMP_NUM_THREADS")
    }
    command = [sys.executable, "-c", RUN, str(NOTEBOOK), str(tmp_path / "run.ipynb")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written, run = code_cells(NOTEBOOK), code_cells(tmp_path / "run.ipynb")
    for old, new in zip(written, run, strict=True):
        source = "".join(new["source"])
        assert NUMBER.sub("#", said(new)) == NUMBER.sub("#", said(old)), source
        numbers = [[float(n.replace(",", "")) for n in NUMBER.findall(said(cell))] for cell in (new, old)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.01, abs=0.002), source  # rounding differs between machines
        if "image/png" in kinds(old):  # a figure as it is shown without further software: drawn by the notebook itself
            assert kinds(new) == {"application/vnd.plotly.v1+json"}, source
