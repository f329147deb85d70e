"""Examples of the companion talk, on attention."""

from _introduction import CAPITAL, Chapter, Example, Subject, judge
from _introduction_begin import PLAIN

import probe

ATTRIBUTED = (
    f'probe.direct_logit_attribution(model, probe.record(model, "{CAPITAL}", sites=probe.attribution_sites(model), '
    'positions=-1, document_start=True), token=" Paris")'
)


def talk(subject: Subject) -> Chapter:
    """What the talk adds to the video."""
    found = _attribution(subject)
    return Chapter(
        "The companion talk: attention",
        [
            "Attention is done by heads, several in each layer. In a head every token makes a query (what it looks "
            "for) and a key (what it can be found by). The dot product of a query with a key is the score; a softmax "
            "over all tokens so far turns a query’s scores into shares, the pattern. Each token also makes a value, "
            "and what the head adds is the mixture of values by these shares.",
        ],
        [mask(subject), quadratic(subject), value(found), heads(subject), saving(subject), directions(),
         residual(found), training()],
    )  # fmt: skip


def mask(subject: Subject) -> Example:
    """No token looks ahead."""
    rec = probe.record(subject.model, CAPITAL, sites=["pattern"], document_start=subject.start, logits=False)
    ahead = float(rec.stack("pattern").triu(1).max())
    return Example(
        "talk", "Queries meet keys; what comes later is masked before the softmax.",
        f"In all heads the largest share that goes to a later token is {ahead:g}.", judge(ahead == 0), "Heads",
        f'probe.record(model, "{CAPITAL}", sites=["pattern"], document_start=True)'
        '.stack("pattern").triu(1).max().item()',
        ahead,
        opens={"prompt": CAPITAL},
    )  # fmt: skip


def quadratic(subject: Subject) -> Example:
    """Two texts, one twice as long."""
    sizes = [
        probe.record(subject.model, [[5] * n], sites=["pattern"], layers=0, logits=False)["pattern", 0][0, 0].numel()
        for n in (20, 40)
    ]
    return Example(
        "talk", "The pattern grows with the square of the text’s length.",
        f"Numbers in one head’s pattern: {sizes[0]} for 20 tokens, {sizes[1]:,} for 40 (times: analyses/costs.py).",
        judge(sizes[1] == 4 * sizes[0]), "Heads",
        'probe.record(model, [[5] * 40], sites=["pattern"], layers=0)["pattern", 0][0, 0].numel()', sizes[1],
    )  # fmt: skip


def value(found: probe.LogitAttribution) -> Example:
    """Which head writes the answer."""
    written = found.contributions[:, 0].tolist()
    best = max((x, part.name) for part, x in zip(found.parts, written, strict=True) if part.kind == "head")
    return Example(
        "talk", "The value matrix decides what a head adds.",
        f"Of all heads {best[1]} (layer and head) adds most towards “Paris” after “{CAPITAL}”: {best[0]:+.2f} of the "
        f"{float(found.logit[0]):.2f} of its logit.", "yes", "Heads",
        f'(lambda found: max(float(x) for part, x in zip(found.parts, found.mean) if part.kind == "head"))'
        f"({ATTRIBUTED})",
        best[0],
        opens={"prompt": CAPITAL, "overlay": "what it writes for the answer"},
    )  # fmt: skip


def heads(subject: Subject) -> Example:
    """Many, and all different."""
    config = subject.model.config
    return Example(
        "talk", "Many heads with matrices of their own run in parallel.",
        f"{config.n_layers} layers of {config.n_heads}: {config.n_layers * config.n_heads}. What each does: "
        "analyses/heads.py; all places at once against one by one: analyses/costs.py.", "yes", "Heads",
        "model.config.n_layers * model.config.n_heads", config.n_layers * config.n_heads,
    )  # fmt: skip


def saving(subject: Subject) -> Example:
    """Letters against tokens."""
    n = len(subject.model.tokenizer.encode(PLAIN, add_special_tokens=False))
    return Example(
        "talk", "Tokens in place of letters, and a cache of keys and values, save work.",
        f"{len(PLAIN)} letters are {n} tokens: {len(PLAIN) / n:.1f} letters each. What a cache saves: "
        "analyses/costs.py.",
        judge(n < len(PLAIN)), "Tokens and model",
        f'len(model.tokenizer.encode("{PLAIN}", add_special_tokens=False))', n,
    )  # fmt: skip


def directions() -> Example:
    """Shown at 13:52."""
    return Example("talk", "Exponentially many nearly perpendicular directions fit into a space.",
                   "See 13:52, and analyses/packing.py: it depends on how nearly.", "partly", "Directions",
        opens={"show": "Three axes"},
    )  # fmt: skip


def residual(found: probe.LogitAttribution) -> Example:
    """The parts of a logit sum to it."""
    error = float(found.error[0])
    return Example(
        "talk", "Layers only add to the vectors: what comes out is a sum of all parts (the residual stream).",
        f"The logit of “Paris”, {float(found.logit[0]):.3f}, is the sum of {len(found.parts)} parts; they miss it by "
        f"{error:.6f}.", judge(error < 1e-3), "Heads", f"{ATTRIBUTED}.error.item()", error,
        opens={"prompt": CAPITAL, "overlay": "what it writes for the answer"},
    )  # fmt: skip


def training() -> Example:
    """No model is trained here."""
    return Example("talk", "Training adjusts every weight, with many predictions at once.",
                   "No model is trained here; 02:26 shows one before and after.", "not tried", "—")  # fmt: skip


def _attribution(subject: Subject) -> probe.LogitAttribution:
    rec = subject.record(CAPITAL, sites=probe.attribution_sites(subject.model))
    return probe.direct_logit_attribution(subject.model, rec, token=subject.first_token(" Paris"))
