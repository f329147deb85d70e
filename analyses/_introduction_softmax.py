"""Examples of the chapter "Softmax with temperature"."""

from _introduction import FIRST_STEP, STORY, Chapter, Example, Subject, judge

import probe
from probe.figures.generation import step_bars
from probe.generation import Generation
from probe.sampling import LARGEST_TEMPERATURE


def softmax(subject: Subject) -> Chapter:
    """From any numbers to probabilities, sharper or flatter."""
    step = subject.first_step()
    return Chapter(
        "Softmax with temperature",
        [
            "What the unembedding gives are any numbers, called logits. Softmax turns them into probabilities: each "
            "number becomes e (2.718...) to that power, then all are divided by their sum. So none is below zero and "
            "together they are 1.",
            "Temperature divides the logits first. A low one makes the likeliest token likelier still; a high one "
            "evens everything out.",
        ],
        [any_numbers(subject), cold(subject), stories(subject), limit(), twenty(subject), logits(subject)],
        figures=[
            lambda theme, at=at: step_bars(step, temperature=at, theme=theme) for at in (0.0, 1.0, LARGEST_TEMPERATURE)
        ],
        remarks=[
            "The same logits at temperatures 0, 1 and 5; each slider goes all the way. At 5 nearly everything lies on "
            "the many tokens of the last bar: that is why the video keeps the 20 likeliest only."
        ],
    )


def any_numbers(subject: Subject) -> Example:
    """Even the numbers of a word vector."""
    vector = subject.words["cat"]
    total, least = float(vector.softmax(-1).sum()), float(vector.softmax(-1).min())
    return Example(
        "22:22 - 23:50", "Softmax turns any list of numbers into probabilities.",
        f"Even the {len(vector)} numbers of “cat”, from {float(vector.min()):.1f} to {float(vector.max()):.1f}: the "
        f"smallest becomes {least:.4f}, the sum is {total:.4f}.", judge(abs(total - 1) < 1e-5, least > 0), "Generation",
        'float(words["cat"].softmax(-1).sum())', total,
        opens={"prompt": STORY},
    )  # fmt: skip


def cold(subject: Subject) -> Example:
    """0 is the limit: all weight on the largest."""
    shares = [float(subject.first_step().distribution.probabilities(at)[0]) for at in (0.0, 0.5, 1.0, 5.0)]
    said = ", ".join(f"{at:g}: {share:.1%}" for at, share in zip((0.0, 0.5, 1.0, 5.0), shares, strict=True))
    return Example(
        "24:09 - 24:29", "A higher temperature favours the unlikely; at zero the largest takes all.",
        f"Probability of the likeliest token, by temperature: {said}.", judge(shares[0] == 1, shares[2] > shares[3]),
        "Generation", f"{FIRST_STEP}.probabilities(0)[0].item()", shares[0],
        opens={"prompt": STORY},
    )  # fmt: skip


def stories(subject: Subject) -> Example:
    """Trite, then nonsense."""
    told = {at: _story(subject, at) for at in (0.0, 0.7, 1.5)}
    said = "; ".join(
        f"{at:g}: “{story.text.strip()[:70]} ...” ({_mean(story):.1f})" for at, story in told.items()
    ).replace("\n", " ")  # fmt: skip
    return Example(
        "24:37 - 25:01", "“Once upon a time there was a ...”: trite at 0, more original above, then nonsense.",
        f"By temperature, one story each, with its mean surprise in nats: {said}.",
        judge(_mean(told[0.0]) < _mean(told[0.7]) < _mean(told[1.5])), "Generation",
        f'probe.generate(model, "{STORY}", temperature=1.5, seed=0, max_tokens={subject.n_tokens}, '
        'document_start=True, stop=[]).run().to_dataframe()["surprise_nats"].mean()', _mean(told[1.5]),
        opens={"prompt": STORY, "preset": "my own", "temperature": "1.5"},
    )  # fmt: skip


def limit() -> Example:
    """Ours goes further."""
    return Example(
        "25:06", "The programming interface that the video uses allows temperatures up to 2, an arbitrary limit.",
        f"Here up to {LARGEST_TEMPERATURE:g}, which the next example needs.", "yes", "Generation",
        "probe.sampling.LARGEST_TEMPERATURE", LARGEST_TEMPERATURE,
    )  # fmt: skip


def twenty(subject: Subject) -> Example:
    """The animation's setting."""
    listed_chances = subject.first_step().distribution.probabilities(5.0, top_k=20)[:20].tolist()
    return Example(
        "25:19 - 25:29", "Its story is drawn from the 20 likeliest tokens at temperature 5: nearly even chances.",
        f"The likeliest has {listed_chances[0]:.1%}, the 20th {listed_chances[-1]:.1%}.",
        judge(listed_chances[0] < 2 * listed_chances[-1]), "Generation",
        f"{FIRST_STEP}.probabilities(5, top_k=20)[:20].tolist()", listed_chances,
        opens={"prompt": STORY, "preset": "wild: the 20 likeliest, temperature 5"},
    )  # fmt: skip


def logits(subject: Subject) -> Example:
    """The raw numbers."""
    step = subject.first_step().distribution
    said = ", ".join(f"“{text.strip()}” {x:.2f}" for text, x in zip(step.texts[:3], step.logits.tolist(), strict=False))
    return Example(
        "25:46", "The numbers before softmax are called logits.", f"After “{STORY}”: {said}.", "yes", "Generation",
        f"{FIRST_STEP}.logits[0].item()", float(step.logits[0]),
        opens={"prompt": STORY},
    )  # fmt: skip


def _story(subject: Subject, temperature: float) -> Generation:
    return probe.generate(
        subject.model, STORY, temperature=temperature, seed=0, max_tokens=subject.n_tokens,
        document_start=subject.start, stop=[],
    ).run()  # fmt: skip


def _mean(story: Generation) -> float:
    return sum(step.surprise for step in story.steps) / len(story.steps)
