"""Run the tutorial and keep what its cells say: `python analyses/_renew_tutorial.py`.

Figures become pictures, so that they can be seen where no plotly runs: that takes kaleido, and a Chrome or Chromium.
"""

import base64
import io
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parent / "tutorial.ipynb"
COLOURS = 64
"""Colours of a picture: a third of the bytes, and no difference to see."""


def main() -> None:
    """Run it, and write it back."""
    os.environ["PLOTLY_RENDERER"] = "png"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3", record_timing=False).execute()
    tidy(notebook)
    nbformat.write(notebook, NOTEBOOK)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Small pictures, and nothing that went to stderr."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller(output.data["image/png"])


def smaller(picture: str) -> str:
    """A PNG (base64) with few colours."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    file = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    main()
