"""Patching equals one edited pass for each place, at every site, by layer, head and position, both ways."""

import pytest
import torch

import probe
from probe.errors import BadPrompt, BadShape, OutOfRange, UnknownName
from probe.methods._patches import PATCHED
from probe.methods._reruns import RecordedRun
from probe.sites import describe_site
from tests.induction import induction_model
from tests.tiny import tiny_model

EXACT = 1e-4
CLEAN, CORRUPTED = ["abcdefgh", "hgfedcba"], ["abxdefgh", "hgfkdcba"]
METRIC = probe.logit_difference(5, 7)


def patch(model, sites="resid_pre", *, clean=CLEAN, corrupted=CORRUPTED, metric=METRIC, **arguments):
    return probe.activation_patching(model, clean, corrupted, sites, metric=metric, progress=False, **arguments)


def plain(model, cell, base, source):
    """The logit difference of one plain pass with one place replaced."""
    taken = probe.record(model, source)[cell.site, cell.layer]
    where = {} if cell.position is None else {"positions": cell.position}
    if cell.head is not None:
        where["heads"] = cell.head
    dims = describe_site(cell.site).dims
    for dim, index in (
        ("head", cell.head),
        ("kv_head", cell.head),
        ("pos", cell.position),
        ("query_pos", cell.position),
    ):
        if dim in dims and index is not None:
            taken = taken.narrow(dims.index(dim), index, 1)
    edit = probe.replace(cell.site, taken, layer=cell.layer, **where)
    logits = probe.record(model, base, sites=[], interventions=[edit]).logits[0, -1]
    return float(logits[5] - logits[7])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("site", PATCHED)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_each_place_equals_one_edited_pass(family, site, direction):
    model = tiny_model(family)
    found = patch(model, site, direction=direction)
    for number, cell in enumerate(found.cells):
        pair = (CORRUPTED[1], CLEAN[1]) if direction == "denoise" else (CLEAN[1], CORRUPTED[1])
        assert float(found.patched[number, 1]) == pytest.approx(plain(model, cell, *pair), abs=EXACT), cell
    assert found.effects.abs().max() > 0.01


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("site", "by"), [
    ("z", "layer"), ("z", "position"),
    ("z", "head and position"), ("q", "position"), ("k", "head and position"), ("pattern", "position"),
    ("mlp_out", "layer"), ("resid_post", "layer"), ("v", "layer"),
])  # fmt: skip
def test_places_can_be_layers_heads_and_positions(family, site, by):
    model = tiny_model(family)
    found = patch(model, site, by=by)
    for number in range(0, len(found.cells), 3):
        expected = plain(model, found.cells[number], CORRUPTED[0], CLEAN[0])
        assert float(found.patched[number, 0]) == pytest.approx(expected, abs=EXACT)


def test_patching_the_whole_stream_gives_the_other_run():
    found = patch(tiny_model(), ["resid_pre", "resid_mid", "resid_post"], by="layer")
    torch.testing.assert_close(found.recovered, torch.ones(9), atol=EXACT, rtol=0)
    broken = patch(tiny_model(), ["resid_pre", "resid_mid", "resid_post"], by="layer", direction="noise")
    torch.testing.assert_close(broken.recovered, torch.zeros(9), atol=EXACT, rtol=0)


def test_before_the_tokens_differ_nothing_is_recovered():
    grid = patch(tiny_model(), clean=["abcdefgh"], corrupted=["abxdefgh"]).grid()
    assert grid.shape == (3, 8)
    assert grid[:, :2].abs().max() < EXACT
    assert grid[0, 2] == pytest.approx(1.0, abs=EXACT) and grid[0, 3:].abs().max() < EXACT


def test_several_sites_stand_in_one_map():
    model = tiny_model()
    both = patch(model, ["resid_pre", "resid_post", "z"])
    torch.testing.assert_close(both.grid("z"), patch(model, "z").grid(), atol=EXACT, rtol=0)
    torch.testing.assert_close(both.grid("resid_post"), patch(model, "resid_post").grid(), atol=EXACT, rtol=0)
    torch.testing.assert_close(both.grid("resid_pre")[1], both.grid("resid_post")[0], atol=EXACT, rtol=0)
    with pytest.raises(UnknownName, match="name one of resid_pre, resid_post, z"):
        both.grid()


def test_prompts_of_different_lengths_are_patched_by_head():
    model = tiny_model()
    clean, corrupted = ["abcdef", "hgfedcba"], ["abxdef", "hgfkdcba"]
    both = patch(model, "z", clean=clean, corrupted=corrupted)
    for row in (0, 1):
        alone = patch(model, "z", clean=[clean[row]], corrupted=[corrupted[row]])
        torch.testing.assert_close(both.patched[:, row], alone.patched[:, 0], atol=EXACT, rtol=0)


def test_chosen_positions_are_patched_together():
    model = tiny_model()
    found = patch(model, "resid_pre", by="layer", positions=[2, 3], layers=1, clean=CLEAN[:1], corrupted=CORRUPTED[:1])
    taken = probe.record(model, CLEAN[0])["resid_pre", 1][:, 2:4]
    edit = probe.replace("resid_pre", taken, layer=1, positions=[2, 3])
    logits = probe.record(model, CORRUPTED[0], sites=[], interventions=[edit]).logits[0, -1]
    assert float(found.patched[0, 0]) == pytest.approx(float(logits[5] - logits[7]), abs=EXACT)


def test_the_recovered_share_is_a_ratio_of_means_with_an_interval():
    found = patch(tiny_model(), "z")
    share = (found.patched - found.corrupted).mean(1) / (found.clean.mean() - found.corrupted.mean())
    torch.testing.assert_close(found.recovered, share)
    evidence = found.evidence
    torch.testing.assert_close(evidence.mean.float(), share)
    table = found.to_dataframe()
    assert {"site", "layer", "head", "recovered", "effect", "share_low", "share_high", "p", "marked"} <= set(table)
    alone = patch(tiny_model(), "z", clean=CLEAN[:1], corrupted=CORRUPTED[:1])
    assert "p" not in alone.to_dataframe()
    with pytest.raises(OutOfRange, match="has no interval"):
        _ = alone.evidence


def test_in_the_induction_circuit_the_repeated_token_and_what_came_before_it_carry_the_answer():
    model = induction_model()
    found = patch(
        model, "z", clean=[[0, 3, 7, 5, 9, 3]], corrupted=[[0, 8, 7, 5, 9, 3]], metric=probe.logit_difference(7, 5)
    )
    grid = found.grid()
    assert grid[0, 1] == pytest.approx(1.0, abs=1e-3) and grid[1, 2] == pytest.approx(1.0, abs=1e-3)
    assert grid.nan_to_num().abs().sum() == pytest.approx(2.0, abs=1e-2)  # and no other head


def test_a_stopped_map_goes_on_from_its_folder(tmp_path, monkeypatch):
    model, whole = tiny_model(), RecordedRun.logits
    expected = patch(model, "z", memory=120_000)
    calls = []

    def stops(self, rows, table):
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, rows, table)

    monkeypatch.setattr(RecordedRun, "logits", stops)
    with pytest.raises(KeyboardInterrupt):
        patch(model, "z", memory=120_000, folder=tmp_path / "map")
    found = patch(model, "z", memory=120_000, folder=tmp_path / "map")
    assert torch.equal(found.patched, expected.patched) and torch.equal(found.clean, expected.clean)
    calls.clear()
    patch(model, "z", memory=120_000, folder=tmp_path / "map")
    assert not calls


def test_noising_can_be_measured_by_what_changes_at_all():
    found = patch(tiny_model(), metric=probe.log_probability(5), direction="noise")
    assert found.unit == "nats"
    with pytest.raises(UnknownName, match="use direction='noise'"):
        patch(tiny_model(), metric=probe.kl_to_clean())


BAD = {
    "another number": (dict(corrupted=CORRUPTED[:1]), BadShape, "2 clean and 1 corrupted"),
    "another length": (dict(corrupted=["abcdefg", "hgfkdcba"]), BadPrompt, "pair 0: the clean prompt has 8 tokens"),
    "the same tokens": (dict(corrupted=[CORRUPTED[0], CLEAN[1]]), BadPrompt, "pair 1: the corrupted prompt has"),
    "an unknown site": (dict(sites="resid"), UnknownName, "did you mean 'resid_"),
    "no site": (dict(sites=[]), UnknownName, "the list is empty"),
    "a site that cannot be patched": (dict(sites="ln1.scale"), UnknownName, "no site to patch"),
    "an unknown direction": (dict(direction="denoising"), UnknownName, "did you mean 'denoise'"),
    "an unknown by": (dict(by="heads"), UnknownName, "did you mean 'head"),
    "an unknown layer": (dict(layers=9), OutOfRange, "layer 9"),
    "an unknown head": (dict(sites="k", heads=3), OutOfRange, "keys and values have heads 0 to 1"),
    "heads of the stream": (dict(by="head"), UnknownName, "it has no heads"),
    "heads without by": (dict(heads=1), OutOfRange, "use by='head'"),
    "an unknown position": (dict(positions=8), OutOfRange, "position 8"),
    "positions of several lengths": (
        dict(clean=["abcdef", "hgfedcba"], corrupted=["abxdef", "hgfkdcba"]), BadPrompt, "share no positions",
    ),
    "no prompts": (dict(clean=[], corrupted=[]), BadPrompt, "no prompts"),
    "too little memory": (dict(memory=1000), OutOfRange, "give at least that"),
    "groups of another number": (dict(groups={"template": [0]}), OutOfRange, "1 numbers for 2 prompts"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "said"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_patched_is_said_before_anything_runs(arguments, error, said, monkeypatch, as_users_run_it):
    monkeypatch.setattr(RecordedRun, "logits", lambda *_: pytest.fail("a place was patched"))
    with pytest.raises(error, match=said):
        patch(tiny_model(), **arguments)


def test_runs_that_do_not_differ_have_nothing_to_recover():
    with pytest.raises(BadPrompt, match="no difference to recover"):
        patch(tiny_model(), metric=probe.custom_metric(lambda logits: 0.0 * logits.sum((1, 2))))
