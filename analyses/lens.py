"""Where in the layers does " Paris" become the answer to "The capital of France is", and other facts theirs?"""

import pandas
import torch
from _script import Answer, Say, document_start, main, origin, start_in_words

import probe
from probe.errors import BadPrompt
from probe.figures.lens import lens_lines, place_label
from probe.figures.page import PageSection, Table
from probe.methods.lens import LensReadout
from probe.sites import residual_sites
from probe.tokens import show_token

QUESTION = "Where in the layers does “ Paris” become the answer?"
FACTS = {
    # Written down before the model had seen any of them; none was dropped afterwards.
    "The capital of France is": " Paris",
    "The capital of Japan is": " Tokyo",
    "The capital of Italy is": " Rome",
    "The capital of Germany is": " Berlin",
    "The capital of Russia is": " Moscow",
    "The capital of Egypt is": " Cairo",
    "The capital of Spain is": " Madrid",
    "The Eiffel Tower stands in the city of": " Paris",
    "The Colosseum stands in the city of": " Rome",
    "The language spoken in Brazil is": " Portuguese",
    "The language spoken in Mexico is": " Spanish",
    "The currency of the United Kingdom is the": " pound",
    "The largest planet of the solar system is": " Jupiter",
    "The planet closest to the Sun is": " Mercury",
    "The largest ocean on Earth is the": " Pacific",
    "The longest river in Africa is the": " Nile",
    "The highest mountain on Earth is Mount": " Everest",
    "The author of Hamlet was William": " Shakespeare",
    "The theory of relativity was developed by Albert": " Einstein",
    "The first President of the United States was George": " Washington",
    "Water is made of hydrogen and": " oxygen",
    "The gas that plants take up from the air is carbon": " dioxide",
    "A baby dog is called a": " puppy",
    "A baby cat is called a": " kitten",
    "The opposite of hot is": " cold",
    "The day after Monday is": " Tuesday",
    "The month after January is": " February",
    "Two plus two equals": " four",
    "Bees make": " honey",
    "The frozen form of water is called": " ice",
    "The Taj Mahal is a building in": " India",
}
QUICK = 5
"""Facts with `--quick`, which also leaves out the tuned lens: fitting one takes minutes."""


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Every fact through the raw and the tuned lens at its last position."""
    start = document_start(model)
    facts = one_token_answers(model, dict(list(FACTS.items())[:QUICK]) if quick else FACTS)
    say("running the prompts")
    recording = probe.record(
        model, list(facts), sites=residual_sites(model.config), positions=-1,
        document_start=start, logits=False,
    )  # fmt: skip
    answers = list(facts.values())
    readouts = {"raw": probe.logit_lens(model, recording, watch=answers)}
    if not quick:
        say("the tuned lens (fitted first if the cache has none: minutes)")
        readouts["tuned"] = probe.logit_lens(model, recording, watch=answers, tuned=probe.load_tuned_lens(model))
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {len(facts)} facts, {start_in_words(model)}. A fact is known if its answer is the "
            "likeliest next token. It is the answer from the first place at which it is the likeliest and stays so "
            "to the end."
        ],
        sections=[_section(kind, readout, facts) for kind, readout in readouts.items()],
        table=pandas.concat([_table(kind, readout, facts) for kind, readout in readouts.items()]),
        manifest=origin(model, facts=facts),
    )


def one_token_answers(model: probe.GPT, facts: dict[str, str]) -> dict[str, str]:
    """The facts whose answer is one token of this model: of the default model, all."""
    return {prompt: answer for prompt, answer in facts.items() if _is_one_token(model, answer)}


def _is_one_token(model: probe.GPT, text: str) -> bool:
    assert model.tokenizer is not None, "checked by document_start"
    try:
        model.tokenizer.token_id(text)
    except BadPrompt:
        return False
    return True


def _section(kind: str, readout: LensReadout, facts: dict[str, str]) -> PageSection:
    of_answers = answer_ranks(readout)
    n_places = len(readout.places)
    known = [place for place in settled_at(of_answers) if place < n_places]
    rows = [_row(readout, index, prompt, answer, of_answers) for index, (prompt, answer) in enumerate(facts.items())]
    words = f"{len(known)} of {len(facts)} facts are known."
    if known:
        at = torch.tensor(known).float().quantile(torch.tensor([0.25, 0.5, 0.75])).round().int().tolist()
        first, middle, last = (place_label(readout.places[place]) for place in at)
        words += f" Half of them are settled at or before {middle} (quartiles: {first}; {last})."
        by_attention = sum(readout.places[place].endswith("resid_mid") for place in known)
        if any(place.endswith("resid_mid") for place in readout.places):  # not where both work in parallel
            words += f" Attention settled {by_attention}, an MLP {len(known) - by_attention}."
    worse = int(readout.worse_than_uniform[:, :, 0].float().mean(1).gt(0.5).sum())
    return PageSection(
        f"Through the {kind} lens",
        "logit lens" if kind == "raw" else "tuned lens",
        [words],
        figures=[lambda theme: lens_lines(readout, theme=theme)],
        table=Table(("fact", "answer", "final rank", "settled", "before that"), rows),
        remarks=[f"At {worse} of {n_places} places this lens is worse than knowing nothing for most of the facts."],
    )


def _row(readout: LensReadout, index: int, prompt: str, answer: str, of_answers: torch.Tensor) -> tuple[str, ...]:
    place = settled_at(of_answers)[index]
    if place == len(readout.places):
        choice = readout.texts[int(readout.final_tokens[index, 0])]
        return (prompt, show_token(answer), f"{int(of_answers[-1, index]):,}", "never", f"says “{show_token(choice)}”")
    before = readout.texts[int(readout.top_tokens[max(0, place - 1), index, 0, 0])]
    return (prompt, show_token(answer), "1", place_label(readout.places[place]), f"“{show_token(before)}”")


def answer_ranks(readout: LensReadout) -> torch.Tensor:
    """(place, fact): the rank of each fact's own answer; token i is watched for fact i."""
    return readout.watched_ranks[:, :, 0].diagonal(dim1=1, dim2=2)


def settled_at(of_answers: torch.Tensor) -> list[int]:
    """The first place from which each fact's answer keeps rank 1; the number of places if it never does."""
    first_to_the_end = (of_answers == 1).flip(0).cumprod(0).sum(0)
    return (len(of_answers) - first_to_the_end).tolist()


def _table(kind: str, readout: LensReadout, facts: dict[str, str]) -> pandas.DataFrame:
    table = readout.to_dataframe()
    answers = table["prompt"].map(dict(enumerate(facts.values())))
    own = table[(table["kind"] == "watched") & (table["token"] == answers)]
    own = own.drop_duplicates()  # two facts may have one answer
    return own.assign(lens=kind, text=own["prompt"].map(dict(enumerate(facts))))


if __name__ == "__main__":
    main(QUESTION, ask)
