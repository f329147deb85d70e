"""Tokenizers: the same ids as the files' own, every token shown, nothing invented."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from probe.errors import BadPrompt, BrokenFile, OutOfRange, UnsupportedModel
from probe.tokenizer_files import byte_level_bpe, byte_of_character
from probe.tokens import Tokenizer, TokenizerFacts, document_start_token, show_bytes, show_token

MERGES = [("Ġ", "P"), ("a", "r"), ("i", "s"), ("ar", "is"), ("ĠP", "aris"), ("l", "o"), ("lo", "w")]
TEXTS = [
    "Paris",
    " Paris low",
    "  two  spaces\t\n\r\n",
    "naïve é e\u0301",
    "日本語🙂👩‍👧",
    "a<|endoftext|>b",
    "x = 12\\x41\\",
    "\x00",
    "",
]


def byte_tokenizer(**options) -> Tokenizer:
    """All 256 bytes, a few merges, and two marks."""
    tokens = [*byte_of_character(), *(first + second for first, second in MERGES)]
    backend = byte_level_bpe({token: id for id, token in enumerate(tokens)}, MERGES)
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True), AddedToken("<|im_start|>", special=True)])
    return Tokenizer(backend, **options)


def space_tokenizer() -> Tokenizer:
    """Sentencepiece's manner: U+2581 for spaces, bytes as <0xE2>."""
    tokens = ["<unk>", "<s>", "▁", "P", "a", "▁P", "▁Pa", "Pa", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("▁", "P"), ("▁P", "a"), ("P", "a")]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Tokenizer(backend, bos="<s>")


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_from_its_tokens(text):
    for tokenizer in (byte_tokenizer(), space_tokenizer()):
        ids = [id for id in tokenizer.encode(text) if id != tokenizer.bos_id]
        assert tokenizer.decode(ids) == text
        whole = b"".join(tokenizer.bytes_of(id) for id in ids).decode()
        assert whole.removeprefix("" if tokenizer.bos_id is None else " ") == text


def test_each_token_is_shown_with_its_space_and_lone_bytes_in_hex():
    tokenizer = byte_tokenizer()
    assert tokenizer.str_tokens(tokenizer.encode(" Paris low")) == [" Paris", " ", "low"]
    assert tokenizer.str_tokens(tokenizer.encode("é<|endoftext|>")) == [r"\xc3", r"\xa9", "<|endoftext|>"]
    assert space_tokenizer().str_tokens([1, 6, 8 + 0xE2]) == ["<s>", " Pa", r"\xe2"]


def test_hex_form_and_text_that_looks_like_it_are_told_apart():
    assert show_bytes(b"\xf0") == r"\xf0"
    assert show_bytes(rb"\xf0") == r"\\xf0"
    assert show_bytes(b"\\\xf0") == r"\\\xf0"
    assert show_bytes(rb"\n \ \\") == r"\n \ \\"  # nothing to mistake: as it is


@given(st.lists(st.sampled_from([b"\\", b"x", b"f0", b"0", b"\xf0", b"\x80", "é".encode(), b"\xc3"]), max_size=6))
def test_no_two_byte_strings_are_shown_alike(parts):
    assert read_shown(show_bytes(b"".join(parts))) == b"".join(parts)


def read_shown(shown: str) -> bytes:
    """The inverse: an odd run of backslashes before xHH ends in a hex form, an even one is doubled text."""
    import re

    def unescape(found: re.Match) -> str:
        run, code = found[1], found[2]
        plain = "\\" * (len(run) // 2)
        return plain + (chr(0xDC00 + int(code, 16)) if len(run) % 2 else f"x{code}")

    return re.sub(r"(\\+)x([0-9a-fA-F]{2})", unescape, shown).encode("utf-8", errors="surrogateescape")


def test_a_padded_id_is_shown_as_unused_and_has_no_bytes():
    tokenizer = byte_tokenizer()
    assert tokenizer.str_tokens([5000]) == ["<unused 5000>"]
    with pytest.raises(OutOfRange, match="5000.*265 tokens"):
        tokenizer.bytes_of(5000)


def test_one_token_is_found_by_its_text_and_several_are_named():
    tokenizer = byte_tokenizer()
    assert tokenizer.str_tokens([tokenizer.token_id(" Paris")]) == [" Paris"]
    with pytest.raises(BadPrompt, match="' Pariss' is not one token.*its pieces: ' Paris', 's'$"):
        tokenizer.token_id(" Pariss")
    with pytest.raises(BadPrompt, match="'Paris'.*begin with a space"):
        tokenizer.token_id("Paris")
    with pytest.raises(BadPrompt, match="pieces: none"):
        tokenizer.token_id("")


def test_a_space_that_the_tokenizer_puts_first_is_not_taken_for_the_text():
    tokens = [*byte_of_character(), *(first + second for first, second in MERGES)]
    backend = byte_level_bpe({token: id for id, token in enumerate(tokens)}, MERGES, prefix_space=True)
    with pytest.raises(BadPrompt, match="'Paris' is not one token.*its pieces: ' Paris'"):
        Tokenizer(backend).token_id("Paris")


def test_a_sentencepiece_token_is_found_with_and_without_its_space():
    tokenizer = space_tokenizer()
    assert (tokenizer.token_id(" Pa"), tokenizer.token_id("Pa"), tokenizer.token_id("<s>")) == (6, 7, 1)
    with pytest.raises(BadPrompt, match="' Paa'.*' Pa', 'a'"):
        tokenizer.token_id(" Paa")


def test_what_is_no_text_is_refused(as_users_run_it):
    with pytest.raises(BadPrompt, match="half a character"):
        byte_tokenizer().encode("a\ud83d")
    with pytest.raises(BadPrompt, match="expected text, got int"):
        byte_tokenizer().encode(5)
    for id in (-1, 1.0, True):
        with pytest.raises(OutOfRange, match="token id"):
            byte_tokenizer().decode([id])


def test_cutting_and_padding_that_a_file_asks_for_are_switched_off():
    backend = byte_tokenizer().backend
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    assert len(Tokenizer(backend).encode("0123456789")) == 10


STARTS = {
    "a declared bos": (("<s>", "</s>"), ["<s>", "</s>", "<|endoftext|>"], "<s>"),
    "a chat mark as bos": (("<|im_start|>", "<|im_end|>"), ["<|im_start|>", "<|endoftext|>"], "<|endoftext|>"),
    "a chat mark and nothing else": (("<|im_start|>", None), ["<|im_start|>"], "<|im_start|>"),
    "no bos": ((None, "</s>"), ["</s>", "<|endoftext|>"], "<|endoftext|>"),
    "only an eos": ((None, "</s>"), ["</s>"], "</s>"),
    "a bos that is no token": (("<s>", None), ["a"], None),
    "nothing": ((None, None), ["a"], None),
}


@pytest.mark.parametrize(("declared", "vocabulary", "start"), STARTS.values(), ids=STARTS.keys())
def test_a_document_starts_with_the_mark_that_most_likely_divided_documents(declared, vocabulary, start):
    assert document_start_token(TokenizerFacts(*declared, vocabulary)) == start


def test_a_known_document_separator_wins_over_the_guess():
    tokenizer = byte_tokenizer(bos="<|im_start|>", document_start="low")
    assert tokenizer.document_start_id == tokenizer.token_id("low")
    assert byte_tokenizer(bos="<|im_start|>").document_start == "<|endoftext|>"


def test_tokens_are_made_visible():
    assert show_token(" a b ") == "·a b·"
    assert show_token("   ") == "···"
    assert show_token("\n\t\r") == "⏎⇥␍"
    assert show_token("") == ""
    assert show_token("\u00a0") == "⟨00a0⟩" and show_token("a\u200bb\ufeff\u2028") == "a⟨200b⟩b⟨feff⟩⟨2028⟩"
    assert show_token("می\u200cخواهم 👩\u200d🔬") == "می\u200cخواهم 👩\u200d🔬"


def test_a_saved_tokenizer_comes_back_and_huggingface_reads_it(tmp_path):
    import transformers

    for number, tokenizer in enumerate(
        (byte_tokenizer(eos="<|endoftext|>", chat_template="{{ x }}"), space_tokenizer())
    ):
        tokenizer.save(tmp_path / str(number))
        again = Tokenizer.from_folder(tmp_path / str(number))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / str(number))
        for name in ("bos", "eos", "chat_template", "document_start", "special_ids"):
            assert getattr(again, name) == getattr(tokenizer, name), name
        assert (theirs.bos_token, theirs.eos_token) == (tokenizer.bos, tokenizer.eos)
        assert theirs.chat_template == tokenizer.chat_template
        for text in TEXTS:
            assert tokenizer.encode(text) == again.encode(text) == theirs(text).input_ids, text


def test_a_huggingface_tokenizer_in_memory_is_copied():
    import transformers

    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend, eos_token="<|endoftext|>")
    ours = Tokenizer.from_huggingface(theirs)
    theirs.add_tokens(["surprise"])
    assert ours.encode("surprise") != theirs("surprise").input_ids and ours.eos == "<|endoftext|>"
    with pytest.raises(UnsupportedModel, match="type str"):
        Tokenizer.from_huggingface("gpt2")


def write(folder, **files) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_a_folder_without_tokenizer_gives_none(tmp_path):
    write(tmp_path, config__json={"bos_token_id": 0}, vocab__json={})
    assert Tokenizer.from_folder(tmp_path) is None


def test_start_and_end_are_read_wherever_a_folder_states_them(tmp_path):
    byte_tokenizer().backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, config__json={"bos_token_id": 263, "eos_token_id": [264, 263]})
    assert (Tokenizer.from_folder(tmp_path).bos, Tokenizer.from_folder(tmp_path).eos) == (
        "<|endoftext|>",
        "<|im_start|>",
    )
    write(tmp_path, special_tokens_map__json={"bos_token": {"content": "low"}})
    assert (Tokenizer.from_folder(tmp_path).bos, Tokenizer.from_folder(tmp_path).eos) == ("low", "<|im_start|>")
    write(tmp_path, tokenizer_config__json={"bos_token": None, "chat_template": [{"name": "default", "template": "t"}]})
    assert (Tokenizer.from_folder(tmp_path).bos, Tokenizer.from_folder(tmp_path).chat_template) == (None, "t")
    write(tmp_path, chat_template__jinja="of the file")
    assert Tokenizer.from_folder(tmp_path).chat_template == "of the file"


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_vocabulary_and_merges_of_an_older_folder_give_the_ids_of_huggingface(kind, tmp_path):
    import transformers

    vocabulary = byte_tokenizer().backend.get_vocab(with_added_tokens=False) | {"<|endoftext|>": 263}
    merges = "#version: 0.2\n" + "\n".join(" ".join(merge) for merge in MERGES) + "\n"
    added = {"264": {"content": "<tool>", "special": False}}
    config = {"tokenizer_class": kind, "eos_token": "<|endoftext|>", "added_tokens_decoder": added}
    write(tmp_path, vocab__json=vocabulary, merges__txt=merges, tokenizer_config__json=config)
    ours = Tokenizer.from_folder(tmp_path)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path)
    for text in [*TEXTS, "IT'S 123  4", "a<tool>b"]:
        assert ours.encode(text) == theirs(text).input_ids, text
    assert ours.document_start_id == 263


def test_an_older_folder_of_an_unknown_class_shows_tokens_but_encodes_nothing(tmp_path):
    write(tmp_path, vocab__json={"a": 0}, merges__txt="", tokenizer_config__json={"tokenizer_class": "CTRLTokenizer"})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.str_tokens([0]) == ["a"]
    with pytest.raises(BadPrompt, match="CTRLTokenizer.*token ids"):
        tokenizer.encode("a")


BROKEN = {
    "no JSON": ({"tokenizer__json": "{"}, "tokenizer.json"),
    "JSON of something else": ({"tokenizer__json": {"model": 5}}, "tokenizer.json"),
    "a list": ({"tokenizer__json": "{}", "tokenizer_config__json": []}, "tokenizer_config.json"),
    "a merge of three": ({"vocab__json": {"a": 0}, "merges__txt": "a a a"}, "merges.txt"),
    "a merge of no tokens": ({"vocab__json": {"a": 0}, "merges__txt": "a b"}, "holds no usable tokenizer"),
    "ids that are text": ({"vocab__json": {"a": "0"}, "merges__txt": ""}, "vocab.json.*'a'"),
}


@pytest.mark.parametrize(("files", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_folder_names_its_file(files, said, tmp_path):
    write(tmp_path, **files)
    with pytest.raises(BrokenFile, match=said):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.model
def test_the_default_models_tokens_equal_those_of_huggingface(default_model):
    import transformers

    from probe.catalogue import DEFAULT_MODEL
    from probe.fetching import cached_path

    path = cached_path(DEFAULT_MODEL)
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    code = "def f(x):\n    return x + 1\n\n\tif y == 22:\n        z = [3.14, -7e5]"
    chat = "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><repo_name>x"
    for text in [*TEXTS, code, chat, "العربية עברית हिन्दी", "I'm you're we'll DON'T", "2024-01-01 1234567890"]:
        assert default_model.tokenizer.encode(text) == theirs(text).input_ids, text
    assert default_model.tokenizer.document_start_id == 0 and default_model.tokenizer.bos_id == 1


@pytest.mark.model
def test_the_default_models_digits_stand_alone_also_after_several_spaces(default_model):
    """As in its published tokenizer.json and in llama.cpp; transformers, reading GGUF, joins a space to the digit."""
    tokenizer = default_model.tokenizer
    assert tokenizer.str_tokens(tokenizer.encode("x  12")) == ["x", "  ", "1", "2"]
    assert isinstance(tokenizer.backend.pre_tokenizer, pre_tokenizers.Sequence)
