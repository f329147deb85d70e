"""A tokenizer's files -> the tokenizer itself, and what the files say about its special tokens.

Python code and pickles that a folder may hold are never executed; sentencepiece's own binary files are not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from probe.errors import BrokenFile, check_choice
from probe.json_files import read_object

Splitting = Literal["gpt2", "smollm", "llama3", "qwen2", "tekken"]
"""How text is cut before bytes are merged: each vocabulary's merges were learned on text cut in one of these ways."""


@dataclass(frozen=True)
class FolderTokenizer:
    """What a folder says about its tokenizer."""

    backend: tokenizers.Tokenizer
    bos: str | None
    eos: str | None
    chat_template: str | None
    document_separator: str | None
    """Only folders that probe wrote say so."""
    problem: str | None
    """Why text cannot be encoded; None: it can."""


class RefusedAs:
    """Turns the bare `Exception` with which `tokenizers` refuses bad input, and no subclass of it, into BrokenFile; and
    the panic, no `Exception` at all, that some input drives it into."""

    def __init__(self, what: object):
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            raise BrokenFile(f"{self._what} holds no usable tokenizer: {error}") from error


def read_folder(folder: Path) -> FolderTokenizer | None:
    """The tokenizer of a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt; None if it has neither.

    Raises:
        BrokenFile: a file that is not what its name says.
    """
    config = _read_json(folder / "tokenizer_config.json")
    problem = None
    if (folder / "tokenizer.json").is_file():
        with RefusedAs(folder / "tokenizer.json"):
            backend = tokenizers.Tokenizer.from_str(_read_text(folder / "tokenizer.json"))
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        backend, problem = _from_vocabulary_and_merges(folder, config)
    else:
        return None
    template = _read_text(folder / "chat_template.jinja") if (folder / "chat_template.jinja").is_file() else None
    return FolderTokenizer(
        backend,
        bos=_declared(folder, config, backend, "bos"),
        eos=_declared(folder, config, backend, "eos"),
        chat_template=template or default_template(config.get("chat_template")),
        document_separator=_text_of(config.get("document_separator")),
        problem=problem,
    )


def byte_level_bpe(
    vocabulary: dict[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    splitting: Splitting = "gpt2",
    prefix_space: bool = False,
    ignore_merges: bool = False,
) -> tokenizers.Tokenizer:
    """A tokenizer that cuts text into words and merges each word's bytes, most frequent pairs first.

    `ignore_merges`: a word that is itself a token becomes it whatever the merges say.
    Sources: Radford et al., "Language models are unsupervised multitask learners" (2019); the other ways of cutting
    as published with SmolLM2, Llama 3, Qwen 2 and Mistral NeMo.
    """
    check_choice("way of splitting text", splitting, tuple(_SPLITTERS))
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), ignore_merges=ignore_merges))
    backend.pre_tokenizer = _SPLITTERS[splitting](prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


@cache
def byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's table).

    Printable bytes stand for themselves; the others follow from U+0100 on, so that no token holds a space.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def default_template(template: object) -> str | None:
    """One chat template, of the several that a model may name."""
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _from_vocabulary_and_merges(folder: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, str | None]:
    kind = config.get("tokenizer_class", "GPT2Tokenizer").removesuffix("Fast")
    lines = _read_text(folder / "merges.txt").splitlines()
    lines = [line for line in lines if line and not line.startswith("#version")]
    vocabulary = _read_json(folder / "vocab.json")
    if bad := next((line for line in lines if line.count(" ") != 1), None):
        raise BrokenFile(f"{folder / 'merges.txt'}: expected two parts in {bad!r}")
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    if bad := next((token for token, id in vocabulary.items() if type(id) is not int or id < 0), None):
        raise BrokenFile(f"{folder / 'vocab.json'}: token {bad!r} has no whole number as its id")
    with RefusedAs(folder):
        backend = byte_level_bpe(
            vocabulary,
            merges,
            splitting=_SPLITTING_OF_CLASS.get(kind, "gpt2"),
            prefix_space=config.get("add_prefix_space") is True,
        )
    if kind == "Qwen2Tokenizer":
        backend.normalizer = normalizers.NFC()
    _add_tokens(folder, config, backend)
    if kind in _SPLITTING_OF_CLASS:
        return backend, None
    return backend, f"{folder} has no tokenizer.json, and how a {kind} cuts text is not known here"


def _add_tokens(folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer) -> None:
    """Tokens that are matched whole, in the order of their ids, which is how they get those ids."""
    added = {
        int(id): AddedToken(entry["content"], special=bool(entry.get("special")), normalized=False)
        for id, entry in (config.get("added_tokens_decoder") or {}).items()
        if str(id).isdigit() and _text_of(entry)
    }
    plain = {id: text for text, id in _read_json(folder / "added_tokens.json").items() if isinstance(id, int)}
    for id, text in plain.items():
        added.setdefault(id, AddedToken(text, special=False, normalized=False))
    for id in sorted(added):
        (backend.add_special_tokens if added[id].special else backend.add_tokens)([added[id]])
    marks = {_declared(folder, config, backend, name) for name in ("bos", "eos", "unk", "pad")} | {"<|endoftext|>"}
    present = sorted(mark for mark in marks if mark and backend.token_to_id(mark) is not None)
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in present])


def _declared(folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer, name: str) -> str | None:
    """The text of the bos or eos token, in whichever of four places a folder says it."""
    marks = _read_json(folder / "special_tokens_map.json")
    for source in (config, marks):
        if f"{name}_token" in source:
            return _text_of(source[f"{name}_token"])
    for file in ("config.json", "generation_config.json"):
        id = _read_json(folder / file).get(f"{name}_token_id")
        id = id[0] if isinstance(id, list) and id else id
        if type(id) is int and 0 <= id < 2**32:
            return backend.id_to_token(id)
    return None


def _text_of(token: object) -> str | None:
    """A token's text, given as such or as {"content": text}."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    return read_object(path) if path.is_file() else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BrokenFile(f"{path} is not UTF-8 text: {error}") from error


def _split_by(pattern: str):
    def splitter(prefix_space: bool) -> pre_tokenizers.PreTokenizer:
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
        return pre_tokenizers.Sequence([split, to_bytes])

    return splitter


def _gpt2_splitter(prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)


def _smollm_splitter(prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2_splitter(prefix_space)])


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPLITTERS = {
    "gpt2": _gpt2_splitter,
    "smollm": _smollm_splitter,
    "llama3": _split_by(rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"),
    "qwen2": _split_by(rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}"),
    "tekken": _split_by(
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
_SPLITTING_OF_CLASS: dict[str, Splitting] = {"GPT2Tokenizer": "gpt2", "Qwen2Tokenizer": "qwen2"}
