"""Draw binary pixels from grey ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.random import PCG64, SFC64
from torch import Tensor


def bernoulli(
    pixels: Tensor, generator: torch.Generator | None = None, out: Tensor | None = None
) -> Tensor:
    r"""Draw x ~ Bernoulli(p) as bool.

    Equation:
        For float32, p = pixel. For uint8, p = pixel / 255, drawn as
        :math:`x = [r < \text{pixel}]` with r uniform on 0, …, 254. So p is exact: a pixel of 0
        always gives 0, and a pixel of 255 always gives 1.

    Args:
        pixels: of any shape, uint8 or float32 in [0, 1].
        generator: what to draw from; by default torch's global generator of the pixels' device.
        out: where to write the draws, bool, of the shape of ``pixels``.
    """
    device = pixels.device if generator is None else generator.device
    if out is None:
        out = torch.empty(pixels.shape, dtype=torch.bool, device=pixels.device)
    if pixels.dtype != torch.uint8 and device.type == "cpu":
        # From a generator of NumPy, which is independent of torch's with the same seed.
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        uniform = np.random.Generator(SFC64(seed)).random(tuple(pixels.shape), np.float32)
        noise = torch.from_numpy(uniform)
    elif pixels.dtype != torch.uint8:
        noise = torch.rand(pixels.shape, generator=generator, device=device)
    elif device.type != "cpu":
        noise = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        noise.random_(0, 255, generator=generator)
    else:
        here = out.cpu()
        draw_on_threads(pixels.cpu(), here, generator)
        return out.copy_(here)
    return torch.lt(noise.to(pixels.device), pixels, out=out)


PIECE = 1 << 18  # pixels; the noise of this many fits the cache of a core


def draw_on_threads(pixels: Tensor, out: Tensor, generator: torch.Generator | None) -> None:
    """Draw uint8 pixels on a CPU, in pieces that several threads share.

    torch's generator is slow on a CPU, so it only seeds a faster generator for each piece. The
    draws do not depend on the number of threads.
    """
    seed = torch.randint(2**63 - 1, (), generator=generator)
    cuts = range(0, pixels.numel(), PIECE)
    seeds = np.random.SeedSequence(int(seed)).spawn(len(cuts))
    flat, drawn = pixels.reshape(-1).numpy(), out.view(-1).numpy()

    def draw_piece(start: int, seed: np.random.SeedSequence) -> None:
        piece = flat[start : start + PIECE]
        random, other = (np.random.Generator(kind(seed)) for kind in (SFC64, PCG64))
        # Eight bytes from each word, uniform on 0, …, 255. Bytes of 255 (1 in 256) are drawn again,
        # from a second stream, so that no draw depends on the number of images that follow.
        words = random.integers(0, 2**64, (len(piece) + 7) // 8, dtype=np.uint64)
        noise = words.view(np.uint8)[: len(piece)]
        again = np.flatnonzero(noise == 255)
        noise[again] = other.integers(0, 255, len(again), dtype=np.uint8)
        np.less(noise, piece, out=drawn[start : start + PIECE])

    if len(cuts) == 1:
        draw_piece(0, seeds[0])
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(draw_piece, cuts, seeds))
