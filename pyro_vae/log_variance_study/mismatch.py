"""Claim 9: a bug that uses exp(log σ²) as σ in the draw of z, but as σ² in the KL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data import Data
from ..evaluation import elbo
from ..evaluation.importance import importance
from ..guides import MeanField
from ..networks import MLP
from ..training import adam
from ..vae import VAE
from .base import Numbers, Setting, Verdict, confidence_interval, load_mnist_5k

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PublicCodeVAE(nn.Module):
    """A VAE with the loss of public code, with or without the bug.

    Equation: -log p(x | μ + s ε) + KL(N(μ, exp(raw)) || N(0, 1)). Here N(μ, exp(raw)) has the
    variance exp(raw). Correct code has s = exp(½ raw). The bug is s = exp(raw).

    Args:
        bug: whether the code has the bug.
        seed: of the weights.
    """

    def __init__(self, bug: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        shape, hidden = (1, 28, 28), (100,)
        # With the bug, z comes from N(μ, exp(raw)²), the guide whose raw output is log σ.
        posterior = MeanField(
            MLP(shape, hidden).encoder(), 10, "log-scale" if bug else "log-variance"
        )
        self.vae = VAE(shape, 10, guide=posterior, hidden=hidden)
        self.posterior = posterior

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x | z) and the KL that the code reports, each ``[B]``, in nats."""
        loc, raw = self.posterior.head(self.posterior.encoder(x)).chunk(2, -1)  # each [B, Z]
        z = loc + self.posterior.scale(raw) * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + raw.exp() - 1 - raw).sum(-1)  # with and without the bug
        return self.vae.model.likelihood(z).log_prob(x), kl


def train_and_measure(bug: bool, data: Data, epochs: int, samples: int, seed: int) -> Numbers:
    """Train; return the ELBO that the code reports and the actual ELBO, on the test images."""
    model = PublicCodeVAE(bug, seed)
    optimizer = adam(model, 2e-3)
    torch.manual_seed(seed)
    for _ in range(epochs):
        for x in data.train.batches(100, shuffle=True):
            likelihood, kl = model.terms(x)
            (kl - likelihood).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        reported = [
            torch.stack([torch.stack(model.terms(x)) for _ in range(10)]).mean(0)
            for x in data.test.batches(500, generator=generator)
        ]
    likelihood, kl = torch.cat(reported, -1)  # each [N]
    vae = model.vae
    actual = elbo(vae.model, vae.guide, data.test, samples=10, seed=seed, analytic=True)
    return {
        "believed": (likelihood - kl).mean().item(),
        "believed_kl": kl.mean().item(),
        "elbo": actual.elbo,
        "kl": actual.kl,
        "log_likelihood": importance(
            vae.model, vae.guide, data.test, samples=samples, seed=seed
        ).mean,
    }


def solve_conjugate(optimum: Tensor) -> dict[str, list[float]]:
    """The same bug in a model with known log p(x): z ~ N(0, 1), x ~ N(z, v), σ* = ``optimum``.

    Equation: let s be the σ of the draw and a = 1/σ*². Up to a constant, the reported bound is
    -½ (a - 1) s² - ½ (s - 1 - log s). At its maximum, 2 (a - 1) s² + s - 1 = 0. The actual bound is
    -½ a s² + ½ + log s. Its maximum is at s = σ* and equals log p(x). For small σ* the maximum of
    the reported bound is at s ≈ σ* / √2, and exceeds log p(x) by ½ log(1/σ*) plus a constant.
    """
    a = 1 / optimum.square()
    drawn = 2 / (1 + (1 + 8 * (a - 1)).sqrt())
    reported = -0.5 * (a - 1) * drawn.square() - 0.5 * (drawn - 1 - drawn.log())
    actual = -0.5 * a * drawn.square() + 0.5 + drawn.log()
    evidence = -0.5 * torch.ones_like(a) + 0.5 + optimum.log()
    return {
        "best": optimum.tolist(),
        "drawn": drawn.tolist(),
        "believed": (reported - evidence).tolist(),
        "true": (actual - evidence).tolist(),
    }


def measure_mismatch(setting: Setting) -> Numbers:
    """Claim 9: the ELBO that code with the bug reports, and its actual ELBO.

    The code draws z = μ + exp(raw) ε, but computes the KL as if raw were log σ². The draw comes
    from N(μ, exp(raw)²); the actual ELBO is the ELBO of this distribution. A 784-100-10 VAE is
    trained on MNIST-5k with Adam at 2e-3, batch 100 and 20 epochs, with and without the bug. The
    numbers are nats per test image. log p(x) is an importance estimate with 200 samples. Intervals
    are 95 % over seeds.

    Rule: the claim holds if the interval of reported minus actual ELBO does not contain zero with
    the bug and contains zero without it. Otherwise it does not hold.
    """
    epochs = 2 if setting.quick else 20
    samples = 20 if setting.quick else 200
    data = load_mnist_5k(setting)
    numbers: Numbers = {
        "epochs": epochs,
        "conjugate": solve_conjugate(10 ** torch.linspace(-3, -0.01, 60, dtype=torch.float64)),
    }
    cells = [(bug, seed) for bug in (False, True) for seed in range(setting.seeds)]
    for bug, seed in setting.track(cells, description="9 mismatch"):
        kind = "slip" if bug else "right"  # the keys of results.json
        numbers.setdefault(kind, []).append(train_and_measure(bug, data, epochs, samples, seed))
    return numbers


def excess_of_report(runs: list[Numbers]) -> tuple[float, float]:
    """Reported minus actual ELBO: its mean over the runs and half the width of its interval."""
    return confidence_interval([run["believed"] - run["elbo"] for run in runs])


def judge_mismatch(results: dict[str, Numbers]) -> Verdict:
    numbers = results["mismatch"]
    (with_bug, spread), (without, slack) = (
        excess_of_report(numbers[kind]) for kind in ("slip", "right")
    )

    def mean_text(kind: str, key: str) -> str:
        mean, half = confidence_interval([run[key] for run in numbers[kind]])
        return f"{mean:.1f} ± {half:.1f}"

    loss, half = confidence_interval([
        correct["log_likelihood"] - wrong["log_likelihood"]
        for correct, wrong in zip(numbers["right"], numbers["slip"], strict=True)
    ])  # fmt: skip
    known = numbers["conjugate"]
    above, at = max(zip(known["believed"], known["best"], strict=True))
    evidence = (
        f"With the bug, the code reports an ELBO of {mean_text('slip', 'believed')} nats, but the "
        f"actual ELBO is {mean_text('slip', 'elbo')} ({len(numbers['slip'])} seeds). The report is "
        f"{with_bug:.1f} ± {spread:.1f} too high (KL reported {mean_text('slip', 'believed_kl')}, "
        f"actual {mean_text('slip', 'kl')}). Without the bug, the two differ by {without:.1f} ± "
        f"{slack:.1f}. log p(x) is {mean_text('slip', 'log_likelihood')} with the bug, "
        f"{loss:.1f} ± {half:.1f} lower than without it. In the one-dimensional model with known "
        f"log p(x), the reported bound exceeds log p(x) by {above:.1f} nats at σ* = {at:.2g}, the "
        "smallest σ* of the sweep. It grows without limit as σ* falls, by ½ log(1/σ*)."
    )
    if abs(with_bug) > spread and abs(without) <= slack:
        return Verdict("holds", evidence)
    return Verdict("does not hold", evidence)


def draw_mismatch(numbers: Numbers, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    known = numbers["conjugate"]
    left.plot(known["best"], known["believed"], color="C3", label="reported ELBO")
    left.plot(known["best"], known["true"], color="C0", label="actual ELBO")
    left.axhline(0, color="black", lw=0.8)
    left.set(xscale="log", xlabel="σ* of the exact posterior", ylabel="nats above log p(x)",
             title="one dimension, known log p(x)")  # fmt: skip
    left.legend()
    keys = {"believed": "reported ELBO", "elbo": "actual ELBO", "log_likelihood": "log p(x)"}
    for i, kind in enumerate(("right", "slip")):
        for j, (key, colour) in enumerate(zip(keys, ("C3", "C0", "0.4"), strict=True)):
            mean, half = confidence_interval([run[key] for run in numbers[kind]])
            right.errorbar(3 * i + 0.6 * j, mean, half, fmt="o", capsize=4, color=colour,
                           label=keys[key] if i == 0 else None)  # fmt: skip
    right.set_xticks([0.6, 3.6], ["correct code", "bug: exp(log σ²) as σ"])
    right.set(ylabel="nats per test image (95 % over seeds)", title="VAE on MNIST-5k")
    right.legend()
