"""The plain ELBO, with its KL estimated at the draws, in closed form or as an exact sum."""

from __future__ import annotations

from typing import Any

from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine import Trace

from ..errors import InputError
from ..latents import infer
from .terms import Checked, Drawn, PerImage


class MonteCarlo(Drawn):
    """The ELBO with log q(z | x) - log p(z) at the draws, for any guide: Pyro's ``Trace_ELBO``.

    Equation: loss = Σ_b mean_k [log q(z_kb | x_b) - log p(x_b, z_kb)].

    Args:
        num_particles: draws of z for each image, K. All draws are made in one pass.

    Raises:
        InputError: at a call, if the latent sites, the scales or the masks of the model differ
            from those of the guide.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> from pyro_vae.objectives import MonteCarlo
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=MonteCarlo())
        >>> loss = svi.step(x)  # nats, summed over the batch
    """


class AnalyticKL(PerImage):
    """The ELBO with the KL of each site in closed form, from torch's table of divergences.

    Equation: loss = Σ_b KL(q(z | x_b) || p(z)) - log p(x_b | z_b), as in ``TraceMeanField_ELBO``.

    If torch has no closed form for a pair of distributions, ``TraceMeanField_ELBO`` estimates the
    KL without a warning. This objective raises an error instead.

    Args:
        num_particles: draws of z for each image.

    Raises:
        InputError: at a call, if the pair of distributions at a site has no closed form, or if
            model and guide draw their sites in different orders.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, equation 7.

    Example:
        >>> from pyro_vae.objectives import AnalyticKL
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=AnalyticKL())
        >>> loss = svi.step(x)
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles, kl="analytic")


class ClosedForm(PerImage):
    """The ELBO with the KL of a diagonal Normal to the standard Normal as an explicit formula.

    Equation: loss = Σ_b -½ Σ_d (1 + log σ²_bd - μ²_bd - σ²_bd) - log p(x_b | z_b).

    Args:
        num_particles: draws of z for each image.

    Raises:
        InputError: at a call, if the guide is not a mean-field Normal or the prior is not a
            standard Normal.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix B.

    Example:
        >>> from pyro_vae.objectives import ClosedForm
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=ClosedForm())
        >>> loss = svi.step(x)
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles, kl="closed-form")


class Enumerate(Checked, TraceEnum_ELBO):
    """The ELBO with the exact sum over discrete latents, by Pyro's ``TraceEnum_ELBO``.

    Equation: loss = Σ_b Σ_c q(c | x_b) [log q(c | x_b) - log p(x_b, c)]. Continuous latents beside
    c are drawn.

    The sum covers each discrete site of the guide that has finitely many values.

    Args:
        num_particles: draws of the continuous latents for each image.

    Raises:
        InputError: at a call, if no latent site is discrete, or if the latent sites, the scales
            or the masks of the model differ from those of the guide.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models; in Pyro:
    Obermeyer et al. 2019, Tensor variable elimination for plated factor graphs.

    Example:
        >>> from pyro_vae.objectives import Enumerate
        >>> vae = VAE((1, 28, 28), 10, guide="categorical")
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Enumerate())
        >>> loss = svi.step(x)
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        # Pyro would only warn if no site is discrete; _get_trace raises an error.
        self.strict_enumeration_warning = False

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        marked = config_enumerate(guide, default="parallel")
        return super()._get_traces(model, marked, args, kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        traces = super()._get_trace(model, guide, args, kwargs)
        sites = [site for trace in traces for site in trace.nodes.values()]
        if not any(infer(site, "enumerate") for site in sites):
            raise InputError(
                "the guide has no discrete latent to sum out; take the monte-carlo objective, or "
                "the guide categorical"
            )
        return traces
