"""Attention of single heads: where each looks, how one token weighs what it sees, which heads look alike.

What a head does over many texts is scored in `heads.py`; what it would do by its weights alone is in `circuits.py`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.arguments import checked
from probe.errors import BadPrompt, SiteNotRecorded, check_count, check_index
from probe.gpt import GPT
from probe.methods._inputs import check_not_reduced, check_same_model, manifest_of, texts_of
from probe.recording import Recording
from probe.results import LongResult, Result
from probe.shown import Summary, count, describe_prompts

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class HeadFocus(Result):
    """Where every recorded head looks from the last token of each prompt.

    Position 0 is where heads rest that have nothing to say (an attention sink), so its share stands apart.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    """The numbers of the heads recorded, the same in every layer."""
    str_tokens: list[list[str]]
    """The text of each token of each prompt."""
    weight: Float[Tensor, "layer head batch"]
    """The largest attention weight on any token but the first, 0 to 1."""
    looks_at: Int[Tensor, "layer head batch"]
    """The position of the token with this weight."""
    share_on_first: Float[Tensor, "layer head batch"]
    """The attention weight on position 0, 0 to 1."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""

    def summary(self) -> Summary:
        """The heads that look at one token most."""
        told = []
        for layer, head in self.most_telling(4, one_per_token=True):
            position = int(self.looks_at[self.layers.index(layer), self.heads.index(head), 0])
            told.append(f"{layer}.{head} at {self.str_tokens[0][position]!r}")
        return Summary(
            f"where {count(len(self.layers) * len(self.heads), 'head')} look from the last token of "
            f"{describe_prompts(self.str_tokens)}",
            {"most telling (prompt 0)": ", ".join(told),
             "mean weight on the first token": float(self.share_on_first.mean())},
            self.manifest["model"], self.str_tokens,
        )  # fmt: skip

    def most_telling(self, n: int, *, prompt: int = 0, one_per_token: bool = False) -> list[tuple[int, int]]:
        """The (layer, head) pairs of the n largest weights, the largest first.

        `one_per_token` takes only the strongest head for every token looked at, so that the n do not say the same.
        """
        chosen: list[tuple[int, int]] = []
        taken: set[int] = set()
        for at in self.weight[..., prompt].flatten().argsort(descending=True, stable=True).tolist():
            row, column = divmod(at, len(self.heads))
            position = int(self.looks_at[row, column, prompt])
            if not (one_per_token and position in taken):
                chosen.append((self.layers[row], self.heads[column]))
                taken.add(position)
        return chosen[:n]

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per prompt, layer and head."""
        import pandas  # half a second that only tables need

        rows = []
        for index, layer in enumerate(self.layers):
            for column, head in enumerate(self.heads):
                for prompt, texts in enumerate(self.str_tokens):
                    at = (index, column, prompt)
                    position = int(self.looks_at[at])
                    rows.append(
                        {
                            "prompt": prompt,
                            "layer": layer,
                            "head": head,
                            "looks_at": position,
                            "token": texts[position],
                            "weight": float(self.weight[at]),
                            "share_on_first": float(self.share_on_first[at]),
                        }
                    )
        return pandas.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class HeadPattern(LongResult):
    """The attention of one head on one prompt."""

    layer: int
    head: int
    pattern: Float[Tensor, "query_pos key_pos"]
    """How much each token (row) takes from each token (column); rows sum to 1."""
    str_tokens: list[str]
    """The text of each token."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""
    value_weighted: bool = False
    """Whether each weight was multiplied by the length of what the head would write for that token."""

    @property
    def n_rows(self) -> int:
        """How many rows the table has."""
        return len(self.str_tokens) * (len(self.str_tokens) + 1) // 2

    def summary(self) -> Summary:
        """The largest weight on a token that is neither the first nor the looking one."""
        others = self.pattern.tril(-1)[:, 1:]
        facts = {}
        if others.numel():
            query, key = divmod(int(others.argmax()), others.shape[1])
            facts["largest on another token"] = (
                f"{float(others[query, key]):.3g}, {self.str_tokens[query]!r} ({query}) at "
                f"{self.str_tokens[key + 1]!r} ({key + 1})"
            )
            facts["mean on the first token"] = float(self.pattern[1:, 0].mean())
        kind = "attention times length of value" if self.value_weighted else "attention"
        return Summary(
            f"{kind} of head {self.layer}.{self.head} on {count(len(self.str_tokens), 'token')}", facts,
            self.manifest["model"], [self.str_tokens],
        )  # fmt: skip

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per pair of a token and a token that it can see."""
        for query, weights in enumerate(self.pattern):
            for key, weight in enumerate(weights[: query + 1].tolist()):
                yield {
                    "query_pos": query, "query_token": self.str_tokens[query], "key_pos": key,
                    "key_token": self.str_tokens[key], "weight": weight,
                }  # fmt: skip


@dataclass(frozen=True, eq=False)
class HeadLook(Result):
    """How one head weighs what one token can see: matches, weights, and the size of what is passed on."""

    layer: int
    head: int
    query_pos: int
    """The position of the token that looks."""
    scores: Float[Tensor, " key_pos"]
    """query . key, scaled: how well each token's key matches, before the softmax."""
    weights: Float[Tensor, " key_pos"]
    """The softmax of the scores: they sum to 1."""
    value_lengths: Float[Tensor, " key_pos"]
    """Length of each token's value vector: a token with a short one is looked at without passing much on."""
    str_tokens: list[str]
    """The text of each token that can be seen, the looking one last."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""

    def summary(self) -> Summary:
        """What the head looks at most from there."""
        order = self.weights.argsort(descending=True, stable=True)[:3].tolist()
        return Summary(
            f"head {self.layer}.{self.head} at {self.str_tokens[-1]!r} ({self.query_pos})",
            {"weights": ", ".join(f"{self.str_tokens[at]!r} ({at}) {float(self.weights[at]):.2f}" for at in order)},
            self.manifest["model"], [self.str_tokens],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per token that can be seen."""
        import pandas  # half a second that only tables need

        columns = {
            "key_pos": range(len(self.str_tokens)),
            "token": self.str_tokens,
            "score": self.scores.tolist(),
            "weight": self.weights.tolist(),
            "value_length": self.value_lengths.tolist(),
        }
        return pandas.DataFrame(columns)


@dataclass(frozen=True, eq=False)
class HeadPair(Result):
    """One token looking at one other: the two vectors that meet, and what becomes of their product."""

    layer: int
    head: int
    query_pos: int
    key_pos: int
    query: Float[Tensor, " d_head"]
    """What the one asks, as it meets the key: of a rotary model turned by its position."""
    key: Float[Tensor, " d_head"]
    terms: Float[Tensor, " d_head"]
    """query * key * scale, dimension by dimension: they sum to the score, before a soft cap where a model has one."""
    score: float
    """query . key, scaled: before the mask, after a soft cap where a model has one."""
    masked: bool
    """Whether the mask hides this key: it comes after the query, or lies outside the layer's window."""
    weight: float
    """Attention weight: after the softmax over all keys that the query sees; 0 where masked."""
    str_tokens: tuple[str, str]
    """The texts of the one that looks and the one looked at."""
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The score and the attention weight."""
        query, key = self.str_tokens
        return Summary(
            f"head {self.layer}.{self.head}, {query!r} ({self.query_pos}) looking at {key!r} ({self.key_pos})",
            {"score": self.score, "masked": self.masked, "weight": self.weight}, self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per dimension of the head."""
        import pandas  # half a second that only tables need

        columns = {"query": self.query.tolist(), "key": self.key.tolist(), "term": self.terms.tolist()}
        return pandas.DataFrame({"dimension": range(len(self.terms)), **columns})


@dataclass(frozen=True, eq=False)
class SimilarHeads(Result):
    """How alike the patterns of all heads are to one head's on one prompt: cosines, position 0 left out."""

    layer: int
    head: int
    cosine: Float[Tensor, "layer head"]
    """Cosine with the head's weights on all tokens but position 0, every row made to sum to 1; here 0 to 1."""
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The most similar heads."""
        best = ", ".join(f"{layer}.{head} {cosine:.2f}" for layer, head, cosine in self.top(4))
        return Summary(
            f"patterns like that of head {self.layer}.{self.head}", {"nearest": best}, self.manifest["model"]
        )

    @checked
    def top(self, n: int = 5) -> list[tuple[int, int, float]]:
        """(layer, head, cosine) of the n most similar, the head itself left out."""
        check_count("n", n)
        order = self.cosine.flatten().argsort(descending=True, stable=True).tolist()
        places = [divmod(place, self.cosine.shape[1]) for place in order]
        found = [(layer, head, float(self.cosine[layer, head])) for layer, head in places]
        return [one for one in found if one[:2] != (self.layer, self.head)][:n]

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per layer and head."""
        import pandas  # half a second that only tables need

        rows = [
            (layer, head, value) for layer, row in enumerate(self.cosine.tolist()) for head, value in enumerate(row)
        ]
        return pandas.DataFrame(rows, columns=["layer", "head", "cosine"])


def find_focus(recording: Recording) -> HeadFocus:
    """Where every head looks from the last token of each prompt: the largest weight on a token other than the first.

    Raises:
        SiteNotRecorded: no "pattern" was kept, or not that of the last tokens; the message says how to.
        BadPrompt: a prompt of one token, which has nowhere else to look.
    """
    check_not_reduced(recording, "pattern")
    patterns = recording.stack("pattern")
    if int(recording.lengths.min()) < 2:
        raise BadPrompt("a prompt of one token has no other token to look at")
    rows = torch.arange(len(recording.lengths), device=patterns.device)
    last = patterns[:, rows, :, _row_of_last(recording).to(patterns.device)].float()  # (batch, layer, head, key_pos)
    padding = torch.arange(last.shape[-1]) >= recording.lengths[:, None]
    elsewhere = last.masked_fill(padding.to(last.device)[:, None, None], -torch.inf)
    elsewhere[..., 0] = -torch.inf
    found = elsewhere.max(-1)
    return HeadFocus(
        layers=recording.layers("pattern"),
        heads=_heads_kept(recording),
        str_tokens=texts_of(recording),
        weight=found.values.movedim(0, -1).cpu(),
        looks_at=found.indices.movedim(0, -1).cpu(),
        share_on_first=last[..., 0].movedim(0, -1).cpu(),
        manifest=manifest_of(recording, "focus of heads"),
    )


@checked
def read_pattern(recording: Recording, layer: int, head: int, *, prompt: int = 0) -> HeadPattern:
    """The attention of one head on one prompt, without padding.

    Raises:
        OutOfRange: no such layer, head or prompt.
        SiteNotRecorded: this "pattern" was not kept, or not at every position; the message says how to.
    """
    check_not_reduced(recording, "pattern")
    if recording.positions is not None:
        raise SiteNotRecorded("'pattern' was kept at some positions only; record it with positions=None")
    head = check_index("head", head, recording.config.n_heads, owner="this model")
    kept = _heads_kept(recording)
    pattern = recording["pattern", layer]
    if head not in kept:
        raise SiteNotRecorded(
            f"'pattern' was kept of heads {list(kept)}, not of head {head}; record it with heads=[{head}]"
        )
    prompt = check_index("prompt", prompt, len(recording.lengths), owner="this recording")
    length = int(recording.lengths[prompt])
    return HeadPattern(
        layer=layer % recording.config.n_layers,
        head=head,
        pattern=pattern[prompt, kept.index(head), :length, :length].detach().float().cpu(),
        str_tokens=texts_of(recording)[prompt],
        manifest=manifest_of(recording, "attention pattern", layer=layer, head=head, prompt=prompt),
    )


@checked
@torch.no_grad()
def value_weighted_pattern(model: GPT, recording: Recording, layer: int, head: int, *, prompt: int = 0) -> HeadPattern:
    """Attention weights times the length of what each token would have written: |weight * v W_O|, rows summing to 1.

    A head may rest on a token whose value vector is nearly zero; what it moves is seen here.

    Raises:
        DifferentModel: the recording is of another model.
        OutOfRange, SiteNotRecorded: as `read_pattern`; "v" is needed too.

    Source: Kobayashi et al., "Attention is not only a weight" (2020).
    """
    check_same_model(model, recording)
    shown = read_pattern(recording, layer, head, prompt=prompt)
    _check_all_heads(recording)
    group = shown.head // model.config.heads_per_group
    v = recording["v", shown.layer][prompt, : len(shown.str_tokens), group].detach()
    written = v @ model.W_O[shown.layer, shown.head].detach().to(v)
    if model.config.post_norms:  # its scale is the same for all keys
        written = written * model.blocks[shown.layer].ln1_post.gain.detach().to(v)  # type: ignore[union-attr]
    lengths = written.float().norm(dim=-1).cpu()
    weighted = shown.pattern * lengths
    weighted = weighted / weighted.sum(-1, keepdim=True).clamp(min=torch.finfo(weighted.dtype).tiny)
    return dataclasses.replace(
        shown, pattern=weighted, value_weighted=True, manifest={**shown.manifest, "method": "value-weighted pattern"}
    )


@checked
def read_pair(recording: Recording, layer: int, head: int, query: int, key: int, *, prompt: int = 0) -> HeadPair:
    """What one head makes of one token looking at one other: vectors, their product term by term, mask, softmax.

    Raises:
        OutOfRange: no such layer, head, prompt or position.
        SiteNotRecorded: "attn_scores", "pattern", and "rot_q" and "rot_k" ("q" and "k" where positions are not rotary)
            are needed at every position; the message says how to keep them.
    """
    shown = read_pattern(recording, layer, head, prompt=prompt)
    _check_all_heads(recording)
    config, texts = recording.config, shown.str_tokens
    query = check_index("position", query, len(texts), owner=f"prompt {prompt}")
    key = check_index("position", key, len(texts), owner=f"prompt {prompt}")
    turned = "rot_" if config.positions == "rotary" else ""
    q = recording[f"{turned}q", shown.layer][prompt, query, shown.head].detach().float().cpu()
    k = recording[f"{turned}k", shown.layer][prompt, key, shown.head // config.heads_per_group].detach().float().cpu()
    window = config.window_of_layer(shown.layer)
    return HeadPair(
        layer=shown.layer,
        head=shown.head,
        query_pos=query,
        key_pos=key,
        query=q,
        key=k,
        terms=q * k * config.scale_of_layer(shown.layer),
        score=float(recording["attn_scores", shown.layer][prompt, shown.head, query, key]),
        masked=key > query or (window is not None and key <= query - window),
        weight=float(shown.pattern[query, key]),
        str_tokens=(texts[query], texts[key]),
        manifest=manifest_of(
            recording, "one pair of tokens", layer=shown.layer, head=shown.head, query=query, key=key, prompt=prompt
        ),
    )


@checked
def similar_heads(recording: Recording, layer: int, head: int, *, prompt: int = 0) -> SimilarHeads:
    """How alike every head's pattern on a prompt is to this one's; position 0, where most rest, is left out.

    Raises:
        OutOfRange, SiteNotRecorded: as `read_pattern`; "pattern" of every layer and head is needed.
        BadPrompt: a prompt of fewer than three tokens, in which no head has a choice.
    """
    _check_all_heads(recording)
    wanted = _without_sink(read_pattern(recording, layer, head, prompt=prompt).pattern[None])
    if wanted.shape[-1] < 2:
        raise BadPrompt("a prompt of fewer than three tokens: beside position 0 no head has a choice")
    config = recording.config
    rows = []
    for number in range(config.n_layers):
        n = wanted.shape[-1] + 1
        patterns = recording["pattern", number][prompt, :, :n, :n].detach().float().cpu()
        rows.append(torch.cosine_similarity(_without_sink(patterns).flatten(1), wanted.flatten(1), dim=-1))
    return SimilarHeads(
        layer=layer % config.n_layers,
        head=head % config.n_heads,
        cosine=torch.stack(rows),
        manifest=manifest_of(recording, "similar heads", layer=layer, head=head, prompt=prompt),
    )


def read_look(recording: Recording, layer: int, head: int, *, prompt: int = 0, position: int = -1) -> HeadLook:
    """How one head weighs what the token at `position` sees.

    Raises:
        OutOfRange: no such layer, head, prompt or position.
        SiteNotRecorded: "attn_scores", "pattern" or "v" was not kept whole; the message says how to keep it.
    """
    shown = read_pattern(recording, layer, head, prompt=prompt)
    _check_all_heads(recording)
    query = check_index("position", position, len(shown.str_tokens), owner=f"prompt {prompt}")
    seen = slice(0, query + 1)
    group = shown.head // recording.config.heads_per_group
    return HeadLook(
        layer=shown.layer,
        head=shown.head,
        query_pos=query,
        scores=recording["attn_scores", layer][prompt, shown.head, query, seen].detach().float().cpu(),
        weights=shown.pattern[query, seen],
        value_lengths=recording["v", layer][prompt, seen, group].detach().float().norm(dim=-1).cpu(),
        str_tokens=shown.str_tokens[: query + 1],
        manifest=manifest_of(recording, "one look of a head", layer=layer, head=head, prompt=prompt, position=query),
    )


def _check_all_heads(recording: Recording) -> None:
    if recording.manifest["arguments"]["heads"] is not None:
        raise SiteNotRecorded(
            "keys and values have heads of their own; record with heads=None to read them beside others"
        )


def _without_sink(patterns: Float[Tensor, "head query_pos key_pos"]) -> Float[Tensor, "head query_less key_less"]:
    """Rows of queries that see two or more tokens beside position 0, on these, each summing to 1."""
    rest = patterns[:, 2:, 1:]
    return rest / rest.sum(-1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny)


def _row_of_last(recording: Recording) -> Int[Tensor, " batch"]:
    """Which of the kept query positions is each prompt's last token."""
    if recording.positions is None:
        return recording.lengths - 1
    is_last = recording.positions == recording.lengths[:, None] - 1
    if not bool(is_last.any(-1).all()):
        raise SiteNotRecorded("'pattern' was not kept at the last token; record it with positions=-1 or None")
    return is_last.int().argmax(-1)


def _heads_kept(recording: Recording) -> tuple[int, ...]:
    n_heads, heads = recording.config.n_heads, recording.manifest["arguments"]["heads"]
    return tuple(range(n_heads)) if heads is None else tuple(head % n_heads for head in heads)
