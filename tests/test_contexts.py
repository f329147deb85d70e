"""Words in sentences: what is read equals what `record` keeps, and position 0 is never read."""

import pytest
import torch

import probe
from probe.contexts import read_words, words_in_context
from probe.errors import BadPrompt, OutOfRange, UnknownName
from probe.word_lists import load_pairs
from tests.tiny import WordTokenizer, tiny_model

TEMPLATES = ["ak al {}", "bm {} bn bo", "cp cq cr {} ak"]
WORDS = ["ak", "dl", "em"]


def model_with_words(family: str = "llama"):
    model = tiny_model(family)
    model.tokenizer = WordTokenizer()
    return model


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("read", ["word", "end"])
def test_a_word_is_the_mean_over_templates_of_what_record_keeps(family, start, read):
    model = model_with_words(family)
    source = words_in_context(model, 1, TEMPLATES, document_start=start, read=read)
    expected = []
    for word in WORDS:
        texts = [template.format(word) for template in TEMPLATES]
        after = [len(text.partition("{}")[2].split()) if read == "word" else 0 for text in TEMPLATES]
        values = [
            probe.record(model, text, sites=["resid_post"], positions=-1 - back, document_start=start)["resid_post", 1]
            for text, back in zip(texts, after, strict=True)
        ]
        expected.append(torch.stack(values).mean(0)[0, 0])
    assert torch.allclose(source.vectors_of(WORDS), torch.stack(expected), atol=1e-5)


def test_words_of_different_lengths_are_each_read_at_their_own_last_token():
    model = model_with_words()
    words = ["ak", "dl em", "cp"]
    source = words_in_context(model, 1, ["bm bn {}"], document_start=True)
    expected = [
        probe.record(model, f"bm bn {word}", sites=["resid_post"], positions=-1, document_start=True)["resid_post", 1]
        for word in words
    ]
    assert torch.allclose(source.vectors_of(words), torch.cat(expected)[:, 0], atol=1e-5)


def test_several_sites_are_read_in_one_pass_and_batches_do_not_matter(monkeypatch):
    model = model_with_words()
    sites = ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_mid"]
    options = {"templates": TEMPLATES, "read": "word", "document_start": True, "progress": False}
    both = read_words(model, WORDS, sites, **options)
    alone = words_in_context(model, 2, TEMPLATES, site="resid_mid").vectors_of(WORDS)
    assert torch.allclose(both[1], alone, atol=1e-6) and not torch.allclose(both[0], both[1])
    monkeypatch.setattr("probe.contexts._AT_ONCE", 2)
    assert torch.allclose(read_words(model, WORDS, sites, **options), both, atol=1e-5)


def test_texts_without_a_common_beginning_are_read_too():
    model = model_with_words()
    source = words_in_context(model, 0, ["{} ak"], read="end", document_start=False)
    with pytest.raises(BadPrompt):
        words_in_context(model, 0, ["{}"], document_start=False)
    value = probe.record(model, "dl ak", sites=["resid_post"], positions=-1)["resid_post", 0][0, 0]
    assert torch.allclose(source.vectors_of(["dl", "em"])[0], value, atol=1e-5)


MISTAKES = {
    "no braces": (lambda m: words_in_context(m, 0, ["ak al"]), BadPrompt, "expected a text with {} once"),
    "two braces": (lambda m: words_in_context(m, 0, ["ak {} {}"]), BadPrompt, "expected a text with {} once"),
    "no templates": (lambda m: words_in_context(m, 0, []), BadPrompt, "no templates"),
    "position 0": (lambda m: words_in_context(m, 0, ["{}"], document_start=False), BadPrompt, "position 0"),
    "glued": (lambda m: words_in_context(m, 0, ["ak al{}"]), BadPrompt, "a space before {}"),
    "no such layer": (lambda m: words_in_context(m, 3, TEMPLATES), OutOfRange, "layer 3"),
    "another site": (lambda m: words_in_context(m, 0, TEMPLATES, site="z"), UnknownName, "residual stream"),
    "another token": (lambda m: words_in_context(m, 0, TEMPLATES, read="first"), UnknownName, "token to read"),
}


@pytest.mark.parametrize(("call", "error", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named(call, error, said, as_users_run_it):
    with pytest.raises(error) as raised:
        call(model_with_words())
    assert said in str(raised.value)


def test_a_model_without_tokenizer_cannot_read_templates():
    model = tiny_model()
    model.tokenizer = None
    with pytest.raises(BadPrompt, match="no tokenizer"):
        words_in_context(model, 0, TEMPLATES)


def test_the_space_is_the_model_and_the_place_but_not_the_templates():
    model = model_with_words()
    one = words_in_context(model, 1, TEMPLATES)
    assert one.space == words_in_context(model, 1, TEMPLATES[:1]).space
    assert one.space != words_in_context(model, 2, TEMPLATES).space != one.twin().space
    assert one.twin(0).space == one.twin(0).space != one.twin(1).space


def test_unrelated_words_leave_out_the_given_ones():
    source = words_in_context(model_with_words(), 1, TEMPLATES)
    others = source.unrelated(100, without=WORDS, seed=0)
    assert len(others) == len(WordTokenizer.words) - len(WORDS)
    assert torch.cdist(others, source.vectors_of(WORDS)).min() > 1e-3


@pytest.mark.model
def test_words_of_several_tokens_are_read_at_their_last_one(default_model):
    template = load_pairs("plurality").templates[0]
    source = words_in_context(default_model, 3, [template])
    words = ["cat", "rhinoceroses"]
    rec = [
        probe.record(
            default_model, template.format(word), sites=["resid_post"], positions=-1, document_start=True,
            stop_after_layer=3,
        )["resid_post", 3][0, 0]
        for word in words
    ]  # fmt: skip
    assert template.endswith("{}")
    assert torch.allclose(source.vectors_of(words), torch.stack(rec), atol=1e-3, rtol=1e-5)
    assert source.confounds(words)["tokens"].tolist()[1] > 1
