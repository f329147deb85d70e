"""Every error that probe raises on purpose, and how it names the nearest right thing.

    ProbeError
    ├── UnknownName          a site, model, metric, dtype or option that does not exist
    ├── WrongType            an argument of another kind than expected: a text for a model, 1 for True
    ├── OutOfRange           a layer, head, position or token id that the model or prompt does not have; another
    │                        number outside what is allowed, or none at all; too few or too many things in a list
    ├── BadShape             a tensor whose shape, dtype or device is not the one that is needed; things that do not fit
    │                        together
    ├── BadPrompt            text or tokens that cannot be run: empty, too long, no tokenizer
    ├── BadIntervention      an edit that touches nothing, or returns another shape or NaN
    ├── NumbersBroke         a pass or a metric that gives NaN or infinity; a difference of zero, of which no share can
    │                        be told
    ├── SiteNotRecorded      a recording is read for a value that it does not hold
    ├── UnsupportedModel     an architecture, or a setting of one, that this GPT does not compute
    ├── BrokenFile           weights or results on disk that are truncated, corrupt or of the wrong shape
    ├── FetchFailed          a download that could not be made, checked or stored
    ├── NotSaved             a result that could not be written; nothing is left behind
    └── DifferentModel       a result of one model handed to another

Each is also the built-in error that Python users expect (ValueError, KeyError, ...), so existing handlers catch it.
"""

import difflib
import operator
from collections.abc import Iterable, Sequence


class ProbeError(Exception):
    """The root: what came, what was expected, and the nearest right thing."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnknownName(ProbeError, ValueError):
    """Raised for a name that does not exist."""


class WrongType(ProbeError, TypeError):
    """Raised for an argument of another kind than expected."""


class OutOfRange(ProbeError, IndexError):
    """Raised for an index or another number outside what is allowed, and for too few or too many things."""


class BadShape(ProbeError, ValueError):
    """Raised for a tensor of another shape, dtype or device than needed, and for things that do not fit together."""


class BadPrompt(ProbeError, ValueError):
    """Raised for text or tokens that the model cannot run."""


class BadIntervention(ProbeError, ValueError):
    """Raised for an intervention that cannot take effect, or whose result cannot be used."""


class NumbersBroke(ProbeError, ArithmeticError):
    """Raised when a pass or a metric gives NaN or infinity, or a difference of which shares are asked is zero."""


class SiteNotRecorded(ProbeError, KeyError):
    """Raised when a recording or a tuned lens is asked for a value that it does not hold."""


class UnsupportedModel(ProbeError, ValueError):
    """Raised for an architecture, setting or format that this GPT does not know, and for a package that is missing."""


class BrokenFile(ProbeError, ValueError):
    """Raised for a file that is truncated, corrupt, or not what its name says."""


class FetchFailed(ProbeError, OSError):
    """Raised when a download cannot be made, checked or stored."""


class NotSaved(ProbeError, OSError):
    """Raised when a result cannot be written."""


class DifferentModel(ProbeError, ValueError):
    """Raised when a result of one model is handed to another."""


def unknown_name(kind: str, name: object, known: Iterable[str], *, hint: str = "") -> UnknownName:
    """The error for a name that is none of ``known``: ``no site 'x'; did you mean 'y'?``, or all of a short list."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    if near:
        advice = f"did you mean {either(near)}?"
    elif len(known) <= 12:
        advice = f"known: {', '.join(known)}"
    else:
        advice = f"known are {len(known)}, among them {', '.join(known[:6])}"
    return UnknownName(f"no {kind} {name!r}; {advice}" + (f" {hint}" if hint else ""))


def check_choice(kind: str, name: object, known: Sequence[str]) -> None:
    """Raise UnknownName unless ``name`` is one of ``known``."""
    if not isinstance(name, str) or name not in known:
        raise unknown_name(kind, name, known)


def check_index(kind: str, index: object, size: int, *, owner: str) -> int:
    """The index counted from the front, or OutOfRange: ``layer 12: this model has layers 0 to 11``.

    Negative indices count from the end, as everywhere in Python.
    """
    number = as_integer(index)
    if number is None:
        raise OutOfRange(f"{kind} {index!r}: expected an integer")
    if not -size <= number < size:
        span = f"has {kind}s 0 to {size - 1}" if size else f"has no {kind}s"
        raise OutOfRange(f"{kind} {number}: {owner} {span}")
    return number % size


def check_count(name: str, count: int, *, least: int = 1) -> None:
    """Raise OutOfRange unless there are at least so many: ``n=-1: expected at least 1``."""
    if count < least:
        raise OutOfRange(f"{name}={count}: expected at least {least}")


def as_integer(value: object) -> int | None:
    """The integer that this is, of Python, numpy or torch; None for anything else, True and lists of one included."""
    if isinstance(value, bool) or getattr(value, "ndim", 0) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def either(names: Sequence[str]) -> str:
    """'a', 'b' or 'c'."""
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
