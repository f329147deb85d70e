"""`record`: run a model once and keep the values you ask for, with or without interventions.

What is kept lives in the `Recording`; nothing stays on the model, so any number of threads can record at once.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.attention import KeyValueCache
from probe.config import GPTConfig
from probe.errors import BadIntervention, BrokenFile, NumbersBroke, SiteNotRecorded, UnknownName, check_index
from probe.gpt import GPT
from probe.interventions import Effect, Intervention, contains_infinity, contains_nan
from probe.prompts import Prompts, str_tokens
from probe.provenance import provenance
from probe.reduction import NamedReduction, Reduction, taken_away
from probe.request import Request, read_request
from probe.selection import Indices, Selection, check_heads
from probe.shown import Shown, Summary, TableHead, count, describe_prompts, spans
from probe.sites import IN_BLOCK, describe_site, find_sites, full_name, site_dims, site_names, split_name
from probe.store import load_result, save_result
from probe.tables import Prompted, check_rows, prompted_table
from probe.tap import RecordingTap

if TYPE_CHECKING:
    import pandas

SHOWN_EFFECTS = 5
"""Interventions that a recording shows."""
PADDING = -1
"""What stands in `Recording.tokens` after the end of a shorter prompt."""


@dataclass(frozen=True, eq=False)
class Recording(Shown):
    """Values kept from one pass: ``rec["pattern", 3]`` or ``rec["blocks.3.attn.hook_pattern"]``, ``rec.stack("z")``.

    Prompts of different lengths stand in one batch; entries after the end of a shorter one are NaN;
    `prompt(i)` cuts them off.
    """

    values: Mapping[str, Tensor]
    """The values kept, by full name, in the order of the pass; "logits" last."""
    tokens: Int[Tensor, "batch pos"] | None
    """Token ids, -1 after the end of a prompt; on the CPU. None for a pass that began with a residual stream."""
    str_tokens: list[list[str]] | None
    """The text of each token of each prompt, without padding."""
    lengths: Int[Tensor, " batch"]
    """Tokens in each prompt."""
    positions: Int[Tensor, "batch kept"] | None
    """Which positions of each prompt were kept, counted from its front. None: all."""
    config: GPTConfig
    effects: tuple[Effect, ...]
    """How often each intervention took effect; ``pandas.DataFrame(rec.effects)`` is their table."""
    manifest: Mapping[str, Any]
    """Model, fingerprint, versions and arguments: what is needed to repeat the call."""

    @property
    def logits(self) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Raw logits of the token after each kept position."""
        return self["logits"]

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of the sites kept."""
        return tuple(name for name in self.values if name != "logits")

    def layers(self, site: str) -> tuple[int, ...]:
        """The layers of which this site was kept."""
        named = find_sites(self.config, [site])
        return tuple(layer for name in named if name in self.values and (layer := split_name(name)[0]) is not None)

    def __getitem__(self, key: str | tuple[str, int]) -> Tensor:
        """One value, by full name, or by short name and layer.

        Raises:
            UnknownName, OutOfRange: no such site or layer in this model.
            SiteNotRecorded: it was not kept; the message says how to keep it.
        """
        if key == "logits":
            name = "logits"
        else:
            if isinstance(key, tuple) and len(key) != 2:
                raise UnknownName(f"recording[{key!r}]: expected a full name, or a short name and a layer: ('z', 3)")
            site, layer = key if isinstance(key, tuple) else (key, None)
            name = full_name(self.config, site, layer)
        if name not in self.values:
            raise SiteNotRecorded(self._how_to_record(name))
        return self.values[name]

    def __iter__(self) -> Iterator[str]:
        """The full names of what is kept, in the order of the pass, "logits" last."""
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, (str, tuple)) and self[key] is not None  # type: ignore[index]
        except (SiteNotRecorded, ValueError, IndexError):
            return False

    def stack(self, site: str) -> Float[Tensor, "layer ..."]:
        """A site of every kept layer in one tensor (layer, batch, pos, ...); `layers(site)` says which these are.

        Raises:
            SiteNotRecorded: no layer of it was kept.
            UnknownName: no such site, or one that stands outside the layers.
        """
        named = find_sites(self.config, [site])
        if describe_site(site) not in IN_BLOCK:
            raise UnknownName(
                f"site {site!r} stands outside the layers, so there is one of it: read recording[{site!r}]"
            )
        found = [self.values[name] for name in named if name in self.values]
        if not found:
            raise SiteNotRecorded(self._how_to_record(named[0]))
        return torch.stack(found)

    def prompt(self, row: int) -> "Recording":
        """One prompt by itself, its padding cut off.

        Raises:
            SiteNotRecorded: a value was reduced over prompts, so it belongs to none of them.
        """
        reduced = self.manifest["arguments"]["reduce"]
        if reduced:
            raise SiteNotRecorded(f"{', '.join(reduced)}: reduced over prompts, so no single prompt has a value")
        row = check_index("prompt", row, len(self.lengths), owner="this recording")
        length = int(self.lengths[row])
        return Recording(
            values={name: self._of_prompt(name, value[row : row + 1], length) for name, value in self.values.items()},
            tokens=None if self.tokens is None else self.tokens[row : row + 1, :length],
            str_tokens=None if self.str_tokens is None else [self.str_tokens[row]],
            lengths=self.lengths[row : row + 1],
            positions=None if self.positions is None else self.positions[row : row + 1],
            config=self.config,
            effects=self.effects,
            manifest={**self.manifest, "prompt": row},
        )

    def to_dataframe(self, site: str | tuple[str, int] | None = None) -> "pandas.DataFrame":
        """What is kept: one row per value, with its name, layer, dims, shape, dtype and megabytes.

        With a site, its numbers: ``to_dataframe("pattern")`` of every kept layer, ``to_dataframe(("pattern", 3))`` of
        one, ``to_dataframe("logits")``. One row per number; a column per dim holds the position in the prompt, the
        head's own number, and so on, and `token` what stands at that position. Padding has no rows.

        Raises:
            SiteNotRecorded, UnknownName, OutOfRange: as ``recording[site]``.
            OutOfRange: more than 5,000,000 rows.
            UnknownName: a value that a function reduced, whose dims are not known.
        """
        import pandas  # half a second that only tables need

        if site is not None:
            return pandas.concat([self._numbers(name) for name in self._names_of(site)], ignore_index=True)
        rows = [
            (name, _layer(name), " ".join(self._dims(name)), tuple(value.shape), _dtype(value), _size(value) / 1e6)
            for name, value in self.values.items()
        ]
        return pandas.DataFrame(rows, columns=["name", "layer", "dims", "shape", "dtype", "megabytes"])

    def _names_of(self, site: str | tuple[str, int]) -> list[str]:
        """Full names of the kept values that a site means, if they fit one table."""
        if site == "logits" or isinstance(site, tuple):
            self[site]
            names = [site if isinstance(site, str) else full_name(self.config, *site)]
        else:
            named = find_sites(self.config, [site])
            names = [name for name in named if name in self.values]
            if not names:
                raise SiteNotRecorded(self._how_to_record(named[0]))
        n_rows = sum(self.values[name].numel() for name in names)
        check_rows(f"{site!r}", n_rows, "name one layer, ('z', 3), record fewer positions or heads, or read the tensor")
        return names

    def _numbers(self, name: str) -> "pandas.DataFrame":
        """One value in long form."""
        dims, value = self._dims(name), self.values[name]
        if not dims:
            raise UnknownName(
                f"{name!r} was reduced by a function, so its dims are not known: read recording[{name!r}]"
            )
        heads = self.manifest["arguments"]["heads"] if {"head", "kv_head"} & {*dims} else None
        chosen = check_heads(self.config, name, heads)
        about = Prompted(self.lengths, self.positions, self.str_tokens, chosen, _layer(name))
        return prompted_table(value, dims, about)

    def _dims(self, name: str) -> tuple[str, ...]:
        """Dims of a kept value, without those that a reduction took away. Empty: unknown, a function reduced it."""
        how = self.manifest["arguments"]["reduce"]
        meant = () if name == "logits" else (name, describe_site(name).short)
        found = [reduction for site, reduction in how.items() if site in meant]  # the last one counts
        if not found:
            return _dims(name)
        found = found[-1]
        if found not in get_args(NamedReduction):
            return ()
        dims = _dims(name)
        return tuple(dim for dim in dims if dim not in taken_away(found, dims))

    def summary(self) -> Summary:
        """What was run, and what took effect."""
        prompts = self.str_tokens or [range(length) for length in self.lengths.tolist()]
        facts = {
            effect.intervention: f"changed {count(effect.entries, 'vector')} at {', '.join(effect.sites)}"
            for effect in self.effects[:SHOWN_EFFECTS]
        }
        if len(self.effects) > SHOWN_EFFECTS:
            facts["and"] = f"{len(self.effects) - SHOWN_EFFECTS:,} more interventions"
        sites = list(dict.fromkeys(describe_site(name).short for name in self.names))
        some = ", ".join(sites[:8]) + (", …" if len(sites) > 8 else "")
        kept = "every site" if self.names == site_names(self.config) else some or "logits only"
        megabytes = sum(map(_size, self.values.values())) / 1e6
        return Summary(
            f"{describe_prompts(prompts)}, {count(len(self.names), 'value')} ({kept}), {megabytes:,.1f} MB",
            facts, self.manifest["model"], self.str_tokens or (),
            () if self.tokens is not None else ("The pass began with a residual stream: it has no tokens.",),
        )  # fmt: skip

    def first_rows(self, n: int) -> TableHead:
        """One row per site: in which layers it is kept, and how large it is."""
        kinds: dict[str, list[str]] = {}
        for name in self.values:
            kinds.setdefault(name if name == "logits" else describe_site(name).short, []).append(name)
        rows = [
            (
                short, spans(layer for name in names if (layer := _layer(name)) is not None),
                " ".join(self._dims(names[0])), " × ".join(map(str, self.values[names[0]].shape)),
                _dtype(self.values[names[0]]), sum(_size(self.values[name]) for name in names) / 1e6,
            )
            for short, names in kinds.items()
        ]  # fmt: skip
        return TableHead(("site", "layers", "dims", "shape of each", "dtype", "megabytes"), rows, len(rows), "site")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `Recording.load` reads back, without the model.

        Raises:
            NotSaved: the folder holds something already, or cannot be written.
        """
        extra = {"lengths": self.lengths, "tokens": self.tokens, "positions": self.positions}
        tensors = {**self.values, **{f"recording.{k}": v for k, v in extra.items() if v is not None}}
        effects = [{"intervention": e.intervention, "sites": list(e.sites), "entries": e.entries} for e in self.effects]
        manifest = {**self.manifest, "kind": "recording", "str_tokens": self.str_tokens, "effects": effects}
        save_result(folder, tensors, {**manifest, "names": list(self.values)})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Recording":
        """Read what `save` wrote, onto the CPU.

        Raises:
            BrokenFile: it is no saved recording, or was changed since.
        """
        tensors, manifest = load_result(folder)
        if manifest.pop("kind", None) != "recording":
            raise BrokenFile(f"{folder}: a saved result, but not a recording")
        try:
            return cls._from_saved(tensors, manifest)
        except (KeyError, TypeError, ValueError, IndexError) as error:  # IndexError: an OutOfRange of the config
            raise BrokenFile(f"{folder}: its manifest was changed: {type(error).__name__}: {error}") from error

    @classmethod
    def _from_saved(cls, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> "Recording":
        effects = [Effect(e["intervention"], tuple(e["sites"]), e["entries"]) for e in manifest.pop("effects")]
        return cls(
            values={name: tensors[name] for name in manifest.pop("names")},
            tokens=tensors.get("recording.tokens"),
            str_tokens=manifest.pop("str_tokens"),
            lengths=tensors["recording.lengths"],
            positions=tensors.get("recording.positions"),
            config=GPTConfig.from_dict(manifest["config"]),
            effects=tuple(effects),
            manifest=manifest,
        )

    def _of_prompt(self, name: str, value: Tensor, length: int) -> Tensor:
        for place, dim in enumerate(_dims(name)):
            if dim == "key_pos" or (dim in ("pos", "query_pos") and self.positions is None):
                value = value.narrow(place, 0, length)
        return value

    def _how_to_record(self, name: str) -> str:
        kept = dict.fromkeys(describe_site(kept).short for kept in self.names)
        if name == "logits":
            return "logits were not kept: the pass stopped early, or logits=False; record the whole pass"
        layer = split_name(name)[0]
        how = f"sites=[{describe_site(name).short!r}]" + (f", layers=[{layer}]" if layer is not None else "")
        return f"{name!r} was not kept (kept: {', '.join(kept) or 'nothing'}); record it with {how}"


def _dims(name: str) -> tuple[str, ...]:
    return ("batch", "pos", "d_vocab_out") if name == "logits" else site_dims(name)


def _layer(name: str) -> int | None:
    return None if name == "logits" else split_name(name)[0]


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _size(value: Tensor) -> int:
    """Bytes."""
    return value.numel() * value.element_size()


def record(
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
) -> Recording:
    """Run the model once and keep what is asked for.

    `prompts` is a text, several texts (padded on the right; each row comes out as it would alone), token ids, or, with
    `start_at_layer`, a residual stream (batch, pos, d_model). Values are those that the pass went on with: a site that
    is edited and kept keeps the edited value.

    Args:
        sites: short names ("resid_post", "pattern") or full ones. None: every site. Attention is computed step by step
            in the layers whose scores or pattern are kept or edited, fused in the others; the two agree to rounding.
        layers: of these layers only. None: all that are run.
        positions: only these positions of each prompt (-1: its own last token), of the logits too.
        heads: only these heads, of sites that have heads; keys and values by their own heads.
        dtype, device: of what is kept. None: as in the model, and where the model is.
        interventions: what to change on the way, in this order; see `probe.edit`, `zero`, `add`, ...
        start_at_layer, stop_after_layer: run only these layers, and pay for no others. A pass that stops early has
            no logits.
        document_start: put the model's document separator first, unless it is there. It matters: without it the first
            token is a poor stand-in for it (see `Tokenizer.document_start`).
        reduce: {site: "mean" | "sum" | "mean per position" | function(value, real)}: keep this instead of the values.
        grad: keep the graph, so that ``torch.autograd.grad(number, rec["z", 3])`` works for any kept value.
        logits: False spares the unembedding.

    Raises:
        ProbeError: an argument that does not fit the model, before anything runs; an edit that returns another shape or
            NaN, when it does. Then there is no recording.
    """
    request = read_request(
        model, prompts, sites=sites, layers=layers, positions=positions, heads=heads, dtype=dtype, device=device,
        interventions=interventions, start_at_layer=start_at_layer, stop_after_layer=stop_after_layer,
        document_start=document_start, reduce=reduce, grad=grad, logits=logits,
    )  # fmt: skip
    tap = RecordingTap(request)
    with torch.set_grad_enabled(request.grad):
        run(model, request, tap)
    where = request.positions
    return Recording(
        values=tap.values,
        tokens=None if request.batch is None else request.batch.tokens(padding=PADDING),
        str_tokens=None if request.batch is None else [str_tokens(model.tokenizer, ids) for ids in request.batch.ids],
        lengths=torch.tensor(request.lengths),
        positions=None if where.positions is None else torch.tensor(where.positions),
        config=model.config,
        effects=request.edits.effects(),
        manifest={**provenance(model), "arguments": dict(request.arguments)},
    )


def run(model: GPT, request: Request, tap: RecordingTap, cache: KeyValueCache | None = None) -> None:
    """The pass itself. With a cache, the tokens of the request are the next ones after those that it has seen."""
    if request.batch is None:
        assert request.resid is not None, "read_request gives one of the two"
        resid = request.resid
    else:
        seen = 0 if cache is None else cache.length
        resid = model.embed_tokens(request.batch.tokens(padding=0).to(model.device), tap=tap, seen=seen)
    resid = model.run_layers(
        resid, tap=tap, start_at_layer=request.first_layer, stop_after_layer=request.stop_after_layer, cache=cache
    )
    everywhere = Selection(request.lengths)
    _check_numbers(request, "the residual stream holds", resid, everywhere)
    if request.logits:
        places = request.positions.positions
        kept = None if places is None else torch.tensor(places, device=resid.device)
        logits = model.read_out(resid, tap=tap, unembed_at=kept)
        _check_numbers(request, "the logits hold", logits.detach().amax(-1, keepdim=True), request.positions)
        tap.keep_logits(logits)
    elif request.stop_after_layer is None:
        final = model.ln_final(resid, tap.scope("ln_final"))
        _check_numbers(request, "the final norm holds", final, everywhere)
    tap.finish()


def _check_numbers(request: Request, what: str, value: Float[Tensor, "batch kept n"], which: Selection) -> None:
    """What an edit, half precision or a broken weight spoils ends as NaN or infinity here: found once, at the end."""
    real = which.real(("batch", "pos", "d_model"), value.device)
    value = value if real is None else value.masked_fill(~real, 0.0)
    found = "NaN" if contains_nan(value) else "infinity" if contains_infinity(value) else None
    if found is None:
        return
    if value.dtype == torch.float16:
        raise NumbersBroke(f"{what} {found}: float16 overflowed; use bfloat16 or float32")
    if request.edits.names:
        edits = "; ".join(effect.intervention for effect in request.edits.effects())
        raise BadIntervention(f"{what} {found} after these interventions: {edits}")
    raise NumbersBroke(f"{what} {found}: a weight is NaN or infinite, or numbers overflowed")
