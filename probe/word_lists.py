"""Word lists that come with probe: pairs for directions, with sentence templates, and some plain lists.

Each says how it was chosen, and is split into pairs to fit on and pairs to keep for testing.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from probe.arguments import checked
from probe.errors import unknown_name
from probe.shown import Shown, Summary, count

if TYPE_CHECKING:
    import pandas

_FOLDER = files("probe") / "data"


@dataclass(frozen=True)
class WordPairs(Shown):
    """Pairs of words that differ in one thing."""

    name: str
    positive: str
    """What the first words have in common: 'plural'."""
    negative: str
    note: str
    """How the pairs were chosen and split."""
    fit: tuple[tuple[str, str], ...]
    """(positive, negative) words to fit on."""
    held_out: tuple[tuple[str, str], ...]
    """(positive, negative) words to test on."""
    templates: tuple[str, ...]
    """Sentences with {} where a word of either side can stand."""

    @property
    def all(self) -> tuple[tuple[str, str], ...]:
        """All pairs: those to fit on, then those to test on."""
        return self.fit + self.held_out

    def summary(self) -> Summary:
        """How many pairs, and the first of them."""
        first = ", ".join(f"{a} - {b}" for a, b in self.fit[:3])
        n = f"{count(len(self.fit), 'pair')} to fit on, {len(self.held_out)} held out"
        return Summary(f"{self.positive} - {self.negative}, {n}", {"first": first, "templates": len(self.templates)},
                       self.name)  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair: both words, and whether it is held out."""
        import pandas  # half a second that only tables need

        rows = [(*pair, half) for half, pairs in ((False, self.fit), (True, self.held_out)) for pair in pairs]
        return pandas.DataFrame(rows, columns=["positive", "negative", "held_out"])

    def lower(self) -> "WordPairs":
        """The list in lower case, as GloVe has its words."""
        fit, held_out = (tuple((a.lower(), b.lower()) for a, b in half) for half in (self.fit, self.held_out))
        return WordPairs(self.name, self.positive, self.negative, self.note, fit, held_out, self.templates)


def pair_lists() -> tuple[str, ...]:
    """The names of the lists of pairs."""
    return tuple(name for name in _names() if "fit" in _read(name))


@checked
def load_pairs(name: str) -> WordPairs:
    """A list of pairs: 'plurality', 'gender', ...

    Raises:
        UnknownName: no such list; the nearest is offered.
    """
    if name not in pair_lists():
        raise unknown_name("list of word pairs", name, pair_lists())
    found = _read(name)
    fit, held_out = (tuple((a, b) for a, b in found[half]) for half in ("fit", "held_out"))
    return WordPairs(
        name, found["positive"], found["negative"], found["note"], fit, held_out, tuple(found["templates"])
    )


@checked
def load_words(name: str, group: str = "words") -> tuple[str, ...]:
    """A plain list: ('numbers'), or one group of several: ('people', 'professions').

    Raises:
        UnknownName: no such list or group; the nearest is offered.
    """
    plain = [one for one in _names() if "fit" not in _read(one)]
    if name not in plain:
        raise unknown_name("word list", name, plain)
    groups = {key: words for key, words in _read(name).items() if isinstance(words, list)}
    if group not in groups:
        raise unknown_name(f"group in the word list {name!r}", group, groups)
    return tuple(groups[group])


def _names() -> list[str]:
    return sorted(file.name.removesuffix(".json") for file in _FOLDER.iterdir() if file.name[-5:] == ".json")


def _read(name: str) -> dict[str, Any]:
    return json.loads(_FOLDER.joinpath(f"{name}.json").read_text(encoding="utf-8"))
