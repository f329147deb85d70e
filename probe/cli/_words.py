"""The commands that ask word vectors: `probe words near`, `probe words analogy`."""

from typing import Annotated, Any

import typer

from probe.cli._options import AsJson, Model, load, print_json
from probe.errors import OutOfRange

Source = Annotated[
    str | None,
    typer.Option(
        "--source", "-s", show_default=False,
        help="glove-6b-50d (the default), a word2vec or GloVe file, or 'embed' or 'unembed' of a GPT.",
    ),
]  # fmt: skip
Count = Annotated[int, typer.Option("-k", help="How many words to show.")]


def near(
    words: Annotated[list[str], typer.Argument(help="One word, or several.")],
    source: Source = None,
    model: Model = None,
    k: Count = 10,
    dot: Annotated[bool, typer.Option("--dot", help="By raw dot product; without: by cosine.")] = False,
    as_json: AsJson = False,
) -> None:
    """The words nearest to a word, among all that the source has."""
    from probe.figures.page import Table
    from probe.methods.analogies import nearest_neighbours
    from probe.terminal import output, show_table, show_words

    vectors = read_source(source, model)
    found = nearest_neighbours(vectors, words, k=k, measure="dot" if dot else "cosine")
    if as_json:
        print_json({"manifest": dict(found.manifest), "rows": found.to_dataframe().to_dict("records")})
        return
    console = output()
    how = "raw dot product" if dot else "cosine"
    for query, near_words, scores in zip(found.queries, found.words, found.scores.tolist(), strict=True):
        show_words(console, [f"Nearest to “{query}” among the {len(vectors):,} words of {vectors.name}, by {how}:"])
        rows = [(word, f"{score:.3f}") for word, score in zip(near_words, scores, strict=True)]
        show_table(console, Table(("word", how), rows))


def analogy(
    terms: Annotated[list[str], typer.Argument(help="Words with + and - between them: king - man + woman.")],
    source: Source = None,
    model: Model = None,
    k: Count = 5,
    expect: Annotated[str | None, typer.Option("--expect", help="Say at which rank this word stands.")] = None,
    as_json: AsJson = False,
) -> None:
    """The words nearest to a sum of words, with the question's own words dropped from the answers and kept."""
    from probe.figures.page import Table
    from probe.methods.analogies import solve_analogy
    from probe.terminal import output, show_table, show_words

    positive, negative = read_sum(terms)
    vectors = read_source(source, model)
    dropped, kept = (
        solve_analogy(
            vectors, positive, negative, k=k, keep_inputs=keep,
            expected=expect if keep or expect not in (*positive, *negative) else None,
        )
        for keep in (False, True)
    )  # fmt: skip
    if as_json:
        both = [{"keep_inputs": one.keep_inputs, "rank": one.rank, "rows": one.to_dataframe().to_dict("records")}
                for one in (dropped, kept)]  # fmt: skip
        print_json({"manifest": dict(dropped.manifest), "question": dropped.question, "answers": both})
        return
    console = output()
    show_words(console, [f"{dropped.question}, each word at length one, in {vectors.name} ({len(vectors):,} words)."])
    rows = [
        (left, f"{a:.3f}", right, f"{b:.3f}")
        for left, a, right, b in zip(
            dropped.words, dropped.scores.tolist(), kept.words, kept.scores.tolist(), strict=True
        )
    ]
    show_table(console, Table(("its own words dropped", "cosine", "kept", "cosine"), rows))
    if expect is not None:
        ranks = [f"{one.rank:,}" if one.rank else "none: it is a word of the question" for one in (dropped, kept)]
        show_words(console, [f"Rank of “{expect}”: {ranks[0]} with the question's own words dropped, {ranks[1]} kept."])
    show_words(console, ["Most analogies look good only because the question's own words are dropped: see “kept”."])


def read_source(source: str | None, model: str | None) -> Any:
    """Word vectors by name or file, or of a GPT."""
    from probe.terminal import messages
    from probe.words import load_word_vectors, word_vectors

    if source not in ("embed", "unembed"):
        if model is not None:
            raise OutOfRange(f"--model {model} has two matrices of words: add --source embed or --source unembed")
        return load_word_vectors(source)
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        return word_vectors(loaded, "embed" if source == "embed" else "unembed")


def read_sum(terms: list[str]) -> tuple[list[str], list[str]]:
    """'king - man + woman' -> (['king', 'woman'], ['man'])."""
    sides: dict[str, list[str]] = {"+": [], "-": []}
    sign = "+"
    expects_word = True
    for part in " ".join(terms).split():
        if expects_word == (part in sides):
            what = "a word" if expects_word else "+ or -"
            raise OutOfRange(f"{' '.join(terms)!r}: expected {what} where {part!r} stands, as in: king - man + woman")
        if part in sides:
            sign = part
        else:
            sides[sign].append(part)
        expects_word = not expects_word
    if expects_word:
        raise OutOfRange(f"{' '.join(terms)!r} ends without a word, expected something like: king - man + woman")
    return sides["+"], sides["-"]
