"""Randomness by key: every draw comes from ``(seed, purpose, round, node)`` and from nothing else.

Two draws with different keys are independent; the same key gives the same numbers in every engine, on every worker and
in any order of execution. Nothing here, nor anywhere in the package, touches a global random state for good.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Sampling", "epoch_order", "even_draws", "generator", "integer", "scoped_global_seed"]

Sampling: TypeAlias = Literal["shuffle", "class-balanced"]
"""How an epoch draws: every sample once, or every label equally often."""


def integer(seed: int, purpose: str, round: int = 0, node: int = -1) -> int:
    """Return a 32-bit integer for a key; ``node = -1`` is a draw that all nodes share.

    >>> integer(0, "partition") == integer(0, "partition")
    True
    >>> integer(0, "partition") == integer(1, "partition")
    False
    """
    key = f"{seed}/{purpose}/{round}/{node}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")


def generator(seed: int, purpose: str, round: int = 0, node: int = -1) -> torch.Generator:
    """Return a fresh CPU generator for a key.

    Draws are made on the CPU and moved, so that a GPU run sees the same numbers.
    """
    key = f"{seed}/{purpose}/{round}/{node}".encode()
    state = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True)
    return torch.Generator().manual_seed(state)


def even_draws(labels: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Return the indices ``(count,)`` of samples drawn with replacement, every label that occurs equally often.

    Args:
        labels: Label of each sample ``(n,)``.
        count: Number of draws.
        draw: On the CPU; the indices are on the device of ``labels``.
    """
    on_cpu = labels.cpu()
    weights = 1.0 / on_cpu.bincount().double()[on_cpu]
    return torch.multinomial(weights, count, replacement=True, generator=draw).to(labels.device)


def epoch_order(labels: Tensor, sampling: Sampling, draw: torch.Generator) -> Tensor:
    """Return the indices ``(n,)`` of an epoch's samples in order; both kinds of sampling take the same number of steps.

    Args:
        labels: Label of each sample ``(n,)``.
        sampling: ``shuffle`` draws every sample once, ``class-balanced`` as :func:`even_draws`.
        draw: On the CPU; the indices are on the device of ``labels``.
    """
    if sampling == "shuffle":
        return torch.randperm(len(labels), generator=draw).to(labels.device)
    return even_draws(labels, len(labels), draw)


@contextmanager
def scoped_global_seed(seed: int, purpose: str, round: int = 0, node: int = -1) -> Iterator[None]:
    """Seed torch's global generators inside the block, those of GPUs in use too, and restore them afterwards.

    Only for code that cannot take a generator: the initialisers of ``torch.nn`` layers, and layers that draw.
    """
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    gpus = range(torch.cuda.device_count()) if in_use else ()
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(integer(seed, purpose, round, node))
        yield
