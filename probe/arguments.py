"""What kind of thing each argument is, checked where a user's call comes in and before any work is done.

A function marked `checked` gets what its annotations promise: numbers and truth values as Python's own (those of numpy
and of torch are converted), sequences that are no single text, objects of the class named. What can be said in several
ways (prompts, sites, indices, tokens) is read by the one function that knows them: `read_prompts`, `as_list`, ...
"""

import collections.abc
import functools
import inspect
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from probe.errors import OutOfRange, WrongType, as_integer

P = ParamSpec("P")
R = TypeVar("R")
Reader = Callable[[str, Any], Any]
"""(name, value) -> the value to go on with; raises a ProbeError that names both."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose arguments are checked and converted by their annotations first.

    Only kinds that can be told at a glance are: `X` or `X | None`, where X is a class, a number, a truth value, a text,
    a path, or a tuple, sequence or iterable of such. Everything else goes through as it came.

    Raises (what comes back does):
        WrongType: an argument of another kind.
        OutOfRange: where a number is expected: something else, NaN, or an integer beyond 64 bits.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        readers, in_order = _readers_of(function)
        read = [
            readers[name](name, value) if name in readers else value
            for name, value in zip(in_order, args, strict=False)
        ]
        read += args[len(read) :]
        named = {name: readers[name](name, value) if name in readers else value for name, value in kwargs.items()}
        return function(*read, **named)  # type: ignore[call-arg]

    return call


def check_fields(instance: Any) -> None:
    """Check and convert the fields of a dataclass by their annotations, in its `__post_init__`; a frozen one's too."""
    readers, _ = _readers_of(type(instance))
    for name, reader in readers.items():
        value = getattr(instance, name)
        read = reader(name, value)
        if read is not value:
            object.__setattr__(instance, name, read)


@functools.cache  # not at import, which does no work
def _readers_of(function: Callable[..., Any]) -> tuple[dict[str, Reader], list[str]]:
    """How each parameter is read, and the names of those that can be given by place."""
    parameters = inspect.signature(function).parameters.values()
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    collecting = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = {one.name: _reader(one.annotation) for one in parameters if one.kind not in collecting}
    readers = {name: reader for name, reader in found.items() if reader is not None}
    return readers, [one.name for one in parameters if one.kind in by_place]


def _reader(annotation: Any) -> Reader | None:
    """How what is annotated so is read; None: as it comes."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
        if set(kinds) == {str, os.PathLike[str]}:
            reader = _path
        else:
            reader = _reader(kinds[0]) if len(kinds) == 1 else None
        if reader is None or len(kinds) == len(typing.get_args(annotation)):
            return reader
        return lambda name, value: None if value is None else reader(name, value)
    if annotation in (Any, inspect.Parameter.empty):  # both are classes, which nothing is an instance of
        return None
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin = typing.get_origin(annotation)
    if origin is tuple:
        return _tuple_reader(typing.get_args(annotation))
    if origin in (collections.abc.Sequence, collections.abc.Iterable):
        element = typing.get_args(annotation)[0]
        texts = str in (element, *typing.get_args(element))
        return functools.partial(_several, of=_PLAIN.get(element), texts=texts)
    if getattr(annotation, "array_type", None) is Tensor:
        return functools.partial(_instance, of=Tensor)
    protocol = getattr(annotation, "_is_protocol", False) and not getattr(annotation, "_is_runtime_protocol", False)
    if origin is None and isinstance(annotation, type) and not protocol:
        return functools.partial(_instance, of=annotation)
    return None


def _instance(name: str, value: Any, *, of: type) -> Any:
    if isinstance(value, type) or not isinstance(value, of):
        what = f" ({(inspect.getdoc(of) or '').partition('.')[0]})" if getattr(of, "_is_protocol", False) else ""
        raise WrongType(f"{name}={brief(value)}: expected a {of.__name__}{what}")
    return value


def _integer(name: str, value: Any) -> int:
    number = as_integer(value)
    if number is None:
        raise OutOfRange(f"{name}={brief(value)}: expected an integer")
    if not -(2**63) <= number < 2**63:
        raise OutOfRange(f"{name}={brief(number)}: expected an integer of at most 64 bits")
    return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0 and "complex" not in str(value.dtype):
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise OutOfRange(f"{name}={brief(value)}: expected a number")
    try:
        number = float(value)
    except OverflowError:
        raise OutOfRange(f"{name}={brief(value)}: expected a number that a float can hold") from None
    if number != number:
        raise OutOfRange(f"{name}=nan: expected a number")
    if type(value) is int and abs(value) < 2**53:
        return value  # as it was given: errors and manifests show it
    return number


def _truth(name: str, value: Any) -> bool:
    if isinstance(value, Tensor) and value.ndim == 0 and value.dtype == torch.bool:
        return bool(value)
    if not isinstance(value, (bool, np.bool_)):
        raise WrongType(f"{name}={brief(value)}: expected True or False")
    return bool(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise WrongType(f"{name}={brief(value)}: expected text")
    return str(value)


def _path(name: str, value: Any) -> str | os.PathLike[str]:
    if not isinstance(value, (str, os.PathLike)):
        raise WrongType(f"{name}={brief(value)}: expected a path")
    path = os.fspath(value)
    try:
        usable = isinstance(path, str) and path != "" and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise WrongType(f"{name}={brief(path)}: no path that a file system could have")
    return value


def several(name: str, value: Any) -> Sequence[Any]:
    """What was given as a list or the like; arrays, tensors, sets and iterators are read into one.

    Raises:
        WrongType: a single thing; a text too, which would fall apart into its letters.
    """
    if isinstance(value, (np.ndarray, Tensor)) and value.ndim:
        return value.tolist()
    single = isinstance(value, (str, bytes, Mapping, np.ndarray, Tensor, type))
    if single or not isinstance(value, Iterable):
        raise WrongType(f"{name}={brief(value)}: expected several, in a list")
    return value if isinstance(value, Sequence) else list(value)


def one_or_several(name: str, value: Any) -> Sequence[Any]:
    """A text alone counts as a list of one; raises as `several`."""
    return [value] if isinstance(value, str) else several(name, value)


def _several(name: str, value: Any, *, of: Reader | None, texts: bool = False) -> Sequence[Any]:
    found = one_or_several(name, value) if texts else several(name, value)
    return found if of is None else [of(f"{name}[{place}]", one) for place, one in enumerate(found)]


def _tuple_reader(kinds: tuple[Any, ...]) -> Reader:
    readers = [_reader(kind) for kind in kinds if kind is not Ellipsis]
    if Ellipsis in kinds:
        return lambda name, value: tuple(_several(name, value, of=readers[0]))

    def read(name: str, value: Any) -> tuple[Any, ...]:
        found = several(name, value)
        if len(found) != len(readers):
            raise WrongType(f"{name}={brief(value)}: expected {len(readers)} things, got {len(found)}")
        pairs = zip(readers, found, strict=True)
        return tuple(one if of is None else of(f"{name}[{n}]", one) for n, (of, one) in enumerate(pairs))

    return read


_PLAIN: dict[Any, Reader] = {bool: _truth, int: _integer, float: _number, str: _text}


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxset = 4, 12, 12, 12, 12
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def brief(value: object) -> str:
    """A value as an error shows it: itself if that is short, else what it is."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"<{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}>"
    if value is None or isinstance(value, (str, bytes, int, float, complex, list, tuple, dict, set, np.generic)):
        if isinstance(value, (list, tuple, dict, set)):  # of any depth, and as long as they like
            shown = _SHORT.repr(value)
        else:
            shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
        return shown if len(shown) <= 60 else f"{shown[:56]} ..."
    return f"<{type(value).__name__}>"
