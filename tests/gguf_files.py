"""Tiny GGUF files of Hugging Face modules, for tests: written as llama.cpp's converter writes them."""

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

TOKENS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 3]])
D_VOCAB, D_MODEL, D_MLP, N_LAYERS = 48, 64, 96, 2


def huggingface(family: str, **settings):
    """A tiny random module, with weights large enough that attention is not flat."""
    import transformers

    llama = dict(vocab_size=D_VOCAB, hidden_size=D_MODEL, intermediate_size=D_MLP, num_hidden_layers=N_LAYERS,
                 num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    gpt2 = dict(vocab_size=D_VOCAB, n_embd=D_MODEL, n_inner=D_MLP, n_layer=N_LAYERS, n_head=4, n_positions=64)
    config = {
        "llama": lambda: transformers.LlamaConfig(**llama | settings),
        "mistral": lambda: transformers.MistralConfig(**llama | {"head_dim": 16} | settings),
        "qwen2": lambda: transformers.Qwen2Config(**llama | settings),
        "gpt2": lambda: transformers.GPT2Config(**gpt2 | settings),
    }[family]()
    module = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.2) if parameter.ndim > 1 else parameter.uniform_(0.5, 1.5)
    return module


LLAMA_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
GPT2_NAMES = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "lm_head": "output", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down", "ln_1": "attn_norm", "ln_2": "ffn_norm",
}  # fmt: skip


def name_in_gguf(name: str) -> str:
    module, ending = name.rsplit(".", 1)
    for start in ("model.layers.", "transformer.h."):
        if module.startswith(start):
            layer, _, part = module.removeprefix(start).partition(".")
            return f"blk.{layer}.{(LLAMA_NAMES | GPT2_NAMES)[part]}.{ending}"
    return f"{(LLAMA_NAMES | GPT2_NAMES)[module]}.{ending}"


def tensors_of(module, architecture: str) -> dict[str, np.ndarray]:
    """As llama.cpp's converter writes them: GPT-2's matrices turned, Llama's queries and keys interleaved."""
    tensors, config = {}, module.config
    for name, parameter in module.named_parameters():
        x = parameter.detach().numpy()
        theirs = name_in_gguf(name)
        if architecture == "gpt2" and x.ndim == 2 and ".h." in name:
            x = x.T
        heads = {"attn_q": config.num_attention_heads, "attn_k": getattr(config, "num_key_value_heads", None)}
        if architecture == "llama" and (n := heads.get(theirs.split(".")[-2])):
            x = x.reshape(n, 2, x.shape[0] // n // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
        tensors[theirs] = np.ascontiguousarray(x)
    return tensors


def settings_of(module, architecture: str) -> dict[str, object]:
    config = module.config
    if architecture == "gpt2":
        return {"block_count": config.n_layer, "context_length": config.n_positions, "embedding_length": config.n_embd,
                "feed_forward_length": config.n_inner, "attention.head_count": config.n_head,
                "attention.layer_norm_epsilon": config.layer_norm_epsilon}  # fmt: skip
    return {"block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads, "vocab_size": config.vocab_size,
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "rope.freq_base": config.rope_parameters["rope_theta"]}  # fmt: skip


def write(path, architecture: str, settings: dict, tensors: dict, *, type_=Type.F32, metadata: dict | None = None):
    """A GGUF file; matrices in `type_`. A setting or tensor that is None is left out."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {f"{architecture}.{key}": value for key, value in settings.items()}.items():
        add_value(writer, key, value)
    for key, value in (metadata or {}).items():
        add_value(writer, key, value)
    for name, x in tensors.items():
        if x is None:
            continue
        kind = type_ if x.ndim == 2 else Type.F32
        writer.add_tensor(name, gguf.quants.quantize(x.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer, key: str, value: object) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    if value is not None:
        add.get(type(value), writer.add_array)(key, value)


def converted(path, module, architecture: str, **options):
    settings = settings_of(module, architecture) | options.pop("settings", {})
    tensors = tensors_of(module, architecture) | options.pop("tensors", {})
    return write(path, architecture, settings, tensors, **options)


def quantised_in_place(module, type_: Type) -> None:
    """Give the module the numbers that are left after quantising and expanding its matrices, as they are stored."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 2:
                turned = ".h." in name  # GPT-2 holds (in, out), the file (out, in), and blocks run along rows
                x = np.ascontiguousarray((parameter.T if turned else parameter).numpy())
                x = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(x, type_), type_))
                parameter.copy_(x.T if turned else x)


BYTE_TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [
        "<|endoftext|>",
        *"abcdefghijklmnopqrstuvwxyz0123456789.,!?'",
        "Ġ",
        "Ċ",
        "in",
        "Ġin",
        "th",
    ],
    "tokenizer.ggml.merges": ["i n", "Ġ in", "t h"],
    "tokenizer.ggml.token_type": [3] + [1] * 46,
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
}
SPM_TOKENIZER = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<0x21>", "▁", "a", "b", "ab", "▁a", "▁ab"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, 0.0, -5.0, -6.0, -7.0, -1.0, -2.0, -3.0],
    "tokenizer.ggml.token_type": [2, 3, 3, 6, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
