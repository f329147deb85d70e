"""Taking a unit out equals one edited pass, for every unit, value and choice of positions."""

import dataclasses
import itertools

import pytest
import torch

import probe
from probe.errors import (
    BadPrompt,
    BadShape,
    DifferentModel,
    NotSaved,
    NumbersBroke,
    OutOfRange,
    UnknownName,
    WrongType,
)
from probe.methods import _schedule
from probe.methods._reruns import Part, RecordedRun, Row
from probe.methods.ablation import join_sweeps
from probe.prompts import read_prompts
from tests.induction import INDUCTION, PREVIOUS, induction_model
from tests.tiny import GPT2, LLAMA, tiny_model

EXACT = 1e-4
"""In logits of size up to about 60: rounding of float32 through another order of the same sums."""
PROMPTS = ["abcdefgh", "hgfedcba", "bdfhaceg", "cacbcdce"]
RAGGED = ["abcdef", "gfedcbahk", "bdfh", "ihgfedcba"]
METRIC = probe.logit_difference(5, 7)
KINDS = ("heads", "MLPs", "layers", "neurons")


def sweep(model, prompts=PROMPTS, *, metric=METRIC, **arguments):
    return probe.ablation_sweep(model, prompts, metric=metric, progress=False, **arguments)


def replaced(model, prompts, row, unit, new, positions):
    """The logits of one prompt in one plain pass in which every part of a unit is replaced by new(site, layer, own)."""
    chosen = None if positions is None else list(positions)
    edits = []
    for part in unit.parts:

        def change(value, part=part):
            value = value.clone()
            own = (
                value
                if part.index is None
                else value[..., part.index]
                if part.site == "post"
                else value[:, :, part.index]
            )
            where = range(own.shape[1]) if chosen is None else chosen
            for position in where:
                own[:, position] = new(part, position)
            return value

        edits.append(probe.edit(part.site, change, layer=part.layer))
    return probe.record(model, prompts[row], sites=[], interventions=edits).logits[0, -1]


def others(model, prompts, row):
    """Recordings of every other prompt."""
    return [probe.record(model, text) for number, text in enumerate(prompts) if number != row]


def part_of(recording, part):
    value = recording[part.site, part.layer][0]
    return value if part.index is None else value[:, part.index]


def value_of(model, prompts, row, kind):
    """What `value` means, computed the plain way."""
    found = others(model, prompts, row)

    def new(part, position):
        values = [part_of(one, part) for one in found]
        if kind == "zero":
            return torch.zeros_like(values[0][0])
        if kind == "mean":
            return torch.cat([value[1:] for value in values]).mean(0)
        return torch.stack([value[position] for value in values if len(value) > position]).mean(0)

    return new


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("units", KINDS)
@pytest.mark.parametrize("value", ["zero", "mean", "mean per position"])
def test_a_sweep_equals_one_edited_pass_for_each_unit(family, units, value):
    model = tiny_model(family)
    found = sweep(model, units=units, value=value, layers=1 if units == "neurons" else None)
    some = range(0, len(found.units), 7) if units == "neurons" else range(len(found.units))
    for number, row in itertools.product(some, range(len(PROMPTS))):
        new = value_of(model, PROMPTS, row, value)
        logits = replaced(model, PROMPTS, row, found.units[number], new, range(1, 8))
        expected = float(logits[5] - logits[7] - found.clean[row])
        assert float(found.effects[number, row]) == pytest.approx(expected, abs=EXACT), found.units[number].name
    assert found.effects.abs().max() > 0.1


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("positions", ["after the first", None, -1, [0, 3], 2])
def test_every_choice_of_positions_is_exact(family, positions):
    model = tiny_model(family)
    found = sweep(model, value="mean", positions=positions)
    where = {"after the first": range(1, 8), None: range(8), -1: [7], 2: [2]}.get(
        positions if not isinstance(positions, list) else "list", [0, 3]
    )
    for number, unit in enumerate(found.units):
        logits = replaced(model, PROMPTS, 1, unit, value_of(model, PROMPTS, 1, "mean"), where)
        assert float(found.effects[number, 1]) == pytest.approx(
            float(logits[5] - logits[7] - found.clean[1]), abs=EXACT
        )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("value", ["zero", "mean"])
def test_prompts_of_different_lengths_come_out_as_each_would_alone(family, value):
    model = tiny_model(family)
    found = sweep(model, RAGGED, value=value)
    for number, row in itertools.product(range(len(found.units)), range(len(RAGGED))):
        new = value_of(model, RAGGED, row, value)
        logits = replaced(model, RAGGED, row, found.units[number], new, range(1, len(RAGGED[row])))
        expected = float(logits[5] - logits[7] - found.clean[row])
        assert float(found.effects[number, row]) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_all_logits_of_a_rerun_equal_those_of_a_plain_pass(family):
    model = tiny_model(family)
    batch = read_prompts(model.config, model.tokenizer, PROMPTS)
    everything = probe.custom_metric(lambda logits: logits.sum((1, 2)), position=None).bind(model, batch)
    with torch.no_grad():
        clean = RecordedRun(model, batch, everything, range(4), ["z"])
        heads = [Part(layer, "z", head) for layer in range(3) for head in range(4)]
        rows = [Row(2, 0, (part,), tuple(range(1, 8))) for part in heads]
        logits = clean.logits(rows, lambda layer, site: torch.zeros(1, 1, 4, 8))
    for part, found in zip(heads, logits, strict=True):
        edit = probe.zero("z", layer=part.layer, heads=part.index, positions=list(range(1, 8)))
        plain = probe.record(model, PROMPTS[2], sites=[], interventions=[edit]).logits[0]
        assert (found - plain).abs().max() < EXACT


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sets_of_heads_are_taken_out_together(family):
    model = tiny_model(family)
    sets = [[(0, 1), (0, 2)], [(0, 0), (1, 3), (2, 2)], (2, 1)]
    found = sweep(model, units=sets, value="zero")
    assert [unit.name for unit in found.units] == ["0.1 + 0.2", "0.0 + 1.3 + 2.2", "2.1"]
    for number, unit in enumerate(found.units):
        logits = replaced(model, PROMPTS, 0, unit, value_of(model, PROMPTS, 0, "zero"), range(1, 8))
        assert float(found.effects[number, 0]) == pytest.approx(
            float(logits[5] - logits[7] - found.clean[0]), abs=EXACT
        )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_units_of_every_kind_are_listed_by_the_names_that_results_give_them(family):
    model = tiny_model(family)
    names = ["2.1", "MLP 1", "layer 0", "neuron 1.5"]
    found = sweep(model, units=names, value="zero")
    assert found.kind == "listed units" and [unit.name for unit in found.units] == names
    alike = {"heads": None, "MLPs": None, "layers": None, "neurons": 1}
    for row, (kind, layer) in enumerate(alike.items()):
        assert found.effect(names[row]) == sweep(model, units=kind, layers=layer, value="zero").effect(names[row])
    assert (
        sweep(model, units=[["MLP 0", "neuron 0.3", (1, 2), "2.1", "2.2", "layer 1", "layer 2"]]).units[0].name
        == "7 units"
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_heads_and_mlps_are_taken_out_together(family):
    model = tiny_model(family)
    found = sweep(model, units=[["MLP 1", (1, 2)], [(2, 1), "MLP 0", "0.1"]], value="zero")
    assert [unit.name for unit in found.units] == ["1.2 + MLP 1", "0.1 + MLP 0 + 2.1"]
    for number, unit in enumerate(found.units):
        logits = replaced(model, PROMPTS, 0, unit, value_of(model, PROMPTS, 0, "zero"), range(1, 8))
        assert float(found.effects[number, 0]) == pytest.approx(
            float(logits[5] - logits[7] - found.clean[0]), abs=EXACT
        )


def test_resampled_values_are_those_of_single_other_prompts():
    model = tiny_model()
    found = sweep(model, PROMPTS[:2], value="resample", n_draws=3)
    for row in (0, 1):
        for number, unit in enumerate(found.units):  # with two prompts there is one other to draw
            logits = replaced(
                model, PROMPTS, row, unit, value_of(model, PROMPTS[:2], row, "mean per position"), range(1, 8)
            )
            expected = float(logits[5] - logits[7] - found.clean[row])
            assert float(found.effects[number, row]) == pytest.approx(expected, abs=EXACT)
    assert found.spread.max() < EXACT


def test_draws_differ_and_their_spread_is_told():
    found = sweep(tiny_model(), value="resample", n_draws=4)
    assert found.spread.max() > 0.1
    assert not torch.equal(found.effects, sweep(tiny_model(), value="resample", n_draws=4, seed=1).effects)
    assert torch.equal(found.effects, sweep(tiny_model(), value="resample", n_draws=4).effects)


def test_a_reference_of_ones_own_is_what_the_mean_is_over():
    model = tiny_model()
    reference = ["kkkk", "abab"]
    found = sweep(model, PROMPTS[:1], reference=reference)
    new = value_of(model, [PROMPTS[0], *reference], 0, "mean")
    logits = replaced(model, PROMPTS, 0, found.units[3], new, range(1, 8))
    assert float(found.effects[3, 0]) == pytest.approx(float(logits[5] - logits[7] - found.clean[0]), abs=EXACT)
    assert found.replaced_by == "mean over all positions but 0 of 2 reference prompts"


@pytest.mark.parametrize("value", ["mean", "mean per position"])
def test_a_prompt_is_not_in_its_own_mean_however_often_it_occurs(value):
    model = tiny_model()
    once = sweep(model, [PROMPTS[0], PROMPTS[1]], value=value)
    twice = sweep(model, [PROMPTS[0], PROMPTS[1], PROMPTS[0]], value=value)
    torch.testing.assert_close(once.effects[:, 0], twice.effects[:, 0], atol=EXACT, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("units", KINDS)
def test_the_direct_effect_is_what_a_unit_writes_through_the_frozen_final_norm(family, units):
    model = tiny_model(family)
    found = sweep(model, value="zero", units=units, layers=1)
    rec = probe.record(model, PROMPTS[0])
    for number, unit in enumerate(found.units):
        written = torch.zeros(32)
        for part in unit.parts:
            own = rec[part.site, part.layer][0, -1]
            if part.site == "z":
                written -= own[part.index] @ model.W_O[part.layer, part.index].detach()
            elif part.site == "post":
                written -= own[part.index] * model.W_out[part.layer][part.index].detach()
            else:
                written -= own
        change = (written @ model.logit_directions) / rec["ln_final.hook_scale"][0, -1]
        assert float(found.direct[number, 0]) == pytest.approx(float(change[5] - change[7]), abs=EXACT)


def test_metrics_are_read_where_they_say():
    model = tiny_model()
    clean = probe.record(model, PROMPTS, sites=[]).logits
    logprobs = clean.log_softmax(-1)
    for metric, expected in {
        probe.log_probability(5): logprobs[:, -1, 5],
        probe.log_probability(5, position=2): logprobs[:, 2, 5],
        probe.kl_to_clean(): torch.zeros(4),
        probe.token_rank(5): 1.0 + (clean[:, -1] > clean[:, -1, 5:6]).sum(-1),
        probe.mean_loss(): probe.loss(model, PROMPTS).mean(-1),
        probe.logit_difference([1, 2, 3, 4], [5, 6, 7, 8]): torch.stack(
            [clean[row, -1, row + 1] - clean[row, -1, row + 5] for row in range(4)]
        ),
    }.items():
        found = sweep(model, metric=metric, layers=2, value="zero")
        torch.testing.assert_close(found.clean, expected.float(), atol=EXACT, rtol=0)
        assert found.effects.abs().max() > 1e-3, metric.name


@pytest.mark.parametrize("position", [-1, None])
def test_kl_is_that_of_edited_passes(position):
    model = tiny_model()
    found = sweep(model, metric=probe.kl_to_clean(position=position), value="zero", layers=1)
    edit = probe.zero("z", layer=1, heads=2, positions=list(range(1, 8)))
    clean, edited = (
        probe.record(model, PROMPTS, sites=[], interventions=one).logits.log_softmax(-1) for one in ([], [edit])
    )
    expected = (clean.exp() * (clean - edited)).sum(-1)
    expected = expected.mean(-1) if position is None else expected[:, -1]
    torch.testing.assert_close(found.effects[2], expected, atol=EXACT, rtol=1e-4)
    assert found.effects.min() >= -1e-6


def test_the_loss_of_shorter_prompts_is_over_their_own_tokens():
    model = tiny_model()
    found = sweep(model, RAGGED, metric=probe.mean_loss(), value="zero", layers=0)
    torch.testing.assert_close(found.clean, probe.loss(model, RAGGED).nanmean(-1), atol=EXACT, rtol=0)
    edit = probe.zero("z", layer=0, heads=1, positions=[1, 2, 3])
    rec = probe.record(model, RAGGED[2], sites=[], interventions=[edit])
    tokens = torch.tensor(model.tokenizer.encode(RAGGED[2]))
    expected = -rec.logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None]).mean()
    assert float(found.effects[1, 2]) == pytest.approx(float(expected - found.clean[2]), abs=EXACT)


@pytest.mark.parametrize("memory", [150_000, 300_000, 10_000_000])
def test_the_memory_budget_changes_batches_and_no_numbers(memory):
    model = tiny_model()
    expected = sweep(model, RAGGED).effects
    plan = probe.plan_ablation(model, RAGGED, metric=METRIC, memory=memory)
    assert plan.rows == 48 and plan.bytes <= memory
    torch.testing.assert_close(sweep(model, RAGGED, memory=memory).effects, expected, atol=EXACT, rtol=0)


def test_a_smaller_budget_means_more_batches():
    model = tiny_model()
    few, many = (probe.plan_ablation(model, RAGGED, metric=METRIC, memory=memory) for memory in (10**7, 150_000))
    assert few.batches < many.batches and few.flops == many.flops
    assert str(few).startswith("48 edited passes in ")


def test_a_stopped_sweep_goes_on_from_its_folder(tmp_path, monkeypatch):
    model = tiny_model()
    expected = sweep(model, RAGGED, memory=150_000)
    plain, calls = RecordedRun.logits, []

    def stops(self, rows, table):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, rows, table)

    monkeypatch.setattr(RecordedRun, "logits", stops)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, RAGGED, memory=150_000, folder=tmp_path / "sweep")
    monkeypatch.setattr(RecordedRun, "logits", lambda self, rows, table: calls.append(0) or plain(self, rows, table))
    before = len(calls)
    found = sweep(model, RAGGED, memory=150_000, folder=tmp_path / "sweep")
    n_batches = probe.plan_ablation(model, RAGGED, metric=METRIC, memory=150_000).batches
    assert len(calls) - before == n_batches - 2
    assert torch.equal(found.effects, expected.effects) and found.complete
    with pytest.raises(NotSaved, match="another call"):
        sweep(model, RAGGED, memory=150_000, folder=tmp_path / "sweep", value="zero")


def _logit_of(token):
    return probe.custom_metric(lambda logits: logits[:, 0, token])


OTHER_METRICS = {
    "another target": (probe.log_probability([1, 2, 3, 4]), probe.log_probability([1, 2, 3, 5])),
    "ids and texts": (probe.log_probability([1, 2, 3, 4]), probe.log_probability(["a", "b", "c", "e"])),
    "another position": (probe.logit_difference(5, 7), probe.logit_difference(5, 7, position=2)),
    "every position": (probe.kl_to_clean(), probe.kl_to_clean(position=None)),
    "another rank": (probe.token_rank([1, 2, 3, 4]), probe.token_rank([1, 2, 3, 5])),
    "another function": (lambda logits: logits[:, 0, 1], lambda logits: logits[:, 0, 1] ** 2),
    "another value closed over": (_logit_of(1), _logit_of(2)),
}


@pytest.mark.parametrize(("first", "second"), OTHER_METRICS.values(), ids=OTHER_METRICS)
def test_a_folder_holds_the_work_of_one_metric(first, second, tmp_path):
    """They have one name and one unit, and differ in what they read."""
    model = tiny_model()
    model.tokenizer.token_id = lambda text: ord(text) - 96
    sweep(model, metric=first, value="zero", folder=tmp_path)
    sweep(model, metric=first, value="zero", folder=tmp_path)
    with pytest.raises(NotSaved, match="another call: method_arguments"):
        sweep(model, metric=second, value="zero", folder=tmp_path)


def test_without_a_folder_an_interruption_returns_the_prompts_that_are_done(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(_schedule, "_PROMPTS_AT_ONCE", 2)
    whole, plain = sweep(model, RAGGED), RecordedRun.logits

    def stops(self, rows, table):
        if 1 in self.prompts.tolist():  # the longest, and so in the last block
            raise KeyboardInterrupt
        return plain(self, rows, table)

    monkeypatch.setattr(RecordedRun, "logits", stops)
    found = sweep(model, RAGGED)
    assert not found.complete
    torch.testing.assert_close(found.effects, whole.effects[:, [0, 2]])  # in the order of the call
    assert found.clean.tolist() == whole.clean[[0, 2]].tolist()
    assert found.groups == {"prompt": [0, 2]}


def same(found, expected):
    """Whether every field is alike; batches of another size round the last digits otherwise."""
    for field in dataclasses.fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, torch.Tensor):
            torch.testing.assert_close(one, other, atol=EXACT, rtol=0)
        elif isinstance(other, probe.AblationSweep):
            same(one, other)
        else:
            assert one == other, field.name


@pytest.mark.parametrize("value", ["zero", "mean", "mean per position", "resample"])
@pytest.mark.parametrize("units", ["heads", "MLPs", "layers"])
def test_sweeps_over_some_layers_are_joined_to_the_one_over_all(units, value):
    model = tiny_model()
    pieces = [sweep(model, units=units, value=value, layers=layers) for layers in ([2, 0], [1])]
    joined = join_sweeps(pieces)
    same(joined, sweep(model, units=units, value=value, layers=[0, 1, 2]))
    assert joined.evidence.low.shape == joined.effects.shape[:1]
    same(join_sweeps(pieces[:1]), pieces[0])


def test_listed_units_their_twins_and_interruptions_are_joined():
    model, twin = tiny_model(), tiny_model(seed=5)
    first, second = [(2, 1), "MLP 1"], ["MLP 0", [(0, 1), (2, 0)]]
    pieces = [sweep(model, units=units, twin=twin) for units in (first, second)]
    joined = join_sweeps(pieces)
    same(joined, sweep(model, units=[*first, *second], twin=twin))
    assert [unit.name for unit in joined.units] == ["2.1", "MLP 1", "MLP 0", "0.1 + 2.0"]
    assert not join_sweeps([pieces[0], dataclasses.replace(pieces[1], complete=False)]).complete


def test_what_is_no_piece_of_one_sweep_is_not_joined(as_users_run_it):
    model = tiny_model()
    first, second = sweep(model, layers=0), sweep(model, layers=1)
    with pytest.raises(OutOfRange, match="sweeps: the list is empty; give at least one AblationSweep"):
        join_sweeps([])
    with pytest.raises(WrongType, match="<Recording> is among them; expected each to be of the kind AblationSweep"):
        join_sweeps([first, probe.record(model, "abc")])
    with pytest.raises(OutOfRange, match="unit 1.0 stands in two of them"):
        join_sweeps([first, second, second])
    with pytest.raises(DifferentModel, match="whose weights differ"):
        join_sweeps([first, sweep(tiny_model(seed=5), layers=1)])
    others = {
        "prompts, positions, groups, ": sweep(model, PROMPTS[:3], layers=1),
        "value, replaced_by": sweep(model, value="zero", layers=1),
        "metric, metric_arguments, tokens": sweep(
            model, metric=probe.logit_difference(5, 8), layers=1, smallest_effect=0.02
        ),
        "units": sweep(model, units="MLPs", layers=1),
        "twin": sweep(model, layers=1, twin=model),
        "smallest_effect": sweep(model, layers=1, smallest_effect=9.0),
        "prompts that were reached": dataclasses.replace(second, groups={"prompt": [0, 1]}),
    }
    for differing, other in others.items():
        with pytest.raises(OutOfRange, match=f"sweeps: they differ in {differing}.*; expected pieces of one call"):
            join_sweeps([first, other])


def test_induction_needs_its_two_heads_and_no_other():
    model = induction_model()
    prompts = [[0, 3, 7, 5, 9, 3, 7, 5], [0, 8, 2, 6, 4, 8, 2, 6], [0, 9, 1, 4, 2, 9, 1, 4]]
    found = sweep(model, prompts, metric=probe.logit_difference([9, 4, 2], [3, 8, 9]), value="zero")
    named = {unit.name for unit, effect in zip(found.units, found.effects.mean(1), strict=True) if abs(effect) > 1e-3}
    assert named == {f"{layer}.{head}" for layer, head in (PREVIOUS, INDUCTION)}
    assert found.effect("1.2") == pytest.approx(-float(found.clean.mean()), abs=1e-3)
    direct = dict(zip([unit.name for unit in found.units], found.direct.mean(1).tolist(), strict=True))
    assert abs(direct["0.1"]) < 1e-5  # it writes nothing that the unembedding reads


@pytest.mark.parametrize("reference", [None, ["kkkk", "abab"]])
def test_the_untrained_twin_is_swept_alike(reference):
    how = {"reference": reference, "document_start": True}
    found = sweep(tiny_model(), twin=tiny_model(seed=5), **how)
    assert found.twin is not None
    assert torch.equal(found.twin.effects, sweep(tiny_model(seed=5), **how).effects)
    assert "twin_effect" in found.to_dataframe()


def test_the_table_has_intervals_where_there_are_several_prompts():
    table = sweep(tiny_model()).to_dataframe()
    assert {"effect", "direct", "indirect", "low", "high", "p", "p_grid", "q", "marked"} <= set(table)
    assert (table.low <= table.effect).all() and (table.effect <= table.high).all()
    assert "low" not in sweep(tiny_model(), PROMPTS[0], value="zero").to_dataframe()
    assert "p" not in sweep(tiny_model(), metric=probe.kl_to_clean()).to_dataframe()


def test_self_repair_is_what_the_rest_makes_up_for():
    found = sweep(tiny_model(), value="zero")
    total, direct = found.effects.mean(1), found.direct.mean(1)
    share = found.self_repair()
    for place in range(len(total)):
        if abs(direct[place]) < found.smallest_effect:
            assert share[place].isnan()
        else:
            assert float(share[place]) == pytest.approx(max(0.0, float(1 - total[place] / direct[place])), abs=1e-5)


def nan_on_the_second(logits, prompts):
    return torch.where(prompts == 1, torch.nan, 0.0)


BAD = {
    "no prompts": (dict(prompts=[]), BadPrompt, "no prompts"),
    "one token": (dict(prompts=["abc", "a"]), BadPrompt, "prompt 1 has one token"),
    "an unknown kind": (dict(units="head"), UnknownName, "did you mean 'heads'"),
    "no units": (dict(units=[]), OutOfRange, "the list is empty"),
    "a head twice": (dict(units=[(0, 1), (0, 1)]), OutOfRange, "0.1 is listed twice"),
    "a head twice in a set": (dict(units=[[(0, 1), (0, 1)]]), OutOfRange, "stands in it twice"),
    "an unknown head": (dict(units=[(0, 4)]), OutOfRange, "head 4: this model has heads 0 to 3"),
    "an unknown layer": (dict(layers=3), OutOfRange, "layer 3: this model has layers 0 to 2"),
    "no head": (dict(units=[0.1]), OutOfRange, "expected a head as"),
    "an unknown name": (dict(units=["attention 1"]), UnknownName, "expected a name such as '9.6'"),
    "a name misspelt": (dict(units=["layr 1"]), UnknownName, "no unit 'layr 1'; did you mean 'layer 1'"),
    "an unknown MLP": (dict(units=["MLP 3"]), OutOfRange, "layer 3: this model has layers 0 to 2"),
    "an unknown neuron": (dict(units=["neuron 0.999"]), OutOfRange, "neuron 999: a layer has neurons 0 to"),
    "an MLP twice in a set": (dict(units=[["layer 1", "MLP 1"]]), OutOfRange, "something stands in it twice"),
    "neurons of all layers": (dict(units="neurons"), OutOfRange, "name one layer"),
    "layers of listed heads": (dict(units=[(0, 1)], layers=0), OutOfRange, "listed heads name their layers"),
    "an unknown value": (dict(value="means"), UnknownName, "did you mean 'mean'"),
    "one prompt's mean": (dict(prompts="abcdef"), BadPrompt, "give reference="),
    "the prompt as its reference": (
        dict(prompts="abcdef", reference="abcdef"), BadPrompt, "the reference is the prompt itself",
    ),
    "an empty reference": (dict(reference=[]), BadPrompt, "reference: no prompts"),
    "none as long": (dict(prompts=RAGGED[:3], value="resample"), BadPrompt, "no other prompt has 9 tokens"),
    "no draws": (dict(value="resample", n_draws=0), OutOfRange, "n_draws=0"),
    "an unknown position": (dict(positions=8), OutOfRange, "position 8"),
    "unknown positions": (dict(positions="after"), UnknownName, "after the first"),
    "too little memory": (dict(memory=1000), OutOfRange, "give at least that"),
    "groups of another number": (dict(groups={"template": [0, 1]}), OutOfRange, "2 numbers for 4 prompts"),
    "no metric": (dict(metric="logit difference"), UnknownName, "expected a function"),
    "targets of another number": (dict(metric=probe.logit_difference([1, 2], 3)), OutOfRange, "2 tokens for 4 prompts"),
    "a target against itself": (dict(metric=probe.logit_difference(3, 3)), BadPrompt, "the same token"),
    "a metric of another shape": (dict(metric=lambda logits: logits.mean()), BadShape, "one number for each row"),
    "a metric that is no tensor": (dict(metric=lambda logits: 0.0), BadShape, "float"),
    "a metric of NaN": (
        dict(metric=probe.custom_metric(nan_on_the_second, takes_prompts=True)), NumbersBroke, "nan on prompt 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "said"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_swept_is_said_before_any_unit_is(arguments, error, said, monkeypatch, as_users_run_it):
    monkeypatch.setattr(RecordedRun, "logits", lambda *_: pytest.fail("a unit was run"))
    with pytest.raises(error, match=said):
        sweep(tiny_model(), **{"prompts": PROMPTS, **arguments})


@pytest.mark.model
def test_a_target_of_several_tokens_is_shown_in_pieces(default_model):
    with pytest.raises(BadPrompt, match="one token"):
        sweep(default_model, ["The cat", "The dog"], metric=probe.logit_difference(" antidisestablishment", " is"))


def test_one_prompt_has_no_interval():
    found = sweep(tiny_model(), PROMPTS[0], value="zero")
    with pytest.raises(OutOfRange, match="has no interval"):
        _ = found.evidence


def test_sweeps_save_what_repeats_them(tmp_path):
    found = sweep(tiny_model())
    found.save(tmp_path / "out")
    assert found.manifest["method_arguments"]["value"] == "mean"
    assert found.manifest["method_arguments"]["tokens"] == [[5, 7]] * 4
    assert len(found.manifest["prompts"]) == 4


def test_tiny_configs_differ_in_what_the_engine_must_handle():
    assert LLAMA.kv_heads < LLAMA.n_heads and LLAMA.positions == "rotary" and GPT2.positions == "learned"


def test_values_of_another_prompt_come_from_any_that_has_the_positions():
    """The second prompt is the only other one, and shorter."""
    model, prompts = tiny_model(), ["abcdef", "gfe"]
    found = sweep(model, prompts, value="resample", positions=[1], n_draws=2)
    recorded = probe.record(model, prompts[1])
    for number in (0, 7):
        new = lambda part, position: part_of(recorded, part)[position]  # noqa: E731
        expected = replaced(model, prompts, 0, found.units[number], new, [1])
        plain = probe.record(model, prompts[0], sites=[]).logits[0, -1]
        change = (expected[5] - expected[7]) - (plain[5] - plain[7])
        assert float(found.effects[number, 0]) == pytest.approx(float(change), abs=EXACT)
