"""Estimates are the first-order effect of each patch, and always stand beside exact ones."""

import pytest
import torch

import probe
from probe.errors import OutOfRange, UnknownName
from probe.methods._patches import PATCHED
from tests.tiny import tiny_model

CLEAN, CORRUPTED = ["abcdefgh", "hgfedcba"], ["abxdefgh", "hgfkdcba"]
METRIC = probe.logit_difference(5, 7)


def attribute(model, sites="z", *, clean=CLEAN, corrupted=CORRUPTED, metric=METRIC, **arguments):
    return probe.attribution_patching(model, clean, corrupted, sites, metric=metric, progress=False, **arguments)


def patch(model, sites="z", **arguments):
    return probe.activation_patching(model, CLEAN, CORRUPTED, sites, metric=METRIC, progress=False, **arguments)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("site", PATCHED)
def test_the_estimate_is_the_slope_of_the_exact_effect(family, site):
    """A thousandth of the way to the other run does a thousandth of what is estimated (float64: no rounding)."""
    model = tiny_model(family).double()
    found = attribute(model, site, verify_largest=3, verify_random=2)
    cell = found.cells[int(found.largest[0])]
    base, source = probe.record(model, CORRUPTED[1]), probe.record(model, CLEAN[1])
    value = base[cell.site, cell.layer] + 1e-3 * (source[cell.site, cell.layer] - base[cell.site, cell.layer])
    where = {"heads": [cell.head]} if cell.head is not None else {"positions": [cell.position]}
    dims = probe.site_dims(site)
    for dim, index in (("head", cell.head), ("kv_head", cell.head), ("pos", cell.position)):
        if dim in dims and index is not None:
            value = value.narrow(dims.index(dim), index, 1)
    edit = probe.replace(cell.site, value, layer=cell.layer, **where)
    before, after = (
        probe.record(model, CORRUPTED[1], sites=[], interventions=one).logits[0, -1] for one in ([], [edit])
    )
    moved = float((after[5] - after[7]) - (before[5] - before[7]))
    assert float(found.estimated[int(found.largest[0]), 1]) == pytest.approx(1e3 * moved, rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_exact_effects_are_those_of_activation_patching(direction):
    model = tiny_model()
    found, whole = attribute(model, direction=direction), patch(model, direction=direction)
    assert found.cells == whole.cells
    torch.testing.assert_close(found.exact, whole.effects[found.verified], atol=1e-4, rtol=0)
    assert found.verified.unique().numel() == len(found.verified) == 12  # 10 and the 2 that are left


def test_the_largest_and_a_random_sample_of_the_rest_are_checked():
    model = tiny_model()
    found = attribute(model, "resid_pre", verify_largest=4, verify_random=5)
    means = found.estimated.mean(1).abs()
    assert len(found.largest) == 4 and len(found.sampled) == 5
    assert means[found.largest].min() >= means[found.sampled].max()
    other = attribute(model, "resid_pre", verify_largest=4, verify_random=5, seed=1)
    assert found.sampled.tolist() != other.sampled.tolist()
    assert attribute(model, "resid_pre", verify_largest=4, verify_random=5).sampled.tolist() == found.sampled.tolist()


def test_where_little_changes_estimates_are_exact():
    """What the last layer's MLP writes meets only the final norm; where it is small, the first term is nearly all."""
    model = tiny_model("gpt2").double()
    with torch.no_grad():
        model.W_out[2].mul_(1e-3)
    found = attribute(model, "mlp_out", layers=2, by="layer", verify_largest=1, verify_random=0)
    torch.testing.assert_close(found.estimated[found.verified], found.exact, rtol=2e-2, atol=1e-7)
    assert found.exact.abs().min() > 1e-5


def test_the_verdict_tells_correlations_signs_and_the_largest_error():
    found = attribute(tiny_model(), "resid_pre", verify_largest=5, verify_random=6)
    said = found.verdict()
    assert "over the 5 largest estimates" in said and "over 6 random others" in said
    estimated, exact = found.estimated[found.verified].mean(1), found.exact.mean(1)
    assert f"{float((estimated - exact).abs().max()):.3f} logits" in said
    assert found.correlation() == pytest.approx(float(torch.corrcoef(torch.stack([estimated, exact]))[0, 1]), abs=1e-5)


def test_the_table_says_what_was_checked():
    table = attribute(tiny_model(), verify_largest=3, verify_random=2).to_dataframe()
    assert table.checked.value_counts().to_dict() == {"no": 7, "largest": 3, "random": 2}
    assert table.exact.notna().sum() == 5


def test_prompts_of_different_lengths_come_out_as_each_would_alone():
    model = tiny_model()
    clean, corrupted = ["abcdef", "hgfedcba"], ["abxdef", "hgfkdcba"]
    both = attribute(model, clean=clean, corrupted=corrupted)
    for row in (0, 1):
        alone = attribute(model, clean=[clean[row]], corrupted=[corrupted[row]])
        torch.testing.assert_close(both.estimated[:, row], alone.estimated[:, 0], atol=1e-4, rtol=0)


def test_what_cannot_be_estimated_is_said():
    with pytest.raises(OutOfRange, match="always checked"):
        attribute(tiny_model(), verify_largest=0)
    with pytest.raises(UnknownName, match="its gradient says nothing"):
        attribute(tiny_model(), metric=probe.kl_to_clean(), direction="noise")
    with pytest.raises(UnknownName, match="known are all, largest, sampled"):
        attribute(tiny_model()).correlation("best")
