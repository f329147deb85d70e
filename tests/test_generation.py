"""Generation against loops without a cache, without interventions' shortcuts, and against its own promises."""

import dataclasses
import threading

import pytest
import torch

import probe
from probe.attention import KeyValueCache
from probe.errors import BadIntervention, BadPrompt, OutOfRange, UnknownName
from probe.recording import record
from tests.tiny import CONFIGS, LLAMA, tiny_model

PROMPT = [3, 1, 4, 1, 5]
ROUNDING = 1e-4  # between a pass with a cache and one without


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def uncached(model, prompt, n, **arguments):
    """Greedy: the whole text run again for every token."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(record(model, ids, sites=[], **arguments).logits[0, -1].argmax()))
    return ids


def greedy(model, prompt=PROMPT, n=12, **arguments):
    return probe.generate(model, prompt, temperature=0, max_tokens=n, stop=[], **arguments).run()


def test_greedy_is_the_uncached_loop(model):
    assert greedy(model).ids == uncached(model, PROMPT, 12)


def test_cached_and_uncached_logits_agree(model):
    steps = greedy(model, listed="all").steps
    for number, step in enumerate(steps):
        text = [*PROMPT, *(one.token for one in steps[:number])]
        expected = record(model, text, sites=[]).logits[0, -1]
        order = step.distribution.tokens
        torch.testing.assert_close(step.distribution.logits, expected[order], atol=ROUNDING, rtol=0)


def test_steps_come_one_at_a_time(model, monkeypatch):
    passes = []
    extend = KeyValueCache.extend

    def counted(self, layer, k, v):
        if layer == 0:
            passes.append(k.shape[1])
        return extend(self, layer, k, v)

    monkeypatch.setattr(KeyValueCache, "extend", counted)
    generation = probe.generate(model, PROMPT, max_tokens=4, seed=0, stop=[])
    assert passes == []
    steps = iter(generation)
    next(steps)
    assert passes == [5]
    next(steps)
    assert passes == [5, 1] and len(generation.steps) == 2 and generation.ended is None
    assert len(list(generation)) == 4
    assert passes == [5, 1, 1, 1] and generation.ended == "max tokens"
    assert [step.token for step in generation] == generation.ids[5:]
    assert passes == [5, 1, 1, 1]


def test_a_seed_repeats_and_another_does_not(model):
    def ids(seed):
        return probe.generate(model, PROMPT, max_tokens=20, temperature=2.0, seed=seed, stop=[]).run().ids

    assert ids(7) == ids(7) != ids(8)


def test_every_step_draws_a_number_of_its_own(model):
    steps = probe.generate(model, PROMPT, max_tokens=20, temperature=2.0, seed=7, stop=[]).run().steps
    assert len({step.drawn for step in steps}) == 20


def test_a_longer_run_of_a_seed_begins_like_a_shorter_one(model):
    short, long = (
        probe.generate(model, PROMPT, max_tokens=n, temperature=2.0, seed=7, stop=[]).run().ids for n in (5, 20)
    )
    assert long[: len(short)] == short


def test_without_a_seed_one_is_drawn_and_kept(model):
    first = probe.generate(model, PROMPT, max_tokens=8, temperature=2.0, stop=[]).run()
    seed = first.manifest["method_arguments"]["seed"]
    again = probe.generate(model, PROMPT, max_tokens=8, temperature=2.0, stop=[], seed=seed).run()
    assert again.ids == first.ids
    assert len({probe.generate(model, PROMPT).manifest["method_arguments"]["seed"] for _ in range(4)}) > 1


def test_each_step_says_how_its_token_was_chosen(model):
    generation = probe.generate(model, PROMPT, max_tokens=6, temperature=1.5, top_k=10, seed=3, stop=[]).run()
    for number, step in enumerate(generation.steps):
        text = [*PROMPT, *(one.token for one in generation.steps[:number])]
        logits = record(model, text, sites=[]).logits[0, -1].double()
        order = logits.argsort(descending=True)
        chances = torch.zeros(50, dtype=torch.float64)
        chances[order[:10]] = (logits[order[:10]] / 1.5).softmax(0)
        assert step.probability == pytest.approx(float(chances[step.token]), abs=1e-3)
        assert step.model_probability == pytest.approx(float(logits.softmax(0)[step.token]), abs=1e-3)
        assert step.rank == int((logits > logits[step.token]).sum()) + 1
        log_probs = logits.log_softmax(0)
        assert step.entropy == pytest.approx(float(-(log_probs.exp() * log_probs).sum()), abs=1e-3)
        assert step.surprise == pytest.approx(-float(log_probs[step.token]), abs=1e-2)
        cumulative = chances[order].cumsum(0)
        place = order.tolist().index(step.token)
        before = float(cumulative[place - 1]) if place else 0.0
        assert step.drawn is not None and before - 1e-3 <= step.drawn <= float(cumulative[place]) + 1e-3
        assert step.position == len(text)


def test_one_token_to_choose_from_is_greedy(model):
    assert probe.generate(model, PROMPT, max_tokens=12, top_k=1, stop=[]).run().ids == greedy(model).ids
    assert probe.generate(model, PROMPT, max_tokens=12, top_p=1e-9, stop=[]).run().ids == greedy(model).ids


def test_greedy_draws_no_number(model):
    assert {step.drawn for step in greedy(model).steps} == {None}
    assert {step.probability for step in greedy(model).steps} == {1.0}


def test_it_ends_after_a_stop_token(model):
    tokens = greedy(model).ids[len(PROMPT) :]
    stop = tokens[3]
    ended = probe.generate(model, PROMPT, temperature=0, max_tokens=12, stop=[stop]).run()
    assert ended.ids == [*PROMPT, *tokens[: tokens.index(stop) + 1]] and ended.ended == "end token"


def test_it_ends_where_the_context_is_full(model):
    prompt = list(range(1, 50)) + list(range(1, 12))  # 60 of 64
    generation = probe.generate(model, prompt, temperature=0, max_tokens=20, stop=[]).run()
    assert len(generation.ids) == 64 and generation.ended == "context full"


def test_the_text_leaves_out_the_end_token():
    model = tiny_model("llama")
    tokens = greedy(model).ids[len(PROMPT) :]
    generation = probe.generate(model, PROMPT, temperature=0, max_tokens=12, stop=[tokens[2]]).run()
    model.tokenizer.decode = lambda ids: "".join(chr(token + 96) for token in ids)
    assert generation.text == "".join(chr(token + 96) for token in tokens[:2])


def test_ids_work_without_a_tokenizer(model):
    model.tokenizer = None
    generation = greedy(model)
    assert generation.steps[0].text == f"[{generation.ids[5]}]"
    assert generation.text == "".join(f"[{token}]" for token in generation.ids[5:])


def test_an_interruption_loses_nothing(model, monkeypatch):
    whole = probe.generate(model, PROMPT, max_tokens=9, temperature=2.0, seed=1, stop=[]).run()
    generation = probe.generate(model, PROMPT, max_tokens=9, temperature=2.0, seed=1, stop=[])
    extend = KeyValueCache.extend

    def interrupted(self, layer, k, v):
        if layer == 1 and self.length == 8:  # in the middle of a pass
            raise KeyboardInterrupt
        return extend(self, layer, k, v)

    with monkeypatch.context() as patched:
        patched.setattr(KeyValueCache, "extend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generation.run()
    assert 0 < len(generation.steps) < 9
    assert generation.run().ids == whole.ids
    for ours, theirs in zip(generation.steps, whole.steps, strict=True):
        torch.testing.assert_close(ours.distribution.logits, theirs.distribution.logits, atol=0, rtol=0)


def test_a_branch_shares_what_came_before_and_goes_on(model):
    generation = greedy(model)
    other = (generation.steps[4].token + 1) % 50
    branch = generation.branch(4, other).run()
    shared = generation.ids[: len(PROMPT) + 4]
    assert list(branch.prompt) == [*shared, other]
    assert branch.ids == uncached(model, [*shared, other], 12)
    assert len(generation.steps) == 12


def test_a_branch_takes_the_text_of_a_token():
    model = tiny_model("llama")
    model.tokenizer.token_id = lambda text: {"b": 2}[text]
    assert greedy(model).branch(0, "b").prompt == (*PROMPT, 2)


def test_a_branch_at_a_step_or_token_that_does_not_exist_is_refused(model):
    generation = greedy(model)
    with pytest.raises(OutOfRange, match=r"step 12: this generation, so far, has steps 0 to 11"):
        generation.branch(12, 1)
    with pytest.raises(OutOfRange, match="token id 50"):
        generation.branch(0, 50)
    with pytest.raises(OutOfRange, match="seed=-1: expected an integer of 0 or more"):
        generation.branch(0, 1, seed=-1)


def test_a_branch_is_given_integers(as_users_run_it):
    generation = greedy(tiny_model())
    for name in ("step", "seed", "max_tokens"):
        for value in (True, 2.5, "x", [2]):
            with pytest.raises(OutOfRange, match=f"^{name}=.*: expected an integer$"):
                generation.branch(**{"step": 0, "token": 1, name: value})


INTERVENTIONS = {
    "zero a head": lambda: probe.zero("z", layer=1, heads=2),
    "scale an MLP": lambda: probe.scale("mlp_out", 0.3),
    "steer": lambda: probe.add("resid_post", torch.linspace(-3, 3, 32), layer=0),
    "edit a pattern": lambda: probe.edit("pattern", lambda p: p.flip(1), layer=1),
    "one position of the prompt": lambda: probe.zero("resid_mid", layer=1, positions=2),
    "the pattern of one generated position": lambda: probe.replace(
        "pattern", torch.tensor([0.0, 0.0, 0.0, 0.0, 0.9, 0.1]), layer=1, positions=5
    ),
    "one generated position": lambda: probe.scale("attn_out", 4.0, positions=8),
    "before and after the prompt ends": lambda: probe.scale("mlp_out", -2.0, layer=0, positions=[1, 4, 5, 9]),
    "keys": lambda: probe.scale("k", 2.0, heads=1),
}


@pytest.mark.parametrize("make", INTERVENTIONS.values(), ids=INTERVENTIONS)
def test_interventions_are_those_of_a_loop_that_runs_the_whole_text(model, make):
    if "kv_head" not in probe.site_dims("k") or model.config.kv_heads < 2:
        pytest.skip("no second key head")
    plain, edited = greedy(model), greedy(model, interventions=make(), listed="all")
    ids = list(PROMPT)
    for step in edited.steps:
        reach = make().where.get("positions")
        beyond = reach is not None and max([reach] if isinstance(reach, int) else reach) >= len(ids)
        if not beyond and make().operand_shape in ((), (32,), (len(ids),)):  # a row of weights fits one length only
            expected = record(model, ids, sites=[], interventions=make()).logits[0, -1]
            found = step.distribution.logits[step.distribution.tokens.argsort()]
            torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)
        ids.append(step.token)
    pairs = zip(edited.steps, plain.steps, strict=True)
    assert any(
        float(ours.distribution.logits.max()) != float(theirs.distribution.logits.max()) for ours, theirs in pairs
    )


def test_minus_one_is_the_newest_token_of_every_step(model):
    """Of all earlier steps too: their keys and values were made from edited streams."""
    vector = torch.linspace(-3, 3, 32)
    found = greedy(model, interventions=probe.add("resid_mid", vector, layer=0, positions=-1), n=6)
    ids = list(PROMPT)
    for _ in range(6):
        positions = list(range(len(PROMPT) - 1, len(ids)))
        edited = probe.add("resid_mid", vector, layer=0, positions=positions)
        ids.append(int(record(model, ids, sites=[], interventions=edited).logits[0, -1].argmax()))
    assert found.ids == ids


def test_effects_are_summed_over_all_steps(model):
    generation = greedy(
        model, n=6, interventions=[probe.zero("z", layer=0, heads=1), probe.scale("mlp_out", 2.0, layer=2, positions=7)]
    )
    everywhere, once = generation.effects
    assert everywhere.entries == 5 + 5  # the last token is not run
    assert once.entries == 1 and once.sites == ("blocks.2.hook_mlp_out",)


SCALED = {
    "dynamic": probe.RotaryScaling("dynamic", factor=2.0, original_n_ctx=8),
    "longrope": probe.RotaryScaling(
        "longrope", factor=4.0, original_n_ctx=8, short_factor=(1.0,) * 4, long_factor=(1.0, 2.0, 3.0, 4.0)
    ),
}


@pytest.mark.parametrize("scaling", SCALED.values(), ids=SCALED)
def test_a_text_that_grows_beyond_the_original_context_is_that_of_a_loop_that_runs_the_whole_text(scaling):
    """From there on, one token more turns all those before it by other angles."""
    model = probe.GPT(dataclasses.replace(LLAMA, rotary_scaling=scaling))
    model.load_state_dict(tiny_model("llama").state_dict())
    vector = torch.linspace(-3, 3, 32)
    steered = probe.add("resid_mid", vector, layer=0, positions=-1)
    found = greedy(model, interventions=steered, n=8, listed="all")
    ids = list(PROMPT)
    for step in found.steps:
        positions = list(range(len(PROMPT) - 1, len(ids)))
        edited = probe.add("resid_mid", vector, layer=0, positions=positions)
        expected = record(model, ids, sites=[], interventions=edited).logits[0, -1]
        listed = step.distribution.logits[step.distribution.tokens.argsort()]
        torch.testing.assert_close(listed, expected, atol=ROUNDING, rtol=0)
        ids.append(step.token)
    assert found.effects[0].entries == 8
    cache = KeyValueCache(20)
    model(torch.tensor([ids[:8]]), cache=cache)
    with pytest.raises(BadPrompt, match="8 tokens that it has seen would be turned by other angles in a text of 9"):
        model(torch.tensor([ids[8:9]]), cache=cache)


def test_nothing_stays_on_the_model(model):
    before = greedy(model).ids
    greedy(model, interventions=probe.zero("z"))
    assert greedy(model).ids == before


def test_threads_share_one_model(model):
    expected = {
        seed: probe.generate(model, PROMPT, temperature=2.0, seed=seed, stop=[], max_tokens=20).run().ids
        for seed in range(4)
    }
    found = {}

    def work(seed):
        found[seed] = probe.generate(model, PROMPT, temperature=2.0, seed=seed, stop=[], max_tokens=20).run().ids

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_the_table_and_the_folder_hold_every_step(model, tmp_path):
    generation = probe.generate(model, PROMPT, max_tokens=5, seed=0, stop=[]).run()
    table = generation.to_dataframe()
    assert table["token_id"].tolist() == generation.ids[5:]
    assert table["surprise_nats"].tolist() == [step.surprise for step in generation.steps]
    folder = generation.save(tmp_path / "kept")
    assert {path.name for path in folder.iterdir()} == {"table.csv", "alternatives.csv", "manifest.json", "SHA256SUMS"}
    assert generation.manifest["generated"] == generation.ids[5:] and generation.manifest["ended"] == "max tokens"
    listed = generation.alternatives()
    assert len(listed) == 5 * 50 and listed.groupby("step")["model_probability"].sum().between(0.999, 1.001).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": -1}, OutOfRange, "temperature=-1: expected 0"),
        ({"top_p": 0}, OutOfRange, "top_p=0: expected above 0"),
        ({"top_k": 0}, OutOfRange, "top_k=0: expected 1 or more"),
        ({"max_tokens": 0}, OutOfRange, "max_tokens=0: expected 1 or more"),
        ({"max_tokens": 2.5}, OutOfRange, "max_tokens=2.5: expected an integer"),
        ({"seed": -1}, OutOfRange, "seed=-1: expected an integer of 0 or more"),
        ({"seed": "x"}, OutOfRange, "seed='x': expected an integer"),
        ({"listed": 0}, OutOfRange, "listed=0: expected 1 to 50 tokens, or 'all'"),
        ({"stop": [77]}, OutOfRange, "token id 77"),
        ({"prompt": []}, BadPrompt, "empty"),
        ({"prompt": [[1, 2], [3, 4]]}, BadPrompt, "2 prompts: a generation continues one"),
        ({"prompt": [1] * 64}, BadPrompt, "prompt of 64 tokens: this model's context holds 64, so there is no room"),
        ({"prompt": [1] * 65}, BadPrompt, "65 tokens"),
        ({"prompt": [99]}, OutOfRange, "token id 99"),
        ({"interventions": probe.zero("zz")}, UnknownName, "no site 'zz'"),
        ({"interventions": probe.zero("z", heads=9)}, OutOfRange, "head 9"),
        ({"interventions": probe.zero("z", positions=-2)}, BadIntervention, "position -2 is run once and not again"),
        ({"interventions": probe.zero("z", positions=54)}, OutOfRange, "run at most 54 tokens"),
        (
            {"interventions": probe.zero("zz", positions=20)}, UnknownName, "no site 'zz'",
        ),
        (
            {"interventions": probe.add("resid_mid", torch.ones(5, 32))}, BadIntervention,
            r"operand of shape \(5, 32\) does not fit",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_runs(
    model, as_users_run_it, monkeypatch, arguments, error, message
):
    def forbidden(*_, **__):
        raise AssertionError("ran")

    monkeypatch.setattr(probe.GPT, "run_layers", forbidden)
    with pytest.raises(error, match=message):
        probe.generate(model, **{"prompt": PROMPT, **arguments})


def test_a_weight_that_is_no_number_is_an_error_not_a_token(model):
    with torch.no_grad():
        model.blocks[1].mlp.W_out[0, 0] = torch.nan
    with pytest.raises(probe.ProbeError, match="NaN"):
        greedy(model)


@pytest.mark.model
def test_the_default_model_ends_at_its_own_end_token(default_model):
    generation = probe.generate(
        default_model, "One, two, three, four,", document_start=True, temperature=0, max_tokens=8
    )
    assert generation.run().text.startswith(" five, six")
    stops = generation.manifest["method_arguments"]["stop"]
    assert set(stops) == {default_model.tokenizer.eos_id, default_model.tokenizer.document_start_id}
