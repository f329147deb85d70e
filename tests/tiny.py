"""Tiny random models of every family, for tests."""

import dataclasses

import torch

from probe.config import GPTConfig
from probe.errors import BadPrompt
from probe.gpt import GPT

GPT2 = GPTConfig(n_layers=3, d_model=32, n_heads=4, d_head=8, d_mlp=48, d_vocab=50, n_ctx=64)
LLAMA = GPTConfig(
    n_layers=3, d_model=32, n_heads=4, d_head=8, d_mlp=48, d_vocab=50, n_ctx=64, n_kv_heads=2, norm="rms",
    positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False, attn_out_bias=False, mlp_bias=False,
)  # fmt: skip
CONFIGS = {"gpt2": GPT2, "llama": LLAMA}
_SIZES = {"n_layers": 3, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 48, "d_vocab": 50, "n_ctx": 64}
NEOX = GPTConfig(**_SIZES, positions="rotary", rotary_dim=4, activation="gelu", parallel=True, tied_embeddings=False)
NEO = GPTConfig(**_SIZES, qkv_bias=False, attn_scale=1.0, windows=(None, 4, None))
QWEN3 = dataclasses.replace(LLAMA, d_head=12, qk_norm=True, windows=(None, None, 5))
GEMMA2 = dataclasses.replace(
    LLAMA, norm="rms_plus_one", activation="gelu_tanh", post_norms=True, embed_scale=32**0.5, attn_scale=0.3,
    attn_soft_cap=3.0, logit_soft_cap=6.0, windows=(4, None, 4),
)  # fmt: skip
PHI = dataclasses.replace(NEOX, activation="gelu_tanh", shared_norm=True, unembed_bias=True)
ATTENTION = dataclasses.replace(GPT2, d_mlp=0, tied_embeddings=False)
BARE = dataclasses.replace(GPT2, norm="none", activation="relu", tied_embeddings=False, d_vocab_out=40)
SOLU = dataclasses.replace(GPT2, activation="solu", mlp_norm=True, tied_embeddings=False)
MORE = {
    "neox": NEOX, "neo": NEO, "qwen3": QWEN3, "gemma2": GEMMA2, "phi": PHI, "attention": ATTENTION, "bare": BARE,
    "solu": SOLU,
}  # fmt: skip
"""Families that differ in the arithmetic of a layer: test_families.py has what must be right in all of them."""


class LetterTokenizer:
    """One token per character: 'a' is 1, 'b' is 2, ...; 0 separates documents."""

    document_start_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 96 for letter in text]

    def str_tokens(self, ids) -> list[str]:
        return ["<start>" if token == 0 else chr(token + 96) for token in ids]


class WordTokenizer:
    """One token per word of two letters, with its space; 0 separates documents; the last few are no words."""

    document_start_id = 0
    words = tuple(first + second for first in "abcdef" for second in "klmnopqr")[:45]
    texts = ("<start>", *(f" {word}" for word in words), "x", " 7", " a b", "é")

    def encode(self, text: str) -> list[int]:
        return [self.texts.index(f" {word}") for word in text.split()]

    def str_tokens(self, ids) -> list[str]:
        return [self.texts[token] if token < len(self.texts) else f"<unused {token}>" for token in ids]

    def token_id(self, text: str) -> int:
        if text not in self.texts:
            raise BadPrompt(f"{text!r} is not one token of this model")
        return self.texts.index(text)


def tiny_model(family: str = "llama", *, seed: int = 0, scale: float = 10.0) -> GPT:
    """Random weights, ten times larger than usual: attention is not flat, and mistakes are larger than rounding."""
    torch.manual_seed(seed)
    model = GPT({**CONFIGS, **MORE}[family], tokenizer=LetterTokenizer(), name=f"tiny {family}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rsplit(".", 1)[-1].startswith("b"):
                parameter.normal_(0, 0.1)
            elif parameter.ndim == 2:
                parameter.mul_(scale)
        if model.config.norm == "none":  # no norm makes the stream as large as others are
            model.embed.W_E.mul_(5)
    return model


def tiny_tokens(batch: int = 2, pos: int = 9, *, seed: int = 0) -> torch.Tensor:
    """(batch, pos) random ids of the tiny vocabulary."""
    return torch.randint(0, 50, (batch, pos), generator=torch.Generator().manual_seed(seed))
