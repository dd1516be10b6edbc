"""Send a run to the Hugging Face hub, and get one from there. It needs ``huggingface_hub``."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..storage import checkpoint
from ..storage.creating import CONFIG, write_config
from ..storage.writing import written
from ..words import first_line
from . import card, older
from .folder import METRICS, load_run, read_history

FILES = (CONFIG, checkpoint.NAME, older.WEIGHTS, METRICS, card.NAME)
"""The files that are sent and received, with the pictures of the card."""


def push(folder: Path, name: str, *, private: bool = False, trust: bool = False) -> str:
    """Send a run to the hub; the address of its page.

    The weights, the config, the metrics, the card and its pictures are sent. The state of the
    optimizer stays: it has twice the size of the weights, and only ``--resume`` needs it. Of a
    path to the user's own images, only the last name is sent.

    Args:
        folder: the run folder.
        name: the repository, ``user/name``. It is made if it is not there.
        private: whether a new repository is private.
        trust: as for :func:`~pyro_vae.runs.folder.load_run`.

    Raises:
        InputError: ``huggingface_hub`` is missing, the folder is not a run folder, or the name is
            not one of a repository.
        ConnectionError: the hub cannot be reached or refuses.
    """
    hub = library()
    with tempfile.TemporaryDirectory() as stage:
        collect(folder, Path(stage), trust)
        with told(hub, name):
            api = hub.HfApi()
            made = api.create_repo(name, private=private or None, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=stage, commit_message="pyro-vae push")
            return str(made)


def collect(folder: Path, stage: Path, trust: bool) -> None:
    """Put what is sent into the folder ``stage``."""
    vae, config = load_run(folder, trust=trust)
    history = read_history(folder) if (folder / METRICS).is_file() else []
    for name in (*FILES, *card.pictures(folder)):
        path = folder / name
        if path.is_symlink() or path.parent.is_symlink():
            raise InputError(f"{str(path)!r} is a link and is not sent; put the file itself there")
        if path.is_file():
            (stage / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, stage / name)
    state = checkpoint.read(folder)
    if state is not None:
        checkpoint.save(stage, replace(state, optimizer={}))
    if "data" in config:
        stored = json.loads((stage / CONFIG).read_bytes())
        stored["data"]["name"] = Path(config["data"]["name"]).name
        write_config(stage, stored)
    if not (stage / card.NAME).is_file():
        card.write_card(stage, card.card_of(folder, vae, config, history), replace=False)


def pull(name: str, out: Path, *, trust: bool = False) -> None:
    """Get a run from the hub into a new folder, and check it as the run of a stranger.

    Files that a run does not have are not received.

    Args:
        name: the repository, ``user/name``.
        out: the folder to make.
        trust: as for :func:`~pyro_vae.runs.folder.load_run`.

    Raises:
        InputError: ``huggingface_hub`` is missing, ``out`` is there already, there is no such
            repository, or it does not hold a run. The folder is then not made.
        ConnectionError: the hub cannot be reached or refuses.
    """
    hub = library()
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{str(out)!r} is there already; name a new folder")
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        with told(hub, name):
            api = hub.HfApi()
            info = api.model_info(name)
            files = [each.rfilename for each in info.siblings or []]
            wanted = [file for file in files if file in FILES or card.is_picture(file)]
            if CONFIG not in wanted:
                raise InputError(f"{name!r} is not a run of pyro-vae, because it lacks {CONFIG}")
            for file in wanted:
                api.hf_hub_download(name, file, revision=info.sha, local_dir=stage)
        try:
            load_run(stage, trust=trust)
            if METRICS in wanted:
                read_history(stage)
        except InputError as error:  # it names the temporary folder
            raise InputError(str(error).replace(folder, name)) from None
        with written(out) as part:
            for file in wanted:
                (part / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(stage / file, part / file)


def library() -> Any:
    """The module ``huggingface_hub``."""
    try:
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise InputError(
            "push and pull need a package that is not installed; install it with: pip install "
            "huggingface_hub"
        ) from None
    huggingface_hub.logging.set_verbosity_error()  # an error is told in one sentence
    return huggingface_hub


@contextmanager
def told(hub: Any, name: str) -> Iterator[None]:
    """Tell an error of the hub in one sentence."""
    errors = hub.errors
    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(
            f"a repository of the hub is named like user/name, not {name!r:.100} "
            f"({first_line(error):.200})"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"the hub has no repository {name!r}, or it is private and you are not logged in"
        ) from None
    except (
        errors.HTTPError,
        errors.LocalEntryNotFoundError,
        errors.LocalTokenNotFoundError,
        errors.OfflineModeIsEnabled,
        ValueError,  # an answer that is not JSON
    ) as error:
        raise ConnectionError(
            f"the hub cannot be reached or refuses {name!r} ({first_line(error):.300})"
        ) from None
