"""`plan_recording`: what a call of `record` would keep and cost, before anything runs."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from probe.flop_count import attention_flops
from probe.gpt import GPT
from probe.prompts import Prompts
from probe.reduction import taken_away
from probe.request import Request, read_request
from probe.selection import Selection
from probe.shown import Shown, Summary
from probe.sites import describe_site, site_dims, site_shape, split_name

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class RecordingPlan(Shown):
    """The size and the expected time of one recording."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every value that would be kept, by full name; "logits" last."""
    sizes: Mapping[str, int]
    """Bytes of each value. 0: it shares the memory of the one before it (resid_pre is the last layer's resid_post)."""
    flops: int
    """Multiplications and additions of the pass."""
    seconds: float
    """Expected time of the pass, from the speed of one of the model's own matrix products just now. Good to a factor
    of about two."""

    @property
    def bytes(self) -> int:
        """Bytes kept in all."""
        return sum(self.sizes.values())

    def summary(self) -> Summary:
        """The plan in a line, as `print` shows it."""
        return Summary(str(self))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per value: name, layer, dims, shape, megabytes."""
        rows = [(name, *_place_of(name), shape, self.sizes[name] / 1e6) for name, shape in self.shapes.items()]
        import pandas  # half a second that only tables need

        return pandas.DataFrame(rows, columns=["name", "layer", "dims", "shape", "megabytes"])

    def __str__(self) -> str:
        return (
            f"{len(self.shapes)} values, {self.bytes / 1e6:,.1f} MB; {self.flops / 1e9:,.1f} GFLOP, "
            f"about {self.seconds:.2g} s"
        )


def plan_recording(model: GPT, prompts: Prompts, **arguments: Any) -> RecordingPlan:
    """What `record` with these arguments would keep and cost. Arguments and errors are those of `record`.

    A reduction by a function is counted as what it reduces, since only running it tells its size.
    """
    request = read_request(model, prompts, **arguments)
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    for name, selection in request.keep.items():
        shapes[name] = _shape(model, request, name, selection)
        itemsize = _itemsize(model, request, name)
        sizes[name] = 0 if _is_shared(model, request, name) else math.prod(shapes[name]) * itemsize
    if request.logits:
        batch, kept = len(request.lengths), len(request.positions.chosen_positions[0])
        shapes["logits"] = (batch, kept, model.config.n_outputs)
        sizes["logits"] = math.prod(shapes["logits"]) * (request.dtype or model.dtype).itemsize
    flops = count_flops(model, request)
    return RecordingPlan(shapes, sizes, flops, flops / flops_per_second(model, max(request.lengths)))


def count_flops(model: GPT, request: Request) -> int:
    """Two for each weight and token, in the layers run and the unembedding, and those of attention's two products."""
    config = model.config
    batch, pos = len(request.lengths), max(request.lengths)
    last = config.n_layers - 1 if request.stop_after_layer is None else request.stop_after_layer
    layers = range(request.first_layer, last + 1)
    weights = sum(weight.numel() for layer in layers for weight in model.blocks[layer].parameters() if weight.ndim == 2)
    attention = len(layers) * attention_flops(config, pos) // config.n_layers
    kept = len(request.positions.chosen_positions[0]) if request.logits else 0
    return batch * (2 * weights * pos + attention + 2 * config.d_model * config.n_outputs * kept)


def _shape(model: GPT, request: Request, name: str, selection: Selection) -> tuple[int, ...]:
    dims = site_dims(name)
    whole = site_shape(model.config, name, batch=len(request.lengths), pos=max(request.lengths))
    shape = selection.shape(dims, whole)
    how = request.reductions.get(name)
    if how is None or callable(how):
        return shape
    gone = taken_away(how, dims)
    return tuple(size for dim, size in zip(dims, shape, strict=True) if dim not in gone)


def _itemsize(model: GPT, request: Request, name: str) -> int:
    if request.dtype is not None:
        return request.dtype.itemsize
    precise = name.endswith("hook_scale") or name in request.reductions
    return torch.promote_types(model.dtype, torch.float32).itemsize if precise else model.dtype.itemsize


def _is_shared(model: GPT, request: Request, name: str) -> bool:
    """A resid_pre is the very tensor that the layer before kept as resid_post, if neither was copied."""
    layer, suffix = split_name(name)
    if suffix != "hook_resid_pre" or layer is None or name in request.reductions:
        return False
    if layer == 0 and model.config.positions == "learned":
        return False
    before = "hook_embed" if layer == 0 else f"blocks.{layer - 1}.hook_resid_post"
    copied = (
        request.dtype is not None
        or request.device is not None
        or min(request.lengths) != max(request.lengths)
        or not request.keep[name].is_everything
        or name in request.edits.names
    )
    return before in request.keep and before not in request.reductions and not copied


def _place_of(name: str) -> tuple[int | None, str]:
    if name == "logits":
        return None, "batch pos d_vocab_out"
    return split_name(name)[0], " ".join(describe_site(name).dims)


def flops_per_second(model: GPT, pos: int) -> float:
    """Speed of some layers' products with W_in (or W_Q, where there is no MLP) on so many tokens: different layers,
    since few tokens wait for memory."""
    layers = model.blocks[: min(8, model.config.n_layers)]
    weights = [(layer.mlp.W_in if model.config.d_mlp else layer.attn.W_Q).detach() for layer in layers]
    x = weights[0].new_ones(pos, weights[0].shape[0])
    float((x @ weights[0])[0, 0])  # the first call sets up the library
    start = time.perf_counter()
    for weight in weights:
        product = x @ weight
    float(product[0, 0])  # waits for a GPU
    return 2 * pos * sum(weight.numel() for weight in weights) / (time.perf_counter() - start)
