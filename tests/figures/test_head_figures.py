"""Maps of heads and what a head writes: the numbers of the result, both themes, no token taken for markup."""

import json

import numpy as np
import pytest

import probe
from probe.errors import UnknownName
from probe.figures._theme import THEMES
from probe.figures.attribution import attribution_map
from probe.figures.heads import copying_map, head_score_map, token_effect_bars
from probe.methods.heads import SCORES
from tests.tiny import LetterTokenizer, tiny_model


class MarkupTokenizer(LetterTokenizer):
    def str_tokens(self, ids):
        return [f"<b>&{token // 2}" for token in ids]


@pytest.fixture(scope="module")
def model():
    model = tiny_model("gpt2")
    model.tokenizer = MarkupTokenizer()
    return model


@pytest.fixture(scope="module")
def scores(model):
    return probe.head_scores(model, [[3, 1, 4, 1, 5]], n_random=2, random_length=5)


@pytest.fixture(scope="module")
def attribution(model):
    rec = probe.record(model, [[3, 1, 4], [1, 5, 9]], sites=probe.attribution_sites(model), positions=-1)
    return probe.direct_logit_attribution(model, rec, token=7)


@pytest.fixture(scope="module")
def drawn(model, scores, attribution):
    return {
        "head_score_map": lambda theme: head_score_map(scores, "induction", theme=theme),
        "copying_map": lambda theme: copying_map(probe.copying_scores(model), theme=theme),
        "attribution_map": lambda theme: attribution_map(attribution, theme=theme),
        "token_effect_bars": lambda theme: token_effect_bars(probe.head_writes_for_token(model, 1, 2, 7), theme=theme),
    }


NAMES = ["head_score_map", "copying_map", "attribution_map", "token_effect_bars"]


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_themes_and_markup(drawn, name, theme):
    figure = drawn[name](theme)
    assert figure.layout.paper_bgcolor == THEMES[theme].background
    assert "<b>" not in json.dumps(figure.to_plotly_json(), default=str)


@pytest.mark.parametrize("name", NAMES)
def test_another_theme_is_refused(drawn, as_users_run_it, name):
    with pytest.raises(UnknownName, match="no theme 'blue'"):
        drawn[name]("blue")


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("source", ["text", "random"])
def test_a_score_map_shows_every_head_and_the_chance_level(scores, score, source):
    figure = head_score_map(scores, score, source=source)
    np.testing.assert_allclose(figure.data[0].z, scores.of(score, source).numpy(), atol=1e-6)
    assert f"even attention: {scores.chance_of(score, source):.3g}" in figure.layout.title.text.replace("<br>", " ")
    assert figure.data[0].zmin == 0.0 and (figure.data[0].zmax == 1.0) == (score != "distance")
    assert list(figure.layout.yaxis.range) == [2.5, -0.5]  # layer 0 at the top


def test_signed_maps_are_centred_at_zero(model, attribution):
    for figure in (copying_map(probe.copying_scores(model)), attribution_map(attribution)):
        assert figure.data[0].zmin == -figure.data[0].zmax
        assert [colour for _, colour in figure.data[0].colorscale][2] == THEMES["light"].diverging[2]


def test_an_attribution_map_holds_heads_and_mlps_of_mean_or_prompt(attribution):
    for prompt, values in ((None, attribution.mean), (1, attribution.contributions[:, 1])):
        table = attribution_map(attribution, prompt=prompt).data[0].z
        by_name = dict(zip((part.name for part in attribution.parts), values.tolist(), strict=True))
        assert table.shape == (3, 5)
        assert table[1, 2] == pytest.approx(by_name["L1H2"], abs=1e-6)
        assert table[2, 4] == pytest.approx(by_name["L2 MLP"], abs=1e-6)


def test_the_largest_heads_carry_their_value(scores):
    figure = head_score_map(scores, "first token")
    best = float(scores.of("first token").max())
    assert f"{best:.2f}" in [annotation.text for annotation in figure.layout.annotations]


def test_a_score_that_no_query_had_is_an_empty_map(model):
    scores = probe.head_scores(model, [[1, 2, 3, 4]], n_random=0)
    figure = head_score_map(scores, "induction")
    assert np.isnan(figure.data[0].z).all() and not figure.layout.annotations


def test_bars_are_the_promoted_then_the_suppressed_tokens(model):
    effects = probe.head_writes_for_token(model, 1, 2, 7, top=6)
    figure = token_effect_bars(effects, most=4)
    expected = effects.promoted_by[:4].tolist() + effects.suppressed_by[:4].tolist()[::-1]
    assert list(figure.data[0].x) == expected
    assert figure.data[0].marker.color[0] == THEMES["light"].raises
    assert figure.data[0].marker.color[-1] == THEMES["light"].lowers
