"""Recipes: models of the literature as settings of the four parts.

A recipe has no code of its own. It names the prior, the likelihood, the guide or the objective of a
paper, and the latent size or the network if the paper's result depends on them. All other settings
keep their defaults. On the command line it is ``--recipe NAME``. In Python:

    >>> from pyro_vae.recipes import RECIPES
    >>> recipe = RECIPES["iaf-vae"]
    >>> vae = VAE((1, 28, 28), **recipe.parts)
    >>> history = fit(vae, data, objective=recipe.objective)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """A paper, and the settings that it changes.

    Args:
        paper: authors, year, title.
        settings: the value of each changed option: ``prior``, ``likelihood``, ``guide``,
            ``objective``, ``latent``, ``network``; ``condition`` or ``known_labels``, if the data
            needs labels: ``data.conditioned("label")`` or ``data.labelled()``.
    """

    paper: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Any]:
        """The settings that are arguments of ``VAE(...)``."""
        named, apart = {"latent": "latent_size"}, ("objective", "condition", "known_labels")
        return {named.get(k, k): v for k, v in self.settings.items() if k not in apart}

    @property
    def objective(self) -> str:
        """The name of the objective, with options, for ``fit``."""
        return self.settings.get("objective", "monte-carlo")

    @property
    def line(self) -> str:
        """The settings and the paper as one line, for ``pyro-vae list recipes``."""
        changed = ", ".join(f"{part} {spec}" for part, spec in self.settings.items())
        return f"{changed or 'the defaults'} · {self.paper}"


RECIPES: dict[str, Recipe] = {
    "vae": Recipe("Kingma & Welling 2014, Auto-Encoding Variational Bayes"),
    # Another weight of the KL
    "beta-vae": Recipe(
        "Higgins et al. 2017, β-VAE: Learning basic visual concepts",
        {"objective": "beta(beta=4)"},
    ),
    "annealed": Recipe(
        "Bowman et al. 2016, Generating sentences from a continuous space",
        {"objective": "annealed(epochs=10)"},
    ),
    "cyclical": Recipe(
        "Fu et al. 2019, Cyclical annealing schedule",
        {"objective": "cyclical(epochs=10)"},
    ),
    "capacity": Recipe(
        "Burgess et al. 2018, Understanding disentangling in β-VAE",
        {"objective": "capacity(nats=25, gamma=1000, epochs=50)"},
    ),
    "free-bits": Recipe(
        "Kingma et al. 2016, Improving variational inference with inverse autoregressive flow",
        {"objective": "free-bits(nats=0.25, group_size=1)"},
    ),
    # Several draws of z, or gradients with less noise
    "iwae": Recipe(
        "Burda, Grosse & Salakhutdinov 2016, Importance weighted autoencoders",
        {"objective": "iwae(num_particles=5)"},
    ),
    "miwae": Recipe(
        "Rainforth et al. 2018, Tighter variational bounds are not necessarily better",
        {"objective": "miwae(num_particles=8, outer=8)"},
    ),
    "stl": Recipe(
        "Roeder, Wu & Duvenaud 2017, Sticking the landing",
        {"objective": "stl"},
    ),
    "dreg": Recipe(
        "Tucker et al. 2019, Doubly reparameterized gradient estimators",
        {"objective": "dreg(num_particles=5)"},
    ),
    # A term for the latents of the whole batch
    "beta-tc": Recipe(
        "Chen et al. 2018, Isolating sources of disentanglement",
        {"objective": "beta-tc(beta=6)"},
    ),
    "infovae": Recipe(
        "Zhao, Song & Ermon 2019, InfoVAE",
        {"objective": "infovae(alpha=0, lambda_=100)"},
    ),
    # With σ = 0.1, the squared error has the factor 1 / 2σ² = 50. So 500 is the paper's λ = 10.
    "wae-rbf": Recipe(
        "Tolstikhin et al. 2018, Wasserstein auto-encoders",
        {"likelihood": "normal", "objective": "infovae(alpha=1, lambda_=500)"},
    ),
    "wae-imq": Recipe(
        "Tolstikhin et al. 2018, Wasserstein auto-encoders",
        {"likelihood": "normal", "objective": "infovae(alpha=1, lambda_=500, kernel='imq')"},
    ),
    "dip-vae": Recipe(
        "Kumar, Sattigeri & Balakrishnan 2018, Disentangled latent concepts",
        {"objective": "dip(offdiagonal=10, diagonal=100)"},
    ),
    "dip-vae-2": Recipe(
        "Kumar, Sattigeri & Balakrishnan 2018, Disentangled latent concepts",
        {"objective": "dip(offdiagonal=10, diagonal=10, variant=2)"},
    ),
    # Another prior
    "vamp": Recipe("Tomczak & Welling 2018, VAE with a VampPrior", {"prior": "vamp"}),
    "mixture-prior": Recipe(
        "Tomczak & Welling 2018, VAE with a VampPrior, its mixture of Gaussians",
        {"prior": "mixture"},
    ),
    "flow-prior": Recipe("Chen et al. 2017, Variational lossy autoencoder", {"prior": "flow"}),
    # Another guide
    "planar": Recipe(
        "Rezende & Mohamed 2015, Variational inference with normalizing flows",
        {"guide": "planar"},
    ),
    "iaf-vae": Recipe(
        "Kingma et al. 2016, Improving variational inference with inverse autoregressive flow",
        {"guide": "iaf"},
    ),
    "spline": Recipe("Durkan et al. 2019, Neural spline flows", {"guide": "spline"}),
    "semi-amortized": Recipe(
        "Kim et al. 2018, Semi-amortized variational autoencoders",
        {"guide": "semi-amortized"},
    ),
    "categorical": Recipe(
        "Kingma et al. 2014, Semi-supervised learning with deep generative models",
        {"guide": "categorical", "objective": "enumerate"},
    ),
    "gumbel": Recipe(
        "Jang, Gu & Poole 2017, Categorical reparameterization with Gumbel-softmax",
        {"guide": "gumbel-softmax"},
    ),
    "joint": Recipe(
        "Dupont 2018, Learning disentangled joint continuous and discrete representations",
        {
            "guide": "joint(categories=10)",
            "objective": "capacity(nats={'z': 5, 'c': 2.3}, gamma=30, epochs=50)",
        },
    ),
    # Labels
    "cvae": Recipe(
        "Sohn, Lee & Yan 2015, Learning structured output representation, conditional VAE",
        {"condition": "label", "prior": "conditional"},
    ),
    "m2": Recipe(
        "Kingma et al. 2014, Semi-supervised learning with deep generative models, model M2",
        {"known_labels": "all", "guide": "labelled", "objective": "m2"},
    ),
    "m2-real": Recipe(
        "Kingma et al. 2014, Semi-supervised learning, M2 with a real target for the classes",
        {"known_labels": "all", "guide": "targeted", "objective": "m2-real"},
    ),
    # Several layers of latents
    "hvae": Recipe(
        "Burda, Grosse & Salakhutdinov 2016, Importance weighted autoencoders, its two layers",
        {"latent": (100, 50), "guide": "bottom-up"},
    ),
    "lvae": Recipe(
        "Sønderby et al. 2016, Ladder variational autoencoders",
        {
            "latent": (64, 32, 16),
            "guide": "ladder",
            "network": "mlp(activation='leaky-relu', batch_norm=True)",
            "objective": "annealed(epochs=50)",
        },
    ),
    "lvae-vamp": Recipe(
        "Tomczak & Welling 2018, VAE with a VampPrior, on the top layer of a ladder",
        {
            "latent": (40, 40),
            "guide": "ladder",
            "prior": "hierarchy(skip=True, top='vamp')",
            "network": "mlp(activation='leaky-relu', batch_norm=True)",
            "objective": "annealed(epochs=50)",
        },
    ),
    # Another likelihood
    "continuous-bernoulli": Recipe(
        "Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli",
        {"likelihood": "continuous-bernoulli"},
    ),
    "sigma-vae": Recipe(
        "Rybkin, Daniilidis & Levine 2021, Calibrated decoders",
        {"likelihood": "normal-learned"},
    ),
    # Missing entries
    "miwae-table": Recipe(
        "Mattei & Frellsen 2019, MIWAE, for tables with holes",
        {"latent": 10, "objective": "iwae(num_particles=5)"},
    ),
    "not-miwae": Recipe(
        "Ipsen, Mattei & Frellsen 2021, Deep generative modelling with missing not at random data",
        {"likelihood": "self-masking", "objective": "iwae(num_particles=20)"},
    ),
    "logcosh": Recipe(
        "Chen et al. 2019, Log hyperbolic cosine loss improves variational auto-encoder",
        {"likelihood": "log-cosh"},
    ),
}
