"""Maps of patches: shares from the run that is patched, tokens as labels, noise hatched."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import probe
from probe.errors import OutOfRange, UnknownName
from probe.figures._theme import THEMES
from probe.figures.patching import patching_map, path_patching_map
from probe.tokens import show_token
from tests.tiny import tiny_model

CLEAN = [[(7 * row + 3 * place * place) % 50 for place in range(6)] for row in range(8)]
CORRUPTED = [[*ids[:2], (ids[2] + 9) % 50, *ids[3:]] for ids in CLEAN]
METRIC = probe.logit_difference(5, 7)


@pytest.fixture(scope="module")
def model():
    return tiny_model("gpt2")


def patch(model, sites="resid_pre", n=8, **arguments):
    return probe.activation_patching(model, CLEAN[:n], CORRUPTED[:n], sites, metric=METRIC, progress=False, **arguments)


def through(model, n=8, **arguments):
    return probe.path_patching(model, CLEAN[:n], CORRUPTED[:n], metric=METRIC, progress=False, **arguments)


@pytest.mark.parametrize("theme", THEMES)
def test_themes_and_markup(model, theme):
    found = dataclasses.replace(patch(model), tokens=("<b>&", *"abcde"), metric="'<b>' - 'x'")
    sent = dataclasses.replace(through(model), metric="'<b>' - 'x'")
    for figure in (patching_map(found, theme=theme), path_patching_map(sent, theme=theme)):
        assert figure.layout.paper_bgcolor == THEMES[theme].background
        told = json.dumps(figure.to_plotly_json(), default=str)
        assert "<b>" not in told and "&lt;b&gt;" in told


def test_another_theme_is_refused(model, as_users_run_it):
    for draw, found in ((patching_map, patch(model, n=1)), (path_patching_map, through(model, n=1))):
        with pytest.raises(UnknownName, match="no theme 'blue'"):
            draw(found, theme="blue")


@pytest.mark.parametrize(("site", "by"), [("resid_pre", "position"), ("z", "head"), ("mlp_out", "layer")])
def test_a_map_holds_what_was_recovered(model, site, by):
    found = patch(model, site, by=by, layers=[1, 2])
    figure = patching_map(found)
    np.testing.assert_allclose(figure.data[0].z, found.grid()[1:].numpy(), atol=1e-5)
    assert list(figure.layout.yaxis.ticktext) == ["1", "2"] and figure.data[0].zmin == -figure.data[0].zmax
    for said in ("0 changes nothing, 1 is as clean", "mean over 8 pairs", f"{float(found.clean.mean()):+.3f}", by):
        assert said in figure.layout.title.text
    crossed = {(round(y), round(x)) for x, y in zip(figure.data[1].x, figure.data[1].y, strict=True) if x is not None}
    noise = (~found.evidence.marked).reshape(2, -1).nonzero().tolist()
    assert crossed == {tuple(place) for place in noise}


def test_noising_is_drawn_from_the_clean_run(model):
    found = patch(model, "z", direction="noise")
    figure = patching_map(found)
    np.testing.assert_allclose(figure.data[0].z, found.grid().numpy() - 1, atol=1e-4)
    title = re.sub("(<[^>]*>)+", " ", figure.layout.title.text)
    assert "0 changes nothing, -1 is as corrupted" in title


def test_positions_are_labelled_by_the_clean_prompts_tokens_even_where_they_repeat(model):
    found = dataclasses.replace(patch(model, n=1, positions=[1, 2, 4]), tokens=(" a", " b", " b", " a", "\n", "é"))
    figure = patching_map(found)
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    assert list(figure.layout.xaxis.ticktext) == ["·b", "·b", show_token("\n")]
    assert [name for _, name in figure.data[0].customdata[0].tolist()][:2] == ["'·b' [1]", "'·b' [2]"]
    assert "has no interval" in figure.layout.title.text and len(figure.data) == 1


def test_of_several_sites_one_is_named(model, as_users_run_it):
    found = patch(model, ["attn_out", "mlp_out"], by="layer")
    with pytest.raises(UnknownName, match="several sites"):
        patching_map(found)
    figure = patching_map(found, site="mlp_out")
    np.testing.assert_allclose(figure.data[0].z, found.grid("mlp_out").numpy(), atol=1e-5)
    noise = ~found.evidence.marked[3:]
    crossed = {round(y) for y in figure.data[1].y if y is not None} if noise.any() else set()
    assert crossed == set(noise.nonzero()[:, 0].tolist())


def test_heads_and_positions_together_fit_no_map(model):
    with pytest.raises(OutOfRange, match="to_dataframe"):
        patching_map(patch(model, "z", n=1, by="head and position"))


def test_a_map_of_messages_holds_each_senders_share(model):
    found = through(model, receiver=("q", 2, 1), senders=[(0, 1), (1, 3), (0, 3)])
    figure = path_patching_map(found)
    share = dict(zip(found.senders, found.to_dataframe()["share"], strict=True))
    assert torch.tensor(figure.data[0].z[0]).tolist() == pytest.approx([share[0, 1], share[0, 3]], abs=1e-5)
    assert np.isnan(figure.data[0].z[1, 0]) and figure.data[0].z[1, 1] == pytest.approx(share[1, 3], abs=1e-5)
    assert figure.data[0].customdata[1][1].tolist() == [1, "head 3"]
    assert "tells q of 2.1 directly" in figure.layout.title.text
    assert "past all MLPs" in figure.layout.title.text
    assert "MLPs on the way notice it" in path_patching_map(through(model, n=1, through_mlps=True)).layout.title.text
