"""Which entries of a value are meant: prompts (rows), positions and heads, chosen the same way on every site.

Positions are counted within each prompt: -1 is each prompt's own last token. On sites with query and key positions they
choose queries. ``None`` always means all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import OutOfRange, ProbeError, UnknownName, as_integer, check_index
from probe.sites import describe_site

Indices = int | Sequence[int] | np.ndarray | Tensor | None
"""One index, several, or None for all. Negative ones count from the end."""


@dataclass(frozen=True)
class Selection:
    """Checked choices for the prompts of one call, ready to be applied to the value of any site that has such dims."""

    lengths: tuple[int, ...]
    """Tokens in each prompt of the call."""
    rows: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    positions: tuple[tuple[int, ...], ...] | None = None
    """For each chosen row its positions, counted from the front; as many in each row."""
    _made: dict[tuple[object, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Index tensors and masks made so far: a call applies one selection to hundreds of values."""

    @property
    def is_everything(self) -> bool:
        """Nothing was chosen: the whole value is meant."""
        return self.rows is None and self.heads is None and self.positions is None

    @property
    def chosen_rows(self) -> tuple[int, ...]:
        """The rows meant."""
        return tuple(range(len(self.lengths))) if self.rows is None else self.rows

    @property
    def chosen_positions(self) -> tuple[tuple[int, ...], ...]:
        """The positions meant in each of them, padding included where all are meant."""
        everywhere = tuple(range(max(self.lengths)))
        return tuple(everywhere for _ in self.chosen_rows) if self.positions is None else self.positions

    def shape(self, dims: Sequence[str], shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what is meant, of a value with these dims and this shape."""
        chosen = {
            "batch": len(self.chosen_rows),
            "pos": len(self.chosen_positions[0]),
            "query_pos": len(self.chosen_positions[0]),
        }
        if self.heads is not None:
            chosen["head"] = chosen["kv_head"] = len(self.heads)
        return tuple(chosen.get(dim, size) for dim, size in zip(dims, shape, strict=True))

    def index(self, dims: Sequence[str], shape: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
        """Index tensors for the leading dims (batch, positions, heads), so that ``value[index]`` is what is meant."""
        leading = tuple((dim, size) for dim, size in zip(dims, shape, strict=True) if dim in _CHOSEN)
        return self._once(("index", leading, device), lambda: self._make_index(leading, device))

    def _make_index(self, sized: tuple[tuple[str, int], ...], device: torch.device) -> tuple[Tensor, ...]:
        leading, shape = [dim for dim, _ in sized], [size for _, size in sized]
        rows = torch.tensor(self.chosen_rows, device=device)
        positions = torch.tensor(self.chosen_positions, device=device)

        def along(dim: str) -> Tensor:
            place, others = leading.index(dim), len(leading)
            if dim == "batch":
                return rows.view(-1, *[1] * (others - 1))
            if dim in ("pos", "query_pos"):
                return positions.view(len(rows), *[1] * (place - 1), -1, *[1] * (others - place - 1))
            heads = torch.arange(shape[place]) if self.heads is None else torch.tensor(self.heads)
            return heads.to(device).view(-1, *[1] * (others - place - 1))

        return tuple(along(dim) for dim in leading)

    def take(self, dims: Sequence[str], value: Tensor) -> Tensor:
        """What is meant: the value itself if it is everything, else a copy of the chosen entries."""
        return value if self.is_everything else value[self.index(dims, value.shape, value.device)]

    def put(self, dims: Sequence[str], value: Tensor, part: Tensor) -> Tensor:
        """The value with `part` where the selection stands; `value` itself is left alone."""
        return part if self.is_everything else value.index_put(self.index(dims, value.shape, value.device), part)

    def real(self, dims: Sequence[str], device: torch.device) -> Bool[Tensor, "..."] | None:
        """Which of the chosen entries are no padding, broadcastable to ``take(dims, value)``; None: all of them."""
        if min(self.lengths) == max(self.lengths):
            return None
        key = ("real", len(dims), "query_pos" in dims, device)
        return self._once(key, lambda: self._make_real(dims, device))

    def _make_real(self, dims: Sequence[str], device: torch.device) -> Bool[Tensor, "..."]:
        longest = max(self.lengths)
        lengths = torch.tensor([self.lengths[row] for row in self.chosen_rows], device=device)
        positions = torch.tensor(self.chosen_positions, device=device)
        query = positions < lengths[:, None]  # (row, position)
        if "query_pos" not in dims:
            return query.view(*query.shape, *[1] * (len(dims) - 2))
        key = torch.arange(longest, device=device) < lengths[:, None]
        return query[:, None, :, None] & key[:, None, None, :]

    def _once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


_CHOSEN = ("batch", "pos", "query_pos", "head", "kv_head")


def select(
    lengths: Sequence[int], *, rows: Indices = None, positions: Indices = None, heads: tuple[int, ...] | None = None
) -> Selection:
    """Check rows and positions against the prompts of a call; `heads` come from `check_heads`.

    Raises:
        OutOfRange: a row, or a position in one of the chosen prompts, that does not exist.
        ProbeError: nothing is chosen.
    """
    lengths = tuple(lengths)
    chosen_rows = None
    if rows is not None:
        owner = f"this call of {len(lengths)} prompt{'s' * (len(lengths) > 1)}"
        chosen_rows = tuple(check_index("row", row, len(lengths), owner=owner) for row in as_list("rows", rows))
    chosen = None
    if positions is not None:
        wanted = as_list("positions", positions)
        chosen = tuple(
            tuple(
                check_index("position", position, lengths[row], owner=_name_of_prompt(row, lengths))
                for position in wanted
            )
            for row in (range(len(lengths)) if chosen_rows is None else chosen_rows)
        )
    return Selection(lengths, rows=chosen_rows, heads=heads, positions=chosen)


def check_heads(config: GPTConfig, site: str, heads: Indices) -> tuple[int, ...] | None:
    """Heads of a site, counted from the front.

    Raises:
        UnknownName: the site has no heads.
        OutOfRange: no such head; for keys and values the message names the query head's group.
    """
    if heads is None:
        return None
    dims = describe_site(site).dims
    wanted = as_list("heads", heads)
    if "head" in dims:
        return tuple(check_index("head", head, config.n_heads, owner="this model") for head in wanted)
    if "kv_head" not in dims:
        raise UnknownName(f"site {site!r} has dims {' '.join(dims)}: it has no heads to choose")
    for head in wanted:
        if config.kv_heads <= head < config.n_heads:
            raise OutOfRange(
                f"head {head} of {site!r}: keys and values have heads 0 to {config.kv_heads - 1} in this model; "
                f"query head {head} reads key/value head {head // config.heads_per_group}"
            )
    return tuple(check_index("head", head, config.kv_heads, owner=f"{site!r}") for head in wanted)


def as_list(kind: str, indices: Indices) -> list[int]:
    """One index or several, as a list.

    Raises:
        ProbeError: none at all.
        OutOfRange: something that is no index.
    """
    single = as_integer(indices)
    if single is not None:
        return [single]
    if isinstance(indices, str) or not hasattr(indices, "__iter__") or getattr(indices, "ndim", 1) == 0:
        raise OutOfRange(f"{kind} {indices!r}: expected an integer or several")
    found = []
    for one in indices:  # type: ignore[union-attr]
        number = as_integer(one)
        if number is None:
            raise OutOfRange(f"{kind}={indices!r}: {one!r} is not an integer")
        found.append(number)
    if not found:
        raise ProbeError(f"{kind}=[] chooses nothing; leave {kind} out to mean all")
    return found


def _name_of_prompt(row: int, lengths: Sequence[int]) -> str:
    return f"prompt {row}" if len(lengths) > 1 else "the prompt"
