"""The distribution behind the next token: the likeliest candidates, and how much is left for all others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.distributions import entropy_of, log_probs_of, ranks_of
from probe.errors import OutOfRange, check_index
from probe.gpt import GPT
from probe.methods._inputs import check_same_model, column_of, manifest_of, token_texts
from probe.norms import at_least_float32
from probe.prompts import token_id
from probe.recording import Recording
from probe.results import Result
from probe.shown import Summary, count

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class NextTokens(Result):
    """What the model expects after one position of one prompt."""

    tokens: Int[Tensor, " top"]
    """Ids of the tokens, the likeliest first, or as asked for."""
    texts: list[str]
    ranks: Int[Tensor, " top"]
    """Rank of each among all tokens; 1 is the likeliest, and ties share the better place."""
    probabilities: Float[Tensor, " top"]
    """Probability of each, 0 to 1."""
    logits: Float[Tensor, " top"]
    """Raw logit of each, as the model gives it; only differences mean something."""
    entropy: float
    """Entropy of the whole distribution (nats)."""
    d_vocab: int
    """Tokens that the model can predict (its `config.n_outputs`)."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""

    @property
    def rest(self) -> float:
        """The probability of all tokens that are not listed."""
        return max(0.0, 1.0 - float(self.probabilities.sum()))

    def summary(self) -> Summary:
        """The likeliest few, and how sure the model is."""
        listed = zip(self.texts, self.probabilities.tolist(), strict=True)
        return Summary(
            f"{count(len(self.texts), 'token')} of {self.d_vocab:,}",
            {"probabilities": ", ".join(f"{text!r} {p:.3f}" for (text, p), _ in zip(listed, range(4), strict=False)),
             "all others": self.rest, "entropy (nats)": self.entropy},
            self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per token: rank, token, id, probability, raw logit."""
        import pandas  # half a second that only tables need

        columns = {
            "rank": self.ranks.tolist(),
            "token": self.texts,
            "token_id": self.tokens.tolist(),
            "probability": self.probabilities.tolist(),
            "logit": self.logits.tolist(),
        }
        return pandas.DataFrame(columns)


def next_tokens(
    model: GPT, recording: Recording, *, prompt: int = 0, position: int = -1, top: int = 10,
    tokens: Sequence[str | int] | None = None,
) -> NextTokens:  # fmt: skip
    """The `top` likeliest tokens after one position of one prompt; a vocabulary of fewer is listed whole.

    `tokens`: these instead, as text or id, in this order.

    Raises:
        DifferentModel: the recording is of another model.
        SiteNotRecorded: logits were not kept, or not at this position.
        OutOfRange: no such prompt, position or token id, or `top` below 1.
        BadPrompt: a text that is not one token.
    """
    check_same_model(model, recording)
    if top < 1:
        raise OutOfRange(f"top={top}: expected at least 1")
    logits = at_least_float32(recording["logits"])
    prompt = check_index("prompt", prompt, len(recording.lengths), owner="this recording")
    position = check_index("position", position, int(recording.lengths[prompt]), owner=f"prompt {prompt}")
    row = logits[prompt, column_of(recording, prompt, position)].detach()
    log_probs = log_probs_of(row)
    asked: dict[str, Any] = {"prompt": prompt, "position": position}
    if tokens is None:
        asked["top"] = top
        listed = log_probs.topk(min(top, len(row))).indices
    else:
        listed = torch.tensor([token_id(model.config, model.tokenizer, token) for token in tokens], device=row.device)
        asked["tokens"] = listed.tolist()
    texts = token_texts(model, listed.tolist())
    return NextTokens(
        tokens=listed.cpu(),
        texts=[texts[token] for token in listed.tolist()],
        ranks=ranks_of(row, row[listed]).cpu(),
        probabilities=log_probs[listed].exp().cpu(),
        logits=row[listed].cpu(),
        entropy=float(entropy_of(log_probs)),
        d_vocab=len(row),
        manifest=manifest_of(recording, "next tokens", **asked),
    )


def same_next_tokens(
    model: GPT, recordings: Sequence[Recording], *, top: int = 10, also: Sequence[str | int] = ()
) -> list[NextTokens]:
    """After the last token of each recording's first prompt: the same tokens for all, those likeliest in any, and more.

    Raises:
        DifferentModel, SiteNotRecorded, OutOfRange, BadPrompt: as `next_tokens`.
    """
    likeliest = [token for one in recordings for token in next_tokens(model, one, top=top).tokens.tolist()]
    more = [token_id(model.config, model.tokenizer, token) for token in also]
    listed = list(dict.fromkeys([*likeliest, *more]))
    return [next_tokens(model, one, tokens=listed) for one in recordings]
