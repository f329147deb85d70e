"""What the examples of `introduction.py` share: the form of an example, what they are tried on, and short measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

import probe
from probe.figures.page import Draw, PageSection, Table
from probe.generation import Step

Holds = Literal["yes", "partly", "no", "not tried"]
"""Not tried: a picture, or what no line of the analysis does."""
Page = Literal["Tokens and model", "Directions", "Heads", "Generation", "Logit lens", "Ablation", "—"]
"""A page of the dashboard, or none."""

STORY = "Once upon a time there was a"
CAPITAL = "The capital of France is"
FIRST_STEP = (
    f'probe.generate(model, "{STORY}", max_tokens=1, temperature=0, document_start=True).run().steps[0].distribution'
)
"""Line of Python for `Subject.first_step`."""


@dataclass(frozen=True)
class Example:
    """Something that the video shows or says, and what came of it here."""

    time: str
    """In the video; 'talk' for the companion talk."""
    claim: str
    here: str
    holds: Holds
    page: Page
    code: str = ""
    """One line of Python that gives `value`, with probe, model and words (GloVe) at hand."""
    value: Any = None
    opens: Mapping[str, str] = field(default_factory=dict)
    """What the page is to show, as its links say it."""


@dataclass(frozen=True)
class Chapter:
    """Examples that belong together, with the words that a learner needs for them."""

    heading: str
    paragraphs: Sequence[str]
    examples: Sequence[Example]
    figures: Sequence[Draw] = ()
    remarks: Sequence[str] = ()

    def section(self) -> PageSection:
        """The chapter as it stands on the page."""
        rows = [(one.time, one.claim, one.here, one.holds, one.page) for one in self.examples]
        columns = ("time", "the video", "here", "holds", "page")
        return PageSection(
            self.heading, f"from {self.examples[0].time[:5]}", self.paragraphs, figures=self.figures,
            table=Table(columns, rows), remarks=self.remarks,
            code=[line for one in self.examples if one.code for line in (f"# {one.time}", one.code)],
        )  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What the examples are tried on."""

    model: probe.GPT
    words: probe.WordVectors
    """GloVe, the word vectors that the video uses."""
    own: probe.WordVectors
    """The model's own embedding."""
    start: bool
    """Whether texts begin with the model's document start."""
    n_tokens: int
    """Length of a story."""

    def record(self, text: str | list[str], **how: Any) -> probe.Recording:
        """A recording of the last position only."""
        return probe.record(self.model, text, positions=-1, document_start=self.start, **how)

    def first_token(self, text: str) -> int:
        """The id with which a text begins: of a word in several tokens the first."""
        return self.model.tokenizer.encode(text, add_special_tokens=False)[0]

    def rank(self, text: str | list[str], word: str, **how: Any) -> list[int]:
        """Rank of a word as what comes after each text, among the whole vocabulary."""
        logits = self.record(text, sites=[], **how).logits[:, 0]
        return (1 + (logits > logits[:, self.first_token(word), None]).sum(-1)).tolist()

    def first_step(self) -> Step:
        """What could come after the beginning of the story."""
        how = {"temperature": 0, "max_tokens": 1, "document_start": self.start}
        return probe.generate(self.model, STORY, **how).run().steps[0]

    def surprise(self, text: str, model: probe.GPT | None = None) -> float:
        """Mean over the tokens of a text, in nats."""
        return float(probe.score_text(model or self.model, text, document_start=self.start).mean_surprise)


def judge(*found: bool) -> Holds:
    """'yes' if all of it was found, 'no' if none."""
    return "yes" if all(found) else "partly" if any(found) else "no"


def rising(values: Sequence[float]) -> int:
    """How many of the first values each exceed the one before; the first counts."""
    falls = (place for place in range(1, len(values)) if values[place] <= values[place - 1])
    return next(falls, len(values))


def projections(words: probe.WordVectors, names: Sequence[str]) -> Float[Tensor, " word"]:
    """Dot products with cats - cat."""
    return words.vectors_of(names) @ (words["cats"] - words["cat"])


def plural_pairs(words: probe.WordVectors) -> list[tuple[str, str]]:
    """(plural, singular): those of the list of which both have vectors."""
    return [pair for pair in probe.load_pairs("plurality").lower().all if not words.missing(pair)]


def count_above(words: probe.WordVectors) -> tuple[int, int]:
    """In how many pairs the plural lies further along cats - cat than the singular; and of how many."""
    pairs = plural_pairs(words)
    up, down = (projections(words, side) for side in zip(*pairs, strict=True))
    return int((up > down).sum()), len(pairs)


def listed(words: Sequence[str]) -> str:
    """'a', 'b', 'c' as one text."""
    return ", ".join(f"“{word.strip()}”" for word in words)
