"""Callbacks that send a training to TensorBoard, to MLflow or to Weights & Biases.

Each sends the configuration once, the numbers of each epoch, and pictures every few epochs. Each
needs a package of its own, which is imported when training starts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Images
from ..registry import lookup
from ..spelling import spelled
from ..vae import VAE
from .base import Tracker, flat


class TensorBoard(Tracker):
    """Write the event files of TensorBoard.

    Args:
        folder: the folder of the event files.
        vae, images, options: as for :class:`Tracker`.

    Example:
        >>> from pyro_vae.trackers import TensorBoard
        >>> data = load_data("digits", binarize="threshold")
        >>> vae = VAE(data.shape, latent_size=2)
        >>> tracker = TensorBoard("logs", vae, data.test.first(12))
        >>> history = fit(vae, data, epochs=1, callback=tracker)

        ``tensorboard --logdir logs`` shows it.
    """

    name, modules, packages = "TensorBoard", ("tensorboard",), "tensorboard"

    @spelled
    def __init__(
        self,
        folder: str | Path,
        vae: VAE | None = None,
        images: Images | None = None,
        **options: Any,
    ) -> None:
        super().__init__(vae, images, **options)
        self.folder = folder

    @classmethod
    def of_run(cls, folder: Path, **options: Any) -> Tracker:
        return cls(folder / "tensorboard", **options)

    def begin(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder))
        text = json.dumps(self.config, indent=2, default=str)
        self.writer.add_text("configuration", f"```json\n{text}\n```")
        self.writer.flush()

    def numbers(self, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def picture(self, epoch: int, name: str, pixels: np.ndarray) -> None:
        self.writer.add_image(name, pixels, epoch, dataformats="HWC")
        self.writer.flush()

    def end(self, completed: bool) -> None:
        self.writer.close()


class MLflow(Tracker):
    """Send a training to MLflow, as one run of an experiment.

    Args:
        vae, images, options: as for :class:`Tracker`.
        experiment: the experiment. It is created if it is not there.
        run: the name of the run; None lets MLflow name it.
        uri: the tracking store, such as ``sqlite:///mlflow.db``; None for the one that MLflow uses,
            which ``MLFLOW_TRACKING_URI`` names.
    """

    name = "MLflow"
    modules = ("alembic", "mlflow", "sqlalchemy")
    packages = "alembic mlflow-skinny sqlalchemy"

    @spelled
    def __init__(
        self,
        vae: VAE | None = None,
        images: Images | None = None,
        *,
        experiment: str = "pyro-vae",
        run: str | None = None,
        uri: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(vae, images, **options)
        self.experiment, self.run, self.uri = experiment, run, uri

    @classmethod
    def of_run(cls, folder: Path, **options: Any) -> Tracker:
        return cls(run=folder.name, **options)

    def begin(self) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        # A client of its own, because mlflow.start_run() changes the state of the whole process.
        self.client = MlflowClient(self.uri)
        found = self.client.get_experiment_by_name(self.experiment)
        place = self.client.create_experiment(self.experiment) if not found else found.experiment_id
        self.id = self.client.create_run(place, run_name=self.run).info.run_id
        params = [Param(name, str(value)[:6000]) for name, value in flat(self.config).items()]
        self.client.log_batch(self.id, params=params[:100])  # MLflow takes no more of them
        self.client.log_text(self.id, json.dumps(self.config, indent=2, default=str), "config.json")

    def numbers(self, epoch: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, epoch) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def picture(self, epoch: int, name: str, pixels: np.ndarray) -> None:
        self.client.log_image(self.id, pixels, f"{name}/epoch_{epoch:04d}.png")

    def end(self, completed: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if completed else "KILLED")


class WandB(Tracker):
    """Send a training to Weights & Biases, as one run of a project.

    Args:
        vae, images, options: as for :class:`Tracker`.
        project: the project.
        run: the name of the run; None lets Weights & Biases name it.
        folder: where its files are written; None for the current folder.
        mode: ``online`` or ``offline``; None for the one that ``WANDB_MODE`` names.
    """

    name, modules, packages = "Weights & Biases", ("wandb",), "wandb"

    @spelled
    def __init__(
        self,
        vae: VAE | None = None,
        images: Images | None = None,
        *,
        project: str = "pyro-vae",
        run: str | None = None,
        folder: str | Path | None = None,
        mode: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(vae, images, **options)
        place = None if folder is None else str(folder)
        self.settings = {"project": project, "name": run, "dir": place, "mode": mode}

    @classmethod
    def of_run(cls, folder: Path, **options: Any) -> Tracker:
        # Not in the run folder, because Weights & Biases makes links, which --resume refuses.
        return cls(run=folder.name, **options)

    def begin(self) -> None:
        import wandb

        config = json.loads(json.dumps(self.config, default=str))
        # A run of its own, beside one that the user may have begun.
        self.run = wandb.init(**self.settings, config=config, reinit="create_new")

    def numbers(self, epoch: int, values: dict[str, float]) -> None:
        self.run.log(values, step=epoch)

    def picture(self, epoch: int, name: str, pixels: np.ndarray) -> None:
        import wandb

        self.run.log({name: wandb.Image(pixels)}, step=epoch)

    def end(self, completed: bool) -> None:
        self.run.finish(exit_code=0 if completed else 1)


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
"""The names of ``train --track``."""


def chosen(names: Sequence[str]) -> list[type[Tracker]]:
    """The trackers of these names, each once.

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    kinds = [lookup("tracker", name, TRACKERS) for name in dict.fromkeys(names)]
    for kind in kinds:
        kind.check()
    return kinds
