"""Examples of the chapter "Weights": what is learnt, and how much of it there is."""

from _introduction import Chapter, Example, Subject, judge

import probe
from probe.weight_count import GPT3


def weights(subject: Subject) -> Chapter:
    """What is learnt, and how much of it there is."""
    return Chapter(
        "Weights",
        [
            "What a model has learnt is nothing but numbers: its weights (or parameters). They stand in tables, called "
            "matrices. A vector times a matrix is another vector, each of whose numbers is a weighted sum of the "
            "first. Learning begins with random weights and adjusts them, until the text that it is shown is foreseen "
            "better.",
            "How the matrices are counted: queries, keys and values are those of attention, one of each for every head "
            "(a layer has several heads); the output puts the heads of a layer together; up- and down-projection are "
            "the MLP’s; embedding and unembedding turn tokens into vectors and back. Biases (numbers that are added) "
            "and norms (numbers that scale) are few, and are counted apart.",
        ],
        [products(subject), gpt3(), colours(), random_start(subject)],
    )


def products(subject: Subject) -> Example:
    """Weights that stand in matrices."""
    count = probe.count_weights(subject.model.config)
    share = count.weights / count.parameters
    return Example(
        "10:26", "Weights only act through weighted sums; nearly all of it is vector times matrix.",
        f"{share:.2%} of this model’s {count.parameters:,} numbers stand in {count.matrices:,} matrices (what "
        "attention multiplies besides: analyses/costs.py).", judge(share > 0.99), "Tokens and model",
        "probe.count_weights(model.config).weights / probe.count_weights(model.config).parameters", share,
    )  # fmt: skip


def gpt3() -> Example:
    """Counted as the video does."""
    count = probe.count_weights(GPT3, tied=False)
    kinds = ", ".join(f"{row.kind} {row.weights:,}" for row in count.rows)
    positions, *others = count.extras.values()
    right = count.weights // 10**9 == 175, 27_000 < count.matrices < 28_000, len(count.rows) == 8
    return Example(
        "11:06", "GPT-3: 175 billion weights in just under 28,000 matrices of eight kinds.",
        f"{count.weights:,} in {count.matrices:,}: {kinds}. Not counted: positions {positions:,}, biases and norms "
        f"{sum(others):,}.", judge(*right), "Tokens and model",
        "probe.count_weights(probe.weight_count.GPT3, tied=False).weights", count.weights,
    )  # fmt: skip


def colours() -> Example:
    """Nothing to try."""
    return Example("12:05", "In pictures weights are blue or red, the data that flow through are grey.",
                   "A choice of colours; the dashboard’s figures make theirs.",
                   "not tried", "Tokens and model")  # fmt: skip


def random_start(subject: Subject) -> Example:
    """A model from scratch."""
    spread = round(float(probe.GPT(subject.model.config).W_E.detach().std()), 3)
    return Example(
        "13:18, 21:50", "Every matrix begins at random and is learnt from data.",
        f"A new model of this shape: random numbers with a standard deviation (typical size) of {spread}; it foresees "
        "nothing (02:26). The learning itself is not shown here.", "yes", "Tokens and model",
        "round(float(probe.GPT(model.config).W_E.detach().std()), 3)", spread,
    )  # fmt: skip
