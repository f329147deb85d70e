"""JSON files that others may have written, cut or changed: read, or refused by what is wrong with them."""

import json
from pathlib import Path
from typing import Any

from probe.errors import BrokenFile


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        BrokenFile: it cannot be read, is not UTF-8 or not JSON, is nested too deeply, or holds something else or half
            a character.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        if "\\u" in text:  # an escape may stand for half a character, which no tokenizer takes
            json.dumps(values, ensure_ascii=False).encode()
    except OSError as error:
        raise BrokenFile(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # also what is no UTF-8
        raise BrokenFile(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise BrokenFile(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values
