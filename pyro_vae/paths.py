"""Images along a path in the latent space: along a unit, or from one image to another."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from .errors import InputError
from .inputs import one_image
from .labels import LABEL
from .latents import is_real, moments
from .options import is_whole, number
from .pairing import latent_sites
from .programs import expect_context, expect_count, mean_image
from .spelling import spelled
from .usage import Usage


class Paths(Usage):
    """The uses of a VAE that follow a path in the latent space."""

    @spelled
    def traverse(
        self,
        x: Any,
        unit: int | None = None,
        *,
        steps: int = 11,
        reach: float = 3.0,
        context: Any = None,
        given: Any = None,
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
            context: labels or covariates of the image. If the guide infers labels, one that is not
                given is the most probable one; a target that is not given is its mean.
            given: the context of what is drawn, by default ``context``.

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
        context = self.rows(context, 1)
        if self.infers_y and context is None:
            predicted = self.predict(x)
            context = predicted.argmax(-1) if self.infers_labels else predicted[0]
        given = context if given is None else self.rows(given, 1)
        with self.in_use():
            sites = latent_sites(lambda: self.model(None, given, n=1))
            sites.pop("x")  # without x, it is drawn like a latent site
            if self.infers_y:
                sites.pop(LABEL)  # it is given
            if len(sites) > 1:
                raise InputError(
                    f"traversals need one latent vector, and there are the sites {', '.join(sites)}"
                )
            ((name, site),) = sites.items()
            prior = site["fn"]
            if not is_real(prior):
                raise InputError(
                    f"traversals need latents that are real numbers, and the prior is a "
                    f"{type(prior).__name__} on {prior.support}"
                )
            centre, sigma = (moment.reshape(-1) for moment in moments(prior))  # each [Z]
            q = self.encode(x, context)
            mean = moments(q[name] if isinstance(q, dict) else q)[0]  # [1, Z]
            size = mean.shape[-1]
            if unit is not None and not (is_whole(unit) and 0 <= unit < size):
                raise InputError(f"there are the units 0 to {size - 1}, and no unit {unit}")
            units = torch.arange(size) if unit is None else torch.tensor([unit])
            row = torch.arange(len(units))
            path = torch.linspace(-reach, reach, steps, dtype=mean.dtype, device=mean.device)
            z = mean.expand(len(units), steps, -1).clone()
            z[row, :, units] = centre[units, None] + sigma[units, None] * path
            images = self.decode(z.flatten(0, 1), repeated(given, len(units) * steps))
            images = images.unflatten(0, (len(units), steps))
        return images if unit is None else images[0]

    @spelled
    def interpolate(
        self, a: Any, b: Any, steps: int = 12, context: Any = None, *, given: Any = None
    ) -> Tensor:
        """Mean images along the straight line from a draw of z for ``a`` to a draw for ``b``.

        Args:
            a, b: two images, each as for :meth:`traverse`.
            steps: images along the line, both ends included.
            context: labels or covariates of both images; one for both, or ``[2, ...]``.
            given: the context of all images of the path, by default that of both images.

        Raises:
            InputError: the two images have different contexts, and ``given`` is None.

        Returns:
            ``[steps, *shape]``.
        """
        expect_count("the number of steps of a path", steps, least=2)
        ends = torch.cat([one_image(each, self.shape, self) for each in (a, b)])
        context = self.rows(context, 2)
        if context is not None and len(context) == 1:
            context = repeated(context, 2)
        if given is None and context is not None:
            expect_context(context, 2, self.guide.context_taken)
            if not torch.equal(context[0], context[1]):
                raise InputError(
                    f"the two images have the contexts {context.tolist()}; say with given which "
                    "one the images of the path have"
                )
            given = context[:1]
        rows = repeated(self.rows(given, 1), steps)
        with self.in_use():
            line = {}
            for name, site in latent_sites(lambda: self.guide(ends, context)).items():
                start, end = site["value"]  # each [Z]
                t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
                line[name] = torch.lerp(start, end, t[:, None])  # [steps, Z]
            if self.infers_y and rows is not None:
                line.pop(LABEL)  # it is given
            return mean_image(poutine.condition(self.model, data=line), steps, rows)


def repeated(context: Tensor | None, n: int) -> Tensor | None:
    """A context of one row as one of ``n`` rows."""
    return None if context is None else context.expand(n, *context.shape[1:])
