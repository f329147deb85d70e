"""What stands in the place of an ablated part: zero, a mean over other prompts, or other prompts' values themselves."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import BadPrompt, OutOfRange, check_choice
from probe.gpt import GPT
from probe.methods._reruns import RecordedRun, Table, recorded_values
from probe.prompts import PromptBatch
from probe.sites import describe_site, find_sites, split_name

Value = Literal["zero", "mean", "mean per position", "resample"]
VALUES: tuple[Value, ...] = get_args(Value)
_TOKENS_AT_ONCE = 2048


class Replacement:
    """One kind of value for all prompts of a call, made from a reference: other prompts of the call, or given ones.

    * zero: nothing is written.
    * mean: over all positions but 0 of the reference prompts (position 0 is an attention sink, unlike all others).
    * mean per position: over the reference prompts, each position by itself.
    * resample: position by position what a random reference prompt, of those that have these positions, has there;
      several draws.

    A prompt never stands in its own reference: those with the same tokens are left out.
    """

    def __init__(
        self,
        model: GPT,
        value: Value,
        batch: PromptBatch,
        *,
        sites: Sequence[str],
        layers: Sequence[int],
        edited: Sequence[Sequence[int]],
        reference: PromptBatch | None,
        n_draws: int,
        seed: int,
    ):
        """`edited`: the positions that are replaced, by prompt. Nothing runs yet; see `prepare`."""
        check_choice("value to replace with", value, VALUES)
        self.model, self.batch, self.sites, self.layers = model, batch, tuple(sites), tuple(layers)
        self.value: Value = value
        self.reference = batch if reference is None else reference
        self.given = reference is not None
        self._same = Counter(self.reference.ids)
        self._sums: dict[tuple[int, str], Tensor] = {}
        self._counts = torch.zeros(max(self.reference.lengths), dtype=torch.float64)
        self.n_draws = n_draws if value == "resample" else 1
        self.donors = torch.zeros(len(batch.ids), 1, dtype=torch.long)
        if value != "zero":
            self._check_others(edited)
        if value == "resample":
            self.donors = self._draw(edited, seed)

    @property
    def described(self) -> str:
        """The definition, for results and figures."""
        if self.value == "zero":
            return "zero"
        whose = f"{len(self.reference.ids)} reference prompts" if self.given else "the other prompts of the call"
        return {
            "mean": f"mean over all positions but 0 of {whose}",
            "mean per position": f"mean over {whose}, position by position",
            "resample": f"the values of random prompts among {whose}, position by position; {self.n_draws} draws",
        }[self.value]

    def prepare(self) -> None:
        """Run the reference, if a mean is asked for."""
        if self.value not in ("mean", "mean per position"):
            return
        for name in self._names():
            self._sums[self._key(name)] = torch.zeros(())
        order = sorted(range(len(self.reference.ids)), key=lambda row: self.reference.lengths[row])
        at_once = max(1, _TOKENS_AT_ONCE // max(self.reference.lengths))
        for begin in range(0, len(order), at_once):
            some = PromptBatch(tuple(self.reference.ids[row] for row in order[begin : begin + at_once]))
            for name, value in recorded_values(self.model, some, self._names()).items():
                summed = value.double().sum(0).cpu()
                missing = max(self.reference.lengths) - len(summed)
                self._sums[self._key(name)] = self._sums[self._key(name)] + torch.nn.functional.pad(
                    summed.movedim(0, -1), (0, missing)
                ).movedim(-1, 0)
            for length in some.lengths:
                self._counts[:length] += 1

    def table(self, clean: RecordedRun, prompts: Sequence[int]) -> Table:
        """The new values for a block of prompts; sources are counted prompt by prompt, draw by draw."""
        if self.value == "zero":
            return self._zero
        if self.value == "resample":
            return self._donated(clean, prompts)
        return lambda layer, site: self._mean(clean, prompts, layer, site)

    def _zero(self, layer: int, site: str) -> Tensor:
        weight = self.model.W_E
        sizes = {"head": self.model.config.n_heads, "d_head": self.model.config.d_head,
                 "d_model": self.model.config.d_model, "d_mlp": self.model.config.d_mlp}  # fmt: skip
        return weight.new_zeros(1, 1, *(sizes[dim] for dim in describe_site(site).dims[2:])).detach()

    def _mean(
        self, clean: RecordedRun, prompts: Sequence[int], layer: int, site: str
    ) -> Float[Tensor, "prompt pos ..."]:
        own = clean(site, layer).double().cpu()
        n_pos = own.shape[1]
        total = self._sums[layer, site]
        same = torch.tensor([float(self._same[self.batch.ids[row]]) for row in prompts], dtype=torch.float64)
        lengths = torch.tensor([self.batch.lengths[row] for row in prompts])
        exists = (torch.arange(n_pos) < lengths[:, None]).double()
        shape = (len(prompts), -1, *[1] * (own.ndim - 2))
        if self.value == "mean":
            others = total[1:].sum(0) - same.view(shape) * own[:, 1:].sum(1, keepdim=True)
            count = self._counts[1:].sum() - same * (lengths - 1)
        else:
            total, counts = (_fitted(value[None], n_pos)[0] for value in (total, self._counts))
            others = total - same.view(shape) * own
            count = counts - same[:, None] * exists
        return (others / count.clamp(min=1).view(shape)).to(clean(site, layer))

    def _donated(self, clean: RecordedRun, prompts: Sequence[int]) -> Table:
        wanted = self.donors[list(prompts)].flatten()
        unique, where = wanted.unique(return_inverse=True)
        donors = PromptBatch(tuple(self.reference.ids[row] for row in unique.tolist()))
        values = recorded_values(self.model, donors, self._names())
        n_pos = max(clean.batch.lengths)

        def table(layer: int, site: str) -> Tensor:
            return _fitted(values[f"blocks.{layer}.{describe_site(site).suffix}"], n_pos)[where]

        return table

    def _check_others(self, edited: Sequence[Sequence[int]]) -> None:
        """Raise unless every prompt has something to be replaced with."""
        if not self.given and len(self.batch.ids) < 2:
            raise BadPrompt(
                f"value={self.value!r} comes from the other prompts of the call, and there is only one prompt: give "
                "reference=[...], or value='zero'"
            )
        lengths = torch.tensor(self.reference.lengths)
        for row, ids in enumerate(self.batch.ids):
            needed = max(edited[row]) + 1 if self.value != "mean" else 2
            others = int((lengths >= needed).sum()) - self._same[ids]
            if others < 1:
                alone = len(self._same) == 1 and ids in self._same
                why = "the reference is the prompt itself" if alone else f"no other prompt has {needed} tokens"
                raise BadPrompt(
                    f"value={self.value!r}: prompt {row} of {len(ids)} tokens has nothing to be replaced with: {why}"
                )

    def _draw(self, edited: Sequence[Sequence[int]], seed: int) -> Tensor:
        if self.n_draws < 1:
            raise OutOfRange(f"n_draws={self.n_draws}: expected at least 1")
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for ids, positions in zip(self.batch.ids, edited, strict=True):
            fit = [
                number for number, other in enumerate(self.reference.ids)
                if other != ids and len(other) > max(positions)
            ]  # fmt: skip
            rows.append([fit[place] for place in torch.randint(len(fit), (self.n_draws,), generator=generator)])
        return torch.tensor(rows)

    def _names(self) -> list[str]:
        return list(find_sites(self.model.config, self.sites, self.layers))

    def _key(self, name: str) -> tuple[int, str]:
        layer, _ = split_name(name)
        assert layer is not None, "only sites in layers are replaced"
        return layer, describe_site(name).short


def _fitted(value: Float[Tensor, "row pos ..."], n_pos: int) -> Float[Tensor, "row fitted ..."]:
    """Cut or padded with zeros to so many positions."""
    if value.shape[1] >= n_pos:
        return value[:, :n_pos]
    missing = value.new_zeros(value.shape[0], n_pos - value.shape[1], *value.shape[2:])
    return torch.cat([value, missing], dim=1)
