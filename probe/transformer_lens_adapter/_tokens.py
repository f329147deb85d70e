"""Text and tokens, by TransformerLens's method names and this project's rules.

TransformerLens puts a model's declared start token before every text, unasked. Here a text is cut as the model's own
tokenizer cuts it; the document separator comes first where it is asked for, which for chat models is another token.
"""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from probe.errors import BadPrompt, BadShape, OutOfRange, check_choice
from probe.gpt import GPT
from probe.prompts import document_start_id, str_tokens, token_id


class AdapterTokens:
    """What the adapter answers when asked about text."""

    _model: GPT
    _document_start: bool

    @property
    def tokenizer(self) -> Any:
        """The model's own; None: token ids work."""
        return self._model.tokenizer

    def ids_of(self, text: str, prepend_bos: bool | None = None) -> list[int]:
        """Token ids of one text.

        `prepend_bos` None: as the tokenizer gives them, with the document separator first if the adapter was made with
        ``document_start=True``. True: with the separator first, unless it is there. False: the bare tokens of a
        fragment, without the special tokens that some tokenizers add by themselves.
        """
        tokenizer = self._model.tokenizer
        if not isinstance(text, str):
            raise BadPrompt(f"expected text, got {type(text).__name__}")
        if tokenizer is None:
            raise BadPrompt(f"text {text[:40]!r}: this model has no tokenizer; pass token ids")
        if prepend_bos is False:
            return list(tokenizer.encode(text, add_special_tokens=False))
        ids = list(tokenizer.encode(text))
        if not (self._document_start if prepend_bos is None else prepend_bos):
            return ids
        start = document_start_id(tokenizer)
        return ids if ids[:1] == [start] else [start, *ids]

    def to_tokens(
        self,
        input: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        move_to_device: bool = True,
        truncate: bool = False,
    ) -> Int[Tensor, "batch pos"]:
        """Token ids of one text or several, shorter ones padded on the right, with the declared end token.

        See `ids_of` for `prepend_bos`. Nothing is cut off unless `truncate` says so; the model's context is a limit.

        Raises:
            BadPrompt: no tokenizer, no text, or padding on the left.
        """
        if padding_side not in (None, "right"):
            raise BadPrompt(f"padding_side={padding_side!r}: positions count from a prompt's front, so it is 'right'")
        rows = [self.ids_of(text, prepend_bos) for text in ([input] if isinstance(input, str) else input)]
        if not rows:
            raise BadPrompt("no prompts: the list is empty")
        limit = self._model.config.n_ctx if truncate else None
        rows = [row[:limit] for row in rows]
        tokenizer, longest = self._model.tokenizer, max(len(row) for row in rows)
        known = (getattr(tokenizer, name, None) for name in ("eos_id", "document_start_id"))
        padding = next((id for id in known if id is not None), 0)
        tokens = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], dtype=torch.long)
        return tokens.to(self._model.device) if move_to_device else tokens

    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> list[str] | list[list[str]]:
        """The text of each token, as results show it: of a text, of ids (pos,) or (1, pos), or of a list of these."""
        if isinstance(input, (list, tuple)):
            return [self.to_str_tokens(one, prepend_bos) for one in input]  # type: ignore[return-value]
        if isinstance(input, str):
            return self._shown(self.ids_of(input, prepend_bos))
        return self._shown(_one_row(input))

    def to_string(self, tokens: Any) -> str | list[str]:
        """The text of ids (pos,), or the texts of (batch, pos)."""
        ids = torch.as_tensor(tokens)
        return (
            [self.tokenizer.decode(row) for row in ids.tolist()]
            if ids.ndim == 2
            else self.tokenizer.decode(_one_row(ids))
        )

    def to_single_token(self, string: str) -> int:
        """The id of the one token whose text is exactly this.

        Raises:
            BadPrompt: it is not one token; the message shows its pieces.
        """
        return token_id(self._model.config, self._model.tokenizer, string)

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one token."""
        return self._shown([token_id(self._model.config, self._model.tokenizer, int_token)])[0]

    def get_token_position(
        self,
        single_token: str | int | Tensor,
        input: str | Tensor,
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
    ) -> int:
        """Where a token stands in a text or in ids (pos,) or (1, pos): its first position there, or its last.

        Raises:
            OutOfRange: it does not stand there.
        """
        check_choice("mode", mode, ("first", "last"))
        ids = self.ids_of(input, prepend_bos) if isinstance(input, str) else _one_row(input)
        wanted = int(single_token) if isinstance(single_token, Tensor) else single_token
        wanted = token_id(self._model.config, self._model.tokenizer, wanted)
        found = [position for position, id in enumerate(ids) if id == wanted]
        if not found:
            raise OutOfRange(f"token {single_token!r} does not occur among {self._shown(ids)}")
        return found[0] if mode == "first" else found[-1]

    def _shown(self, ids: list[int]) -> list[str]:
        return str_tokens(self._model.tokenizer, ids)


def _one_row(ids: Any) -> list[int]:
    ids = torch.as_tensor(ids) if isinstance(ids, (np.ndarray, Tensor)) else None
    if ids is None or ids.is_floating_point() or (ids.ndim == 2 and len(ids) != 1) or ids.ndim > 2:
        shape = "no tensor" if ids is None else f"shape {tuple(ids.shape)}"
        raise BadShape(f"expected text or integer token ids of one prompt, (pos,) or (1, pos); got {shape}")
    return ids.reshape(-1).tolist()
