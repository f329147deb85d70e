"""What every result of a method offers besides its own fields: a table, and a folder that keeps it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.store import MANIFEST, manifest_text, save_files

if TYPE_CHECKING:
    import pandas

TABLE = "table.csv"


class Result:
    """The base of frozen dataclasses that hold what a method found."""

    manifest: Mapping[str, Any]
    """What is needed to repeat the call: model, fingerprint, versions, prompts as token ids, arguments, seed."""

    def to_dataframe(self) -> "pandas.DataFrame":
        """The numbers in long form: one row per number and what it is about."""
        raise NotImplementedError

    def files(self) -> dict[str, str]:
        """The table as CSV (every digit of its numbers) and the manifest as JSON, by file name."""
        return {
            TABLE: self.to_dataframe().to_csv(index=False, lineterminator="\n"),
            MANIFEST: manifest_text(self.manifest),
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `table.csv` and `manifest.json` into a new folder, which appears whole or not at all.

        Raises:
            NotSaved: the folder holds something already, or cannot be written.
        """
        return save_files(folder, self.files())
