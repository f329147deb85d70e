"""Neighbours of words and analogies, exact over the whole vocabulary.

"man is to woman as king is to ...": the word nearest to king - man + woman (3CosAdd), or with the largest product of
similarities (3CosMul). The words of the question themselves are usually nearest; dropping them from the answers is the
custom, and what keeps most analogies looking good, so every answer here says whether it was done, and `keep_inputs`
shows the rest. Sources: Mikolov et al., "Linguistic regularities" (2013); Levy and Goldberg, "Linguistic regularities
in sparse and explicit word representations" (2014); Linzen, "Issues in evaluating semantic spaces" (2016).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import brief, checked, one_or_several, several
from probe.errors import BadShape, BrokenFile, OutOfRange, ProbeError, UnknownName, WrongType, check_choice
from probe.results import Result
from probe.shown import Summary, count, source_of
from probe.words import WordVectors

if TYPE_CHECKING:
    import pandas

Measure = Literal["cosine", "dot"]
AnalogyMethod = Literal["3CosAdd", "3CosMul"]
_AT_ONCE = 1 << 24
"""Scores held at a time: 64 MB."""
_TINY = 1e-6
"""Levy and Goldberg's, against division by zero."""


@dataclass(frozen=True, eq=False)
class Neighbours(Result):
    """The words nearest to each query, nearest first."""

    queries: tuple[str, ...]
    """The words asked for; 'vector 0' and so on for vectors."""
    words: tuple[tuple[str, ...], ...]
    """The k nearest words of each query, nearest first."""
    scores: Float[Tensor, "query k"]
    """Cosine or raw dot product of each word with its query."""
    measure: Measure
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The first few neighbours of each query."""
        nearest = {query: ", ".join(words[:5]) for query, words in zip(self.queries[:4], self.words, strict=False)}
        return Summary(
            f"{count(len(self.queries), 'query', 'queries')} by {self.measure}", nearest, source_of(self.manifest)
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per query and neighbour."""
        import pandas

        return pandas.DataFrame(
            {"query": query, "rank": rank, "word": word, self.measure: score}
            for query, words, scores in zip(self.queries, self.words, self.scores.tolist(), strict=True)
            for rank, (word, score) in enumerate(zip(words, scores, strict=True), start=1)
        )


@checked
def nearest_neighbours(
    words: WordVectors, queries: str | Sequence[str] | Tensor, *, k: int = 10, measure: Measure = "cosine"
) -> Neighbours:
    """The k words nearest to each query: a word, several, or vectors (d,) or (query, d). A word is not its own.

    Raises:
        UnknownName: a word without a vector (near spellings are offered), or no such measure.
        OutOfRange: k is not between 1 and the number of other words.
        BadShape: vectors of another size.
    """
    check_choice("measure", measure, get_args(Measure))
    check_k(k, len(words) - 1)
    names, vectors, own = _read_queries(words, queries)
    found: list[tuple[tuple[str, ...], Tensor]] = []
    step = max(1, _AT_ONCE // len(words))
    for begin in range(0, len(vectors), step):
        chunk = slice(begin, begin + step)
        scores = _similarities(words, vectors[chunk], measure)
        for row, excluded in zip(scores, own[chunk], strict=True):
            found.append(_best(words, row, k, excluded))
    manifest = {**words.manifest, "method": "nearest neighbours", "method_arguments": {"k": k, "measure": measure}}
    return Neighbours(
        names, tuple(best for best, _ in found), torch.stack([scores for _, scores in found]), measure, manifest
    )


@dataclass(frozen=True, eq=False)
class Analogy(Result):
    """The candidates for one analogy, best first."""

    question: str
    """The question as a sum: 'king - man + woman'."""
    words: tuple[str, ...]
    scores: Float[Tensor, " k"]
    """Cosine with the sum (3CosAdd), or the product of similarities (3CosMul)."""
    method: AnalogyMethod
    keep_inputs: bool
    """Whether the question's own words could be answers."""
    expected: str | None
    rank: int | None
    """Rank of the expected word, 1 for the first; None if no word was expected."""
    n_candidates: int
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The best answers."""
        expected = {} if self.expected is None else {f"rank of {self.expected}": self.rank}
        return Summary(
            f"{self.question} ({self.method}; its own words {'kept' if self.keep_inputs else 'dropped'})",
            {"answers": ", ".join(self.words[:5]), **expected}, source_of(self.manifest),
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per candidate."""
        import pandas

        return pandas.DataFrame(
            {"question": self.question, "rank": rank, "word": word, "score": score, "keep_inputs": self.keep_inputs}
            for rank, (word, score) in enumerate(zip(self.words, self.scores.tolist(), strict=True), start=1)
        )


@checked
def solve_analogy(
    words: WordVectors,
    positive: Sequence[str],
    negative: Sequence[str] = (),
    *,
    method: AnalogyMethod = "3CosAdd",
    keep_inputs: bool = False,
    k: int = 10,
    expected: str | None = None,
) -> Analogy:
    """The words nearest to a sum of words: ``solve_analogy(words, ["king", "woman"], ["man"])``.

    Every word counts at length one. `keep_inputs` lets the question's own words be answers. `expected`: also say at
    which rank this word stands.

    Raises:
        UnknownName: a word without a vector (near spellings are offered), or no such method.
        OutOfRange: k is not between 1 and the number of candidates; 3CosMul without positive words, or no words; words
            that cancel out.
    """
    check_choice("analogy method", method, get_args(AnalogyMethod))
    plus, minus = [[sides] if isinstance(sides, str) else list(sides) for sides in (positive, negative)]
    if not plus and not minus or (method == "3CosMul" and not plus):
        raise OutOfRange(f"{method} of {len(plus)} positive and {len(minus)} negative words: it needs a positive one")
    inputs = {words.index(word) for word in [*plus, *minus]}
    excluded = set() if keep_inputs else inputs
    check_k(k, len(words) - len(excluded))
    answer = None if expected is None else words.index(expected)
    if answer in excluded:
        raise UnknownName(f"expected {expected!r}: a word of the question, dropped from the answers; keep_inputs=True")
    scores = _analogy_scores(words, plus, minus, method)
    best, values = _best(words, scores, k, excluded)
    rank = None
    if answer is not None:
        allowed = torch.ones(len(words), dtype=torch.bool)
        allowed[list(excluded)] = False
        rank = 1 + int(((scores > scores[answer]) & allowed).sum())
    arguments = {"positive": plus, "negative": minus, "method": method, "keep_inputs": keep_inputs, "k": k}
    return Analogy(
        question=" ".join([" + ".join(plus), *(f"- {word}" for word in minus)]).strip(),
        words=best, scores=values, method=method, keep_inputs=keep_inputs, expected=expected, rank=rank,
        n_candidates=len(words) - len(excluded),
        manifest={**words.manifest, "method": "analogy", "method_arguments": arguments},
    )  # fmt: skip


Questions = Mapping[str, Iterable[tuple[str, str, str, str]]]
"""Analogy questions by section: (a, b, c, expected), read as "a is to b as c is to expected"."""


@dataclass(frozen=True, eq=False)
class AnalogyScores(Result):
    """Analogy questions, answered one by one."""

    sections: tuple[str, ...]
    """The section of each question that was answered."""
    questions: tuple[tuple[str, str, str, str], ...]
    answers: tuple[str, ...]
    correct: tuple[bool, ...]
    skipped: tuple[tuple[str, tuple[str, str, str, str]], ...]
    """Section and question, where a word is not among the first `restrict` words."""
    manifest: Mapping[str, Any]

    @property
    def accuracy(self) -> float:
        """Share of the answered questions whose answer is right; NaN if none was answered."""
        return sum(self.correct) / len(self.correct) if self.correct else float("nan")

    def summary(self) -> Summary:
        """How many answers are right."""
        return Summary(
            f"{count(len(self.questions), 'question')} answered, {len(self.skipped):,} skipped",
            {"right": f"{sum(self.correct):,}", "accuracy": self.accuracy}, source_of(self.manifest),
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per question; skipped ones have no answer."""
        import pandas

        asked = [
            {"section": section, **dict(zip("abc", question, strict=False)), "expected": question[3],
             "answer": answer, "correct": right}
            for section, question, answer, right
            in zip(self.sections, self.questions, self.answers, self.correct, strict=True)
        ]  # fmt: skip
        left_out = [
            {"section": section, **dict(zip("abc", question, strict=False)), "expected": question[3]}
            for section, question in self.skipped
        ]
        return pandas.DataFrame([*asked, *left_out])


@checked
def evaluate_analogies(
    words: WordVectors,
    questions: Questions | str | os.PathLike[str],
    *,
    restrict: int = 300_000,
    ignore_case: bool = True,
) -> AnalogyScores:
    """Answer sets of analogies (3CosAdd, inputs dropped) among the first `restrict` words, as gensim does.

    `questions` is {section: [(a, b, c, expected), ...]} or a file with a line ``: section`` and four words a line.
    Questions with a word outside are skipped, and listed.

    Raises:
        BrokenFile: a file that is not laid out so.
        BadShape: a question that is not four words.
        OutOfRange: `restrict` is not between 4 and the number of words (larger is all of them).
    """
    if restrict < 4:
        raise OutOfRange(f"restrict={restrict}: expected at least 4 words")
    if isinstance(questions, (str, os.PathLike)):
        questions = read_questions(questions)
    if not isinstance(questions, Mapping):
        raise WrongType(f"questions {brief(questions)}: expected a file, or {{section: [(a, b, c, expected), ...]}}")
    n = min(restrict, len(words))
    spell = str.upper if ignore_case else str
    # The first, most frequent of several spellings is the one that counts.
    places = {spell(word): place for place, word in zip(reversed(range(n)), reversed(words.words[:n]), strict=True)}
    spelled = [spell(word) for word in words.words[:n]]
    asked, sections, skipped = [], [], []
    for section, rows in questions.items():
        for row in several(f"questions[{section!r}]", rows):
            if len(several("analogy question", row)) != 4 or not all(isinstance(word, str) for word in row):
                raise BadShape(f"analogy question {tuple(row)!r} in {section!r}: expected four words")
            a, b, c, d = (spell(word) for word in row)
            question = (a, b, c, d)
            if all(word in places for word in question):
                asked.append(question)
                sections.append(section)
            else:
                skipped.append((section, question))
    answers = _answers(words, asked, places, spelled)
    manifest = {
        **words.manifest, "method": "evaluate analogies",
        "method_arguments": {"restrict": restrict, "ignore_case": ignore_case},
    }  # fmt: skip
    correct = tuple(answer == question[3] for answer, question in zip(answers, asked, strict=True))
    return AnalogyScores(tuple(sections), tuple(asked), tuple(answers), correct, tuple(skipped), manifest)


@checked
def read_questions(path: str | os.PathLike[str]) -> dict[str, list[tuple[str, str, str, str]]]:
    """A file of analogy questions: lines ``: section``, then four words a line.

    Raises:
        BrokenFile: it cannot be read, or is not laid out so; the message names the line.
    """
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    section = None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenFile(f"{path}: cannot be read as text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.startswith(": "):
            section = line[2:].strip()
            found.setdefault(section, [])
        elif line.strip():
            parts = line.split()
            if section is None or len(parts) != 4:
                raise BrokenFile(f"{path}, line {number}: expected four words, under a line ': section'")
            a, b, c, d = parts
            found[section].append((a, b, c, d))
    return found


def check_k(k: int, most: int) -> None:
    """Raise OutOfRange unless so many answers can be given."""
    if not 1 <= k <= most:
        raise OutOfRange(f"k={k}: expected 1 to {most:,}, the number of candidates")


def _read_queries(
    words: WordVectors, queries: str | Sequence[str] | Tensor
) -> tuple[tuple[str, ...], Tensor, list[set[int]]]:
    """Names, vectors, and for each the word that may not be its own neighbour."""
    if isinstance(queries, Tensor):
        if queries.is_complex():
            raise BadShape(f"query vectors of {queries.dtype}: expected real numbers")
        vectors = torch.atleast_2d(queries.detach().float().cpu())
        if vectors.ndim != 2 or vectors.shape[1] != words.d:
            raise BadShape(f"query vectors of shape {tuple(queries.shape)}: {words.name} has vectors of {words.d}")
        if not vectors.isfinite().all():
            raise BadShape("query vectors hold NaN or infinity")
        return tuple(f"vector {place}" for place in range(len(vectors))), vectors, [set() for _ in vectors]
    names = tuple(one_or_several("queries", queries))
    if not names:
        raise OutOfRange("no queries: the list is empty")
    return names, words.vectors_of(names), [{words.index(name)} for name in names]


def _similarities(words: WordVectors, vectors: Float[Tensor, "query d"], measure: Measure) -> Tensor:
    if measure == "dot":
        return vectors @ words.vectors.T
    return torch.nn.functional.normalize(vectors, dim=-1) @ words.units.T


def _best(words: WordVectors, scores: Float[Tensor, " word"], k: int, excluded: set[int]) -> tuple[tuple, Tensor]:
    """The k best without the excluded ones. Equal scores come in the order of the vocabulary."""
    last = scores.topk(min(len(scores), k + len(excluded))).values[-1]
    places = (scores >= last).nonzero()[:, 0]  # all that equal the last too: topk takes any of these
    order = sorted(zip(scores[places].tolist(), places.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    kept = [(place, value) for value, place in order if place not in excluded][:k]
    return tuple(words.words[place] for place, _ in kept), torch.tensor([value for _, value in kept])


def _analogy_scores(words: WordVectors, plus: list[str], minus: list[str], method: AnalogyMethod) -> Tensor:
    up, down = (words.units[[words.index(word) for word in side]] for side in (plus, minus))
    if method == "3CosAdd":
        total = up.sum(0) - down.sum(0)
        if total.norm() < _TINY:
            raise OutOfRange(f"{' + '.join(plus)} - {' - '.join(minus)}: the words cancel out, so nothing is near")
        return _similarities(words, total[None], "cosine")[0]
    near, far = ((1 + side @ words.units.T) / 2 for side in (up, down))  # from -1..1 to 0..1
    return near.prod(0) / (far.prod(0) + _TINY)


def _answers(
    words: WordVectors, asked: Sequence[tuple[str, ...]], places: Mapping[str, int], spelled: Sequence[str]
) -> list[str]:
    """The best candidate of each question whose spelling is none of the three words given."""
    units = words.units[: len(spelled)]
    answers = []
    step = max(1, _AT_ONCE // len(spelled))
    for begin in range(0, len(asked), step):
        chunk = asked[begin : begin + step]
        a, b, c = (units[[places[question[side]] for question in chunk]] for side in range(3))
        scores = torch.nn.functional.normalize(b - a + c, dim=-1) @ units.T
        for row, question in zip(scores, chunk, strict=True):
            answers.append(_first_other(row, question[:3], spelled))
    return answers


def _first_other(scores: Tensor, given: Sequence[str], spelled: Sequence[str]) -> str:
    n = min(16, len(scores))
    while True:  # a word may stand there in many spellings
        ranked: list[int] = scores.topk(n).indices.tolist()
        answer = next((spelled[place] for place in ranked if spelled[place] not in given), None)
        if answer is not None:
            return answer
        if n == len(scores):
            raise ProbeError(f"no word is left beside {', '.join(given)}")
        n = min(4 * n, len(scores))
