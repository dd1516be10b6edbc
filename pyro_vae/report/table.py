"""The report of an evaluation: all measures in one table."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contracts import Likelihood
from ..data.images import Images
from ..errors import InputError
from ..evaluation import calibration
from ..evaluation.aggregate import SATURATED, aggregate
from ..evaluation.annealing import AnnealedEstimate, annealed, sandwich
from ..evaluation.bound import elbo, standard_error
from ..evaluation.gaps import Gaps, gaps
from ..evaluation.importance import Importance, importance
from ..evaluation.latents import active_units, probe, unit_kl
from ..evaluation.scoring import Programs
from ..figures import told_about
from ..programs import ModelProgram
from ..progress import Report, silent
from ..spelling import spelled
from ..vae import VAE
from ..words import protocol_of, word_of
from . import figures as show
from .intervals import Table, covered, defined, pair, share, shares, trust, with_error, withdraw
from .samples import prior_gap


@spelled
def evaluate(
    vae: Programs,
    images: Images,
    *,
    train: Images | None = None,
    samples: int = 5000,
    gap_images: int = 0,
    annealed_images: int = 0,
    temperatures: int = 500,
    seed: int = 0,
    figures: str | Path | None = None,
    title: str = "",
    progress: Report = silent,
) -> Table:
    """Evaluate a model and a guide on images, in nats per image.

    log p̂(x) and the ELBO are always computed. If another measure cannot be computed, its entry is a
    sentence that says why, and the rest of the report is not affected.

    Args:
        vae: a VAE, or any other pair of Pyro programs that meet :mod:`.scoring`.
        images: the images to evaluate on.
        train: labelled images on which classifiers of the latents are trained; None for no
            classifiers.
        samples: draws of z for each image, for the importance estimate of log p(x).
        gap_images: the approximation and the amortization gap are measured on so many of the first
            images (about 20 a second); 0 leaves them out.
        annealed_images: log p(x) is also estimated by annealing on so many of the first images, and
            its error is bounded on 20 simulated images (about a minute for 20); 0 leaves it out.
        temperatures: steps of annealing from the prior to the posterior.
        seed: of all draws.
        figures: a folder for the pictures of :mod:`~pyro_vae.report.figures`; None for none.
        title: words for the pictures that say which data these are.
        progress: as for :func:`.importance.importance`.

    Returns:
        a table that can be written as JSON. A mean over images is ``{"mean": …, "error": …}`` with
        its standard error; a share has ``count`` and ``of``, too. A number that is not defined is
        None, such as the error of one image. A measure that cannot be computed is
        ``{"why": sentence}``. A picture that cannot be drawn is an entry ``figure_NAME``.

    Raises:
        InputError: no images, ``samples`` below 1, programs that do not meet :mod:`.scoring`, or a
            label that is none of the classes which the guide infers.

    Example:
        >>> from pyro_vae import evaluate
        >>> data = load_data("digits", binarize="threshold")
        >>> table = evaluate(VAE(data.shape, latent_size=2), data.test, samples=20)
        >>> table["elbo"]["mean"] < table["log_p"]["mean"]
        True
    """
    model, guide = vae.model, vae.guide
    if isinstance(vae, VAE) and vae.infers_labels and images.labels is not None:
        calibration.classes_of(vae, images)  # refuses a class that the VAE does not know
    told: dict[str, Any] = {"seed": seed, "progress": progress}
    estimate = importance(model, guide, images, samples=samples, **told)
    bound = elbo(model, guide, images, samples=10, seed=seed)
    table: Table = {
        "images": len(images),
        "binarize": images.binarize,
        "samples": samples,
        "seed": seed,
        "log_p": covered(estimate, estimate.standard_error)
        | {"monte_carlo_error": covered(estimate, estimate.monte_carlo_error)["error"]},
        "elbo": with_error(estimate.elbos),
        "rate": with_error(bound.kls),
        "distortion": with_error(-bound.reconstructions),
        "rate_of_sites": {name: with_error(kl) for name, kl in bound.kl_of_sites.items()},
        "curve": {str(k): with_error(v) for k, v in estimate.curve.items()},
        "trust": trust(estimate),
        "bits_per_dimension": attempt(lambda: bits(model, estimate, images.shape)),
        "active_units": attempt(lambda: active_counts(guide, images, seed)),
        "kl_of_units": attempt(
            lambda: {k: v.tolist() for k, v in unit_kl(model, guide, images, seed=seed).items()}
        ),
        "aggregate": attempt(lambda: aggregate_terms(model, guide, images, seed)),
        "prior_gap": attempt(lambda: prior_gap(model, guide, images, bound.kl_of_sites, seed)),
    }
    if train is not None:
        table["accuracy"] = attempt(lambda: shares(probe(guide, train, images, seed=seed), images))
    if isinstance(vae, VAE) and vae.infers_labels:
        table["classification"] = attempt(lambda: classification(vae, images, seed))
    elif isinstance(vae, VAE) and vae.infers_y:
        table["regression"] = attempt(lambda: regression(vae, images, seed))
    lost = shown = None
    if gap_images:
        some = images.first(gap_images)
        lost = attempt(lambda: gaps(model, guide, some, samples=samples, **told))
        terms = lost.summary() if isinstance(lost, Gaps) else None
        measured = {name: pair(**term) for name, term in terms.items()} if terms else lost
        table["gaps"] = {"images": len(some)} | measured
    if annealed_images:
        few = images.first(annealed_images)
        shown = attempt(lambda: annealed(model, few, temperatures=temperatures, **told))
        table["annealed"] = shown
        if isinstance(shown, AnnealedEstimate):
            same = estimate.log_p[: len(few)]
            table["annealed"] = {
                "images": len(few),
                "temperatures": temperatures,
                "log_p": with_error(shown.log_p),
                "importance_on_the_same": covered(estimate, standard_error(same), of=same),
                "difference": with_error(shown.log_p - same),
                "acceptance": shown.acceptance.mean().item(),
                "sandwich": attempt(lambda: width(model, images.shape, temperatures, told)),
            }
            withdraw(table, estimate.standard_error)
    if figures is not None:
        kl = table["kl_of_units"]
        units = {} if "why" in kl else {name: torch.tensor(each) for name, each in kl.items()}
        curve = shown if isinstance(shown, AnnealedEstimate) else None
        bars = lost if isinstance(lost, Gaps) else None
        draw = drawings(vae, images, estimate, curve, bars, units, seed, title)
        table |= save_figures(Path(figures), draw, word_of(images.shape))
    return defined(table)


def drawings(
    vae: Programs,
    images: Images,
    estimate: Importance,
    shown: AnnealedEstimate | None,
    lost: Gaps | None,
    units: dict[str, Tensor],
    seed: int,
    title: str,
) -> dict[str, Callable[[], Any]]:
    """The pictures of an evaluation by name, each a function that draws it."""
    name = guide_name(vae)
    draw: dict[str, Callable[[], Any]] = {
        "draws": lambda: show.sample_curve({name: estimate}, shown, title=title),
        "latents": lambda: show.latent_map(vae.guide, images, seed=seed, title=title),
    }
    if units:
        draw["units"] = lambda: show.unit_bars(units, title=title)
    if lost is not None:
        draw["gaps"] = lambda: show.gap_bars({name: lost}, title=title)
    if isinstance(vae, VAE) and images.schema is not None:
        draw["marginals"] = lambda: show.column_marginals(vae, images, seed=seed, title=title)
    elif isinstance(vae, VAE):
        draw["reconstructions"] = lambda: show.best_to_worst(vae, images, seed=seed, title=title)
        draw["traversals"] = lambda: show.traversal_grid(vae, images, seed=seed, title=title)
    return draw


def save_figures(folder: Path, draw: dict[str, Callable[[], Any]], word: str) -> Table:
    """Save each picture as a PNG file; the result says why a picture cannot be drawn.

    Args:
        folder: where the files are written.
        draw: the pictures by name.
        word: what an observation is called.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failed = {}
    for name, picture in draw.items():
        figure = attempt(picture)
        if isinstance(figure, dict):
            failed[f"figure_{name}"] = figure
        else:
            if name != "marginals":  # its texts are the names of columns
                told_about(figure, word)
            figure.savefig(folder / f"{name}.png", dpi=120)
    return failed


def guide_name(vae: Programs) -> str:
    """The name of the guide in the pictures."""
    if isinstance(vae, VAE):
        spec = vae.config["guide"]
        return spec if isinstance(spec, str) else type(vae.guide.posterior).__name__
    # The guide is the user's: a function has a name, and an object has only that of its class.
    return getattr(vae.guide, "__name__", type(vae.guide).__name__)


def bounds(vae: Programs, images: Images, seed: int) -> Table:
    """The ELBO and its parts, with the KL by Monte Carlo and in closed form (None without one)."""
    result: Table = {"images": len(images), "seed": seed}
    for way, analytic in (("monte_carlo", False), ("analytic", True)):
        try:
            bound = elbo(vae.model, vae.guide, images, seed=seed, analytic=analytic)
        except InputError as error:
            result |= {way: None, "why": str(error)}
            continue
        result[way] = bound.means | {f"{name}_error": e for name, e in bound.errors.items()}
    return defined(result)


def attempt(compute: Callable[[], Any]) -> Any:
    """The result of ``compute``, or ``{"why": sentence}`` if it fails.

    It catches every error, because one part must not lose a report that took hours.
    """
    try:
        return compute()
    except InputError as error:
        return {"why": str(error)}
    except Exception as error:
        return {"why": f"the computation failed with a {type(error).__name__}: {error}"}


def bits(model: Any, estimate: Importance, shape: tuple[int, ...]) -> Table:
    """-log2 p(x) for each pixel and channel."""
    if not isinstance(model, ModelProgram) or Likelihood.of(model.likelihood).levels != 256:
        raise InputError("bits per dimension need a likelihood with 256 levels")
    nats = math.prod(shape) * math.log(2)
    return covered(estimate, estimate.standard_error, unit=-nats)


def active_counts(guide: Any, images: Images, seed: int) -> Table:
    """The number of active units, and of all units, by latent site."""
    return {
        name: {"count": int((each > 0.01).sum()), "of": len(each)}
        for name, each in active_units(guide, images, seed=seed).items()
    }


def aggregate_terms(model: Any, guide: Any, images: Images, seed: int) -> Table:
    """The terms of the aggregate posterior, on at most 2,000 images.

    Terms that need more images are not reported (:attr:`.aggregate.Aggregate.saturated`).
    """
    some = images.first(2000)
    result = aggregate(model, guide, some, seed=seed)
    table: Table = {name: pair(*term) for name, term in result.terms.items()}
    if result.saturated is not None:
        table |= {name: {"why": result.saturated} for name in SATURATED if name in table}
    return table | {"estimator": result.estimator}


def classification(vae: VAE, images: Images, seed: int) -> Table:
    """The accuracy and the calibration error of the labels that a guide infers."""
    found = calibration.predictions(vae, images, seed=seed)
    error = calibration.calibration_error(*found, seed=seed)
    right = share(*calibration.accuracy(*found), n=len(found[1]))
    return {"accuracy": right, "calibration_error": pair(*error)}


def regression(vae: VAE, images: Images, seed: int) -> Table:
    """The error of the real targets that a guide infers, in their own units, and the coverage of
    its 90 % intervals; with several targets, those of each by its number from 0."""
    mean, scale, truth = calibration.regressions(vae, images, seed=seed)
    table: Table = {}
    for i in range(truth.shape[1]):
        known, of = ~truth[:, i].isnan(), f"_{i}" if truth.shape[1] > 1 else ""
        if not known.any():
            continue
        m, s, y = (each[known, i] for each in (mean, scale, truth))
        table[f"rmse{of}"] = pair(*calibration.root_mean_square(m - y))
        table[f"coverage{of}"] = share(*calibration.coverage(m, s, y), n=len(y))
    return table


def width(model: Any, shape: tuple[int, ...], temperatures: int, told: Table) -> Table:
    """The width of the sandwich of 20 simulated images, a bound on the error of annealing."""
    both = sandwich(model, shape, 20, temperatures=temperatures, **told)
    return pair(both.width, both.width_error) | {"images": len(both.images)}


def choose_binarization(
    trained: str, asked: str | None, anyway: bool = False
) -> tuple[str, str | None]:
    """The binarisation for an evaluation.

    Args:
        trained: the binarisation of the training images.
        asked: the binarisation that the user wants; None for the one of training.
        anyway: evaluate even if the two differ. By default this raises an InputError.

    Returns:
        the binarisation, and a sentence that marks the results if it is not the one of training.
    """
    if asked in (None, trained):
        return trained, None
    if not anyway:
        raise InputError(
            f"the run was trained under {protocol_of(trained)}, and results under "
            f"{protocol_of(asked)} cannot be compared with it; --other-protocol evaluates anyway "
            "and marks the result"
        )
    return asked, f"trained under {protocol_of(trained)}, evaluated under {protocol_of(asked)}"
