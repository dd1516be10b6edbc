"""The contracts: what each kind of part must offer, what it may offer, and what it is handed.

A VAE is made of four parts: a prior p(z), a likelihood p(x | z), a guide q(z | x) and an objective.
Networks serve the likelihood (decoder) and the guide (encoder). Each kind has one base class here.
Its methods and attributes are the contract, and their bodies are the defaults.

**A part of your own.** Derive from the base class of its kind and write ``forward``. Override
something else only where the default does not fit. A plain ``nn.Module`` whose ``forward`` meets
the contract works everywhere, too: it then has all defaults (:meth:`~pyro_vae.parts.Part.of`).

**What a constructor is handed.** A part asks by the names of its constructor's arguments
(:mod:`~pyro_vae.registry`):

============  ============================================================================
network       ``shape``, ``latent_layers``
likelihood    ``shape``, ``latent_size`` or ``latent_layers``, ``decoder``, ``network``
guide         ``shape``, ``latent_size`` or ``latent_layers``, ``encoder``, ``network``
prior         ``shape``, ``latent_size`` or ``latent_layers``, ``network``, ``posterior``
all of these  ``scaling``, ``context_size``, ``context_scaling``
objective     ``data_size``, ``labelled``
============  ============================================================================

- ``shape``: the shape of one observation x: ``(D,)`` of a vector, ``(C, L)`` of a signal,
  ``(C, H, W)`` of an image, ``(C, D, H, W)`` of a volume.
- ``scaling``: the mean and the standard deviation of each channel of the data, two tensors that
  broadcast over x; None where they are not known, and for images in [0, 1].
- ``latent_size``: the number of latent dimensions Z. A part that asks for it serves one latent
  vector, and is refused where the VAE has several layers of latents.
- ``latent_layers``: the layers of latents, z_1 first, each ``(n,)`` or ``(c, h, w)``. A part that
  asks for it serves any number of layers.
- ``encoder``, ``decoder``: networks that are already built; ``network`` makes more of them.
- ``posterior``: the guide's part, for a prior that is made of it.
- ``data_size``, ``labelled``: the number of training images, and of those with a known label.
- ``context_size``: the number of classes or of covariates, in a VAE with a condition.
- ``context_scaling``: mean and standard deviation of each covariate or real target, or None.

**What a forward is handed.** A prior's ``forward()`` takes nothing, a likelihood's ``forward(z)``
the latents, a guide's ``forward(x)`` the observations. What comes with the observations beside x
stands in :class:`~pyro_vae.parts.Given`. A ``forward`` is handed each field of it that it has an
argument for. So one with an argument ``context`` gets the c of ``model(x, c)`` and ``guide(x, c)``.

**Missing entries.** ``model(x, c, mask=m)`` and ``guide(x, c, mask=m)`` take a mask of what was
observed; NaN in x makes one. A likelihood need not know of it: only the observed entries are
scored. A guide sees 0 in the holes, or the mean where the encoder standardises, and the mask if its
``forward`` has an argument ``mask``.

**A condition, and holes that are seen.** No part need know of them. A guide's ``forward(x)`` is
then handed the observations with the mask and the context joined (:class:`.joining.Input`),
and a likelihood's ``forward(z)`` the latents with the context joined. The ``shape`` of the
encoder's network and of a prior is that of the joined tensor, and the latent size of a likelihood
that asks for it is that of the joined vector. An argument ``context`` gets labels as one-of-K.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from pyro.distributions import Distribution
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.distributions import constraints

from .errors import InputError
from .latents import Layout, sample_site
from .parts import (
    ATTACHED,
    NOTHING,
    Borrowed,
    ContractError,
    Given,
    Part,
    check_distribution,
    refuse_ignored,
)
from .registry import GUIDES, LIKELIHOODS, OBJECTIVES, PRIORS
from .supports import is_boolean, place, refuse_outside

__all__ = [
    "ATTACHED",
    "NOTHING",
    "Borrowed",
    "ContractError",
    "Given",
    "Guide",
    "Likelihood",
    "Network",
    "Objective",
    "Part",
    "Prior",
]

for table in (PRIORS, LIKELIHOODS, GUIDES):
    table.base = nn.Module
OBJECTIVES.base = ELBO


class Latent(Part):
    """What priors and guides have in common: they sample the latent sites."""

    def sample_z(self, *args: Any, given: Given) -> Any:
        """Sample one site "z" from the distribution that ``forward`` gives."""
        fn: Any = self.run(*args, given=given)
        check_distribution(self, fn, "z (a part of several latent sites overrides sample_sites)")
        if len(fn.event_shape) != 1:
            raise ContractError(
                f"the forward of {self.name()} gives a distribution with the event shape "
                f"{list(fn.event_shape)}; z is one vector, [Z]: call .to_event(1) on independent "
                "dimensions"
            )
        return sample_site("z", fn)

    @classmethod
    def has_one_site(cls) -> bool:
        """Whether z is the only latent site: whether ``sample_sites`` is the default."""
        owner = next(base for base in cls.__mro__ if "sample_sites" in vars(base))
        return owner in (Prior, Guide)


class Prior(Latent):
    """A prior p(z).

    ``forward()`` gives a Pyro distribution over z. Its batch shape is empty, or ``[B]`` if it
    depends on the context; its event shape is ``[Z]``.
    """

    optional = ("sample_sites",)

    def forward(self) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} has no forward; see sample_sites")

    def sample_sites(self, given: Given = NOTHING) -> Tensor:
        """Sample the latent sites by ``pyro.sample``, inside the plate of images.

        The default samples the one site "z" from ``forward()``. A prior of several sites overrides
        this method and needs no ``forward``.

        Returns:
            what the decoder gets, ``[*, Z]``.
        """
        return self.sample_z(given=given)


class Guide(Latent):
    """A guide q(z | x).

    ``forward(x)`` takes a batch ``[B, *shape]`` and gives a Pyro distribution over z with batch
    shape ``[B]`` and event shape ``[Z]``.
    """

    optional = ("sample_sites", "default_prior", "attach", "infers_labels", "infers_targets")

    infers_labels: bool = False
    infers_targets: bool = False
    """Whether it infers labels, or real targets, that are not known: -1 or NaN in the context."""
    default_prior: str = "standard-normal"
    """The name, with options, of the prior that fits. A VAE without a given prior takes it."""

    def attach(self, model: Any) -> None:
        """Called once by the VAE with its model, which has a ``prior`` and a ``likelihood``. A
        guide that needs the model keeps it, see :class:`~pyro_vae.parts.Borrowed`."""

    def forward(self, x: Tensor) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} has no forward; see sample_sites")

    def sample_sites(self, x: Tensor, given: Given = NOTHING) -> Any:
        """Sample the latent sites by ``pyro.sample``, inside the plate of images.

        The default samples the one site "z" from ``forward(x)``. A guide of several sites
        overrides this method and needs no ``forward``.

        Returns:
            the values; only the user's own code reads them.
        """
        return self.sample_z(x, given=given)


class Likelihood(Part):
    """A likelihood p(x | z).

    ``forward(z)`` takes latents ``[*, Z]`` and gives a Pyro distribution over observations with
    batch shape ``[*]`` and event shape ``shape``, so that its ``log_prob`` is in nats per
    observation (per image).

    Args:
        decoder: network from ``[*, Z]`` to ``outputs`` numbers for each entry of x, for images
            ``[*, outputs·C, H, W]``.
    """

    optional = ("outputs", "support", "binary", "levels", "check", "start", "seen")

    outputs: int = 1
    """How many numbers the decoder gives for each entry of x."""
    support: Any = constraints.real
    """The values that an entry of x can have, a constraint of ``torch.distributions``. The default
    leaves it to the support of the distribution that ``forward`` gives."""
    levels: int | None = None
    """The number of values that an entry of x can have, if ``log_prob`` is the probability of a
    value; None if it is a density."""

    def __init__(self, decoder: nn.Module | None = None) -> None:
        super().__init__()
        if decoder is not None:
            self.decoder = decoder

    @property
    def binary(self) -> bool:
        """Whether each entry of x must be 0 or 1."""
        return is_boolean(self.support)

    def raw(self, z: Tensor) -> tuple[Tensor, ...]:
        """The decoder's output at ``z`` ``[*, Z]``, in ``outputs`` parts ``[*, *shape]``."""
        raw = self.decoder(z)
        first = z.dim() - 1  # the axis of the channels
        return raw.chunk(self.outputs, first)

    def event(self, fn: Any, z: Tensor) -> Distribution:
        """A distribution of entries ``[*, *shape]`` as one of observations, with batch ``[*]`` as
        ``z`` has it. The entries are independent given z."""
        return fn.to_event(len(fn.batch_shape) - z.dim() + 1)

    def check(self, x: Tensor) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` if ``x`` ``[B, *shape]`` cannot be scored.

        The default checks ``support`` and ``levels``. Pyro's validation switches the check on.
        """
        name = self.name()
        if self.binary:
            ok = (x == 0) | (x == 1)
            if not ok.all():
                raise InputError(
                    f"the {name} likelihood scores pixels that are 0 or 1, and {place(ok, x)}; "
                    "binarize them (dynamic, static or threshold) or take another likelihood, such "
                    "as continuous-bernoulli for numbers in [0, 1]"
                )
        elif self.levels is not None:
            top = self.levels - 1
            ok = (top * x - (top * x).round()).abs() < 1e-3
            if not ok.all():
                raise InputError(
                    f"the {name} likelihood scores pixels of {self.levels} levels, k/{top}, and "
                    f"{place(ok, x)}; take the continuous-bernoulli or a normal likelihood"
                )
        else:
            refuse_outside(x, self.support, f"the {name} likelihood")

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The observations as an encoder should see them, ``[B, *]``; the default is x itself.

        A likelihood of categories shows each of them as one-of-K. What an observation without holes
        has in an entry does not depend on other entries.

        Args:
            x: ``[B, *shape]``. In its holes is 0, or the mean where the encoder standardises.
            mask: bool, True where x was observed; None if all entries were.
        """
        return x

    def start(self, mean: Tensor) -> None:
        """Set the decoder so that the mean of p(x | z) starts near ``mean``, of the shape of x.

        :meth:`~pyro_vae.vae.VAE.for_data` calls it with the mean of the training data. The
        default leaves the decoder as it is.
        """

    def forward(self, z: Tensor) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} has no forward")


class Network:
    """What makes encoders and decoders. It contains no probability, and is not a module itself.

    The leading dimensions ``*`` of what flows through a network are free: a batch, or samples
    times a batch.
    """

    placed: bool = False
    """Whether the encoder keeps the places of x. A mask and a context then come as further
    channels; for other networks x, mask and context are one vector."""

    @staticmethod
    def of(network: Any) -> Network:
        """``network`` itself if it derives from this contract; else a view with the defaults.

        Raises:
            InputError: a plain class that has ``between``, which would be ignored.
        """
        if isinstance(network, Network):
            return network
        refuse_ignored(network, "Network", ["between", "placed"])
        for name in ("encoder", "decoder"):
            if name not in dir(network):
                raise ContractError(
                    f"the network {type(network).__name__} has no method {name}; a network has "
                    "encoder() and decoder(latent_size, outputs)"
                )
        return PlainNetwork(network)

    def encoder(self) -> nn.Module:
        """A module from x ``[*, *shape]`` to features ``[*, F]``.

        The module says F in an attribute ``out_features``, as ``nn.Linear`` does. If the features
        have places, as those of an image, an attribute ``out_layout`` says ``(c, h, w)``.
        """
        raise InputError(f"the network {self.name()} has no method encoder()")

    def decoder(self, latent_size: int, outputs: int = 1) -> nn.Module:
        """A module from latents ``[*, latent_size]`` to ``outputs`` numbers for each entry of x,
        for images ``[*, outputs·C, H, W]``."""
        raise InputError(f"the network {self.name()} has no method decoder(latent_size, outputs)")

    def between(self, sources: Sequence[Layout], target: Layout) -> nn.Module:
        """For several layers of latents: a module from vectors side by side ``[*, ΣF]`` to the
        features ``[*, F]`` from which one layer of latents is computed.

        Args:
            sources: the layout of each vector, ``(n,)`` or, for images, ``(c, h, w)``.
            target: the layout of the layer of latents.
        """
        raise InputError(
            f"the network {self.name()} makes no network between two layers of latents; derive it "
            "from pyro_vae.Network and give it a method between(sources, target), or take mlp"
        )

    def name(self) -> str:
        """The name of the class, for error messages."""
        return type(self).__name__


class PlainNetwork(Network):
    """A view of a plain class that has ``encoder`` and ``decoder``, with the other defaults."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def encoder(self) -> nn.Module:
        return self.network.encoder()

    def decoder(self, latent_size: int, outputs: int = 1) -> nn.Module:
        if outputs == 1 and "outputs" not in inspect.signature(self.network.decoder).parameters:
            return self.network.decoder(latent_size)
        return self.network.decoder(latent_size, outputs)

    def name(self) -> str:
        return type(self.network).__name__


class Objective(ELBO):
    """What SVI minimises: a Pyro ``ELBO``.

    ``loss_and_grads(model, guide, *args)`` gives the loss summed over the batch, in nats. Any ELBO
    of Pyro works as an objective. This base class adds a schedule.
    """

    def advance(self, epoch: float) -> None:
        """Called by ``fit`` before each step with the number of epochs that are done.

        Override it for an objective that changes with training. Numbers that a compiled step
        reads must be tensors that are filled in place. The default does nothing, and then many
        compiled steps are one call.
        """

    @property
    def scheduled(self) -> bool:
        """Whether this objective changes with training."""
        return type(self).advance is not Objective.advance or "advance" in vars(self)

    @staticmethod
    def schedule_of(elbo: ELBO) -> Callable[[float], None] | None:
        """The ``advance`` of an ELBO that changes with training; None for all others.

        Raises:
            InputError: an ELBO that has a method ``advance`` and does not derive from this
                contract, so that the method would be ignored.
        """
        if isinstance(elbo, Objective):
            return elbo.advance if elbo.scheduled else None
        refuse_ignored(elbo, "Objective", ["advance"])
        return None
