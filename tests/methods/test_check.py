"""`check_model`: sound models pass, and each kind of mistake fails the identity that is about it."""

import pytest
import torch

import probe.attention
import probe.weights.parity
from probe.attention import Attention
from probe.config import GPTConfig
from probe.errors import UnsupportedModel
from probe.gpt import GPT, Block
from probe.methods.check import IDENTITIES, check_model
from tests.tiny import CONFIGS, LLAMA, tiny_model

SUM, HEADS, ROWS, AHEAD, LOGITS, FUSED, BATCH, PADDED, MIDDLE = IDENTITIES


def failed(model: GPT) -> set[str]:
    return {row.identity for row in check_model(model).rows if not row.passed}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_sound_model_passes_in_every_dtype(family, dtype):
    report = check_model(tiny_model(family, scale=5.0).to(dtype))
    assert report.passed, report.to_dataframe()
    assert len(report.rows) == len(IDENTITIES)


def test_the_tolerance_is_stricter_in_a_more_precise_dtype():
    single, double = check_model(tiny_model()), check_model(tiny_model().double())
    for coarse, fine in zip(single.rows, double.rows, strict=True):
        assert fine.tolerance < 1e-8 * max(coarse.tolerance, 1e-12) or coarse.tolerance == 0


def test_a_model_with_one_layer_and_a_context_of_one_token_passes():
    model = GPT(GPTConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=8, d_vocab=9, n_ctx=1))
    assert failed(model) == set()


def test_something_added_to_the_stream_beside_attention_and_mlp_fails_the_sum(monkeypatch):
    sound = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, resid, *a, **k: sound(self, resid * 1.001, *a, **k))
    assert SUM in failed(tiny_model())


def test_rounding_of_what_is_added_and_taken_away_again_is_no_mistake():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.b_out[0].add_(1e4)
        model.b_out[2].sub_(1e4)
    assert SUM not in failed(model)


def test_an_output_projection_that_is_not_applied_as_stored_fails_the_heads(monkeypatch):
    def perturbed(x, weight, offset):
        return sound(x, weight if weight.shape != (32, 32) else weight * 1.001, offset)

    sound = probe.attention.affine
    monkeypatch.setattr(probe.attention, "affine", perturbed)
    assert HEADS in failed(tiny_model())


def test_a_softmax_that_leaves_something_out_fails_the_rows(monkeypatch):
    def leaky(self, q, k, v, tap):
        class Leaky:
            wants, scope = tap.wants, tap.scope

            def __call__(self, name, value):
                return tap(name, value * 0.999 if name == "hook_pattern" else value)

        return sound(self, q, k, v, Leaky())

    sound = Attention.step_by_step
    monkeypatch.setattr(Attention, "step_by_step", leaky)
    assert {ROWS, FUSED} <= failed(tiny_model())


def test_a_mask_that_lets_one_token_look_ahead_fails(monkeypatch):
    monkeypatch.setattr(
        probe.attention,
        "visible_keys",
        lambda n, m, window, device: torch.ones(n, m, dtype=torch.bool, device=device).tril(1),
    )
    assert {AHEAD, FUSED} <= failed(tiny_model())


def test_a_read_out_that_depends_on_the_pass_fails_the_logits(monkeypatch):
    model, sound, calls = tiny_model(), GPT.read_out, []

    def drifting(self, resid, **options):
        calls.append(1)
        return sound(self, resid, **options) * (1 + 0.01 * len(calls))

    monkeypatch.setattr(GPT, "read_out", drifting)
    assert LOGITS in failed(model)


def test_fused_attention_with_another_scale_fails(monkeypatch):
    sound = Attention.fused

    def wrong(self, q, k, v):
        return sound(self, q * 1.01, k, v)

    monkeypatch.setattr(Attention, "fused", wrong)
    assert FUSED in failed(tiny_model())


def test_rows_that_see_each_other_fail_the_batch(monkeypatch):
    sound = Block.forward

    def mixed(self, resid, *arguments, **options):
        return sound(self, resid + 0.01 * (resid.mean(0, keepdim=True) - resid), *arguments, **options)

    monkeypatch.setattr(Block, "forward", mixed)
    assert {BATCH, PADDED} <= failed(tiny_model())


def test_a_layer_that_depends_on_where_the_pass_began_fails_the_middle(monkeypatch):
    sound = GPT.run_layers

    def wrong(self, resid, *, start_at_layer=0, **options):
        return sound(self, resid * (1.01 if start_at_layer else 1.0), start_at_layer=start_at_layer, **options)

    monkeypatch.setattr(GPT, "run_layers", wrong)
    assert failed(tiny_model()) == {MIDDLE}


def test_a_broken_weight_fails_everything_and_raises_nothing():
    model = tiny_model()
    with torch.no_grad():
        model.W_O[1, 0][0, 0] = torch.nan
    report = check_model(model)
    assert not report.passed and not any(row.passed for row in report.rows[:1])


def test_a_saved_model_agrees_with_hugging_face(tmp_path):
    model = tiny_model("gpt2", scale=5.0)
    model.tokenizer = None
    model.save(tmp_path / "model")
    report = check_model(model, source=str(tmp_path / "model"))
    assert report.passed and report.rows[-1].identity == "logits = those of Hugging Face"
    with torch.no_grad():
        model.blocks[1].attn.W_O[0, 0] += 0.5
    report = check_model(model, source=tmp_path / "model")
    assert [row.identity for row in report.rows if not row.passed] == ["logits = those of Hugging Face"]


def test_what_hugging_face_cannot_read_is_a_note_not_a_failure(tmp_path):
    report = check_model(tiny_model(), source=tmp_path)
    assert report.passed and len(report.rows) == len(IDENTITIES)
    assert "Not compared with Hugging Face: transformers cannot read" in report.notes[0]


def test_without_transformers_the_report_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert check_model(GPT(LLAMA), source=tmp_path).notes == (
        "Not compared with Hugging Face: transformers is not installed.",
    )


def test_a_hub_name_goes_to_hugging_face_as_it_is(monkeypatch):
    given = []

    class Model:
        @staticmethod
        def from_pretrained(where, **arguments):
            given.append((where, arguments))
            raise OSError("offline\nmore")

    monkeypatch.setattr("transformers.AutoModelForCausalLM", Model)
    with pytest.raises(UnsupportedModel, match="cannot read some/model: offline$"):
        probe.weights.parity.huggingface_logits("some/model", torch.tensor([[1]]), dtype=torch.float32)
    assert given == [("some/model", {"dtype": torch.float32})]
