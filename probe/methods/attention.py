"""Attention of single heads: where each looks, how one token weighs what it sees, which heads look alike.

What a head does over many texts is scored in `heads.py`; what it would do by its weights alone is in `circuits.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import BadPrompt, SiteNotRecorded, check_index
from probe.methods._inputs import check_not_reduced, manifest_of, texts_of
from probe.recording import Recording
from probe.results import Result

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
    """The position of that token."""
    share_on_first: Float[Tensor, "layer head batch"]
    """The attention weight on position 0, 0 to 1."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""

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
class HeadPattern(Result):
    """The attention of one head on one prompt."""

    layer: int
    head: int
    pattern: Float[Tensor, "query_pos key_pos"]
    """How much each token (row) takes from each token (column); rows sum to 1."""
    str_tokens: list[str]
    """The text of each token."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair of a token and a token that it can see."""
        import pandas  # half a second that only tables need

        rows = [
            (query, self.str_tokens[query], key, self.str_tokens[key], float(self.pattern[query, key]))
            for query in range(len(self.str_tokens))
            for key in range(query + 1)
        ]
        return pandas.DataFrame(rows, columns=["query_pos", "query_token", "key_pos", "key_token", "weight"])


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


def read_look(recording: Recording, layer: int, head: int, *, prompt: int = 0, position: int = -1) -> HeadLook:
    """How one head weighs what the token at `position` sees.

    Raises:
        OutOfRange: no such layer, head, prompt or position.
        SiteNotRecorded: "attn_scores", "pattern" or "v" was not kept whole; the message says how to keep it.
    """
    shown = read_pattern(recording, layer, head, prompt=prompt)
    if recording.manifest["arguments"]["heads"] is not None:
        raise SiteNotRecorded("'v' has heads of its own; record 'attn_scores', 'pattern' and 'v' with heads=None")
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
