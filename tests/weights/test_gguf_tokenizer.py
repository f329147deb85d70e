"""The tokenizer that a GGUF file describes: the pieces that its own vocabulary's maker would cut."""

import pytest

from probe.errors import ProbeError
from probe.weights.gguf import load_gguf
from tests.gguf_files import BYTE_TOKENIZER, SPM_TOKENIZER, converted, huggingface


def tokenizer_from(path, metadata: dict):
    return load_gguf(converted(path, huggingface("llama"), "llama", metadata=metadata)).tokenizer


def test_merges_are_applied_and_special_tokens_found_whole(tmp_path):
    tokenizer = tokenizer_from(tmp_path / "m.gguf", BYTE_TOKENIZER)
    ids = tokenizer.encode("in in<|endoftext|>th")
    assert tokenizer.str_tokens(ids) == ["in", " in", "<|endoftext|>", "th"]
    assert tokenizer.document_start_id == 0 and tokenizer.special_ids == {0}


def test_a_bos_is_added_exactly_when_the_file_says_so(tmp_path):
    asks = BYTE_TOKENIZER | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    assert tokenizer_from(tmp_path / "a.gguf", asks).encode("th") == [0, 46, 0]
    assert tokenizer_from(tmp_path / "b.gguf", BYTE_TOKENIZER).encode("th") == [46]
    silent = {key: value for key, value in SPM_TOKENIZER.items()}
    assert tokenizer_from(tmp_path / "c.gguf", silent).encode("ab") == [1, 9]  # sentencepiece: unless told otherwise
    refuses = SPM_TOKENIZER | {"tokenizer.ggml.add_bos_token": False}
    assert tokenizer_from(tmp_path / "d.gguf", refuses).encode("ab") == [9]


def test_scores_decide_the_merges_of_a_sentencepiece_vocabulary(tmp_path):
    """The same pieces as sentencepiece itself finds, spaces at the start and characters without a token included."""
    import io

    import sentencepiece

    text = ["the cat sat on the mat, the cat ate the rat", "in the inn there is a thin hen", "a b c  d   e 1 2 3 é"]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 3), model_writer=written, vocab_size=310, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    n_special = 3 + 256  # unknown, two controls, all bytes
    ids = [*range(n_special), *reversed(range(n_special, theirs.get_piece_size()))]  # so that order tells nothing
    kinds = [6 if theirs.is_byte(i) else 3 if theirs.is_control(i) else 2 if theirs.is_unknown(i) else 1 for i in ids]
    metadata = SPM_TOKENIZER | {
        "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [float(theirs.get_score(i)) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_bos_token": False,
    }
    module = huggingface("llama", vocab_size=len(ids))
    tokenizer = load_gguf(converted(tmp_path / "m.gguf", module, "llama", metadata=metadata)).tokenizer
    for line in [*text, "  two spaces", "the  inn\n", "🙂 hat", "then", "", " ", "thetheinninn"]:
        encoded = tokenizer.encode(line)
        assert [ids[id] for id in encoded] == theirs.encode(line), line
        assert tokenizer.decode(encoded) == line
    assert ids[tokenizer.token_id(" the")] == theirs.piece_to_id("▁the")


def test_an_unknown_way_of_cutting_text_shows_tokens_but_encodes_nothing(tmp_path):
    tokenizer = tokenizer_from(tmp_path / "m.gguf", BYTE_TOKENIZER | {"tokenizer.ggml.pre": "surprise"})
    assert tokenizer.str_tokens([45, 46]) == [" in", "th"]
    with pytest.raises(ProbeError, match="'surprise'.*token ids"):
        tokenizer.encode("in")


CUTS = {
    "gpt-2": ["IT", "'", "S", " x", "12345", " ", " 67"],
    "smollm": ["IT", "'", "S", " x", "1", "2", "3", "4", "5", "  ", "6", "7"],
    "llama-bpe": ["IT", "'S", " x", "123", "45", " ", " ", "67"],
    "qwen2": ["IT", "'S", " x", "1", "2", "3", "4", "5", " ", " ", "6", "7"],
    "tekken": ["IT", "'S", " x", "1", "2", "3", "4", "5", " ", " ", "6", "7"],
}


@pytest.mark.parametrize(("name", "pieces"), CUTS.items(), ids=CUTS.keys())
def test_each_way_of_cutting_text_treats_numbers_spaces_and_contractions_in_its_own_way(name, pieces, tmp_path):
    tokenizer = tokenizer_from(tmp_path / "m.gguf", BYTE_TOKENIZER | {"tokenizer.ggml.pre": name})
    cut = tokenizer.backend.pre_tokenizer.pre_tokenize_str("IT'S x12345  67")
    assert [piece.replace("Ġ", " ") for piece, _ in cut] == pieces


def test_llama3_takes_a_word_that_is_a_token_whatever_the_merges_say(tmp_path):
    metadata = BYTE_TOKENIZER | {"tokenizer.ggml.merges": []}
    assert tokenizer_from(tmp_path / "m.gguf", metadata).encode("in") == [9, 14]
    llama3 = tokenizer_from(tmp_path / "l.gguf", metadata | {"tokenizer.ggml.pre": "llama-bpe"})
    assert llama3.encode("in") == [0, 44]  # and begins with the bos, unless the file says otherwise
