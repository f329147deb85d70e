"""What a user may hand over as a prompt -> a batch of token ids: checked, right-padded, ready to run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import BadPrompt, BadShape, OutOfRange, as_integer, check_index

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | np.ndarray | Tensor
"""One text, several texts, or token ids: of one prompt, of several, or as (batch, pos)."""


@runtime_checkable
class TokenizerLike(Protocol):
    """What is needed of a tokenizer here; see `tokens.py` for ours."""

    document_start_id: int | None

    def encode(self, text: str) -> list[int]: ...

    def str_tokens(self, ids: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True)
class PromptBatch:
    """Prompts as the model runs them: one row each, padded on the right."""

    ids: tuple[tuple[int, ...], ...]
    """Token ids of each prompt, without padding."""

    @property
    def lengths(self) -> list[int]:
        """Tokens in each prompt."""
        return [len(row) for row in self.ids]

    def tokens(self, *, padding: int) -> Int[Tensor, "batch pos"]:
        """All prompts in one tensor on the CPU, `padding` after the end of the shorter ones."""
        longest = max(self.lengths)
        return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in self.ids])


def read_prompts(
    config: GPTConfig, tokenizer: TokenizerLike | None, prompts: Prompts, *, document_start: bool = False
) -> PromptBatch:
    """Token ids of one text, several texts, or ids given as lists or as an integer tensor (batch, pos).

    `document_start` puts the model's document separator first, unless it is there already.

    Raises:
        BadPrompt: empty, longer than the context, or text to a model without tokenizer.
        BadShape: ids that are not integers, or not of shape (batch, pos).
        OutOfRange: an id outside the vocabulary.
    """
    rows = _rows_of(tokenizer, prompts)
    if not rows:
        raise BadPrompt("no prompts: the list is empty")
    if document_start:
        start = document_start_id(tokenizer)
        rows = [row if row[:1] == [start] else [start, *row] for row in rows]
    for number, row in enumerate(rows):
        which = f"prompt {number}" if len(rows) > 1 else "the prompt"
        check_ids(config, row, which)
    return PromptBatch(tuple(tuple(row) for row in rows))


def document_start_id(tokenizer: TokenizerLike | None) -> int:
    """The id of the model's document separator.

    Raises:
        BadPrompt: no tokenizer, or one that declares none.
    """
    if tokenizer is None:
        raise BadPrompt("document_start=True: this model has no tokenizer that would know its document separator; "
                        "put the separator's id first yourself")  # fmt: skip
    if tokenizer.document_start_id is None:
        raise BadPrompt("document_start=True: this model's tokenizer declares no document separator")
    return tokenizer.document_start_id


def token_id(config: GPTConfig, tokenizer: Any, token: str | int, *, predicted: bool = True) -> int:
    """The id of one token, given as text (" Paris") or as id; with `predicted`, of one that the model may predict.

    Raises:
        BadPrompt: a text that is not one token (the message shows its pieces), or text to a model without tokenizer.
        OutOfRange: an id outside the vocabulary, or of a token that it reads but never predicts.
    """
    n = config.n_outputs if predicted else config.d_vocab
    owner = "this model's vocabulary" if n == config.d_vocab else "what this model predicts"
    if not isinstance(token, str):
        return check_index("token id", token, n, owner=owner)
    if tokenizer is None:
        raise BadPrompt(f"token {token!r}: this model has no tokenizer; give its id")
    return check_index("token id", tokenizer.token_id(token), n, owner=owner)


def str_tokens(tokenizer: TokenizerLike | None, ids: Sequence[int]) -> list[str]:
    """The text of each token; without a tokenizer its id in brackets."""
    return [f"[{token}]" for token in ids] if tokenizer is None else tokenizer.str_tokens(ids)


def check_ids(config: GPTConfig, ids: Sequence[int], which: str) -> None:
    """Raise unless these ids are a prompt that the model can run."""
    if not ids:
        raise BadPrompt(f"{which} is empty: it has no token to run (document_start=True gives it one)")
    if len(ids) > config.n_ctx:
        raise BadPrompt(f"{which} has {len(ids)} tokens: this model's context holds {config.n_ctx}")
    for position, token in enumerate(ids):
        if not 0 <= token < config.d_vocab:
            hint = "; padding is not needed: pass a list of lists of different lengths" if token == -1 else ""
            raise OutOfRange(
                f"token id {token} at position {position} of {which}: "
                f"this model's vocabulary has ids 0 to {config.d_vocab - 1}{hint}"
            )


def check_predicted(config: GPTConfig, prompts: Iterable[Sequence[int]]) -> None:
    """Raise OutOfRange unless the model could predict every token of these prompts but the first."""
    if config.n_outputs == config.d_vocab:
        return
    for number, ids in enumerate(prompts):
        for position, token in enumerate(ids[1:], 1):
            if token >= config.n_outputs:
                raise OutOfRange(
                    f"token id {token} at position {position} of prompt {number} is never predicted: this model reads "
                    f"ids 0 to {config.d_vocab - 1} and predicts 0 to {config.n_outputs - 1}"
                )


def check_lengths_together(config: GPTConfig, lengths: Sequence[int]) -> None:
    """Raise BadPrompt for prompts that cannot share a batch: some rotary scaling turns longer ones by other angles."""
    scaling, shortest, longest = config.rotary_scaling, min(lengths), max(lengths)
    if scaling is not None and scaling.differs(shortest, longest):
        raise BadPrompt(
            f"prompts of {shortest} to {longest} tokens: beyond {scaling.original_n_ctx} this model's "
            f"{scaling.kind!r} positions depend on the length of the prompt; run prompts of different lengths apart"
        )


def _rows_of(tokenizer: TokenizerLike | None, prompts: Prompts) -> list[list[int]]:
    if isinstance(prompts, Tensor):
        return _rows_of_tensor(prompts)
    if isinstance(prompts, str):
        return [_encode(tokenizer, prompts)]
    rows: Any = prompts.tolist() if isinstance(prompts, np.ndarray) else prompts
    if not isinstance(rows, Sequence) or isinstance(rows, bytes):
        raise BadShape(f"prompt of type {type(prompts).__name__}: expected text, a list of texts, or token ids")
    single = [as_integer(row) for row in rows]
    if single and None not in single:
        return [[token for token in single if token is not None]]
    return [_encode(tokenizer, row) if isinstance(row, str) else _ids_of(row) for row in rows]


def _rows_of_tensor(tokens: Tensor) -> list[list[int]]:
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise BadShape(
            f"tokens of dtype {tokens.dtype}: expected integer ids; a residual stream (batch, pos, d_model) needs "
            "start_at_layer"
        )
    if tokens.ndim not in (1, 2):
        raise BadShape(f"tokens of shape {tuple(tokens.shape)}: expected (batch, pos)")
    rows = tokens.tolist()
    return [rows] if tokens.ndim == 1 else rows


def _encode(tokenizer: TokenizerLike | None, text: str) -> list[int]:
    if tokenizer is None:
        raise BadPrompt(f"text {text[:40]!r}: this model has no tokenizer; pass token ids")
    return list(tokenizer.encode(text))


def _ids_of(row: Any) -> list[int]:
    values = row.tolist() if isinstance(row, (np.ndarray, Tensor)) else row
    ids = [as_integer(value) for value in values] if isinstance(values, (list, tuple, range)) else [None]
    if None in ids:
        raise BadShape(f"prompt {str(row)[:60]}: expected text or a list of integer token ids")
    return [token for token in ids if token is not None]
