"""The directions page: every view shows the library's numbers, and words that are not there are named."""

import pytest
from views import _pairs, _steering, _word_views, directions

import probe
from probe.errors import OutOfRange

pytestmark = pytest.mark.model
EMBED = "what the model reads (embedding)"
STREAM = "in sentences, after a layer (residual stream)"
TEMPLATES = list(directions.OWN_TEMPLATES)


def right(app):
    assert not app.exception, [one.message for one in app.exception]
    assert not app.error, [one.value for one in app.error]
    return app


def plain(text):
    """Without the signs that keep it from being markup."""
    return text.replace("\\", "")


def test_the_first_view_is_the_held_out_score_of_the_plural(open_page, glove):
    app = right(open_page("directions"))
    pairs = probe.load_pairs("plurality").lower()
    expected = probe.evaluate_direction(probe.fit_direction(glove, pairs), pairs, twin=False, progress=False)
    assert app.dataframe[-1].value.difference.tolist() == pytest.approx(
        (expected.positive - expected.negative).tolist()
    )
    assert any(str(expected.auroc) in plain(one.value) for one in app.markdown)


@pytest.mark.parametrize("view", directions.VIEWS)
@pytest.mark.parametrize("space", directions.SPACES)
def test_every_view_opens_in_every_space_and_its_code_runs(view, space, open_page, glove):
    app = right(open_page("directions", space=space, show=view, pairs="my own"))
    for key in ("begin_effect", "begin_profile"):  # the latter only on a machine that is slow just now
        if key in [one.key for one in app.button]:
            right(app.button(key=key).click().run())
    if space == STREAM and view in ("Neighbours", "Analogies"):
        assert "no list of all words" in app.info[0].value
        return
    printed: list = []
    exec(compile(app.code[-1].value, "copied", "exec"), {"print": lambda *values: printed.append(values)})
    assert printed


@pytest.mark.parametrize("view", directions.VIEWS)
def test_every_widget_of_every_view_moves(view, open_page, glove):
    app = right(open_page("directions", show=view))
    for kind in ("selectbox", "toggle", "slider", "text_input"):
        for key in [one.key for one in getattr(app, kind)]:
            if key in ("model", "space", "pairs", "query", "key", "start", "effect_text"):
                continue
            widget = getattr(app, kind)(key=key)
            if kind == "selectbox":
                widget.select_index(len(widget.options) - 1)
            elif kind == "toggle":
                widget.set_value(not widget.value)
            elif kind == "slider":
                widget.set_value(widget.max)
            else:
                widget.set_value(widget.value + " x")
            right(app.run())


def test_numbers_stand_in_the_order_of_their_dot_products(open_page, glove):
    app = right(open_page("directions", show="Words"))
    direction = probe.fit_direction(glove, probe.load_pairs("plurality").lower())
    found = direction.project(_word_views.NUMBERS.split())
    table = app.dataframe[-1].value
    assert table["dot"].tolist() == pytest.approx(found.dot.tolist())
    ordered = sorted(found.words, key=dict(zip(found.words, found.dot.tolist(), strict=True)).__getitem__)
    assert app.markdown[0].value == "In order: **" + ", ".join(ordered) + "**"


def test_words_that_are_not_there_are_named(open_page, glove):
    app = right(open_page("directions", show="Words", words="one two qqzzxx"))
    assert "qqzzxx" in app.warning[0].value and app.dataframe[-1].value.word.tolist() == ["one", "two"]
    app.text_input(key="words").set_value("qqzzxx").run()
    assert not app.exception and "no words" in plain(app.error[0].value)
    app.text_input(key="words").set_value("<b>one</b> three").run()
    assert "three" in app.markdown[0].value and "<b>" not in app.warning[0].value
    right(app)


def test_an_analogy_with_its_words_dropped_and_kept(open_page, glove):
    app = right(open_page("directions", show="Analogies"))
    for kept in (False, True):
        if kept:
            right(app.toggle(key="inputs_kept").set_value(True).run())
        expected = probe.solve_analogy(glove, ["king", "woman"], ["man"], keep_inputs=kept, expected="queen")
        assert app.dataframe[0].value.word.tolist() == list(expected.words)
        assert _word_views.place_of(expected.rank) in app.markdown[0].value


def test_neighbours_are_the_librarys(open_page, glove):
    app = right(open_page("directions", show="Neighbours", near="Tower"))
    expected = probe.nearest_neighbours(glove, "tower")
    assert app.dataframe[0].value.word.tolist() == list(expected.words[0])


def test_words_between_directions(open_page, glove):
    app = right(open_page("directions", show="Three axes", axis_3="tense"))
    table = app.dataframe[-1].value
    for column, name in zip(table.columns[1:], ("plurality", "gender", "tense"), strict=True):
        direction = probe.fit_direction(glove, probe.load_pairs(name).lower())
        assert table[column].tolist() == pytest.approx(direction.project(_word_views.PEOPLE.split()).along.tolist())


def test_a_profile_is_the_librarys(open_page, tiny_folder):
    app = right(open_page("directions", show="Layers", pairs="my own"))
    if [one for one in app.button if one.key == "begin_profile"]:
        right(app.button(key="begin_profile").click().run())
    model, pairs = probe.load_model(tiny_folder), directions.read_pairs(directions.OWN_PAIRS).fit
    expected = probe.layer_profile(model, pairs, templates=TEMPLATES, document_start=True, progress=False)
    assert app.dataframe[-1].value.auroc.tolist() == pytest.approx(expected.to_dataframe().auroc.tolist(), abs=1e-6)


def test_a_long_profile_waits_for_its_button(open_page, monkeypatch):
    monkeypatch.setattr(_pairs, "AT_ONCE", -1.0)
    app = right(open_page("directions", show="Layers", pairs="my own"))
    assert not app.code
    right(app.button(key="begin_profile").click().run())
    assert app.code


def test_a_steered_text_is_the_librarys(open_page, tiny_folder):
    app = right(open_page("directions", show="Steering", pairs="my own", layer="1", strength="3", sentence="one two"))
    model = probe.load_model(tiny_folder)
    words = probe.words_in_context(model, 1, TEMPLATES, document_start=True)
    direction = probe.fit_direction(words, directions.read_pairs(directions.OWN_PAIRS).fit)
    n_tokens = 3 + _steering.STEERED - 1
    push = probe.add(
        "resid_post", 3.0 * direction.gap * direction.vector.float(), layer=1, positions=range(1, n_tokens)
    )
    made = probe.generate(
        model, "one two", document_start=True, max_tokens=_steering.STEERED, temperature=0, interventions=[push]
    ).run()
    assert app.dataframe[-1].value.token_id.tolist() == [step.token for step in made.steps]
    plain_text = probe.generate(
        model, "one two", document_start=True, max_tokens=_steering.STEERED, temperature=0
    ).run().text  # fmt: skip
    assert app.code[0].value == "one two" + plain_text


def test_the_effect_of_a_direction_is_the_librarys_dose_curve(open_page, tiny_folder):
    app = right(open_page("directions", show="Effect", pairs="gender", layer="1", effect_target=" one"))
    assert not app.code  # it takes its time: nothing runs unasked
    right(app.button(key="begin_effect").click().run())
    model, pairs = probe.load_model(tiny_folder), probe.load_pairs("gender")
    words = probe.words_in_context(model, 1, pairs.templates, document_start=True)
    expected = probe.dose_curve(
        model, probe.fit_direction(words, pairs, on_missing="drop"),
        [f"The {negative} said that" for _, negative in pairs.held_out[: _steering.WORDS]],
        target=" one", against=" he", document_start=True, progress=False,
    )  # fmt: skip
    for column in ("dose", "effect", "low", "high", "p", "damage_nats"):
        assert app.dataframe[-1].value[column].tolist() == pytest.approx(
            expected.to_dataframe()[column].tolist(), abs=1e-6, nan_ok=True
        )
    said = plain(app.markdown[-1].value)
    assert str(expected.effect(expected.natural_dose)) in said and ("**uses** it" in said) == expected.used
    app.text_input(key="effect_text").set_value("no word").run()
    assert not app.exception and "{} once" in plain(app.error[0].value)


def test_the_twin_stands_beside_the_evidence(open_page):
    app = right(open_page("directions", space=EMBED, pairs="gender", twin="true"))
    assert any("Before learning: AUROC" in plain(one.value) for one in app.markdown)
    assert "twin=True" in app.code[0].value
    assert not [one for one in open_page("directions").toggle if one.key == "twin"]  # GloVe has none


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no pairs"), ("cats cat\ndogs", "'dogs'"), ("a b c", "'a b c'"), ("cat cat", "both sides"),
     ("qqzzxx cat", "no pairs left"), ("cats cat\ncats cat", "twice"), ("cats cat\ndogs dog", "needs 4")],
)  # fmt: skip
def test_pairs_that_are_none_are_said_and_the_page_is_usable(text, says, open_page, glove):
    app = right(open_page("directions", pairs="my own"))
    app.text_area(key="own_pairs").set_value(text).run()
    assert not app.exception and says in plain(app.error[0].value)
    right(app.text_area(key="own_pairs").set_value(directions.OWN_PAIRS).run())


def test_pairs_are_read_however_they_are_divided():
    read = directions.read_pairs(
        "cats cat\n dogs, dog \n\nhouses/house\ntrees - tree\nbooks – book\nwell-beings well-being"
    )
    assert read.fit[:5] == (("cats", "cat"), ("dogs", "dog"), ("houses", "house"), ("trees", "tree"), ("books", "book"))
    assert read.fit[5] == ("well-beings", "well-being")
    with pytest.raises(OutOfRange, match="two words"):
        directions.read_pairs("one")
