"""What the trackers share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import figures
from ..data import Images
from ..errors import InputError
from ..history import Callback, Epoch
from ..vae import VAE
from ..words import first_line


class Tracker(Callback):
    """What all trackers share. Numbers are in nats per image, and a step is an epoch.

    A tracker that fails before the first step is an InputError. One that fails later is a warning,
    and training goes on.

    Args:
        vae: the VAE whose pictures are sent; None for no pictures.
        images: some images, all in one batch, for the reconstructions; None for no pictures.
        config: the configuration. That of ``vae`` is added to it.
        every: pictures are sent after every so many epochs, and after the last one.
        seed: of the samples and of the draws of ``dynamic`` pixels, equal in all epochs.

    Raises:
        InputError: the package is not installed, or only one of ``vae`` and ``images`` is given.
    """

    name: str
    modules: tuple[str, ...]
    """The modules that are imported."""
    packages: str
    """The packages that have them."""

    def __init__(
        self,
        vae: VAE | None = None,
        images: Images | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        every: int = 10,
        seed: int = 0,
    ) -> None:
        self.check()
        if (vae is None) != (images is None):
            raise InputError("a tracker makes pictures of a VAE and images; give both or none")
        self.vae, self.images, self.every, self.seed = vae, images, every, seed
        self.config = {**({} if vae is None else {"vae": vae.config}), **(config or {})}
        self.started = False
        self.epoch = 0

    @classmethod
    def check(cls) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` if the package is not installed."""
        if any(find_spec(module) is None for module in cls.modules):
            raise InputError(
                f"{cls.name} needs a package that is not installed; install it with: "
                f"pip install {cls.packages}"
            )

    @classmethod
    def of_run(cls, folder: Path, **options: Any) -> Tracker:
        """The tracker of a run folder, as ``train --track`` makes it."""
        raise NotImplementedError

    def begin(self) -> None:
        """Open the store, and send ``self.config``."""
        raise NotImplementedError

    def numbers(self, epoch: int, values: dict[str, float]) -> None:
        """Send the numbers of an epoch."""
        raise NotImplementedError

    def picture(self, epoch: int, name: str, pixels: np.ndarray) -> None:
        """Send a picture, uint8 ``[H, W, 3]``."""
        raise NotImplementedError

    def end(self, completed: bool) -> None:
        """Close the store."""
        raise NotImplementedError

    def on_start(self) -> None:
        try:
            self.begin()
        except Exception as error:  # each package raises its own kinds
            raise InputError(f"{self.name} cannot start: {brief(error)}") from error
        self.started = True

    def on_epoch(self, record: Epoch) -> None:
        self.epoch = record.epoch
        try:
            self.numbers(record.epoch, numbers_of(record))
            if record.epoch % self.every == 0:
                self.draw()
        except Exception as error:
            self.warn(error)

    def on_end(self, completed: bool) -> None:
        if not self.started:
            return
        try:
            if completed and self.epoch % self.every:
                self.draw()
            self.end(completed)
        except Exception as error:
            self.warn(error)

    def warn(self, error: Exception) -> None:
        """Say that something was not sent."""
        warnings.warn(
            f"{self.name} did not take all of epoch {self.epoch}, and training goes on: "
            f"{brief(error)}",
            stacklevel=2,
        )

    def draw(self) -> None:
        """Send reconstructions and samples."""
        if self.vae is None or self.images is None:
            return
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            if self.images.schema is not None:
                for name, means in (("reconstructions", True), ("samples", False)):
                    figure = figures.table_marginals(self.vae, self.images, means=means)
                    self.picture(self.epoch, name, figures.pixels_of(figure))
                return
            rows = figures.reconstructions(self.vae, self.images, seed=self.seed)
            sets = figures.to_images(self.vae, *rows.values())
            above = figures.stack_rows(*sets, columns=min(12, len(self.images)))
            drawn, columns, _ = figures.prior_samples(self.vae, 48, self.images.context)
            (samples,) = figures.to_images(self.vae, drawn)
            self.picture(self.epoch, "reconstructions", pixels_of(above))
            self.picture(self.epoch, "samples", pixels_of(samples, columns))


def brief(error: Exception) -> str:
    """The kind and the first line of an error."""
    return f"{type(error).__name__}: {first_line(error)}"


def numbers_of(record: Epoch) -> dict[str, float]:
    """The numbers of an epoch by name, if they were measured: ``loss``, ``train_elbo``,
    ``validation_elbo``, …; the KL of a site is ``kl/SITE``."""
    sites = {f"kl/{site}": kl for site, kl in record.kl_of_sites.items()}
    measured = ("elbo", "reconstruction", "kl")
    numbers = {
        f"{record.measured_on}_{k}" if k in measured else k: v
        for k, v in vars(record).items()
        if isinstance(v, float)
    }
    return numbers | sites


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary, with names such as ``training.lr``."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def pixels_of(images: Tensor, columns: int = figures.COLUMNS) -> np.ndarray:
    """A grid of images ``[N, C, H, W]`` as uint8 ``[H', W', 3]``."""
    return figures.grid(images, columns).mul(255).add(0.5).byte().permute(1, 2, 0).cpu().numpy()
