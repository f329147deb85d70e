"""A two-layer model written by hand, in which it is known what every head does.

Layer 0, head 1 attends to the token before and writes which one it was. Layer 1, head 2 looks for a place whose token
before is the present token, and says what stands there: induction. All other heads attend evenly and write nothing.

The residual stream has four parts that do not overlap: which token this is, which position, which token came before
(written by the first head), and what is to be said (written by the second, read by the unembedding).
"""

import torch

from probe.config import GPTConfig
from probe.gpt import GPT
from tests.tiny import LetterTokenizer

VOCAB, CONTEXT = 20, 32
PREVIOUS, INDUCTION = (0, 1), (1, 2)
"""(layer, head)."""
TOKEN = slice(0, VOCAB)
POSITION = slice(VOCAB, VOCAB + CONTEXT)
BEFORE = slice(POSITION.stop, POSITION.stop + VOCAB)
SAID = slice(BEFORE.stop, BEFORE.stop + VOCAB)
D_HEAD = max(VOCAB, CONTEXT)
CONFIG = GPTConfig(
    n_layers=2, d_model=SAID.stop, n_heads=3, d_head=D_HEAD, d_mlp=1, d_vocab=VOCAB, n_ctx=CONTEXT, norm="rms",
    positions="learned", tied_embeddings=False, qkv_bias=False, attn_out_bias=False, mlp_bias=False,
)  # fmt: skip
SHARP = 3.0
"""Large enough that a match takes all attention."""


class StartTokenizer(LetterTokenizer):
    """Token 0 begins every text and stands nowhere else: the first token has none before it, and would take itself."""

    special_ids = frozenset({0})


def induction_model() -> GPT:
    """The weights; whatever is not set is zero."""
    model = GPT(CONFIG, StartTokenizer(), name="induction by hand")
    gain = (CONFIG.d_model / 2) ** 0.5  # a stream of a token and a position has length sqrt(2), so the norm does this
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith(".w") else 0.0)
        model.W_E[:, TOKEN] = torch.eye(VOCAB)
        model.W_pos[:, POSITION] = torch.eye(CONTEXT)
        layer, head = PREVIOUS
        # Position p asks for p - 1: row p of the query weights is the key of p - 1.
        model.W_Q[layer, head][POSITION, :CONTEXT] = SHARP * torch.eye(CONTEXT).roll(-1, 1).tril(-1)
        model.W_K[layer, head][POSITION, :CONTEXT] = torch.eye(CONTEXT)
        model.W_V[layer, head][TOKEN, :VOCAB] = torch.eye(VOCAB) / gain
        model.W_O[layer, head][:VOCAB, BEFORE] = torch.eye(VOCAB)
        layer, head = INDUCTION
        model.W_Q[layer, head][TOKEN, :VOCAB] = SHARP * torch.eye(VOCAB)
        model.W_K[layer, head][BEFORE, :VOCAB] = torch.eye(VOCAB)
        model.W_V[layer, head][TOKEN, :VOCAB] = torch.eye(VOCAB)
        model.W_O[layer, head][:VOCAB, SAID] = torch.eye(VOCAB)
        model.unembed.W_U[SAID] = torch.eye(VOCAB)
    return model
