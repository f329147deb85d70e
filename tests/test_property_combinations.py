"""What must hold for any call of `record`, whatever is combined in it; calls drawn at random."""

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import probe
from probe.sites import describe_site, site_dims, site_shape, split_name
from tests.test_properties import MODELS, ROUNDING, SHORT, families, prompts

pytestmark = pytest.mark.usefixtures("as_users_run_it")

EDITED = [
    "embed",
    "resid_pre",
    "q",
    "k",
    "v",
    "pattern",
    "attn_scores",
    "z",
    "attn_out",
    "resid_mid",
    "post",
    "mlp_out",
]
ALL = {"sites": None}


@st.composite
def interventions(draw, model, ids, *, of_rows: bool = True) -> probe.Intervention:
    """One change of any kind at any place of these prompts."""
    site = draw(st.sampled_from(EDITED))
    where: dict[str, Any] = {}
    if site != "embed":
        where["layer"] = draw(st.none() | st.integers(0, 2) | st.lists(st.integers(-3, 2), min_size=1, max_size=2))
    if {"head", "kv_head"} & set(site_dims(site)):
        where["heads"] = draw(st.none() | st.lists(st.integers(-2, 1), min_size=1, max_size=2))
    rows = draw(st.none() | st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=2)) if of_rows else None
    where["rows"] = rows
    shortest = min(len(ids[row]) for row in (range(len(ids)) if rows is None else rows))
    where["positions"] = draw(st.none() | st.lists(st.integers(-shortest, shortest - 1), min_size=1, max_size=2))
    pairs = "key_pos" in site_dims(site)
    size = 1 if pairs else site_shape(model.config, site, batch=1, pos=1)[-1]
    vector = torch.linspace(-1, 1, size) if size > 1 else torch.tensor(0.25)
    changes = {
        "zero": lambda: probe.zero(site, **where),
        "add": lambda: probe.add(site, vector, **where),
        "replace": lambda: probe.replace(site, vector, **where),
        "scale": lambda: probe.scale(site, 0.5, **where),
        "edit": lambda: probe.edit(site, lambda value: value.mul_(0.5), **where),
    }
    if not pairs:
        changes["project_out"] = lambda: probe.project_out(site, vector, **where)
    return changes[draw(st.sampled_from(sorted(changes)))]()


@st.composite
def calls(draw, **options: Any):
    """(family, prompts, interventions)."""
    family, ids = draw(families), draw(prompts)
    several = draw(st.lists(interventions(MODELS[family], ids, **options), max_size=3))
    return family, ids, several


def close(values, expected, **tolerance) -> None:
    torch.testing.assert_close(values, expected, equal_nan=True, **(tolerance or ROUNDING))


@settings(max_examples=40)
@given(calls(of_rows=False), st.none() | st.integers(0, 2), st.sampled_from([None, "float64", "bfloat16"]))
def test_a_row_of_a_batch_is_that_prompt_alone_whatever_is_done_to_it(call, stop, dtype):
    family, ids, several = call
    stop = stop if all(runs_until(one, stop) for one in several) else None
    options = {"interventions": several, "stop_after_layer": stop, "dtype": dtype}
    together = probe.record(MODELS[family], ids, **options)
    tolerance = {"atol": 0.5, "rtol": 0.02} if dtype == "bfloat16" else ROUNDING  # 8 bits; values of size 100
    for row, one in enumerate(ids):
        alone, mine = probe.record(MODELS[family], [one], **options), together.prompt(row)
        assert mine.values.keys() == alone.values.keys()
        for name in mine.values:
            close(mine.values[name], alone.values[name], **tolerance)


def runs_until(one: probe.Intervention, stop: int | None) -> bool:
    """Whether a pass that stops there reaches all that this one changes."""
    layers = one.where.get("layer")
    listed = [layers] if isinstance(layers, int) else layers or []
    return stop is None or all(layer % 3 <= stop for layer in listed)


@settings(max_examples=40)
@given(calls(), st.data())
def test_recording_more_never_changes_what_is_recorded(call, data):
    family, ids, several = call
    few = data.draw(st.lists(st.sampled_from(SHORT[family]), min_size=1, max_size=3))
    more = [*few, *data.draw(st.lists(st.sampled_from(SHORT[family]), max_size=6))]
    less, all_of_it = (probe.record(MODELS[family], ids, sites=sites, interventions=several) for sites in (few, more))
    for name in less.values:
        close(less.values[name], all_of_it.values[name])  # attention is fused in one and in steps in the other
    assert less.effects == all_of_it.effects


@settings(max_examples=40)
@given(calls(), st.data())
def test_an_edit_changes_nothing_before_it_beside_it_or_in_other_prompts(call, data):
    family, ids, _ = call
    model = MODELS[family]
    one = data.draw(interventions(model, ids))
    before, after = probe.record(model, ids, **ALL), probe.record(model, ids, **ALL, interventions=one)
    order = list(before.values)
    first = min(order.index(name) for name in after.effects[0].sites)
    rows = range(len(ids)) if one.where.get("rows") is None else one.where["rows"]
    for name in order[:first]:
        close(before.values[name], after.values[name], atol=0, rtol=0)
    for row, prompt in enumerate(ids):
        places = one.where.get("positions")
        earliest = min(place % len(prompt) for place in (places or [0]))
        kept = len(prompt) if row not in rows else earliest
        for name in order[first:]:
            dims = ("batch", "pos", "d_vocab_out") if name == "logits" else site_dims(name)
            axis = dims.index("query_pos" if "query_pos" in dims else "pos") - 1
            values, edited = (rec.values[name][row].narrow(axis, 0, kept) for rec in (before, after))
            if "query_pos" in dims:  # keys after a query stay as they were only where they are masked
                values, edited = (value[..., :kept] for value in (values, edited))
            close(values, edited, atol=1e-5, rtol=1e-5)


@settings(max_examples=25)
@given(calls(), st.data())
def test_what_is_saved_comes_back_bit_for_bit(call, data):
    family, ids, several = call
    shortest = min(map(len, ids))
    rec = probe.record(
        MODELS[family], ids, interventions=several,
        sites=data.draw(st.lists(st.sampled_from(SHORT[family]), min_size=1, max_size=4)),
        positions=data.draw(st.none() | st.lists(st.integers(-shortest, shortest - 1), min_size=1, max_size=3)),
        dtype=data.draw(st.sampled_from([None, "float64", "bfloat16"])),
        reduce=data.draw(st.none() | st.just({"resid_mid": "mean", "pattern": "sum"})),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        rec.save(Path(folder) / "rec")
        back = probe.Recording.load(Path(folder) / "rec")
    assert list(back.values) == list(rec.values)
    for name in rec.values:
        assert back.values[name].dtype == rec.values[name].dtype
        assert torch.equal(back.values[name].nan_to_num(7e9), rec.values[name].nan_to_num(7e9))
    assert (back.str_tokens, back.effects, back.config) == (rec.str_tokens, rec.effects, rec.config)
    assert back.tokens.equal(rec.tokens) and dict(back.manifest) == dict(rec.manifest)


@settings(max_examples=30)
@given(calls(), st.integers(0, 2))
def test_a_pass_from_any_layer_on_ends_where_the_whole_pass_does(call, start):
    family, ids, several = call
    later = [one for one in several if one.site != "embed" and starts_at(one, start)]
    whole = probe.record(MODELS[family], ids, interventions=later)
    plain = probe.record(MODELS[family], ids, sites="resid_pre", layers=start, logits=False)
    rest = probe.record(MODELS[family], plain["resid_pre", start], start_at_layer=start, interventions=later)
    assert all(split_name(name)[0] is None or split_name(name)[0] >= start for name in rest.names)
    for name in rest.values:
        close(rest.values[name], whole.values[name])


def starts_at(one: probe.Intervention, start: int) -> bool:
    layers = one.where.get("layer")
    listed = range(3) if layers is None else [layers] if isinstance(layers, int) else layers
    return all(layer % 3 >= start for layer in listed)


@settings(max_examples=30)
@given(calls(), st.sampled_from(["z", "resid_post", "pattern", "k", "post", "attn_out"]))
def test_a_reduction_is_that_of_the_values_kept(call, site):
    family, ids, several = call
    kept = probe.record(MODELS[family], ids, sites=[site], interventions=several)
    means, sums = (
        probe.record(MODELS[family], ids, sites=[], reduce={site: how}, interventions=several)
        for how in ("mean", "sum")
    )
    dims = describe_site(site).dims
    over = [place for place, dim in enumerate(dims) if dim in ("batch", "pos", "query_pos")]
    for name in kept.names:
        close(sums.values[name].nan_to_num(), kept.values[name].nansum(over), atol=1e-3, rtol=1e-5)
        if "key_pos" not in dims:
            close(means.values[name], kept.values[name].nanmean(over), atol=1e-4, rtol=1e-5)
