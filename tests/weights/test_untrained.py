"""The untrained twin: one seed is one model, however and wherever it is asked for."""

import pytest
import torch

import probe
from probe.contexts import words_in_context
from probe.gpt import GPT
from probe.provenance import fingerprint
from probe.weights import untrained_twin
from tests.tiny import CONFIGS, MORE, WordTokenizer, tiny_model


@pytest.mark.parametrize("config", (CONFIGS | MORE).values(), ids=(CONFIGS | MORE).keys())
def test_a_twin_has_the_numbers_of_a_model_that_was_made_and_drawn_with_that_seed(config):
    model = probe.GPT(config)
    model.draw_weights(torch.Generator().manual_seed(3))
    assert fingerprint(untrained_twin(probe.GPT(config), 3)) == fingerprint(model)


def test_a_model_and_words_in_it_and_its_files_have_the_same_twin(tmp_path):
    model = tiny_model("llama").to(torch.bfloat16)
    model.name, model.tokenizer = "model", None
    model.save(tmp_path / "model")
    model.tokenizer = WordTokenizer()
    twin = untrained_twin(model, 5)
    of_words = words_in_context(model, 0, ["ak {}"], document_start=True).twin(5).model
    of_files = probe.load_model(tmp_path / "model", random=True, seed=5, dtype="bfloat16", device="cpu")
    assert twin.name == of_words.name == of_files.name == "model (untrained, seed 5)"
    assert twin.dtype == torch.bfloat16 and twin.tokenizer is of_words.tokenizer is model.tokenizer
    assert fingerprint(twin) == fingerprint(of_words) == fingerprint(of_files) != fingerprint(untrained_twin(model))


def test_a_twin_is_drawn_on_the_cpu_and_put_where_the_model_is(monkeypatch):
    """So that one seed is one twin on every device; here the other device is meta."""
    drawn_on, draw = [], GPT.draw_weights

    def spy(self, generator):
        drawn_on.append((self.device.type, self.dtype, generator.device.type))
        draw(self, generator)

    model = tiny_model("gpt2").to(device="meta", dtype=torch.bfloat16)
    monkeypatch.setattr(GPT, "draw_weights", spy)
    twin = untrained_twin(model)
    assert drawn_on == [("cpu", torch.float32, "cpu")]
    assert (twin.device.type, twin.dtype) == ("meta", torch.bfloat16)


def test_a_twin_leaves_torchs_own_generator_alone():
    model, state = tiny_model("gpt2"), torch.get_rng_state()
    untrained_twin(model)
    assert torch.equal(torch.get_rng_state(), state)
