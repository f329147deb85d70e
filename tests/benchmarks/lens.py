"""The logit lens over every layer and position, against the same numbers by hand through TransformerLens."""

from collections.abc import Iterator

import torch
from _measure import Measured, Setting, compare, largest_difference

import probe

NATS = 1e-3


def measure(setting: Setting) -> Iterator[Measured]:
    """The recording is made before the clock starts, on both sides."""
    model, bridge = setting.model, setting.rivals.transformer_lens
    for n_pos in setting.lengths(16, 128):
        tokens = setting.tokens(n_pos)
        recording = probe.record(model, tokens, sites=["resid_post"])
        with torch.no_grad():
            final_logits, cache = bridge.run_with_cache(tokens, names_filter=lambda name: "resid_post" in name)

        def ours(recording=recording):
            return probe.logit_lens(model, recording, sites=["resid_post"]).final_log_probs

        @torch.no_grad()
        def by_hand(final_logits=final_logits, cache=cache):
            final = final_logits.log_softmax(-1)
            first = final.argmax(-1, keepdim=True)
            read = []
            for layer in range(model.config.n_layers):
                resid = cache[f"blocks.{layer}.hook_resid_post"]
                log_probs = bridge.unembed(bridge.ln_final(resid)).log_softmax(-1)
                chosen = log_probs.gather(-1, first)
                ranks = (log_probs > chosen).sum(-1) + 1
                entropy = -(log_probs.exp() * log_probs).sum(-1)
                kl = (final.exp() * (final - log_probs)).sum(-1)
                read.append((chosen[..., 0], ranks, entropy, kl, log_probs.topk(5)))
            return torch.stack([chosen for chosen, *_ in read])

        yield compare(
            f"logit lens, all layers, {n_pos} tokens", "a loop of TransformerLens", ours, by_hand, setting,
            same=largest_difference, tolerance=NATS, bar=1.0,
        )  # fmt: skip
