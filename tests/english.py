"""A tiny random model that reads English, a token for every word: tasks can be made for it without a download."""

import dataclasses
import re

import torch

from probe.errors import BadPrompt
from probe.gpt import GPT
from tests.tiny import LLAMA


class EnglishTokenizer:
    """Every word of letters is one token, with its space; but for those named, which are spelled out."""

    document_start_id: int | None = 0

    def __init__(self, *spelled_out: str):
        self.spelled_out = spelled_out
        self.texts = ["<start>"]

    def encode(self, text: str) -> list[int]:
        return [self._id(piece) for word in re.findall(r" ?\w+|\s|[^\w\s]", text) for piece in self._pieces(word)]

    def str_tokens(self, ids) -> list[str]:
        return [self.texts[token] if token < len(self.texts) else f"<unused {token}>" for token in ids]

    def token_id(self, text: str) -> int:
        ids = self.encode(text)
        if len(ids) != 1:
            raise BadPrompt(f"{text!r} is not one token of this model")
        return ids[0]

    def _pieces(self, word: str) -> list[str]:
        return list(word) if word.strip() in self.spelled_out else [word]

    def _id(self, piece: str) -> int:
        if piece not in self.texts:
            self.texts.append(piece)
        return self.texts.index(piece)


def english_model(*spelled_out: str, n_ctx: int = 64) -> GPT:
    torch.manual_seed(0)
    config = dataclasses.replace(LLAMA, d_vocab=700, n_ctx=n_ctx)
    return GPT(config, tokenizer=EnglishTokenizer(*spelled_out), name="tiny English")
