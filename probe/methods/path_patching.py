"""Path patching: what one head tells another one directly, along no other way.

A sender head's output is replaced, what it then writes goes straight into the residual stream before a receiver, and
only the receiver notices: all other heads keep what they wrote. The receiver's new query, key, value or MLP output is
then put into a run in which everything after it is live; for the logits, the stream itself is changed at the end.
Source: Wang et al., "Interpretability in the wild" (2022); Goldowsky-Dill et al., "Localizing model behavior with path
patching" (2023).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked
from probe.config import GPTConfig
from probe.errors import OutOfRange, UnknownName, as_integer, check_choice, check_count, check_index
from probe.gpt import GPT
from probe.linear import affine
from probe.methods._patches import Direction, PatchEffects, read_pairs, run_patches
from probe.methods._reruns import Part, RecordedRun, Row, Table
from probe.methods._schedule import MEMORY
from probe.methods._units import Head, check_head
from probe.metrics import AnyMetric
from probe.prompts import Prompts
from probe.results import Result
from probe.shown import Summary, count
from probe.sites import check_has_mlp
from probe.statistics import Groups
from probe.tap_protocol import Resid
from probe.tasks import Task

if TYPE_CHECKING:
    import pandas

Receiver = tuple[Literal["q", "k", "v"], int, int] | tuple[Literal["mlp"], int] | Literal["logits"]
"""("q", layer, head), with keys and values by their own heads; ("mlp", layer); or "logits"."""
_INPUTS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class PathPatching(PatchEffects, Result):
    """What changing one head's message to one receiver does to a metric, sender by sender, on every pair of prompts."""

    senders: tuple[Head, ...]
    """The heads whose messages are changed, as (layer, head)."""
    receiver: str
    """'q of 9.6', 'MLP 10', 'logits'."""
    through_mlps: bool
    """Whether MLPs on the way notice the message; heads never do."""
    direction: Direction
    metric: str
    unit: str
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    patched: Float[Tensor, "sender prompt"]
    groups: Groups
    complete: bool
    seed: int
    manifest: Mapping[str, Any]

    @checked
    def top(self, n: int = 5) -> list[tuple[Head, float]]:
        """The n senders whose message matters most: (head, mean effect)."""
        check_count("n", n)
        means = self.effects.mean(1)
        order = means.abs().argsort(descending=True, stable=True)[:n].tolist()
        return [(self.senders[place], float(means[place])) for place in order]

    def summary(self) -> Summary:
        """The senders that matter most."""
        return Summary(
            f"what {count(len(self.senders), 'head')} tell {self.receiver}, {count(len(self.clean), 'pair')} of "
            f"prompts: {self.metric} ({self.unit})",
            {
                "clean": float(self.clean.mean()), "corrupted": float(self.corrupted.mean()),
                "largest": ", ".join(f"{layer}.{head} {effect:+.3g}" for (layer, head), effect in self.top(4)),
            },
            self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per sender; with several pairs of prompts the evidence beside it."""
        import pandas  # half a second that only tables need

        whole = float((self.clean - self.corrupted).mean())
        table = pandas.DataFrame(self.senders, columns=["layer", "head"])
        table["effect"] = self.effects.mean(1).tolist()
        table["share"] = (self.effects.mean(1) / whole).tolist()
        return table.assign(**self._evidence_columns())


@checked
def path_patching(
    model: GPT,
    clean: Prompts | Task,
    corrupted: Prompts | None = None,
    receiver: Receiver = "logits",
    *,
    metric: AnyMetric | None = None,
    senders: Sequence[Head] | None = None,
    direction: Direction = "noise",
    through_mlps: bool = False,
    groups: Groups | None = None,
    document_start: bool = False,
    memory: int = MEMORY,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> PathPatching:
    """Replace what each sender tells one receiver, and nothing else, and measure what that does.

    Args:
        receiver: ("q", layer, head), likewise "k" and "v" by their own heads; ("mlp", layer); or "logits".
        senders: heads (layer, head) before the receiver. None: all of them.
        direction: "noise" sends corrupted messages in the clean run, "denoise" clean ones in the corrupted run.
        through_mlps: whether MLPs between the two pass the message on, as in Wang et al.; else only the stream does.
        Others as of `activation_patching`.

    Raises:
        UnknownName, OutOfRange: a receiver or sender that does not exist; a sender that does not come before it.
        Others as `activation_patching`.
    """
    pairs = read_pairs(
        model, clean, corrupted, metric=metric, direction=direction, groups=groups, document_start=document_start,
        memory=memory,
    )  # fmt: skip
    part, named = _receiver(model.config, receiver)
    heads = _senders(model.config, part, senders, named)
    everywhere = [tuple(range(length)) for length in pairs.base.lengths]

    def rows(block: Sequence[int]) -> list[Row]:
        return [
            Row(prompt, number * len(block) + prompt, (part,), everywhere[row], number)
            for number in range(len(heads))
            for prompt, row in enumerate(block)
        ]

    manifest = pairs.manifest(
        "path patching", receiver=named, senders=[list(head) for head in heads], through_mlps=through_mlps, seed=seed
    )
    found = run_patches(
        pairs, len(heads), rows, lambda base, source: _messages(base, source, part, heads, through_mlps),
        sites=["z"], more_numbers=4 * len(heads) * model.config.d_model, folder=folder, manifest=manifest,
        progress=progress,
    )  # fmt: skip
    return PathPatching(
        senders=heads, receiver=named, through_mlps=through_mlps, direction=direction, metric=pairs.metric.name,
        unit=pairs.metric.unit, clean=found.clean, corrupted=found.corrupted, patched=found.values,
        groups=found.groups, complete=found.complete, seed=seed, manifest=manifest,
    )  # fmt: skip


def _receiver(config: GPTConfig, receiver: Any) -> tuple[Part, str]:
    """What is replaced in the end, and its name."""
    if receiver == "logits":
        return Part(config.n_layers - 1, "resid_post"), "logits"
    if not isinstance(receiver, (tuple, list)) or len(receiver) < 2:
        raise UnknownName(f"receiver {receiver!r}: expected ('q', layer, head), ('mlp', layer) or 'logits'")
    check_choice("receiver", receiver[0], (*_INPUTS, "mlp", "logits"))
    layer = check_index("layer", receiver[1], config.n_layers, owner="this model")
    if receiver[0] == "mlp":
        check_has_mlp(config, f"receiver {receiver!r}")
    if receiver[0] == "mlp" and len(receiver) == 2:
        return Part(layer, "mlp_out"), f"MLP {layer}"
    if receiver[0] == "mlp" or len(receiver) != 3:
        raise UnknownName(f"receiver {receiver!r}: expected ('q', layer, head), ('mlp', layer) or 'logits'")
    n_heads = config.n_heads if receiver[0] == "q" else config.kv_heads
    head = check_index("head", receiver[2], n_heads, owner=f"{receiver[0]!r} of this model")
    return Part(layer, receiver[0], head), f"{receiver[0]} of {layer}.{head}"


def _senders(config: GPTConfig, part: Part, senders: Sequence[Head] | None, named: str) -> tuple[Head, ...]:
    """Heads that write before the receiver reads."""
    n_before = part.layer if _reads_pre(config, part) else part.layer + 1
    if senders is None:
        found = tuple((layer, head) for layer in range(n_before) for head in range(config.n_heads))
    else:
        found = tuple(check_head(config, head) if _is_pair(head) else _no_head(head) for head in senders)
    if not found:
        raise OutOfRange(f"senders: no head comes before {named}" if senders is None else "senders: the list is empty")
    for layer, head in found:
        if layer >= n_before:
            raise OutOfRange(f"sender {layer}.{head} does not come before {named}: its layer must be below {n_before}")
    return found


def _reads_pre(config: GPTConfig, part: Part) -> bool:
    """Whether the receiver reads resid_pre. An MLP does in parallel layers: it hears no head of its own layer."""
    return part.site in _INPUTS or (config.parallel and part.site == "mlp_out")


def _is_pair(head: Any) -> bool:
    return isinstance(head, (tuple, list)) and len(head) == 2 and None not in map(as_integer, head)


def _no_head(head: Any) -> Head:
    raise OutOfRange(f"sender {head!r}: expected (layer, head)")


def _messages(base: RecordedRun, source: RecordedRun, part: Part, senders: Sequence[Head], through_mlps: bool) -> Table:
    """What the receiver makes of each sender's new message; sources are counted sender by sender."""
    model, stream = base.model, "resid_pre" if _reads_pre(base.model.config, part) else "resid_mid"
    if part.site == "resid_post":
        stream = "resid_post"
    before = base(stream, part.layer)
    changes = torch.stack([_change(base, source, head, part, through_mlps) for head in senders])
    resid = (before + changes).flatten(0, 1)  # (sender prompt, pos, d_model)
    new = _read_by(model, part, resid)
    return lambda layer, site: new


def _change(base: RecordedRun, source: RecordedRun, sender: Head, part: Part, through_mlps: bool) -> Resid:
    """What the sender's new output, and MLPs that notice it, add to the stream before the receiver."""
    layer, head = sender
    change = _head_change(base, source, layer, head)
    if through_mlps and base.model.config.d_mlp:
        parallel = base.model.config.parallel
        last = part.layer + 1 if part.site == "resid_post" else part.layer
        for between in range(layer + parallel, last):  # in parallel, the sender's own layer's MLP does not hear it
            read = base("resid_pre" if parallel else "resid_mid", between)
            with_message, as_it_was = (base.model.blocks[between].mlp_out(x) for x in (read + change, read))
            change = change + with_message - as_it_was
    return change


def _head_change(base: RecordedRun, source: RecordedRun, layer: int, head: int) -> Resid:
    """What attention adds otherwise with the head's new output; a norm after it sees all of its heads."""
    old, new = (run("z", layer)[:, :, head] for run in (base, source))
    if not base.model.config.post_norms:
        return (new - old) @ base.model.W_O[layer, head]
    block, z = base.model.blocks[layer], base("z", layer)
    with_it = z.clone()
    with_it[:, :, head] = new
    return block.ln1_post(block.attn.write(with_it)) - block.ln1_post(block.attn.write(z))


def _read_by(model: GPT, part: Part, resid: Resid) -> Tensor:
    """The receiver's value, with the dims of its site; one head stands for all, since only that one is read."""
    block = model.blocks[part.layer]
    if part.site == "resid_post":
        return resid
    if part.site == "mlp_out":
        return block.mlp_out(resid)
    attention, n_heads = block.attn, model.config.n_heads if part.site == "q" else model.config.kv_heads
    weight, offset = {
        "q": (attention.W_Q, attention.b_Q), "k": (attention.W_K, attention.b_K), "v": (attention.W_V, attention.b_V),
    }[part.site]  # fmt: skip
    assert part.index is not None, "queries, keys and values are those of a head"
    columns = slice(part.index * model.config.d_head, (part.index + 1) * model.config.d_head)
    new = affine(block.ln1(resid), weight[:, columns], None if offset is None else offset[columns])
    return new[:, :, None].expand(-1, -1, n_heads, -1)
