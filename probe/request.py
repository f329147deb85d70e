"""A call of `record`, checked whole before anything runs: what is run, what is changed, what is kept and how."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked
from probe.config import GPTConfig
from probe.devices import read_device, read_dtype
from probe.errors import BadPrompt, BadShape, OutOfRange, ProbeError, UnknownName, check_index
from probe.gpt import GPT
from probe.interventions import Edits, Intervention, contains_nan, list_interventions, plan_edits
from probe.prompts import PromptBatch, Prompts, check_lengths_together, read_prompts
from probe.reduction import Reduction, check_reduction
from probe.selection import Indices, Selection, as_list, check_heads, select
from probe.sites import (
    AFTER_BLOCKS,
    BEFORE_BLOCKS,
    check_layers,
    find_sites,
    site_dims,
    site_list,
    site_names,
    split_name,
)


@dataclass(frozen=True)
class Request:
    """Everything that one pass needs to know."""

    lengths: tuple[int, ...]
    """Tokens of each prompt."""
    batch: PromptBatch | None
    """The prompts, or None for a pass that begins with a residual stream."""
    resid: Float[Tensor, "batch pos d_model"] | None
    """The residual stream to begin with, padding set to zero, or None."""
    first_layer: int
    stop_after_layer: int | None
    keep: Mapping[str, Selection]
    """Full names of the sites to keep, and which of their entries."""
    positions: Selection
    """The positions kept of every value, the logits too."""
    reductions: Mapping[str, Reduction]
    """How a value is reduced, by its full name."""
    edits: Edits
    dtype: torch.dtype | None
    device: torch.device | None
    grad: bool
    logits: bool
    arguments: Mapping[str, Any]
    """The call as JSON values, for the manifest."""


@checked
def read_request(
    model: GPT,
    prompts: Prompts,
    *,
    sites: str | Iterable[str] | None = None,
    layers: Indices = None,
    positions: Indices = None,
    heads: Indices = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    interventions: Intervention | Iterable[Intervention] = (),
    start_at_layer: int | None = None,
    stop_after_layer: int | None = None,
    document_start: bool = False,
    reduce: Mapping[str, Reduction] | None = None,
    grad: bool = False,
    logits: bool = True,
) -> Request:
    """Check the arguments of `record` (see there) against the model and against each other."""
    config = model.config
    interventions = list_interventions(interventions)
    sites = None if sites is None else site_list(sites)
    layers = None if layers is None else as_list("layers", layers)
    positions = None if positions is None else as_list("positions", positions)
    heads = None if heads is None else as_list("heads", heads)
    first, last = _layers_run(config, start_at_layer, stop_after_layer)
    batch, resid = None, None
    if isinstance(prompts, Tensor) and prompts.is_floating_point() and start_at_layer is not None:
        if document_start:
            raise BadPrompt("document_start=True: a residual stream has no token to put first")
        resid, lengths = _read_resid(model, prompts)
    elif start_at_layer is not None:
        raise BadPrompt("start_at_layer needs a residual stream: a floating-point tensor (batch, pos, d_model)")
    else:
        batch = read_prompts(config, model.tokenizer, prompts, document_start=document_start)
        lengths = batch.lengths
    check_lengths_together(config, lengths)

    whole = stop_after_layer is None
    run = _sites_run(config, first, last, from_tokens=batch is not None, to_logits=whole)
    reductions = _reductions(config, reduce, layers, run)
    names = [*_sites_kept(config, sites, layers, run), *reductions]
    if grad and torch.is_inference_mode_enabled():
        raise ProbeError("grad=True inside torch.inference_mode(), where no graph can be kept: leave that mode first")
    if grad and (reductions or dtype is not None or device is not None):
        raise ProbeError("grad=True keeps values as the pass has them: leave out reduce, dtype and device")
    chosen = select(lengths, positions=positions)
    return Request(
        lengths=tuple(lengths),
        batch=batch,
        resid=resid,
        first_layer=first,
        stop_after_layer=None if whole else last,
        keep=_with_heads(config, names, heads, chosen),
        positions=chosen,
        reductions=reductions,
        edits=plan_edits(config, interventions, lengths=lengths, run=run),
        dtype=None if dtype is None else read_dtype(dtype),
        device=None if device is None else _device_for(model, device),
        grad=grad,
        logits=logits and whole,
        arguments={
            "sites": sites,
            "layers": layers,
            "positions": positions,
            "heads": heads,
            "dtype": None if dtype is None else str(dtype),
            "device": None if device is None else str(device),
            "interventions": [str(one) for one in interventions],
            "start_at_layer": None if start_at_layer is None else first,
            "stop_after_layer": None if whole else last,
            "document_start": bool(document_start),
            "reduce": {site: how if isinstance(how, str) else repr(how) for site, how in (reduce or {}).items()},
            "logits": bool(logits),
        },
    )


def _layers_run(config: GPTConfig, start: int | None, stop: int | None) -> tuple[int, int]:
    first = 0 if start is None else check_index("layer", start, config.n_layers, owner="this model")
    last = config.n_layers - 1 if stop is None else check_index("layer", stop, config.n_layers, owner="this model")
    if last < first:
        raise OutOfRange(f"stop_after_layer={stop} lies before start_at_layer={start}")
    return first, last


def _read_resid(model: GPT, resid: Tensor) -> tuple[Tensor, list[int]]:
    d_model = model.config.d_model
    if resid.ndim != 3 or resid.shape[-1] != d_model or 0 in resid.shape:
        raise BadShape(f"residual stream of shape {tuple(resid.shape)}: expected (batch, pos, d_model = {d_model})")
    if resid.shape[1] > model.config.n_ctx:
        raise BadPrompt(f"residual stream of {resid.shape[1]} positions: the context holds {model.config.n_ctx}")
    resid = resid.to(model.device, model.dtype, copy=True)  # else the recording would hold the tensor of the caller
    if not contains_nan(resid):
        return resid, [resid.shape[1]] * resid.shape[0]
    # What `record` kept of shorter prompts: NaN after their end, and nowhere else.
    missing = resid.isnan().all(-1)
    lengths = (~missing).sum(-1)
    trailing = torch.arange(resid.shape[1], device=resid.device) >= lengths[:, None]
    if not torch.equal(missing, trailing) or contains_nan(resid[~missing]) or int(lengths.min()) == 0:
        raise BadShape("residual stream: holds NaN elsewhere than after the end of a prompt")
    return resid.masked_fill(missing[..., None], 0.0), lengths.tolist()


def _sites_run(config: GPTConfig, first: int, last: int, *, from_tokens: bool, to_logits: bool) -> tuple[str, ...]:
    outside = {site.suffix for site in (BEFORE_BLOCKS if from_tokens else ())}
    outside |= {site.suffix for site in (AFTER_BLOCKS if to_logits else ())}

    def runs(name: str) -> bool:
        layer, _ = split_name(name)
        return name in outside if layer is None else first <= layer <= last

    return tuple(name for name in site_names(config) if runs(name))


def _sites_kept(
    config: GPTConfig, sites: Sequence[str] | None, layers: Sequence[int] | None, run: tuple[str, ...]
) -> tuple[str, ...]:
    chosen = None if layers is None else check_layers(config, layers)
    named = find_sites(config, sites, chosen)
    reached = set(run)
    missed = [name for name in named if name not in reached]
    # Asked for by layer or by full name, a value that is not computed is an error; "all layers" means those that run.
    asked = [name for name in missed if layers is not None or (sites is not None and name in sites)]
    if asked and (sites is not None or split_name(asked[0])[0] is not None):
        raise OutOfRange(f"site {asked[0]!r} is not computed in this call: it runs {run[0]} to {run[-1]}")
    return tuple(name for name in named if name in reached)


def _reductions(
    config: GPTConfig, reduce: Mapping[str, Reduction] | None, layers: Sequence[int] | None, run: tuple[str, ...]
) -> dict[str, Reduction]:
    if reduce is not None and not isinstance(reduce, Mapping):
        raise UnknownName(f"reduce={reduce!r}: expected how by site, such as {{'z': 'mean'}}")
    reductions: dict[str, Reduction] = {}
    for site, how in (reduce or {}).items():
        check_reduction(site, how)
        reductions |= dict.fromkeys(_sites_kept(config, [site], layers, run), how)
    return reductions


def _with_heads(config: GPTConfig, names: Sequence[str], heads: Indices, chosen: Selection) -> dict[str, Selection]:
    keep: dict[str, Selection] = {}
    shared: dict[tuple[int, ...] | None, Selection] = {}
    for name in names:
        dims = site_dims(name)
        has_heads = "head" in dims or "kv_head" in dims
        of_site = check_heads(config, name, heads) if has_heads else None
        if of_site not in shared:
            shared[of_site] = dataclasses.replace(chosen, heads=of_site)
        keep[name] = shared[of_site]
    if heads is not None and not any(selection.heads for selection in keep.values()):
        raise UnknownName(f"heads={heads!r}, but none of the sites kept has heads")
    return keep


def _device_for(model: GPT, device: str | torch.device) -> torch.device:
    """The model's own device is surely there; any other is looked for."""
    same = str(device) in (str(model.device), model.device.type)
    return model.device if same else read_device(device)
