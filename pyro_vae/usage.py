"""What a VAE is used for: encode images, decode latents, sample, and score."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from math import prod
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from .alone import alone
from .building import latents_of
from .compiling import HANDLERS
from .data import Images
from .errors import InputError
from .evaluation.importance import Importance, importance
from .evaluation.imputation import impute
from .holes import as_mask
from .inputs import batch_of, context_rows
from .labels import LABEL
from .latents import LatentSize, Shape, layouts, site_names
from .memory import check_memory
from .modules import mode
from .options import at_least_one, is_whole
from .pairing import latent_sites
from .programs import GuideProgram, ModelProgram, mean_image
from .spelling import spelled
from .words import counted


class Usage(nn.Module):
    """The uses of a :class:`~pyro_vae.vae.VAE`. All go through its two Pyro programs, so they hold
    for all parts.

    A VAE with a condition has a context. Where it belongs to observations, the argument is
    ``context``, with a row for each. Where observations are made, it is ``given``. Both may be one
    class, by its name or number, or one set of covariates, for all rows.

    Observations x are a batch ``[B, *shape]``, and so is the result. One observation, such as a PIL
    image or a tensor of the VAE's own shape, gives one result, without the dimension ``[B]``.
    """

    shape: Shape
    latent_size: LatentSize
    model: ModelProgram
    guide: GuideProgram

    @spelled
    def encode(self, x: Any, context: Any = None, *, mask: Any = None) -> Any:
        """The posterior q(z | x) of observations: a distribution, batch ``[B]``, event ``[Z]``.

        That of one observation is a :class:`~pyro_vae.distributions.OneRow`, with batch ``[]``. If
        there are several latent sites, it is a dict of distributions by name. Each is given a draw
        of the sites that it depends on. It is computed in evaluation mode, so it does not depend on
        the other images of the batch. Gradients reach the weights and the images.

        Args:
            x: a tensor ``[B, *shape]``, a NumPy array or a PIL image, see
                :func:`~pyro_vae.inputs.as_tensor`; or one observation.
            context: labels ``[B]`` or covariates ``[B, ...]``, a tensor or a NumPy array; or one
                for all.
            mask: bool, True where x was observed, a tensor or a NumPy array of the shape of x or
                ``[B]``. Without it, NaN in x stands for an entry that is missing.

        Example:
            >>> vae = VAE((1, 28, 28), 2)
            >>> vae.encode(x).mean.shape, vae.encode(x[0]).mean.shape  # x has 8 images
            (torch.Size([8, 2]), torch.Size([2]))
        """
        x, mask, answer = batch_of(x, self.shape, self, mask)
        context = self.rows(context, len(x))
        with HANDLERS, mode(False, self):
            sites = latent_sites(lambda: self.guide(x, context, mask=mask))
        q = {name: site["fn"] for name, site in sites.items()}
        return answer(q["z"] if q.keys() == {"z"} else q)

    @torch.no_grad()
    @spelled
    def predict(self, x: Any, *, mask: Any = None) -> Any:
        """q(y | x) of a VAE whose guide infers y.

        It is the probability of each class, ``[B, K]``; of real targets the mean and the standard
        deviation in their own units, ``[B, n]`` each.

        Args:
            x, mask: as for :meth:`encode`.

        Raises:
            InputError: the guide infers neither labels nor targets.

        Example:
            >>> vae = VAE((1, 28, 28), 2, guide="labelled", condition=10)
            >>> vae.predict(x).shape
            torch.Size([8, 10])
        """
        if not self.infers_y:
            raise InputError(
                "predict gives the probabilities of labels or the mean of targets, and the guide "
                "of this VAE infers none; take the guide labelled or targeted"
            )
        q = self.encode(x, mask=mask)[LABEL]
        return q.mean if self.infers_labels else (q.mean, q.stddev)

    @property
    def infers_y(self) -> bool:
        """Whether the guide infers the labels or the real targets of observations."""
        condition = self.guide.condition
        return condition is not None and condition.inferred

    @property
    def infers_labels(self) -> bool:
        """Whether it infers labels of classes."""
        return self.infers_y and self.guide.condition.classes is not None  # type: ignore[union-attr]

    @spelled
    def reconstruct(
        self, x: Any, context: Any = None, *, given: Any = None, mask: Any = None
    ) -> Tensor:
        """The mean image of p(x | z), with z drawn from the guide at ``x``; ``[B, *shape]``.

        Args:
            x, context, mask: as for :meth:`encode`. Missing entries are reconstructed, too.
            given: the context that z is decoded with, by default ``context``. Another one changes
                this factor and holds the rest.

        Example:
            >>> vae = VAE((1, 28, 28), 2, condition=10)
            >>> vae.reconstruct(x, 3, given=7).shape  # x has 8 images of threes, now as sevens
            torch.Size([8, 1, 28, 28])
        """
        x, mask, answer = batch_of(x, self.shape, self, mask)
        context = self.rows(context, len(x))
        given = context if given is None else self.rows(given, len(x))
        with self.in_use():
            z = poutine.trace(self.guide).get_trace(x, context, mask=mask)
            if self.infers_y and given is not context:  # y is given, not inferred
                z.remove_node(LABEL)
            # Without x, the site "x" gives its mean; with x it would give the observation back.
            return answer(mean_image(poutine.replay(self.model, trace=z), len(x), given))

    @spelled
    def log_prob(
        self, x: Any, samples: int = 1000, *, context: Any = None, seed: int = 0
    ) -> Importance:
        """log p(x) of each image with its standard error, in nats, by importance sampling.

        With a context c it is log p(x | c).

        Args:
            x, context: as for :meth:`encode`.
            samples: draws of z for each image.
            seed: of the draws. The global random numbers are not changed.

        Returns:
            ``log_p`` and ``errors``, ``[B]`` each, or 0-dim of one image, and how far they can be
            trusted, see :class:`~pyro_vae.evaluation.importance.Importance`.
        """
        x, _, answer = batch_of(x, self.shape, self)
        images = Images(x, context=self.rows(context, len(x)))
        return answer(importance(self.model, self.guide, images, samples=samples, seed=seed))

    @spelled
    def impute(
        self,
        x: Any,
        context: Any = None,
        *,
        mask: Any = None,
        samples: int = 1000,
        draws: int | None = None,
        probabilities: bool = False,
        seed: int = 0,
    ) -> Any:
        """The observations with their missing entries filled; the observed ones are the same bits.

        Each hole gets its conditional mean given the observed entries, by self-normalised
        importance sampling; of categories the most probable one, or the median if they have an
        order. With ``draws``, completions are drawn instead, for multiple imputation.
        :func:`~pyro_vae.evaluation.imputation.impute` also gives errors.

        Args:
            x: the observations, as for :meth:`encode`. Without ``mask``, NaN stands for an entry
                that is missing.
            context, mask: as for :meth:`encode`.
            samples: draws of z for each observation.
            draws: the number of completions; None for the conditional mean.
            probabilities: whether the probabilities of levels are given, too.
            seed: of the draws. The global random numbers are not changed.

        Returns:
            ``[B, *shape]``, or ``[draws, B, *shape]``. With ``probabilities`` a pair: this, and
            the probability of each level of each entry given the observed ones,
            ``[B, *shape, C]``, with NaN for entries without levels.

        Warns:
            UserWarning: for some observations ``samples`` draws are too few.

        Example:
            >>> vae = VAE((3,), 2, likelihood="student-t", hidden=(4,))
            >>> vae.impute(torch.tensor([[1.0, float("nan"), 2.0]]))[0, 0].item()
            1.0
        """
        if draws is not None:
            at_least_one("draws", draws)
        x, mask, answer = batch_of(x, self.shape, self, mask)
        known = None if mask is None else as_mask(mask, x)
        images = Images(x, mask=known, context=self.rows(context, len(x)))
        result = impute(
            self, images, samples=samples, draws=draws or 0, probabilities=probabilities, seed=seed
        )
        if sentence := result.doubt():
            warnings.warn(sentence, stacklevel=2)
        filled = result.x if result.draws is None else result.draws
        filled = filled if images.mask is None else torch.where(images.mask, x, filled)
        filled = answer(filled, dim=filled.dim() - x.dim())
        return (filled, answer(result.probabilities)) if probabilities else filled

    @spelled
    def sample(self, n: int | None = None, given: Any = None, *, z: Any = None) -> Tensor:
        """The mean images of p(x | z) for ``n`` draws of z from the prior; ``[n, *shape]``.

        ``n`` is 1 by default, or the number of rows of ``given``. With latents ``z`` in place of
        ``n``, it is :meth:`decode`.

        Args:
            n: the number of draws.
            given: the context, one for all draws or a row for each.
            z: latents, as for :meth:`decode`.

        Example:
            >>> VAE((1, 28, 28), 2, condition=["cat", "dog"]).sample(16, given="dog").shape
            torch.Size([16, 1, 28, 28])
        """
        if z is not None:
            if n is not None:
                raise InputError(f"sample takes n = {n} draws of the prior or latents z, not both")
            return self.decode(z, given)
        if n is not None and is_whole(n):
            check_memory(4 * n * prod(self.shape), counted(n, "image"))
        given = self.rows(given, n if n is not None and is_whole(n) else 1)
        with self.in_use():
            return mean_image(self.model, n, given)

    @spelled
    def decode(self, z: Any, given: Any = None) -> Tensor:
        """The mean images of p(x | z) for given latents; ``[n, *shape]``, or one image for ``[Z]``.

        Args:
            z: the latents of the site "z", ``[n, Z]`` or ``[Z]``: a tensor, a NumPy array or a
                list. For several layers of latents, a dict by site; a layer that is missing is
                drawn from the prior. A layer with places may be ``[n, c, h, w]``.
            given: the context, one for all latents or a row for each.

        Raises:
            InputError: latents of another shape, latents that the prior cannot have, or sites that
                it does not have.
        """
        weight = next(chain(self.parameters(), self.buffers()), torch.zeros(()))
        with self.in_use():
            one = self.rows(given, 1)
            few = None if one is None else one[:1]
            sites = latent_sites(lambda: self.model(None, few, n=1))
            sites.pop("x")  # without x, it is drawn like a latent site
            layers = layouts(self.latent_size)
            named = dict(zip(site_names(len(layers)), layers, strict=True))
            data, n, batch = latents_of(z, sites, named, weight)
            model = poutine.condition(self.model, data=data)
            images = mean_image(model, n, self.rows(given, n))
            return images if batch else alone(images)

    def rows(self, given: Any, n: int) -> Any:
        """A context of ``n`` rows from what a user gives, as
        :meth:`Condition.rows() <pyro_vae.conditions.Condition.rows>` reads it. Without a condition
        it is what the user gives.

        Raises:
            InputError: a class that there is not, or covariates of another shape.
        """
        like = next(chain(self.parameters(), self.buffers()), torch.zeros(()))
        condition, given = self.model.condition, context_rows(given, like.device)
        if given is None or condition is None:
            return given
        return condition.rows(given, n).to(like.device)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """No gradients, evaluation mode, and no other thread that runs Pyro's handlers."""
        with HANDLERS, torch.no_grad(), mode(False, self):
            yield
