"""A VAE: the model p(z) p(x | z) and the guide q(z | x) as two Pyro programs, and their use.

Both programs are torch modules and take the same arguments. They work wherever Pyro takes a model
and a guide:

    >>> vae = VAE((1, 28, 28), latent_size=20)
    >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    >>> loss = svi.step(x)                              # x: [B, 1, 28, 28]

With an optimizer of torch:

    >>> elbo = Trace_ELBO()(vae.model, vae.guide)
    >>> optimizer = torch.optim.Adam(elbo.parameters(), lr=1e-3)
    >>> elbo(x).backward()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, Self

import torch

from . import guides, likelihoods, networks, priors, scales  # noqa: F401  (they fill the tables)
from .building import (
    Moments,
    check_training,
    likelihood_of,
    moments_of,
    network_for,
    network_of,
    refuse_data,
    scaling_of,
    shows_own_units,
    start_likelihood,
    statistics,
)
from .conditions import CONDITIONED, Condition, condition_of, inferring, sizes_of
from .contracts import Guide, Likelihood, Network, Prior
from .data import Data, Images, Schema
from .errors import InputError
from .exporting import export
from .joining import Input, follow_moments, refuse_other_scaling
from .latents import LatentSize, check_layouts, layouts
from .naming import unique_name
from .networks.layers import Standardized, by_channel
from .pairing import fitting_likelihood, refuse_misfits
from .paths import Paths
from .programs import GuideProgram, ModelProgram
from .registry import GUIDES, LIKELIHOODS, PRIORS, parse
from .settings import Settings
from .spelling import spelled
from .storage.creating import save_vae
from .supports import bounds
from .targets import context_moments, in_units, refuse_scaling
from .words import either


class VAE(Paths):
    """A variational autoencoder made of a prior, a likelihood and a guide.

    Equation: log p(x) ≥ E_q(z|x)[log p(x | z)] - KL(q(z | x) || p(z)).

    Args:
        shape: the shape of one observation: ``(D,)`` of a vector, ``(C, L)`` of a signal or a
            spectrum, ``(C, H, W)`` of an image, ``(C, D, H, W)`` of a volume.
        latent_size: number of latent dimensions Z. For several layers of latents, a list with the
            size of each, z_1 first, as :mod:`~pyro_vae.priors.hierarchy` explains.
        prior, likelihood, guide: a name of :data:`~pyro_vae.registry.PRIORS`,
            :data:`~pyro_vae.registry.LIKELIHOODS` or :data:`~pyro_vae.registry.GUIDES`, or
            anything else that :mod:`~pyro_vae.registry` accepts: your own class, a built module.
            The prior None is the one that fits the guide, for most guides the standard Normal.
        network: what encoder and decoder are made of, a name of
            :data:`~pyro_vae.registry.NETWORKS`.
        hidden: the network's layer sizes; None for the network's own default.
        standardize: means and standard deviations of the channels of x, two lists of C numbers.
            The encoder then sees (x - mean) / standard deviation. None leaves x as it is. Each
            entry of a vector is a channel of its own. :meth:`for_data` measures them.
        scaling: the same for the parts that ask for them: the likelihoods of real numbers, whose
            decoder then gives x in these units, and the VampPrior. None is 0 and 1. Densities are
            those of x itself in any case.
        condition: what x is conditioned on: a number of classes or their names, for labels
            ``[B]``, or the shape of real covariates, ``(3,)`` for ``[B, 3]``. They are the argument
            ``context`` of both programs. A prior gets them if its ``forward`` has an argument
            ``context``.
        conditioned: which of likelihood and guide get them.
        holes: whether the encoder sees the mask of what was observed, beside x.
        context_scaling: means and standard deviations of the n covariates or targets, two lists.
            The parts get them in these units. None is 0 and 1. :meth:`for_data` measures them.

    Attributes:
        model, guide: the two Pyro programs.
        schema: the columns of the table that it was made for; None for other data.

    Raises:
        InputError: an unknown name, or parts that do not fit each other.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> vae = VAE((1, 28, 28), latent_size=2, guide="mean-field(scale='softplus')")
        >>> vae.sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    @spelled
    def __init__(
        self,
        shape: Sequence[int],
        latent_size: LatentSize = Settings.latent,
        *,
        prior: Any = Settings.prior,
        likelihood: Any = "bernoulli",
        guide: Any = Settings.guide,
        network: Any = Settings.network,
        hidden: Sequence[int] | None = Settings.hidden,
        standardize: Moments | None = None,
        scaling: Moments | None = None,
        condition: Any = None,
        conditioned: Sequence[str] = CONDITIONED,
        holes: bool = False,
        context_scaling: Moments | None = None,
    ) -> None:
        super().__init__()
        self.schema: Schema | None = None
        whole = isinstance(shape, Sequence) and all(type(n) is int and n > 0 for n in shape)
        if not whole or not shape:
            raise InputError(
                "the shape of an observation is whole numbers above 0, such as (7,) for vectors or "
                f"(C, H, W) for images, not {shape!r}"
            )
        self.shape = tuple(shape)
        if likelihood == Settings.likelihood:
            raise InputError(
                "the likelihood 'auto' is the one that fits the data, and a VAE made of a shape "
                "has none; give VAE.for_data(images), or name a likelihood such as bernoulli"
            )
        layers = layouts(latent_size)
        check_layouts(self.shape, layers)
        one_vector = len(layers) == len(layers[0]) == 1
        self.latent_size = layers[0][0] if one_vector else latent_size
        self.config = {
            "shape": list(shape),
            "latent_size": self.latent_size if one_vector else list(latent_size),  # type: ignore[arg-type]
            "prior": prior,
            "likelihood": likelihood,
            "guide": guide,
            "network": network,
            "hidden": list(hidden) if isinstance(hidden, Sequence) else hidden,
            "standardize": standardize,
            "scaling": scaling,
            "condition": list(condition) if isinstance(condition, Sequence) else condition,
            "conditioned": list(conditioned),
            "holes": holes,
            "context_scaling": context_scaling,
        }
        given = Condition.of(condition)
        refuse_scaling(context_scaling, given)
        to_likelihood, to_guide = sizes_of(given, conditioned)
        infers = inferring(GUIDES.choose(guide), given, conditioned)
        if given is not None and infers:  # the parts themselves pass the label on
            given, to_guide = replace(given, inferred=True), 0
        unavailable: dict[str, str] = {}
        handed: dict[str, Any] = {
            "shape": self.shape,
            "latent_layers": layers,
            "scaling": scaling_of(scaling, self.shape),
            "unavailable": unavailable,
        }
        if one_vector:
            handed["latent_size"] = self.latent_size
        else:
            fit = "one size" if infers else "the guide bottom-up or ladder, and the prior hierarchy"
            unavailable["latent_size"] = (
                f"is for one layer of latents that is a plain vector, not {latent_size}; take {fit}"
            )
        if given is None:
            unavailable["context_size"] = "is for a VAE with a condition; give " + either(
                'the VAE a condition, or the data labels as context, data.conditioned("label")',
                "--condition label",
            )
        else:
            units = scaling_of(context_scaling, (given.size,), "context_scaling")
            handed |= {"context_size": given.size, "context_scaling": units}
        net = Network.of(network_of(network, hidden, handed))
        handed["network"] = net
        p_x = likelihood_of(
            LIKELIHOODS.choose(likelihood), net, prod(layers[0]), handed, to_likelihood
        )
        seen = Input(Likelihood.checked(p_x), self.shape, holes, to_guide, net.placed)
        if not seen.plain:
            net = Network.of(network_for(seen, network, hidden, handed))
        encoder = net.encoder()
        if standardize is not None:
            moments = seen.moments(*moments_of("standardize", standardize, self.shape[0]))
            encoder = Standardized(encoder, seen.shape, *moments)
        q_z = GUIDES.choose(guide).make(encoder=encoder, **handed)
        posterior = Guide.checked(q_z)
        fitting = posterior.default_prior
        if prior is None:
            prior = self.config["prior"] = parse(fitting)[0]
        # A fitting prior that is named without options has the options that fit.
        spec = fitting if prior == parse(fitting)[0] else prior
        if not seen.plain:
            handed |= {"shape": seen.shape, "scaling": seen.scaling(standardize)}
        p_z = PRIORS.choose(spec).make(posterior=q_z, **handed)
        parts = (posterior, Prior.checked(p_z), Likelihood.checked(p_x))
        given = in_units(given, handed.get("context_scaling"), parts[2])
        self.model = ModelProgram(self.shape, p_z, p_x, given, to_likelihood > 0 and not infers)
        self.guide = GuideProgram(self.shape, q_z, None if seen.plain else seen, given)
        if standardize is not None:
            self.guide.blank = by_channel(standardize[0], self.shape)
            self.register_load_state_dict_pre_hook(refuse_other_scaling)
            self.register_load_state_dict_post_hook(partial(follow_moments, seen))
        taken = any(part.takes("context") for part in parts)
        if given is not None and not (taken or to_likelihood or to_guide):
            raise InputError(
                f"the VAE is conditioned on {given}, and no part gets it: conditioned names "
                "neither likelihood nor guide, and the prior has no argument 'context'"
            )
        self.model.context_taken = self.guide.context_taken = taken or given is not None
        self.model.bounds = self.guide.bounds = bounds(parts[2].support)
        for program, label in ((self.model, "model"), (self.guide, "guide")):
            unique_name(program, label)  # before a PyroModule looks up its parameters
        posterior.attach(self.model)
        own = next(chain(q_z.parameters(), p_x.parameters()), torch.zeros(()))
        refuse_misfits(own.new_zeros(2, *self.shape), self.model, self.guide)

    @classmethod
    def for_data(
        cls, images: Images | Data, latent_size: LatentSize = Settings.latent, **parts: Any
    ) -> Self:
        """A VAE that starts from what the training data are.

        The mean of its likelihood starts near their mean, as the IWAE paper sets the decoder's
        biases. Its encoder standardises each channel by their mean and standard deviation; entries
        of 0 and 1 stay as they are. A likelihood of real numbers measures in these units, except
        for numbers in [0, 1] such as pixels. Training then begins where a plain
        ``VAE(images.shape)`` needs epochs to arrive. If the images have a context, the VAE is
        conditioned on it (real covariates in such units, too); its encoder sees what is missing.

        Args:
            images: the training images or other observations, already binarised, or a Data with
                them.
            latent_size: as in the class.
            parts: the other arguments of the class. Without ``likelihood``, or if it is "auto", it
                is the one of :func:`~pyro_vae.pairing.fitting_likelihood`.

        Raises:
            InputError: as the class; no observations, or numbers that the likelihood does not
                score.

        Paper: Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519.

        Example:
            >>> data = load_data("digits")
            >>> vae = VAE.for_data(data.train, 8)
            >>> vae.config["likelihood"]
            'discretized-logistic'
        """
        images = check_training(images)
        for name in ("standardize", "scaling"):
            if name in parts:
                raise InputError(
                    "VAE.for_data measures the means and standard deviations of the images itself; "
                    f"{name} is an argument of VAE(shape)"
                )
        fitting = [Settings.likelihood] + ["columns"] * (images.schema is not None)
        if parts.get("likelihood", Settings.likelihood) in fitting:
            parts["likelihood"] = fitting_likelihood(images)[0]
        if "condition" not in parts:
            parts["condition"] = condition_of(images)
        parts.setdefault("holes", images.mask is not None)
        guide = GUIDES.choose(parts.get("guide", Settings.guide))
        context = None if parts["condition"] is None else images.context
        parts.setdefault("context_scaling", context_moments(context, guide))
        mean, moments = statistics(images)
        # Pixels of 0 and 1 need no other unit. Measured on mnist-5k: standardised, they end 0.4 to
        # 1.1 nats lower after 200 epochs.
        own = images.is_binary or shows_own_units(LIKELIHOODS.choose(parts["likelihood"]))
        parts["standardize"] = None if own else moments
        pixels = images.in_unit_interval and images.schema is None
        parts["scaling"] = None if pixels else moments
        vae = cls(images.shape, latent_size, **parts)
        vae.schema = images.schema
        if images.context is not None and vae.model.condition is not None:
            vae.model.condition.check(images.context)
        refuse_data(images, vae.model.likelihood)
        start_likelihood(vae.model.likelihood, mean)
        return vae

    def save(self, folder: str | Path) -> None:
        """Write the VAE to a new folder, which :func:`pyro_vae.load` and the commands read.

        The folder has the arguments of the VAE, its schema and the installed versions in
        ``config.json`` and the weights in ``checkpoint.safetensors``. It has no data and no
        training, so commands that need data ask for ``--data``, and training cannot be resumed.

        Raises:
            InputError: a part was given as an object and not by name, the folder holds a run
                already, or a weight is not a finite float32 number. Nothing is written then.

        Example:
            >>> vae = VAE((1, 28, 28), latent_size=2)
            >>> vae.save("saved")
        """
        table = {} if self.schema is None else {"schema": self.schema.to_json()}
        save_vae(Path(folder), self, {"vae": self.config, **table})

    def export(self, folder: str | Path) -> None:
        """Write encoder and decoder as programs that run without this library.

        See :func:`pyro_vae.exporting.export` for the files and the errors.
        """
        export(self, folder)
