"""Run a step that failed again, and find the first site and the first parameter that went wrong."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, constraints

from ..averaging import AVERAGE, TRAINED, exchange
from ..batch import Batch
from ..data import in_memory
from ..errors import InputError, TrainingError
from ..history import Callback, Position
from ..loop import Loop
from ..pair import Pair
from ..settings import TrainingOptions
from ..sources import epochs_done
from ..training import begun, pays
from ..vae import VAE
from .failing import Failure
from .setup import Run


def replay(run: Run, failure: Failure) -> list[str]:
    """Train from the checkpoint to the step that failed, and look into that step.

    Args:
        run: the run as it stands at its checkpoint.
        failure: the step that failed.

    Returns:
        Sentences: the step, the first site, and the first parameter that went wrong.
    """
    if not run.start.epoch < failure.epoch <= run.training["epochs"]:
        raise InputError(
            f"epoch {failure.epoch} is said to have failed, and the run's checkpoint is at epoch "
            f"{run.start.epoch} of {run.training['epochs']}; resume the run, and it is written anew"
        )
    options, position = TrainingOptions(**run.training), run.start
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # it is said below
            loop = begun(Pair.of(run.vae), run.measured_data(), options, run.optimizer, position)
            walk = Walk(loop, run.vae)
            steps = (loop.source.steps or 0) * options.epochs
            loop.choose_step(run.compiled, pays(steps), Callback())
            loop.together = 1  # to keep the weights before each step
            walk.keep(position)
            while position.epoch < failure.epoch:
                loss = loop.run(position, walk)
                loop.measure(position.epoch + 1, loss, 0.0)
                position = Position(position.epoch + 1)
                walk.keep(position)
    except WeightLost:
        what = "a weight became NaN or infinite"
    except TrainingError as error:
        what = str(error).partition(" in epoch")[0]
    else:
        return [f"Nothing is wrong up to the end of epoch {failure.epoch} when it is run again."]
    return [walk.title(what), *walk.look()]


class WeightLost(Exception):
    """A weight is NaN or infinite after a step."""


class Walk(Callback):
    """Keeps the weights and the optimizer's state from before each step.

    Args:
        loop: the loop that takes the steps.
        vae: the VAE that it trains.
    """

    def __init__(self, loop: Loop, vae: VAE) -> None:
        self.loop, self.vae = loop, vae
        self.optimizer: Any = loop.optimizer

    def keep(self, position: Position) -> None:
        """Keep the state at ``position``."""
        self.position = position
        self.moments = copy.deepcopy(self.optimizer.state_dict())
        self.weights = {name: v.clone() for name, v in self.vae.state_dict().items()}

    def on_step(self, images: int, position: Position) -> None:
        if not all(p.isfinite().all() for p in self.vae.parameters()):
            raise WeightLost
        self.keep(position)

    @property
    def whole(self) -> bool:
        """Whether all steps of the epoch went well, so that the measurement after it failed."""
        return len(self.position.losses) == self.loop.source.steps

    def title(self, what: str) -> str:
        """Where it happened."""
        epoch, step = self.position.epoch + 1, len(self.position.losses) + 1
        if self.whole:
            where = self.loop.measures.measured_on
            return f"Epoch {epoch}, the {where} images after its last step: {what}."
        return f"Epoch {epoch}, step {step} of {self.loop.source.steps}: {what}."

    def look(self) -> list[str]:
        """Run the step eagerly from the weights before it; sentences about what goes wrong."""
        loop, vae, done = self.loop, self.vae, len(self.position.losses)
        vae.load_state_dict(self.weights)
        self.optimizer.load_state_dict(self.moments)
        loop.number = self.position.epoch * (loop.source.steps or 0) + done
        seed, epoch = loop.options.seed, self.position.epoch + 1
        # What was kept before the first step of an epoch has the averages of the weights, if there
        # are averages; what was kept after a step has the weights that the steps change.
        exchange(self.optimizer, *((AVERAGE, TRAINED) if self.whole else (TRAINED, AVERAGE)))
        sites = Sites()
        with loop.stepping(), loop.steering.on(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pyro's warning of a NaN
            if self.whole:
                loop.before_step()
                with sites, torch.no_grad():
                    few = in_memory(loop.measures.rows.first(500)).to(loop.device)
                    rows = few.rows(slice(None))
                    loop.elbo.loss(vae.model, vae.guide, *rows.args, **rows.named)
                return [sites.found or "Each site is finite for the first of these images."]
            if loop.advance is not None:
                loop.advance(epochs_done(loop.source, self.position))
            rows = Batch.of(loop.source.batch(next(loop.source.epoch(seed, epoch, done, 1))))
            loop.before_step()  # after the order of the epoch was drawn
            with sites, loop.precision():
                loop.elbo.loss_and_grads(vae.model, vae.guide, *rows.args, **rows.named)
            loss = sites.found or "Each site has valid parameters, a finite value and density."
            gradients = {name: p.grad for name, p in vae.named_parameters() if p.grad is not None}
            if lost := first_lost(gradients):
                return [loss, f"First parameter: {lost} has a gradient that is not finite."]
            self.optimizer.step()
        if lost := first_lost(dict(vae.named_parameters())):
            why = "is not finite after the optimizer's step, and all gradients are finite"
            return [loss, f"First parameter: {lost} {why}."]
        return [loss, "Each gradient and each parameter is finite when the step runs eagerly."]


def first_lost(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor that is not finite; "" for none."""
    return next((name for name, t in tensors.items() if not t.isfinite().all()), "")


class Sites(Messenger):
    """A handler that notes the first site that goes wrong, as a sentence in ``found``."""

    def __init__(self) -> None:
        super().__init__()
        self.found = ""
        self.seen: Counter[str] = Counter()

    @torch.no_grad()
    def _pyro_post_sample(self, msg: Any) -> None:
        if self.found or site_is_subsample(msg):
            return
        # A latent site is drawn by the guide, and then scored by the model.
        of_model = msg["is_observed"] or self.seen[msg["name"]] % 2
        self.seen[msg["name"]] += 1
        fn = msg["fn"]
        while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
            fn = fn.base_dist
        wrong = [
            (f"its {name}", value)
            for name, value in vars(fn).items()
            if isinstance(value, Tensor) and not valid(fn, name, value)
        ]
        if not wrong and not msg["value"].isfinite().all():
            wrong = [("its value", msg["value"])]
        if not wrong and not (density := msg["fn"].log_prob(msg["value"])).isfinite().all():
            wrong = [("its log-probability", density)]
        if wrong:
            what, value = wrong[0]
            low, high = value.min().item(), value.max().item()
            same = f"{low:g}" == f"{high:g}"
            span = f"is {low:g} in all entries" if same else f"lies between {low:g} and {high:g}"
            self.found = (
                f"First site: {msg['name']!r} of the {'model' if of_model else 'guide'}, "
                f"{type(fn).__name__}; {what} {span}."
            )


def valid(fn: Any, name: str, value: Tensor) -> bool:
    """Whether a parameter of a distribution is finite and allowed."""
    if not value.isfinite().all():
        return False
    try:
        constraint = fn.arg_constraints.get(name, constraints.real)
    except NotImplementedError:  # the user's own distribution
        return True
    return constraints.is_dependent(constraint) or bool(constraint.check(value).all())
