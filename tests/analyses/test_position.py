"""The arithmetic of position.py, and its figure."""

import pytest
import torch
from _position import (
    BACK,
    TINY_CONFIGS,
    Readability,
    r_squared,
    random_prompts,
    read_linearly,
    readability,
    ridge,
    score_change,
    share_named,
    share_right,
    shuffle_rows,
    spread,
    train_tiny,
    turn_back,
    without_position,
)
from _position_figure import position_lines

import probe


@pytest.fixture(scope="module", params=list(TINY_CONFIGS))
def model(request):
    return train_tiny(request.param, 0)


@pytest.fixture(scope="module")
def rotary():
    return train_tiny("rotary", 0)


def test_r_squared_is_one_if_exact_zero_for_the_mean_and_negative_if_worse():
    true = torch.tensor([1.0, 2.0, 3.0])
    assert r_squared(true, true) == 1.0
    assert r_squared(torch.full((3,), 2.0), true) == 0.0
    assert r_squared(true.flip(0), true) == 1.0 - 8.0 / 2.0


def test_ridge_without_penalty_is_least_squares_and_with_one_shrinks():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((30, 4), (30,)))
    exact = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    torch.testing.assert_close(ridge(x, y, 0.0), exact)
    penalised = ridge(x, y, 5.0)
    torch.testing.assert_close(x.T @ (y - x @ penalised), 5.0 * penalised)  # where the gradient is zero
    assert penalised.norm() < exact.norm()


def test_a_position_that_is_a_direction_is_read_and_one_that_is_absent_is_not():
    generator = torch.Generator().manual_seed(0)
    position = torch.arange(1, 20).expand(40, -1)
    noise = torch.randn(40, 19, 8, generator=generator)
    held = noise + position[..., None] * torch.randn(8, generator=generator)
    assert read_linearly(held, position, position, n_fit=30) > 0.9
    assert read_linearly(noise, position, position, n_fit=30) < 0.05
    assert (
        read_linearly(held, shuffle_rows(position, seed=1), position, n_fit=30) < 0.3
    )  # disorder is in order by chance


def test_positions_with_directions_of_their_own_are_named_though_no_direction_grows_with_them():
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(40, 19, 30, generator=generator)
    own = torch.randn(19, 30, generator=generator)
    assert share_named(noise + own, n_fit=30) == 1.0
    assert share_named(noise, n_fit=30) < 0.2  # chance is 1 in 19
    late = torch.cat([(noise + own)[:30], (noise + own.roll(1, 0))[30:]])
    assert share_named(late, n_fit=30) == 0.0


def test_only_rows_that_were_not_fitted_are_tested():
    position = torch.arange(1, 20).expand(40, -1)
    held = position[..., None].float().repeat(1, 1, 2)
    reversed_later = torch.cat([held[:30], held[30:].flip(1)])
    assert read_linearly(reversed_later, position, position, n_fit=30) == pytest.approx(-3, abs=0.1)


def test_shuffled_rows_hold_the_same_positions_each_in_its_own_order():
    rows = torch.arange(30).expand(5, -1)
    shuffled = shuffle_rows(rows, seed=0)
    assert torch.equal(shuffled.sort(-1).values, rows)
    assert len({tuple(row) for row in shuffled.tolist()}) == 5


def test_what_is_right_is_the_token_some_places_before_without_position_0():
    tokens = torch.tensor([[7, 1, 2, 3, 4, 5, 6]])
    logits = torch.zeros(1, 7, 8)
    for position, said in ((BACK, 7), (BACK + 1, 1), (BACK + 2, 9 % 8), (BACK + 3, 3)):
        logits[0, position, said] = 1.0
    assert share_right(logits, tokens) == pytest.approx(2 / 3)  # 1 and 3 are right, 2 is not; 7 stands at position 0


def test_training_teaches_the_task():
    tokens = torch.randint(32, (8, 48), generator=torch.Generator().manual_seed(9))
    before, after = (train_tiny("rotary", steps) for steps in (0, 60))
    with torch.no_grad():
        assert share_right(after(tokens), tokens) > share_right(before(tokens), tokens) + 0.2


def test_queries_that_are_turned_back_are_the_unrotated_ones(rotary):
    tokens = random_prompts(rotary, 2, 12, seed=0)
    rec = probe.record(rotary, tokens, sites=["q", "rot_q"], layers=[0])
    assert not torch.allclose(rec["rot_q", 0], rec["q", 0], atol=1e-4)
    torch.testing.assert_close(turn_back(rotary, 12)(rec["rot_q", 0]), rec["q", 0], atol=1e-5, rtol=1e-4)


def test_without_position_a_model_sees_a_set(model):
    """What it says after the last token does not change with the order of those before."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.W_Q:
        weight.normal_(generator=generator)  # as drawn, attention is nearly even with positions too
    tokens = random_prompts(model, 1, 20, seed=0)
    mixed = torch.cat([tokens[:, :-1].flip(1), tokens[:, -1:]], dim=1)

    def said(prompt, edits=()):
        # of one layer: in a second one, vectors of earlier tokens differ, since each has seen others before it
        return probe.record(model, prompt, sites=["resid_post"], layers=[0], interventions=edits, stop_after_layer=0)[
            "resid_post", 0
        ][0, -1]

    edits = without_position(model, 20)
    if model.config.positions == "rotary":
        edits = [probe.edit(site, turn_back(model, 20), layer=0) for site in ("rot_q", "rot_k")]
    torch.testing.assert_close(said(tokens, edits), said(mixed, edits), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(said(tokens), said(mixed), atol=1e-4)


def test_every_place_is_read_the_embedding_of_a_token_tells_no_position(model):
    read = readability(model, n_fit=48, n_test=16, length=16)
    assert len(read.places) == len(read.r2) == len(read.shuffled_r2)
    learned = model.config.positions == "learned"
    assert read.places[: 1 + learned] == (("hook_embed",) if learned else ()) + ("blocks.0.hook_resid_pre",)
    assert read.r2[0] < 0.05
    if learned:
        assert read.r2[1] > 0.9  # position vectors are added there
    assert max(read.shuffled_r2) < 0.1


def test_rotation_keeps_scores_of_shifted_tokens_and_position_vectors_do_not():
    words = torch.randint(32, (6,), generator=torch.Generator().manual_seed(0))
    changes = {}
    for name in TINY_CONFIGS:
        largest, deviation = score_change(train_tiny(name, 0), words, 10)
        changes[name] = largest / deviation
    assert changes["rotary"] < 1e-4 < 0.1 < changes["GPT-2-like"]


def test_spread_is_the_largest_distance_as_a_share_of_the_first_length():
    vectors = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[3.0, 4.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.5]]])
    assert spread(vectors) == 1.0
    assert spread(vectors[:1]) == 0.0


def test_the_first_random_token_is_the_document_start_where_there_is_one(rotary):
    class Tokenizer:
        document_start_id = 31

    model = probe.GPT(rotary.config, tokenizer=Tokenizer())
    assert random_prompts(model, 20, 4, seed=0)[:, 0].tolist() == [31] * 20
    assert len(set(random_prompts(rotary, 20, 4, seed=0)[:, 0].tolist())) > 1


def test_the_figure_draws_both_readouts():
    read = Readability("m", ("hook_embed", "blocks.0.hook_resid_post"), (0.1, 0.9), (0.0, -0.1), (0.0, 1.0))
    for theme in ("light", "dark"):
        figure = position_lines(read, theme=theme)
        assert [list(line.y) for line in figure.data] == [[0.1, 0.9], [0.0, -0.1]]
        assert list(figure.layout.xaxis.ticktext) == ["token embedding", "layer 0"]
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
