"""What a VAE is used for: encode images, decode latents, sample, and score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from math import prod
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from .building import latents_of
from .compiling import HANDLERS
from .data import Images
from .errors import InputError
from .evaluation.importance import Importance, importance
from .inputs import as_tensor, one_image
from .latents import LatentSize, Shape, is_real, layouts, moments, site_names
from .memory import check_memory
from .modules import mode
from .options import is_whole, number
from .pairing import latent_sites
from .programs import GuideProgram, ModelProgram, expect_context, expect_count, mean_image
from .words import counted


class Usage(nn.Module):
    """The uses of a :class:`~pyro_vae.vae.VAE`. All go through its two Pyro programs, so they hold
    for all parts."""

    shape: Shape
    latent_size: LatentSize
    model: ModelProgram
    guide: GuideProgram

    def encode(self, x: Any, context: Tensor | None = None, *, mask: Tensor | None = None) -> Any:
        """The posterior q(z | x) of observations: a distribution, batch ``[B]``, event ``[Z]``.

        If there are several latent sites, a dict of distributions by name. Each is given a draw of
        the sites that it depends on. It is computed in evaluation mode, so it does not depend on
        the other images of the batch. Gradients reach the weights and the images.

        Args:
            x: a tensor ``[B, *shape]``, a NumPy array or a PIL image, see
                :func:`~pyro_vae.inputs.as_tensor`.
            context: labels or covariates, ``[B, ...]``, for a guide that takes them.
            mask: bool, True where x was observed, of the shape of x or ``[B]``. Without it, NaN in
                x stands for an entry that is missing.
        """
        x = as_tensor(x, self.shape, self)
        with HANDLERS, mode(False, self):
            sites = latent_sites(lambda: self.guide(x, context, mask=mask))
        q = {name: site["fn"] for name, site in sites.items()}
        return q["z"] if q.keys() == {"z"} else q

    def reconstruct(
        self, x: Any, context: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The mean image of p(x | z), with z drawn from the guide at ``x``; ``[B, *shape]``.

        The arguments are those of :meth:`encode`. Missing entries are reconstructed, too.
        """
        x = as_tensor(x, self.shape, self)
        with self.in_use():
            z = poutine.trace(self.guide).get_trace(x, context, mask=mask)
            # Without x, the site "x" gives its mean; with x it would give the observation back.
            return mean_image(poutine.replay(self.model, trace=z), len(x), context)

    def log_prob(self, x: Any, samples: int = 1000, *, seed: int = 0) -> Importance:
        """log p(x) of each image with its standard error, in nats, by importance sampling.

        Args:
            x: images, as for :meth:`encode`.
            samples: draws of z for each image.
            seed: of the draws. The global random numbers are not changed.

        Returns:
            ``log_p`` and ``errors``, ``[B]`` each, and how far they can be trusted, see
            :class:`~pyro_vae.evaluation.importance.Importance`.
        """
        images = Images(as_tensor(x, self.shape, self))
        return importance(self.model, self.guide, images, samples=samples, seed=seed)

    def sample(
        self, n: int | None = None, context: Tensor | None = None, *, z: Any = None
    ) -> Tensor:
        """The mean images of p(x | z) for ``n`` draws of z from the prior; ``[n, *shape]``.

        ``n`` is 1 by default, or with a context the number of its rows. With latents ``z`` in place
        of ``n``, it is :meth:`decode`.
        """
        if z is not None:
            if n is not None:
                raise InputError(f"sample takes n = {n} draws of the prior or latents z, not both")
            return self.decode(z, context)
        if n is not None and is_whole(n):
            check_memory(4 * n * prod(self.shape), counted(n, "image"))
        with self.in_use():
            return mean_image(self.model, n, context)

    def decode(self, z: Any, context: Tensor | None = None) -> Tensor:
        """The mean images of p(x | z) for given latents; ``[n, *shape]``.

        Args:
            z: the latents of the site "z", ``[n, Z]`` or ``[Z]``: a tensor, a NumPy array or a
                list. For several layers of latents, a dict by site; a layer that is missing is
                drawn from the prior. A layer with places may be ``[n, c, h, w]``.
            context: labels or covariates, ``[n, ...]``.

        Raises:
            InputError: latents of another shape, latents that the prior cannot have, or sites that
                it does not have.
        """
        weight = next(chain(self.parameters(), self.buffers()), torch.zeros(()))
        with self.in_use():
            few = None if context is None else context[:1]
            sites = latent_sites(lambda: self.model(None, few, n=1))
            sites.pop("x")  # without x, it is drawn like a latent site
            layers = layouts(self.latent_size)
            named = dict(zip(site_names(len(layers)), layers, strict=True))
            data, n = latents_of(z, sites, named, weight)
            return mean_image(poutine.condition(self.model, data=data), n, context)

    def traverse(
        self,
        x: Any,
        unit: int | None = None,
        *,
        steps: int = 11,
        reach: float = 3.0,
        context: Tensor | None = None,
    ) -> Tensor:
        """Mean images of p(x | z) along one latent unit, or along each of them.

        The unit goes in equal steps from -``reach`` to ``reach`` standard deviations of the prior,
        around the mean of the prior. All other units are at the posterior mean of ``x``. A unit
        that the model ignores gives equal images.

        Args:
            x: one image, as for :meth:`encode`.
            unit: the number of the unit, from 0; None for all of them.
            steps: images along a unit.
            reach: standard deviations of the prior.
            context: labels or covariates of the image, ``[1, ...]``.

        Returns:
            ``[steps, *shape]`` for one unit, ``[Z, steps, *shape]`` for all.

        Raises:
            InputError: several images, several latent sites, latents that are not real numbers, or
                no such unit.

        Paper: Higgins et al. 2017, beta-VAE.

        Example:
            >>> VAE((1, 28, 28), latent_size=3).traverse(x[0], unit=0, steps=5).shape
            torch.Size([5, 1, 28, 28])
        """
        expect_count("the number of steps of a traversal", steps, least=2)
        if not isinstance(self.latent_size, int):
            raise InputError(
                f"traversals need one latent vector, and the latent sizes are {self.latent_size}; "
                "pyro_vae.figures.vary() shows one layer of several"
            )
        number("reach", reach, above=0)
        x = one_image(x, self.shape, self)
        with self.in_use():
            sites = latent_sites(lambda: self.model(None, context, n=1))
            sites.pop("x")  # without x, it is drawn like a latent site
            if len(sites) > 1:
                raise InputError(
                    f"traversals need one latent vector, and there are the sites {', '.join(sites)}"
                )
            ((_, site),) = sites.items()
            prior = site["fn"]
            if not is_real(prior):
                raise InputError(
                    f"traversals need latents that are real numbers, and the prior is a "
                    f"{type(prior).__name__} on {prior.support}"
                )
            centre, sigma = (moment.reshape(-1) for moment in moments(prior))  # each [Z]
            mean = moments(self.encode(x, context))[0]  # [1, Z]
            size = mean.shape[-1]
            if unit is not None and not (is_whole(unit) and 0 <= unit < size):
                raise InputError(f"there are the units 0 to {size - 1}, and no unit {unit}")
            units = torch.arange(size) if unit is None else torch.tensor([unit])
            row = torch.arange(len(units))
            path = torch.linspace(-reach, reach, steps, dtype=mean.dtype, device=mean.device)
            z = mean.expand(len(units), steps, -1).clone()
            z[row, :, units] = centre[units, None] + sigma[units, None] * path
            rows = (
                None if context is None else context.expand(len(units) * steps, *context.shape[1:])
            )
            images = self.decode(z.flatten(0, 1), rows).unflatten(0, (len(units), steps))
        return images if unit is None else images[0]

    def interpolate(self, a: Any, b: Any, steps: int = 12, context: Tensor | None = None) -> Tensor:
        """Mean images along the straight line from a draw of z for ``a`` to a draw for ``b``.

        Args:
            a, b: two images, each as for :meth:`traverse`.
            steps: images along the line, both ends included.
            context: labels or covariates of all images of the path, ``[1, ...]``.

        Returns:
            ``[steps, *shape]``.
        """
        expect_count("the number of steps of a path", steps, least=2)
        ends = torch.cat([one_image(each, self.shape, self) for each in (a, b)])
        if context is not None:
            expect_context(context, 1, self.guide.context_taken)
        both, rows = (
            None if context is None else context.expand(n, *context.shape[1:]) for n in (2, steps)
        )
        with self.in_use():
            line = {}
            for name, site in latent_sites(lambda: self.guide(ends, both)).items():
                start, end = site["value"]  # each [Z]
                t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
                line[name] = torch.lerp(start, end, t[:, None])  # [steps, Z]
            return mean_image(poutine.condition(self.model, data=line), steps, rows)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """No gradients, evaluation mode, and no other thread that runs Pyro's handlers."""
        with HANDLERS, torch.no_grad(), mode(False, self):
            yield
