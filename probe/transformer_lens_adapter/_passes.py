"""One pass as TransformerLens asks for it: what comes in, which hooks are in force, what is given back."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict, get_args

import torch
from torch import Tensor

from probe.distributions import surprise_of
from probe.errors import BadIntervention, BadPrompt, OutOfRange, ProbeError, as_integer, check_choice, check_index
from probe.prompts import PromptBatch, read_prompts
from probe.recording import Recording, record
from probe.transformer_lens_adapter._hooks import Hook, HookedPass, Reach, kept_for, reach_of
from probe.transformer_lens_adapter._tokens import AdapterTokens

Returned = Literal["logits", "loss", "both"]
"""Raw logits (batch, pos, d_vocab_out); the loss in nats; both. None, for nothing, spares the unembedding."""


class PassOptions(TypedDict, total=False):
    """What every pass can be told, beside what it returns."""

    loss_per_token: bool
    """Each token's loss (batch, pos - 1) in place of their mean."""
    prepend_bos: bool | None
    """Whether a text begins with the document separator; see `ids_of`."""
    start_at_layer: int | None
    """The input is the residual stream entering this layer."""
    stop_at_layer: int | None
    """The first layer that is not run (0: nothing but the embedding); the output is the residual stream entering it."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass that was run."""

    output: Any
    """What the caller asked to get back."""
    recording: Recording
    hooked: HookedPass


@dataclass(frozen=True, eq=False)
class HooksInForce:
    """What one ``with adapter.hooks(...)`` says."""

    owner: "AdapterPasses"
    forward: tuple[Hook, ...]
    backward: tuple[Hook, ...]


_IN_FORCE: ContextVar[tuple[HooksInForce, ...]] = ContextVar("hooks in force", default=())
"""Those of this thread (and of this task, where a thread runs several), outermost first."""


class AdapterPasses(AdapterTokens):
    """How the adapter runs the model."""

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[Hook] = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[Self]:
        """Hooks for every pass of this adapter inside the ``with`` block, in this thread and no other."""
        check_reset(reset_hooks_end)
        forward, backward = tuple(fwd_hooks), tuple(bwd_hooks)
        HookedPass(self._model, forward, backward, reach_of(self._model.config))  # a wrong name is found here already
        token = _IN_FORCE.set((*_IN_FORCE.get(), HooksInForce(self, forward, backward)))
        try:
            yield self
        finally:
            _IN_FORCE.reset(token)

    def reset_hooks(self, *_: Any, **__: Any) -> None:
        """Nothing to do: no hook outlives its call or its ``with`` block.

        Raises:
            BadIntervention: inside such a block, whose hooks stay in force.
        """
        if self._in_force():
            raise BadIntervention("reset_hooks inside `with adapter.hooks(...)`: leave the block instead")

    def _run(
        self,
        input: Any,
        *,
        forward: Sequence[Hook] = (),
        backward: Sequence[Hook] = (),
        names: Iterable[str] = (),
        differentiable: Iterable[str] = (),
        one_prompt: bool = False,
        return_type: Returned | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Pass:
        """`names`: values to keep; `differentiable`: those whose gradient will be asked for."""
        if return_type is not None:
            check_choice("return_type", return_type, get_args(Returned))
        start, stop = self._span(start_at_layer, stop_at_layer)
        forward = [*(hook for entry in self._in_force() for hook in entry.forward), *forward]
        backward = [*(hook for entry in self._in_force() for hook in entry.backward), *backward]
        if (backward or differentiable) and not torch.is_grad_enabled():
            raise ProbeError("gradients were asked for inside torch.no_grad(), where there are none: leave that mode")
        reach = reach_of(self._model.config, start, stop)
        hooked = HookedPass(self._model, forward, backward, reach, differentiable=differentiable)
        batch = None if start is not None else self._batch(input, prepend_bos)
        prompts = input if batch is None else batch.ids
        if one_prompt and len(prompts) != 1:
            raise BadPrompt(f"remove_batch_dim=True with {len(prompts)} prompts: it is for one")
        kept = {*(kept_for(self._model.config, name) for name in names), *hooked.kept}
        recording = record(
            self._model,
            prompts,
            sites=list(kept if stop is None else kept | {_stream_at(stop)}),
            interventions=hooked.interventions,
            start_at_layer=start,
            stop_after_layer=None if stop is None else max(stop - 1, 0),
            grad=torch.is_grad_enabled(),
            logits=return_type is not None,
        )
        hooked.attach(recording)
        if stop is not None:
            return Pass(recording.values[_stream_at(stop)], recording, hooked)
        return Pass(_output(recording, batch, return_type, loss_per_token), recording, hooked)

    def _in_force(self) -> list[HooksInForce]:
        return [entry for entry in _IN_FORCE.get() if entry.owner is self]

    def _reach(self, start_at_layer: int | None = None, stop_at_layer: int | None = None, **_: Any) -> Reach:
        return reach_of(self._model.config, *self._span(start_at_layer, stop_at_layer))

    def _span(self, start_at_layer: int | None, stop_at_layer: int | None) -> tuple[int | None, int | None]:
        """First layer and the first that is not run, counted from the front."""
        n_layers = self._model.config.n_layers
        start, stop = start_at_layer, as_integer(stop_at_layer)
        if start is not None:
            start = check_index("layer", start, n_layers, owner="this model")
        if stop_at_layer is not None and (stop is None or not -n_layers <= stop <= n_layers):
            raise OutOfRange(
                f"stop_at_layer {stop_at_layer!r}: it is the first layer not run, from 0 (nothing but the embedding) "
                f"to {n_layers} (the whole stack)"
            )
        stop = stop + n_layers if stop is not None and stop < 0 else stop
        if stop is not None and start is not None and stop <= start:
            raise OutOfRange(f"stop_at_layer={stop} with start_at_layer={start}: no layer is run")
        return start, stop

    def _batch(self, input: Any, prepend_bos: bool | None) -> PromptBatch:
        texts = [input] if isinstance(input, str) else input
        if isinstance(texts, (list, tuple)) and texts and all(isinstance(text, str) for text in texts):
            prompts: Any = [self.ids_of(text, prepend_bos) for text in texts]
        elif prepend_bos is not None:
            raise BadPrompt(f"prepend_bos={prepend_bos} is about text, and token ids were given")
        else:
            prompts = input
        batch = read_prompts(self._model.config, self._model.tokenizer, prompts)
        if min(batch.lengths) < max(batch.lengths):
            raise BadPrompt(
                f"prompts of {batch.lengths} tokens: a cache has no word for padding; run them one by one, "
                "or hand over padded ids (to_tokens) and mind what is read at the padding"
            )
        return batch


def check_reset(reset_hooks_end: bool) -> None:
    """Raise BadIntervention unless hooks are to end with their call."""
    if not reset_hooks_end:
        raise BadIntervention(
            "reset_hooks_end=False: no hook outlives its call; for several calls use `with adapter.hooks(...)`"
        )


def gradients(output: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a single number with respect to values of its pass, by ``name + "_grad"``."""
    if not isinstance(output, Tensor) or output.numel() != 1:
        raise ProbeError("incl_bwd=True needs a single number to differentiate: return_type='loss'")
    found = torch.autograd.grad(output, list(values.values()), allow_unused=True)
    return {f"{name}_grad": grad for name, grad in zip(values, found, strict=True) if grad is not None}


def _stream_at(stop: int) -> str:
    """Where the residual stream entering layer `stop` is read: it is what the layer before leaves."""
    return f"blocks.{stop - 1}.hook_resid_post" if stop else "blocks.0.hook_resid_pre"


def _output(recording: Recording, batch: PromptBatch | None, return_type: Returned | None, loss_per_token: bool) -> Any:
    if return_type is None:
        return None
    if return_type == "logits":
        return recording.logits
    if batch is None:
        raise BadPrompt(f"return_type={return_type!r} needs tokens to predict, and start_at_layer begins without any")
    tokens = batch.tokens(padding=0).to(recording.logits.device)
    if tokens.shape[1] < 2:
        raise BadPrompt("a loss needs at least two tokens: one to predict from, one to predict")
    loss = surprise_of(recording.logits[:, :-1], tokens[:, 1:])
    loss = loss if loss_per_token else loss.mean()
    return loss if return_type == "loss" else (recording.logits, loss)
