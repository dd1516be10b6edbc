"""What is checked before a run is trained further."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data import Data, StoredData, in_memory
from ..errors import InputError
from ..evaluation import elbo
from ..history import Epoch, Position
from ..sources import steps_of_epoch
from ..vae import VAE
from . import folder as files


def check_steps(path: Path, start: Position, images: int, batch_size: int) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` for more steps than an epoch has.

    Args:
        path: the file that says where training stands.
        start: where it stands.
        images: the number of training images.
        batch_size: images in a step.
    """
    most = steps_of_epoch(images, batch_size)
    if len(start.losses) > most:
        raise InputError(
            f"{str(path)!r} has {len(start.losses)} steps after epoch {start.epoch}, and an epoch "
            f"of these images has {most}"
        )


def check_sites(folder: Path, history: list[Epoch], vae: VAE, data: Data | StoredData) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless all epochs have the VAE's latent sites.

    The curves of the run are drawn when its training ends, and the numbers of a stranger's run
    would only fail there.
    """

    def kept(kl: Mapping[str, Any], units: Mapping[str, Any]) -> dict[str, int]:
        return {site: len(units.get(site, ())) for site in kl}

    device = next(vae.parameters()).device
    bound = elbo(vae.model, vae.guide, in_memory(data.train.first(1)).to(device))
    here = kept(bound.kl_of_sites, bound.kl_of_units)
    for record in history:
        if (then := kept(record.kl_of_sites, record.kl_of_units)) != here:
            raise InputError(
                f"epoch {record.epoch} in {str(folder / files.METRICS)!r} has the latent sites and "
                f"units {then!r:.60}, and those of the VAE are {here!r:.60}"
            )


def refuse_other_data(config: dict[str, Any], shape: list[int], allowed: bool) -> None:
    """Raise :class:`~pyro_vae.errors.InputError` unless other images may be trained on."""
    name = repr(config["data"]["name"])
    if not allowed:
        raise InputError(
            f"the images of {name}, their labels or their split are not those that the run was "
            "trained on; bring them back, or go on with them by --other-data (some test images "
            "may then have been trained on)"
        )
    if shape != config["vae"]["shape"]:
        raise InputError(
            f"the run was trained on images of shape {config['vae']['shape']}, and those of "
            f"{name} have {shape}"
        )
