"""Encoder and decoder as programs of ``torch.export``, which run without this library."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from .contracts import NOTHING, Given, Guide, Likelihood
from .errors import InputError
from .programs import GuideProgram, typical
from .storage.writing import check_utf8, written
from .usage import Usage
from .words import first_line

ENCODER, DECODER = "encoder.pt2", "decoder.pt2"


class Encoder(nn.Module):
    """From x ``[B, *shape]`` to the mean and the standard deviation of q(z | x), ``[B, Z]`` each.

    Args:
        guide: a guide of one latent site.
    """

    def __init__(self, guide: GuideProgram) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given = NOTHING
        if self.guide.seen is not None:
            mask = ~x.isnan()
            x = torch.where(mask, x, self.guide.blank.to(x))
            given = Given(mask=mask, observations=x)
            x = self.guide.seen(x, mask, None)
        q: Any = Guide.of(self.guide.posterior).run(x, given=given)
        return q.mean, q.stddev


class Decoder(nn.Module):
    """From z ``[B, Z]`` to the mean of p(x | z), ``[B, *shape]``."""

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.likelihood = likelihood

    def forward(self, z: Tensor) -> Tensor:
        fn: Any = Likelihood.of(self.likelihood).run(z, given=NOTHING)
        return typical(fn)


def export(vae: Usage, folder: str | Path) -> None:
    """Write encoder and decoder of a VAE as ``encoder.pt2`` and ``decoder.pt2``.

    ``torch.export.load(file).module()`` gives them back where only torch is installed. They run on
    the CPU, in evaluation mode, on a batch of any size.

    - ``encoder.pt2`` takes x, ``[B, *shape]``, and gives the mean and the standard deviation of
      q(z | x), ``[B, Z]`` each. x must be in the VAE's own units, floats in [0, 1]. It is not
      checked, and not binarised. NaN is an entry that is missing, if the VAE was made with holes.
    - ``decoder.pt2`` takes z, ``[B, Z]``, and gives the mean of p(x | z), ``[B, *shape]``.

    Args:
        vae: the VAE, which is not changed.
        folder: the folder to write to. Its other files stay.

    Raises:
        InputError: the VAE has several latent sites or takes a context, q(z | x) has no mean and
            scale in closed form, or ``torch.export`` cannot trace a part.

    Example:
        >>> VAE((1, 28, 28), latent_size=2).export("exported")
        >>> torch.export.load("exported/encoder.pt2").module()(x)[0].shape
        torch.Size([8, 2])
    """
    check_utf8(f"the folder {str(folder)!r}", Path(folder))
    vae = copy.deepcopy(vae).cpu().eval()
    name = Guide.of(vae.guide.posterior).name()
    if vae.model.context_taken:
        raise InputError("the VAE takes a context, and export is for encoders that take x alone")
    if not Guide.of(vae.guide.posterior).has_one_site():
        raise InputError(
            f"the guide {name} has several latent sites, and export is for a guide of one, such as "
            "mean-field"
        )
    weight = next(vae.parameters(), torch.zeros(()))
    # Two images, because torch.export takes a batch of one as the only size.
    x = torch.full((2, *vae.shape), 0.5, dtype=weight.dtype)
    encoder, decoder = Encoder(vae.guide), Decoder(vae.model.likelihood)
    # Checks of values cannot be traced.
    with vae.in_use(), pyro.validation_enabled(False):
        try:
            mean, _ = encoder(x)
        except NotImplementedError:
            raise InputError(
                f"the guide {name} has no mean and scale in closed form, so its encoder cannot be "
                "exported; take a guide such as mean-field or full-covariance"
            ) from None
        programs = {ENCODER: traced(encoder, x, name)}
        programs[DECODER] = traced(decoder, mean, Likelihood.of(vae.model.likelihood).name())
    with written(Path(folder)) as part:
        part.mkdir()
        for file, program in programs.items():
            torch.export.save(program, part / file)


def traced(module: nn.Module, x: Tensor, name: str) -> torch.export.ExportedProgram:
    """The program of a module whose batch may have any size.

    Args:
        module: the module, of one argument.
        x: an example of the argument.
        name: the part that the module uses, for the error message.
    """
    try:
        batch = torch.export.Dim("batch", min=1)
        return torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch raises many kinds of errors, also for a user's own part
        raise InputError(
            f"torch.export cannot trace the part {name} ({first_line(error):.200})"
        ) from error
