"""The generation page: words put in, chat and reading give the library's numbers."""

import pytest

import probe

pytestmark = pytest.mark.model
PROMPT = "one two three"


def test_a_word_put_in_is_a_branch(open_page, tiny_folder):
    app = open_page("generation", prompt=PROMPT)
    options = app.pills(key="put_in").options if hasattr(app, "pills") else None
    assert options is None or len(options) >= 8
    app = open_page("generation", prompt=PROMPT, branch="2:77 1:78", n_new="6")
    assert not app.exception and not app.error
    model = probe.load_model(tiny_folder)
    made = probe.generate(model, PROMPT, max_tokens=6, seed=0, document_start=True).run()
    made = made.branch(2, 77).run().branch(1, 78).run()
    assert app.dataframe[-1].value.token_id.tolist() == [step.token for step in made.steps]
    app.button(key="take_back").click().run()
    assert app.text_input(key="branch").value == "2:77"
    app.button(key="take_back").click().run()
    assert not app.exception
    assert not [one for one in app.text_input if one.key == "branch"]


@pytest.mark.parametrize("branch", ["nonsense", "99:5", "0:99999999", "1:2:3", "-1:4"])
def test_a_branch_that_is_none_is_said(branch, open_page):
    app = open_page("generation", prompt=PROMPT, branch=branch)
    assert not app.exception and app.error


def test_chat_runs_the_models_own_template(open_page, tiny_folder):
    app = open_page("generation", mode="chat", user="Hello you", n_new="5")
    assert not app.exception
    if app.error:  # a model saved without its template says so
        assert "chat template" in app.error[0].value
        return
    model = probe.load_model(tiny_folder)
    made = probe.chat(model, "Hello you", max_tokens=5, temperature=0, seed=0).run()
    assert app.dataframe[-1].value.token_id.tolist() == [step.token for step in made.steps]


def test_reading_gives_the_surprise_of_every_token(open_page, tiny_folder):
    app = open_page("generation", mode="only read the text", prompt=PROMPT, query="2")
    assert not app.exception and not app.error
    scores = probe.score_text(probe.load_model(tiny_folder), PROMPT, document_start=True)
    shown = app.dataframe[-1].value.surprise_nats.tolist()
    assert shown[:-1] == pytest.approx(scores.surprise[0, :-1].tolist(), abs=1e-5)
    assert f"{float(scores.mean_surprise[0]):.3f} nats" in app.markdown[0].value


def test_a_link_looks_behind_the_token_that_it_names(open_page):
    app = open_page("generation", prompt=PROMPT, step="3")
    assert not app.exception
    table = app.dataframe[-1].value
    said = next(one.value for one in app.caption if one.value.startswith("The model’s own probability"))
    assert f"{table.model_probability[3]:.2%}" in said
    app.number_input(key="n_new").set_value(2).run()
    assert not app.exception and app.number_input(key="step").value == 1
