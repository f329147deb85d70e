"""How does context change a word: one word in several texts, read at that word after every layer.

Nothing is read at position 0, where every word turns into the same attention sink: texts begin with a document start,
or, where a model has none, with a word.
"""

import itertools

import pandas
import torch
from _script import Answer, Say, document_start, main, origin, start_in_words
from jaxtyping import Bool, Float
from torch import Tensor

import probe
from probe.figures.lens import lens_heatmap, place_label
from probe.figures.page import PageSection, Table
from probe.methods.lens import LensReadout
from probe.methods.tuned_lens import TunedLens
from probe.tokens import show_token

QUESTION = "How does context change a word?"
SENSES = {
    "machine learning": [
        "Researchers trained a machine learning model",
        "The training data was fed to the neural network model",
        "With more parameters we get a better language model",
        "On the test set we evaluated the statistical model",
        "The software predicts the weather with a deep learning model",
        "We fit the parameters of the regression model",
    ],
    "fashion": [
        "The photographer worked with a fashion model",
        "On the catwalk in Paris walked a famous model",
        "The magazine cover shows a beautiful young model",
        "She moved to Milan to become a swimsuit model",
        "The new dress was worn by a tall model",
        "The agency signed a contract with a runway model",
    ],
}
"""Every text ends with the word; its vector there is read."""
STORIES = {
    "tower": (
        ["In the picture you see a tower", "In the picture you see the Eiffel tower",
         "In the picture you see a miniature Eiffel tower"],
        [" Paris", " France", " tall", " small", " toy"],
    ),
    "king": (
        ["Once there was a king",
         "In the Highlands of Scotland there was a king",
         "He had murdered his predecessor and now he was king",
         "In the play by Shakespeare, among witches and murder in Scotland, Macbeth becomes king"],
        [" Scotland", " murder", " Shakespeare", " Macbeth", " queen"],
    ),
}  # fmt: skip
"""Texts that end with the word, and tokens to look for in what becomes of it."""


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """First two senses of one word, then words to which a text adds more and more."""
    start = document_start(model)
    say("two senses of one word")
    found = {sense: _vectors(model, texts[: 4 if quick else None], start) for sense, texts in SENSES.items()}
    senses, table = _senses(model, found)
    say("the tuned lens (fitted first if the cache has none: minutes)")
    tuned = None if quick else probe.load_tuned_lens(model)
    stories = [_story(model, word, texts, watch, start, tuned) for word, (texts, watch) in STORIES.items()]
    return Answer(
        question=QUESTION,
        lead=[f"{model.name}, {start_in_words(model)}. Read at the last word of each text."],
        sections=[senses, *(section for section, _ in stories)],
        table=pandas.concat([table, *(rows for _, rows in stories)]),
        manifest=origin(model, senses=SENSES, stories=STORIES),
    )


def _vectors(model: probe.GPT, texts: list[str], start: bool) -> tuple[Tensor, Tensor]:
    """(layer, text, d_model) after every layer at the last word, and the log-probabilities of what follows."""
    rec = probe.record(model, texts, sites=["resid_pre", "resid_post"], positions=-1, document_start=start)
    stream = torch.cat([rec["resid_pre", 0][None], rec.stack("resid_post")])
    return stream[:, :, 0], rec.logits[:, 0].log_softmax(-1)


def _senses(model: probe.GPT, found: dict[str, tuple[Tensor, Tensor]]) -> tuple[PageSection, pandas.DataFrame]:
    (one, after_one), (other, after_other) = found.values()
    n = one.shape[1]
    cosines = _cosines(torch.cat([one, other], dim=1))
    labels = [torch.tensor([text in chosen for text in range(2 * n)]) for chosen in _halves(2 * n)]
    separations = torch.stack([separation(cosines, label) for label in labels])  # the first is the true one
    true, shuffled = separations[0], separations[1:]
    # The largest of all layers against the largest of all layers: so looking at every layer costs nothing.
    p = float((separations.amax(1) >= true.max()).float().mean())
    best = int(true.argmax())
    within, across = _means(cosines, labels[0])
    band = shuffled.quantile(0.95, dim=0)
    rows = [
        (_layer(layer), f"{within[layer]:.3f}", f"{across[layer]:.3f}", f"{true[layer]:+.3f}", f"{band[layer]:+.3f}")
        for layer in range(len(true))
    ]
    table = pandas.DataFrame(rows, columns=["after", "cosine_within", "cosine_across", "separation", "null_95"])
    words = (
        f"“model” as the last word of {n} texts about each of: {', '.join(found)}. Cosine of its vectors in texts of "
        "the same sense and of different senses; their difference is what context has done. Shuffled: 95th percentile "
        "of the difference over every other way to part the texts in two halves. It is largest after "
        f"{_layer(best)}: {true[best]:+.3f}; p = {p:.2g} for the largest over all layers ({len(labels)} ways, so at "
        f"least {1 / len(labels):.2g})."
    )
    gain = after_one.mean(0) - after_other.mean(0)
    turned = [_favoured(model, gain, name, sign) for name, sign in zip(found, (1, -1), strict=True)]
    return PageSection(
        "Two senses of “model”", "contextual representation", [words],
        table=Table(("after", "same sense", "different", "difference", "shuffled"), rows), remarks=turned,
    ), table.assign(about="two senses of model")  # fmt: skip


def _favoured(model: probe.GPT, gain: Float[Tensor, " d_vocab_out"], sense: str, sign: int) -> str:
    assert model.tokenizer is not None, "checked by document_start"
    best = (sign * gain).topk(8).indices.tolist()
    tokens = ", ".join(f"“{show_token(text)}”" for text in model.tokenizer.str_tokens(best))
    return f"What follows “model” gains most in the {sense} texts: {tokens}."


def _cosines(stream: Float[Tensor, "layer text d_model"]) -> Float[Tensor, "layer text text"]:
    unit = torch.nn.functional.normalize(stream, dim=-1)
    return unit @ unit.mT


def _halves(n: int) -> list[tuple[int, ...]]:
    """Every way to part n things in two halves, once: the half with the first thing. The first is 0 to n/2 - 1."""
    return [(0, *rest) for rest in itertools.combinations(range(1, n), n // 2 - 1)]


def separation(cosines: Float[Tensor, "layer text text"], label: Bool[Tensor, " text"]) -> Float[Tensor, " layer"]:
    """Mean cosine of texts of the same half minus that of texts of different halves."""
    within, across = _means(cosines, label)
    return within - across


def _means(cosines: Float[Tensor, "layer text text"], label: Bool[Tensor, " text"]) -> tuple[Tensor, Tensor]:
    same = label[:, None] == label
    others = ~torch.eye(len(label), dtype=torch.bool)
    return cosines[:, same & others].mean(1), cosines[:, ~same].mean(1)


def _story(
    model: probe.GPT, word: str, texts: list[str], watch: list[str], start: bool, tuned: TunedLens | None
) -> tuple[PageSection, pandas.DataFrame]:
    """The ranks of telling tokens at the word, in each text, after some layers."""
    rec = probe.record(
        model, texts, sites=["resid_pre", "resid_post"], positions=-1, document_start=start, logits=False
    )
    readout = probe.logit_lens(model, rec, sites=["resid_pre", "resid_post"], watch=watch, tuned=tuned)
    shown = range(0, len(readout.places), max(1, (len(readout.places) - 1) // 5))
    rows = [_ranks_row(readout, n, place) for n in range(len(texts)) for place in shown]
    lens = "raw" if tuned is None else "tuned"
    words = (
        f"The last word of each text through the {lens} lens: the rank of telling tokens among all {readout.d_vocab:,} "
        "as what comes next, and the first of all."
    )
    table = readout.to_dataframe()
    return PageSection(
        f"What becomes of “{word}”", f"{lens} lens",
        [words, *(f"{n}: {text}" for n, text in enumerate(texts, start=1))],
        figures=[lambda theme, n=n: lens_heatmap(readout, prompt=n, theme=theme) for n in range(len(texts))],
        table=Table(("text", "after", *map(show_token, watch), "first"), rows),
    ), table.assign(about=word, text=table["prompt"].map(dict(enumerate(texts))))  # fmt: skip


def _ranks_row(readout: LensReadout, text: int, place: int) -> tuple[str, ...]:
    ranks = readout.watched_ranks[place, text, 0].tolist()
    first = readout.texts[int(readout.top_tokens[place, text, 0, 0])]
    return (str(text + 1), place_label(readout.places[place]), *(f"{rank:,}" for rank in ranks), show_token(first))


def _layer(index: int) -> str:
    """Name of a place in a stack that begins with the embedding."""
    return "embedding" if index == 0 else f"layer {index - 1}"


if __name__ == "__main__":
    main(QUESTION, ask)
