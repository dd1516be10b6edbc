"""Evaluation: how good a model and a guide are, in nats per image.

- :mod:`.bound`: the evidence lower bound (ELBO) of each image;
- :mod:`.importance` and :mod:`.annealing`: estimates of log p(x) itself;
- :mod:`.trust`: whether an estimate can have an error;
- :mod:`.gaps`: how much of log p(x) the guide's family and its encoder lose;
- :mod:`.latents` and :mod:`.aggregate`: what the latents hold;
- :mod:`.scores`: scores of single images;
- :mod:`.calibration`: labels that a guide infers.

All of them take any pair of Pyro programs that meets :mod:`.scoring`.
"""

from .bound import Bound, elbo, standard_error

__all__ = ["Bound", "elbo", "standard_error"]
