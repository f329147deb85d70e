"""Head scores against a model of which everything is known, and against loops over every weight."""

import dataclasses
import math

import pytest
import torch

import probe
from probe.errors import BadIntervention, BadPrompt, NotSaved, OutOfRange, SiteNotRecorded, UnknownName
from probe.methods.heads import SCORES, head_scores, read_head_scores
from probe.tasks import repeated_random_tokens
from tests.induction import INDUCTION, PREVIOUS, VOCAB, induction_model
from tests.tiny import CONFIGS, GPT2, tiny_model

TEXTS = [[3, 1, 4, 1, 5, 9, 1, 4], [2, 7, 2, 7, 7, 0]]


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def loop(pattern, ids, score):
    """Of one head on one prompt: the values of the queries where the score is defined."""
    found = []
    for q in range(len(ids)):
        row = pattern[q].tolist()
        if score == "previous token":
            keys = [q - 1] if q >= 2 else []
        elif score == "duplicate token":
            keys = [k for k in range(1, q) if ids[k] == ids[q]]
        elif score == "induction":
            keys = [k for k in range(1, q) if ids[k - 1] == ids[q]]
        elif score == "first token":
            keys = [0] if q >= 1 else []
        else:
            if q < 2:
                continue
            rest = sum(row[1 : q + 1])
            shares = {k: row[k] / rest for k in range(1, q + 1)}
            if score == "entropy":
                found.append(-sum(p * math.log(p) for p in shares.values() if p > 0) / math.log(q))
            else:
                found.append(sum(p * (q - k) for k, p in shares.items()))
            continue
        if keys:
            found.append(sum(row[k] for k in keys))
    return found


def even(n):
    return [[1 / (q + 1) if k <= q else 0.0 for k in range(n)] for q in range(n)]


def test_the_planted_heads_are_found_and_no_others():
    scores = head_scores(induction_model(), n_random=4, random_length=10, document_start=True)
    for score, (layer, head) in (("previous token", PREVIOUS), ("induction", INDUCTION)):
        table = scores.of(score)
        assert float(table[layer, head]) > 0.97
        table = table.clone()
        table[layer, head] = 0.0
        assert float(table.max()) < 0.25
        assert scores.top(score, 1)[0][:2] == (layer, head)


def test_the_planted_model_predicts_what_is_repeated():
    """Otherwise the planted heads would not be an induction circuit."""
    ids = [0, *repeated_random_tokens(induction_model(), 1, 10, seed=0)[0]]
    says = induction_model()(torch.tensor([ids]))[0].argmax(-1).tolist()
    assert says[11:20] == ids[12:21]


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_means_over_queries(model, score):
    scores = head_scores(model, TEXTS, n_random=0)
    for layer in range(3):
        for head in range(4):
            values = []
            for ids in TEXTS:
                pattern = probe.record(model, ids, sites=["pattern"])["pattern", layer][0, head]
                values += loop(pattern, ids, score)
            assert float(scores.of(score)[layer, head]) == pytest.approx(sum(values) / len(values), abs=1e-5)
            assert int(scores.n_queries[0, SCORES.index(score)]) == len(values)


@pytest.mark.parametrize("score", SCORES)
def test_chance_is_what_even_attention_gets(model, score):
    values = [value for ids in TEXTS for value in loop(torch.tensor(even(len(ids))), ids, score)]
    assert head_scores(model, TEXTS, n_random=0).chance_of(score) == pytest.approx(sum(values) / len(values), abs=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_a_head_that_attends_evenly_scores_chance(score):
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.W_Q[1, 2].zero_()
        model.b_Q[1, 2].zero_()
    scores = head_scores(model, TEXTS, n_random=2, random_length=6)
    for source in ("text", "random"):
        expected = scores.chance_of(score, source)
        assert float(scores.of(score, source)[1, 2]) == pytest.approx(expected, abs=1e-5)


def test_several_texts_are_each_as_alone(model):
    both = head_scores(model, TEXTS, n_random=0)
    alone = [head_scores(model, [ids], n_random=0) for ids in TEXTS]
    counts = torch.stack([one.n_queries[0] for one in alone]).float()[..., None, None]
    values = torch.stack([one.values[0].nan_to_num() for one in alone])
    torch.testing.assert_close(both.values[0], (values * counts).sum(0) / counts.sum(0), atol=1e-6, rtol=0)
    spread = torch.stack([one.values[0] for one in alone]).std(0) / 2**0.5
    torch.testing.assert_close(both.standard_error[0], spread, atol=1e-6, rtol=0)
    assert alone[0].standard_error.isnan().all()


def test_scores_of_a_recording_are_those_of_a_pass_of_its_own(model):
    recording = probe.record(model, TEXTS, sites=["pattern"])
    read, own = read_head_scores(recording), head_scores(model, TEXTS, n_random=0)
    for name in ("values", "standard_error", "chance", "n_queries", "n_prompts"):
        torch.testing.assert_close(getattr(read, name), getattr(own, name), equal_nan=True, atol=1e-6, rtol=0)
    assert read.sources == own.sources == ("text",)


@pytest.mark.parametrize(
    ("prompts", "asked", "error", "message"),
    [
        (TEXTS[0][:2], {"sites": ["pattern"]}, BadPrompt, "a prompt of 2 tokens"),
        (TEXTS, {"sites": ["z"]}, SiteNotRecorded, "was not kept"),
        (TEXTS, {"sites": ["pattern"], "layers": 0}, SiteNotRecorded, "was not kept"),
        (TEXTS, {"sites": ["pattern"], "positions": -1}, SiteNotRecorded, "every head at every position"),
        (TEXTS, {"sites": ["pattern"], "heads": 1}, SiteNotRecorded, "every head at every position"),
        (TEXTS[0], {"sites": ["pattern"], "reduce": {"pattern": "mean"}}, SiteNotRecorded, "reduced over prompts"),
    ],
)
def test_a_recording_without_all_patterns_is_refused(model, prompts, asked, error, message):
    with pytest.raises(error, match=message):
        read_head_scores(probe.record(model, prompts, **asked))


def test_what_a_text_does_not_have_is_no_number_not_zero(model):
    scores = head_scores(model, [[1, 2, 3, 4]], n_random=0)
    assert scores.of("duplicate token").isnan().all() and scores.of("induction").isnan().all()
    assert math.isnan(scores.chance_of("induction"))
    assert int(scores.n_queries[0, SCORES.index("induction")]) == 0


def test_heads_without_a_score_are_not_listed_among_the_highest(model):
    found = head_scores(model, [[3, 1, 4]], n_random=0)
    assert found.top("induction") == [] and len(found.top("first token")) == 5


def test_a_context_too_short_for_random_prompts_is_said():
    model = probe.GPT(dataclasses.replace(GPT2, n_ctx=3))
    with pytest.raises(BadPrompt, match="a context of 3 holds too few; give texts or ids, and n_random=0"):
        head_scores(model, [[3, 1, 4]])
    assert head_scores(model, [[3, 1, 4]], n_random=0).top("first token")


def test_random_prompts_are_different_ordinary_tokens_twice():
    model = tiny_model("llama")
    model.tokenizer.special_ids = frozenset({0, 1, 2})
    prompts = repeated_random_tokens(model, 5, 20, seed=3)
    for ids in prompts:
        assert ids[:20] == ids[20:] and len(set(ids)) == 20 and min(ids) > 2
    assert prompts == repeated_random_tokens(model, 5, 20, seed=3) != repeated_random_tokens(model, 5, 20, seed=4)
    with pytest.raises(OutOfRange, match="^length=1: expected 2 to 47, the ordinary tokens of this model"):
        repeated_random_tokens(model, 5, 1, seed=3)


def test_both_sources_stand_side_by_side(model):
    scores = head_scores(model, TEXTS, n_random=2, random_length=6, document_start=True)
    assert scores.sources == ("text", "random")
    table = scores.to_dataframe()
    assert len(table) == 2 * len(SCORES) * 3 * 4
    row = table.query("source == 'text' and score == 'distance' and layer == 2 and head == 1")
    assert float(row["value"].iloc[0]) == pytest.approx(float(scores.of("distance", "text")[2, 1]))
    assert all(ids[0] == 0 for source in scores.manifest["prompts"].values() for ids in source)


def test_the_heads_that_score_highest_and_lowest_are_listed(model):
    scores = head_scores(model, n_random=2, random_length=6)
    table = scores.of("first token")
    highest, lowest = scores.top("first token", 1)[0], scores.top("first token", 1, largest=False)[0]
    assert highest[2] == float(table.max()) and lowest[2] == float(table.min())
    assert float(table[highest[0], highest[1]]) == highest[2]


def test_memory_is_that_of_one_layer(model):
    """Nothing larger than a row of scores is kept."""
    kept = []
    stack = probe.Recording.stack

    def watched(self, site):
        kept.extend(value.numel() for value in self.values.values())
        return stack(self, site)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(probe.Recording, "stack", watched)
        head_scores(model, TEXTS, n_random=0)
    assert set(kept) == {2 * len(SCORES) * 4}


def interrupt_after(monkeypatch, passes):
    """Ctrl-C in the middle of the next pass after so many."""
    run_layers, count = probe.GPT.run_layers, []

    def interrupted(self, *args, **rest):
        count.append(1)
        if len(count) > passes:
            raise KeyboardInterrupt
        return run_layers(self, *args, **rest)

    monkeypatch.setattr(probe.GPT, "run_layers", interrupted)


def test_an_interruption_returns_what_is_done(model, monkeypatch):
    first = head_scores(model, TEXTS[:1], n_random=0)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1)
        found = head_scores(model, TEXTS, n_random=2, random_length=4)
    assert found.sources == ("text",) and found.n_prompts.tolist() == [1] and not found.manifest["complete"]
    torch.testing.assert_close(found.values, first.values, atol=0, rtol=0, equal_nan=True)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_after(patched, 0)
        head_scores(model, TEXTS)


def test_with_a_folder_the_same_call_does_only_the_rest(model, monkeypatch, tmp_path):
    whole = head_scores(model, TEXTS, n_random=2, random_length=4)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_after(patched, 3)
        head_scores(model, TEXTS, n_random=2, random_length=4, folder=tmp_path)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1)  # one is missing
        found = head_scores(model, TEXTS, n_random=2, random_length=4, folder=tmp_path)
    torch.testing.assert_close(found.values, whole.values, atol=0, rtol=0, equal_nan=True)
    torch.testing.assert_close(found.standard_error, whole.standard_error, atol=0, rtol=0, equal_nan=True)
    with pytest.raises(NotSaved, match="holds the pieces of another call: prompts was"):
        head_scores(model, TEXTS, n_random=2, random_length=5, folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_random": 0}, BadPrompt, "no prompts: give texts, or n_random above 0"),
        ({"n_random": -1}, OutOfRange, "n_random=-1: expected 0 or more"),
        ({"random_length": 1}, OutOfRange, "random_length=1: expected 2 to 50"),
        ({"random_length": 51}, OutOfRange, "random_length=51: expected 2 to 50"),
        ({"random_length": 40}, BadPrompt, "80 tokens"),
        ({"prompts": [[1, 2]]}, BadPrompt, "a prompt of 2 tokens: scores need at least 3"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_runs(model, monkeypatch, arguments, error, message):
    def forbidden(*_, **__):
        raise AssertionError("ran")

    monkeypatch.setattr(probe.GPT, "run_layers", forbidden)
    with pytest.raises(error, match=message):
        head_scores(model, **arguments)


def test_a_score_that_does_not_exist_is_refused(model, as_users_run_it):
    scores = head_scores(model, n_random=1, random_length=4)
    with pytest.raises(UnknownName, match="no score 'inductoin'; did you mean 'induction'"):
        scores.top("inductoin")
    with pytest.raises(UnknownName, match="no source 'text'"):
        scores.of("induction", "text")


def test_the_vocabulary_is_used_whole_but_for_special_tokens():
    assert set(repeated_random_tokens(induction_model(), 1, VOCAB - 1, seed=0)[0]) == set(range(1, VOCAB))


def test_a_changed_model_is_scored_as_it_is_changed(model, tmp_path):
    ids = [3, 1, 4, 1, 5, 9, 1, 4]
    change = probe.add("resid_pre", torch.randn(model.config.d_model), layer=0)
    scores = head_scores(model, [ids], n_random=0, interventions=change)
    pattern = probe.record(model, ids, sites=["pattern"], interventions=change).stack("pattern")[:, 0]
    expected = [[sum(found := loop(head, ids, "induction")) / len(found) for head in layer] for layer in pattern]
    assert torch.allclose(scores.of("induction"), torch.tensor(expected, dtype=torch.float32), atol=1e-5)
    assert scores.manifest["method_arguments"]["interventions"] == [str(change)]
    with pytest.raises(BadIntervention, match="folder"):
        head_scores(model, [ids], n_random=0, interventions=change, folder=tmp_path / "new")


def test_even_attention_has_all_the_entropy_of_what_its_window_shows():
    model = tiny_model("neo")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
    scores = probe.head_scores(model, "abcdefghijkl", n_random=0, progress=False)
    torch.testing.assert_close(scores.of("entropy"), torch.ones(3, 4), atol=1e-5, rtol=0)
    read = probe.read_head_scores(probe.record(model, "abcdefghijkl", sites=["pattern"]))
    torch.testing.assert_close(read.of("entropy"), torch.ones(3, 4), atol=1e-5, rtol=0)
