"""Compiled steps for any Pyro program: import the names below from here.

- :class:`CompiledELBO`: an ELBO whose loss and gradients are one compiled graph.
- :class:`CompiledSVI`: SVI whose whole step is compiled, from cutting the batch to the optimizer.
- :class:`CompileError`: raised for a program that one graph cannot represent.
- :data:`HANDLERS`: the lock that a thread holds while Pyro's handlers run.
- :class:`FusedOptim` and :func:`FusedAdam`: a single torch optimizer for all Pyro parameters.
- :func:`clear_subnormals`: keeps the steps of an Adam fast on a CPU.
- :func:`arguments`: the arguments of the programs for a batch.
- :func:`in_bfloat16` and :func:`without_rounding`: contexts in which layers are computed in
  bfloat16, and in the type of their tensors.

The files, in the order in which a step passes through them:

- ``svi``: the step with its optimizer, and CUDA graphs.
- ``calls``: how a batch becomes the arguments of the programs.
- ``elbo``: the ELBO; it finds the step that belongs to the programs and their arguments.
- ``surroundings``: the settings, handlers and modes around a call that change its numbers.
- ``inputs``: the arguments as inputs of a graph, and what of them a graph depends on.
- ``steps``: picks the graph that is still valid for a call, or makes a new one.
- ``bound``: a compiled graph with the tensors and the state for which it is valid.
- ``tracing``: runs a program once and records its tensor operations as a graph.
- ``refusing``: while tracing, raises where Python reads a tensor's value.
- ``checking``: adds Pyro's validation of the sites to the graph.
- ``reading``, with ``origins`` and ``names``: records what the programs read and call while they
  run.
- ``watching``, with ``kinds`` and ``places``: finds the Python state that the programs read, and
  compares it between two calls.
- ``restoring``: finds what the programs wrote while they were traced, and sets it back.
- ``proving``: runs a new graph once beside the programs.
- ``precision``: a context with layers in bfloat16.
- ``floats``: decides whether floats among the arguments are inputs or constants.
- ``private``: the private names of torch and Pyro that are used here.
- ``optim``: the optimizers.

This package imports only ``errors`` from the rest of the library, so it can be copied into another
project together with that file.
"""

from .calls import arguments
from .elbo import CompiledELBO
from .optim import FusedAdam, FusedOptim, clear_subnormals
from .precision import in_bfloat16, without_rounding
from .refusing import CompileError
from .steps import LOCK as HANDLERS
from .svi import CompiledSVI

__all__ = [
    "HANDLERS",
    "CompileError",
    "CompiledELBO",
    "CompiledSVI",
    "FusedAdam",
    "FusedOptim",
    "arguments",
    "clear_subnormals",
    "in_bfloat16",
    "without_rounding",
]
