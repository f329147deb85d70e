"""The engine of ablation and patching: prompts that were run once are run again, many at a time, with parts replaced.

A *row* is one such rerun: a prompt, and the parts of its values that are replaced. It begins in its first changed layer
from the recorded residual stream, at its first changed position (keys and values before that are the recorded ones),
and joins the rows that are already under way in one batch; only the logits that the metric reads are computed. This is
exact: what is left out is what the change cannot reach.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.attention import Seen
from probe.config import GPTConfig
from probe.gpt import GPT
from probe.metrics import Measure
from probe.prompts import PromptBatch
from probe.recording import record
from probe.rotary import rotary_turn
from probe.sites import describe_site, post_scales, residual_sites
from probe.tap_protocol import Resid, Tap

Table = Callable[[int, str], Tensor]
"""(layer, site) -> the new values, with the dims of the site: "batch" counts sources; one position stands for all."""
WRITES = ("z", "attn_out", "post", "mlp_out")
"""Sites whose change adds a known vector to the residual stream."""
_INTO_MID = ("z", "attn_out", "resid_mid")
"""Replaced in a row's first layer, these change the recorded resid_mid by a known vector: the row begins there. Not
where nothing lies between attention and MLP; not with z where a norm stands between it and the stream."""
_NORM_AFTER = {"z": "ln1_post", "post": "ln2_post"}
"""The norm between what is written there and the stream, where a model has one."""
_AFTER_MID = ("ln2.scale", "ln2.normalized", "pre", "pre_linear", "mid", "mlp.ln.scale", "mlp.ln.normalized", "post",
              "ln2_post.scale", "ln2_post.normalized", "mlp_out", "resid_post")  # fmt: skip


class Part(NamedTuple):
    """One thing that can be replaced."""

    layer: int
    site: str
    """Short name of the site."""
    index: int | None = None
    """A head (of keys and values: their own) or a neuron. None: all of the site."""


class Row(NamedTuple):
    """One rerun."""

    prompt: int
    """The prompt's number in its block."""
    source: int
    """Which of the table's sources its new values come from."""
    parts: tuple[Part, ...]
    positions: tuple[int, ...]
    """Positions at which the parts are replaced."""
    unit: int = 0
    """The caller's number for what is replaced."""

    @property
    def first_layer(self) -> int:
        return min(part.layer for part in self.parts)

    def begins_at_mid(self, config: GPTConfig) -> bool:
        """Whether nothing before its first layer's resid_mid needs to be computed."""
        here = [part.site for part in self.parts if part.layer == self.first_layer]
        into_mid = _INTO_MID[1:] if config.post_norms else _INTO_MID
        return config.has_mid and all(site in (*into_mid, *_AFTER_MID) for site in here)


class RecordedRun:
    """Prompts that were run once, as they are, and from which rows begin: in denoising the corrupted ones."""

    def __init__(self, model: GPT, batch: PromptBatch, measure: Measure, prompts: Sequence[int], sites: Sequence[str]):
        """`measure` is of the whole call, of which these are the `prompts`; `sites`: what will be replaced."""
        self.model, self.batch, self.measure = model, batch, measure
        self.prompts = torch.tensor(prompts, device=model.device)
        self.kept = measure.positions[list(prompts), :].clamp(max=max(batch.lengths) - 1).to(model.device)
        self.tokens = None if measure.tokens is None else measure.tokens[list(prompts)].to(model.device)
        self.values = recorded_values(model, batch, [*sites_needed(model), *sites])
        everyone = torch.arange(len(prompts), device=model.device)
        self.final = _at(self("resid_post", model.config.n_layers - 1), self.kept)
        self.base_logits = self._read(model.ln_final(self.final), everyone)
        self.metric = self.measured(self.base_logits, everyone)

    def __call__(self, site: str, layer: int) -> Tensor:
        """A recorded value; zero after the end of shorter prompts."""
        return self.values[f"blocks.{layer}.{describe_site(site).suffix}"]

    def measured(self, logits: Float[Tensor, "row kept token"], prompts: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """The metric of rows of these prompts of the block."""
        return self.measure(logits, self.base_logits[prompts], self.prompts[prompts])

    def logits(self, rows: Sequence[Row], table: Table) -> Float[Tensor, "row kept token"]:
        """What the metric reads, of every row, everything after the change computed anew."""
        chunk = _Chunk(rows, max(self.batch.lengths), self.model)
        turn, seen = self._turn(chunk), self._seen(chunk)
        last = self.model.config.n_layers - 1
        resid = self("resid_pre", 0)[:0, chunk.begin :]
        for layer in range(chunk.first_layer, last + 1):
            block, tap = self.model.blocks[layer], _RowTap(chunk.edits_under_way(layer), table, chunk.begin)
            entering = chunk.entering(layer, at_mid=False)
            resid = torch.cat([resid, self("resid_pre", layer)[chunk.prompts[entering], chunk.begin :]])
            if not self.model.config.has_mid:
                resid = block(resid, tap, turn, seen)
                continue
            if len(resid):
                resid = block.add_attention(resid, tap, turn, seen)
            resid = torch.cat([resid, self._from_mid(chunk, table, layer)])
            if layer == last and not tap.changes_mlp:
                resid = self._at_kept(resid, chunk, "resid_mid")
            if len(resid):
                resid = block.add_mlp(resid, tap)
            if layer == last and tap.changes_mlp:
                resid = self._at_kept(resid, chunk, "resid_post")
        if not self.model.config.has_mid:
            resid = self._at_kept(resid, chunk, "resid_post")
        return self._read(self.model.ln_final(resid), chunk.prompts)[chunk.back]

    def direct_logits(self, rows: Sequence[Row], table: Table) -> Float[Tensor, "row kept token"]:
        """What the metric reads if nothing after a part noticed its change: what the part writes to the stream goes
        straight to the logits, through the final norm's recorded scale."""
        chunk = _Chunk(rows, max(self.batch.lengths), self.model, begin=0)
        kept = self.kept[chunk.prompts]
        changed = self.final.new_zeros(*kept.shape, self.model.config.d_model)
        for edit in chunk.edits:
            assert edit.site in WRITES, "the caller gives parts that write to the stream"
            mask = edit.mask.gather(1, kept[edit.rows])
            new, old = (
                part if part.shape[1] == 1 else _at(part, kept[edit.rows])
                for part in (edit.new(table, 0), edit.old(self, 0))
            )
            scale = None
            if self.model.config.post_norms and edit.site in _NORM_AFTER:
                scale = _at(self(f"{_NORM_AFTER[edit.site]}.scale", edit.layer)[edit.prompts], kept[edit.rows])
            self._add_writes(changed, edit, new, old, mask, scale)
        final = self.model.ln_final
        if self.model.config.norm == "layer":
            changed = changed - changed.mean(-1, keepdim=True)
        scale = _at(self.values["ln_final.hook_scale"], self.kept)[chunk.prompts]
        normalised = final(self.final)[chunk.prompts] + (changed / scale * final.gain).to(changed)
        return self._read(normalised, chunk.prompts)[chunk.back]

    def _at_kept(self, resid: Resid, chunk: "_Chunk", site: str) -> Float[Tensor, "row kept d_model"]:
        """The stream of the last layer where the metric reads; before the first change it is the recorded one."""
        kept = self.kept[chunk.prompts]
        found = _at(resid, (kept - chunk.begin).clamp(min=0))
        if not (kept < chunk.begin).any():
            return found
        recorded = _at(self(site, self.model.config.n_layers - 1)[chunk.prompts], kept)
        return torch.where((kept < chunk.begin)[..., None], recorded, found)

    def _from_mid(self, chunk: "_Chunk", table: Table, layer: int) -> Resid:
        """The rows that begin in the middle of this layer, what they replace before it taken into account."""
        entering = chunk.entering(layer, at_mid=True)
        resid = self("resid_mid", layer)[chunk.prompts[entering], chunk.begin :]
        for edit in sorted(chunk.edits_at(layer, _INTO_MID, entering), key=lambda edit: edit.site == "resid_mid"):
            inside = edit.shifted(entering.start)
            new, old = inside.new(table, chunk.begin), inside.old(self, chunk.begin)
            mask = inside.mask[:, chunk.begin :]
            if inside.site == "resid_mid":
                resid[inside.rows] = torch.where(mask[..., None], new, resid[inside.rows])
            else:
                self._add_writes(resid, inside, new, old, mask)
        return resid

    def _add_writes(
        self, resid: Resid, edit: "_Edit", new: Tensor, old: Tensor, mask: Bool[Tensor, "part pos"],
        scale: Float[Tensor, "part pos one"] | None = None,
    ) -> None:  # fmt: skip
        """Add to the stream what replacing `old` by `new` makes the parts write, where the mask says.

        `scale`: what the norm between them and the stream divides by, held as it was recorded.
        """
        gain: Tensor | None = None
        change = new - old
        change = change * mask.view(*mask.shape, *[1] * (change.ndim - 2))
        if scale is not None:
            change = (change / scale.view(*scale.shape[:2], *[1] * (change.ndim - 2))).to(change)
            gain = self.model.blocks[edit.layer].get_submodule(_NORM_AFTER[edit.site]).gain.to(change)  # type: ignore[union-attr]
        if edit.index is None and edit.site == "z":
            resid.index_add_(
                0, edit.rows, torch.einsum("rphd,hdm->rpm", change, _onto_stream(self.model.W_O[edit.layer], gain))
            )
        elif edit.index is None:
            weight = self.model.W_out[edit.layer] if edit.site == "post" else None
            resid.index_add_(0, edit.rows, change if weight is None else change @ _onto_stream(weight, gain))
        elif edit.site == "post":
            written = _onto_stream(self.model.W_out[edit.layer][edit.index], gain)
            resid.index_add_(0, edit.rows, change[..., None] * written[:, None])
        elif edit.site == "z":
            for head in edit.index.unique().tolist():
                own = edit.index == head
                resid.index_add_(0, edit.rows[own], change[own] @ _onto_stream(self.model.W_O[edit.layer, head], gain))
        else:
            raise AssertionError(f"{edit.site} has no heads or neurons")

    def _read(self, final: Resid, prompts: Int[Tensor, " row"]) -> Float[Tensor, "row kept token"]:
        """Logits, of the tokens that the metric reads."""
        return self.model.logits_of(final, None if self.tokens is None else self.tokens[prompts])

    def _turn(self, chunk: "_Chunk"):
        if self.model.config.positions != "rotary":
            return None
        n_pos, like = max(self.batch.lengths), self("resid_pre", 0)
        return rotary_turn(
            self.model.config, torch.arange(chunk.begin, n_pos, device=like.device)[None], like.dtype, n_pos
        )

    def _seen(self, chunk: "_Chunk") -> Seen | None:
        return _Recorded(self, chunk) if chunk.begin else None


class _Recorded:
    """Recorded keys and values of the positions before a chunk's first change, for whichever rows are under way."""

    def __init__(self, run: RecordedRun, chunk: "_Chunk"):
        self.length = chunk.begin
        self._run, self._prompts = run, chunk.prompts
        self._key = "rot_k" if run.model.config.positions == "rotary" else "k"

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        prompts = self._prompts[: len(k)]
        before = (self._run(site, layer)[prompts, : self.length] for site in (self._key, "v"))
        return tuple(torch.cat([old, new], dim=1) for old, new in zip(before, (k, v), strict=True))  # type: ignore[return-value]


class _Edit:
    """Parts of one site of one layer that rows of a chunk replace: `rows`, `sources` and `index` go together."""

    def __init__(self, layer: int, site: str, rows: Tensor, sources: Tensor, index: Tensor | None, mask: Tensor,
                 prompts: Tensor):  # fmt: skip
        self.layer, self.site, self.rows, self.sources, self.index, self.mask = layer, site, rows, sources, index, mask
        self.prompts = prompts
        self.dims = describe_site(site).dims

    def shifted(self, by: int) -> "_Edit":
        """For a batch that begins with row `by`."""
        return _Edit(self.layer, self.site, self.rows - by, self.sources, self.index, self.mask, self.prompts)

    def new(self, table: Table, begin: int) -> Tensor:
        """(part, pos or 1, ...): what comes, from position `begin` on."""
        values = table(self.layer, self.site)
        place = _place_of_pos(self.dims)
        if values.shape[place] > 1:
            values = values.narrow(place, begin, values.shape[place] - begin)
        return self.entries(values, self.sources)

    def old(self, run: RecordedRun, begin: int) -> Tensor:
        """(part, pos, ...): what was recorded."""
        return self.entries(run(self.site, self.layer)[:, begin:], self.prompts)

    def entries(self, value: Tensor, rows: Tensor) -> Tensor:
        """(part, pos, ...): the parts of these rows of a value."""
        found = value[self._where(rows)]
        return found.transpose(1, 2) if self._all_heads_first else found

    def put(self, value: Tensor, new: Tensor, begin: int) -> Tensor:
        """A copy of the value with the new entries where the mask says."""
        mask = self.mask[:, begin:]
        old = self.entries(value, self.rows)
        mask = mask.view(*mask.shape, *[1] * (old.ndim - 2))
        changed = torch.where(mask, new.to(old), old)
        value = value.clone()
        value[self._where(self.rows)] = changed.transpose(1, 2) if self._all_heads_first else changed
        return value

    @property
    def _all_heads_first(self) -> bool:
        """A whole pattern has its heads before its queries."""
        return self.index is None and _place_of_pos(self.dims) == 2

    def _where(self, rows: Tensor) -> tuple:
        if self.index is None:
            return (rows,)
        return (rows, self.index) if _place_of_pos(self.dims) == 2 else (rows, slice(None), self.index)


class _Chunk:
    """Rows in the order in which they join the batch, and what they replace."""

    def __init__(self, rows: Sequence[Row], n_pos: int, model: GPT, begin: int | None = None):
        keys = [(row.first_layer, row.begins_at_mid(model.config)) for row in rows]
        order = sorted(range(len(rows)), key=lambda row: keys[row])
        self.rows, keys = [rows[row] for row in order], sorted(keys)
        device = model.device
        self.back = torch.tensor(order, device=device).argsort()
        self.prompts = torch.tensor([row.prompt for row in self.rows], device=device)
        self.begin = min(min(row.positions) for row in rows) if begin is None else begin
        self.first_layer = self.rows[0].first_layer
        mask = torch.zeros(len(rows), n_pos, dtype=torch.bool)
        for number, row in enumerate(self.rows):
            mask[number, list(row.positions)] = True
        self.edits = list(self._edits(mask.to(device), device))
        self._span = {key: slice(keys.index(key), keys.index(key) + keys.count(key)) for key in set(keys)}

    def entering(self, layer: int, *, at_mid: bool) -> slice:
        """The rows that begin here; they stand together."""
        return self._span.get((layer, at_mid), slice(0, 0))

    def edits_at(self, layer: int, sites: Sequence[str], rows: slice) -> Iterator[_Edit]:
        """What these rows replace at these sites."""
        for edit in self.edits:
            if edit.layer == layer and edit.site in sites:
                own = (edit.rows >= rows.start) & (edit.rows < rows.stop)
                if own.any():
                    yield _only(edit, own)

    def edits_under_way(self, layer: int) -> dict[str, list[_Edit]]:
        """What is replaced as the layer runs, by the end of the site's name: all but what is in the stream already when
        a row begins at its middle."""
        entering = self.entering(layer, at_mid=True)
        found: dict[str, list[_Edit]] = {}
        for edit in self.edits:
            if edit.layer == layer:
                done = (edit.rows >= entering.start) & (edit.rows < entering.stop) & (edit.site in _INTO_MID)
                if not done.all():
                    found.setdefault(describe_site(edit.site).suffix, []).append(_only(edit, ~done))
        return found

    def _edits(self, mask: Bool[Tensor, "row pos"], device: torch.device) -> Iterator[_Edit]:
        found: dict[tuple[int, str, bool], list[tuple[int, int | None]]] = {}
        for number, row in enumerate(self.rows):
            for part in row.parts:
                found.setdefault((part.layer, part.site, part.index is None), []).append((number, part.index))
        for (layer, site, whole), members in found.items():
            rows = torch.tensor([number for number, _ in members], device=device)
            sources = torch.tensor([self.rows[number].source for number, _ in members], device=device)
            index = None if whole else torch.tensor([index for _, index in members], device=device)
            yield _Edit(layer, site, rows, sources, index, mask[rows], self.prompts[rows])


def _only(edit: _Edit, own: Bool[Tensor, " part"]) -> _Edit:
    index = None if edit.index is None else edit.index[own]
    return _Edit(edit.layer, edit.site, edit.rows[own], edit.sources[own], index, edit.mask[own], edit.prompts[own])


class _RowTap:
    """Replaces parts in the rows that ask for it, while one layer runs."""

    def __init__(self, edits: Mapping[str, Sequence[_Edit]], table: Table, begin: int, prefix: str = ""):
        """`edits`: of one layer; `begin`: the first position that is run."""
        self._edits, self._table, self._begin, self._prefix = edits, table, begin, prefix

    @property
    def changes_mlp(self) -> bool:
        return any(describe_site(site).suffix in self._edits for site in _AFTER_MID)

    def wants(self, name: str) -> bool:
        return self._prefix + name in self._edits

    def scope(self, prefix: str) -> Tap:
        return _RowTap(self._edits, self._table, self._begin, f"{self._prefix}{prefix}.")

    def __call__(self, name: str, value: Tensor) -> Tensor:
        for edit in self._edits.get(self._prefix + name, ()):
            value = edit.put(value, edit.new(self._table, self._begin), self._begin)
        return value


def sites_needed(model: GPT) -> list[str]:
    """What must be recorded for rows to begin from, beside what is replaced."""
    key = "rot_k" if model.config.positions == "rotary" else "k"
    before = [*residual_sites(model.config)[:-1], *post_scales(model.config)]
    return [*before, f"blocks.{model.config.n_layers - 1}.hook_resid_post", "ln_final.scale", key, "v"]


def recorded_values(model: GPT, batch: PromptBatch, sites: Sequence[str]) -> dict[str, Tensor]:
    """Values of one pass over token ids, by full name. After the end of shorter prompts they are finite."""
    recording = record(model, [list(ids) for ids in batch.ids], sites=list(dict.fromkeys(sites)), logits=False)
    if min(batch.lengths) == max(batch.lengths):
        return dict(recording.values)
    return {name: value.nan_to_num(nan=1.0 if "scale" in name else 0.0) for name, value in recording.values.items()}


def _onto_stream(weight: Float[Tensor, "... d_model"], gain: Float[Tensor, " d_model"] | None) -> Tensor:
    """What a weight writes, through the norm that stands between it and the stream, if there is one."""
    return weight if gain is None else weight * gain


def _place_of_pos(dims: Sequence[str]) -> int:
    return 2 if "query_pos" in dims else 1


def _at(values: Float[Tensor, "row pos *rest"], kept: Int[Tensor, "row kept"]) -> Float[Tensor, "row kept *rest"]:
    """The values at these positions of each row."""
    return values.gather(1, kept.view(*kept.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:]))
