"""Everything that is known about a trained VAE, in one table; and scores of single images."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contracts import Likelihood
from ..data.images import Images
from ..errors import InputError
from ..programs import ModelProgram
from ..vae import VAE
from . import elbo, standard_error
from . import figures as show
from .annealing import annealed, sandwich
from .gaps import Gaps, gaps
from .importance import Importance, importance
from .latents import active_units, aggregate, probe, unit_kl

Table = dict[str, Any]


def evaluate(
    vae: Any,
    images: Images,
    *,
    train: Images | None = None,
    samples: int = 5000,
    gap_images: int = 0,
    annealed_images: int = 0,
    temperatures: int = 500,
    seed: int = 0,
    figures: Path | None = None,
) -> Table:
    """Evaluate a model and a guide on images: what can be said of them, in nats per image.

    Args:
        vae: anything with ``.model`` and ``.guide``, Pyro programs that fit
            :mod:`.scoring`.
        images: what to evaluate on.
        train: labelled images that the classifiers of the latents learn from; None for none.
        samples: draws of z for each image of the importance estimate of log p(x).
        gap_images: the approximation and the amortization gap are taken on the first so many
            images (some 20 a second); 0 for none.
        annealed_images: log p(x) is also estimated by annealing on the first so many images, and
            the error bounded on 20 simulated ones (about a minute for 20); 0 for none.
        temperatures: steps of annealing from the prior to the posterior.
        seed: of all draws.
        figures: a folder to draw the pictures of :mod:`.figures` into.

    Returns:
        a table that goes into a JSON file. A mean over images is ``{"mean": …, "error": …}``, its
        standard error beside it. What is not defined for these parts is ``{"why": …}``.

    Raises:
        InputError: no images, ``samples`` below 1, or programs that do not fit.

    Example:
        >>> evaluate(vae, data.test, samples=1000)["log_p"]["mean"]
    """
    model, guide = vae.model, vae.guide
    estimate = importance(model, guide, images, samples=samples, seed=seed)
    bound = elbo(model, guide, images, samples=10, seed=seed)
    table: Table = {
        "images": len(images),
        "binarize": images.binarize,
        "samples": samples,
        "seed": seed,
        "log_p": mean(estimate.log_p) | {"monte_carlo_error": finite(estimate.monte_carlo_error)},
        "elbo": mean(estimate.elbos),
        "rate": mean(bound.kls),
        "distortion": mean(-bound.reconstructions),
        "rate_of_sites": {name: mean(kl) for name, kl in bound.kl_of_sites.items()},
        "curve": {str(k): mean(v) for k, v in estimate.curve.items()},
        "trust": trust(estimate),
        "bits_per_dimension": where_defined(lambda: bits(model, estimate.log_p, images.shape)),
        "active_units": where_defined(lambda: active(guide, images, seed)),
        "kl_of_units": where_defined(
            lambda: {k: v.tolist() for k, v in unit_kl(model, guide, images, seed=seed).items()}
        ),
        "aggregate": where_defined(lambda: spread(model, guide, images, seed)),
    }
    if train is not None:
        table["accuracy"] = where_defined(
            lambda: {k: pair(*v) for k, v in probe(guide, train, images, seed=seed).items()}
        )
    lost: dict[str, Gaps] = {}
    if gap_images:
        some = first(images, gap_images)

        def split() -> Table:
            lost["guide"] = gaps(model, guide, some, samples=samples, seed=seed)
            return lost["guide"].summary()

        table["gaps"] = {"images": len(some)} | where_defined(split)
    if annealed_images:
        some = first(images, annealed_images)
        table["annealed"] = where_defined(lambda: anneal(model, some, estimate, temperatures, seed))
    if figures is not None:
        draw(figures, vae, images, estimate, lost, table["kl_of_units"], seed)
    return table


def draw(
    folder: Path,
    vae: Any,
    images: Images,
    estimate: Importance,
    lost: dict[str, Gaps],
    units: Table,
    seed: int,
) -> None:
    """Draw what there is to draw of an evaluation, a PNG each."""
    pictures = {
        "draws": show.sample_curve({"guide": estimate}),
        "latents": show.latent_map(vae.guide, images, seed=seed),
    }
    if "why" not in units:
        pictures["units"] = show.unit_bars({k: torch.tensor(kl) for k, kl in units.items()})
    if lost:
        pictures["gaps"] = show.gap_bars(lost)
    if isinstance(vae, VAE):
        pictures["reconstructions"] = show.best_to_worst(vae, images, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=120)


def bounds(vae: Any, images: Images, seed: int) -> Table:
    """The test ELBO and its parts by either KL; ``analytic`` is None where there is none."""
    result: Table = {"images": len(images), "seed": seed}
    for way, analytic in (("monte_carlo", False), ("analytic", True)):
        try:
            bound = elbo(vae.model, vae.guide, images, seed=seed, analytic=analytic)
        except InputError as error:
            result |= {way: None, "why": str(error)}
            continue
        parts = {name: getattr(bound, name) for name in bound.errors}
        result[way] = parts | {f"{name}_error": e for name, e in bound.errors.items()}
    return result


def mean(each: Tensor) -> Table:
    """The mean over images and its standard error."""
    return pair(each.mean().item(), standard_error(each))


def pair(value: float, error: float) -> Table:
    return {"mean": value, "error": finite(error)}


def finite(number: float) -> float | None:
    """``number`` as JSON can hold it."""
    return number if math.isfinite(number) else None


def first(images: Images, count: int) -> Images:
    return images.subset(torch.arange(min(count, len(images))))


def where_defined(compute: Callable[[], Table]) -> Table:
    """What ``compute`` gives, or the sentence that says why it is not defined here."""
    try:
        return compute()
    except InputError as error:
        return {"why": str(error)}


def trust(estimate: Importance) -> Table:
    """Whether the importance estimates can be trusted, over all images."""
    return {
        "effective_samples": estimate.effective.median().item(),
        "pareto_k": finite(estimate.pareto_k.median().item()),
        "limit": finite(estimate.limit),
        "untrusted_share": estimate.untrusted_share,
    }


def bits(model: Any, log_p: Tensor, shape: tuple[int, ...]) -> Table:
    """-log2 p(x) for each pixel and channel."""
    if not isinstance(model, ModelProgram) or Likelihood.of(model.likelihood).levels != 256:
        raise InputError("bits per dimension are those of a likelihood of 256 levels")
    return mean(-log_p / (math.prod(shape) * math.log(2)))


def active(guide: Any, images: Images, seed: int) -> Table:
    return {
        name: {"count": int((each > 0.01).sum()), "of": len(each)}
        for name, each in active_units(guide, images, seed=seed).items()
    }


def spread(model: Any, guide: Any, images: Images, seed: int) -> Table:
    result = aggregate(model, guide, first(images, 2000), seed=seed)
    return {k: pair(*v) for k, v in result.terms.items()} | {"estimator": result.estimator}


def anneal(model: Any, images: Images, estimate: Importance, temperatures: int, seed: int) -> Table:
    result = annealed(model, images, temperatures=temperatures, seed=seed)
    both = sandwich(model, images.shape, 20, temperatures=temperatures, seed=seed)
    return {
        "images": len(images),
        "temperatures": temperatures,
        "log_p": mean(result.log_p),
        "importance_on_the_same": mean(estimate.log_p[: len(images)]),
        "acceptance": result.acceptance.mean().item(),
        "sandwich": pair(both.width, both.width_error) | {"images": len(both.images)},
    }


def protocol(trained: str, asked: str | None, anyway: bool = False) -> tuple[str, str | None]:
    """The binarisation to evaluate under, and the mark that its results carry, if any.

    Args:
        trained: how the run's training images were binarised.
        asked: how the evaluation's shall be; None for the same.
        anyway: evaluate under another one all the same.

    Raises:
        InputError: another binarisation, and not ``anyway``.
    """
    if asked is None or asked == trained:
        return trained, None
    if not anyway:
        raise InputError(
            f"the run was trained under {trained} binarisation and --binarize {asked} is another "
            "protocol, whose nats cannot be compared; --other-protocol evaluates all the same and "
            "marks the result"
        )
    return asked, f"trained under {trained} binarisation, evaluated under {asked}"


def write_scores(path: Path, images: Images, result: Importance) -> None:
    """Write a line for each image, the least likely first: its file (or its number), log p̂(x) and
    its standard error in nats, Pareto k, and whether the estimate can be trusted."""
    names = images.files or [str(i) for i in range(len(images))]
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "log_p", "standard_error", "pareto_k", "trusted"])
        for i in result.log_p.argsort().tolist():
            numbers = (result.log_p[i], result.errors[i], result.pareto_k[i])
            lines.writerow(
                [
                    names[i],
                    *(f"{n.item():.4f}" for n in numbers),
                    str(bool(result.trusted[i])).lower(),
                ]
            )


def auroc(usual: Tensor, unusual: Tensor) -> float:
    """How well a score tells unusual images from usual ones: the probability that one of the first
    has the lower score, 0.5 for none.

    Args:
        usual, unusual: the scores, such as log p̂(x), ``[N]`` and ``[M]``.
    """
    from sklearn.metrics import roc_auc_score

    scores = torch.cat([usual, unusual]).cpu()
    labels = torch.cat([torch.ones(len(usual)), torch.zeros(len(unusual))])
    return float(roc_auc_score(labels.numpy(), scores.numpy()))
