"""Text <-> tokens, exactly as a model's own tokenizer does it, and how a token is shown.

Padding is not done here: a prompt's ids are its own.
"""

import json
import os
import re
import unicodedata
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from probe.errors import BadPrompt, OutOfRange, UnsupportedModel
from probe.tokenizer_files import byte_of_character, default_template, read_folder

CHAT_TURN_START, DOCUMENT_END = "<|im_start|>", "<|endoftext|>"


class Tokenizer:
    """A model's tokenizer: `backend` (from the `tokenizers` library) plus what a model's files say about its tokens.

    Cutting to a length and padding, which some files ask for, are switched off: a prompt is never shortened silently.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos: str | None = None,
        eos: str | None = None,
        chat_template: str | None = None,
        document_start: str | None = None,
        problem: str | None = None,
    ):
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.bos, self.eos = bos, eos
        """Declared start and end tokens, as text."""
        self.chat_template = chat_template
        """Jinja template of a chat, as the model's files give it."""
        if document_start is None:
            document_start = document_start_token(TokenizerFacts(bos, eos, _Vocabulary(backend)))
        self.document_start = document_start
        """The token that `document_start=True` puts first; None: none is known."""
        self._problem = problem
        """Why text cannot be encoded (tokens can still be shown); None: it can."""

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> "Tokenizer | None":
        """The tokenizer of a Hugging Face folder: tokenizer.json, or GPT-2's vocab.json and merges.txt; else None.

        Raises:
            BrokenFile: a file that is not what its name says.
        """
        found = read_folder(Path(folder))
        if found is None:
            return None
        return cls(
            found.backend,
            bos=found.bos,
            eos=found.eos,
            chat_template=found.chat_template,
            document_start=found.document_separator,
            problem=found.problem,
        )

    @classmethod
    def from_huggingface(cls, tokenizer: Any) -> "Tokenizer":
        """A copy of a fast tokenizer of the transformers library, in memory.

        Raises:
            UnsupportedModel: a slow one, written in Python.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, tokenizers.Tokenizer):
            kind = type(tokenizer).__name__
            raise UnsupportedModel(f"tokenizer of type {kind}: expected a fast one, with a backend_tokenizer")
        copy = tokenizers.Tokenizer.from_str(backend.to_str())
        template = default_template(getattr(tokenizer, "chat_template", None))
        return cls(copy, bos=tokenizer.bos_token, eos=tokenizer.eos_token, chat_template=template)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids, with the special tokens that the tokenizer's file adds by itself (a bos for some models).

        The text of a special token inside `text` becomes that token, as the file has it.

        Raises:
            BadPrompt: not text, text that is not valid Unicode, or a tokenizer whose way of cutting text is unknown.
        """
        return self._encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these tokens, special tokens included; bytes that are not valid UTF-8 become U+FFFD."""
        return self.backend.decode([_integer(id) for id in ids], skip_special_tokens=False)

    def str_tokens(self, ids: Iterable[int]) -> list[str]:
        r"""The text of each token on its own, its leading space kept.

        A byte that is no UTF-8 on its own (part of an emoji, say) is written ``\xf0``. Backslashes of the text itself
        that stand right before such a form, or before text that looks like one, are doubled, as in Python's own
        strings; elsewhere a backslash is a backslash.
        """
        return [self._shown(_integer(id)) for id in ids]

    def bytes_of(self, id: int) -> bytes:
        """What this token contributes to the text, as bytes.

        Raises:
            OutOfRange: the tokenizer has no such token.
        """
        piece = self.backend.id_to_token(_integer(id))
        if piece is None:
            raise OutOfRange(f"token id {id}: this tokenizer has no such token, only {self.d_vocab} tokens")
        return piece.encode() if id in self._added else self._bytes_of_piece(piece)

    def token_id(self, text: str) -> int:
        """The id of the one token whose text is exactly this.

        Raises:
            BadPrompt: it is not one token; the message shows its pieces.
        """
        if self._spelling == "metaspace" and text:  # encoding would put a space before the first word
            piece = self.backend.token_to_id(text.replace(" ", "▁"))
            if piece is not None:
                return piece
        ids = self._encode(text, add_special_tokens=False)
        if len(ids) == 1 and self.bytes_of(ids[0]) == text.encode():
            return ids[0]
        pieces = ", ".join(repr(piece) for piece in self.str_tokens(ids)) or "none"
        advice = "; words in running text begin with a space" if text[:1].isalnum() else ""
        raise BadPrompt(f"{text!r} is not one token of this model; its pieces: {pieces}{advice}")

    @property
    def d_vocab(self) -> int:
        """Number of tokens; a model's own `d_vocab` may be larger, padded with tokens that never occur."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_id(self) -> int | None:
        """Id of the declared start token."""
        return self._id_of(self.bos)

    @property
    def eos_id(self) -> int | None:
        """Id of the declared end token."""
        return self._id_of(self.eos)

    @property
    def document_start_id(self) -> int | None:
        """Id of `document_start`."""
        return self._id_of(self.document_start)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that are marks, not text."""
        return frozenset(id for id, token in self._added.items() if token.special)

    def save(self, folder: str | os.PathLike) -> None:
        """Write tokenizer.json and tokenizer_config.json, which `from_folder` and Hugging Face read back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Not backend.save, which turns a full disk into a bare Exception.
        (folder / "tokenizer.json").write_text(self.backend.to_str(), encoding="utf-8")
        facts = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos,
            "eos_token": self.eos,
            "chat_template": self.chat_template,
            "document_separator": self.document_start,
            "clean_up_tokenization_spaces": False,
        }
        text = json.dumps(
            {name: fact for name, fact in facts.items() if fact is not None}, indent=2, ensure_ascii=False
        )
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return f"Tokenizer({self.d_vocab} tokens, document_start={self.document_start!r})"

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if not isinstance(text, str):
            raise BadPrompt(f"expected text, got {type(text).__name__}")
        if self._problem is not None:
            raise BadPrompt(f"text {text[:40]!r}: {self._problem}; pass token ids")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadPrompt(f"text holds {text[error.start]!r} at {error.start}, which is half a character") from error
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self.backend.token_to_id(token)

    def _shown(self, id: int) -> str:
        try:
            return show_bytes(self.bytes_of(id))
        except OutOfRange:  # embeddings are often padded to a round number of rows
            return f"<unused {id}>"

    @cached_property
    def _added(self) -> dict[int, tokenizers.AddedToken]:
        return self.backend.get_added_tokens_decoder()

    @cached_property
    def _spelling(self) -> str:
        """How the vocabulary writes bytes and spaces, told from the decoder."""
        decoder = self.backend.decoder
        described = "" if decoder is None else decoder.__getstate__().decode()
        if '"ByteLevel"' in described:
            return "byte-level"
        return "metaspace" if "▁" in described or "\\u2581" in described else "plain"

    def _bytes_of_piece(self, piece: str) -> bytes:
        if self._spelling == "byte-level":
            table = byte_of_character()
            spelled = all(character in table for character in piece)
            return bytes(table[character] for character in piece) if spelled else piece.encode()
        if self._spelling == "metaspace":
            byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece)
            return bytes.fromhex(byte[1]) if byte else piece.replace("▁", " ").encode()
        return piece.encode()


@dataclass(frozen=True)
class TokenizerFacts:
    """What a model's files say about where a document starts."""

    bos: str | None
    eos: str | None
    vocabulary: Container[str]


def document_start_token(facts: TokenizerFacts) -> str | None:
    """The token that most likely stood between documents in pretraining; None: the files give no hint.

    The declared bos, with one exception: chat models often declare the mark that opens a chat turn, which never
    started a document. SmolLM2 is one (capitals it knows, of 41: 37 after <|endoftext|>, 34 after its declared bos).
    """
    if facts.bos == CHAT_TURN_START and DOCUMENT_END in facts.vocabulary:
        return DOCUMENT_END
    return next((token for token in (facts.bos, DOCUMENT_END, facts.eos) if token and token in facts.vocabulary), None)


def show_token(text: str) -> str:
    """A token in visible form, for a terminal or a figure: spaces at its ends as ·, newline ⏎, tab ⇥, others as ␀.

    What no font shows (other kinds of space, marks of direction) is named by its number: ⟨200b⟩.
    """
    bare = text.strip(" ")
    if not bare:
        return "·" * len(text)
    start = text.index(bare)
    shown = "·" * start + bare + "·" * (len(text) - start - len(bare))
    return "".join(_SIGNS.get(character) or _seen(character) for character in shown)


def _seen(character: str) -> str:
    """Itself, if it leaves a mark. Joiners within a word or an emoji are left to join."""
    hidden = unicodedata.category(character) in _HIDDEN and character not in " \u200c\u200d"
    return f"⟨{ord(character):04x}⟩" if hidden else character


_HIDDEN = {"Zs", "Zl", "Zp", "Cf", "Cc", "Co"}
_SIGNS = {chr(code): chr(0x2400 + code) for code in range(32)} | {"\n": "⏎", "\t": "⇥", "\x7f": "␡"}


def show_bytes(data: bytes) -> str:
    r"""Bytes as text, those that are not valid UTF-8 as ``\xf0``; see `Tokenizer.str_tokens` for backslashes."""
    text = data.decode("utf-8", errors="surrogateescape")  # a bad byte becomes one character in U+DC80 to U+DCFF
    text = re.sub(r"\\+(?=x[0-9a-fA-F]{2}|[\udc80-\udcff])", lambda found: found[0] * 2, text)
    return re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)


class _Vocabulary(Container[str]):
    """Membership without a copy of the whole vocabulary."""

    def __init__(self, backend: tokenizers.Tokenizer):
        self._backend = backend

    def __contains__(self, token: object) -> bool:
        return isinstance(token, str) and self._backend.token_to_id(token) is not None


def _integer(id: Any) -> int:
    if isinstance(id, bool) or not hasattr(id, "__index__"):
        raise OutOfRange(f"token id {id!r}: expected a whole number")
    number = id.__index__()
    if not 0 <= number < 2**32:
        raise OutOfRange(f"token id {number}: expected a number of at least 0")
    return number
