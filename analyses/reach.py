"""How far back does context reach, and how does the last vector come to hold the passage?"""

import pandas
import torch
from _script import Answer, Say, document_start, main, origin, start_in_words
from torch import Tensor

import probe
from probe.distributions import kl_divergence, log_probs_of
from probe.figures.lens import lens_lines, place_label
from probe.figures.page import PageSection, Table
from probe.methods.lens import LensReadout
from probe.methods.tuned_lens import TunedLens
from probe.prompts import read_prompts
from probe.sites import residual_sites
from probe.tokens import show_token

QUESTION = "How far back does context reach, and what does the last vector hold?"
MYSTERY = (
    "Four guests stayed at the old house by the lake that night: Martha the cook, Edgar the gardener, Simon the doctor "
    "and Clara the painter. In the morning the owner was found dead in the library. Martha had been in the kitchen "
    "with the maid until midnight. Simon had been called to a patient in the village, and the patient remembered it "
    "well. Clara had broken her arm a week before and could not lift a cup. Only the gardener had no answer when the "
    "inspector asked him where he had been. There was mud from the flower beds on the carpet, and the knife was the "
    "one with which he cut the roses. The inspector closed his notebook, looked around the room, and said that it "
    "was all very simple now, and that the murderer was without any doubt"
)
SUSPECTS = [" Edgar", " Martha", " Simon", " Clara"]
POTTER = (
    "Harry Potter walked into the dungeon for another lesson in potions. Of all the teachers at Hogwarts, the one he "
    "liked least was Professor"
)
TEACHERS = [" Sn", " D", " McG", " L"]
"""How the default model begins Snape, Dumbledore, McGonagall and Lupin."""
QUICK_DRAWS = 2
DRAWS = 16
"""Random replacements of the token at each distance."""
KEPT = (4, 8, 16, 32, 64, 128)
"""How much of the end of the passage is kept."""


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Change one token, then leave out the beginning, then read the last vector layer by layer."""
    start = document_start(model)
    tokens = list(read_prompts(model.config, model.tokenizer, MYSTERY, document_start=start).ids[0])
    say("changing one token at a time")
    reach, reach_table = _reach(model, tokens, QUICK_DRAWS if quick else DRAWS, first=int(start))
    say("leaving out the beginning")
    kept, kept_table = _kept(model, tokens, first=int(start))
    say("the tuned lens (fitted first if the cache has none: minutes)")
    tuned = None if quick else probe.load_tuned_lens(model)
    baked, baked_table = _baked(model, MYSTERY, SUSPECTS, "What the last vector holds", start, tuned)
    potter, potter_table = _baked(model, POTTER, TEACHERS, "Harry Potter’s least favourite teacher", start, tuned)
    return Answer(
        question=QUESTION,
        lead=[f"{model.name}, {start_in_words(model)}. A passage of {len(tokens)} tokens: {MYSTERY} ..."],
        sections=[reach, kept, baked, potter],
        table=pandas.concat([reach_table, kept_table, baked_table, potter_table]),
        manifest=origin(model, passage=MYSTERY, potter=POTTER, draws=DRAWS, seed=0),
    )


def _reach(model: probe.GPT, tokens: list[int], draws: int, first: int) -> tuple[PageSection, pandas.DataFrame]:
    """What becomes of the last vector and its prediction when one earlier token is another one."""
    clean_stream, clean = _last(model, [tokens])
    generator = torch.Generator().manual_seed(0)
    distances = [2**power for power in range(12) if 2**power < len(tokens) - first]
    rows = []
    for distance in distances:
        others = torch.randint(model.config.d_vocab, (draws,), generator=generator).tolist()
        at = len(tokens) - 1 - distance
        stream, after = _last(model, [[*tokens[:at], other, *tokens[at + 1 :]] for other in others])
        change = (stream - clean_stream).norm(dim=-1) / clean_stream.norm(dim=-1)
        divergence = kl_divergence(clean, after)
        rows.append((distance, divergence, change))
    shown = [len(clean_stream) * part // 4 - 1 for part in (1, 2, 3, 4)]
    table = pandas.DataFrame(
        {"distance": distance, "draw": draw, "kl_nats": float(divergence[draw]), "layer": layer,
         "relative_change": float(change[layer, draw])}
        for distance, divergence, change in rows for draw in range(draws) for layer in shown
    )  # fmt: skip
    words = (
        f"One token, a number of tokens before the last one, is replaced by a random one ({draws} draws each). How far "
        "the last vector moves after some layers, as a share of its length, and KL(clean || changed) of what is said "
        "next, in nats: means, and the standard error of the last."
    )
    lines = [
        (f"{distance}", *(f"{value:.3f}" for value in (*change.mean(1)[shown].tolist(), *_mean_and_error(divergence))))
        for distance, divergence, change in rows
    ]
    columns = ("tokens back", *(f"layer {layer}" for layer in shown), "KL", "s.e.")
    section = PageSection("How far back context reaches", "context length in use", [words], table=Table(columns, lines))
    return section, table.assign(about="reach")


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def _kept(model: probe.GPT, tokens: list[int], first: int) -> tuple[PageSection, pandas.DataFrame]:
    """What is said next after only the end of the passage."""
    sizes = [size for size in KEPT if size < len(tokens) - first]
    _, ends = _last(model, [[*tokens[:first], *tokens[-size:]] for size in sizes] + [tokens])
    clean, suspects = ends[-1], _ids(model, SUSPECTS)
    divergence = kl_divergence(clean, ends).tolist()
    probabilities = ends[:, suspects].exp()
    names = [*map(str, sizes), f"all {len(tokens) - first}"]
    rows = [
        (name, f"{kl:.3f}", *(f"{value:.4f}" for value in values))
        for name, kl, values in zip(names, divergence, probabilities.tolist(), strict=True)
    ]
    words = (
        "Only the last tokens of the passage are shown to the model (after the document start, if there is one): "
        "KL(whole || end) of what it says next, in nats, and the probability of each name."
    )
    table = pandas.DataFrame(rows, columns=["tokens_kept", "kl_nats", *SUSPECTS]).assign(about="kept")
    columns = ("tokens kept", "KL", *map(show_token, SUSPECTS))
    return PageSection("The passage without its beginning", "truncation", [words], table=Table(columns, rows)), table


def _baked(
    model: probe.GPT, text: str, watch: list[str], heading: str, start: bool, tuned: TunedLens | None
) -> tuple[PageSection, pandas.DataFrame]:
    """The names' ranks at the last vector, layer by layer."""
    sites = residual_sites(model.config)
    rec = probe.record(model, text, sites=sites, positions=-1, document_start=start, logits=False)
    readout = probe.logit_lens(model, rec, watch=watch, tuned=tuned)
    ends = [place for place, name in enumerate(readout.places) if not name.endswith("resid_mid")]
    shown = [ends[round(step * (len(ends) - 1) / 10)] for step in range(11)]
    rows = [_names_row(readout, place) for place in dict.fromkeys(shown)]
    lens = "raw" if tuned is None else "tuned"
    final = readout.texts[int(readout.final_tokens[0, 0])]
    words = (
        f"“... {text[-60:]}”: the rank of each name among all {readout.d_vocab:,} at the last vector through the "
        f"{lens} lens, and the first of all. The model says “{show_token(final)}” in the end, with probability "
        f"{float(readout.final_log_probs[-1, 0, 0].exp()):.3f}; "
        + "; ".join(f"“{show_token(name)}” has {p:.4f}" for name, p in zip(watch, _final(readout), strict=True)) + "."
    )  # fmt: skip
    section = PageSection(
        heading, f"{lens} lens", [words], figures=[lambda theme: lens_lines(readout, theme=theme)],
        table=Table(("after", *map(show_token, watch), "first"), rows),
    )  # fmt: skip
    return section, readout.to_dataframe().assign(about=heading)


def _names_row(readout: LensReadout, place: int) -> tuple[str, ...]:
    ranks = (f"{rank:,}" for rank in readout.watched_ranks[place, 0, 0].tolist())
    return (
        place_label(readout.places[place]), *ranks, show_token(readout.texts[int(readout.top_tokens[place, 0, 0, 0])])
    )  # fmt: skip


def _final(readout: LensReadout) -> list[float]:
    return readout.watched_log_probs[-1, 0, 0].exp().tolist()


def _last(model: probe.GPT, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(layer, prompt, d_model) after every layer, and log-probabilities (nats), at each prompt's last position."""
    rec = probe.record(model, prompts, sites=["resid_post"], positions=-1)
    return rec.stack("resid_post")[:, :, 0], log_probs_of(rec.logits[:, 0])


def _ids(model: probe.GPT, texts: list[str]) -> list[int]:
    assert model.tokenizer is not None, "checked by document_start"
    return [model.tokenizer.token_id(text) for text in texts]


if __name__ == "__main__":
    main(QUESTION, ask)
