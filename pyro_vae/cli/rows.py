"""Rows of a table that a run draws."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..memory import check_memory
from ..storage.writing import written
from ..words import counted
from .options import console

if TYPE_CHECKING:
    from ..vae import VAE


def sample_table(
    vae: VAE, data: Mapping[str, Any], n: int, vary: str | None, out: Path, given: str | None
) -> None:
    """Write rows drawn from p(x) as a table; the last column is their label or their target.

    Args:
        vae: the VAE.
        data: what the config of the run says of its data.
        n: the number of rows. Without ``given``, each class gets an equal number, at least 1. A VAE
            that infers labels or targets draws them.
        vary: the option of ``sample``, which is for pictures.
        out: the file.
        given: the class or the covariates of all rows.
    """
    import torch
    from pyro import poutine

    from ..data.schema import Schema
    from ..data.tables import write_table
    from ..labels import LABEL

    table = data.get("schema")
    if table is None:
        raise InputError(
            f"--out {str(out)!r} is a table, and the run was not trained on one; give a picture or "
            "a .npy file"
        )
    if vary is not None:
        raise InputError(
            "--vary is for pictures and .npy files, and --out is a table; give --out samples.npy"
        )
    condition = vae.model.condition
    classes = 0 if condition is None else condition.classes or 0
    context, each = vae.rows(given, n), ""
    if classes and given is None and not vae.infers_y:
        n = max(n // classes, 1) * classes
        each = f", {n // classes:,} of each of {classes} classes,"
    check_memory(16 * n * prod(vae.shape), counted(n, "row"))
    if each:
        context = vae.rows(torch.arange(classes).repeat_interleave(n // classes), n)
    with vae.in_use():
        sites: Any = poutine.trace(vae.model).get_trace(None, context, n=n).nodes
    schema = Schema.from_json(table)
    rows = schema.frame(sites["x"]["value"])
    if condition is not None and classes:
        labels = sites[LABEL]["value"].argmax(-1) if vae.infers_labels else context
        names = condition.names or range(classes)
        drawn = [names[label] for label in labels.tolist()]
        rows[data.get("label") or "label"] = schema.labels(drawn)
    if schema.target is not None and condition is not None:
        y = sites[LABEL]["value"] if vae.infers_y else context
        rows[schema.target] = y.flatten().tolist()
    with written(out) as part:
        write_table(rows, part, out.suffix.lower())
    console.print(f"{counted(n, 'row')} drawn from p(x){each} in {out}", soft_wrap=True)
