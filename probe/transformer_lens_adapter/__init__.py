"""Our model and recordings, seen by TransformerLens: its tools run on them."""

from probe.transformer_lens_adapter.adapter import TransformerLensAdapter, as_transformer_lens, to_activation_cache

__all__ = ["TransformerLensAdapter", "as_transformer_lens", "to_activation_cache"]
