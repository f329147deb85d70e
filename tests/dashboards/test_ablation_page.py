"""The ablation page: numbers of the library, heads taken out in every page, sweeps that go on after a stop."""

import ast
import re

import pytest
import torch

import probe
from probe.methods.ablation import join_sweeps

pytestmark = pytest.mark.model
PROMPT = "one two three one two"


def test_the_sweep_on_the_page_is_the_librarys(open_page, tiny_folder):
    app = open_page("ablation", prompt=PROMPT)
    assert not app.exception and not app.error
    model = probe.load_model(tiny_folder)
    logits = probe.record(model, PROMPT, sites=[], positions=-1, document_start=True).logits[0, -1]
    first, second = logits.topk(2).indices.tolist()
    metric = probe.logit_difference([first], [second])
    expected = probe.ablation_sweep(model, PROMPT, metric=metric, value="zero", document_start=True, progress=False)
    table = app.dataframe[-1].value
    assert table.unit.tolist() == [unit.name for unit in expected.units]
    assert table.effect.tolist() == pytest.approx(expected.effects.mean(1).tolist(), abs=1e-5)
    assert table.direct.tolist() == pytest.approx(expected.direct.mean(1).tolist(), abs=1e-5)


@pytest.mark.parametrize("value", ["mean", "mean per position", "resample", "zero"])
def test_a_sweep_in_parts_is_the_whole_sweep(value, tiny_folder, monkeypatch):
    from state.ablation import Question, sweep_layers, sweep_part

    monkeypatch.setenv("PROBE_DASHBOARD_MODELS", str(tiny_folder))
    question = Question(str(tiny_folder), (1, 2), 5, 6, "indirect object", 9, "heads", value, True)
    parts = [sweep_part.__wrapped__(question, layers) for layers in sweep_layers(question)]
    assert len(parts) == 3
    joined = join_sweeps(parts)
    model, task, arguments = question.arguments()
    whole = probe.ablation_sweep(model, task, progress=False, **arguments)
    assert [unit.name for unit in joined.units] == [unit.name for unit in whole.units]
    assert torch.allclose(joined.effects, whole.effects, atol=1e-5)
    assert torch.allclose(joined.direct, whole.direct, atol=1e-5)
    assert torch.allclose(joined.evidence.low, whole.evidence.low, atol=1e-5)
    assert joined.manifest["method_arguments"]["layers"] == [0, 1, 2]


def test_a_long_sweep_waits_for_its_button_stops_and_goes_on(open_page, monkeypatch):
    from views import ablation

    monkeypatch.setattr(ablation, "AT_ONCE", 0)
    app = open_page("ablation", prompt=PROMPT)
    assert [one.key for one in app.button if one.key == "begin"] and not app.session_state["sweep_parts"]
    app.button(key="begin").click().run()
    assert not app.exception
    assert len(app.session_state["sweep_parts"]) == 1 and not app.warning  # three layers: one part
    parts = app.session_state["sweep_parts"]
    parts.clear()
    app.session_state["sweep_runs"] = False
    app.run()
    assert app.button(key="begin")


def test_heads_taken_out_change_every_page_and_its_code(open_page, tiny_folder):
    out = {"prompt": PROMPT, "taken_out": "L0H1"}
    model = probe.load_model(tiny_folder)
    edits = [probe.zero("z", layer=0, heads=[1], positions=range(1, 6))]
    ids = model.tokenizer.encode(PROMPT)
    assert len(ids) == 5
    recording = probe.record(model, PROMPT, sites=["pattern"], document_start=True, interventions=edits)
    app = open_page("heads", layer="2", head="3", **out)
    assert "L0H1" in app.info[0].value
    table = app.dataframe[-1].value
    row = table[table.query_pos == 5].weight.tolist()
    assert row == pytest.approx(recording["pattern", 2][0, 3, 5].tolist(), abs=1e-6)
    for page in ("heads", "generation", "ablation", "lens"):
        app = open_page(page, **out)
        assert not app.exception and not app.error, page
        assert page == "ablation" or "interventions=taken_out" in app.code[0].value
    before = open_page("generation", prompt=PROMPT).dataframe[-1].value.model_probability.tolist()
    after = open_page("generation", **out).dataframe[-1].value.model_probability.tolist()
    assert before[0] != after[0]


@pytest.mark.parametrize("second", ["L1H2", "L1 MLP"])
def test_two_parts_together_are_shown_beside_their_sum(second, open_page, tiny_folder):
    app = open_page("ablation", prompt=PROMPT, taken_out=["L0H1", second])
    assert not app.exception
    together = next(one.value for one in app.dataframe if "part" in one.value)
    names = ["0.1", "1.2" if second == "L1H2" else "MLP 1"]
    assert together.part.tolist() == [*names, "sum of these", "all together"]
    effects = together.iloc[:, 1].tolist()
    assert effects[2] == pytest.approx(effects[0] + effects[1], abs=1e-5)
    code = app.code[0].value
    model = probe.load_model(tiny_folder)
    metric = probe.logit_difference(
        *(ast.literal_eval(one) for one in re.findall(r"logit_difference\((.*), (.*)\)", code)[0])
    )
    found = probe.ablation_sweep(model, PROMPT, metric=metric, units=[names], value="zero", document_start=True)
    assert effects[3] == pytest.approx(float(found.effects.mean()), abs=1e-5)
    table = app.dataframe[-1].value.set_index("unit").effect
    assert effects[0] == pytest.approx(table["0.1"], abs=1e-6)


def test_a_unit_of_a_sweep_is_switched_with_all_its_parts(tiny_folder, monkeypatch):
    from types import SimpleNamespace

    from components import controls
    from views import ablation

    monkeypatch.setattr(controls.st, "session_state", state := {"taken_out": ["L0H1", "L2H3"]})
    chosen = SimpleNamespace(model=probe.load_model(tiny_folder))
    sweep = probe.ablation_sweep(
        chosen.model, PROMPT, metric=probe.logit_difference([" one"], [" two"]), units=["0.1", "MLP 0", "layer 0"],
        value="zero", progress=False,
    )  # fmt: skip
    parts = [ablation._parts(chosen, unit) for unit in sweep.units]
    heads = [(0, head) for head in range(4)]
    assert parts == [[(0, 1)], [(0, None)], [*heads, (0, None)]]
    controls.switch_parts(parts[2])
    assert sorted(state["taken_out"]) == ["L0 MLP", "L0H0", "L0H1", "L0H2", "L0H3", "L2H3"]
    controls.switch_parts(parts[2])
    assert state["taken_out"] == ["L2H3"]


def test_a_wrong_token_is_said_and_the_page_is_usable(open_page):
    app = open_page("ablation", prompt=PROMPT)
    app.text_input(key="token_0").set_value("not one token at all").run()
    assert not app.exception and "not one token" in app.error[0].value.replace("\\", "")
    app.text_input(key="token_0").set_value(" one").run()
    assert not app.exception and not app.error


def test_an_mlp_taken_out_is_out_everywhere(open_page, tiny_folder):
    model = probe.load_model(tiny_folder)
    edits = [
        probe.zero("z", layer=1, heads=[2], positions=range(1, 6)),
        probe.zero("mlp_out", layer=0, positions=range(1, 6)),
    ]
    app = open_page("generation", prompt=PROMPT, taken_out=["L0 MLP", "L1H2"], n_new="1")
    assert not app.exception and "L0 MLP, L1H2" in app.info[0].value
    logits = probe.record(model, PROMPT, sites=[], positions=-1, document_start=True, interventions=edits).logits
    shown = app.dataframe[-1].value
    expected = logits[0, -1].softmax(-1)[shown.token_id[0]]
    assert shown.model_probability[0] == pytest.approx(float(expected), abs=1e-6)
    code = app.code[0].value
    assert "probe.zero('mlp_out', layer=0, positions=range(1, 6))" in code
    app = open_page("ablation", prompt=PROMPT, taken_out=["L0 MLP", "L1H2"])
    assert not app.exception and not app.error
