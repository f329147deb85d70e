"""A two-layer model written by hand, in which one head stands in for another.

At the last position, a mark, head 0.0 looks at the token after the first and says it. Head 1.1 does the same, but only
where nothing has been said yet: what 0.0 said sends it to position 0 instead, from which it says nothing. So each head
alone can be missed, and together they are all there is.
"""

import torch

from probe.config import GPTConfig
from probe.gpt import GPT

FIRST, STANDS_IN = (0, 0), (1, 1)
"""(layer, head)."""
VOCAB, CONTEXT = 12, 6
TOKEN = slice(0, VOCAB)
POSITION = slice(VOCAB, VOCAB + CONTEXT)
SAID = slice(POSITION.stop, POSITION.stop + VOCAB)
CONFIG = GPTConfig(
    n_layers=2, d_model=SAID.stop, n_heads=3, d_head=VOCAB, d_mlp=1, d_vocab=VOCAB, n_ctx=CONTEXT, norm="rms",
    positions="learned", tied_embeddings=False, qkv_bias=False, attn_out_bias=False, mlp_bias=False,
)  # fmt: skip
START, MARK = 0, 11
SHARP = 8.0
"""Large enough that a match takes all attention."""
PROMPTS = [
    [START, word, other, MARK] for word, other in ((1, 2), (3, 4), (5, 1), (2, 6), (7, 3), (4, 8), (6, 9), (8, 5))
]
TARGETS, OTHERS = [row[1] for row in PROMPTS], [row[2] for row in PROMPTS]


def redundant_model() -> GPT:
    """The weights; whatever is not set is zero."""
    model = GPT(CONFIG, name="redundant by hand")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith(".w") else 0.0)
        model.W_E[:, TOKEN] = torch.eye(VOCAB)
        model.W_pos[:, POSITION] = torch.eye(CONTEXT)
        for layer, head in (FIRST, STANDS_IN):
            # The mark asks for position 1, whose key is in the first entry; position 0 has the second.
            model.W_Q[layer, head][MARK, 0] = SHARP
            model.W_K[layer, head][POSITION.start + 1, 0] = 1.0
            model.W_K[layer, head][POSITION.start, 1] = 1.0
            model.W_V[layer, head][TOKEN, :] = torch.eye(VOCAB)
            model.W_V[layer, head][START] = 0.0
            model.W_O[layer, head][:, SAID] = torch.eye(VOCAB)
        model.W_Q[STANDS_IN][SAID, 1] = 4 * SHARP  # whatever was said
        model.unembed.W_U[SAID] = torch.eye(VOCAB)
    return model
