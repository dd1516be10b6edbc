"""A model and a guide as ``fit`` trains them: any two Pyro programs, and their parameters.

The parameters are those of the modules that the programs are or are methods of, and those that the
programs make or register by ``pyro.param`` and ``pyro.module``, which live in Pyro's store.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoGuide
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from .batch import Batch
from .compiling import HANDLERS
from .errors import InputError
from .latents import Sites, is_latent
from .modules import buffers_restored, mode, module_of, modules_of
from .naming import register
from .noise import STEP, seed_noise

WHAT = "fit takes a VAE, or a torch module with the Pyro programs model and guide, or both programs"


class Pair:
    """A model and a guide, with the parameters that training changes.

    Args:
        model, guide: Pyro programs: functions, modules, methods of modules, autoguides.
        module: the module that holds both; None for the modules that the programs are.

    Attributes:
        stored: the parameters that trials have used, by their names in Pyro's store.
        used: the ids of these parameters.
        full: the rows of all data, if the plate of the rows says that a batch has some of them, so
            that a batch's loss stands for all rows; None if it does not.

    Raises:
        InputError: a program that cannot be called.
    """

    def __init__(self, model: Any, guide: Any, module: nn.Module | None = None) -> None:
        for name, program in (("model", model), ("guide", guide)):
            if not callable(program) or isinstance(program, type):
                raise InputError(f"the {name} is a Pyro program, not {program!r:.100}")
        self.model, self.guide = model, guide
        self.modules = modules_of((model, guide)) if module is None else [module]
        self.one_module = module is not None
        self.stored: dict[str, Tensor] = {}
        self.used: set[int] = set()
        self.full: int | None = None

    @classmethod
    def of(cls, *given: Any) -> Pair:
        """The pair that ``fit`` was given: ``(vae,)`` or ``(model, guide)``.

        Raises:
            InputError: something else.
        """
        if len(given) == 2:
            return cls(*given)
        (vae,) = given
        programs = [getattr(vae, name, None) for name in ("model", "guide")]
        if isinstance(vae, type) or None in programs:
            raise InputError(f"{WHAT}, not a {type(vae).__name__}")
        model, guide = programs
        return cls(model, guide, vae if isinstance(vae, nn.Module) else None)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters by name, each once; those of Pyro's store without their constraints."""
        seen: set[int] = set()
        several = len(self.modules) > 1
        for label, module in zip(("model.", "guide."), self.modules, strict=False):
            for name, p in module.named_parameters():
                if id(p) not in seen:
                    seen.add(id(p))
                    yield (label if several else "") + name, p
        yield from ((name, p) for name, p in self.stored.items() if id(p) not in seen)

    def parameters(self) -> list[Tensor]:
        """All parameters."""
        return [p for _, p in self.named_parameters()]

    def buffers(self) -> list[Tensor]:
        """All buffers of the modules."""
        return [buffer for module in self.modules for buffer in module.buffers()]

    def first_weight(self) -> Tensor | None:
        """The first parameter of real numbers, which says device and type; None for none yet."""
        return next((p for p in self.parameters() if p.is_floating_point()), None)

    def copies(self) -> list[tuple[Tensor, Tensor]]:
        """Each parameter and buffer with a copy of its values."""
        return [(t, t.detach().clone()) for t in (*self.parameters(), *self.buffers())]

    def train(self, training: bool) -> None:
        """Put the modules into training or evaluation mode."""
        for module in self.modules:
            module.train(training)

    @contextmanager
    def buffers_kept(self) -> Iterator[None]:
        """Put the modules' buffers back afterwards."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.enter_context(buffers_restored(module))
            yield

    @contextmanager
    def tried(self, training: bool, begins: bool, batch: Batch, seed: int) -> Iterator[None]:
        """Run the programs in this context as a trial: random numbers, buffers and modes are
        afterwards as before. The parameters of Pyro's store that they use are noted.

        Args:
            training: whether the modules are in training mode.
            begins: whether training begins, so that parameters may be made.
            batch: what the programs are run on.
            seed: of the values of parameters that are made.
        """
        watch = Parameters(begins)
        with (
            HANDLERS,
            torch.random.fork_rng(),
            mode(training, *self.modules),
            self.buffers_kept(),
            watch,
        ):
            seed_noise(batch.device, seed, STEP, 0)
            yield
        self.stored |= watch.found
        self.used |= {id(p) for p in watch.found.values()}

    def register(self) -> None:
        """Let Pyro know the parameters of modules if it knows no parameter at all after a trial.

        Its ELBOs compute gradients only if the programs have a parameter that Pyro knows.
        """
        if not self.used:
            self.model, self.guide = (
                partial(registered, program, label) if module_of(program) is not None else program
                for program, label in ((self.model, "model"), (self.guide, "guide"))
            )

    def sites(self, batch: Batch) -> Sites:
        """The latent sites of both programs by name, from one run of each."""
        q = poutine.trace(self.guide).get_trace(*batch.args, **batch.named)
        model = poutine.replay(self.model, trace=q)
        p = poutine.trace(model).get_trace(*batch.args, **batch.named)
        nodes: dict[str, Any] = {**p.nodes, **q.nodes}
        frames = [f for site in p.nodes.values() for f in site.get("cond_indep_stack", ())]
        whole = [f.full_size for f in frames if f.size == len(batch) and f.full_size is not None]
        self.full = max((size for size in whole if size > len(batch)), default=None)
        return {name: site for name, site in nodes.items() if is_latent(site)}

    def refuse_outside(self) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` for a parameter outside the module that holds
        both programs, because whoever saves the module would lose it."""
        inside = {id(p) for module in self.modules for p in module.parameters()}
        for name, p in self.stored.items() if self.one_module else ():
            if id(p) not in inside:
                raise InputError(
                    f"the parameter {name!r} of pyro.param belongs to no module of this VAE, so it "
                    "would not be saved with it; make it an nn.Parameter of a part, or give "
                    "fit(vae.model, vae.guide, data), which trains it in Pyro's store"
                )

    def take_new(self, optimizer: Any, epoch: int, known: set[str]) -> set[str]:
        """Take in the parameters that were made in an epoch, which only an optimizer of Pyro can.

        Args:
            optimizer: the optimizer.
            epoch: the number of the epoch.
            known: the names in Pyro's store before it.

        Returns:
            the names in the store.

        Raises:
            InputError: a parameter that is not trained.
        """
        store = pyro.get_param_store()
        for name in store.keys() - known:
            p: Any = store._params[name]
            if isinstance(optimizer, PyroOptim):
                self.stored[name] = p
            elif p.grad is not None:
                raise InputError(
                    f"the parameter {name!r} was made in epoch {epoch}, after the optimizer, so it "
                    "is not trained; let the programs make all parameters at each call, or give an "
                    "optimizer of pyro.optim"
                )
        return set(store.keys())

    def refuse_batches(self, size: int, rows: int | None) -> None:
        """Raise :class:`~pyro_vae.errors.InputError` for an autoguide with parameters for each row
        of a batch, if there are more batches than one.

        Args:
            size: the rows of a batch.
            rows: the rows of an epoch; None if they are not known.
        """
        for guide in self.autoguides():
            if size == rows or guide.create_plates is not None:
                continue
            for frame in guide._prototype_frames.values():
                if frame.size == size == (frame.full_size or frame.size):
                    whole = "one batch of all rows" if rows is None else f"batch_size={rows}"
                    raise InputError(
                        f"the guide {type(guide).__name__} has parameters for each of the {size} "
                        f"rows of a batch (plate {frame.name!r}), and the batches hold other rows; "
                        f"give {whole}, or a guide that computes from the data"
                    )

    def autoguides(self) -> list[Any]:
        """Pyro's automatic guides among the modules."""
        every = (each for module in self.modules for each in module.modules())
        return [each for each in every if isinstance(each, AutoGuide)]

    def warn_of_old(self) -> None:
        """Warn of parameters in Pyro's store under the name of a guide that has not run yet."""
        for guide in self.autoguides():
            name = guide._pyro_name
            old = [each for each in pyro.get_param_store() if each.startswith(f"{name}.")]
            if guide.prototype_trace is None and old:
                warnings.warn(
                    f"Pyro's store holds the parameter {old[0]!r} of an earlier guide, and the new "
                    "guide of the same name begins there; pyro.clear_param_store() forgets it",
                    stacklevel=5,  # 1 is this function, 2 begun, 3 fit, 4 its decorator
                )


def registered(program: Any, label: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a program after its module is registered in Pyro's store, under a name of its own."""
    module: Any = module_of(program)
    register(module, label)
    return program(*args, **kwargs)


class Parameters(Messenger):
    """A handler that notes the parameters that programs use, without their constraints.

    Args:
        begins: whether training begins, so that parameters may be made.

    Raises:
        InputError: a parameter that is not there although training goes on, or a module whose name
            is taken in Pyro's store, so that its own weights would not be trained.
    """

    def __init__(self, begins: bool) -> None:
        super().__init__()
        self.begins = begins
        self.found: dict[str, Tensor] = {}

    def _pyro_param(self, msg: Any) -> None:
        name, given = msg["name"], initial(msg)
        there = name in pyro.get_param_store() or isinstance(given, nn.Parameter)
        if not there and not self.begins:
            raise InputError(
                f"start is not the beginning, and the parameter {name!r} is not in Pyro's store, "
                "so training cannot go on where it was; load the store that was saved with it by "
                "pyro.get_param_store().load(file)"
            )

    def _pyro_post_param(self, msg: Any) -> None:
        name, given, value = msg["name"], initial(msg), msg["value"].unconstrained()
        real = msg["kwargs"].get("constraint", constraints.real) is constraints.real
        if real and isinstance(given, nn.Parameter) and value is not given:
            raise InputError(
                f"the name {name!r} in Pyro's store belongs to another module, which would be "
                "trained in place of this one; call pyro.clear_param_store() first, or give the "
                "modules other names"
            )
        self.found[name] = value


def initial(msg: Any) -> Any:
    """The second argument of a call of ``pyro.param``: the first value of the parameter."""
    args: Mapping[int, Any] = dict(enumerate(msg["args"]))
    return args.get(1)
