"""Examples of the chapters "Predict, sample, repeat" and "Inside a transformer"."""

import torch
from _introduction import CAPITAL, FIRST_STEP, STORY, Chapter, Example, Subject, judge, plural_pairs
from context import SENSES

import probe
from probe.catalogue import known_models
from probe.errors import BadPrompt, UnsupportedModel
from probe.figures.distribution import next_token_bars
from probe.figures.generation import step_bars
from probe.geometry import cosine
from probe.methods.distribution import next_tokens
from probe.weights import untrained_twin

PLAIN = "The cat sat on the mat and looked out of the window at the birds in the garden."
SENTENCE = "The photographer admired a lighthouse, didn't she?"
QUESTION = "What is the capital of France?"


def predict(subject: Subject) -> Chapter:
    """A text grows by one token at a time."""
    step = subject.first_step()
    return Chapter(
        "Predict, sample, repeat",
        [
            "A GPT is a program that reads a text and says what may come next. It works on tokens: common words or "
            "pieces of words. For every token that it knows it gives a probability, a number from 0 (never) to 1 "
            "(always). One is drawn, put at the end of the text, and the game begins again. That is all there is to "
            "writing a story, or to a chat.",
            "Surprise says how badly a text was foreseen: minus the logarithm of the probability that its tokens had, "
            "in nats. 0 is certain; 0.7 is like a coin; the program that knows nothing of its "
            f"{subject.model.config.n_outputs:,} tokens has {_ignorance(subject):.1f}.",
        ],
        [fine_tuned(subject), other_media(), story(subject), larger(subject), distribution(subject)],
        figures=[lambda theme: step_bars(step, theme=theme)],
        remarks=["The bars: what could come first. The slider is explained under “Softmax with temperature”."],
    )


def fine_tuned(subject: Subject) -> Example:
    """The P in GPT."""
    cards = {known.name: known.description for known in known_models()}
    card = cards.get(subject.model.name, "nothing is known of its making")
    return Example(
        "00:13", "A GPT is pretrained on much text, then can be fine-tuned for a task.",
        f"Its description says: {card}.", judge("fine-tuned" in card), "Tokens and model",
        "{one.name: one.description for one in probe.catalogue.known_models()}.get(model.name)",
        cards.get(subject.model.name),
    )  # fmt: skip


def other_media() -> Example:
    """Nothing to try."""
    return Example("00:47", "Transformers also turn speech into text, text into images, and translate.",
                   "Nothing to try here: this GPT reads and writes text.", "not tried", "—")  # fmt: skip


def story(subject: Subject) -> Example:
    """Predict, sample, append, repeat."""
    n = subject.n_tokens
    told = probe.generate(
        subject.model, STORY, temperature=0.8, seed=1, max_tokens=n, document_start=subject.start
    ).run()  # fmt: skip
    return Example(
        "02:02, 02:13", "A small model continues a story: predict, sample, append, repeat.",
        f"“{STORY}{told.text} ...”", "yes", "Generation",
        f'probe.generate(model, "{STORY}", temperature=0.8, seed=1, max_tokens={n}, document_start=True).run().text',
        told.text,
        opens={"prompt": STORY, "preset": "my own", "temperature": "0.8", "seed": "1", "n_new": str(n)},
    )  # fmt: skip


def larger(subject: Subject) -> Example:
    """Only one size is at hand: beside it stands the same shape before it learnt anything."""
    learnt, random = subject.surprise(PLAIN), subject.surprise(PLAIN, untrained_twin(subject.model))
    return Example(
        "02:26", "The same kind of model, only much larger, suddenly makes sense.",
        f"One size is at hand, so only learning is shown: surprise at a plain sentence {learnt:.2f} nats per token, "
        f"with random weights {random:.2f}. A larger model: --model.", "partly", "Generation",
        f'probe.score_text(model, "{PLAIN}", document_start=True).mean_surprise.item()', learnt,
        opens={"prompt": PLAIN, "mode": "only read the text"},
    )  # fmt: skip


def distribution(subject: Subject) -> Example:
    """The whole of it is kept."""
    step = subject.first_step()
    chances = step.distribution.probabilities()
    best = ", ".join(
        f"“{text.strip()}” {chance:.1%}"
        for text, chance in zip(step.distribution.texts[:4], chances.tolist(), strict=False)
    )
    return Example(
        "02:55", "One would like to see the probabilities behind each new word.",
        f"Kept for every step. After “{STORY}”: {best}.", "yes", "Generation",
        f"{FIRST_STEP}.probabilities()[0].item()", float(chances[0]),
        opens={"prompt": STORY},
    )  # fmt: skip


def inside(subject: Subject) -> Chapter:
    """Tokens, vectors, context, MLP, the last vector."""
    record = subject.record(CAPITAL, sites=[])
    return Chapter(
        "Inside a transformer",
        [
            "Every token becomes a vector: a list of numbers, to be thought of as an arrow in a space of so many "
            f"dimensions ({subject.model.config.d_model} here). Two arrows are compared by the cosine of the angle "
            "between them: 1 is the same direction, 0 is perpendicular, -1 is opposite.",
            f"The vectors then go through {subject.model.config.n_layers} layers. Each has two parts: attention, in "
            "which vectors take something from the vectors before them, and an MLP (a multilayer perceptron), in which "
            "each vector is changed by itself. Both only ever add to the vector. From the vector at the last token the "
            "next token is read. The rank of a token is its place in the order of probability: 1 is the likeliest.",
            "Texts here begin with a mark that says “a document begins” (document_start), and no word is read at the "
            "very first place: there, all words look alike in the middle layers.",
        ],
        [tokens(subject), near_meanings(subject), senses(subject), mlps(subject), last_vector(subject), chat(subject)],
        figures=[lambda theme: next_token_bars(next_tokens(subject.model, record), theme=theme)],
        remarks=[f"The bars: what the vector at the end of “{CAPITAL}” says comes next."],
    )


def tokens(subject: Subject) -> Example:
    """Little pieces of text."""
    pieces = subject.model.tokenizer.str_tokens(subject.model.tokenizer.encode(SENTENCE, add_special_tokens=False))
    return Example(
        "03:19", "Text is cut into tokens: words, pieces of words, marks.",
        f"“{SENTENCE}” is {len(pieces)} tokens: {'|'.join(pieces)}", "yes", "Tokens and model",
        f'model.tokenizer.str_tokens(model.tokenizer.encode("{SENTENCE}", add_special_tokens=False))', pieces,
        opens={"prompt": SENTENCE},
    )  # fmt: skip


def near_meanings(subject: Subject) -> Example:
    """A word and its plural, against a word and another's plural."""
    pairs = plural_pairs(subject.words)
    plural, singular = (subject.words.vectors_of(side) for side in zip(*pairs, strict=True))
    own, other = float(cosine(plural, singular).mean()), float(cosine(plural, singular.roll(1, 0)).mean())
    return Example(
        "03:19", "Words of near meanings have vectors that are near.",
        f"Mean cosine in GloVe of {len(pairs)} words with their own plural {own:.2f}, with another word’s plural "
        f"{other:.2f}.", judge(own > other), "Directions",
        "float(probe.geometry.cosine(*map(words.vectors_of, "
        'zip(*probe.load_pairs("plurality").lower().all, strict=True))).mean())', own,
        opens={"show": "Neighbours", "near": "cat dog"},
    )  # fmt: skip


def senses(subject: Subject) -> Example:
    """The short form of context.py."""
    texts = [text for sense in SENSES.values() for text in sense]
    n = len(texts) // 2
    rec = subject.record(texts, sites=["resid_pre", "resid_post"], logits=False)
    before, after = rec["resid_pre", 0][:, 0], rec["resid_post", subject.model.config.n_layers - 1][:, 0]
    pairs = cosine(after[:, None], after)
    same = torch.cat([half[~torch.eye(n, dtype=torch.bool)] for half in (pairs[:n, :n], pairs[n:, n:])])
    alike, across = float(same.mean()), float(pairs[:n, n:].mean())
    first, other = texts[0], texts[n]
    return Example(
        "04:08", "“model” in machine learning and “model” in fashion: context makes the vectors differ.",
        f"At the end of {2 * n} texts: the same vector at first (cosine {float(cosine(before[0], before[n])):.2f}); "
        f"after the last layer {alike:.2f} between texts of one sense, {across:.2f} between the senses "
        "(analyses/context.py).",
        judge(alike > across), "Logit lens",
        f'float(probe.geometry.cosine(*probe.record(model, ["{first}", "{other}"], sites=["resid_post"], positions=-1, '
        'document_start=True).stack("resid_post")[-1, :, 0]))', float(pairs[0, n]),
        opens={"prompt": first},
    )  # fmt: skip


def mlps(subject: Subject) -> Example:
    """What they ask is hard to read; that they matter is not."""
    (clean,) = subject.rank(CAPITAL, " Paris")
    (without,) = subject.rank(CAPITAL, " Paris", interventions=[probe.zero("mlp_out")])
    return Example(
        "04:49", "An MLP asks each vector many questions and changes it by the answers.",
        f"They are needed: without any MLP the rank of “Paris” after “{CAPITAL}” falls from {clean} to {without:,}. "
        "What they ask can be read of some neurons only (analyses/attribution.py).", "partly", "Ablation",
        f'probe.logit_lens(model, probe.record(model, "{CAPITAL}", sites=["resid_post"], positions=-1, interventions='
        '[probe.zero("mlp_out")], document_start=True), watch=[" Paris"]).watched_ranks[-1, 0, 0].item()', without,
        opens={"prompt": CAPITAL, "units": "MLPs", "token_0": " Paris"},
    )  # fmt: skip


def last_vector(subject: Subject) -> Example:
    """Read after every layer as if it were the last: the logit lens."""
    rec = subject.record(CAPITAL, sites=["resid_pre", "resid_post"], logits=False)
    readout = probe.logit_lens(subject.model, rec, watch=[subject.first_token(" Paris")])
    ranks = readout.watched_ranks[:, 0, 0, 0].tolist()
    late = len(ranks) * 4 // 5
    return Example(
        "05:24", "By the end, the meaning of the passage is in the last vector.",
        f"Rank of “Paris”, if the last vector is read early: {ranks[0]:,} before the first layer, {ranks[late]:,} "
        f"after layer {late - 1}, {ranks[-1]} after the last.", judge(ranks[-1] == 1), "Logit lens",
        f'probe.logit_lens(model, probe.record(model, "{CAPITAL}", sites=["resid_post"], positions=-1, '
        'document_start=True), watch=[" Paris"]).watched_ranks[-1, 0, 0].item()', ranks[-1],
        opens={"prompt": CAPITAL},
    )  # fmt: skip


def chat(subject: Subject) -> Example:
    """A conversation as the text that is continued."""
    try:
        said = probe.chat(subject.model, QUESTION, temperature=0, max_tokens=20).run().text
    except (BadPrompt, UnsupportedModel) as error:
        return Example("06:13", "A chatbot continues a written conversation.", str(error), "no", "Generation")
    return Example(
        "06:13", "A chatbot is the same game: instructions and a question are the text to continue.",
        f"“{QUESTION}”: “{said}”", judge("Paris" in said), "Generation",
        f'probe.chat(model, "{QUESTION}", temperature=0, max_tokens=20).run().text', said,
        opens={"mode": "chat", "user": QUESTION},
    )  # fmt: skip


def _ignorance(subject: Subject) -> float:
    return float(torch.log(torch.tensor(float(subject.model.config.n_outputs))))
