"""Tables in long form of what holds tensors or lists: every number in its place, and never too many of them."""

import pandas
import pytest
import torch

import probe
from probe.errors import OutOfRange, SiteNotRecorded, UnknownName
from probe.interventions import zero
from probe.sites import site_dims
from probe.words import from_arrays
from tests.tiny import WordTokenizer, tiny_model, tiny_tokens

RAGGED = ["abcde", "fgh"]


@pytest.fixture(scope="module")
def rec():
    return probe.record(tiny_model(), RAGGED)


@pytest.mark.parametrize(
    "site", ["embed", "resid_post", "q", "k", "pattern", "attn_scores", "ln1.scale", "post", "logits"]
)
def test_every_number_of_a_site_stands_where_its_dims_say(rec, site):
    table = rec.to_dataframe(site)
    dims = ("batch", "pos", "d_vocab_out") if site == "logits" else site_dims(site)
    assert [name for name in table.columns if name not in ("layer", "token")] == [*dims, "value"]
    in_block = "layer" in table
    assert in_block == (site not in ("embed", "logits"))
    for row in table.sample(min(60, len(table)), random_state=0).to_dict("records"):
        value = rec[site, row["layer"]] if in_block else rec[site]
        assert float(value[tuple(row[dim] for dim in dims)]) == row["value"]
        assert row["token"] == RAGGED[row["batch"]][row[dims[2 if "query_pos" in dims else 1]]]
    pads = sum(rec[site, layer].isnan().sum() for layer in range(3)) if in_block else rec[site].isnan().sum()
    whole = rec.stack(site).numel() if in_block else rec[site].numel()
    assert len(table) == whole - int(pads) > 0


def test_one_layer_by_short_or_full_name_is_that_part_of_all_layers(rec):
    one = rec.to_dataframe(("z", 2))
    pandas.testing.assert_frame_equal(one, rec.to_dataframe("blocks.2.attn.hook_z"))
    whole = rec.to_dataframe("z")
    pandas.testing.assert_frame_equal(one, whole[whole.layer == 2].reset_index(drop=True))


def test_positions_and_heads_that_were_chosen_keep_their_numbers():
    model = tiny_model()
    few = probe.record(model, RAGGED, sites=["q", "k"], positions=[-1, 0], heads=[1], layers=[0, 2])
    whole = probe.record(model, RAGGED, sites=["q", "k"], layers=[0, 2])
    for site, head in (("q", "head"), ("k", "kv_head")):
        wanted = whole.to_dataframe(site).query(f"{head} == 1")
        last = wanted.groupby("batch").pos.transform("max")
        wanted = wanted[(wanted.pos == 0) | (wanted.pos == last)]
        found = few.to_dataframe(site).sort_values(["layer", "batch", "pos", "d_head"])
        pandas.testing.assert_frame_equal(found.reset_index(drop=True), wanted.reset_index(drop=True), rtol=1e-5)


def test_a_mean_over_prompts_has_the_dims_that_are_left():
    how = {"z": "mean", "resid_post": "mean per position", "q": lambda value, real: value.sum()}
    rec = probe.record(tiny_model(), [[1, 2, 3], [4, 5, 6]], sites=["embed"], reduce=how, positions=[1, 2])
    assert list(rec.to_dataframe("z").columns) == ["layer", "head", "d_head", "value"]
    per_position = rec.to_dataframe(("resid_post", 1))
    assert list(per_position.columns) == ["layer", "pos", "d_model", "value"] and set(per_position.pos) == {1, 2}
    assert per_position.value.tolist() == rec["resid_post", 1].flatten().tolist()
    dims = rec.to_dataframe().set_index("name").dims
    assert dims["blocks.0.attn.hook_z"] == "head d_head" and dims["blocks.0.hook_resid_post"] == "pos d_model"
    assert dims["blocks.0.attn.hook_q"] == ""
    with pytest.raises(UnknownName, match="reduced by a function, so its dims are not known"):
        rec.to_dataframe("q")


def test_a_loaded_recording_a_single_prompt_and_half_precision_give_the_same_table(tmp_path):
    rec = probe.record(tiny_model(), RAGGED, sites="z", dtype="bfloat16", heads=[3, 1])
    rec.save(tmp_path / "rec")
    table = rec.to_dataframe("z")
    assert set(table["head"]) == {1, 3} and table.value.dtype == "float32"
    pandas.testing.assert_frame_equal(probe.Recording.load(tmp_path / "rec").to_dataframe("z"), table)
    alone = table[table.batch == 1].assign(batch=0).reset_index(drop=True)
    pandas.testing.assert_frame_equal(rec.prompt(1).to_dataframe("z"), alone)


def test_without_tokens_there_is_no_column_of_them():
    rec = probe.record(tiny_model(), torch.randn(1, 3, 32), start_at_layer=1, sites="z")
    assert list(rec.to_dataframe("z").columns) == ["layer", "batch", "pos", "head", "d_head", "value"]


def test_a_table_that_would_be_too_large_is_refused_before_it_is_made(rec, monkeypatch):
    monkeypatch.setattr("probe.tables.MOST_ROWS", 3000)
    assert len(rec.to_dataframe(("pattern", 0))) == 4 * (25 + 9)
    with pytest.raises(OutOfRange, match="'resid_post': a table of 960 rows, and 900 are the most; name one layer"):
        monkeypatch.setattr("probe.tables.MOST_ROWS", 900)
        rec.to_dataframe("resid_post")
    words = from_arrays("mine", [f"w{n}" for n in range(50)], torch.randn(50, 20))
    with pytest.raises(OutOfRange, match="50 words: a table of 1,000 rows, and 900 are the most; name some words"):
        words.to_dataframe()


def test_what_was_not_kept_is_the_error_of_reading_it(as_users_run_it):
    rec = probe.record(tiny_model(), RAGGED, sites="z", layers=[1], logits=False)
    for site, error, said in [
        ("q", SiteNotRecorded, "record it with sites=\\['q'\\]"), (("z", 0), SiteNotRecorded, "layers=\\[0\\]"),
        (("z", 9), OutOfRange, "layers 0 to 2"), ("zz", UnknownName, "did you mean"),
        ("logits", SiteNotRecorded, "logits were not kept"), (("z", 1, 2), UnknownName, "expected a full name"),
    ]:  # fmt: skip
        with pytest.raises(error, match=said):
            rec.to_dataframe(site)


def test_effects_of_interventions_are_a_table_as_they_are():
    rec = probe.record(tiny_model(), RAGGED, interventions=[zero("z", layer=1, heads=[1]), zero("mlp_out")])
    table = pandas.DataFrame(rec.effects)
    assert list(table.columns) == ["intervention", "sites", "entries"] and table.entries.tolist() == [8, 24]


def test_a_task_is_a_table_of_its_prompts():
    task = probe.load_task(tiny_model(), "induction", 5)
    table = task.to_dataframe()
    assert table.text.tolist() == list(task.texts) and table.corrupted.tolist() == list(task.corrupted_texts)
    assert table.target_id.tolist() == list(task.targets) and table.against_id.tolist() == list(task.against)
    assert table.n_tokens.tolist() == [len(ids) for ids in task.prompts] and table.prompt.tolist() == [*range(5)]


def test_the_groups_of_a_task_are_columns():
    task = probe.Task(
        "gender", "?", "", False, ("a", "b"), ("c", "d"), ((1,), (2,)), ((3,), (4,)), (1, 2), (2, 1), ("x", "y"),
        {"template": (0, 1), "filler": (4, 4)}, {},
    )  # fmt: skip
    assert task.to_dataframe()[["template", "filler", "kind"]].values.tolist() == [[0, 4, "x"], [1, 4, "y"]]


def test_word_pairs_say_which_are_held_out():
    pairs = probe.load_pairs("plurality")
    table = pairs.to_dataframe()
    assert list(zip(table.positive, table.negative, strict=True)) == list(pairs.all)
    assert table.held_out.sum() == len(pairs.held_out) > 0


def test_word_vectors_are_a_table_of_the_words_asked_for():
    words = from_arrays("mine", ["a", "b", "c"], torch.arange(6.0).reshape(3, 2))
    assert words.to_dataframe(["c", "a"]).values.tolist() == [
        ["c", 0, 4.0],
        ["c", 1, 5.0],
        ["a", 0, 0.0],
        ["a", 1, 1.0],
    ]
    assert words.to_dataframe().value.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UnknownName, match="'d'"):
        words.to_dataframe(["d"])


def test_the_distribution_behind_a_step_is_a_table_at_any_temperature():
    model = tiny_model()
    model.tokenizer = WordTokenizer()
    step = probe.generate(model, [1, 2, 3], max_tokens=1, seed=0, listed=5, stop=[]).run().steps[0]
    table = step.distribution.to_dataframe(0.5)
    assert table.token.tolist() == step.distribution.texts and table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table.probability.tolist() == step.distribution.probabilities(0.5).tolist()
    assert table.token_id.tolist() == step.distribution.tokens.tolist()
    assert table.logit.tolist() == step.distribution.logits.tolist()


def test_a_plan_of_a_sweep_is_one_row():
    plan = probe.plan_ablation(tiny_model(), tiny_tokens(), metric=probe.logit_difference(5, 7))
    assert plan.to_dataframe().iloc[0].to_dict() == {
        "edited_passes": plan.rows, "batches": plan.batches, "megabytes": plan.bytes / 1e6,
        "tflop": plan.flops / 1e12, "seconds": plan.seconds,
    }  # fmt: skip
