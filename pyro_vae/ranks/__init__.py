"""One training in several processes, on one machine or on many.

``torchrun --nproc-per-node 2 -m pyro_vae train ...`` starts them. Each process takes its rows of
each batch, and a step is the step that one process takes with the whole batch:

- **Noise** (:mod:`~pyro_vae.ranks.draws`): it is a function of the seed and the step, so each
  process draws the noise of the whole batch and keeps the rows of its own images.
- **Batch normalization and objectives** that look across a batch get what they need from the other
  processes (:class:`.group.Ranks`), with gradients.
- **Gradients** are summed over the processes before the optimizer uses them, by one all-reduce
  (:mod:`.exchange`).
- What cannot be split is refused before the first step (:mod:`.refusing`, :mod:`.trial`).
- A process that dies ends the others, with a sentence that names it (:mod:`.alive`).

:func:`.fit` does so wherever ``torch.distributed`` is initialised; :func:`joined` initialises it.
"""

from .group import Ranks, current, loss_told
from .joining import joined

__all__ = ["Ranks", "current", "joined", "loss_told"]
