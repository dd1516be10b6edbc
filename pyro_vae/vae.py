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

import warnings
from collections.abc import Sequence
from itertools import chain, count
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from . import guides, likelihoods, networks, priors, scales  # noqa: F401  (they fill the tables)
from .contracts import Guide, Likelihood, Network, Prior
from .errors import InputError
from .latents import LatentSize, Shape, check_layouts, is_latent, layouts, size_of
from .pairing import refuse_misfits
from .registry import GUIDES, LIKELIHOODS, NETWORKS, PRIORS, Choice, parse
from .settings import Settings

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = count(1)


def register(module: nn.Module, label: str) -> None:
    """Register a module's parameters with Pyro under a name that no other module has had.

    Pyro's parameter store is global and keeps the first tensor under each name. If a second module
    used the same name, it would compute with its own weights while the optimizer changed those of
    the first module. So every module, a copy included, gets its own number. If the store holds
    another tensor under the name nevertheless (a store that was loaded from a file), the module's
    own weights are used.
    """
    name = _names.get(module)
    if name is None:
        name = _names[module] = f"{label}_{next(_numbers)}"
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        full = f"{name}$$${key}"  # the form that pyro.module uses
        if pyro.param(full, parameter) is not parameter:
            warnings.warn(
                f"Pyro's parameter store held other values for {full}; the module's own are used "
                "(weights are loaded with load_state_dict)",
                stacklevel=3,
            )
            pyro.get_param_store()[full] = parameter
            pyro.param(full, parameter)


class ModelProgram(nn.Module):
    """The generative program: z ~ p(z), x ~ p(x | z), independently for each image.

    Args:
        shape: the shape of one observation, ``(C, H, W)``.
        prior: a module that meets the contract :class:`~pyro_vae.contracts.Prior`.
        likelihood: a module that meets the contract :class:`~pyro_vae.contracts.Likelihood`.
    """

    def __init__(self, shape: Shape, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.prior = prior
        self.likelihood = likelihood

    def forward(
        self, x: Tensor | None = None, context: Tensor | None = None, *, n: int = 1
    ) -> Tensor:
        """Score the images ``x`` ``[B, C, H, W]``, or draw new images if ``x`` is None.

        Args:
            x: the images to score.
            context: labels or covariates, ``[B, ...]``, for the parts that take them.
            n: how many images to draw if ``x`` and ``context`` are None.
        """
        register(self, "model")
        prior, likelihood = Prior.of(self.prior), Likelihood.of(self.likelihood)
        if context is not None:
            n = len(expect_context(context, prior, likelihood))
        if x is not None:
            n = len(expect(self.shape, x))
            if is_validation_enabled():
                likelihood.check(x)
        with pyro.plate("data", n, dim=-1):
            z = prior.sample_sites(context=context)  # [*, B, Z]
            return pyro.sample("x", likelihood.run(z, context=context), obs=x)  # [*, B, C, H, W]


class GuideProgram(nn.Module):
    """The inference program: z ~ q(z | x), independently for each image.

    Args:
        shape: the shape of one observation, ``(C, H, W)``.
        posterior: a module that meets the contract :class:`~pyro_vae.contracts.Guide`.
    """

    def __init__(self, shape: Shape, posterior: nn.Module) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.posterior = posterior

    def forward(self, x: Tensor, context: Tensor | None = None, *, n: int = 1) -> Any:
        """Draw z for the images ``x`` ``[B, C, H, W]``.

        Args:
            x: the images.
            context: labels or covariates, ``[B, ...]``, for a guide that takes them.
            n: ignored; it matches the model's signature.
        """
        register(self, "guide")
        with pyro.plate("data", len(expect(self.shape, x)), dim=-1):
            return Guide.of(self.posterior).sample_sites(x, context=context)  # [*, B, Z]


def expect(shape: Sequence[int], x: Tensor) -> Tensor:
    """``x`` if it is a batch of images of ``shape``; an InputError if it is not."""
    if not isinstance(x, Tensor) or tuple(x.shape[1:]) != tuple(shape) or x.dim() < 2:
        given = list(x.shape) if isinstance(x, Tensor) else repr(x)
        raise InputError(f"expected images of shape [B, {', '.join(map(str, shape))}], not {given}")
    if is_validation_enabled() and not ((x >= 0) & (x <= 1)).all():
        raise InputError(
            "pixels are numbers in [0, 1]; the given ones reach "
            f"from {x.min():.3g} to {x.max():.3g}"
        )
    return x


def expect_context(context: Tensor, *parts: Prior | Likelihood) -> Tensor:
    """``context`` if it is a tensor that one of the parts takes; an InputError if it is not."""
    if not isinstance(context, Tensor):
        raise InputError(
            f"the context is a tensor of labels or covariates [B, ...], not {context!r}; the "
            "number of images to draw is the keyword n"
        )
    if not any(part.takes_context() for part in parts):
        raise InputError(
            "a context was given, and neither the prior nor the likelihood takes one: their "
            "forward has no argument 'context'"
        )
    return context


class VAE(nn.Module):
    """A variational autoencoder made of a prior, a likelihood and a guide.

    Equation: log p(x) ≥ E_q(z|x)[log p(x | z)] - KL(q(z | x) || p(z)).

    Args:
        shape: ``(C, H, W)`` of an image.
        latent_size: number of latent dimensions Z. For several layers of latents, a list with the
            size of each, z_1 first, as :mod:`~pyro_vae.priors.hierarchy` explains.
        prior, likelihood, guide: a name of :data:`~pyro_vae.registry.PRIORS`,
            :data:`~pyro_vae.registry.LIKELIHOODS` or :data:`~pyro_vae.registry.GUIDES`, or
            anything else that :mod:`~pyro_vae.registry` accepts: your own class, a built module.
            The prior None is the one that fits the guide, for most guides the standard Normal.
        network: what encoder and decoder are made of, a name of
            :data:`~pyro_vae.registry.NETWORKS`.
        hidden: the network's layer sizes; None for the network's own default.

    Attributes:
        model, guide: the two Pyro programs.

    Raises:
        InputError: an unknown name, or parts that do not fit each other.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> vae = VAE((1, 28, 28), latent_size=2, guide="mean-field(scale='softplus')")
        >>> vae.sample(3).shape
        torch.Size([3, 1, 28, 28])
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_size: LatentSize = Settings.latent,
        *,
        prior: Any = Settings.prior,
        likelihood: Any = Settings.likelihood,
        guide: Any = Settings.guide,
        network: Any = Settings.network,
        hidden: Sequence[int] | None = Settings.hidden,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"an image's shape is (C, H, W), not {tuple(shape)}")
        c, h, w = shape
        self.shape = (c, h, w)
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
            "hidden": None if hidden is None else list(hidden),
        }
        handed: dict[str, Any] = {"shape": self.shape, "latent_layers": layers}
        unavailable = {}
        if one_vector:
            handed["latent_size"] = self.latent_size
        else:
            unavailable["latent_size"] = (
                f"is for one layer of latents that is a plain vector, and the latent sizes are "
                f"{latent_size}; take the guide bottom-up or ladder and the prior hierarchy"
            )
        net = Network.of(network_of(network, hidden, handed))
        handed["network"] = net
        p_x = likelihood_of(LIKELIHOODS.choose(likelihood), net, size_of(layers[0]), handed)
        q_z = GUIDES.choose(guide).make(unavailable=unavailable, encoder=net.encoder(), **handed)
        fitting = Guide.of(q_z).default_prior
        if prior is None:
            prior = self.config["prior"] = parse(fitting)[0]
        # A fitting prior that is named without options has the options that fit.
        spec = fitting if prior == parse(fitting)[0] else prior
        p_z = PRIORS.choose(spec).make(unavailable=unavailable, posterior=q_z, **handed)
        self.model = ModelProgram(self.shape, p_z, p_x)
        self.guide = GuideProgram(self.shape, q_z)
        Guide.of(q_z).attach(self.model)
        own = next(chain(q_z.parameters(), p_x.parameters()), torch.zeros(()))
        refuse_misfits(own.new_zeros(1, c, h, w), q_z, p_z)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Any:
        """The posterior q(z | x) of the images ``x``: a distribution, batch ``[B]``, event ``[Z]``.

        If there are several latent sites, a dict of distributions by name. Each is given a draw of
        the sites that it depends on.
        """
        sites = poutine.trace(self.guide).get_trace(x, context).nodes
        q = {name: site["fn"] for name, site in sites.items() if is_latent(site)}
        return q["z"] if q.keys() == {"z"} else q

    @torch.no_grad()
    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean image of p(x | z), with z drawn from the guide at ``x``; ``[B, C, H, W]``."""
        z = poutine.trace(self.guide).get_trace(x, context)
        # Without x, the site "x" gives its mean; with x it would give the observation back.
        return mean_image(poutine.replay(self.model, trace=z), len(x), context)

    @torch.no_grad()
    def sample(self, n: int = 1, context: Tensor | None = None) -> Tensor:
        """The mean images of p(x | z) for ``n`` draws of z from the prior; ``[n, C, H, W]``."""
        return mean_image(self.model, n, context)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int = 12) -> Tensor:
        """Mean images along the straight line from a draw of z for ``a`` to a draw for ``b``.

        Args:
            a, b: two images, ``[C, H, W]``.
            steps: images along the line, both ends included.

        Returns:
            ``[steps, C, H, W]``.
        """
        if steps < 2:
            raise InputError(f"a path has at least 2 steps, not {steps}")
        ends: Any = poutine.trace(self.guide).get_trace(torch.stack([a, b]))
        t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
        line = {}
        for name, site in ends.nodes.items():
            if is_latent(site):
                start, end = site["value"]  # each [Z]
                line[name] = torch.lerp(start, end, t[:, None])  # [steps, Z]
        return mean_image(poutine.condition(self.model, data=line), steps)


def network_of(spec: Any, hidden: Sequence[int] | None, handed: dict[str, Any]) -> Any:
    """The network that ``spec`` names, with the layer sizes ``hidden`` if they are not None."""
    choice = NETWORKS.choose(spec)
    if hidden is None:
        return choice.make(**handed)
    if "hidden" in choice.options or choice.built:
        raise InputError(
            f"hidden={list(hidden)} and the network {spec!r} both set the layer sizes; give one"
        )
    return Choice(choice.kind, choice.part, {**choice.options, "hidden": hidden}).make(**handed)


def likelihood_of(choice: Choice, net: Network, latent_size: int, handed: dict[str, Any]) -> Any:
    """The likelihood with a decoder that gives as many outputs as the likelihood needs.

    A likelihood says how many outputs it needs once it is made. So it is made with one output
    first, and made again if it needs another number.
    """
    if choice.built:
        return choice.part
    with torch.random.fork_rng(devices=[]):
        trial = choice.make(decoder=net.decoder(latent_size, 1), **handed)
    outputs = Likelihood.of(trial).outputs
    return choice.make(decoder=net.decoder(latent_size, outputs), **handed)


class AtMean(Messenger):
    """A Pyro handler that gives each named site the mean of its distribution, without a draw."""

    def __init__(self, *sites: str) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.sites:
            msg["value"] = msg["fn"].mean


def mean_image(model: Any, n: int, context: Tensor | None = None) -> Tensor:
    """Run a model for ``n`` images and give the mean of its site "x"; ``[n, C, H, W]``."""
    with AtMean("x"):
        return poutine.trace(model).get_trace(None, context, n=n).nodes["x"]["value"]
