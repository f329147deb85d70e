"""Where a model holds positions: tiny models that need them, a linear readout, and scores of shifted tokens.

Position 0 is left out everywhere: heads rest there, and its vectors are unlike all others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

import probe
from probe.rotary import rotary_turn, rotate

BACK = 3
"""The tiny models learn to say the token that stood this many places before."""
TINY: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 64,
    "n_heads": 4,
    "d_head": 16,
    "d_mlp": 128,
    "d_vocab": 32,
    "n_ctx": 64,
}
TINY_CONFIGS = {
    "GPT-2-like": probe.GPTConfig(**TINY),
    "rotary": probe.GPTConfig(
        **TINY, norm="rms", positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False,
        attn_out_bias=False, mlp_bias=False,
    ),
}  # fmt: skip
LENGTH = 48
BATCH = 64
LEARNING_RATE = 3e-3
RIDGE = 0.01
"""Penalty on squared weights, as a share of the number of examples; features have a standard deviation of 1."""
AT_ONCE = 32
"""Prompts of one pass."""


@dataclass(frozen=True, eq=False)
class Readability:
    """How well a linear readout tells the position, at every place of the residual stream."""

    model: str
    places: tuple[str, ...]
    """Full names of the sites, in the order of the pass."""
    r2: tuple[float, ...]
    """On sequences that the fit has not seen: 1 is exact, 0 is as good as always saying the middle."""
    shuffled_r2: tuple[float, ...]
    """`r2` after a fit to positions that were shuffled within each sequence."""
    named: tuple[float, ...]
    """Share of positions that a linear readout with an output for each names exactly, on sequences not fitted."""


def train_tiny(name: str, steps: int, *, seed: int = 0) -> probe.GPT:
    """A tiny model of one of `TINY_CONFIGS`, taught to say the token `BACK` places before, on random tokens."""
    config = TINY_CONFIGS[name]
    model = probe.GPT(config, name=f"tiny {name}")
    generator = torch.Generator().manual_seed(seed)
    model.draw_weights(generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(steps):
        tokens = torch.randint(config.d_vocab, (BATCH, LENGTH), generator=generator)
        loss = F.cross_entropy(model(tokens)[:, BACK:].flatten(0, 1), tokens[:, :-BACK].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.requires_grad_(False)


def share_right(logits: Float[Tensor, "batch pos d_vocab_out"], tokens: Int[Tensor, "batch pos"]) -> float:
    """How often the likeliest token is the one `BACK` places before, of the positions that have one after position 0.

    A target at position 0 does not count either.
    """
    said = logits.argmax(-1)[:, BACK + 1 :]
    return float((said == tokens[:, 1:-BACK]).double().mean())


def without_position(model: probe.GPT, length: int) -> list[probe.Intervention]:
    """What takes every position from a pass: no position vectors, or queries and keys turned back."""
    if model.config.positions == "learned":
        return [probe.zero("pos_embed")]
    return [probe.edit(site, turn_back(model, length)) for site in ("rot_q", "rot_k")]


def turn_back(model: probe.GPT, length: int) -> Callable[[Tensor], Tensor]:
    """Undoes the rotation of queries or keys (batch, pos, head, d_head): all are as if at position 0."""

    def unturned(value: Tensor) -> Tensor:
        cos, sin = rotary_turn(model.config, torch.arange(length)[None].to(value.device), value.dtype, length)
        still = value.shape[-1] - cos.shape[-1]  # of heads of which a part turns
        stretch = torch.nn.functional.pad(cos[:, :1], (0, still), value=1.0)  # by some kinds of scaling
        return rotate(value, (cos, -sin)) / stretch

    return unturned


def random_prompts(model: probe.GPT, n: int, length: int, *, seed: int) -> Int[Tensor, "n length"]:
    """Random tokens, after the document start where the model has one."""
    tokens = torch.randint(model.config.d_vocab, (n, length), generator=torch.Generator().manual_seed(seed))
    start = getattr(model.tokenizer, "document_start_id", None)
    if start is not None:
        tokens[:, 0] = start
    return tokens


def readability(model: probe.GPT, *, n_fit: int, n_test: int, length: int) -> Readability:
    """Fit the position to the residual stream of some sequences of random tokens, test it on others."""
    layers = range(model.config.n_layers)
    places = ("blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in layers))
    if model.config.positions == "learned":
        places = ("hook_embed", *places)  # the token alone; elsewhere that is what enters layer 0
    streams = _streams(model, random_prompts(model, n_fit + n_test, length, seed=1), places)
    position = torch.arange(1, length).expand(n_fit + n_test, -1)
    shuffled = shuffle_rows(position, seed=2)
    fits = [[read_linearly(stream, of, position, n_fit=n_fit) for stream in streams] for of in (position, shuffled)]
    named = tuple(share_named(stream, n_fit=n_fit) for stream in streams)
    return Readability(model.name, places, tuple(fits[0]), tuple(fits[1]), named)


def read_linearly(
    stream: Float[Tensor, "batch pos d"],
    fitted: Int[Tensor, "batch pos"],
    true: Int[Tensor, "batch pos"],
    *,
    n_fit: int,
) -> float:
    """R^2 on the later rows of a ridge regression of `fitted` on the first `n_fit` rows."""
    x, x_test = _standardised(stream, n_fit)
    y = fitted[:n_fit].flatten().double()
    said = x_test @ ridge(x, y - y.mean(), RIDGE * len(x)) + y.mean()
    return r_squared(said, true[n_fit:].flatten().double())


def share_named(stream: Float[Tensor, "batch pos d"], *, n_fit: int) -> float:
    """How often the right output is highest of a ridge regression with one output for each position.

    A position can be named although no direction grows with it, where each has a direction of its own.
    """
    n_pos = stream.shape[1]
    x, x_test = _standardised(stream, n_fit)
    target = torch.eye(n_pos, dtype=torch.float64).repeat(n_fit, 1) - 1 / n_pos
    said = (x_test @ ridge(x, target, RIDGE * len(x))).argmax(-1)
    return float((said == torch.arange(n_pos).repeat(len(stream) - n_fit)).double().mean())


def ridge(x: Float[Tensor, "n d"], y: Float[Tensor, "n ..."], penalty: float) -> Float[Tensor, "d ..."]:
    """The weights w that make |x w - y|^2 + penalty |w|^2 least, for one output or for each of several."""
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def r_squared(said: Float[Tensor, " n"], true: Float[Tensor, " n"]) -> float:
    """1 - squared error / variance: 0 for the mean, below 0 for what is worse."""
    return 1.0 - float((said - true).square().sum() / (true - true.mean()).square().sum())


def shuffle_rows(rows: Int[Tensor, "batch pos"], *, seed: int) -> Int[Tensor, "batch pos"]:
    """Each row in an order of its own."""
    order = torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed)).argsort(-1)
    return rows.gather(1, order)


def spread(vectors: Float[Tensor, "pos head d_head"]) -> float:
    """The largest distance between a vector and that of the first position, of a head, as a share of its length."""
    first = vectors[:1]
    return float(((vectors - first).norm(dim=-1) / first.norm(dim=-1)).max())


def score_change(model: probe.GPT, words: Int[Tensor, " n"], shift: int) -> tuple[float, float]:
    """How far scores in layer 0 move when the same tokens come `shift` places later, and their standard deviation.

    The first is the largest over all heads and pairs of a query and a key before it.
    """
    here, later = (_scores(model, words, places) for places in (0, shift))
    return float((here - later).abs().max()), float(here.std())


def _standardised(stream: Float[Tensor, "batch pos d"], n_fit: int) -> tuple[Tensor, Tensor]:
    """Both parts as rows, by the means and standard deviations of the first."""
    x, x_test = (part.flatten(0, 1).double() for part in (stream[:n_fit], stream[n_fit:]))
    mean, deviation = x.mean(0), x.std(0) + 1e-12
    return (x - mean) / deviation, (x_test - mean) / deviation


def _scores(model: probe.GPT, words: Int[Tensor, " n"], shift: int) -> Float[Tensor, "head pair"]:
    """Scores of all pairs of `words`, which stand after one first token and `shift` others."""
    prompt = torch.cat([random_prompts(model, 1, 1 + shift, seed=3)[0], words])
    rec = probe.record(model, prompt[None], sites=["attn_scores"], layers=[0], stop_after_layer=0)
    query, key = torch.tril_indices(len(words), len(words)) + 1 + shift
    return rec["attn_scores", 0][0].cpu()[:, query, key]


def _streams(model: probe.GPT, prompts: Int[Tensor, "batch pos"], places: tuple[str, ...]) -> list[Tensor]:
    """(batch, pos, d_model) at each place, without position 0."""
    parts = [probe.record(model, part, sites=places, logits=False, device="cpu") for part in prompts.split(AT_ONCE)]
    return [torch.cat([part[place][:, 1:] for part in parts]) for place in places]
