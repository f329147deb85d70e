"""Figures of generations and scored texts: the numbers drawn are those of the result, in both themes."""

import json

import pytest

import probe
from probe.errors import OutOfRange, UnknownName
from probe.figures._theme import THEMES
from probe.figures.generation import SLIDER, choice_bar, step_bars, surprise_bars
from tests.tiny import LetterTokenizer, tiny_model


class MarkupTokenizer(LetterTokenizer):
    """Tokens that would do harm if they were taken for markup, and two that look the same."""

    def str_tokens(self, ids):
        return [f"<b>&{token // 2}" for token in ids]


@pytest.fixture(scope="module")
def model():
    model = tiny_model("llama")
    model.tokenizer = MarkupTokenizer()
    return model


@pytest.fixture(scope="module")
def generation(model):
    return probe.generate(model, [3, 1, 4], temperature=1.5, seed=2, max_tokens=8, stop=[]).run()


@pytest.fixture(scope="module")
def scores(model):
    return probe.score_text(model, [[3, 1, 4, 1, 5], [9, 2]])


@pytest.fixture(scope="module")
def drawn(generation, scores):
    return {
        "step_bars": lambda theme: step_bars(generation.steps[2], theme=theme),
        "choice_bar": lambda theme: choice_bar(generation.steps[2], temperature=1.5, theme=theme),
        "surprise of a generation": lambda theme: surprise_bars(generation, theme=theme),
        "surprise of a text": lambda theme: surprise_bars(scores, theme=theme),
    }


NAMES = ["step_bars", "choice_bar", "surprise of a generation", "surprise of a text"]


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


def test_the_slider_shows_the_distribution_at_every_temperature(generation):
    step = generation.steps[2]
    figure = step_bars(step, temperature=0.8, most=5)
    assert figure.layout.sliders[0].active == SLIDER.index(0.8)
    for at, one in zip(SLIDER, figure.layout.sliders[0].steps, strict=True):
        expected = step.distribution.probabilities(at)[:5].tolist()
        heights = one.args[0]["x"][0]
        assert heights[:5] == pytest.approx(expected) and sum(heights) == pytest.approx(1.0)
        assert one.label == f"{at:g}"
    assert list(figure.data[0].x) == list(figure.layout.sliders[0].steps[SLIDER.index(0.8)].args[0]["x"][0])
    assert figure.layout.sliders[0].steps[0].args[0]["x"][0][0] == 1.0  # temperature 0: the likeliest takes all


@pytest.mark.parametrize(
    ("cut", "said"),
    [({"top_k": 3}, "among the 3 likeliest"), ({"top_p": 0.4}, "among the likeliest 40%"),
     ({"top_k": 3, "top_p": 0.4}, "among the 3 likeliest and the likeliest 40%")],
)  # fmt: skip
def test_the_bars_are_of_those_that_could_be_chosen(generation, cut, said):
    step = generation.steps[2]
    figure = step_bars(step, temperature=5.0, most=10, **cut)
    assert said in figure.layout.title.text.replace("<br>", " ")
    for at, one in zip(SLIDER, figure.layout.sliders[0].steps, strict=True):
        heights = one.args[0]["x"][0]
        assert heights[:10] == pytest.approx(step.distribution.probabilities(at, **cut)[:10].tolist())
        assert sum(heights) == pytest.approx(1.0, abs=1e-6)
        assert "top_k" not in cut or heights[3:] == pytest.approx([0.0] * 8, abs=1e-6)


def test_the_chosen_token_is_set_off_even_where_another_looks_the_same(generation):
    step = next(step for step in generation.steps if step.rank <= 10)
    colours = step_bars(step, most=10).data[0].marker.color
    assert [colour == THEMES["light"].lowers for colour in colours].count(True) == 1
    assert colours[step.distribution.tokens.tolist().index(step.token)] == THEMES["light"].lowers


def test_the_mark_lies_on_the_chosen_token(generation):
    for step in generation.steps:
        figure = choice_bar(step, temperature=1.5)
        mark = figure.layout.shapes[0].x0
        on_it = [bar for bar in figure.data if bar.base <= mark < bar.base + bar.x[0]]
        assert [bar.marker.color for bar in on_it] == [THEMES["light"].lowers]


def test_nothing_is_marked_where_nothing_was_drawn(model):
    step = probe.generate(model, [3], temperature=0, max_tokens=1).run().steps[0]
    figure = choice_bar(step, temperature=0)
    assert not figure.layout.shapes and "nothing drawn" in figure.layout.title.text


def test_surprise_stands_at_the_token_that_surprised(generation, scores):
    figure = surprise_bars(generation)
    assert list(figure.data[0].y) == [step.surprise for step in generation.steps]
    assert list(figure.data[1].y) == [step.entropy for step in generation.steps]
    figure = surprise_bars(scores)
    assert list(figure.data[0].y) == scores.surprise[0, :4].tolist()
    assert list(figure.layout.xaxis.ticktext) == [f"&lt;b&gt;&amp;{token // 2}" for token in (1, 4, 1, 5)]
    assert len(surprise_bars(scores, prompt=1).data[0].y) == 1


def test_a_prompt_that_is_not_there_is_refused(scores, generation):
    with pytest.raises(OutOfRange, match="prompt 2"):
        surprise_bars(scores, prompt=2)
    with pytest.raises(OutOfRange, match="most=0"):
        step_bars(generation.steps[0], most=0)
