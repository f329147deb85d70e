"""Distributions over the next token: log-probabilities, entropy, KL divergence, surprise, ranks. In nats.

Right also where a probability is 0, as that of a token whose logit an intervention puts at minus infinity.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.norms import at_least_float32


def log_probs_of(logits: Float[Tensor, "*any d_vocab_out"]) -> Float[Tensor, "*any d_vocab_out"]:
    """Natural logarithms of the probabilities, in float32 or better; -inf where a logit is."""
    return at_least_float32(logits).log_softmax(-1)


def entropy_of(log_probs: Float[Tensor, "*any d_vocab_out"]) -> Float[Tensor, "*any"]:
    """-(sum over tokens of p log p) in nats, where 0 log 0 is 0."""
    return torch.special.entr(log_probs.exp()).sum(-1)


def kl_divergence(before: Float[Tensor, "*rows d_vocab_out"], after: Float[Tensor, "*any d_vocab_out"]) -> Tensor:
    """KL(before || after) = sum over tokens of p_before (log p_before - log p_after), of log-probabilities, in nats.

    Never below 0, and exactly 0 where both are equal. A token that is impossible before adds nothing; one that is
    possible before and impossible after makes it infinite. Leading dims are broadcast.
    """
    probs = before.exp()
    ratio = (before - after).masked_fill_(probs == 0, 0.0)  # of logarithms; in place, for it may be large
    return (probs * ratio).sum(-1).clamp(min=0.0)


def surprise_of(
    logits: Float[Tensor, "batch pos d_vocab_out"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """-log p(token) in nats, at every position."""
    flat = torch.nn.functional.cross_entropy(at_least_float32(logits).flatten(0, 1), tokens.flatten(), reduction="none")
    return flat.view(tokens.shape)


def ranks_of(
    scores: Float[Tensor, "*any d_vocab_out"],
    chosen: Float[Tensor, "*any token"],
    *,
    ties: Literal["better", "worse"] = "better",
) -> Int[Tensor, "*any token"]:
    """The places of some tokens in the whole vocabulary, from all scores and theirs: 1 is the highest.

    Tokens of one score share the better place (1 + how many are strictly higher), or the worse (how many are as high).
    """
    scores, chosen = scores.detach(), chosen.detach()
    above, first = (torch.gt, 1) if ties == "better" else (torch.ge, 0)
    ranks = torch.empty_like(chosen, dtype=torch.long)
    higher = torch.empty_like(scores, dtype=torch.float32)  # 0 or 1: bools would be copied to integers to be summed
    for token in range(chosen.shape[-1]):  # one at a time: (..., token, d_vocab) would be large
        ranks[..., token] = above(scores, chosen[..., token, None], out=higher).sum(-1) + first
    return ranks
