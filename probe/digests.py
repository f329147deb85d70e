"""By what a function is known again in another process: its code, its defaults and what it closes over."""

import hashlib
import pickle
import secrets
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

from torch import Tensor


def digest_of(function: Callable[..., Any]) -> str:
    """16 hex digits, the same for the same function; drawn anew at every call where something of it cannot be pickled.

    What it reads from its module is not looked at.
    """
    digest = hashlib.sha256()
    try:
        _add(function, digest)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RuntimeError):
        return secrets.token_hex(8)
    return digest.hexdigest()[:16]


def _add(value: object, digest: Any) -> None:
    digest.update(type(value).__qualname__.encode())
    if isinstance(code := getattr(value, "__code__", None), CodeType):
        _add_code(code, digest)
        cells = getattr(value, "__closure__", None) or ()
        bound = [getattr(value, name, None) for name in ("__defaults__", "__kwdefaults__", "__self__")]
        _add([*(cell.cell_contents for cell in cells), *bound], digest)
    elif isinstance(value, Tensor):  # pickled, it holds its address
        plain = value.detach().cpu()
        digest.update(f"{plain.dtype} {plain.tolist()}".encode())
    elif isinstance(value, Mapping):
        _add(list(value.items()), digest)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _add(one, digest)
        digest.update(f"{len(value)} of them".encode())
    else:
        digest.update(pickle.dumps(value))


def _add_code(code: CodeType, digest: Any) -> None:
    digest.update(code.co_code + repr((code.co_names, code.co_varnames)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(constant, digest)
        else:  # of sets the order is another in every process
            ordered = sorted(constant, key=repr) if isinstance(constant, frozenset) else constant
            digest.update(repr(ordered).encode())
