"""Word vectors: from arrays, files, the catalogue and a GPT; neighbours and analogies as gensim has them."""

import gzip
import itertools
import random
import struct

import numpy as np
import pandas
import pytest
import torch
from gensim.models import KeyedVectors

import probe
from probe import catalogue
from probe.errors import BadShape, BrokenFile, OutOfRange, ProbeError, UnknownName, UnsupportedModel
from probe.methods.analogies import evaluate_analogies, nearest_neighbours, read_questions, solve_analogy
from probe.words import WordVectors, from_arrays, load_word_vectors, word_vectors
from tests.tiny import WordTokenizer, tiny_model

LETTERS = "abcdefghijklmnop"
NAMES = ["".join(pair) for pair in itertools.product(LETTERS, repeat=2)]


def random_words(n: int = 200, d: int = 12, *, seed: int = 0) -> WordVectors:
    vectors = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return from_arrays("random", NAMES[:n], vectors)


def as_gensim(words: WordVectors) -> KeyedVectors:
    keyed = KeyedVectors(words.d)
    keyed.add_vectors(list(words.words), words.vectors.numpy())
    return keyed


@pytest.fixture(scope="module")
def words() -> WordVectors:
    return random_words()


def test_words_are_found_by_name_and_in_order(words):
    assert len(words) == 200 and "ab" in words and "zz" not in words and words.d == 12
    assert torch.equal(words["ab"], words.vectors[1])
    assert torch.equal(words.vectors_of(["ad", "aa"]), words.vectors[[3, 0]])


def test_other_vectors_have_another_fingerprint(words):
    assert words.space == random_words().space != random_words(seed=1).space
    assert words.space != words.twin().space and words.twin().words == words.words


BROKEN = {
    "too few vectors": (["a", "b"], torch.zeros(1, 3), "2 words and vectors of shape (1, 3)"),
    "one dim": (["a"], torch.zeros(3), "expected (word, d)"),
    "none": ([], torch.zeros(0, 3), "no words"),
    "integers": (["a"], torch.zeros(1, 3, dtype=torch.int64), "expected floating point"),
    "twice": (["a", "b", "a"], torch.zeros(3, 3), "'a' occurs twice"),
    "NaN": (["a", "b"], torch.tensor([[0.0], [torch.nan]]), "the vector of 'b' holds NaN"),
}


@pytest.mark.parametrize(("names", "vectors", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_vectors_are_refused(names, vectors, said, as_users_run_it):
    with pytest.raises(BadShape) as error:
        from_arrays("mine", names, vectors)
    assert said in str(error.value)


def test_a_missing_word_is_named_with_near_spellings():
    words = from_arrays("mine", ["tower", "towers", "Paris", "house"], torch.eye(4))
    for asked, said in (("towr", "did you mean 'tower'"), ("paris", "did you mean 'Paris'?"), ("xyzzy", "in mine")):
        with pytest.raises(UnknownName) as error:
            words[asked]
        assert f"no word {asked!r}" in str(error.value) and said in str(error.value)
    assert words.missing(["tower", "towr"]).keys() == {"towr"}


def test_a_vocabulary_may_hold_an_empty_word():
    with pytest.raises(UnknownName, match="'b'"):
        from_arrays("t", ["", "ab", "abc"], torch.randn(3, 4))["b"]


def test_unrelated_words_are_drawn_by_seed_and_leave_out_the_given_ones(words):
    one, again, other = (words.unrelated(50, without=["aa", "ab"], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other) and len(one) == 50
    everything = words.unrelated(1000, without=["aa", "ab"], seed=0)
    assert len(everything) == 198
    assert not any(torch.equal(row, words["aa"]) for row in everything)


# files


@pytest.fixture
def saved(words, tmp_path):
    as_gensim(words).save_word2vec_format(str(tmp_path / "vectors.txt"), binary=False)
    as_gensim(words).save_word2vec_format(str(tmp_path / "vectors.bin"), binary=True)
    text = (tmp_path / "vectors.txt").read_text().splitlines(keepends=True)
    (tmp_path / "glove.txt").write_text("".join(text[1:]))
    with gzip.open(tmp_path / "vectors.txt.gz", "wt") as file:
        file.writelines(text)
    return tmp_path


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.bin", "glove.txt", "vectors.txt.gz"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # gensim leaves a file open
def test_files_of_word2vec_and_glove_are_read(saved, words, name):
    read = load_word_vectors(saved / name)
    assert read.words == words.words and read.name == name
    assert torch.allclose(read.vectors, words.vectors, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_broken_files_and_pickles_are_refused(tmp_path, saved):
    (tmp_path / "cut.bin").write_bytes((saved / "vectors.bin").read_bytes()[:3000])
    (tmp_path / "not.txt").write_text("this is a sentence\nand another one\n")
    (tmp_path / "mine.kv").write_bytes(b"\x80\x04")
    for name, error in (("cut.bin", BrokenFile), ("not.txt", BrokenFile), ("mine.kv", UnsupportedModel)):
        with pytest.raises(error, match=name):
            load_word_vectors(tmp_path / name)
    with pytest.raises(UnknownName, match="glove-6b-50d"):
        load_word_vectors("glove-6b-50")
    with pytest.raises(UnknownName, match=r"word_vectors\(model, 'embed'\)"):
        load_word_vectors(catalogue.DEFAULT_MODEL)


def test_word_vectors_are_not_loaded_as_a_model():
    with pytest.raises(UnknownName, match=r"probe.load_word_vectors\('glove-6b-50d'\)"):
        probe.load_model("glove-6b-50d")


def test_the_catalogues_layout_is_read(tmp_path, monkeypatch):
    """The two files of the wheel, small: float32 vectors, and a table with the words in a column `index`."""
    np.save(tmp_path / "glove_6B_50d_emb.npy", np.eye(3, 50, dtype=np.float32))
    pandas.DataFrame({"index": ["the", "of", "to"]}).to_parquet(tmp_path / "glove_6B_index.parquet")
    monkeypatch.setattr("probe.words.fetch", lambda name, progress: tmp_path)
    read = load_word_vectors()
    assert read.words == ("the", "of", "to") and read.d == 50 and read.name == "glove-6b-50d"


# a GPT's words


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_gpts_words_are_its_tokens_that_are_a_space_and_letters(family):
    model = tiny_model(family)
    model.tokenizer = WordTokenizer()
    embed, unembed = word_vectors(model, "embed"), word_vectors(model, "unembed")
    assert embed.words == unembed.words == WordTokenizer.words
    assert torch.equal(embed["al"], model.W_E[2].detach())
    gain = model.ln_final.w.detach()
    expected = gain * model.W_U[:, 2].detach()
    assert torch.allclose(unembed["al"], expected - expected.mean() if family == "gpt2" else expected, atol=1e-6)
    assert embed.space != unembed.space
    assert embed.confounds(["am"])["log vocabulary rank"].exp().item() == pytest.approx(4)  # token 3, the fourth


def test_a_model_without_words_says_so():
    with pytest.raises(UnsupportedModel, match="none of its 50 tokens is a word after a space"):
        word_vectors(tiny_model())
    model = tiny_model()
    model.tokenizer = None
    with pytest.raises(UnsupportedModel, match="no tokenizer"):
        word_vectors(model)


@pytest.mark.model
def test_a_word_in_pieces_has_no_vector_and_the_message_shows_them(default_model):
    words = word_vectors(default_model)
    with pytest.raises(UnknownName) as error:
        words["bratwurst"]
    assert "its pieces: ' br', 'at', 'w', 'urst'" in str(error.value)


# neighbours and analogies, beside gensim


def test_neighbours_equal_gensims(words):
    keyed = as_gensim(words)
    found = nearest_neighbours(words, list(words.words[:40]), k=7)
    for query, near, scores in zip(found.queries, found.words, found.scores, strict=True):
        theirs = keyed.most_similar(query, topn=7)
        assert list(near) == [word for word, _ in theirs]
        assert scores.tolist() == pytest.approx([score for _, score in theirs], abs=1e-5)


def test_neighbours_by_dot_product_are_those_of_brute_force(words):
    found = nearest_neighbours(words, "ab", k=5, measure="dot")
    products = words.vectors @ words["ab"]
    products[1] = -torch.inf
    assert list(found.words[0]) == [words.words[place] for place in products.argsort(descending=True)[:5].tolist()]


def test_words_that_cancel_out_have_no_neighbours(words):
    with pytest.raises(OutOfRange, match="aa \\+ ab - ab - aa: the words cancel out"):
        solve_analogy(words, ["aa", "ab"], ["ab", "aa"])


def test_equal_neighbours_come_in_the_order_of_the_vocabulary_however_many_are_asked_for():
    plain = from_arrays("plain", list("abcdefg"), torch.tensor([[1.0, 0], [0, 1], *[[1, 1]] * 4, [2, 2]]))
    for k in (1, 2, 3, 4):
        assert nearest_neighbours(plain, "g", k=k).words == (tuple("cdef"[:k]),)


def test_queries_in_chunks_are_the_same_as_at_once(words, monkeypatch):
    at_once = nearest_neighbours(words, words.vectors[:9])
    monkeypatch.setattr("probe.methods.analogies._AT_ONCE", 300)
    assert nearest_neighbours(words, words.vectors[:9]).words == at_once.words
    assert at_once.words[3][0] == words.words[3], "a vector is not a word, so the word at its place is nearest"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gensim's 3CosMul calls an old name of its own
@pytest.mark.parametrize("method", ["3CosAdd", "3CosMul"])
def test_analogies_equal_gensims(words, method):
    keyed = as_gensim(words)
    solve = keyed.most_similar if method == "3CosAdd" else keyed.most_similar_cosmul
    for a, b, c in (("aa", "ab", "ac"), ("ba", "ck", "ag"), ("ad", "bb", "cc")):
        ours = solve_analogy(words, [b, c], [a], method=method, k=6)
        theirs = solve(positive=[b, c], negative=[a], topn=6)
        assert list(ours.words) == [word for word, _ in theirs]
        assert ours.scores.tolist() == pytest.approx([score for _, score in theirs], abs=1e-5)


def test_inputs_are_dropped_or_kept_and_the_rank_counts_accordingly():
    words = from_arrays("mine", ["man", "woman", "king", "queen", "apple"], torch.tensor(
        [[1.0, 0, 0], [1.0, 0.2, 0], [1.0, 0, 1.0], [1.0, 0.3, 0.9], [-1.0, 0, 0]]
    ))  # fmt: skip
    dropped = solve_analogy(words, ["king", "woman"], ["man"], k=2, expected="queen")
    assert dropped.words[0] == "queen" and dropped.rank == 1 and dropped.n_candidates == 2
    kept = solve_analogy(words, ["king", "woman"], ["man"], k=5, keep_inputs=True, expected="queen")
    assert set(kept.words) == set(words.words) and kept.n_candidates == 5
    assert kept.rank == 1 + kept.words.index("queen")
    assert dropped.question == "king + woman - man"
    with pytest.raises(UnknownName, match="a word of the question"):
        solve_analogy(words, ["king", "woman"], ["man"], expected="king", k=1)


WRONG = {
    "no such measure": (lambda w: nearest_neighbours(w, "aa", measure="cos"), UnknownName, "measure"),
    "k of 0": (lambda w: nearest_neighbours(w, "aa", k=0), OutOfRange, "k=0: expected 1 to 199"),
    "k too large": (lambda w: nearest_neighbours(w, "aa", k=200), OutOfRange, "k=200"),
    "no queries": (lambda w: nearest_neighbours(w, []), OutOfRange, "no queries"),
    "vectors of another size": (lambda w: nearest_neighbours(w, torch.zeros(2, 5)), BadShape, "vectors of 12"),
    "NaN": (lambda w: nearest_neighbours(w, torch.full((12,), torch.nan)), BadShape, "NaN"),
    "no words": (lambda w: solve_analogy(w, [], []), OutOfRange, "needs a positive one"),
    "3CosMul without positive": (lambda w: solve_analogy(w, [], ["aa"], method="3CosMul"), OutOfRange, "3CosMul"),
    "no such method": (lambda w: solve_analogy(w, ["aa"], method="cos"), UnknownName, "3CosAdd"),
    "a missing word": (lambda w: solve_analogy(w, ["aq"]), UnknownName, "no word 'aq'"),
    "questions of three words": (lambda w: evaluate_analogies(w, {"x": [("aa", "ab", "ac")]}), BadShape, "four words"),
    "too few words": (lambda w: evaluate_analogies(w, {}, restrict=3), OutOfRange, "restrict=3"),
}


@pytest.mark.parametrize(("call", "error", "said"), WRONG.values(), ids=WRONG.keys())
def test_mistakes_are_named(words, call, error, said, as_users_run_it):
    with pytest.raises(error) as raised:
        call(words)
    assert said in str(raised.value)


@pytest.mark.parametrize("ignore_case", [True, False])
@pytest.mark.parametrize("restrict", [120, 200])
def test_questions_are_answered_as_gensim_answers_them_one_by_one(tmp_path, ignore_case, restrict):
    """Some words in two spellings, some outside the vocabulary, some beyond the first `restrict`."""
    names = [name.upper() if place % 7 == 0 else name for place, name in enumerate(NAMES[:180])]
    names += [name.capitalize() for name in NAMES[20:40]]
    vectors = torch.randn(200, 3, generator=torch.Generator().manual_seed(2))
    vectors[180:] = vectors[20:40] + 0.05
    words = from_arrays("mixed", names, vectors)
    draw = torch.randint(0, 200, (1500, 4), generator=torch.Generator().manual_seed(3)).tolist()
    rows = [tuple(names[place] for place in row) for row in draw] + [("aa", "nothing", "ab", "ac")]
    file = tmp_path / "questions.txt"
    first, second = (chr(10).join(" ".join(row) for row in half) for half in (rows[:700], rows[700:]))
    file.write_text(f": first\n{first}\n: second\n{second}\n")
    ours = evaluate_analogies(words, file, restrict=restrict, ignore_case=ignore_case)
    score, sections = as_gensim(words).evaluate_word_analogies(
        str(file), restrict_vocab=restrict, case_insensitive=ignore_case
    )
    right = [(s, q) for s, q, c in zip(ours.sections, ours.questions, ours.correct, strict=True) if c]
    wrong = [(s, q) for s, q, c in zip(ours.sections, ours.questions, ours.correct, strict=True) if not c]
    assert right == [(part["section"], question) for part in sections[:2] for question in part["correct"]]
    assert wrong == [(part["section"], question) for part in sections[:2] for question in part["incorrect"]]
    assert ours.accuracy == score and right and wrong and ours.skipped
    assert len(ours.to_dataframe()) == 1501


@pytest.mark.model
@pytest.mark.slow
def test_questions_made_of_the_word_lists_are_answered_as_by_gensim_in_glove(glove, tmp_path):
    """Each pair of a list with the next one: 108 + 34 + 44 + 30 questions."""
    file, n = tmp_path / "questions.txt", 0
    with file.open("w") as lines:
        for name in ("plurality", "gender", "nationality", "capital"):
            fit = probe.load_pairs(name).fit
            lines.write(f": {name}\n")
            for (b, a), (d, c) in zip(fit, [*fit[1:], fit[0]], strict=True):
                lines.write(f"{a} {b} {c} {d}\n")
                n += 1
    ours = evaluate_analogies(glove, file)
    score, sections = as_gensim(glove).evaluate_word_analogies(str(file))
    answered = list(zip(ours.sections, ours.questions, strict=True))
    right = [one for one, correct in zip(answered, ours.correct, strict=True) if correct]
    assert right == [(part["section"], question) for part in sections[:4] for question in part["correct"]]
    assert len(answered) == n and ours.accuracy == score and 0.5 < score < 0.9


def test_question_files_are_checked(tmp_path):
    for text, said in (("a b c d", "line 1"), (": s\na b c", "line 2")):
        (tmp_path / "q.txt").write_text(text)
        with pytest.raises(BrokenFile, match=said):
            read_questions(tmp_path / "q.txt")
    with pytest.raises(BrokenFile):
        read_questions(tmp_path / "missing.txt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # gensim leaves files open
@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz", "vectors.bin"])
def test_a_file_of_vectors_cut_or_flipped_anywhere_is_refused_or_holds_finite_numbers(name, tmp_path):
    lines = "".join(f"word{n} {n} {n / 7:.3f} -2.5\n" for n in range(30))
    content = f"30 3\n{lines}".encode()
    if name.endswith(".bin"):
        rows = [f"word{n} ".encode() + struct.pack("<3f", n, n / 7, -2.5) + b"\n" for n in range(30)]
        content = b"30 3\n" + b"".join(rows)
    if name.endswith(".gz"):
        content = gzip.compress(content)
    rng, refused = random.Random(0), 0
    cuts = [content[:place] for place in rng.sample(range(len(content)), 40)]
    flips = []
    for place in [*range(6), *rng.sample(range(len(content)), 60)]:
        flips.append(bytearray(content))
        flips[-1][place] ^= 1 << rng.randrange(8)
    for damaged in [*cuts, *flips]:
        (tmp_path / name).write_bytes(damaged)
        try:
            assert load_word_vectors(tmp_path / name).vectors.isfinite().all()
        except ProbeError:
            refused += 1
    assert refused >= 38
