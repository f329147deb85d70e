"""TransformerLens's tools on our model: what they ask of a model, answered by `record` and interventions.

Hooks and cache filters are arguments of one call here too. Nothing is attached to the model, and ``with hooks(...)``
holds in its own thread only, so adapters, threads and failed calls cannot meet. A misspelt name is an error.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from probe.errors import (
    BadIntervention,
    BadPrompt,
    DifferentModel,
    OutOfRange,
    ProbeError,
    SiteNotRecorded,
    UnknownName,
    as_integer,
    check_choice,
    check_index,
)
from probe.gpt import GPT
from probe.metrics import surprise_of
from probe.prompts import PromptBatch, read_prompts
from probe.provenance import fingerprint
from probe.recording import Recording, record
from probe.sites import site_names
from probe.transformer_lens_adapter._derived import derived_names
from probe.transformer_lens_adapter._hooks import (
    Hook,
    HookedPass,
    HookedSite,
    NamesMeant,
    kept_for,
    names_meant,
    names_run,
)
from probe.transformer_lens_adapter._tokens import AdapterTokens
from probe.transformer_lens_adapter._weights import AdapterWeights

Returned = Literal["logits", "loss", "both"]
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu_quick": "quick_gelu"}
"""TransformerLens's words for them, where they differ."""


@dataclass(frozen=True, eq=False)
class HooksInForce:
    """What one ``with adapter.hooks(...)`` says."""

    owner: "TransformerLensAdapter"
    forward: tuple[Hook, ...]
    backward: tuple[Hook, ...]


_IN_FORCE: ContextVar[tuple[HooksInForce, ...]] = ContextVar("hooks in force", default=())
"""Those of this thread (and of this task, where a thread runs several), outermost first."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass: what the caller asked to get back, and its values."""

    output: Any
    recording: Recording
    hooked: HookedPass


def as_transformer_lens(model: GPT, *, document_start: bool = False) -> "TransformerLensAdapter":
    """A model as TransformerLens's tools want one: `patching`, `detect_head`, `logit_lens`, `attribution_patch`, ...

    It has ``run_with_cache``, ``run_with_hooks``, ``hooks``, the methods for text, and the weights, the final norm's
    gain folded into ``W_U``. Values are those of `probe.site_names`, under TransformerLens's classical names; besides,
    where they are named, ``attn.hook_result``, ``attn.hook_q_input``, ``attn.hook_k_input``, ``attn.hook_v_input`` and
    ``hook_mlp_in``. ``attn_scores`` are those before the mask.

    Args:
        document_start: put the model's document separator first in every text, as in `probe.record`.
            TransformerLens itself puts the declared start token there; see ``to_tokens`` for `prepend_bos`.
    """
    return TransformerLensAdapter(model, document_start=document_start)


def to_activation_cache(recording: Recording, model: GPT) -> Any:
    """A recording as TransformerLens's `ActivationCache`, with all that it computes from one; `model` has the weights.

    Raises:
        DifferentModel: the recording is of another model.
        SiteNotRecorded: it holds some heads only, or means over prompts.
        BadPrompt: prompts of different lengths: a cache has no word for padding; hand over ``recording.prompt(i)``.
    """
    from transformer_lens import ActivationCache

    if recording.manifest["fingerprint"] != fingerprint(model):
        raise DifferentModel(f"the recording of {recording.manifest['model']!r} was not made with this {model.name!r}")
    arguments = recording.manifest["arguments"]
    for name in ("reduce", "heads"):
        if arguments[name]:
            raise SiteNotRecorded(
                f"recorded with {name}={arguments[name]}: a cache holds whole values; leave {name} out"
            )
    lengths = sorted({int(length) for length in recording.lengths})
    if len(lengths) > 1:
        raise BadPrompt(
            f"prompts of {lengths[0]} to {lengths[-1]} tokens: a cache has no word for padding; "
            "take one prompt at a time, recording.prompt(i)"
        )
    values = {name: recording.values[name] for name in recording.names}
    return ActivationCache(values, as_transformer_lens(model))


class TransformerLensAdapter(AdapterTokens, AdapterWeights):
    """A model seen by TransformerLens; made by `as_transformer_lens`. It holds the model and one setting, no state."""

    def __init__(self, model: GPT, *, document_start: bool = False):
        self._model, self._document_start = model, document_start

    @property
    def cfg(self) -> Any:
        """A `TransformerLensConfig`. It describes; writing to it raises."""
        from transformer_lens.config import TransformerLensConfig

        config = self._model.config
        described = TransformerLensConfig(
            d_model=config.d_model, d_head=config.d_head, n_layers=config.n_layers, n_ctx=config.n_ctx,
            n_heads=config.n_heads, d_mlp=config.d_mlp, d_vocab=config.d_vocab, n_key_value_heads=config.kv_heads,
            device=str(self._model.device), dtype=self._model.dtype, eps=config.norm_eps, gated_mlp=config.gated_mlp,
            positional_embedding_type="rotary" if config.positions == "rotary" else "standard",
            act_fn=ACTIVATIONS.get(config.activation, config.activation),
            uses_rms_norm=config.norm == "rms", final_rms=config.norm == "rms",
            normalization_type="RMS" if config.norm == "rms" else "LN",
            default_prepend_bos=self._document_start, use_attn_result=True, use_split_qkv_input=True,
        )  # fmt: skip
        more = {"model_name": self._model.name, "use_hook_mlp_in": True, "use_attn_in": False}
        for name, value in more.items():
            setattr(described, name, value)

        class Description(TransformerLensConfig):
            def __setattr__(self, name: str, value: Any) -> None:
                raise ProbeError(f"cfg.{name}: cfg describes the model, and nothing would follow from writing to it")

        described.__class__ = Description
        return described

    @property
    def hook_dict(self) -> dict[str, HookedSite]:
        """Every name that a hook may have."""
        config = self._model.config
        return {name: HookedSite(name) for name in (*site_names(config), *derived_names(config))}

    def __call__(
        self,
        input: Any,
        return_type: Returned | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Any:
        """One pass; see `run_with_hooks`."""
        return self._run(
            input, return_type=return_type, loss_per_token=loss_per_token, prepend_bos=prepend_bos,
            start_at_layer=start_at_layer, stop_at_layer=stop_at_layer,
        ).output  # fmt: skip

    def run_with_hooks(
        self,
        input: Any,
        fwd_hooks: Iterable[Hook] = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        return_type: Returned | None = "logits",
        stop_at_layer: int | None = None,
        start_at_layer: int | None = None,
        remove_batch_dim: bool = False,
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
    ) -> Any:
        """One pass with hooks: [(name or function of names, function(value, hook))].

        `input` is a text, texts that give as many tokens, or ids (batch, pos); with `start_at_layer` a residual stream.
        Backward hooks belong to the graph of the pass, and run whenever it is walked. As in TransformerLens,
        `stop_at_layer` is the first layer that is not run (0: only the embedding), and a pass that stops gives the
        residual stream there. `clear_contexts` is always so: a hook's ``ctx`` lives as long as its pass.

        Returns:
            Raw logits (batch, pos, d_vocab); the mean loss in nats, or each token's (batch, pos - 1); both; or None.

        Raises:
            ProbeError: a hook's name or function of names that means nothing in this call, a hook that returns another
                shape or NaN, a prompt that does not fit, ``reset_hooks_end=False``.
        """
        _check_reset(reset_hooks_end)
        forward, backward = list(fwd_hooks), list(bwd_hooks)
        if remove_batch_dim:
            self._check_one_prompt(input)
            forward, backward = ([_without_batch(hook) for hook in hooks] for hooks in (forward, backward))
        return self._run(
            input, forward=forward, backward=backward, return_type=return_type, loss_per_token=loss_per_token,
            prepend_bos=prepend_bos, start_at_layer=start_at_layer, stop_at_layer=stop_at_layer,
        ).output  # fmt: skip

    def run_with_cache(
        self,
        input: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: NamesMeant | Sequence[str] | None = None,
        stop_at_layer: int | None = None,
        start_at_layer: int | None = None,
        pos_slice: Any = None,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        device: str | torch.device | None = None,
        return_type: Returned | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
    ) -> tuple[Any, Any]:
        """One pass, as in `run_with_hooks`, and its values as an `ActivationCache`, or as a dict, without graph.

        Args:
            names_filter: a name, several, or a function of names. None: every site that is run.
            remove_batch_dim: of the cached values, for one prompt.
            pos_slice: keep only these positions (of patterns and scores: queries).
            incl_bwd: cache gradients of the output too, a single number, as ``name + "_grad"``. They go nowhere else:
                the weights' own ``grad`` is left alone.
            device: where the cached values go.

        Raises:
            ProbeError: as `run_with_hooks`; a name in `names_filter` that does not exist or is not run.
        """
        from transformer_lens import ActivationCache
        from transformer_lens.utilities.slice import Slice

        _check_reset(reset_hooks_end)
        if remove_batch_dim:
            self._check_one_prompt(input)
        run = self._names_run(start_at_layer, stop_at_layer)
        names = self._names_filtered(names_filter, run)
        done = self._run(
            input, names=names, differentiable=names if incl_bwd else (), return_type=return_type,
            loss_per_token=loss_per_token, prepend_bos=prepend_bos, start_at_layer=start_at_layer,
            stop_at_layer=stop_at_layer,
        )  # fmt: skip
        values = {name: done.hooked.value(self._model, done.recording, name) for name in names}
        cached = dict(values)
        if incl_bwd:
            cached |= _gradients(done.output, values)
        positions = Slice.unwrap(pos_slice)
        for name, value in cached.items():
            queries = name.removesuffix("_grad").endswith(("hook_pattern", "hook_attn_scores"))
            cached[name] = positions.apply(value.detach().to(device), dim=-2 if queries else 1)
        cache = ActivationCache(cached, self)
        if remove_batch_dim:
            cache.remove_batch_dim(batch_size=1)
        return done.output, cache if return_cache_object else cache.cache_dict

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[Hook] = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["TransformerLensAdapter"]:
        """Hooks for every pass of this adapter inside the ``with`` block, in this thread and no other."""
        _check_reset(reset_hooks_end)
        forward, backward = tuple(fwd_hooks), tuple(bwd_hooks)
        HookedPass(self._model, forward, backward, site_names(self._model.config))  # a wrong name is found here already
        token = _IN_FORCE.set((*_IN_FORCE.get(), HooksInForce(self, forward, backward)))
        try:
            yield self
        finally:
            _IN_FORCE.reset(token)

    def add_hook(self, *_: Any, **__: Any) -> None:
        """Refused: a hook that outlives its call would be met by others.

        Raises:
            BadIntervention: always; it says what to do instead.
        """
        raise BadIntervention("add_hook: hooks belong to a call; use run_with_hooks, or `with adapter.hooks(...)`")

    add_perma_hook = add_hook

    def reset_hooks(self, *_: Any, **__: Any) -> None:
        """Nothing to do: no hook outlives its call or its ``with`` block.

        Raises:
            BadIntervention: inside such a block, whose hooks stay in force.
        """
        if any(entry.owner is self for entry in _IN_FORCE.get()):
            raise BadIntervention("reset_hooks inside `with adapter.hooks(...)`: leave the block instead")

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Nothing to switch: ``attn.hook_result`` is made where it is named, and costs nothing elsewhere."""

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Nothing to switch: ``attn.hook_q_input`` and its like are made where they are named."""

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Nothing to switch: ``hook_mlp_in`` is made where it is named."""

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """One copy of the stream for queries, keys and values together is not offered.

        Raises:
            UnknownName: when it is switched on.
        """
        if use_attn_in:
            raise UnknownName("no hook_attn_in; hook_q_input, hook_k_input and hook_v_input can be hooked together")

    def _run(
        self,
        input: Any,
        *,
        forward: Sequence[Hook] = (),
        backward: Sequence[Hook] = (),
        names: Iterable[str] = (),
        differentiable: Iterable[str] = (),
        return_type: Returned | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Pass:
        if return_type is not None:
            check_choice("return_type", return_type, get_args(Returned))
        model, (start, stop) = self._model, self._span(start_at_layer, stop_at_layer)
        in_force = [entry for entry in _IN_FORCE.get() if entry.owner is self]
        forward = [*(hook for entry in in_force for hook in entry.forward), *forward]
        backward = [*(hook for entry in in_force for hook in entry.backward), *backward]
        if (backward or differentiable) and not torch.is_grad_enabled():
            raise ProbeError("gradients were asked for inside torch.no_grad(), where there are none: leave that mode")
        hooked = HookedPass(
            model, forward, backward, names_run(model.config, start, stop), differentiable=differentiable
        )
        batch = None if start is not None else self._batch(input, prepend_bos)
        kept = {*map(kept_for, names), *hooked.kept, *([] if stop is None else [_stream_at(stop)])}
        wants_logits = stop is None and return_type is not None
        recording = record(
            model,
            input if batch is None else batch.ids,
            sites=sorted(kept),
            interventions=hooked.interventions,
            start_at_layer=start,
            stop_after_layer=None if stop is None else max(stop - 1, 0),
            grad=torch.is_grad_enabled(),
            logits=wants_logits,
        )
        hooked.attach(model, recording)
        if stop is not None:
            output = recording.values[_stream_at(stop)]
        else:
            output = _output(recording, batch, return_type, loss_per_token) if wants_logits else None
        return Pass(output, recording, hooked)

    def _names_run(self, start_at_layer: int | None, stop_at_layer: int | None) -> tuple[str, ...]:
        return names_run(self._model.config, *self._span(start_at_layer, stop_at_layer))

    def _names_filtered(self, names_filter: NamesMeant | Sequence[str] | None, run: Sequence[str]) -> list[str]:
        if names_filter is None:
            return list(run)
        several = [names_filter] if isinstance(names_filter, str) or callable(names_filter) else list(names_filter)
        return list(dict.fromkeys(name for one in several for name in names_meant(self._model.config, one, run)))

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

    def _check_one_prompt(self, input: Any) -> None:
        n_prompts = 1 if isinstance(input, str) or getattr(input, "ndim", 2) == 1 else len(input)
        if n_prompts != 1:
            raise BadPrompt(f"remove_batch_dim=True with {n_prompts} prompts: it is for one")


def _check_reset(reset_hooks_end: bool) -> None:
    if not reset_hooks_end:
        raise BadIntervention(
            "reset_hooks_end=False: no hook outlives its call; for several calls use `with adapter.hooks(...)`"
        )


def _without_batch(hook: Any) -> Any:
    """The same hook for a function that knows no batch."""
    if not isinstance(hook, tuple) or len(hook) != 2 or not callable(hook[1]):
        return hook  # refused later, with the others
    which, function = hook

    def with_batch(value: Tensor, hook: HookedSite) -> Any:
        new = function(value[0], hook=hook)
        return new[None] if isinstance(new, Tensor) else new

    return which, with_batch


def _stream_at(stop: int) -> str:
    """Where the residual stream entering layer `stop` is read: it is what the layer before leaves."""
    return f"blocks.{stop - 1}.hook_resid_post" if stop else "blocks.0.hook_resid_pre"


def _output(recording: Recording, batch: PromptBatch | None, return_type: Returned | None, loss_per_token: bool) -> Any:
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


def _gradients(output: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(output, Tensor) or output.numel() != 1:
        raise ProbeError("incl_bwd=True needs a single number to differentiate: return_type='loss'")
    found = torch.autograd.grad(output, list(values.values()), allow_unused=True)
    return {f"{name}_grad": grad for name, grad in zip(values, found, strict=True) if grad is not None}
