"""A normalizing flow as the prior."""

from __future__ import annotations

from pyro.distributions import Distribution
from zuko.flows.spline import NSF

from ..contracts import Prior
from ..distributions import Flow
from ..options import at_least_one


class FlowPrior(Prior):
    """A neural spline flow: autoregressive spline maps from z to standard Normal noise.

    Equation: p(z) = N(f(z); 0, I) |det ∂f/∂z|. f is a chain of autoregressive rational-quadratic
    splines within [-5, 5] and the identity beyond.

    A density takes one pass through the networks. A draw takes one pass for each dimension of z.

    Args:
        latent_size: number of latent dimensions Z.
        layers: number of autoregressive maps.
        units: hidden units of each of the two layers of a map's network.

    Raises:
        InputError: fewer than 1 layer or unit.

    Paper: Chen et al. 2017, Variational lossy autoencoder, for a flow as the prior; Durkan et al.
    2019, Neural spline flows, for this flow.

    Example:
        >>> from pyro_vae.priors import FlowPrior
        >>> FlowPrior(20)().log_prob(torch.zeros(8, 20)).shape
        torch.Size([8])
    """

    def __init__(self, latent_size: int, layers: int = 3, units: int = 64) -> None:
        super().__init__()
        at_least_one("layers", layers)
        at_least_one("units", units)
        self.flow = NSF(latent_size, transforms=layers, hidden_features=(units, units))

    def forward(self) -> Distribution:
        return Flow(self.flow())
