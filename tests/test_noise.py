"""The noise of a step is a function of (seed, step), and no two steps share a stream."""

import numpy as np
import torch

from pyro_vae.noise import BLOCK, EPOCH, FRESH, STEP, WORDS, key_of, seed_noise

CPU = torch.device("cpu")


def drawn(*key: int) -> torch.Tensor:
    seed_noise(CPU, *key)
    return torch.randn(64, dtype=torch.float64)


def test_the_words_of_the_state_are_those_of_the_mersenne_twister():
    """numpy seeds its own Mersenne twister with the same recurrence."""
    words = np.random.RandomState(0).get_state()[1]
    np.testing.assert_array_equal(FRESH[WORDS].view(np.uint64), words)


def test_a_seeded_generator_is_philox_in_the_words_of_the_twister():
    """The draws of numpy's twister with these words, tempered as torch tempers them."""
    seed_noise(CPU, 3, STEP, 5 * BLOCK + 7)
    ours = torch.randint(2**16, (700,))  # more than 624, so the state turns
    stream = np.random.Philox(key=3 << 32 | 1 << 31 | 5).random_raw(312 * BLOCK).view(np.uint32)
    twister = np.random.MT19937()
    words = stream[624 * 7 : 624 * 8]
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    np.testing.assert_array_equal(ours.numpy(), twister.random_raw(700) % 2**16)


def test_other_seeds_steps_and_kinds_give_other_noise():
    """2³² and 2³² + 1 steps apart, too, where the lower 32 bits of a seed are equal."""
    keys = [(0, STEP, 0), (0, STEP, 1), (1, STEP, 0), (1, EPOCH, 0), (0, EPOCH, 1), (0, EPOCH, 0)]
    keys += [(2**32 - 1, STEP, 2**31 - 1), (2**31, STEP, 0), (0, STEP, 2**31 - 1)]
    assert len({key_of(*key) for key in keys}) == len(keys)
    assert all(0 <= key_of(*key) < 2**64 for key in keys)
    assert len({tuple(drawn(*key).tolist()) for key in keys}) == len(keys)


def test_the_noise_does_not_depend_on_what_was_drawn_before():
    first = drawn(0, STEP, 1)
    torch.randn(3)  # leaves half of a pair of normal numbers in the generator
    assert torch.equal(drawn(0, STEP, 1), first)


def test_the_noise_of_many_steps_is_normal_and_uncorrelated():
    draws = torch.stack([drawn(0, STEP, n) for n in range(4000)])
    assert abs(draws.mean()) < 4 / draws.numel() ** 0.5
    assert abs(draws.var() - 1) < 4 * (2 / draws.numel()) ** 0.5
    along = (draws[1:] * draws[:-1]).mean()
    assert abs(along) < 4 / draws.numel() ** 0.5
