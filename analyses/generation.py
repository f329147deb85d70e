"""What temperature does to a story, what training did to the model, what a conversation loses with its beginning."""

import pandas
import torch
from _script import Answer, Say, document_start, main, origin, start_in_words

import probe
from probe.chat import chat_prompt
from probe.figures.generation import step_bars, surprise_bars
from probe.figures.page import PageSection, Table
from probe.generation import Generation
from probe.prompts import read_prompts
from probe.tokens import show_token
from probe.weights import untrained_twin

QUESTION = "What do temperature, training and context do to a text?"
BEGINNING = "Once upon a time there was a"
TEMPERATURES = (0.0, 0.7, 1.5)
SEEDS, QUICK_SEEDS = 5, 1
TOKENS, QUICK_TOKENS = 60, 8
FACT = "My name is Ada and I keep bees."
ASK, OPENING, NAME = "What is my name?", "Your name is", " Ada"
FILLERS = [
    "Tell me about the sea.",
    "And about the mountains?",
    "What do people eat in winter?",
    "Why is the sky blue?",
    "How does a clock work?",
    "What is a poem?",
    "Who builds houses?",
    "What is bread made of?",
]
WINDOW = 256
"""Tokens to which the conversation is cut, the oldest messages first, as if the context were no longer."""


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Three temperatures and the top 20 at 5; the untrained twin; a conversation beyond its window."""
    start, n = document_start(model), QUICK_TOKENS if quick else TOKENS
    seeds = range(QUICK_SEEDS if quick else SEEDS)
    say("a story at several temperatures")
    stories, stories_table = _stories(model, start, n, seeds)
    say("the untrained twin")
    twin, twin_table = _twin(model, start, n)
    say("a conversation")
    talk, talk_table = _conversation(model, quick)
    return Answer(
        question=QUESTION,
        lead=[f"{model.name}. Stories: {start_in_words(model)}, beginning “{BEGINNING}”, {n} tokens."],
        sections=[stories, twin, talk],
        table=pandas.concat([stories_table, twin_table, talk_table]),
        manifest=origin(model, beginning=BEGINNING, tokens=n, seeds=list(seeds), window=WINDOW),
    )


def _stories(model: probe.GPT, start: bool, n: int, seeds: range) -> tuple[PageSection, pandas.DataFrame]:
    ways = {f"temperature {t:g}": {"temperature": t} for t in TEMPERATURES}
    ways["temperature 5, 20 likeliest"] = {"temperature": 5.0, "top_k": 20}
    settings = {"max_tokens": n, "document_start": start, "stop": []}
    told = {
        way: [probe.generate(model, BEGINNING, seed=seed, **how, **settings).run() for seed in seeds]
        for way, how in ways.items()
    }
    rows = [_story_row(way, several) for way, several in told.items()]
    words = (
        f"{len(seeds)} seeds each (temperature 0 has one text). Surprise: mean of -log of the model's own probability "
        "(nats per token); rank: median rank of the chosen token; new: share of tokens that were not in the text "
        "before; pairs: share of pairs of neighbouring tokens that were not (1: nothing repeats)."
    )
    first = {way: several[0] for way, several in told.items()}
    columns = ("", "surprise", "perplexity", "median rank", "likeliest chosen", "new", "pairs")
    section = PageSection(
        "One story, colder and hotter", "temperature", [words],
        figures=[
            lambda theme: step_bars(first["temperature 0.7"].steps[0], temperature=0.7, theme=theme),
            *(lambda theme, story=story: surprise_bars(story, theme=theme) for story in first.values()),
        ],
        table=Table(columns, rows),
        remarks=[f"{way}: {BEGINNING}{story.text}" for way, story in first.items()],
    )  # fmt: skip
    tables = [
        story.to_dataframe().assign(about=way, seed=seed)
        for way, several in told.items() for seed, story in zip(seeds, several, strict=True)
    ]  # fmt: skip
    return section, pandas.concat(tables)


def _story_row(way: str, several: list[Generation]) -> tuple[str, ...]:
    steps = [step for story in several for step in story.steps]
    surprise = sum(step.surprise for step in steps) / len(steps)
    ranks = torch.tensor([float(step.rank) for step in steps])
    fresh = [share_new(story.ids, len(story.prompt)) for story in several]
    pairs = [share_new(list(zip(story.ids, story.ids[1:], strict=False)), len(story.prompt)) for story in several]
    return (
        way, f"{surprise:.2f}", f"{2.718281828**surprise:,.1f}", f"{float(ranks.median()):,.0f}",
        f"{float((ranks == 1).float().mean()):.0%}", f"{sum(fresh) / len(fresh):.0%}", f"{sum(pairs) / len(pairs):.0%}",
    )  # fmt: skip


def share_new(things: list, first: int) -> float:
    """Share of the things from `first` on that stood nowhere before them."""
    later = range(first, len(things))
    return sum(things[place] not in things[:place] for place in later) / max(1, len(later))


def _twin(model: probe.GPT, start: bool, n: int) -> tuple[PageSection, pandas.DataFrame]:
    """One beginning, continued by the model and by the same shape with random weights."""
    settings = {"max_tokens": n, "temperature": 0.7, "seed": 0, "document_start": start, "stop": []}
    models = {model.name: model, "untrained twin": untrained_twin(model)}
    both = {name: probe.generate(one, BEGINNING, **settings).run() for name, one in models.items()}
    rows = []
    for name, story in both.items():
        entropy = sum(step.entropy for step in story.steps) / len(story.steps)
        surprise = sum(step.surprise for step in story.steps) / len(story.steps)
        rows.append((name, f"{entropy:.2f}", f"{surprise:.2f}", story.text.replace("\n", " ")[:160]))
    uniform = float(torch.log(torch.tensor(float(model.config.n_outputs))))
    words = (
        "Temperature 0.7, one seed. Entropy and surprise are means in nats per token; knowing nothing would be "
        f"{uniform:.2f}. A larger model can be asked with --model."
    )
    section = PageSection(
        "Before and after training",
        "untrained twin",
        [words],
        table=Table(("model", "entropy", "surprise", "text"), rows),
    )
    tables = [story.to_dataframe().assign(about=f"twin: {name}") for name, story in both.items()]
    return section, pandas.concat(tables)


def _conversation(model: probe.GPT, quick: bool) -> tuple[PageSection, pandas.DataFrame]:
    """Ask for a fact from the first message while the conversation grows past its window."""
    talk = [{"role": "user", "content": FACT}]
    rows = []
    for turn in range(2 if quick else len(FILLERS) + 1):
        talk.append({"role": "assistant", "content": _answer(model, talk, 48).text})
        window = _cut(model, [*talk, {"role": "user", "content": ASK}])
        said = _answer(model, window, 24)
        whole = _length(model, [*talk, {"role": "user", "content": ASK}])
        told = any(message["content"] == FACT for message in window)
        chance = f"{_chance_of_name(model, window):.5f}"
        rows.append((str(turn + 1), f"{whole}", "yes" if told else "no", chance, said.text.replace("\n", " ")))
        talk.append({"role": "user", "content": FILLERS[turn % len(FILLERS)]})
    words = (
        f"The user says “{FACT}”, then asks about other things; after every answer “{ASK}” is tried, and the "
        f"probability of “{NAME}” is read where the answer begins “{OPENING}”. Only the last "
        f"{WINDOW} tokens are shown to the model, whole messages, the oldest dropped first: a small window in place of "
        f"the context of {model.config.n_ctx:,}, beyond which `probe.chat` raises an error rather than drop anything "
        "unasked. Temperature 0."
    )
    names = ["turn", "tokens", "fact_in_window", "name_probability", "answer"]
    table = pandas.DataFrame(rows, columns=names).assign(about="conversation")
    columns = ("turn", "tokens in all", "fact still there", f"p({show_token(NAME)})", "answer")
    return PageSection("A conversation beyond its window", "context", [words], table=Table(columns, rows)), table


def _chance_of_name(model: probe.GPT, talk: list[dict[str, str]]) -> float:
    """Probability of the name's first token, where the answer has been begun for the model."""
    assert model.tokenizer is not None, "checked by document_start"
    logits = probe.record(model, chat_prompt(model, talk) + OPENING, sites=[], positions=-1).logits[0, 0]
    return float(logits.softmax(-1)[model.tokenizer.encode(NAME, add_special_tokens=False)[0]])


def _answer(model: probe.GPT, talk: list[dict[str, str]], n: int) -> Generation:
    return probe.chat(model, _cut(model, talk), max_tokens=n, temperature=0).run()


def _cut(model: probe.GPT, talk: list[dict[str, str]]) -> list[dict[str, str]]:
    """The last messages that fit the window, the user's first."""
    while _length(model, talk) > WINDOW and len(talk) > 1:
        talk = talk[2:]
    return talk


def _length(model: probe.GPT, talk: list[dict[str, str]]) -> int:
    return len(read_prompts(model.config, model.tokenizer, chat_prompt(model, talk)).ids[0])


if __name__ == "__main__":
    main(QUESTION, ask)
