"""A VAE: two Pyro programs, the model p(z) p(x | z) and the guide q(z | x), and what one does
with them.

Both programs are torch modules and take the same arguments, so that they go wherever Pyro takes a
model and a guide:

    >>> vae = VAE((1, 28, 28), latent_size=20)
    >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    >>> svi.step(x)                                     # x: [B, 1, 28, 28]

or, with an optimizer of torch's own:

    >>> elbo = Trace_ELBO()(vae.model, vae.guide)
    >>> optimizer = torch.optim.Adam(elbo.parameters(), lr=1e-3)
    >>> elbo(x).backward()
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, count
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from .guides import GUIDES
from .likelihoods import LIKELIHOODS, Likelihood
from .networks import NETWORKS, Latent, Shape, divide, layers
from .parts import InputError, build, make, resolve
from .priors import PRIORS
from .sites import fitting_prior, is_latent, latents, refuse_misfits

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = count(1)


def register(module: nn.Module, label: str) -> None:
    """Give a module's parameters to Pyro under a name that no other module has had.

    Pyro's parameter store is global and keeps the first tensor that a name is given: a second
    module under the same name would compute with its own weights while the optimizer moves the
    first one's. So each module, copies included, gets a number of its own; and should the store
    hold another tensor all the same (a store loaded from a file), the module's own weights stand.
    """
    name = _names.get(module)
    if name is None:
        name = _names[module] = f"{label}_{next(_numbers)}"
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        full = f"{name}$$${key}"  # as pyro.module writes it
        if pyro.param(full, parameter) is not parameter:
            warnings.warn(
                f"Pyro's parameter store held other values for {full}; the module's own are used "
                "(weights are loaded with load_state_dict)",
                stacklevel=3,
            )
            pyro.get_param_store()[full] = parameter
            pyro.param(full, parameter)


class Model(nn.Module):
    """The generative program: z ~ p(z), x ~ p(x | z), for each image on its own.

    Args:
        shape: ``(C, H, W)`` of an image.
        prior: module; ``forward()`` gives a distribution over z.
        likelihood: module; ``forward(z)`` gives a distribution over x.
    """

    likelihood: Likelihood

    def __init__(self, shape: Shape, prior: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.prior = prior
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """Score the images ``x`` ``[B, C, H, W]``, or draw ``n`` new ones if ``x`` is None."""
        register(self, "model")
        if x is not None:
            n = len(expect(self.shape, x))
            if is_validation_enabled():
                self.likelihood.check(x)
        with pyro.plate("data", n, dim=-1):
            z = latents(self.prior())  # [*, B, Z]
            return pyro.sample("x", self.likelihood(z), obs=x)  # [*, B, C, H, W]


class Guide(nn.Module):
    """The inference program: z ~ q(z | x), for each image on its own.

    Args:
        shape: ``(C, H, W)`` of an image.
        posterior: module; ``forward(x)`` gives a distribution over z.
    """

    def __init__(self, shape: Shape, posterior: nn.Module) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.posterior = posterior

    def forward(self, x: Tensor, n: int = 1) -> Any:
        """Draw z for the images ``x`` ``[B, C, H, W]``; ``n`` is there for the model alone."""
        register(self, "guide")
        with pyro.plate("data", len(expect(self.shape, x)), dim=-1):
            return latents(self.posterior(x))  # [*, B, Z]


def expect(shape: Sequence[int], x: Tensor) -> Tensor:
    """``x`` if it is a batch of images of ``shape``; an :class:`InputError` if not."""
    if x is None or x.dim() != 4 or tuple(x.shape[1:]) != tuple(shape):
        given = "None" if x is None else list(x.shape)
        raise InputError(f"expected images of shape [B, {', '.join(map(str, shape))}], not {given}")
    if is_validation_enabled() and not ((x >= 0) & (x <= 1)).all():
        raise InputError(
            "pixels are numbers in [0, 1]; the given ones reach "
            f"from {x.min():.3g} to {x.max():.3g}"
        )
    return x


class VAE(nn.Module):
    """A variational autoencoder made of a prior, a likelihood and a guide.

    Equation: log p(x) ≥ E_q(z|x)[log p(x | z)] - KL(q(z | x) || p(z)).

    Args:
        shape: ``(C, H, W)`` of an image.
        latent_size: number of latent dimensions Z; or a list of one for each layer of a hierarchy,
            as :mod:`~pyro_vae.hierarchy` has it.
        prior, likelihood, guide: a name of :data:`~pyro_vae.priors.PRIORS`,
            :data:`~pyro_vae.likelihoods.LIKELIHOODS`, :data:`~pyro_vae.guides.GUIDES`, or
            whatever else :mod:`~pyro_vae.parts` takes: a class of your own, a built module. A
            prior of None is the one that fits the guide: the standard Normal for most.
        network: what encoder and decoder are made of, from
            :data:`~pyro_vae.networks.NETWORKS`.
        hidden: the network's layer sizes; None leaves the network's own.

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
        latent_size: Latent = 20,
        *,
        prior: Any = None,
        likelihood: Any = "bernoulli",
        guide: Any = "mean-field",
        network: Any = "mlp",
        hidden: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"an image's shape is (C, H, W), not {tuple(shape)}")
        c, h, w = shape
        self.shape = (c, h, w)
        every = layers(latent_size)
        divide(self.shape, every)
        if len(every) == len(every[0]) == 1:  # one vector
            ((latent_size,),) = every
        self.latent_size = latent_size
        self.config = {
            "shape": list(shape),
            "latent_size": latent_size if isinstance(latent_size, int) else list(latent_size),
            "prior": prior,
            "likelihood": likelihood,
            "guide": guide,
            "network": network,
            "hidden": None if hidden is None else list(hidden),
        }
        sizes = {"shape": (c, h, w), "latent_size": latent_size}
        widths = {} if hidden is None else {"hidden": hidden}
        net = build("network", network, NETWORKS, **sizes, **widths)
        row, options = resolve("likelihood", likelihood, LIKELIHOODS)
        decoder = net.decoder(prod(every[0]), getattr(row, "outputs", 1))
        p_x = make("likelihood", row, options, **sizes, decoder=decoder)
        sizes["network"] = net
        row, options = resolve("guide", guide, GUIDES)
        layered("guide", row, options, latent_size, "bottom-up or ladder")
        q_z = make("guide", row, options, **sizes, encoder=net.encoder())
        if prior is None:
            prior = self.config["prior"] = fitting_prior(q_z)
        row, options = resolve("prior", prior, PRIORS)
        layered("prior", row, options, latent_size, "hierarchy")
        p_z = make("prior", row, options, **sizes, posterior=q_z)
        self.model = Model((c, h, w), p_z, p_x)
        self.guide = Guide((c, h, w), q_z)
        if hasattr(q_z, "attach"):
            q_z.attach(self.model)
        own = next(chain(q_z.parameters(), p_x.parameters()), torch.zeros(()))
        refuse_misfits(own.new_zeros(1, c, h, w), q_z, p_z)

    def encode(self, x: Tensor) -> Any:
        """The posterior q(z | x) of the images ``x``: a distribution, batch ``[B]``, event ``[Z]``.

        Where the latent has several sites, a dict of them by name, each at a draw of those that
        it depends on.
        """
        sites = poutine.trace(self.guide).get_trace(x).nodes
        q = {name: site["fn"] for name, site in sites.items() if is_latent(site)}
        return q["z"] if q.keys() == {"z"} else q

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image of p(x | z), z drawn from the guide at ``x``; ``[B, C, H, W]``."""
        z = poutine.trace(self.guide).get_trace(x)
        # Given x itself, the model would hand back what it observes.
        return mean_image(poutine.replay(self.model, trace=z), len(x))

    @torch.no_grad()
    def sample(self, n: int = 1) -> Tensor:
        """The mean images of p(x | z) for ``n`` draws of z from the prior; ``[n, C, H, W]``."""
        return mean_image(self.model, n)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int = 12) -> Tensor:
        """Mean images along the straight line from ``a``'s z to ``b``'s z, both drawn from the
        guide.

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


def layered(kind: str, row: Any, options: Any, latent_size: Latent, fitting: str) -> None:
    """Raise :class:`~pyro_vae.parts.InputError` for a class that takes one vector as latent, if the
    latent is another."""
    if options is not None and not (isinstance(latent_size, int) or getattr(row, "layered", False)):
        raise InputError(
            f"the {kind} {row.__name__} is for one layer of latents that is a plain vector, and "
            f"the latent sizes are {latent_size}; take {fitting}"
        )


def mean_image(model: Any, n: int) -> Tensor:
    """Run a model for ``n`` images and give the mean of its site "x"; ``[n, C, H, W]``."""
    return poutine.trace(model).get_trace(None, n).nodes["x"]["fn"].mean
