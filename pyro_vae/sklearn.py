"""A VAE as a transformer of scikit-learn: rows of numbers to latents and back.

It works in a ``Pipeline``, in ``GridSearchCV``, and wherever scikit-learn takes a transformer:

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from pyro_vae.sklearn import VAETransformer
    >>> model = make_pipeline(VAETransformer(latent_size=8), LogisticRegression())
    >>> model.fit(x_train, y_train).score(x_test, y_test)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, Self

import numpy as np
import pyro
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from .contracts import Likelihood
from .data import Data, Images
from .errors import InputError
from .evaluation.importance import each_alone
from .evaluation.latents import encode_images
from .settings import Settings
from .spelling import spelled
from .training import fit
from .vae import VAE

STANDARDIZED = "normal-learned(initial=1, bounded=False)"
"""The likelihood of standardised rows: a Normal with one learned σ for all columns."""


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Train a VAE on the rows of a table; the latents of a row are its posterior mean.

    The table ``x`` is ``[N, D]``. With ``standardize``, the VAE sees each column less its mean and
    divided by its standard deviation, and everything that comes back is in the columns' own units.

    Args:
        latent_size, prior, likelihood, guide, network, hidden: as for :class:`~pyro_vae.vae.VAE`.
            The likelihood None is a Normal with one learned σ for all standardised columns, or
            without ``standardize`` the one that fits the data.
        objective, epochs, batch_size, lr, schedule: as for :func:`~pyro_vae.training.fit`.
        standardize: False leaves x as it is. A likelihood of counts or of 0 and 1, such as
            ``poisson`` or ``bernoulli``, needs this.
        image_shape: ``(C, H, W)`` if each row is an image, for ``network="conv"`` and others. All
            its D = C·H·W pixels then share one mean and one standard deviation. None for a table.
        samples: draws of z for each row to estimate log p(x).
        random_state: the seed of all random numbers; None for another one in each ``fit``.
        progress: as for :func:`~pyro_vae.training.fit`.

    Attributes:
        vae_: the trained :class:`~pyro_vae.vae.VAE` of the standardised rows, in float64.
        history_: what :func:`~pyro_vae.training.fit` returned, measured on the training rows.
        sites_: the number of columns of each latent site in what ``transform`` gives.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        InputError: (in ``fit``) a wrong setting, or settings that do not fit together.
        ValueError: from scikit-learn, for an ``x`` that is not a table of finite numbers.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from pyro_vae.sklearn import VAETransformer
        >>> x = load_iris().data
        >>> latents = VAETransformer(latent_size=2, epochs=5, random_state=0).fit_transform(x)
        >>> latents.shape
        (150, 2)
    """

    @spelled
    def __init__(
        self,
        latent_size: Any = Settings.latent,
        *,
        prior: Any = Settings.prior,
        likelihood: Any = None,
        guide: Any = Settings.guide,
        network: Any = Settings.network,
        hidden: Sequence[int] | None = Settings.hidden,
        objective: Any = Settings.objective,
        epochs: int = Settings.epochs,
        batch_size: int = Settings.batch_size,
        lr: float = Settings.lr,
        schedule: Any = Settings.schedule,
        standardize: bool = True,
        image_shape: tuple[int, int, int] | None = None,
        samples: int = 500,
        random_state: Any = None,
        progress: bool | None = False,
    ) -> None:
        self.latent_size = latent_size
        self.prior = prior
        self.likelihood = likelihood
        self.guide = guide
        self.network = network
        self.hidden = hidden
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.standardize = standardize
        self.image_shape = image_shape
        self.samples = samples
        self.random_state = random_state
        self.progress = progress

    def fit(self, x: Any, y: Any = None) -> Self:
        """Train a new VAE on the rows of ``x`` ``[N, D]``. ``y`` is ignored."""
        x = validate_data(self, x, dtype=np.float64)
        shape: Any = (x.shape[1],) if self.image_shape is None else tuple(self.image_shape)
        if prod(shape) != x.shape[1]:
            raise InputError(
                f"image_shape {shape} has {prod(shape)} pixels, and the rows of x have "
                f"{x.shape[1]} numbers"
            )
        # One seed for everything. NumPy's generator takes seeds below 2³².
        self.seed_ = int(check_random_state(self.random_state).randint(2**31))
        self.offset_, self.factor_ = self.measured(x)
        fitting = STANDARDIZED if self.standardize else Settings.likelihood
        rows = Images(self.standardized(x, shape).pixels.float())
        with torch.random.fork_rng():
            torch.manual_seed(self.seed_)
            vae = VAE.for_data(
                rows,
                self.latent_size,
                prior=self.prior,
                likelihood=fitting if self.likelihood is None else self.likelihood,
                guide=self.guide,
                network=self.network,
                hidden=self.hidden,
            )
        self.history_ = fit(
            vae,
            Data("x", rows, rows.first(0)),  # it has no validation rows and no test rows
            objective=self.objective,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            schedule=self.schedule,
            seed=self.seed_,
            progress=self.progress,
        )
        if len(self.history_) < self.epochs:
            raise KeyboardInterrupt  # a grid search must end, and not go on with half a training
        # In float64 the latents of a row do not depend on the other rows of the call.
        self.vae_ = vae.double()
        self.sites_ = {name: each.shape[1] for name, each in self.means(rows.first(1)).items()}
        self._n_features_out = sum(self.sites_.values())
        return self

    def transform(self, x: Any) -> np.ndarray:
        """The posterior mean of each row, ``[N, ΣZ]``; of several layers, z_1 first."""
        return np.concatenate(list(self.means(self.rows(x)).values()), 1)

    def inverse_transform(self, z: Any) -> np.ndarray:
        """The mean of p(x | z) for each row of latents ``[N, ΣZ]``; ``[N, D]`` in x's own units."""
        check_is_fitted(self)
        z = check_array(z, dtype=np.float64)
        if z.shape[1] != self._n_features_out:
            raise InputError(
                f"the latents have {self._n_features_out} columns, and {z.shape[1]} are given"
            )
        ends = np.cumsum(list(self.sites_.values()))
        latents = dict(zip(self.sites_, np.split(z, ends[:-1], axis=1), strict=True))
        with self.in_use():
            means = self.vae_.decode(latents)
        return means.flatten(1).numpy() * self.factor_ + self.offset_

    def score_samples(self, x: Any) -> np.ndarray:
        """log p̂(x) of each row in nats, by importance sampling, ``[N]``.

        Its expectation is a lower bound on log p(x). It is the log of a density in x's own units,
        or of a probability if the likelihood gives one. The draws are the same for each row, so a
        row's score does not depend on the other rows.
        """
        rows, vae = self.rows(x), self.vae_
        with self.in_use():
            told = {"samples": self.samples, "seed": self.seed_}
            scores = each_alone(vae.model, vae.guide, rows, **told).log_p.numpy()
        likelihood = Likelihood.of(self.vae_.model.likelihood)
        if likelihood.binary or likelihood.levels is not None:
            return scores
        # p(x) = p(u) |du/dx| for u = (x - offset) / factor.
        return scores - np.log(np.broadcast_to(self.factor_, x.shape[1])).sum()

    def score(self, x: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples`, which ``GridSearchCV`` maximises. ``y`` is ignored."""
        return float(self.score_samples(x).mean())

    def measured(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the standard deviation of each column, ``[D]``, or of all pixels, ``[]``.

        The deviation of a column that does not change is given as 1.
        """
        if not self.standardize:
            return np.zeros(()), np.ones(())
        axis = 0 if self.image_shape is None else None
        deviation = x.std(axis)
        changes = deviation > 1e-9 * np.abs(x).max(axis)
        return x.mean(axis), np.where(changes, deviation, 1.0)

    def standardized(self, x: np.ndarray, shape: Sequence[int]) -> Images:
        """The rows of a table ``[N, D]`` as the VAE sees them, ``[N, *shape]``."""
        return Images(torch.from_numpy((x - self.offset_) / self.factor_).reshape(-1, *shape))

    def rows(self, x: Any) -> Images:
        """The rows of a new table, checked."""
        check_is_fitted(self)
        x = validate_data(self, x, dtype=np.float64, reset=False)
        return self.standardized(x, self.vae_.shape)

    def means(self, rows: Images) -> dict[str, np.ndarray]:
        """The posterior means by latent site, each ``[N, Z]``, z_1 before z_2."""
        with self.in_use():
            arrays = encode_images(self.vae_, rows, self.seed_)
        found = {k.removeprefix("loc_"): v for k, v in arrays.items() if k.startswith("loc")}
        named = {"z" if name == "loc" else name: mean for name, mean in found.items()}
        return dict(sorted(named.items(), key=lambda item: (len(item[0]), item[0])))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Standardised rows that are new may lie outside of [0, 1], which Pyro's validation would
        refuse."""
        with pyro.validation_enabled(not self.standardize), torch.no_grad():
            yield
