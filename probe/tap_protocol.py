"""What a module hands its values to as it makes them, and what the parts of a GPT pass to one another."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Resid = Float[Tensor, "batch pos d_model"]


@runtime_checkable
class Tap(Protocol):
    """What watches a pass. `NO_TAP` watches nothing."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """See one value; the pass goes on with what is returned. What is not wanted may be written to afterwards."""
        ...

    def wants(self, name: str) -> bool:
        """Whether this value is wanted; attention computes scores and pattern one by one only if it is."""
        ...

    def scope(self, prefix: str) -> "Tap":
        """This tap for a module whose names all begin with `prefix`."""
        ...


class NoTap:
    """Lets every value pass."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return value

    def wants(self, name: str) -> bool:
        return False

    def scope(self, prefix: str) -> "NoTap":
        return self


NO_TAP = NoTap()
