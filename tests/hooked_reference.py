"""What a HookedTransformer computes, from its definition: its tensors and its config alone, one token after another.

Written for tests, with none of the code that is tested. Its values were compared once with those of TransformerLens
2.16, which is too old to be installed beside 4.
"""

import math

import torch
from torch import Tensor

SIZES = {"n_layers": 2, "d_model": 16, "n_heads": 4, "d_head": 4, "d_mlp": 24, "d_vocab": 20, "n_ctx": 12}
CONFIGS: dict[str, dict] = {
    "gpt2": {**SIZES, "act_fn": "gelu_new", "normalization_type": "LN"},
    "folded": {**SIZES, "act_fn": "gelu", "normalization_type": "LNPre", "eps": 1e-3},
    "attention": {**SIZES, "attn_only": True, "act_fn": None, "d_mlp": None, "normalization_type": "LN"},
    "attention, folded": {**SIZES, "attn_only": True, "normalization_type": "LNPre"},
    "modular addition": {
        **SIZES, "n_layers": 1, "act_fn": "relu", "normalization_type": None, "d_vocab_out": 19, "n_ctx": 3,
    },
    "attention without norms": {**SIZES, "attn_only": True, "normalization_type": None},
    "solu": {**SIZES, "act_fn": "solu_ln", "normalization_type": "LN", "d_vocab": -1},
    "solu, folded": {**SIZES, "act_fn": "solu_ln", "normalization_type": "LNPre"},
    "solu without norm": {**SIZES, "act_fn": "solu", "normalization_type": None},
    "neo": {
        **SIZES, "act_fn": "gelu_new", "normalization_type": "LN", "use_attn_scale": False, "use_local_attn": True,
        "attn_types": ["global", "local"], "window_size": 3,
    },
    "neox": {
        **SIZES, "act_fn": "gelu", "normalization_type": "LNPre", "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary", "rotary_dim": 2,
    },
    "llama": {
        **SIZES, "act_fn": "silu", "gated_mlp": True, "normalization_type": "RMS", "n_key_value_heads": 2,
        "positional_embedding_type": "rotary", "rotary_base": 500,
    },
    "scaled": {**SIZES, "act_fn": "relu", "attn_scale": 3.0, "scale_attn_by_inverse_layer_idx": True, "n_heads": -1},
    "gemma2": {
        **SIZES, "act_fn": "gelu_pytorch_tanh", "gated_mlp": True, "normalization_type": "RMSPre", "use_qk_norm": True,
        "use_normalization_before_and_after": True, "attn_scores_soft_cap": 5.0, "output_logits_soft_cap": 7.0,
        "positional_embedding_type": "rotary", "n_key_value_heads": 4,
    },
}  # fmt: skip


def state_dict(cfg: dict, *, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of every name that such a model saves, masks included."""
    drawn = torch.Generator().manual_seed(seed)

    def draw(*shape: int, around: float = 0.0) -> Tensor:
        return around + 0.4 * torch.randn(shape, generator=drawn)

    d_model, d_head, heads = cfg["d_model"], cfg["d_head"], SIZES["n_heads"]
    grouped, kv_heads = cfg.get("n_key_value_heads"), cfg.get("n_key_value_heads") or heads
    vocab, norm = max(cfg["d_vocab"], SIZES["d_vocab"]), cfg.get("normalization_type", "LN")
    tensors = {"embed.W_E": draw(vocab, d_model)}
    if cfg.get("positional_embedding_type", "standard") == "standard":
        tensors["pos_embed.W_pos"] = draw(cfg["n_ctx"], d_model)

    def add_norm(name: str, size: int, kind: str | None) -> None:
        if kind in ("LN", "RMS"):
            tensors[f"{name}.w"] = draw(size, around=1.0)
        if kind == "LN":
            tensors[f"{name}.b"] = draw(size)

    for layer in range(cfg["n_layers"]):
        block = f"blocks.{layer}"
        add_norm(f"{block}.ln1", d_model, norm)
        mark = "_" if grouped else ""
        tensors |= {
            f"{block}.attn.W_Q": draw(heads, d_model, d_head), f"{block}.attn.b_Q": draw(heads, d_head),
            f"{block}.attn.{mark}W_K": draw(kv_heads, d_model, d_head),
            f"{block}.attn.{mark}b_K": draw(kv_heads, d_head),
            f"{block}.attn.{mark}W_V": draw(kv_heads, d_model, d_head),
            f"{block}.attn.{mark}b_V": draw(kv_heads, d_head),
            f"{block}.attn.W_O": draw(heads, d_head, d_model), f"{block}.attn.b_O": draw(d_model),
            f"{block}.attn.mask": _mask(cfg, layer),
            f"{block}.attn.IGNORE": torch.tensor(-torch.inf),
        }  # fmt: skip
        if cfg.get("use_qk_norm"):
            add_norm(f"{block}.attn.q_norm", d_head, "RMS")
            add_norm(f"{block}.attn.k_norm", d_head, "RMS")
        if cfg.get("use_normalization_before_and_after"):
            add_norm(f"{block}.ln1_post", d_model, "RMS")
        if cfg.get("attn_only"):
            continue
        add_norm(f"{block}.ln2", d_model, norm)
        tensors |= {
            f"{block}.mlp.W_in": draw(d_model, cfg["d_mlp"]), f"{block}.mlp.b_in": draw(cfg["d_mlp"]),
            f"{block}.mlp.W_out": draw(cfg["d_mlp"], d_model), f"{block}.mlp.b_out": draw(d_model),
        }  # fmt: skip
        if cfg.get("gated_mlp"):
            tensors |= {
                f"{block}.mlp.W_gate": draw(d_model, cfg["d_mlp"]), f"{block}.mlp.b_in": torch.zeros(cfg["d_mlp"]),
            }  # fmt: skip
        if cfg["act_fn"] == "solu_ln":
            add_norm(f"{block}.mlp.ln", cfg["d_mlp"], "LN" if norm == "LN" else None)
        if cfg.get("use_normalization_before_and_after"):
            add_norm(f"{block}.ln2_post", d_model, "RMS")
    add_norm("ln_final", d_model, norm)
    outputs = cfg.get("d_vocab_out", vocab)
    return tensors | {"unembed.W_U": draw(d_model, outputs), "unembed.b_U": draw(outputs)}


def _mask(cfg: dict, layer: int) -> Tensor:
    """What each query sees, as it is saved with the weights."""
    causal = torch.ones(cfg["n_ctx"], cfg["n_ctx"]).tril().bool()
    local = cfg.get("use_local_attn") and cfg["attn_types"][layer] == "local"
    return causal.triu(1 - cfg["window_size"]) if local else causal


class Reference:
    """One text through a model: the logits, and every value on the way by its name."""

    def __init__(self, cfg: dict, tensors: dict[str, Tensor]):
        self.cfg, self.tensors = cfg, {name.replace("._", "."): tensor for name, tensor in tensors.items()}
        self.values: dict[str, Tensor] = {}

    def run(self, ids: list[int]) -> Tensor:
        cfg, get = self.cfg, self.tensors
        x = get["embed.W_E"][ids]
        if "pos_embed.W_pos" in get:
            x = x + get["pos_embed.W_pos"][: len(ids)]
        for layer in range(cfg["n_layers"]):
            block = f"blocks.{layer}"
            self.values[f"{block}.hook_resid_pre"] = x
            written = self._after(f"{block}.ln1_post", self._attention(layer, self._norm(f"{block}.ln1", x)))
            self.values[f"{block}.hook_attn_out"] = written
            if not cfg.get("attn_only"):
                read = x if cfg.get("parallel_attn_mlp") else x + written
                mlp = self._after(f"{block}.ln2_post", self._mlp(f"{block}.mlp", self._norm(f"{block}.ln2", read)))
                self.values[f"{block}.hook_mlp_out"] = mlp
                written = written + mlp
            x = x + written
            self.values[f"{block}.hook_resid_post"] = x
        logits = self._norm("ln_final", x) @ get["unembed.W_U"] + get["unembed.b_U"]
        return _capped(logits, cfg.get("output_logits_soft_cap", -1))

    def _attention(self, layer: int, x: Tensor) -> Tensor:
        cfg, get, name = self.cfg, self.tensors, f"blocks.{layer}.attn"
        written = torch.zeros_like(x)
        patterns = []
        for head in range(SIZES["n_heads"]):
            group = head * len(get[f"{name}.W_K"]) // SIZES["n_heads"]
            q = x @ get[f"{name}.W_Q"][head] + get[f"{name}.b_Q"][head]
            k = x @ get[f"{name}.W_K"][group] + get[f"{name}.b_K"][group]
            v = x @ get[f"{name}.W_V"][group] + get[f"{name}.b_V"][group]
            if cfg.get("use_qk_norm"):
                q, k = self._rms(q, get[f"{name}.q_norm.w"]), self._rms(k, get[f"{name}.k_norm.w"])
            if cfg.get("positional_embedding_type") == "rotary":
                q, k = self._turned(q), self._turned(k)
            divisor = cfg.get("attn_scale", math.sqrt(cfg["d_head"])) if cfg.get("use_attn_scale", True) else 1.0
            divisor *= layer + 1 if cfg.get("scale_attn_by_inverse_layer_idx") else 1
            pattern = torch.zeros(len(x), len(x))
            local = cfg.get("use_local_attn") and cfg["attn_types"][layer] == "local"
            for query in range(len(x)):
                first = max(0, query - cfg["window_size"] + 1) if local else 0
                scores = torch.stack([q[query] @ k[key] / divisor for key in range(first, query + 1)])
                pattern[query, first : query + 1] = _capped(scores, cfg.get("attn_scores_soft_cap", -1)).softmax(-1)
            patterns.append(pattern)
            written = written + pattern @ v @ get[f"{name}.W_O"][head]
        self.values[f"{name}.hook_pattern"] = torch.stack(patterns)
        return written + get[f"{name}.b_O"]

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        get, act = self.tensors, self.cfg["act_fn"]
        b_in = get[f"{name}.b_in"]
        if self.cfg.get("gated_mlp"):
            post = _activated(act, x @ get[f"{name}.W_gate"]) * (x @ get[f"{name}.W_in"]) + b_in
        else:
            post = _activated(act, x @ get[f"{name}.W_in"] + b_in)
        if act == "solu_ln":
            self.values[f"{name}.hook_mid"] = post
            post = self._layer_norm(f"{name}.ln", post)
        self.values[f"{name}.hook_post"] = post
        return post @ get[f"{name}.W_out"] + get[f"{name}.b_out"]

    def _after(self, name: str, x: Tensor) -> Tensor:
        return self._rms(x, self.tensors[f"{name}.w"]) if f"{name}.w" in self.tensors else x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        kind = self.cfg.get("normalization_type", "LN")
        if kind is None:
            return x
        return self._layer_norm(name, x) if kind.startswith("LN") else self._rms(x, self.tensors.get(f"{name}.w", 1.0))

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        size = (centred.square().mean(-1, keepdim=True) + self.cfg.get("eps", 1e-5)).sqrt()
        return centred / size * self.tensors.get(f"{name}.w", 1.0) + self.tensors.get(f"{name}.b", 0.0)

    def _rms(self, x: Tensor, gain: Tensor | float) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.cfg.get("eps", 1e-5)).sqrt() * gain

    def _turned(self, x: Tensor) -> Tensor:
        """Pairs are a dimension of the first half and one of the second."""
        turned, half = x.clone(), self.cfg.get("rotary_dim", self.cfg["d_head"]) // 2
        for position in range(len(x)):
            for pair in range(half):
                angle = position * self.cfg.get("rotary_base", 10_000) ** (-pair / half)
                a, b = x[position, pair], x[position, pair + half]
                turned[position, pair] = a * math.cos(angle) - b * math.sin(angle)
                turned[position, pair + half] = b * math.cos(angle) + a * math.sin(angle)
        return turned


def _capped(x: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(x / cap) if cap > 0 else x


def _activated(name: str, x: Tensor) -> Tensor:
    if name.startswith("solu"):
        return x * x.softmax(-1)
    if name == "relu":
        return x.clamp(min=0)
    if name == "silu":
        return x / (1 + (-x).exp())
    if name == "gelu":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
