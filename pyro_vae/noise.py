"""Random numbers that are a function of (seed, step), so that training can stop and go on anywhere.

torch's generator for the CPU uses only the lower 32 bits of ``manual_seed``, and the steps of all
seeds do not fit into 32 bits. So the whole state of this generator is set, from a stream of Philox
whose key of 64 bits holds the seed and the step. torch's generators on GPUs are Philox themselves,
and take the key as their seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

EPOCH, STEP = 0, 1
"""What is numbered: epochs, for their order and their pixels, and steps, for their noise."""

FRESH = torch.Generator().manual_seed(0).get_state().numpy()
"""The state of a generator before its first draw."""

WORDS = slice(24, 24 + 8 * 624)
"""The bytes of this state that hold the 624 words of the Mersenne twister."""

BLOCK = 64  # to make a stream takes longer than to draw from it, so one stream serves many numbers


def key_of(seed: int, kind: int, number: int) -> int:
    """A key of 64 bits, different for different arguments: 32 bits, 1 bit and 31 bits."""
    return seed << 32 | kind << 31 | number


def seed_noise(device: torch.device, seed: int, kind: int, number: int) -> None:
    """Seed torch's generators of the CPU and of ``device`` for one step or one epoch.

    Args:
        device: the device of the tensors that are drawn.
        seed: from 0 to 2³² - 1.
        kind: :data:`EPOCH` or :data:`STEP`.
        number: of the epoch or of the step, below 2³¹.

    Paper: Salmon, Moraes, Dror & Shaw 2011, Parallel Random Numbers: As Easy as 1, 2, 3.

    Example:
        >>> from pyro_vae.noise import STEP, seed_noise
        >>> seed_noise(torch.device("cpu"), seed=0, kind=STEP, number=7)
        >>> noise = torch.rand(3)
        >>> seed_noise(torch.device("cpu"), seed=0, kind=STEP, number=7)
        >>> torch.equal(torch.rand(3), noise)
        True
    """
    torch.default_generator.set_state(states(seed, kind, number // BLOCK)[number % BLOCK])
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(key_of(seed, kind, number))
    elif device.type != "cpu":
        getattr(torch, device.type).manual_seed(key_of(seed, kind, number))


def seed_draws(device: torch.device, seed: int, number: int) -> None:
    """Seed torch's generators for the draws of one block of images in an evaluation.

    Training has no epoch with these numbers, so no draw of the training comes again.

    Args:
        device, seed: as for :func:`seed_noise`.
        number: of the block, below 2³⁰.
    """
    seed_noise(device, seed, EPOCH, 2**30 + number)


@lru_cache(maxsize=4)
def states(seed: int, kind: int, block: int) -> list[Tensor]:
    """The state of the generator for each number of a block."""
    stream = np.random.Philox(key=key_of(seed, kind, block)).random_raw(312 * BLOCK)
    rows = np.tile(FRESH, (BLOCK, 1))
    rows[:, WORDS].view(np.uint64)[:] = stream.view(np.uint32).reshape(BLOCK, 624)
    # A storage for each, because torch 2.15 crashes at a state that is a part of another tensor.
    return [torch.from_numpy(row) for row in rows]


class Randomness:
    """Random numbers of torch (CPU), NumPy and Python that are a function of some whole numbers.

    Args:
        key: the numbers.
    """

    def __init__(self, *key: int) -> None:
        words = np.random.SeedSequence(key).generate_state(3).tolist()
        generator = np.random.mtrand._rand  # the one behind np.random.rand
        before = self.read()
        torch.default_generator.manual_seed(words[0])
        generator.seed(words[1])
        random.seed(words[2])
        self.states = self.read()
        self.write(before)

    @staticmethod
    def read() -> tuple[Any, ...]:
        """The states of the three generators."""
        return torch.get_rng_state(), np.random.mtrand._rand.get_state(), random.getstate()

    @staticmethod
    def write(states: tuple[Any, ...]) -> None:
        """Set the states of the three generators."""
        torch.set_rng_state(states[0])
        np.random.mtrand._rand.set_state(states[1])
        random.setstate(states[2])

    @contextmanager
    def used(self) -> Iterator[None]:
        """Draw these numbers. Afterwards the global generators are as before."""
        before = self.read()
        self.write(self.states)
        try:
            yield
        finally:
            self.states = self.read()
            self.write(before)
