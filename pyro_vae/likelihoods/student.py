"""The Student-t likelihood: real numbers with outliers."""

from __future__ import annotations

from math import log

from pyro.distributions import Distribution
from torch import Tensor, nn

from ..distributions import FiniteStudentT
from ..latents import Shape
from ..options import number
from ..scales import SCALES
from .located import Located, Scaling, per_channel


class StudentT(Located):
    """Real numbers with outliers: a Student-t; scale and degrees of freedom learned by channel.

    Equation: log p(x | z) = Σ_i log t(x_i; ν_c, μ_i(z), s_c), c the channel of entry i,
    s = exp(½ log s²), ν = 2 + exp(log(ν - 2)). In a vector each entry is a channel of its own.

    For ν towards infinity this is a Normal. ν is between 2, where the variance becomes infinite,
    and about 1,100, where the difference to a Normal is below 0.001 nats.

    Args:
        decoder: network from ``[*, Z]`` to ``[*, *shape]``.
        shape: the shape of one observation.
        initial: s at the start, in units of x, or of the deviations in ``scaling``.
        df: ν at the start, above 2.
        scaling: see :class:`~pyro_vae.likelihoods.located.Located`.

    Raises:
        InputError: an initial s that is not above 0, or a ν that is not above 2.

    Paper: Takahashi et al. 2018, Student-t variational autoencoder for robust density estimation.

    Example:
        >>> from pyro_vae.likelihoods import StudentT
        >>> StudentT(MLP((7,)).decoder(2), (7,))(torch.zeros(8, 2)).mean.shape
        torch.Size([8, 7])
    """

    def __init__(
        self,
        decoder: nn.Module,
        shape: Shape,
        initial: float = 1.0,
        df: float = 10.0,
        scaling: Scaling = None,
    ) -> None:
        super().__init__(decoder, bounded=False, scaling=scaling)
        self.logvar = per_channel(2 * log(number("initial", initial, above=0)), shape)
        self.log_excess = per_channel(log(number("df", df, above=2) - 2), shape)
        self.scale = SCALES.build("log-variance")

    def forward(self, z: Tensor) -> Distribution:
        (raw,) = self.raw(z)
        # float32 loses the difference of the Gamma functions at very large ν.
        df = 2 + self.log_excess.clamp(max=7).exp()
        scale = self.unit * self.scale(self.logvar)
        return self.event(FiniteStudentT(df, self.loc(raw), scale).expand(raw.shape), z)
