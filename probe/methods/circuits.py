"""What heads do by their weights alone: which tokens they match (QK), what they write (OV), who feeds whom.

Both circuits are d_model x d_model matrices of rank d_head and stay factored. The gain of the norm before attention is
folded in, and the mean that a LayerNorm subtracts; likewise the gain of a norm after attention, its scale left out.
Biases and soft caps are left out.
Source: Elhage et al., "A mathematical framework for transformer circuits" (2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.arguments import checked
from probe.errors import OutOfRange, check_choice, check_count, check_index
from probe.gpt import GPT
from probe.methods._inputs import check_same_model, column_of, manifest_of, token_texts
from probe.prompts import token_id
from probe.provenance import provenance
from probe.recording import Recording
from probe.results import Result
from probe.rotary import rotary_turn, rotate
from probe.shown import Shown, Summary, count
from probe.sites import post_scales

if TYPE_CHECKING:
    import pandas

Into = Literal["q", "k", "v"]


@dataclass(frozen=True, eq=False)
class FactoredMatrix(Shown):
    """left @ right, a matrix of low rank that need not be multiplied out."""

    left: Float[Tensor, "n rank"]
    right: Float[Tensor, "rank m"]

    def summary(self) -> Summary:
        """Its shape and its size."""
        shape = (self.left.shape[0], self.right.shape[1])
        return Summary(f"{shape[0]:,} x {shape[1]:,}, of rank {self.left.shape[1]:,}", {"norm": self.norm})

    @property
    def product(self) -> Float[Tensor, "n m"]:
        """The matrix multiplied out."""
        return self.left @ self.right

    @property
    def norm(self) -> float:
        """Its Frobenius norm."""
        return float(self._core().norm())

    @property
    def singular_values(self) -> Float[Tensor, " rank"]:
        """The largest first; all others are 0."""
        return torch.linalg.svdvals(self._core())

    @property
    def eigenvalues(self) -> Tensor:
        """Complex, (rank,), the largest first; all others are 0. Of a square matrix."""
        found = torch.linalg.eigvals(self.right @ self.left)  # those of A B and B A are the same
        return found[found.abs().argsort(descending=True)]

    def _core(self) -> Float[Tensor, "rank rank"]:
        """A small matrix with the same singular values."""
        return _triangle(self.left) @ _triangle(self.right.mT).mT


@dataclass(frozen=True, eq=False)
class TokenEffects(Result):
    """What a head's writing does to the next token, directly: logits that it adds through the unembedding."""

    layer: int
    head: int
    promoted: Int[Tensor, " top"]
    """Ids of the tokens that are raised, the most first."""
    promoted_by: Float[Tensor, " top"]
    suppressed: Int[Tensor, " top"]
    suppressed_by: Float[Tensor, " top"]
    """What is added to the logits of the tokens that are lowered: negative, the most first."""
    texts: Mapping[int, str]
    about: str
    """What was written: for which token, or after which."""
    unit: str
    """Of the numbers: "logits", or "relative" where the final norm's scale is left out, so that they compare with each
    other only."""
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The tokens that are raised most, and those that are lowered most."""
        up, down = ([self.texts[token] for token in ids[:4].tolist()] for ids in (self.promoted, self.suppressed))
        return Summary(
            f"what head {self.layer}.{self.head} writes {self.about}",
            {"promotes": ", ".join(map(repr, up)), "suppresses": ", ".join(map(repr, down))}, self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per token listed."""
        import pandas  # half a second that only tables need

        rows = [
            (kind, rank, self.texts[token], token, value)
            for kind, ids, values in (
                ("promoted", self.promoted, self.promoted_by), ("suppressed", self.suppressed, self.suppressed_by)
            )
            for rank, (token, value) in enumerate(zip(ids.tolist(), values.tolist(), strict=True), start=1)
        ]  # fmt: skip
        return pandas.DataFrame(rows, columns=["kind", "rank", "token", "token_id", "logits"])


@dataclass(frozen=True, eq=False)
class CopyingScores(Result):
    """Whether each head's OV circuit raises the very tokens it reads: sum of eigenvalues over sum of their sizes."""

    values: Float[Tensor, "layer head"]
    """-1 to 1: 1 copies, 0 neither, -1 suppresses what it reads."""
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The heads that copy most."""
        order = self.values.flatten().argsort(descending=True, stable=True)[:4].tolist()
        places = [divmod(place, self.values.shape[1]) for place in order]
        best = ", ".join(f"{layer}.{head} {float(self.values[layer, head]):.2f}" for layer, head in places)
        return Summary(count(self.values.numel(), "head"), {"highest": best}, self.manifest["model"])

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per layer and head."""
        import pandas  # half a second that only tables need

        rows = [(layer, head, v) for layer, row in enumerate(self.values.tolist()) for head, v in enumerate(row)]
        return pandas.DataFrame(rows, columns=["layer", "head", "copying_score"])


@dataclass(frozen=True, eq=False)
class CompositionScores(Result):
    """How much of what one head writes lies where another, in a later layer, reads: |W1 W2| / (|W1| |W2|)."""

    into: Into
    """Into the queries, keys or values of the reading head."""
    values: Float[Tensor, "layer head read_layer read_head"]
    """Score of the writing head and the reading one, 0 to 1; NaN where the reading one is not later."""
    chance: float
    """Score of matrices that have nothing to do with each other: 1 / sqrt(d_model), in the mean of squares."""
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The pairs of heads that fit best."""
        best = ", ".join(f"{a[0]}.{a[1]} to {b[0]}.{b[1]} {score:.2f}" for a, b, score in self.top(3))
        n = int((~self.values.isnan()).sum())
        return Summary(
            f"what heads write into the {self.into} of later ones, {count(n, 'pair')}",
            {"highest": best, "chance": self.chance}, self.manifest["model"],
        )  # fmt: skip

    @checked
    def top(self, n: int = 10) -> list[tuple[tuple[int, int], tuple[int, int], float]]:
        """((layer, head) that writes, (layer, head) that reads, score) of the n largest."""
        check_count("n", n)
        flat, heads = self.values.flatten(), self.values.shape[1]
        pairs = flat.isnan().logical_not().nonzero()[:, 0]  # NaN where the reader does not come after the writer
        found = []
        for place in pairs[flat[pairs].argsort(descending=True, stable=True)[:n]].tolist():
            writing, reading = divmod(place, self.values.shape[2] * heads)
            found.append((divmod(writing, heads), divmod(reading, heads), float(flat[place])))
        return found

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair of a writing and a later reading head."""
        import pandas  # half a second that only tables need

        places = (~self.values.isnan()).nonzero()
        rows = zip(*places.T.tolist(), self.values[tuple(places.T)].tolist(), strict=True)
        columns = ["layer", "head", "read_layer", "read_head", "score"]
        return pandas.DataFrame(rows, columns=columns).assign(into=self.into, chance=self.chance)


@checked
@torch.no_grad()
def qk_circuit(model: GPT, layer: int, head: int, *, offset: int = 0) -> FactoredMatrix:
    """Which residual streams (rows, normalised, without gain) ask for which: x_query @ product @ x_key, times scale.

    Args:
        offset: how many tokens back the key is. With rotary positions the circuit depends on it; with learned ones it
            does not.

    Returns:
        (d_model, d_head) times (d_head, d_model); multiply by ``model.config.scale_of_layer(layer)`` for the scores,
        and where queries and keys are normalised (their gains are folded in), divide by both norms' scales.

    Raises:
        OutOfRange: no such layer or head; an offset below 0 or beyond the context.
    """
    layer, head = _check_head(model, layer, head)
    if not 0 <= offset < model.config.n_ctx:
        raise OutOfRange(f"offset={offset}: expected 0 to {model.config.n_ctx - 1} tokens back")
    attention, group = model.blocks[layer].attn, head // model.config.heads_per_group
    query, key = (_read(model, layer, weight) for weight in (model.W_Q[layer, head], model.W_K[layer, group]))
    if model.config.qk_norm:
        query = query * _precise(attention.q_norm.gain)  # type: ignore[arg-type]
        key = key * _precise(attention.k_norm.gain)  # type: ignore[arg-type]
    return FactoredMatrix(_turned(model, query, offset), _turned(model, key, 0).mT)


@checked
@torch.no_grad()
def ov_circuit(model: GPT, layer: int, head: int) -> FactoredMatrix:
    """What a head writes for a residual stream (normalised, without gain) that it attends to: x @ product.

    Returns:
        (d_model, d_head) times (d_head, d_model).

    Raises:
        OutOfRange: no such layer or head.
    """
    layer, head = _check_head(model, layer, head)
    group = head // model.config.heads_per_group
    return FactoredMatrix(_read(model, layer, model.W_V[layer, group]), _written(model, layer, head))


@checked
@torch.no_grad()
def copying_scores(model: GPT) -> CopyingScores:
    """Sum of eigenvalues / sum of their absolute values, of every head's full OV circuit, from embedding to logits.

    Embeddings are normalised as the norm would, gains folded in; the d_vocab_out x d_vocab_out matrix is never made:
    its eigenvalues are those of a d_head x d_head one.
    """
    embedding = _normalised(model, _precise(model.token_vectors[: model.config.n_outputs]))
    between = model.logit_directions @ embedding  # (d_model, d_model), over all tokens that can be predicted
    rows = []
    for layer in range(model.config.n_layers):
        circuits = [ov_circuit(model, layer, head) for head in range(model.config.n_heads)]
        small = torch.stack([circuit.right @ between @ circuit.left for circuit in circuits])
        eigenvalues = torch.linalg.eigvals(small)
        size = eigenvalues.abs().sum(-1)
        rows.append(torch.where(size > 0, eigenvalues.sum(-1).real / size, 0.0))  # a head that writes nothing: neither
    return CopyingScores(torch.stack(rows).cpu(), {**provenance(model), "method": "copying scores"})


@checked
@torch.no_grad()
def composition_scores(model: GPT, *, into: Into) -> CompositionScores:
    """How much every head feeds the queries, keys or values of every head of a later layer, by weights alone.

    Rotary positions turn queries and keys; here they are taken unturned (offset 0). MLPs between are left out.

    Raises:
        UnknownName: `into` is none of "q", "k", "v".
    """
    check_choice("composition into", into, get_args(Into))
    n_layers, n_heads = model.config.n_layers, model.config.n_heads
    every = [[_circuit_pair(model, layer, head, into) for head in range(n_heads)] for layer in range(n_layers)]
    values = torch.full((n_layers, n_heads, n_layers, n_heads), torch.nan)
    written = torch.stack([torch.stack([written for written, _ in row]) for row in every])
    for reader in range(1, n_layers):
        read = torch.stack([read for _, read in every[reader]])
        products = torch.einsum("lhrd,gds->lhgrs", written[:reader], read).square().sum((-1, -2)).sqrt()
        sizes = written[:reader].flatten(2).norm(dim=-1)[..., None] * read.flatten(1).norm(dim=-1)
        values[:reader, :, reader] = (products / sizes).float().cpu()
    manifest = {**provenance(model), "method": "composition scores", "method_arguments": {"into": into}}
    return CompositionScores(into, values, model.config.d_model**-0.5, manifest)


@checked
@torch.no_grad()
def head_writes_for_token(model: GPT, layer: int, head: int, token: str | int, *, top: int = 10) -> TokenEffects:
    """What a head would write for a token that it attends to, by weights alone: embedding, OV, unembedding.

    The embedding is normalised as the norm before attention would; the final norm's gain is folded in and its scale
    left out, so logits compare with each other only. Late layers read streams that hold much besides the embedding:
    `head_writes` says what a head really wrote.

    Raises:
        OutOfRange: no such layer, head or token id; `top` outside the vocabulary.
        BadPrompt: a text that is not one token.
    """
    layer, head = _check_head(model, layer, head)
    number = token_id(model.config, model.tokenizer, token, predicted=False)
    circuit = ov_circuit(model, layer, head)
    embedding = _normalised(model, _precise(model.embed.scaled(model.W_E[number]))[None])[0]
    logits = embedding @ circuit.left @ circuit.right @ model.logit_directions
    arguments = {"layer": layer, "head": head, "token": number, "top": top}
    manifest = {**provenance(model), "method": "head writes for token", "method_arguments": arguments}
    text = token_texts(model, [number])[number]
    return _effects(model, layer, head, logits, top, f"for the token {text!r}", "relative", manifest)


def head_writes_sites(model: GPT) -> list[str]:
    """The sites that `head_writes` reads, for `record`."""
    return ["z", *post_scales(model.config)[:1], "ln_final.scale"]


@checked
@torch.no_grad()
def head_writes(
    model: GPT, recording: Recording, layer: int, head: int, *, position: int = -1, prompt: int = 0, top: int = 10
) -> TokenEffects:
    """What a head really wrote at a position of a prompt, through the final norm as it was there: logits that it added.

    Where a model caps its logits, before the cap.

    Raises:
        DifferentModel: the recording is of another model.
        SiteNotRecorded: the sites of `head_writes_sites` are needed there, of all heads.
        OutOfRange: no such layer, head, prompt or position; `top` outside the vocabulary.
    """
    check_same_model(model, recording)
    layer, head = _check_head(model, layer, head)
    prompt = check_index("prompt", prompt, len(recording.lengths), owner="this recording")
    at = (prompt, column_of(recording, prompt, position))
    position = check_index("position", position, int(recording.lengths[prompt]), owner=f"prompt {prompt}")
    z = _precise(recording["z", layer][at][head].to(model.device))
    scale = _precise(recording["ln_final.scale"][at].to(model.device))
    if model.config.post_norms:
        scale = scale * _precise(recording["ln1_post.scale", layer][at].to(model.device))
    logits = z @ _written(model, layer, head) @ model.logit_directions / scale
    arguments = {"layer": layer, "head": head, "position": position, "prompt": prompt, "top": top}
    manifest = manifest_of(recording, "head writes", **arguments)
    return _effects(model, layer, head, logits, top, f"at position {position}", "logits", manifest)


def _effects(
    model: GPT, layer: int, head: int, logits: Float[Tensor, " d_vocab_out"], top: int, about: str, unit: str,
    manifest: Mapping,
) -> TokenEffects:  # fmt: skip
    if not 1 <= top <= len(logits):
        raise OutOfRange(f"top={top}: expected 1 to {len(logits)}, the size of the vocabulary")
    up, down = logits.topk(top), logits.topk(top, largest=False)
    return TokenEffects(
        layer=layer, head=head,
        promoted=up.indices.cpu(), promoted_by=up.values.float().cpu(),
        suppressed=down.indices.cpu(), suppressed_by=down.values.float().cpu(),
        texts=token_texts(model, [*up.indices.tolist(), *down.indices.tolist()]), about=about, unit=unit,
        manifest=manifest,
    )  # fmt: skip


def _circuit_pair(model: GPT, layer: int, head: int, into: Into) -> tuple[Tensor, Tensor]:
    """Two small matrices: (rank, d_model) with the size and output directions of what a head writes, and (d_model,
    rank) with the size and input directions of what it reads into its queries, keys or values."""
    ov = ov_circuit(model, layer, head)
    written = _triangle(ov.left) @ ov.right
    if into == "v":
        return written, ov.left @ _triangle(ov.right.mT).mT
    qk = qk_circuit(model, layer, head)
    if into == "q":
        return written, qk.left @ _triangle(qk.right.mT).mT
    return written, qk.right.mT @ _triangle(qk.left).mT


def _triangle(tall: Float[Tensor, "n rank"]) -> Float[Tensor, "rank rank"]:
    """R of tall = Q R: as long as `tall` in every direction, and small."""
    return torch.linalg.qr(tall, mode="r").R


def _read(model: GPT, layer: int, weight: Float[Tensor, "d_model d_head"]) -> Float[Tensor, "d_model d_head"]:
    """A weight behind the norm before attention, as it acts on the stream that this norm has divided by its scale."""
    folded = _precise(model.blocks[layer].ln1.gain)[:, None] * _precise(weight)  # type: ignore[index]
    return folded - folded.mean(0) if model.config.norm == "layer" else folded


def _written(model: GPT, layer: int, head: int) -> Float[Tensor, "d_head d_model"]:
    """A head's output weights, as they reach the stream; through a norm after attention but for its scale."""
    weight = _precise(model.W_O[layer, head])
    return weight * _precise(model.blocks[layer].ln1_post.gain) if model.config.post_norms else weight  # type: ignore[arg-type]


def _normalised(model: GPT, stream: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """The stream divided by its norm's scale; what the norm subtracts is folded into the weights."""
    if model.config.norm == "none":
        return stream
    centred = stream - stream.mean(-1, keepdim=True) if model.config.norm == "layer" else stream
    return stream / (centred.square().mean(-1, keepdim=True) + model.config.norm_eps).sqrt()


def _turned(model: GPT, weight: Float[Tensor, "d_model d_head"], position: int) -> Float[Tensor, "d_model d_head"]:
    """Queries or keys as rotary positions turn them there."""
    if model.config.positions != "rotary":
        return weight
    at = torch.tensor([[position]], device=weight.device)
    return rotate(weight[:, None, None], rotary_turn(model.config, at, weight.dtype, position + 1))[:, 0, 0]


def _check_head(model: GPT, layer: int, head: int) -> tuple[int, int]:
    config = model.config
    return (
        check_index("layer", layer, config.n_layers, owner="this model"),
        check_index("head", head, config.n_heads, owner="this model"),
    )


def _precise(weight: Tensor) -> Tensor:
    """Without graph, in float32 or better."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
