"""What a generated token costs, against Hugging Face's `generate`.

One prompt, the same number of new tokens, both with a key/value cache, greedy. Ours keeps the 64 likeliest tokens and a
histogram of every step while it is at it.
"""

from collections.abc import Iterator

import torch
from _measure import Measured, Setting, compare

import probe


def measure(setting: Setting) -> Iterator[Measured]:
    """Greedy against greedy; sampled against greedy."""
    new = 4 if setting.quick else 64
    model, theirs, ids = setting.model, setting.rivals.huggingface, setting.tokens(16)

    def ours():
        return probe.generate(model, ids.cpu(), max_tokens=new, stop=[], temperature=0).run().ids

    def sampled():
        return probe.generate(model, ids.cpu(), max_tokens=new, stop=[], temperature=0.8, seed=0).run().ids

    @torch.inference_mode()
    def huggingface():
        return theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
            pad_token_id=0, eos_token_id=None,
        )[0].tolist()  # fmt: skip

    yield compare(
        f"generate {new} tokens", "Hugging Face generate", ours, huggingface, setting,
        same=lambda mine, other: float(mine != other), bar=0.85,
    )  # fmt: skip
    yield compare(f"generate {new} tokens, sampled", "our greedy", sampled, ours, setting, same=None)
