"""What every result of a method offers besides its own fields: a table, a folder that keeps it, a look at it."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.shown import Shown, TableHead, beginning
from probe.store import MANIFEST, manifest_text, save_files

if TYPE_CHECKING:
    import pandas

TABLE = "table.csv"


class Result(Shown):
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
        """Write `table.csv`, `manifest.json` and their checksums into a new folder, which appears whole or not at all.

        Raises:
            NotSaved: the folder holds something already, or cannot be written.
        """
        return save_files(folder, self.files())


class LongResult(Result):
    """The base of those whose table can have millions of rows: a look at it makes only the first."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the table, one by one."""
        raise NotImplementedError

    @property
    def n_rows(self) -> int:
        """How many rows the table has."""
        raise NotImplementedError

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row for each of `rows()`, which says what it holds."""
        import pandas  # half a second that only tables need

        return pandas.DataFrame(list(self.rows()))

    def first_rows(self, n: int) -> TableHead:
        """The first n rows of the table, made without the others."""
        import pandas

        return beginning(pandas.DataFrame(list(islice(self.rows(), n))), n, self.n_rows)
