"""Words as vectors: from static word vectors (GloVe, word2vec), or from a GPT's embedding or unembedding.

A GPT cuts text into tokens, and only some tokens are words. Here its words are the tokens that begin with a space and
go on with letters only (" tower" is the word "tower"); pieces of words, numbers, marks and special tokens are left out.
A word that the tokenizer cuts into several pieces has no vector of its own, and the error shows its pieces. A token
that is the beginning of a longer word (" tow") cannot be told from a word; it stays.
"""

import difflib
import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import check_fields, checked
from probe.catalogue import DEFAULT_WORD_VECTORS, known_models, known_word_vectors
from probe.errors import (
    BadPrompt,
    BadShape,
    BrokenFile,
    UnknownName,
    UnsupportedModel,
    check_choice,
    either,
    unknown_name,
)
from probe.fetching import fetch
from probe.gpt import GPT
from probe.provenance import fingerprint, provenance
from probe.shown import Shown, Summary, TableHead, beginning
from probe.tables import check_rows, long_table

if TYPE_CHECKING:
    import pandas

WeightName = Literal["embed", "unembed"]
OnMissing = Literal["error", "drop"]
_SEARCHED = 100_000
"""Near spellings are looked for among so many of the most frequent words."""


@dataclass(frozen=True, eq=False)
class WordVectors(Shown):
    """Words and their vectors, in the order of their source: static vectors and tokenizers put frequent ones first."""

    name: str
    """'glove-6b-50d', or a model and which of its matrices."""
    words: tuple[str, ...]
    vectors: Float[Tensor, "word d"]
    """float32, on the CPU, as the source has them."""
    manifest: Mapping[str, Any]
    """Where the vectors come from, with the fingerprint that tells them from others."""
    tokenizer: Any = None
    """A GPT's tokenizer, to show the pieces of what is not a word of its own; None of static vectors."""
    ranks: tuple[int, ...] | None = None
    """Each word's place in the whole vocabulary (of a GPT its token id). None: in the order of `words`."""

    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.vectors.ndim != 2 or len(self.words) != len(self.vectors):
            shape = tuple(self.vectors.shape)
            raise BadShape(f"{self.name}: {len(self.words):,} words and vectors of shape {shape}; expected (word, d)")
        if not len(self.words) or not self.vectors.shape[1]:
            raise BadShape(f"{self.name}: no words, or vectors without numbers")
        if not self.vectors.dtype.is_floating_point:
            raise BadShape(f"{self.name}: vectors of {self.vectors.dtype}, expected floating point")
        object.__setattr__(self, "_index", {word: place for place, word in enumerate(self.words)})
        if len(self._index) != len(self.words):
            twice = next(word for place, word in enumerate(self.words) if self._index[word] != place)
            raise BadShape(f"{self.name}: the word {twice!r} occurs twice")
        broken = ~self.vectors.isfinite().all(1)
        if broken.any():
            word = self.words[int(broken.nonzero()[0])]
            raise BadShape(
                f"{self.name}: the vector of {word!r} holds NaN or infinity ({int(broken.sum())} such words)"
            )

    def summary(self) -> Summary:
        """How many words there are, and the first of them."""
        return Summary(f"{len(self.words):,} words of {self.d:,} numbers", {"first": self.words[:6]}, self.name)

    def first_rows(self, n: int) -> TableHead:
        """The first n rows of the table, all of the first word."""
        return beginning(self.to_dataframe(self.words[:1]), n, len(self.words) * self.d)

    def to_dataframe(self, words: Sequence[str] | None = None) -> "pandas.DataFrame":
        """Long form: one row per word and dimension, of these words or (None) of all.

        Raises:
            UnknownName: a word without a vector.
            OutOfRange: more than 5,000,000 rows.
        """
        chosen = self.words if words is None else tuple(words)
        check_rows(f"{len(chosen):,} words", len(chosen) * self.d, "name some words, or read `vectors`")
        vectors = self.vectors if words is None else self.vectors_of(chosen)
        return long_table(vectors, ("word", "dimension"), {"word": chosen})

    @property
    def d(self) -> int:
        """Numbers in each vector."""
        return self.vectors.shape[1]

    @property
    def space(self) -> str:
        """What tells these vectors from all others: a direction found here means nothing elsewhere."""
        return self.manifest["fingerprint"]

    @cached_property
    def units(self) -> Float[Tensor, "word d"]:
        """The vectors at length one (a zero vector stays zero)."""
        return torch.nn.functional.normalize(self.vectors, dim=-1)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word in self._index

    def __getitem__(self, word: str) -> Float[Tensor, " d"]:
        """One word's vector.

        Raises:
            UnknownName: no such word; near spellings are offered.
        """
        return self.vectors[self.index(word)]

    def index(self, word: str) -> int:
        """Where a word stands in `words`.

        Raises:
            UnknownName: as `[word]`.
        """
        if not isinstance(word, str) or word not in self._index:
            raise UnknownName(self._why_missing(word))
        return self._index[word]

    @checked
    def missing(self, words: Iterable[str]) -> dict[str, str]:
        """Which of these words have no vector here, with the reason and near spellings."""
        return {word: self._why_missing(word) for word in dict.fromkeys(words) if word not in self._index}

    @checked
    def vectors_of(self, words: Sequence[str]) -> Float[Tensor, "word d"]:
        """The vectors of several words.

        Raises:
            UnknownName: as `[word]`, for the first that has none.
        """
        return self.vectors[[self.index(word) for word in words]]

    @checked
    def unrelated(self, n: int, *, without: Iterable[str], seed: int) -> Float[Tensor, "word d"]:
        """Vectors of n different words drawn from the 20,000 most frequent ones, without the given words."""
        excluded = {self._index[word] for word in without if word in self._index}
        frequent = [place for place in range(min(20_000, len(self.words))) if place not in excluded]
        order = torch.randperm(len(frequent), generator=torch.Generator().manual_seed(seed))[:n]
        return self.vectors[[frequent[place] for place in order.tolist()]]

    @checked
    def confounds(self, words: Sequence[str]) -> dict[str, Float[Tensor, " word"]]:
        """What a direction may follow instead of meaning: log of the vocabulary rank, and length in letters."""
        places = [self.index(word) for word in words]
        ranks = places if self.ranks is None else [self.ranks[place] for place in places]
        return {
            "log vocabulary rank": torch.tensor([rank + 1.0 for rank in ranks], dtype=torch.float64).log(),
            "letters": torch.tensor([float(len(word)) for word in words], dtype=torch.float64),
        }

    @checked
    def twin(self, seed: int = 0) -> "WordVectors":
        """What learning started from: the same words with independent random vectors."""
        generator = torch.Generator().manual_seed(seed)
        manifest = {**self.manifest, "fingerprint": f"{self.space} random {seed}"}
        vectors = torch.randn(self.vectors.shape, generator=generator)
        return WordVectors(
            f"{self.name} (random, seed {seed})", self.words, vectors, manifest, self.tokenizer, self.ranks
        )

    def _why_missing(self, word: object) -> str:
        if not isinstance(word, str):
            return f"word {word!r}: expected text"
        says = f"no word {word!r} in {self.name}"
        if self.tokenizer is not None and word.strip() and word.strip() == word:
            try:
                self.tokenizer.token_id(f" {word}")
            except BadPrompt as error:
                says += f": {error}"
        near = self._near(word)
        return f"{says}; did you mean {either(near)}?" if near else says

    def _near(self, word: str) -> list[str]:
        """A different case first, then near spellings. Only words that could be near are compared: it takes 0.1 s."""
        cases = [case for case in (word.strip(), word.lower(), word.capitalize()) if case in self._index]
        if cases:
            return list(dict.fromkeys(cases))
        plain = word.strip().lower() if self.words[0].islower() else word.strip()
        likely = [
            other for other in self.words[:_SEARCHED]
            if plain and other and abs(len(other) - len(plain)) <= 2
            and (other[0] == plain[0] or other[-1] == plain[-1])
        ]  # fmt: skip
        return difflib.get_close_matches(plain, likely, n=3, cutoff=0.7)


@checked
def load_word_vectors(source: str | os.PathLike[str] | None = None, *, progress: bool = True) -> WordVectors:
    """Static word vectors: a name of the catalogue, or a file in word2vec's or GloVe's text or binary format.

    None is GloVe 6B 50d. Text files may have word2vec's first line with the two sizes, or not; .gz is read too. Files
    need the package gensim: ``pip install "probe-gpt[words]"``.

    Raises:
        UnknownName: no such file or name; the nearest is offered.
        UnsupportedModel: a format that is not read, or gensim is missing.
        BrokenFile: a file that is truncated or is no word vectors.
        FetchFailed: a download that could not be made or checked.
    """
    source = DEFAULT_WORD_VECTORS if source is None else source
    path = Path(source).expanduser()
    if path.is_file():
        return _read_file(path)
    known = [one.name for one in known_word_vectors()]
    if source in known:
        return _read_known(str(source), progress)
    if source in [model.name for model in known_models()]:
        raise UnknownName(f"{source!r} is a GPT: load it, then probe.word_vectors(model, 'embed') reads its words")
    raise unknown_name("word vectors or file", str(source), known)


@checked
def word_vectors(model: GPT, which: WeightName = "embed") -> WordVectors:
    """A GPT's words as vectors: rows of its embedding W_E as they enter the stream, or of its unembedding W_U.

    Of the unembedding, the final norm's gain is folded in (and the mean that a LayerNorm subtracts taken out): its
    vectors are what the normalised residual stream is compared with. So they differ from the embedding's also where a
    model uses one matrix for both.

    Raises:
        UnknownName: neither "embed" nor "unembed".
        UnsupportedModel: a model without a tokenizer, or whose tokens hold no words after a space.
    """
    check_choice("word vectors", which, get_args(WeightName))
    if model.tokenizer is None:
        raise UnsupportedModel(f"{model.name} has no tokenizer, so its vectors belong to no words")
    d_vocab = model.config.d_vocab if which == "embed" else model.config.n_outputs
    texts = model.tokenizer.str_tokens(range(d_vocab))
    ids = [token for token, text in enumerate(texts) if text[:1] == " " and text[1:].isalpha()]
    if not ids:
        raise UnsupportedModel(f"{model.name}: none of its {d_vocab:,} tokens is a word after a space")
    weight = model.token_vectors.detach() if which == "embed" else model.logit_directions.mT
    return WordVectors(
        name=f"{model.name}, {'embedding' if which == 'embed' else 'unembedding'}",
        words=tuple(texts[token][1:] for token in ids),
        vectors=weight[ids].float().cpu(),
        manifest={**provenance(model), "word_vectors": which, "fingerprint": f"{fingerprint(model)} {which}"},
        tokenizer=model.tokenizer,
        ranks=tuple(ids),
    )


def from_arrays(name: str, words: Sequence[str], vectors: Tensor, **about: Any) -> WordVectors:
    """Word vectors of your own, (word, d).

    Raises:
        BadShape: not one vector for each word, a word that occurs twice, or NaN.
    """
    digest = hashlib.sha256("\n".join(words).encode())
    digest.update(vectors.contiguous().numpy().tobytes())
    manifest = {"word_vectors": name, **about, "fingerprint": digest.hexdigest()[:16]}
    return WordVectors(name, tuple(words), vectors, manifest)


def _read_known(name: str, progress: bool) -> WordVectors:
    import numpy
    import pandas

    folder = fetch(name, progress=progress)
    vectors = torch.from_numpy(numpy.load(folder / "glove_6B_50d_emb.npy", allow_pickle=False))
    words = pandas.read_parquet(folder / "glove_6B_index.parquet")["index"].tolist()
    known = next(one for one in known_word_vectors() if one.name == name)
    # The catalogue's checksum was compared when the file was fetched: it need not be computed again.
    manifest = {"word_vectors": name, "source": known.source, "fingerprint": known.wheel.files[0].sha256[:16]}
    return WordVectors(name, tuple(words), vectors, manifest)


def _read_file(path: Path) -> WordVectors:
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise UnsupportedModel(f"{path}: reading it needs gensim; pip install 'probe-gpt[words]'") from error
    if path.suffix in (".kv", ".model", ".pkl", ".pickle"):
        raise UnsupportedModel(
            f"{path}: gensim's own format is a pickle, which can run code; save it there with save_word2vec_format"
        )
    binary, header = _format_of(path)
    if header is not None and header[0] * header[1] > path.stat().st_size * (1032 if path.suffix == ".gz" else 1):
        # Each number takes a byte at least; gzip makes at most 1,032 bytes of one. Room is made for what is declared.
        raise BrokenFile(f"{path}: declares {header[0]:,} words of {header[1]:,} numbers, more than it can hold")
    try:
        read = KeyedVectors.load_word2vec_format(str(path), binary=binary, no_header=header is None)
    except (ValueError, EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise BrokenFile(f"{path}: no word vectors in word2vec's or GloVe's format ({error})") from error
    if not all(isinstance(word, str) for word in read.index_to_key):  # so gensim leaves what a file did not hold
        raise BrokenFile(f"{path}: holds fewer words than it declares, or one twice; it is truncated or damaged")
    return from_arrays(path.name, read.index_to_key, torch.from_numpy(read.vectors), file=str(path))


def _format_of(path: Path) -> tuple[bool, tuple[int, int] | None]:
    """Whether the numbers are binary, and the two sizes that a first line may give."""
    import gzip

    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            begin = file.read(1 << 16)
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenFile(f"{path}: cannot be read ({error})") from error
    first, _, rest = begin.partition(b"\n")
    header = len(first.split()) == 2 and all(part.isdigit() and len(part) < 20 for part in first.split())
    if not header:
        return False, None
    numbers = rest.split(b"\n")[0].split()[1:]
    n_words, d = (int(part) for part in first.split())
    return not _are_numbers(numbers), (n_words, d)


def _are_numbers(parts: Sequence[bytes]) -> bool:
    try:
        return bool([float(part) for part in parts])
    except ValueError:
        return False
