"""Words in sentences: a model's residual stream at a layer, read at a word that stands in sentence templates.

What a layer holds at a word depends on the sentence, so each word is read in several and the mean is taken. A template
is a text with ``{}`` where the word goes. By default the word's last token is read, of which nothing after it can be
seen; `read="end"` reads the last token of the whole template instead. Position 0 is never read: it is an attention
sink, where all words look alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from probe.arguments import checked, one_or_several
from probe.attention import KeyValueCache
from probe.errors import BadPrompt, NumbersBroke, UnknownName, check_choice
from probe.gpt import GPT
from probe.prompts import read_prompts
from probe.provenance import fingerprint, provenance
from probe.shown import Shown, Summary
from probe.sites import full_name, site_dims, split_name
from probe.weights import untrained_twin
from probe.words import word_vectors

Read = Literal["word", "end"]
_AT_ONCE = 128
"""Words in a batch: larger ones are no faster on a CPU."""


@dataclass(frozen=True, eq=False)
class WordsInContext(Shown):
    """Words as vectors: the mean over templates of a model's residual stream at one site."""

    model: GPT
    site: str
    """Full name: 'blocks.12.hook_resid_post'."""
    templates: tuple[str, ...]
    read: Read
    """Which token is read: the word's last one, or the last of the whole template."""
    document_start: bool

    def summary(self) -> Summary:
        """The place, and the first template."""
        return Summary(f"words at {self.site}", {"read": f"the {self.read}’s last token", "templates": self.templates},
                       self.model.name)  # fmt: skip

    @property
    def name(self) -> str:
        """The model, the place and the token that is read."""
        token = "the word’s last token" if self.read == "word" else "the template’s last token"
        n = len(self.templates)
        return f"{self.model.name}, {self.site} at {token} in {n} template{'s' if n > 1 else ''}"

    @property
    def space(self) -> str:
        """What tells these vectors from others; the templates may differ."""
        return f"{fingerprint(self.model)} {self.site} {self.read}"

    @property
    def manifest(self) -> dict[str, Any]:
        """What is needed to read the same again."""
        return {
            **provenance(self.model), "site": self.site, "templates": list(self.templates), "read": self.read,
            "document_start": self.document_start,
        }  # fmt: skip

    @checked
    def missing(self, words: Iterable[str]) -> dict[str, str]:
        """Every word of letters can be read, in several tokens if need be; only empty ones cannot."""
        return {word: f"no word {word!r}: expected text" for word in words if not str(word).strip()}

    @checked
    def vectors_of(self, words: Sequence[str]) -> Float[Tensor, "word d"]:
        """The mean over templates of each word's vector."""
        return read_words(
            self.model, words, [self.site], templates=self.templates, read=self.read,
            document_start=self.document_start, progress=False,
        )[0]  # fmt: skip

    @checked
    def unrelated(self, n: int, *, without: Iterable[str], seed: int) -> Float[Tensor, "word d"]:
        """Vectors of n different whole-word tokens in the same templates, without the given words."""
        own = self._own_words
        excluded = set(without)
        candidates = [word for word in own.words[:20_000] if word not in excluded]
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))[:n]
        return self.vectors_of([candidates[place] for place in order.tolist()])

    @checked
    def confounds(self, words: Sequence[str]) -> dict[str, Float[Tensor, " word"]]:
        """What a direction may follow instead of meaning: log of the last token's id (tokenizers put frequent tokens
        first), length in letters, number of tokens."""
        assert self.model.tokenizer is not None, "checked by words_in_context"
        ids = read_prompts(self.model.config, self.model.tokenizer, [f" {word}" for word in words]).ids
        columns = {
            "log rank of the last token": torch.tensor([row[-1] + 1.0 for row in ids], dtype=torch.float64).log(),
            "letters": torch.tensor([float(len(word)) for word in words], dtype=torch.float64),
            "tokens": torch.tensor([float(len(row)) for row in ids], dtype=torch.float64),
        }
        return columns

    @checked
    def twin(self, seed: int = 0) -> "WordsInContext":
        """What is read, in the same way, from the untrained twin: same shape and tokenizer, random weights."""
        twin = untrained_twin(self.model, seed)
        return WordsInContext(twin, self.site, self.templates, self.read, self.document_start)

    @cached_property
    def _own_words(self) -> Any:
        return word_vectors(self.model, "embed")


@checked
def words_in_context(
    model: GPT,
    layer: int,
    templates: str | Sequence[str],
    *,
    site: str = "resid_post",
    read: Read = "word",
    document_start: bool | None = None,
) -> WordsInContext:
    """Words as vectors from a layer of a model: ``words_in_context(model, 12, ["I looked at the {}", ...])``.

    `site` is "resid_pre", "resid_mid" or "resid_post". `document_start` None: if the model's files name one.

    Raises:
        OutOfRange: no such layer.
        UnknownName: another site, or neither "word" nor "end".
        BadPrompt: a template without exactly one {}, one with the word at position 0; a model without tokenizer.
    """
    check_choice("token to read", read, get_args(Read))
    name = full_name(model.config, site, layer)
    if tuple(site_dims(name)) != ("batch", "pos", "d_model"):
        raise UnknownName(f"site {site!r}: words are read from the residual stream: resid_pre, resid_mid, resid_post")
    texts, start = check_templates(model, templates, read=read, document_start=document_start)
    return WordsInContext(model, name, texts, read, start)


def check_templates(
    model: GPT, templates: str | Sequence[str], *, read: Read, document_start: bool | None
) -> tuple[tuple[str, ...], bool]:
    """The templates, and whether a document start stands before them.

    Raises:
        BadPrompt: as `words_in_context`.
    """
    if model.tokenizer is None:
        raise BadPrompt(f"{model.name} has no tokenizer, and templates are text")
    start = model.tokenizer.document_start_id is not None if document_start is None else document_start
    texts = tuple(one_or_several("templates", templates))
    if not texts:
        raise BadPrompt("no templates: the list is empty")
    for text in texts:
        if not isinstance(text, str) or text.count("{}") != 1:
            raise BadPrompt(f"template {text!r}: expected a text with {{}} once, where the word goes")
        if read == "word" and not start and not text.partition("{}")[0].strip():
            raise BadPrompt(
                f"template {text!r} puts the word at position 0, an attention sink where all words look alike; put "
                "something before {}, or document_start=True"
            )
        before = text.partition("{}")[0]
        if before and not before[-1].isspace():
            raise BadPrompt(f"template {text!r}: expected a space before {{}}, so that the word is a word of its own")
    return texts, start


@torch.no_grad()
def read_words(
    model: GPT,
    words: Sequence[str],
    sites: Sequence[str],
    *,
    templates: Sequence[str],
    read: Read,
    document_start: bool,
    progress: bool,
) -> Float[Tensor, "site word d"]:
    """The mean over templates of every word at several sites (full names), from one pass each; float32, on the CPU.

    What the texts of a template have in common at their beginning is run once, layers above the last site never.

    Raises:
        BadPrompt: a text that is longer than the context, or whose word would be read at position 0.
        NumbersBroke: the residual stream holds NaN or infinity.
    """
    total = torch.zeros(len(sites), len(words), model.config.d_model)
    step = _AT_ONCE
    chunks = [(template, begin) for template in templates for begin in range(0, len(words), step)]
    for template, begin in tqdm(chunks, desc="reading words", delay=1, disable=None if progress else True):
        texts = [_fill(template, word, read) for word in words[begin : begin + step]]
        rows = read_prompts(model.config, model.tokenizer, texts, document_start=document_start).ids
        for text, row in zip(texts, rows, strict=True):
            if len(row) < 2:
                raise BadPrompt(f"{text!r} is one token: position 0 is an attention sink and never read")
        total[:, begin : begin + step] += _read_last(model, rows, sites)
    if not total.isfinite().all():
        raise NumbersBroke(f"the residual stream of {model.name} holds NaN or infinity at these words")
    return total / len(templates)


def _fill(template: str, word: str, read: Read) -> str:
    """The text up to the token that is read: nothing after it is seen."""
    before, _, after = template.partition("{}")
    return before + word + (after if read == "end" else "")


def _read_last(model: GPT, rows: Sequence[tuple[int, ...]], sites: Sequence[str]) -> Float[Tensor, "site row d"]:
    """The values of sites at each row's last token."""
    n_shared = min(_n_common(rows), min(map(len, rows)) - 1)
    end = max(split_name(site)[0] or 0 for site in sites)
    cache = None
    if n_shared:
        cache = KeyValueCache(n_shared)
        model.run_layers(_embed(model, [rows[0][:n_shared]]), stop_after_layer=end, cache=cache)
        cache = cache.repeated(len(rows), max(map(len, rows)))
    tap = _LastTokens(frozenset(sites), torch.tensor([len(row) - 1 - n_shared for row in rows], device=model.device))
    rest = _embed(model, [row[n_shared:] for row in rows], seen=n_shared)
    model.run_layers(rest, tap=tap, stop_after_layer=end, cache=cache)
    return torch.stack([tap.kept[site].float().cpu() for site in sites])


def _n_common(rows: Sequence[tuple[int, ...]]) -> int:
    """Tokens with which all rows begin."""
    return next((n for n, column in enumerate(zip(*rows, strict=False)) if len({*column}) > 1), min(map(len, rows)))


def _embed(model: GPT, rows: Sequence[tuple[int, ...]], *, seen: int = 0) -> Float[Tensor, "batch pos d_model"]:
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=model.device)
    return model.embed_tokens(tokens, seen=seen)


class _LastTokens:
    """A tap that keeps the residual stream at one position of each row."""

    def __init__(
        self, sites: frozenset[str], last: Int[Tensor, " row"], prefix: str = "", kept: dict[str, Tensor] | None = None
    ):
        self.sites, self.last, self.prefix = sites, last, prefix
        self.kept: dict[str, Tensor] = {} if kept is None else kept

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if self.prefix + name in self.sites:
            self.kept[self.prefix + name] = value[torch.arange(len(self.last), device=value.device), self.last]
        return value

    def wants(self, name: str) -> bool:
        """Attention's inner values are never asked for."""
        return False

    def scope(self, prefix: str) -> "_LastTokens":
        """This tap inside a part of the model, whose names begin with `prefix`."""
        return _LastTokens(self.sites, self.last, f"{self.prefix}{prefix}.", self.kept)
