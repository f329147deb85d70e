"""A given text as a reader with expectations sees it: at every position a prediction, then how surprising the next
token is. The same game as generation, with the tokens chosen by someone else."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.arguments import checked
from probe.distributions import entropy_of, log_probs_of, ranks_of
from probe.errors import BadIntervention, BadPrompt
from probe.gpt import GPT
from probe.interventions import Intervention, list_interventions
from probe.methods._inputs import manifest_of, texts_of, token_texts
from probe.methods._stream import LOGITS_AT_ONCE, check_top
from probe.prompts import Prompts, check_predicted
from probe.recording import PADDING, record
from probe.results import LongResult
from probe.shown import Summary, describe_prompts


@dataclass(frozen=True, eq=False)
class TextScores(LongResult):
    """What the model expected after every position of every prompt, and how what followed fits. In nats.

    After a prompt's last position something is expected, but nothing follows: NaN, or -1 for a rank. So are padded
    entries.
    """

    tokens: Int[Tensor, "batch pos"]
    """Token ids, -1 after the end of a shorter prompt."""
    str_tokens: list[list[str]]
    surprise: Float[Tensor, "batch pos"]
    """-log p(the token that follows), in nats."""
    rank: Int[Tensor, "batch pos"]
    """Rank of the token that follows among all tokens; 1 was the likeliest, and ties share the better place."""
    entropy: Float[Tensor, "batch pos"]
    """Entropy of the prediction (nats): the mean surprise, if the model is right about how unsure it is."""
    top_tokens: Int[Tensor, "batch pos top"]
    """Ids of the tokens that were most expected, the likeliest first."""
    top_probabilities: Float[Tensor, "batch pos top"]
    texts: Mapping[int, str]
    """The text of every listed token."""
    n_bytes: tuple[int, ...]
    """Bytes of each prompt's scored tokens in UTF-8; 0 without a tokenizer that knows them."""
    manifest: Mapping[str, Any]

    @property
    def mean_surprise(self) -> Float[Tensor, " batch"]:
        """Nats per token, over all tokens but the first; as `probe.loss`."""
        return self.surprise.nanmean(-1)

    @property
    def perplexity(self) -> Float[Tensor, " batch"]:
        """exp(mean surprise): among so many equally likely tokens the model seems to choose."""
        return self.mean_surprise.exp()

    @property
    def bits_per_byte(self) -> Float[Tensor, " batch"]:
        """Bits that the model would need for each byte of the text: comparable between tokenizers. NaN if unknown."""
        n_bytes = torch.tensor([float(n) if n else math.nan for n in self.n_bytes])
        return self.surprise.nansum(-1) / math.log(2) / n_bytes

    @property
    def n_rows(self) -> int:
        """How many rows the table has."""
        return sum(map(len, self.str_tokens))

    def summary(self) -> Summary:
        """How surprising the texts are, and what most."""
        prompt, position = divmod(int(self.surprise.nan_to_num(-1.0).argmax()), self.surprise.shape[1])
        worst = self.str_tokens[prompt][position + 1]
        return Summary(
            describe_prompts(self.str_tokens),
            {
                "mean surprise (nats per token)": self.mean_surprise.tolist(),
                "perplexity": self.perplexity.tolist(),
                "most surprising": f"{worst!r}, {float(self.surprise[prompt, position]):.3g} nats",
            },
            self.manifest["model"], self.str_tokens,
        )  # fmt: skip

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per position: what stands there, what was expected next and what came."""
        for prompt, texts in enumerate(self.str_tokens):
            for position, text in enumerate(texts):
                at, last = (prompt, position), position + 1 == len(texts)
                expected = [self.texts[token] for token in self.top_tokens[at].tolist()]
                yield {
                    "prompt": prompt, "position": position, "after_token": text,
                    "expected": expected[0], "expected_probability": float(self.top_probabilities[at][0]),
                    "entropy_nats": float(self.entropy[at]), "next_token": None if last else texts[position + 1],
                    "surprise_nats": float(self.surprise[at]), "rank": None if last else int(self.rank[at]),
                    "also_expected": expected[1:],
                }  # fmt: skip


@checked
def score_text(
    model: GPT, prompts: Prompts, *, document_start: bool = False, top: int = 5,
    interventions: Intervention | Iterable[Intervention] = (),
) -> TextScores:  # fmt: skip
    """Predict every token of a text from those before it.

    The first token is scored only with `document_start`, which gives it something to follow. Logits are made a few
    positions at a time, so (pos, d_vocab_out) never exists whole.

    Args:
        prompts: a text, several, or token ids, of two tokens or more each.
        top: how many of the most expected tokens to list at every position.
        interventions: as in `record`, but for the final norm, which is not run as a part of the pass here.

    Returns:
        Surprise (nats), rank, entropy (nats) and expectations at every position; see TextScores.

    Raises:
        BadPrompt: a prompt of one token, which predicts nothing that is there.
        OutOfRange: `top` below 1 or above the vocabulary.
        BadIntervention: one that does not fit, or that changes the final norm.
    """
    check_top(top, model.config.n_outputs)
    changes = list_interventions(interventions)
    for one in changes:
        if "ln_final" in one.site:
            raise BadIntervention(f"{one}: score_text reads the stream before the final norm; record(...) changes that")
    last = model.config.n_layers - 1
    recording = record(
        model, prompts, sites=["resid_post"], layers=last, logits=False, document_start=document_start,
        interventions=changes,
    )  # fmt: skip
    tokens = recording.tokens
    assert tokens is not None, "prompts are text or ids"
    lengths = recording.lengths.tolist()
    if min(lengths) < 2:
        raise BadPrompt("a prompt of one token has no next token to score; document_start=True puts one before it")
    check_predicted(model.config, tokens.tolist())
    found = _score(model, recording["resid_post", last], tokens, top)
    listed = [*found["top_tokens"].unique().tolist(), *tokens.unique().tolist()]
    return TextScores(
        tokens=tokens,
        str_tokens=texts_of(recording),
        **found,
        texts=token_texts(model, [token for token in listed if token != PADDING]),
        n_bytes=tuple(_count_bytes(model, row[1:length]) for row, length in zip(tokens.tolist(), lengths, strict=True)),
        manifest=manifest_of(recording, "score text", top=top),
    )


@torch.no_grad()
def _score(
    model: GPT, resid: Float[Tensor, "batch pos d_model"], tokens: Int[Tensor, "batch pos"], top: int
) -> dict[str, Tensor]:
    """By the names of TextScores' fields."""
    shape = tuple(tokens.shape)
    found = {name: torch.full(shape, torch.nan) for name in ("surprise", "entropy")}
    found |= {"rank": torch.full(shape, PADDING), "top_tokens": torch.full((*shape, top), PADDING)}
    found["top_probabilities"] = torch.full((*shape, top), torch.nan)
    following = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=PADDING)
    at_once = max(1, LOGITS_AT_ONCE // model.config.n_outputs)
    for entries in (tokens != PADDING).nonzero().split(at_once):
        at = tuple(entries.unbind(-1))
        log_probs = log_probs_of(model.read_out(resid[at].to(model.device)[None]))[0]
        next_token = following[at].to(log_probs.device)
        chosen = log_probs.gather(-1, next_token.clamp(min=0)[:, None])
        nothing = next_token == PADDING
        best = log_probs.topk(top)
        of_entries = {
            "surprise": (-chosen[:, 0]).masked_fill(nothing, torch.nan),
            "rank": ranks_of(log_probs, chosen)[:, 0].masked_fill(nothing, PADDING),
            "entropy": entropy_of(log_probs),
            "top_tokens": best.indices,
            "top_probabilities": best.values.exp(),
        }
        for name, value in of_entries.items():
            found[name][at] = value.to(found[name])
    return found


def _count_bytes(model: GPT, ids: list[int]) -> int:
    bytes_of = getattr(model.tokenizer, "bytes_of", None)
    return 0 if bytes_of is None else sum(len(bytes_of(token)) for token in ids)
