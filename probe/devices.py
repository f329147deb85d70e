"""Dtypes and devices by name."""

import torch

from probe.errors import OutOfRange, UnknownName, unknown_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def read_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating-point dtype, given as such or by name ('bfloat16').

    Raises:
        UnknownName: another one; the nearest is offered.
    """
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise unknown_name("dtype", str(dtype).removeprefix("torch."), DTYPES)
    return found


def read_device(device: str | torch.device | int) -> torch.device:
    """A device that this machine has.

    Raises:
        UnknownName: no such kind of device.
        OutOfRange: it is not on this machine.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise unknown_name("device", str(device), ["cpu", "cuda", "cuda:0", "mps"]) from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise OutOfRange(
            f"device {str(found)!r}: this machine has {torch.cuda.device_count()} CUDA devices; 'cpu' works"
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise OutOfRange("device 'mps' is not available on this machine; 'cpu' works")
    if found.type not in ("cpu", "cuda", "mps"):
        raise UnknownName(f"device {str(found)!r} is not supported; known: cpu, cuda, mps")
    return found
