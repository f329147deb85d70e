"""TransformerLens's tools on our model: what they ask of a model, answered by `record` and interventions.

Hooks and cache filters are arguments of one call here too. Nothing is attached to the model, and ``with hooks(...)``
holds in its own thread only, so adapters, threads and failed calls cannot meet. A misspelt name is an error.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from probe.arguments import checked
from probe.config import GPTConfig
from probe.errors import (
    BadIntervention,
    BadPrompt,
    DifferentModel,
    ProbeError,
    SiteNotRecorded,
    UnknownName,
    UnsupportedModel,
)
from probe.gpt import GPT
from probe.provenance import fingerprint
from probe.recording import Recording
from probe.transformer_lens_adapter._cache import activation_cache
from probe.transformer_lens_adapter._hooks import Hook, HookedSite, NamesMeant, Reach, names_meant, reach_of
from probe.transformer_lens_adapter._passes import AdapterPasses, PassOptions, Returned, check_reset, gradients
from probe.transformer_lens_adapter._weights import AdapterWeights

THEIR_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu_quick": "quick_gelu"}
"""TransformerLens's words for them, where they differ."""
PECULIAR: dict[str, Callable[[GPTConfig], Any]] = {
    "post_norms": lambda config: config.post_norms,
    "qk_norm": lambda config: config.qk_norm,
    "attn_soft_cap": lambda config: config.attn_soft_cap,
    "logit_soft_cap": lambda config: config.logit_soft_cap,
    "embed_scale": lambda config: config.embed_scale,
    "mlp_norm": lambda config: config.mlp_norm,
    "no norms": lambda config: config.norm == "none",
    "d_vocab_out": lambda config: config.n_outputs < config.d_vocab,
}
"""Settings of a config that the sums of TransformerLens's tools, or the folded `W_U`, leave out."""


@checked
def as_transformer_lens(model: GPT, *, document_start: bool = False) -> "TransformerLensAdapter":
    """A model as TransformerLens's tools want one: `patching`, `detect_head`, `logit_lens`, `attribution_patch`, ...

    It has ``run_with_cache``, ``run_with_hooks``, ``hooks``, the methods for text, and the weights, the final norm's
    gain folded into ``W_U``. Values are those of `probe.site_names`, under TransformerLens's classical names; besides,
    where they are named, ``attn.hook_result``, ``attn.hook_q_input``, ``attn.hook_k_input``, ``attn.hook_v_input`` and
    ``hook_mlp_in``. ``attn_scores`` are those before the mask.

    Parallel layers, whose attention and MLP both read resid_pre, and layers of attention alone have no resid_mid: tools
    that ask for one, such as ``direct_logit_attribution(..., unit="layer")``, raise, and ``mlp_input=True`` with them.

    Args:
        document_start: put the model's document separator first in every text, as in `probe.record`.
            TransformerLens itself puts the declared start token there; see ``to_tokens`` for `prepend_bos`.

    Raises:
        UnsupportedModel: a model whose sums TransformerLens's tools do not do: norms after attention and MLP or of
            queries and keys or neurons, or none, soft caps, a scaled embedding, tokens that are never predicted.
    """
    peculiar = [name for name, has in PECULIAR.items() if has(model.config)]
    if peculiar:
        raise UnsupportedModel(
            f"{model.name!r} has {', '.join(peculiar)}: TransformerLens's tools would give wrong numbers for it; "
            "probe's own methods know these"
        )
    return TransformerLensAdapter(model, document_start=document_start)


@checked
def to_activation_cache(recording: Recording, model: GPT) -> Any:
    """A recording as TransformerLens's `ActivationCache`, with all that it computes from one; `model` has the weights.

    Raises:
        DifferentModel: the recording is of another model.
        UnsupportedModel: as `as_transformer_lens`.
        SiteNotRecorded: it holds some heads only, or means over prompts.
        BadPrompt: prompts of different lengths: a cache has no word for padding; hand over ``recording.prompt(i)``.
    """
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
    return activation_cache(values, as_transformer_lens(model))


class TransformerLensAdapter(AdapterPasses, AdapterWeights):
    """A model seen by TransformerLens; made by `as_transformer_lens`. It holds the model and one setting, no state."""

    def __init__(self, model: GPT, *, document_start: bool = False):
        self._model, self._document_start = model, document_start

    @property
    def cfg(self) -> Any:
        """A `TransformerLensConfig`. It describes; writing to it raises."""
        from transformer_lens.config import TransformerLensConfig

        config, rms = self._model.config, self._model.config.norm != "layer"
        described = TransformerLensConfig(
            d_model=config.d_model, d_head=config.d_head, n_layers=config.n_layers, n_ctx=config.n_ctx,
            n_heads=config.n_heads, d_mlp=config.d_mlp, d_vocab=config.d_vocab, n_key_value_heads=config.kv_heads,
            device=str(self._model.device), dtype=self._model.dtype, eps=config.norm_eps, gated_mlp=config.gated_mlp,
            positional_embedding_type="rotary" if config.positions == "rotary" else "standard",
            act_fn=THEIR_ACTIVATIONS.get(config.activation, config.activation),
            uses_rms_norm=rms, final_rms=rms, normalization_type="RMS" if rms else "LN",
            default_prepend_bos=self._document_start, use_attn_result=True, use_split_qkv_input=True,
            attn_only=config.d_mlp == 0,
        )  # fmt: skip
        more = {
            "model_name": self._model.name, "parallel_attn_mlp": config.parallel, "use_hook_mlp_in": True,
            "use_attn_in": False,
        }  # fmt: skip
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
        reach = reach_of(self._model.config)
        return {name: HookedSite(name) for name in (*reach.sites, *reach.derived)}

    def __call__(self, input: Any, return_type: Returned | None = "logits", **options: Unpack[PassOptions]) -> Any:
        """One pass; see `run_with_hooks`."""
        return self._run(input, return_type=return_type, **options).output

    def run_with_hooks(
        self,
        input: Any,
        fwd_hooks: Iterable[Hook] = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        return_type: Returned | None = "logits",
        remove_batch_dim: bool = False,
        **options: Unpack[PassOptions],
    ) -> Any:
        """One pass with hooks: [(name or function of names, function(value, hook))].

        `input` is a text, texts that give as many tokens, or ids (batch, pos); with ``start_at_layer`` a residual
        stream. Backward hooks belong to the graph of the pass, and run whenever it is walked. `clear_contexts` is
        always so: a hook's ``ctx`` lives as long as its pass.

        Args:
            remove_batch_dim: of what hooks get and return, for one prompt.
            options: loss_per_token, prepend_bos, start_at_layer, stop_at_layer; see `PassOptions`.

        Raises:
            ProbeError: a hook's name or function of names that means nothing in this call, a hook that returns another
                shape or NaN, a prompt that does not fit, ``reset_hooks_end=False``.
        """
        check_reset(reset_hooks_end)
        forward, backward = list(fwd_hooks), list(bwd_hooks)
        if remove_batch_dim:
            forward, backward = ([_without_batch(hook) for hook in hooks] for hooks in (forward, backward))
        return self._run(
            input, forward=forward, backward=backward, one_prompt=remove_batch_dim, return_type=return_type, **options
        ).output

    def run_with_cache(
        self,
        input: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: NamesMeant | Sequence[str] | None = None,
        pos_slice: Any = None,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        device: str | torch.device | None = None,
        return_type: Returned | None = "logits",
        **options: Unpack[PassOptions],
    ) -> tuple[Any, Any]:
        """One pass, as in `run_with_hooks`, and its values as an `ActivationCache`, or as a dict, without graph.

        Args:
            names_filter: a name, several, or a function of names. None: every site that is run.
            remove_batch_dim: of the cached values, for one prompt.
            pos_slice: keep only these positions (of patterns and scores: queries).
            incl_bwd: cache gradients of the output too, a single number, as ``name + "_grad"``. They go nowhere else:
                the weights' own ``grad`` is left alone.
            device: where the cached values go.
            options: as in `run_with_hooks`.

        Raises:
            ProbeError: as `run_with_hooks`; a name in `names_filter` that does not exist or is not run.
        """
        from transformer_lens.utilities.slice import Slice

        check_reset(reset_hooks_end)
        names = self._names_filtered(names_filter, self._reach(**options))
        differentiable = names if incl_bwd else ()
        done = self._run(
            input, names=names, differentiable=differentiable, one_prompt=remove_batch_dim, return_type=return_type,
            **options,
        )  # fmt: skip
        values = {name: done.hooked.value(done.recording, name) for name in names}
        cached = {**values, **(gradients(done.output, values) if incl_bwd else {})}
        positions = Slice.unwrap(pos_slice)
        for name, value in cached.items():
            queries = name.removesuffix("_grad").endswith(("hook_pattern", "hook_attn_scores"))
            cached[name] = positions.apply(value.detach().to(device), dim=-2 if queries else 1)
        cache = activation_cache(cached, self)
        if remove_batch_dim:
            cache.remove_batch_dim(batch_size=1)
        return done.output, cache if return_cache_object else cache.cache_dict

    def add_hook(self, *_: Any, **__: Any) -> None:
        """Refused: a hook that outlives its call would be met by others.

        Raises:
            BadIntervention: always; it says what to do instead.
        """
        raise BadIntervention("add_hook: hooks belong to a call; use run_with_hooks, or `with adapter.hooks(...)`")

    add_perma_hook = add_hook

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

    def _names_filtered(self, names_filter: NamesMeant | Sequence[str] | None, reach: Reach) -> list[str]:
        if names_filter is None:
            return list(reach.sites)
        several = [names_filter] if isinstance(names_filter, str) or callable(names_filter) else list(names_filter)
        return list(dict.fromkeys(name for one in several for name in names_meant(self._model.config, one, reach)))


def _without_batch(hook: Any) -> Any:
    """A hook whose function is given the one prompt's value, without its batch dim."""
    if not isinstance(hook, tuple) or len(hook) != 2 or not callable(hook[1]):
        return hook  # refused later, with the others
    which, function = hook

    def with_batch(value: Tensor, hook: HookedSite) -> Any:
        new = function(value[0], hook=hook)
        return new[None] if isinstance(new, Tensor) else new

    return which, with_batch
