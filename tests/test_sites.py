"""Every value has one name, one shape and one place in the pass."""

import pytest
import torch

import probe
from probe.config import GPTConfig
from probe.errors import OutOfRange, UnknownName
from probe.gpt import GPT
from probe.sites import (
    AFTER_BLOCKS,
    BEFORE_BLOCKS,
    IN_BLOCK,
    describe_site,
    find_sites,
    full_name,
    site_dims,
    site_names,
    site_shape,
    split_name,
)
from tests.tiny import GPT2, LLAMA

_SMALL = {"n_layers": 2, "d_model": 12, "n_heads": 6, "d_head": 4, "d_mlp": 10, "d_vocab": 11, "n_ctx": 8}
# Every choice that adds, removes or reshapes a value; sizes all differ, so that no two dims can be confused.
SHAPES = {
    "gpt2": GPTConfig(**_SMALL),
    "gpt2 with windows": GPTConfig(**_SMALL, windows=(2, None)),
    "gpt2 with a gated mlp": GPTConfig(**_SMALL, gated_mlp=True),
    "gpt2 without biases": GPTConfig(**_SMALL, qkv_bias=False, attn_out_bias=False, mlp_bias=False),
    "llama": GPTConfig(**_SMALL, norm="rms", positions="rotary", gated_mlp=True, activation="silu", n_kv_heads=3),
    "llama with one key head": GPTConfig(**_SMALL, norm="rms", positions="rotary", gated_mlp=True, n_kv_heads=1),
    "llama with an ungated mlp": GPTConfig(**_SMALL, norm="rms", positions="rotary"),
    "parallel layers": GPTConfig(**_SMALL, positions="rotary", rotary_dim=2, parallel=True),
    "queries and keys normalised": GPTConfig(**_SMALL, norm="rms", positions="rotary", n_kv_heads=3, qk_norm=True),
    "norms after attention and MLP": GPTConfig(**_SMALL, norm="rms_plus_one", post_norms=True, attn_soft_cap=2.0),
    "one norm for both": GPTConfig(**_SMALL, parallel=True, shared_norm=True, unembed_bias=True),
    "one layer": GPTConfig(**{**_SMALL, "n_layers": 1}),
}


class NamingTap:
    """Keeps names and shapes, and nothing else."""

    def __init__(self, wanted: str = ""):
        self.seen: list[tuple[str, tuple[int, ...]]] = []
        self._wanted = wanted

    def __call__(self, name, value):
        self.seen.append((name, tuple(value.shape)))
        return value

    def wants(self, name):
        return self._wanted in name

    def scope(self, prefix):
        return _Scoped(self, prefix)


class _Scoped:
    def __init__(self, tap, prefix):
        self._tap, self._prefix = tap, prefix

    def __call__(self, name, value):
        return self._tap(f"{self._prefix}.{name}", value)

    def wants(self, name):
        return self._tap.wants(f"{self._prefix}.{name}")

    def scope(self, prefix):
        return _Scoped(self._tap, f"{self._prefix}.{prefix}")


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def config(request) -> GPTConfig:
    return request.param


def test_a_pass_names_exactly_the_sites_in_this_order_and_shape(config):
    tap = NamingTap()
    GPT(config)(torch.randint(0, config.d_vocab, (2, 5)), tap=tap)
    assert tap.seen == [(name, site_shape(config, name, batch=2, pos=5)) for name in site_names(config)]


def test_recording_everything_keeps_exactly_the_sites_in_this_order_and_shape(config):
    rec = probe.record(GPT(config), torch.randint(0, config.d_vocab, (2, 5)))
    kept = [(name, tuple(rec[name].shape)) for name in rec.names]
    assert kept == [(name, site_shape(config, name, batch=2, pos=5)) for name in site_names(config)]


def test_only_scores_and_pattern_vanish_where_nobody_wants_them(config):
    tap = NamingTap(wanted="no such thing")
    GPT(config)(torch.randint(0, config.d_vocab, (1, 4)), tap=tap)
    unseen = set(site_names(config)) - {name for name, _ in tap.seen}
    fused = [] if config.attn_soft_cap is not None else ["attn_scores", "pattern"]  # a cap is put on each score
    assert unseen == set(find_sites(config, fused))


def test_scores_and_pattern_appear_only_in_the_layer_that_wants_them():
    tap = NamingTap(wanted="blocks.1.attn.hook_pattern")
    GPT(LLAMA)(torch.tensor([[1, 2, 3]]), tap=tap)
    seen = [name for name, _ in tap.seen if "pattern" in name or "scores" in name]
    assert seen == ["blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern"]


def test_names_are_unique_and_short_names_stand_for_one_site():
    kinds = [*BEFORE_BLOCKS, *IN_BLOCK, *AFTER_BLOCKS]
    assert len({kind.short for kind in kinds}) == len({kind.suffix for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert describe_site(kind.short) is kind
        assert kind.meaning, kind.short


def test_every_name_is_split_and_described(config):
    for name in site_names(config):
        layer, suffix = split_name(name)
        assert name == suffix if layer is None else name == f"blocks.{layer}.{suffix}"
        kind = describe_site(name)
        assert kind.suffix == suffix
        assert site_dims(name) == site_dims(kind.short) == kind.dims
        assert full_name(config, kind.short, layer) == full_name(config, name) == name


def test_short_names_mean_every_layer_or_the_ones_named():
    assert find_sites(GPT2, ["z"]) == tuple(f"blocks.{layer}.attn.hook_z" for layer in range(3))
    assert find_sites(GPT2, "z", [2, 0]) == ("blocks.0.attn.hook_z", "blocks.2.attn.hook_z")
    assert find_sites(GPT2, ["z"], [-1]) == ("blocks.2.attn.hook_z",)
    assert find_sites(GPT2, []) == ()


def test_names_come_in_the_order_of_the_pass_whatever_the_order_asked():
    asked = ["ln_final.scale", "resid_post", "blocks.1.attn.hook_z", "embed", "z", "z"]
    found = find_sites(GPT2, (site for site in asked))
    assert found == tuple(name for name in site_names(GPT2) if name in found)
    assert len(found) == len(set(found)) == 8


def test_values_outside_the_blocks_ignore_layers_when_named_and_are_left_out_when_not():
    assert find_sites(GPT2, ["embed", "z"], [1]) == ("hook_embed", "blocks.1.attn.hook_z")
    only = find_sites(GPT2, None, [1])
    assert only == tuple(name for name in site_names(GPT2) if name.startswith("blocks.1."))


@pytest.mark.parametrize(
    ("config", "sites", "layers", "error", "message"),
    [
        (LLAMA, ["resid_psot"], None, UnknownName, "no site 'resid_psot'; did you mean 'resid_post'"),
        (LLAMA, ["blocks.1.hook_resid_psot"], None, UnknownName, "did you mean 'blocks.1.hook_resid_post'"),
        (LLAMA, ["blocks.3.hook_resid_post"], None, OutOfRange, "layer 3: this model has layers 0 to 2"),
        (LLAMA, ["blocks.1.hook_resid_post"], [2], UnknownName, "is in layer 1, but layers=[2]"),
        (LLAMA, ["hook_z"], None, UnknownName, "did you mean"),
        (LLAMA, ["attn.hook_z"], None, UnknownName, "'blocks.0.attn.hook_z'"),
        (LLAMA, ["Z"], None, UnknownName, "no site 'Z'"),
        (LLAMA, [""], None, UnknownName, "no site ''"),
        (LLAMA, ["pos_embed"], None, UnknownName, "positions are rotary"),
        (GPT2, ["rot_q"], None, UnknownName, "positions are learned, not rotary"),
        (GPT2, ["blocks.0.attn.hook_rot_k"], None, UnknownName, "positions are learned, not rotary"),
        (GPT2, ["pre_linear"], None, UnknownName, "its MLP has no gate"),
        (SHAPES["parallel layers"], ["resid_mid"], None, UnknownName, "read the same stream, resid_pre"),
        (GPT2, ["k_norm.scale"], None, UnknownName, "it does not normalise queries and keys"),
        (GPT2, ["ln1_post.scale"], None, UnknownName, "it does not normalise what attention and MLP write"),
        (GPT2, ["logits"], None, UnknownName, "rec.logits"),
        (GPT2, ["z"], [3], OutOfRange, "layer 3: this model has layers 0 to 2"),
        (GPT2, ["z"], [-4], OutOfRange, "layer -4: this model has layers 0 to 2"),
        (GPT2, ["z"], [True], OutOfRange, "layer True: expected an integer"),
        (GPT2, [3], None, UnknownName, "site 3: expected a name, such as 'z'"),
        (GPT2, 3, None, UnknownName, "sites 3: expected names"),
        (GPT2, b"z", None, UnknownName, "expected names"),
    ],
    ids=lambda value: "" if isinstance(value, (GPTConfig, type)) else str(value)[:40],
)
def test_a_name_that_does_not_exist_brings_the_nearest_that_does(
    config, sites, layers, error, message, as_users_run_it
):
    with pytest.raises(error) as raised:
        find_sites(config, sites, layers)
    assert message in str(raised.value)


def test_a_site_of_every_layer_is_no_single_value():
    with pytest.raises(UnknownName, match=r"name one, as in \('z', 0\)"):
        full_name(GPT2, "z")
    assert full_name(SHAPES["one layer"], "z") == "blocks.0.attn.hook_z", "where there is one layer, it is that one"


@pytest.mark.parametrize(
    "name", ["attn.hook_z", "blocks.0.z", "blocks.x.attn.hook_z", "blocks.0.hook_embed", "nothing"]
)
def test_there_are_no_other_spellings(name):
    with pytest.raises(UnknownName, match="did you mean|known are"):
        site_dims(name)
