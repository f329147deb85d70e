"""Where numbers come from: which model, by its weights, and which versions. Every result carries this."""

import functools
import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from probe.gpt import GPT

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_known: WeakKeyDictionary[GPT, tuple[tuple[tuple[int, int], ...], str]] = WeakKeyDictionary()


def provenance(model: GPT) -> dict[str, Any]:
    """What a result needs to say of its model, as JSON values."""
    return {
        "model": model.name,
        "fingerprint": fingerprint(model),
        "config": model.config.to_dict(),
        "versions": {"probe": _version("probe-gpt"), "torch": torch.__version__},
    }


def fingerprint(model: GPT) -> str:
    """16 hex digits that tell models apart: config, and the sums of the bits of each row and each column of a weight.

    Changing one weight changes two of the sums; exchanging two rows, or two columns, changes their order. Kept until a
    weight is written to (writes through `.data`, which torch does not count, go unseen); a model's device does not
    matter.
    """
    try:
        state = tuple((weight.data_ptr(), weight._version) for weight in _weights(model))
    except RuntimeError:  # made in inference mode: of such weights torch counts no writes at all
        return _fingerprint(model)
    known = _known.get(model)
    if known is None or known[0] != state:
        known = (state, _fingerprint(model))
        _known[model] = known
    return known[1]


def _weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """`parameters()` without its names and its search for doubles: half of its time, in every call of `record`."""
    yield from (weight for weight in module._parameters.values() if weight is not None)
    for child in module._modules.values():
        if child is not None:
            yield from _weights(child)


def _fingerprint(model: GPT) -> str:
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        for sums in _checksums(parameter.detach()):
            digest.update(sums.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _checksums(weight: Tensor) -> tuple[Tensor, ...]:
    bits = weight.contiguous().view(_BITS[weight.element_size()])
    if bits.ndim < 2:
        return (bits,)
    precise = torch.int64 if bits.dtype == torch.int64 else torch.int32  # modulo 2^32: ten times as fast as in int64
    return bits.sum(0, dtype=precise), bits.sum(1, dtype=precise)


@functools.cache  # it reads a file
def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"
