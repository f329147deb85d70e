"""The tap of `record`: every value goes by under its name, is changed if asked, and kept if asked."""

import torch
from torch import Tensor

from probe.errors import BadIntervention, NumbersBroke
from probe.interventions import contains_infinity, contains_nan
from probe.reduction import reduce_value
from probe.request import Request
from probe.selection import Selection
from probe.sites import site_dims
from probe.tap_protocol import NO_TAP, Tap


class RecordingTap:
    """Belongs to one call; holds what it keeps in `values`, by full name."""

    def __init__(self, request: Request):
        self.values: dict[str, Tensor] = {}
        self._request = request
        self._edited = request.edits.names
        self._as_it_is = _kept_as_they_are(request)
        modules = {name.rpartition(".")[0] for name in (*request.keep, *self._edited)}
        parts = [module.split(".") for module in modules]  # blocks.0 and blocks.0.attn for blocks.0.attn.q_norm
        self._prefixes = {".".join(module[:n]) for module in parts for n in range(1, len(module) + 1)}
        self._copied_from: torch.device | None = None

    def wants(self, name: str) -> bool:
        """Whether the value is kept or changed."""
        return name in self._request.keep or name in self._edited

    def scope(self, prefix: str) -> Tap:
        """This tap for a module whose names begin with `prefix`; none at all if nothing there is wanted."""
        return ScopedTap(self, prefix) if prefix in self._prefixes else NO_TAP

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Change, then keep."""
        if name in self._edited:
            value = self._request.edits.apply(name, value)
        if name in self._as_it_is:
            self.values[name] = value
        elif name in self._request.keep:
            value = self._keep(name, value)
        return value

    def keep_logits(self, logits: Tensor) -> None:
        """Logits come with the chosen positions only."""
        request = self._request
        real = request.positions.real(("batch", "pos", "d_vocab_out"), logits.device)
        self.values["logits"] = self._stored(logits if real is None else logits.masked_fill(~real, torch.nan))

    def finish(self) -> None:
        """Wait for copies to the host that are still on their way; find what the dtype asked for cannot hold.

        Raises:
            NumbersBroke: a value above 65504 was to be kept in float16.
        """
        if self._copied_from is not None and torch.cuda.is_available():
            torch.cuda.synchronize(self._copied_from)
        if self._request.dtype == torch.float16:
            for name, value in self.values.items():
                if contains_infinity(value):
                    raise NumbersBroke(
                        f"{name!r} does not fit float16, which ends at 65504; keep it in bfloat16 or float32"
                    )

    def _keep(self, name: str, value: Tensor) -> Tensor:
        dims, selection = site_dims(name), self._request.keep[name]
        part, real = selection.take(dims, value), selection.real(dims, value.device)
        how = self._request.reductions.get(name)
        if how is not None:
            reduced = reduce_value(how, dims, part, real=real, prompts=self._real_tokens(selection, value.device))
            if contains_nan(reduced):
                raise BadIntervention(f"the reduction of {name!r} holds NaN")
            self.values[name] = self._stored(reduced)
            return value
        if self._request.grad:
            return self._keep_in_graph(name, value, part, real, selection)
        self.values[name] = self._stored(part if real is None else part.masked_fill(~real, torch.nan))
        return value

    def _keep_in_graph(
        self, name: str, value: Tensor, part: Tensor, real: Tensor | None, selection: Selection
    ) -> Tensor:
        """Keep, and let the pass go on *from what is kept*, so that it has a gradient."""
        if not part.requires_grad:  # frozen weights: the graph begins here
            part = part.detach().requires_grad_()
        kept = part if real is None else part.masked_fill(~real, torch.nan)
        self.values[name] = kept
        onward = kept if real is None else torch.where(real, kept, part)
        return selection.put(site_dims(name), value, onward)

    def _stored(self, value: Tensor) -> Tensor:
        dtype, device = self._request.dtype or value.dtype, self._request.device or value.device
        value = value.to(dtype)
        if value.device.type == "cuda" and device.type == "cpu":
            self._copied_from = value.device
            # Pinned memory, or the copy would make the pass wait.
            return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
        return value.to(device)

    def _real_tokens(self, selection: Selection, device: torch.device) -> Tensor:
        real = selection.real(("batch", "pos"), device)
        shape = selection.shape(("batch", "pos"), (len(selection.lengths), max(selection.lengths)))
        return torch.ones(shape, dtype=torch.bool, device=device) if real is None else real


def _kept_as_they_are(request: Request) -> frozenset[str]:
    """Names of values that are kept whole and unchanged. At a few tokens a pass is quick, and hundreds go by."""
    padded = min(request.lengths) < max(request.lengths)
    if padded or request.grad or request.dtype is not None or request.device is not None:
        return frozenset()
    whole = {name for name, selection in request.keep.items() if selection.is_everything}
    return frozenset(whole - set(request.reductions))


class ScopedTap:
    """A tap that puts a prefix before every name."""

    def __init__(self, tap: RecordingTap, prefix: str):
        self._tap, self._prefix = tap, prefix

    def wants(self, name: str) -> bool:
        """Whether the value is wanted, under its full name."""
        return self._tap.wants(f"{self._prefix}.{name}")

    def scope(self, prefix: str) -> Tap:
        """One level further in."""
        return self._tap.scope(f"{self._prefix}.{prefix}")

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Hand on, under the full name."""
        return self._tap(f"{self._prefix}.{name}", value)
