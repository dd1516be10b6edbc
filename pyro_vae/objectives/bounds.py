"""The plain ELBO, with its KL estimated at the draws, in closed form, or summed out."""

from __future__ import annotations

from typing import Any

from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine import Trace

from ..errors import InputError
from .checks import infer
from .terms import Checked, Drawn, PerImage


class MonteCarlo(Drawn):
    """The ELBO with log q(z | x) - log p(z) at the draws: Pyro's ``Trace_ELBO``, for any guide.

    Equation: loss = Σ_b mean_k [log q(z_kb | x_b) - log p(x_b, z_kb)].

    Args:
        num_particles: draws of z for each image, K; all are made at once.

    Raises:
        InputError: at a call, latent sites, scales or masks of the model that are not the guide's.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    Example:
        >>> SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=MonteCarlo())
    """


class AnalyticKL(PerImage):
    """The ELBO with each KL in closed form, by torch's table of divergences.

    Equation: loss = Σ_b KL(q(z | x_b) || p(z)) - log p(x_b | z_b), as ``TraceMeanField_ELBO``.

    Where torch knows no closed form, ``TraceMeanField_ELBO`` goes on with an estimate and says
    nothing; this one refuses.

    Args:
        num_particles: draws of z for each image.

    Raises:
        InputError: there is no closed form for the pair of distributions at a site, or model and
            guide draw their sites in different orders.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, equation 7.

    Example:
        >>> SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=AnalyticKL())
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles, kl="analytic")


class ClosedForm(PerImage):
    """The ELBO with the KL of a Normal to the standard Normal written out by hand.

    Equation: loss = Σ_b -½ Σ_d (1 + log σ²_bd - μ²_bd - σ²_bd) - log p(x_b | z_b).

    Args:
        num_particles: draws of z for each image.

    Raises:
        InputError: a guide that is no mean-field Normal, or a prior that is no standard Normal.

    Paper: Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix B.

    Example:
        >>> SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=ClosedForm())
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles, kl="closed-form")


class Enumerate(Checked, TraceEnum_ELBO):
    """The ELBO with discrete latents summed out exactly, as by Pyro's ``TraceEnum_ELBO``.

    Equation: loss = Σ_b Σ_c q(c | x_b) [log q(c | x_b) - log p(x_b, c)]; continuous latents beside
    c are drawn.

    Every discrete site of the guide whose values can be counted is enumerated.

    Args:
        num_particles: draws of the continuous latents for each image.

    Raises:
        InputError: at a call, no discrete latent site, or latent sites, scales or masks of the
            model that are not the guide's.

    Paper: Kingma et al. 2014, Semi-supervised learning with deep generative models; in Pyro:
    Obermeyer et al. 2019, Tensor variable elimination for plated factor graphs.

    Example:
        >>> vae = VAE((1, 28, 28), 10, guide="categorical")
        >>> SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Enumerate())
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        self.strict_enumeration_warning = False  # an error, below

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        marked = config_enumerate(guide, default="parallel")
        return super()._get_traces(model, marked, args, kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        traces = super()._get_trace(model, guide, args, kwargs)
        sites = [site for trace in traces for site in trace.nodes.values()]
        if not any(infer(site, "enumerate") for site in sites):
            raise InputError(
                "there is no discrete latent to sum out; take the monte-carlo objective, or a "
                "guide such as categorical"
            )
        return traces
