"""``pyro-vae``: train a VAE from the command line, and use what was trained.

Nothing that needs torch is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .parts import InputError, TrainingError

if TYPE_CHECKING:
    import torch

    from .data import Images
    from .vae import VAE

app = typer.Typer(
    help="Variational autoencoders in Pyro: prior, likelihood, guide and objective, each a word.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console()


class Split(StrEnum):
    """Which images of a data set."""

    train = "train"
    test = "test"
    all = "all"


Run = Annotated[Path, typer.Argument(help="A run folder that `train` made.", show_default=False)]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of downloaded data sets.",
        show_default="PYRO_VAE_DATA_DIR, else a cache folder of yours",
    ),
]
OtherData = Annotated[
    str | None,
    typer.Option(
        "--data", help="Images to use: a name, a folder or an array.", show_default="the run's own"
    ),
]
Which = Annotated[Split, typer.Option("--split", help="Which of the images.")]
Seed = Annotated[int, typer.Option(help="Seed of all noise.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one.")
]


@app.command()
def train(
    data: Annotated[
        str | None,
        typer.Option(
            help="A data set of `pyro-vae list data`, a folder of images, or a .npy or .npz array.",
            show_default="mnist-5k",
        ),
    ] = None,
    binarize: Annotated[
        str | None,
        typer.Option(
            help="How grey pixels become 0 or 1: dynamic, static, threshold, or none.",
            show_default="dynamic for a Bernoulli likelihood, else none",
        ),
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="p(z).", show_default="what fits the guide: standard-normal")
    ] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="p(x | z).", show_default="bernoulli")
    ] = None,
    guide: Annotated[str | None, typer.Option(help="q(z | x).", show_default="mean-field")] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="How the guide's raw output becomes σ; the same as --guide 'mean-field(scale=…)'.",
            show_default="log-variance",
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="What training minimises.", show_default="monte-carlo")
    ] = None,
    latent: Annotated[
        int | None, typer.Option(help="Latent dimensions.", min=1, show_default="20")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="What encoder and decoder are made of.", show_default="mlp"),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="The network's layer sizes: units for mlp; for conv channels, then units.",
            show_default="the network's own: 400 or 32,64,256",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the training images.", min=1, show_default="100"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images in a step.", min=1, show_default="128")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of Adam.", show_default="0.001")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the weights and of all noise.", show_default="0"),
    ] = None,
    pictures: Annotated[int, typer.Option(help="Epochs between two sets of pictures.", min=1)] = 10,
    device: Device = "auto",
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder to make.", show_default="runs/DATA-1, -2, …"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="A run folder to train on, to --epochs in all, with its own settings."),
    ] = None,
) -> None:
    """Train a VAE and leave a run folder: weights, config, metrics and pictures.

    A part is a name of `pyro-vae list`, with options where it has some: "normal(scale=0.2)"; or
    a class of your own: mymodule:MyPrior.
    """
    from . import runs

    chosen = {
        "data": data,
        "binarize": binarize,
        "prior": prior,
        "likelihood": likelihood,
        "guide": guide,
        "scale": scale,
        "objective": objective,
        "latent": latent,
        "network": network,
        "hidden": sizes("--hidden", hidden),
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
    }
    given = {key: value for key, value in chosen.items() if value is not None}
    if resume is not None:
        if out is not None or given:
            named = [*given, *(["out"] if out is not None else [])]
            options = ", ".join(f"--{key.replace('_', '-')}" for key in named)
            raise InputError(
                f"--resume goes on with the run's own settings, so {options} cannot be given; "
                "--epochs can"
            )
        run = runs.resume(resume, epochs, pick(device), data_dir)
    else:
        if epochs is not None:
            given["epochs"] = epochs
        run = runs.begin(given, out, pick(device), data_dir)
    runs.train(run, pictures, console)


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = 144,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw images from the prior: the decoder's mean for each draw of z."""
    from .figures import save_grid

    vae, _ = opened(run, device, seed)
    save_grid(vae.sample(n), out)
    console.print(f"{n} samples in {out}", highlight=False)


@app.command()
def reconstruct(
    run: Run,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = 48,
    data: OtherData = None,
    split: Which = Split.test,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("recon.png"),
    seed: Seed = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Put images above their reconstructions, through the guide and the model."""
    from .figures import pairs, save_grid

    vae, config = opened(run, device, seed)
    x = batch(images_of(config, data, split, data_dir), n, seed).to(pick(device))
    save_grid(pairs(x, vae.reconstruct(x)), out)
    console.print(f"{len(x)} images above their reconstructions in {out}", highlight=False)


@app.command()
def interpolate(
    run: Run,
    first: Annotated[int, typer.Option(help="Number of the image to start at, from 0.")] = 0,
    last: Annotated[int, typer.Option(help="Number of the image to end at, from 0.")] = 1,
    steps: Annotated[int, typer.Option(help="Images on the way, both ends included.")] = 12,
    data: OtherData = None,
    split: Which = Split.test,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("path.png"),
    seed: Seed = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Walk on a straight line in the latent space from one image to another."""
    from .figures import save_grid

    vae, config = opened(run, device, seed)
    images = images_of(config, data, split, data_dir)
    for option, index in (("--first", first), ("--last", last)):
        if not 0 <= index < len(images):
            raise InputError(f"{option} {index} is no image: there are 0 to {len(images) - 1}")
    a, b = batch(images, max(first, last) + 1, seed)[[first, last]].to(pick(device))
    save_grid(vae.interpolate(a, b, steps), out, columns=steps)
    console.print(f"{steps} steps from image {first} to image {last} in {out}", highlight=False)


@app.command()
def encode(
    run: Run,
    data: OtherData = None,
    split: Which = Split.all,
    out: Annotated[Path, typer.Option(help="The array file to write.")] = Path("latents.npz"),
    seed: Seed = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Write the posterior's μ and σ for each image: arrays `loc` and `scale`, [N, Z]; `labels`
    and `files` where there are some."""
    import numpy as np

    from .runs import latents

    vae, config = opened(run, device, seed)
    images = images_of(config, data, split, data_dir).to(pick(device))
    arrays = latents(vae, images, seed)
    np.savez_compressed(out, allow_pickle=False, **arrays)
    console.print(f"μ and σ of {len(images)} images in {out}", highlight=False)


@app.command()
def evaluate(
    run: Run,
    data: OtherData = None,
    split: Which = Split.test,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Compute the ELBO and its two parts, in nats per image, by the Monte Carlo and the analytic
    objective side by side."""
    from .runs import bounds

    vae, config = opened(run, device, seed)
    images = images_of(config, data, split, data_dir).to(pick(device))
    result = {"run": str(run), **bounds(vae, images, seed), "data": config["data"]}
    if as_json:
        print(json.dumps(result, indent=2))
        return
    table = Table("nats per image", "Monte Carlo", "analytic KL", box=None, header_style="bold")
    for name in ("elbo", "reconstruction", "kl"):
        cells = [result[way] for way in ("monte_carlo", "analytic")]
        table.add_row(
            name, *(f"{c[name]:.2f} ± {c[f'{name}_error']:.2f}" if c else "none" for c in cells)
        )
    console.print(table)
    console.print(
        f"means over {len(images)} images of {config['data']['name']} "
        f"({config['data']['binarize']} binarisation), ± one standard error; one draw of z each"
    )
    if result["analytic"] is None:
        console.print(f"no analytic KL: {result['why']}")


@app.command("list")
def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="One kind alone: data, priors, guides, …")
    ] = None,
) -> None:
    """List the data sets, parts and networks that there are, each with a line."""
    from .parts import lookup
    from .runs import tables

    all_tables = tables()
    chosen = all_tables if kind is None else {kind: lookup("kind", kind, all_tables)}
    for title, rows in chosen.items():
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for name, line in rows.items():
            table.add_row(name, line)
        console.print(table)


def sizes(option: str, text: str | None) -> list[int] | None:
    """``"400,200"`` -> ``[400, 200]``."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} takes whole numbers with commas between, like 400,200, not {text!r}"
        ) from None


def pick(device: str) -> torch.device:
    """The device that ``--device`` names."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError):
        raise InputError(
            f"--device {device!r} is not there; take auto, or cpu, which always is"
        ) from None
    return torch.device(device)


def opened(run: Path, device: str, seed: int) -> tuple[VAE, dict[str, Any]]:
    """The VAE and the config of a run, and the seed set."""
    import torch

    from .checkpoints import load

    torch.manual_seed(seed)
    return load(run, pick(device))


def images_of(
    config: dict[str, Any], data: str | None, split: Split, data_dir: Path | None
) -> Images:
    """The images that a command on a run works on, by the run's own protocol."""
    from .runs import images

    return images(config, data, split.value, data_dir)


def batch(images: Images, n: int, seed: int) -> torch.Tensor:
    """The first ``n`` images, ``[n, C, H, W]``, their binarisation drawn with ``seed``."""
    import torch

    return images.batch(slice(0, n), torch.Generator().manual_seed(seed))


def main() -> None:
    """Run the command line; a mistake in the input is one sentence and exit code 2."""
    sys.path.insert(0, os.getcwd())  # where a user's own module:Class lies
    try:
        app()
    except (InputError, TrainingError) as error:
        Console(stderr=True).print("[bold red]Error:[/]", escape(str(error)), highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main()
