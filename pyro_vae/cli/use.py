"""The commands that encode with a run and measure it."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..storage.writing import written
from ..words import counted, plus_minus, protocol_of, word_of
from . import options as o
from .options import console
from .outputs import check_output
from .printing import print_report
from .values import filled, place


def encode(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.all,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", parser=place, help="The .npz file to write.", rich_help_panel="Output"
        ),
    ] = Path("latents.npz"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Write the posterior's μ and σ of each observation.

    The arrays are `loc` and `scale`, [N, Z]; and, if the data have them, `labels` (numbers),
    `classes` (their names) and `files`, [N], and `targets`, [N, n].
    """
    import numpy as np

    from ..evaluation.latents import encode_images

    check_output("--out", out, [".npz"])
    vae, config = o.opened(run, device, seed, trust)
    images = o.images_of(config, data, split, data_dir, device)
    arrays: dict[str, Any] = encode_images(vae, images, seed)
    with written(out) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    console.print(
        f"μ and σ of {counted(len(images), word_of(images.shape))} in {out}", soft_wrap=True
    )


def evaluate(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    binarize: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Another binarisation than the run's; needs --other-protocol.",
            callback=filled("--binarize"),
            rich_help_panel="Data",
        ),
    ] = None,
    other_protocol: Annotated[
        bool,
        typer.Option(
            "--other-protocol",
            help="Accept another binarisation, and mark the result.",
            rich_help_panel="Data",
        ),
    ] = False,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Draws of z for each observation to estimate log p(x).",
            min=1,
            rich_help_panel="Measures",
        ),
    ] = 1000,
    gaps: Annotated[
        bool,
        typer.Option("--gaps", help="Measure where the bound is lost.", rich_help_panel="Measures"),
    ] = False,
    gap_images: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="With --gaps: on so many observations, about 20 a second.",
            min=1,
            rich_help_panel="Measures",
        ),
    ] = 100,
    annealed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Also estimate log p(x) of N observations by annealing, about a minute for 20.",
            min=0,
            rich_help_panel="Measures",
        ),
    ] = 0,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Predict the labels from the latents.", rich_help_panel="Measures"
        ),
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--figures",
            metavar="FOLDER",
            parser=place,
            help="Also write figures to this folder.",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel="Output"),
    ] = False,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Measure a run on its test data, in nats per observation.

    The ELBO, log p(x) by importance sampling with a check of its trust, and what the latents hold.
    """
    from ..progress import reporting
    from ..report import table as report
    from ..runs.splits import no_validation

    if pictures is not None:
        check_output("--figures", pictures)
    vae, config = o.opened(run, device, seed, trust)
    trained = config["data"]["binarize"]
    if config["data"]["name"] is None:  # nobody knows the protocol of its training
        trained = binarize or trained
    used, mark = report.choose_binarization(trained, binarize, anyway=other_protocol)
    config["data"]["binarize"] = used
    if used != trained:
        config["checksum"] = ""  # that of the pixels under the other protocol
    images = o.images_of(config, data, split, data_dir, device)
    labelled = o.images_of(config, data, o.Split.train, data_dir, device) if probe else None
    if labelled is not None and labelled.labels is None:
        raise InputError("--probe predicts labels, and these data have none")
    source: dict[str, Any] = {
        "run": str(run),
        "data": data or config["data"]["name"],
        "split": split.value,
    }
    if sentence := no_validation(config):
        source["validation"] = sentence
    result = source | report.bounds(vae, images, seed)
    word = word_of(images.shape)
    results = nullcontext() if pictures is None else written(pictures)
    with results as part, reporting(o.stderr) as progress:
        result |= report.evaluate(
            vae,
            images,
            train=labelled,
            samples=samples,
            gap_images=gap_images if gaps else 0,
            annealed_images=annealed,
            seed=seed,
            figures=part,
            title=f"{Path(source['data']).name}, {split.value} {word}s, {protocol_of(used)}",
            progress=progress,
        )
    if mark is not None:
        result["mark"] = mark
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))  # no line breaks by the console
        return
    on = config["data"].get("condition")
    given = "" if images.context is None else f", p(x) given the {on}"
    part_of = "" if split is o.Split.all else f"{split.value} "
    how = "" if word == "row" else f", {protocol_of(used)}"
    console.print(
        f"{counted(len(images), part_of + word)} of {source['data']}{how}{given}. Numbers are"
        f" means over {word}s ± one standard error, in nats per {word}.",
        soft_wrap=True,
    )
    again = {"--data": data, "--binarize": binarize, "--data-dir": data_dir}
    words = [str(each) for pair in again.items() if pair[1] is not None for each in pair]
    words += ["--split", split.value] if split is not o.Split.test else []
    words += [w for w, on in (("--other-protocol", other_protocol), ("--trust", trust)) if on]
    print_report(result, ["pyro-vae", "evaluate", str(run), *words], word)
    if sentence:
        console.print(sentence, soft_wrap=True)
    if mark is not None:
        console.print(f"not comparable: {mark}", style="bold", soft_wrap=True)


def audit(
    run: o.Run,
    data: o.OtherData = None,
    split: o.Which = o.Split.test,
    n: Annotated[
        int,
        typer.Option(metavar="N", help="Number of observations.", min=1, rich_help_panel="Data"),
    ] = 100,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Show every site of the model and the guide.

    Its distribution, shape, log p, log q and KL, and whether this KL is analytic. A mistake that
    makes a bound wrong is an error.
    """
    import torch

    from ..audit import audit as audited
    from ..audit import table
    from ..runs.setup import built_objective

    vae, config = o.opened(run, device, seed, trust)
    objective = None
    if "training" in config:
        trained = o.images_of(config, None, o.Split.train, data_dir, device)
        objective = built_objective(config["training"] | {"batch_size": n}, trained)
    images = o.images_of(config, data, split, data_dir, device)
    rows = images.rows(slice(0, n), torch.Generator().manual_seed(seed))
    console.print(table(audited(vae, *rows.args, objective=objective, **rows.named)))


def score(
    run: o.Run,
    data: o.OtherData = None,
    split: Annotated[
        o.Split | None,
        typer.Option(
            metavar="SPLIT",
            help="train, validation, test or all of them. Default: all but train.",
            rich_help_panel="Data",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N", help="Draws of z for each observation.", min=1, rich_help_panel="Measures"
        ),
    ] = 1000,
    pixel_draws: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Draws of the pixels to average over, if they are dynamic.",
            min=1,
            rich_help_panel="Measures",
        ),
    ] = 1,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", parser=place, help="The .csv file to write.", rich_help_panel="Output"
        ),
    ] = Path("scores.csv"),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    trust: o.Trust = False,
    data_dir: o.DataDir = None,
) -> None:
    """Rank observations by their estimated log p(x) in nats, the most unusual first.

    Each line has the file or the row, its split, log p(x) and its standard error, if it can be
    trusted. Training data are left out, because their log p(x) is too high.
    """
    from ..evaluation.scores import score_images, write_scores
    from ..progress import reporting
    from ..runs.images import scored_images

    check_output("--out", out, [".csv"])
    vae, config = o.opened(run, device, seed, trust)
    chosen = None if split is None else split.value
    images, splits = scored_images(config, data, chosen, data_dir, say=o.warn)
    images, word = images.to(o.pick(device)), word_of(images.shape)
    with reporting(o.stderr) as progress:
        result = score_images(
            vae.model, vae.guide, images, samples=samples, pixel_draws=pixel_draws, seed=seed,
            progress=progress,
        )  # fmt: skip
    with written(out) as part:
        write_scores(part, images, splits, result)
    parts = Counter(splits)
    named = ", ".join(f"{count:,} {name}" for name, count in parts.items() if name)
    error = result.standard_error if result.covers(result.standard_error) else None
    console.print(
        f"estimated log p(x) of {counted(len(images), word)}{f' ({named})' if named else ''} in "
        f"{out}, a lower bound in the mean: {plus_minus(result.mean, error)} nats",
        soft_wrap=True,
    )
    if len(images) == 1:
        console.print(f"One {word} cannot show the bias of its estimate, so it has no error.")
    elif not result.trusted:
        console.print(
            f"The {word}s have no standard error, because it would not cover the bias of the "
            "estimates; more --samples can help. Their order can still be used.",
            soft_wrap=True,
        )
    elif images.binarize == "dynamic" and pixel_draws == 1:
        console.print(
            "The standard errors are for this draw of the pixels; --pixel-draws takes more.",
            soft_wrap=True,
        )
    if split is None and "test" in parts:
        console.print(f"The training {word}s are left out; --split all takes them in.")
