"""The tokenizer that a GGUF file's metadata describes.

A GGUF names the way of cutting text into words instead of describing it. Where the name is none of those known here,
tokens can still be shown, but text cannot be encoded: a guess would give other tokens without anybody noticing.
Unicode is not normalised, as in llama.cpp, also where a model's original tokenizer does so (Qwen 2).
Source: llama.cpp's vocabulary code (2025) for what the names and the defaults mean.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from probe.errors import BrokenFile
from probe.tokenizer_files import RefusedAs, Splitting, byte_level_bpe
from probe.tokens import Tokenizer


class TokenType(IntEnum):
    """What tokenizer.ggml.token_type says of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_SPLITTINGS: dict[str | None, Splitting] = {
    None: "gpt2",
    "default": "gpt2",
    "gpt-2": "gpt2",
    "smollm": "smollm",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "tekken": "tekken",
}
_WHOLE_WORDS_FIRST: tuple[Splitting, ...] = ("llama3", "tekken")
"""A word that is a token becomes it whatever the merges say, and a bos is added unless the file says otherwise."""


def tokenizer_of(path: Path, metadata: dict[str, Any], *, document_start: str | None = None) -> Tokenizer | None:
    """The tokenizer in this metadata; None: there is none.

    Raises:
        BrokenFile: tokens, merges, scores or types that do not fit each other.
    """
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return None
    vocabulary = _Vocabulary(path, metadata)
    kind, cut = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    splitting = _SPLITTINGS.get(cut if isinstance(cut, str) else None)
    problem = None
    with RefusedAs(path):
        if kind == "llama":
            backend = _sentencepiece(vocabulary)
        else:
            backend = byte_level_bpe(
                vocabulary.ids,
                vocabulary.listed_merges() or (),
                splitting=splitting or "gpt2",
                ignore_merges=splitting in _WHOLE_WORDS_FIRST,
            )
            if kind != "gpt2":
                problem = f"its GGUF file has a tokenizer of kind {kind!r}, and only 'gpt2' and 'llama' are known here"
            elif splitting is None:
                problem = f"its GGUF file cuts text in a way called {cut!r}, which is not known here"
        vocabulary.mark_whole_tokens(backend)
        _add_ends(backend, vocabulary, bos_by_default=kind == "llama" or splitting in _WHOLE_WORDS_FIRST)
    template = metadata.get("tokenizer.chat_template")
    return Tokenizer(
        backend,
        bos=vocabulary.token("bos"),
        eos=vocabulary.token("eos"),
        chat_template=template if isinstance(template, str) else None,
        document_start=document_start,
        problem=problem,
    )


class _Vocabulary:
    """The tokens of the metadata with their types, checked against each other."""

    def __init__(self, path: Path, metadata: dict[str, Any]):
        self.path, self.metadata = path, metadata
        self.tokens: list[str] = self._list("tokens", str)
        self.ids = {token: id for id, token in enumerate(self.tokens)}
        types = metadata.get("tokenizer.ggml.token_type")
        self.types = [TokenType.NORMAL] * len(self.tokens) if types is None else self._per_token("token_type")

    def token(self, name: str, default: int | None = None) -> str | None:
        """The token that the file declares as bos, eos or unknown."""
        id = self.metadata.get(f"tokenizer.ggml.{name}_token_id", default)
        if id is None:
            return None
        if type(id) is not int or not 0 <= id < len(self.tokens):
            raise BrokenFile(f"{self.path}: {name} token id {id!r}: the file has tokens 0 to {len(self.tokens) - 1}")
        return self.tokens[id]

    def flag(self, name: str, default: bool) -> bool:
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if type(value) is not bool:
            raise BrokenFile(f"{self.path}: tokenizer.ggml.{name} is {value!r}: expected true or false")
        return value

    def listed_merges(self) -> list[tuple[str, str]] | None:
        """The merges that the file lists, in order; None: it lists none."""
        if "tokenizer.ggml.merges" not in self.metadata:
            return None
        merges = []
        for merge in self._list("merges", str):
            first, _, second = merge.partition(" ")
            if first not in self.ids or second not in self.ids or first + second not in self.ids:
                raise BrokenFile(f"{self.path}: merge {merge!r} is not of two tokens into a third")
            merges.append((first, second))
        return merges

    def merges_by_score(self) -> Iterator[tuple[str, str]]:
        """Every way to make a token of two others, the best-scored token first: what sentencepiece's greedy rule,
        merge the pair whose result scores best, amounts to."""
        scores = self._per_token("scores")
        normal = [id for id, kind in enumerate(self.types) if kind == TokenType.NORMAL]
        parts = {self.tokens[id] for id in normal}
        lengths = sorted({len(part) for part in parts})  # few: a damaged file may hold a token of a million letters
        known = set(lengths)
        for id in sorted(normal, key=lambda id: -scores[id]):
            token = self.tokens[id]
            for middle in lengths:
                if len(token) - middle not in known:
                    continue
                if token[:middle] in parts and token[middle:] in parts:
                    yield token[:middle], token[middle:]

    def mark_whole_tokens(self, backend: tokenizers.Tokenizer) -> None:
        """Control tokens and those that somebody added are found whole in text, before it is cut."""
        marked = (TokenType.CONTROL, TokenType.USER_DEFINED)
        for special in (True, False):
            kind = marked[0] if special else marked[1]
            whole = [token for token, type_ in zip(self.tokens, self.types, strict=True) if type_ == kind and token]
            added = [AddedToken(token, special=special, normalized=False) for token in whole]
            (backend.add_special_tokens if special else backend.add_tokens)(added)

    def _list(self, name: str, kind: type) -> list[Any]:
        values = self.metadata.get(f"tokenizer.ggml.{name}")
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise BrokenFile(f"{self.path}: tokenizer.ggml.{name} is no list of texts")
        return values

    def _per_token(self, name: str) -> Sequence[Any]:
        values = self.metadata.get(f"tokenizer.ggml.{name}")
        if not isinstance(values, np.ndarray) or len(values) != len(self.tokens):
            raise BrokenFile(f"{self.path}: tokenizer.ggml.{name} does not have one number for each of its tokens")
        return values.tolist()


def _sentencepiece(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    """Characters are merged, spaces are written as U+2581, and characters without a token fall back to bytes."""
    listed = vocabulary.listed_merges()
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary.ids,
            merges=list(vocabulary.merges_by_score()) if listed is None else listed,
            unk_token=vocabulary.token("unknown", default=0),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = vocabulary.flag("add_space_prefix", default=True)
    spaces = [normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *spaces] if prefix else spaces)
    text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*text, decoders.Strip(" ", 1, 0)] if prefix else text)
    return backend


def _add_ends(backend: tokenizers.Tokenizer, vocabulary: _Vocabulary, *, bos_by_default: bool) -> None:
    """Have the start and end tokens added to every text, if the file asks for them."""
    bos = vocabulary.token("bos") if vocabulary.flag("add_bos_token", default=bos_by_default) else None
    eos = vocabulary.token("eos") if vocabulary.flag("add_eos_token", default=False) else None
    pieces = [*(["bos"] if bos is not None else []), "$A", *(["eos"] if eos is not None else [])]
    ends = [
        {"id": name, "ids": [vocabulary.ids[token]], "tokens": [token]}
        for name, token in (("bos", bos), ("eos", eos))
        if token is not None
    ]
    if ends:
        backend.post_processor = processors.TemplateProcessing(single=pieces, special_tokens=ends)
