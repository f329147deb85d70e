"""Examples of the chapters "Beyond words" and "Back to tokens"."""

from _introduction import Chapter, Example, Subject, judge, listed
from context import STORIES
from reach import POTTER

import probe
from probe.figures.generation import surprise_bars
from probe.weight_count import GPT3

FACT = "My name is Ada and I keep bees. "
LATER = (
    "The weather was fine today, and so I went for a long walk along the river. In the evening a neighbour came by and "
    "asked what I was called. I answered: my name is Ada"
)


def beyond(subject: Subject) -> Chapter:
    """Position, context, and its end."""
    return Chapter(
        "Beyond words",
        [
            "The embedding knows a word alone. On the way through the layers its vector takes in what stands before "
            "it: this is its context. The context size is the largest number of tokens that fit; what does not fit is "
            "not seen at all.",
        ],
        [position(subject), king(subject), context_size(subject), lost_thread(subject)],
    )


def position(subject: Subject) -> Example:
    """Not in the embedding of a rotary model."""
    stream = probe.record(subject.model, [[5, 5, 5]], sites=["resid_pre"], layers=0)["resid_pre", 0][0]
    spread = float(stream.std(0).max())
    rotary = subject.model.config.positions == "rotary"
    how = (
        "This model is rotary: it turns queries and keys by their position inside attention instead"
        if rotary else "This model adds a vector for each position"
    )  # fmt: skip
    return Example(
        "18:32", "The first vectors also encode the position of the token.",
        f"One token at three places: its vectors differ by {spread:.1f}. {how} (analyses/position.py; in a GPT-2-like "
        "model they do).", judge(spread > 0), "Tokens and model",
        'probe.record(model, [[5, 5, 5]], sites=["resid_pre"], layers=0)["resid_pre", 0][0].std(0).max().item()',
        spread,
    )  # fmt: skip


def king(subject: Subject) -> Example:
    """What is expected after the word says what it has soaked in; more in context.py."""
    alone, scotland, murder, _ = STORIES["king"][0]
    before, after = subject.rank([alone, scotland], " Scotland")
    innocent, guilty = subject.rank([alone, murder], " murder")
    return Example(
        "18:43 - 19:11", "“king” soaks in that he is Scottish, and murdered his predecessor.",
        f"Rank of what may follow “king”: “Scotland” {before:,} after “{alone}”, {after:,} after “{scotland}”; "
        f"“murder” {innocent:,} and {guilty:,} after “{murder}”. The right way, but never far (analyses/context.py).",
        judge(after < before, guilty < innocent), "Logit lens",
        f'probe.logit_lens(model, probe.record(model, "{scotland}", sites=["resid_post"], positions=-1, '
        'document_start=True), watch=[" Scotland"]).watched_ranks[-1, 0, 0].item()', after,
        opens={"prompt": scotland},
    )  # fmt: skip


def context_size(subject: Subject) -> Example:
    """A number of the model, and an error beyond it."""
    n_ctx = subject.model.config.n_ctx
    try:
        probe.record(subject.model, [[0] * (n_ctx + 1)])
        said = "no error"
    except probe.ProbeError as error:
        said = str(error)
    return Example(
        "19:54", "Only so many vectors fit at once: GPT-3’s context size is 2,048.",
        f"{GPT3.n_ctx:,} and here {n_ctx:,}. One token more is an error: “{said}”.", judge(said != "no error"),
        "Tokens and model", "model.config.n_ctx", n_ctx,
    )  # fmt: skip


def lost_thread(subject: Subject) -> Example:
    """One text with and without its beginning."""
    known, lost = (
        float(probe.score_text(subject.model, text, document_start=subject.start).surprise[0, -2])
        for text in (FACT + LATER, LATER)
    )
    return Example(
        "20:18", "Once the text is longer than the context, a chatbot loses the thread.",
        f"Surprise at the name “Ada” in the last sentence: {known:.1f} nats if the first sentence, which says it, is "
        f"there, {lost:.1f} if it has been cut off (a whole chat: analyses/generation.py).", judge(known < lost),
        "Generation",
        f'probe.score_text(model, "{FACT + LATER}", document_start=True).surprise[0, -2].item()', known,
    )  # fmt: skip


def unembedding(subject: Subject) -> Chapter:
    """From vectors to what comes next."""
    scores = probe.score_text(subject.model, POTTER, document_start=subject.start)
    return Chapter(
        "Back to tokens",
        [
            "The last vector is compared with one vector for each token of the vocabulary: this matrix is the "
            "unembedding. The better the two align, the likelier the token. The same is done at every place of the "
            "text, not only at its end: that is how a given text can be scored, and how a model learns.",
        ],
        [snape(subject), every_vector(subject), unembedding_weights(subject)],
        figures=[lambda theme: surprise_bars(scores, theme=theme)],
        remarks=[
            "The bars: how surprising each token of the Harry Potter text is, given those before it. The dotted line "
            "(entropy): how surprised the model expects to be."
        ],
    )


def snape(subject: Subject) -> Example:
    """An honest almost."""
    (rank,) = subject.rank(POTTER, " Snape")
    best = probe.score_text(subject.model, POTTER, document_start=subject.start, top=3)
    names = [best.texts[token] for token in best.top_tokens[0, -1].tolist()]
    return Example(
        "20:37 - 20:51", "Harry Potter, the teacher he likes least, Professor ...: Snape.",
        f"The token with which “Snape” begins has rank {rank}; first come {listed(names)}, beginnings of names too "
        "(analyses/reach.py).", "yes" if rank == 1 else "partly" if rank <= 10 else "no", "Logit lens",
        f'probe.logit_lens(model, probe.record(model, "{POTTER}", sites=["resid_post"], positions=-1, '
        'document_start=True), watch=[" Sn"]).watched_ranks[-1, 0, 0].item()', rank,
        opens={"prompt": POTTER},
    )  # fmt: skip


def every_vector(subject: Subject) -> Example:
    """One pass, as many predictions as tokens."""
    ranks = probe.score_text(subject.model, POTTER, document_start=subject.start).rank
    n, first = int((ranks > 0).sum()), int((ranks == 1).sum())
    return Example(
        "21:28 - 21:36", "Every vector of the last layer predicts the token after its own.",
        f"One pass over the Potter text: {n} tokens predicted, {first} of them as the likeliest.", judge(n > 1),
        "Generation", f'int((probe.score_text(model, "{POTTER}", document_start=True).rank > 0).sum())', n,
        opens={"prompt": POTTER, "mode": "only read the text"},
    )  # fmt: skip


def unembedding_weights(subject: Subject) -> Example:
    """12,288 x 50,257."""
    row = probe.count_weights(GPT3, tied=False).rows[-1]
    shared = "Here it is the embedding itself, turned." if subject.model.config.tied_embeddings else ""
    return Example(
        "21:45 - 22:10", "The unembedding: another 617 million weights.",
        f"{row.shape[0]:,} × {row.shape[1]:,} = {row.weights:,}. {shared}", judge(row.weights // 10**6 == 617),
        "Tokens and model", "probe.count_weights(probe.weight_count.GPT3, tied=False).rows[-1].weights", row.weights,
    )  # fmt: skip
