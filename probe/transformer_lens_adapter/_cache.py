"""TransformerLens's `ActivationCache` of a model's values, which says what the model's layers do not have."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from probe.errors import ProbeError, SiteNotRecorded
from probe.transformer_lens_adapter._hooks import check_name
from probe.transformer_lens_adapter._weights import check_mlp_input


def activation_cache(values: Mapping[str, Tensor], adapter: Any, has_batch_dim: bool = True) -> Any:
    """An `ActivationCache`; values (batch, pos, ...), or (pos, ...) without `has_batch_dim`.

    It raises SiteNotRecorded, which is a KeyError, with the reason where a value is asked for that the model does not
    make, and UnsupportedModel where `decompose_resid` would take its layers for others.
    """
    return _cache_class()(dict(values), adapter, has_batch_dim)


@functools.cache
def _cache_class() -> Any:
    from transformer_lens import ActivationCache

    class CacheOfOurs(ActivationCache):
        def __getitem__(self, key: Any) -> Tensor:
            try:
                return super().__getitem__(key)
            except KeyError as missing:
                adapter: Any = self.model
                if adapter is None:  # TransformerLens's advice for a cache that outlives its model
                    raise
                try:
                    check_name(adapter._model.config, missing.args[0])
                except ProbeError as reason:
                    raise SiteNotRecorded(str(reason)) from None
                raise

        def decompose_resid(
            self, layer: int | None = None, mlp_input: bool = False, mode: str = "all", *args: Any, **options: Any
        ) -> Any:
            adapter: Any = self.model
            check_mlp_input(adapter._model.config, mlp_input and mode != "mlp")
            return super().decompose_resid(layer, mlp_input, mode, *args, **options)  # type: ignore[arg-type]

        def apply_slice_to_batch_dim(self, batch_slice: Any) -> Any:
            sliced = super().apply_slice_to_batch_dim(batch_slice)  # a cache without these checks
            return activation_cache(sliced.cache_dict, sliced.model, sliced.has_batch_dim)

        def __reduce__(self) -> Any:  # the class is made here, since transformer_lens is imported late
            return activation_cache, (self.cache_dict, self.model, self.has_batch_dim)

    return CacheOfOurs
