"""Logits -> numbers, each with its unit and sign."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import BadPrompt
from probe.gpt import GPT, at_least_float32
from probe.prompts import Prompts, read_prompts


def loss(model: GPT, prompts: Prompts, *, document_start: bool = False) -> Float[Tensor, "batch pos_less_one"]:
    """Surprise of every token but the first, in nats: -log of the probability that the model gave it.

    Entry i of a row is about token i + 1, predicted from the tokens up to i. NaN after the end of a shorter prompt.
    Gradients are kept, so ``loss(model, text).nanmean().backward()`` trains.

    Raises:
        ProbeError: prompts that the model cannot run (see `probe.record`), or of one token only.
    """
    batch = read_prompts(model.config, model.tokenizer, prompts, document_start=document_start)
    if max(batch.lengths) < 2:
        raise BadPrompt("loss needs at least two tokens: one to predict from, one to predict")
    tokens = batch.tokens(padding=0).to(model.device)
    surprise = surprise_of(model(tokens)[:, :-1], tokens[:, 1:])
    lengths = torch.tensor(batch.lengths, device=tokens.device)
    padding = torch.arange(1, tokens.shape[1], device=tokens.device) >= lengths[:, None]
    return surprise.masked_fill(padding, torch.nan)


def surprise_of(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """-log p(token) in nats, at every position."""
    flat = torch.nn.functional.cross_entropy(at_least_float32(logits).flatten(0, 1), tokens.flatten(), reduction="none")
    return flat.view(tokens.shape)
