"""Products with weights that are stored as (in, out).

A weight is turned by `t()`, never by `.T`: torch answers the attribute with Python's lock held and may wait there for
the weight's own lock, which a thread that begins a graph at this weight holds while it waits for Python's. Two threads
with one model would wait for each other for ever (seen with torch 2.13).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def affine(x: Float[Tensor, "... n"], weight: Float[Tensor, "n m"], offset: Tensor | None) -> Float[Tensor, "... m"]:
    """x weight + offset, for weights stored as (in, out)."""
    if x.numel() == x.shape[-1] and x.device.type == "cpu" and not torch.is_grad_enabled():
        product = times_matrix(x.reshape(-1), weight).view(*x.shape[:-1], -1)
        return product if offset is None else product + offset
    return F.linear(x, weight.t(), offset)


def times_matrix(x: Float[Tensor, " n"], weight: Float[Tensor, "n m"]) -> Float[Tensor, " m"]:
    """One vector times a matrix, every thread with a share of it: a cached step of generation is little else.

    torch's own product of one row mostly runs on one thread. Streaming the default model's weights on two cores it
    reaches 11-14 GB/s, this 17-25, and 31 in place of 12 for the unembedding, which is stored as (out, in).
    """
    threads = torch.get_num_threads()
    by_output = weight.t().is_contiguous()  # the unembedding, where it is the embedding
    if weight.shape[int(by_output)] % threads:
        return x @ weight
    if by_output:
        return torch.bmm(weight.t().view(threads, -1, len(x)), x.expand(threads, 1, -1).transpose(1, 2)).flatten()
    return torch.bmm(x.view(threads, 1, -1), weight.view(threads, -1, weight.shape[1])).sum(0)[0]


def bias(size: int, present: bool) -> nn.Parameter | None:
    """A bias, or none."""
    return nn.Parameter(torch.empty(size)) if present else None
